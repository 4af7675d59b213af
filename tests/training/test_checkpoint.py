import json
import os
import resource
import sys

import pytest
import torch
from forked import ended, forked
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from famf_lib.data.sampling import Batch
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.models.fusion import FUSIONS
from famf_lib.training import checkpoint
from famf_lib.training.checkpoint import Card, SavedModelError

DIMS = {"audio": 7, "body": 12}
PERSONS = ("Ann", "Božena", "陳", "d")


def card(**changes):
    config = {"modalities": ("audio", "body"), "hidden": 13, "fusion_options": {"hidden": [3, 2]}}
    values = {"config": ModelConfig(**config), "dim": 12, "modality_dims": DIMS, "persons": PERSONS}
    values |= {"evaluation": {"faces": 5, "rank_by": "logit"}, "seed": 17, "run": "0a1b", "data": "2c3d"}
    return Card(**(values | changes))


def model_of(of):
    torch.manual_seed(5)
    return FAMF(of.config, of.dim, of.modality_dims, len(of.persons)).eval()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("good") / "model.safetensors", model_of(card()), card())


def rewritten(good, place, metadata=None, **tensors):
    """The good file with other metadata, or other tensors (None takes one away), by the format's own library."""
    with safe_open(good, framework="pt") as file:
        entries = file.metadata() | (metadata or {})
    state = load_file(good) | tensors
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, place, {name: text for name, text in entries.items() if text is not None})
    return place


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_model_comes_back_as_it_was_saved(aggregation, fusion, tmp_path):
    config = ModelConfig(aggregation=aggregation, fusion=fusion, modalities=("audio",), hidden=13, features="unit")
    described = card(config=config, modality_dims={"audio": 7}, dim=16)
    model = model_of(described)
    for buffer in model.buffers():  # differ from their initial values, as after training
        buffer.add_(3)
    opened = checkpoint.open(checkpoint.save(tmp_path / "a.safetensors", model, described))
    assert opened.card == described and not opened.model.training
    batch = Batch(
        torch.randn(3, 5, 16), None, {"audio": torch.randn(3, 7)}, {"audio": torch.tensor([True, False, True])}
    )
    with torch.inference_mode():
        assert torch.equal(opened.model(batch), model(batch))
        assert torch.equal(opened.model.face_weights(batch), model.face_weights(batch))


def test_an_opened_model_is_independent_of_its_file(good, tmp_path):
    content, copy = good.read_bytes(), tmp_path / "copy.safetensors"
    copy.write_bytes(content)
    opened = checkpoint.open(copy).model
    kept = {name: tensor.clone() for name, tensor in opened.state_dict().items()}
    copy.write_bytes(bytes(len(content)))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in opened.state_dict().items())
    with torch.no_grad():
        checkpoint.open(good).model.classifier[0].weight.zero_()
    assert good.read_bytes() == content


def edited(**changes):
    """The configuration of the good file with other values, as JSON."""
    return json.dumps(card().config.model_dump(mode="json") | changes)


METADATA = {
    "another format": ({"format": "famf-model-0"}, "the format is 'famf-model-0', expected 'famf-model-1'"),
    "bare weights": ({"format": None}, "the format is None, expected 'famf-model-1'"),
    "a field too few": ({"persons": None}, "persons is missing, expected config, dim, modality_dims, persons, eval"),
    "a field too many": ({"colour": '"red"'}, "colour: no such key, expected one of config, dim"),
    "no JSON": ({"dim": "twelve"}, "dim: not valid JSON (Expecting value"),
    "JSON too deep": ({"dim": "[" * 100_000}, "dim: not valid JSON"),
    "a number too long": ({"dim": "1" * 10_000}, "dim: not valid JSON"),
    "no person": ({"persons": "[]"}, "persons: [] found; tuple should have at least 1 item"),
    "a person too many": ({"persons": '["a", "b", "c", "d", "e"]'}, "persons: 5 names found, expected one for each of"),
    "a person twice": ({"persons": '["a", "b", "c", "a"]'}, "persons: a name appears twice"),
    "an unknown key": ({"config": edited(hiden=4)}, "hiden: no such key, expected one of aggregation"),
    "an unknown module": ({"config": edited(fusion="sum")}, "fusion: 'sum' is not known, expected one of concat, mma"),
    "another module": ({"config": edited(fusion="concat", fusion_options={})}, "tensor 'fusion.first.weight' found"),
    "more modules": ({"config": edited(modalities=["audio", "body", "text"])}, "modality_dims: those of 'audio', 'b"),
    "a modality twice": ({"config": edited(modalities=["audio", "body", "body"])}, "modality_dims: those of 'audio',"),
    "a host of them": ({"config": edited(modalities=["audio"] * 10**5)}, "modalities: 100000 found, expected 100 at"),
    "another width": ({"config": edited(hidden=14)}, "tensor 'classifier.0.weight': shape (13, 120) found"),
    "a width beyond memory": ({"config": edited(hidden=10**9)}, "tensor 'classifier.0.weight': shape (13, 120) found"),
    "a width beyond any tensor": ({"config": edited(hidden=10**30)}, "), expected that of a model"),
    "vectors beyond any tensor": ({"dim": "9" * 400}, "), expected that of a model"),
    "a control character": ({"\x1b[2J\n": "1"}, "[2J : no such key"),
}  # fmt: skip


SCORE = "aggregation.score.weight"
TENSORS = {
    "missing": ({SCORE: None}, "is missing, expected one for each of the model's"),
    "extra": ({"aggregation.more": torch.zeros(2)}, "tensor 'aggregation.more' found, expected only the model's"),
    "another shape": ({SCORE: torch.zeros(12, 1)}, "shape (12, 1) found, expected (1, 12)"),
    "another type": ({SCORE: torch.zeros(1, 12, dtype=torch.float16)}, "torch.float16 found, expected torch.float32"),
    "infinite": ({SCORE: torch.full((1, 12), torch.inf)}, "a value that is not finite found, expected numbers"),
}


CONTRADICTING = [(metadata, {}, sentence) for metadata, sentence in METADATA.values()]
CONTRADICTING += [({}, tensors, sentence) for tensors, sentence in TENSORS.values()]


@pytest.mark.parametrize(("metadata", "tensors", "sentence"), CONTRADICTING, ids=[*METADATA, *TENSORS])
def test_contradicting_contents_are_refused(good, tmp_path, metadata, tensors, sentence):
    refused(rewritten(good, tmp_path / "a.safetensors", metadata, **tensors), sentence)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 64, (10**15).to_bytes(8, "little") + b"{}", None])
def test_other_files_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    for place in (tmp_path / "a", tmp_path):
        refused(place, "this is not a saved model (")


def refused(place, sentence):
    with pytest.raises(SavedModelError) as refusal:
        checkpoint.open(place)
    text = str(refusal.value)
    assert text.startswith(f"{place}: ") and sentence in text
    assert text.isprintable() and len(text) < len(str(place)) + checkpoint.LENGTH + 200


def open_watched(good, large):
    checkpoint.open(good)  # imports everything that is imported late
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    checkpoint.open(good)
    try:
        checkpoint.open(large)
    except SavedModelError:
        os._exit(int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 100_000))  # KiB
    raise SystemExit("it was opened")


def watch(event, arguments):
    if event in ("exec", "compile", "import", "pickle.find_class", "subprocess.Popen", "os.system"):
        raise SystemExit(f"it ran {event} {arguments}")


def test_opening_runs_no_code_and_takes_no_memory_before_the_sizes_agree(good, tmp_path):
    """A second layer of 20,000 × 20,000 would take 1.6 GB, which most machines have."""
    large = rewritten(good, tmp_path / "large.safetensors", {"config": edited(hidden=20_000)})
    with forked(open_watched, good, large) as processes:
        assert ended(processes) == [0]
