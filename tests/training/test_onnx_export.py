"""The exported graph: other programs get the numbers of PyTorch from it, or it is not written."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from famf_command import famf

from famf_lib.data.sampling import Batch
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.support.files import ROOT
from famf_lib.training import checkpoint, onnx_export
from famf_lib.training.checkpoint import Card, SavedModel
from famf_lib.training.onnx_export import ExportError, onnx
from famf_lib.training.prediction import predict

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

DIMS = {"audio": 7, "body": 16}


def made(modalities=("audio", "body"), seed=5, **config):
    """A model with random weights; D = 16, for NeXtVLAD's groups, and one modality of another length."""
    config = ModelConfig(modalities=modalities, hidden=13, **config)
    dims = {name: DIMS.get(name, 3) for name in modalities}
    values = {"evaluation": {"faces": 3}, "seed": 29, "run": "0a1b", "data": "2c3d"}
    card = Card(config=config, dim=16, modality_dims=dims, persons=("Ann", "Božena", "陳", "d", "e"), **values)
    torch.manual_seed(seed)
    return SavedModel(FAMF(config, 16, dims, 5).eval(), card)


def ran(path, **inputs):
    """What ONNX Runtime makes of numpy arrays, by the names of the outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.parametrize(
    ("aggregation", "fusion"),
    [("mean", "concat"), ("netvlad", "mma"), *((name, "mlma") for name in ("ghostvlad", "nextvlad", "attentionvlad"))],
)
def test_the_graph_gives_the_numbers_of_pytorch(aggregation, fusion, tmp_path):
    """Also for more clips and faces than in the export, with masked faces, a clip without faces and absent modalities.

    Masked and absent values differ between the two programs, because they must not matter.
    """
    modalities = ("audio", "body") if fusion == "mlma" else ("audio",)
    opened = made(modalities, aggregation=aggregation, fusion=fusion, features="unit" if fusion == "mma" else "raw")
    assert onnx(opened, tmp_path / "a.onnx") < 1e-5
    draw = np.random.default_rng(3)
    mask, present = draw.random((9, 13)) < 0.6, {name: draw.random(9) < 0.5 for name in modalities}
    mask[4] = False
    faces = draw.normal(size=(9, 13, 16)).astype("float32")
    vectors = {name: draw.normal(size=(9, DIMS[name])).astype("float32") for name in modalities}
    found = ran(
        tmp_path / "a.onnx",
        faces=np.where(mask[..., None], faces, 1e9).astype("float32"),
        mask=mask,
        **{name: np.where(present[name][:, None], v, -1e9).astype("float32") for name, v in vectors.items()},
        **{f"{name}.present": flags for name, flags in present.items()},
    )
    tensors = [{name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in (vectors, present)]
    batch = Batch(torch.from_numpy(faces), torch.from_numpy(mask), *tensors)
    with torch.inference_mode():
        logits, weights = opened.model(batch), opened.model.face_weights(batch)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], logits.softmax(dim=1), atol=1e-5)
    np.testing.assert_allclose(found["weights"], weights, atol=1e-5)
    assert not found["weights"][~mask].any()


HEARD = ("audio",)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The graph of a model with audio."""
    path = tmp_path_factory.mktemp("graph") / "audio.onnx"
    onnx(made(HEARD), path)
    return path


def test_inputs_outputs_and_metadata(graph):
    session = onnxruntime.InferenceSession(graph)
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "faces": ("tensor(float)", ["clips", "faces", 16]),
        "mask": ("tensor(bool)", ["clips", "faces"]),
        "audio": ("tensor(float)", ["clips", 7]),
        "audio.present": ("tensor(bool)", ["clips"]),
    }
    shapes = {o.name: o.shape for o in session.get_outputs()}
    assert shapes == {"logits": ["clips", 5], "probabilities": ["clips", 5], "weights": ["clips", "faces"]}
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == made(HEARD).card.metadata()
    assert json.loads(metadata["persons"]) == ["Ann", "Božena", "陳", "d", "e"]
    content = graph.read_bytes()
    assert str(ROOT).encode() not in content and b".py" not in content, "it names files of this machine"


@pytest.mark.parametrize("given", [None, "all"])
def test_the_answers_are_those_of_predict_for_the_same_faces(given, graph, made_up):
    clips = made_up(dim=16, persons=2)
    rows = pa.concat_tables(predict(made(HEARD), clips, 5, given)).to_pylist()
    audio = clips.modalities["audio"]
    for v, row in enumerate(rows):
        own = clips.faces[clips.offsets[v] : clips.offsets[v + 1]].float().numpy()
        if len(own) and row["persons"]:
            own = own[[(2 * i + 1) * len(own) // 6 for i in range(3)]] if given is None else own
            heard = {"audio": audio.vectors[[v]].float().numpy(), "audio.present": audio.present[[v]].numpy()}
            found = ran(graph, faces=own[None], mask=np.ones((1, len(own)), bool), **heard)
            np.testing.assert_allclose(np.sort(found["probabilities"][0])[::-1], row["probabilities"], atol=1e-5)


def test_a_graph_with_other_numbers_is_not_kept(tmp_path, monkeypatch, graph):
    program = SimpleNamespace(save=lambda path, external_data: path.write_bytes(graph.read_bytes()))
    monkeypatch.setattr(onnx_export, "_graph", lambda opened: program)
    assert onnx(made(HEARD), tmp_path / "a.onnx") < 1e-5
    with pytest.raises(
        ExportError, match=r"a\.onnx: differs from PyTorch by \d\.\de[+-]\d\d, expected at most 1e-04; no"
    ):
        onnx(made(HEARD, seed=6), tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == graph.read_bytes() and len(list(tmp_path.iterdir())) == 1


class AllFaces(FAMF):
    """A mistake: the mask is ignored."""

    def tokens(self, batch):
        return super().tokens(Batch(batch.faces.nan_to_num(), None, batch.modalities, batch.present))


class AllModalities(FAMF):
    """A mistake: no modality is ever absent."""

    def tokens(self, batch):
        vectors = {name: vector.nan_to_num() for name, vector in batch.modalities.items()}
        present = {name: torch.ones_like(flags) for name, flags in batch.present.items()}
        return super().tokens(Batch(batch.faces, batch.mask, vectors, present))


@pytest.mark.parametrize("mistaken", [AllFaces, AllModalities])
def test_the_comparison_detects_mistakes(mistaken, graph):
    opened = made(HEARD)
    assert onnx_export._difference(opened, graph) < 1e-5
    opened.model.__class__ = mistaken
    assert onnx_export._difference(opened, graph) > 10 * onnx_export.TOLERANCE


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(
        ExportError, match="^onnxruntime: not installed, expected it for ONNX: pip install onnxscript on"
    ):
        onnx(made(modalities=()), tmp_path / "a.onnx")


def test_a_modality_with_the_name_of_another_tensor_is_refused(tmp_path):
    with pytest.raises(ExportError, match="^modalities: 'mask' is the name of another tensor of the graph"):
        onnx(made(modalities=("audio", "mask")), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def model(tmp_path):
    opened = made(HEARD)
    return checkpoint.save(tmp_path / "model.safetensors", opened.model, opened.card)


def test_the_command_writes_either_format(model, graph, tmp_path):
    done = famf("export", model, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == graph.read_bytes(), "the same model is the same file"
    first, second, *described = done.stdout.splitlines()
    inputs = "faces (clips, faces, 16), audio (clips, 7) float32; mask (clips, faces), audio.present (clips,) bool"
    assert described[0] == f"inputs: {inputs}"
    assert "3 of the F faces of a clip: those at (2 i + 1) F // 6" in described[2]
    assert first == str(tmp_path / "a.onnx") and second.startswith("largest relative difference from PyTorch: ")
    assert famf("export", model, tmp_path / "b.safetensors").exit_code == 0
    assert (tmp_path / "b.safetensors").read_bytes() == model.read_bytes()
    assert famf("export", model, model).exit_code == 0 and checkpoint.open(model), "onto itself"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{model}", "a.pt"), "a.pt: ends in '.pt', expected .onnx or .safetensors"),
        (("{model}", "{folder}/a.onnx"), "a folder found, expected the name of a file"),
        (("{model}", "{folder}/a.safetensors"), "a folder found, expected the name of a file"),
        (("{model}", "{model}/a.safetensors"), "a.safetensors: cannot be written ("),
        (("nothing", "a.onnx"), "run: 'nothing' is not known"),
        (("{folder}/text", "{folder}/b.safetensors"), "text: this is not a saved model ("),
    ],
)
def test_bad_input_is_one_sentence(model, tmp_path, arguments, sentence):
    for name in ("a.onnx", "a.safetensors"):
        (tmp_path / "folder" / name / "own").mkdir(parents=True)
    (tmp_path / "folder" / "text").write_text("not a model")
    done = famf("export", *(a.format(model=model, folder=tmp_path / "folder") for a in arguments))
    assert done.exit_code == 1 and sentence in str(done.exception) and len(str(done.exception).splitlines()) == 1
    assert (tmp_path / "folder" / "a.onnx" / "own").is_dir() and not (tmp_path / "folder" / "b.safetensors").exists()
