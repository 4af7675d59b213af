"""The predictions of a saved model: the numbers of an evaluation, and the weight of each face, clip by clip."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from famf_command import famf
from untrained_models import PERSONS, made

from famf_lib.data.clipset import ClipSet, Modality
from famf_lib.data.sampling import Batch
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.training import checkpoint, prediction
from famf_lib.training.prediction import SCHEMA, PredictionError, fitting, predict, write


@pytest.fixture(scope="module")
def clips(made_up):
    return made_up(dim=16)


def whole(tables):
    return pa.concat_tables(tables).to_pandas()


def logits_alone(opened, clips, v, n):
    """The logits of clip v, from n faces (all if None), without padding."""
    faces = clips.faces[clips.offsets[v] : clips.offsets[v + 1]].float()
    if n and len(faces):
        faces = faces[[(2 * i + 1) * len(faces) // (2 * n) for i in range(n)]]
    of = {name: modality for name, modality in clips.modalities.items() if name in opened.card.config.modalities}
    vectors = {name: modality.vectors[v : v + 1].float() for name, modality in of.items()}
    with torch.inference_mode():
        present = {name: modality.present[v : v + 1] for name, modality in of.items()}
        return opened.model(Batch(faces[None], None, vectors, present))[0].numpy().astype(float)


@pytest.mark.parametrize(("given", "used"), [(None, 3), (5, 5), ("all", None)])
def test_every_clip_has_the_probabilities_of_its_logits_whoever_is_asked_with_it(clips, given, used, monkeypatch):
    monkeypatch.setattr(prediction, "FACES_AT_ONCE", 20)
    opened = made(clips)
    table, few = whole(predict(opened, clips, 99, given)), whole(predict(opened, clips, 2, given))
    assert table["name"].tolist() == clips.clips["name"].tolist()
    for row, short in zip(table.itertuples(), few.itertuples(), strict=True):
        logits = logits_alone(opened, clips, row.Index, used)
        probability = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-probability)
        assert list(row.persons) == [PERSONS[n] for n in order]
        np.testing.assert_allclose(row.probabilities, probability[order], rtol=1e-4)
        assert list(short.persons) == list(row.persons[:2]) and list(short.probabilities) == list(row.probabilities[:2])


def test_faces_are_spread_evenly():
    assert prediction.evenly(torch.tensor([1, 2, 7, 24]), 3).tolist() == [[0, 0, 0], [0, 1, 1], [1, 3, 5], [4, 12, 20]]
    for count in range(1, 60):
        times = torch.bincount(prediction.evenly(torch.tensor([count]), 24)[0], minlength=count)
        assert len(times) == count and times.max() - times.min() <= 1


def test_a_clip_without_evidence_has_no_answer(clips, tmp_path):
    """Neither a face nor a modality of the model; a modality that the model does not use is none."""
    opened, v = made(clips, modalities=("audio",)), int((clips.counts == 0).nonzero()[0])
    audio = clips.modalities["audio"]
    present = audio.present.clone()
    present[v] = False
    silent = replace(clips, modalities=clips.modalities | {"audio": Modality(audio.vectors, present)})
    rows = pa.concat_tables(predict(opened, silent, 2)).to_pylist()
    empty = [n for n in range(len(clips)) if not clips.counts[n] and not present[n]]
    assert v in empty and [n for n, row in enumerate(rows) if not row["persons"]] == empty
    assert all(len(row["persons"]) == len(row["probabilities"]) == 2 for n, row in enumerate(rows) if n not in empty)
    table = pd.read_csv(write(predict(opened, silent, 2), tmp_path / "a.csv"))
    assert table[table["name"] == rows[v]["name"]].isna().sum(axis=1).tolist() == [3]
    heard = checkpoint.save(tmp_path / "m.safetensors", opened.model, opened.card)
    done, said = predicted(heard, silent.save(tmp_path / "clips"))
    assert f"{len(empty)} clips without a face or a modality of the model: no answer" in said
    assert done.stdout.splitlines()[v] == f"{rows[v]['name']}: no answer; weights of its faces: none"


def test_batches_are_computed_on_demand(clips, monkeypatch):
    opened = made(clips)
    at_once = whole(predict(opened, clips))
    monkeypatch.setattr(prediction, "CLIPS_AT_ONCE", 10)
    seen = []
    opened.model.register_forward_hook(lambda *_: seen.append(1))
    tables = predict(opened, clips)
    first = next(tables)
    assert len(seen) == 1 and first.schema == SCHEMA
    rest = list(tables)
    assert [len(table) for table in (first, *rest)] == [10, 10, 10, 10, 3]
    pd.testing.assert_frame_equal(whole([first, *rest]), at_once)


def test_a_model_that_gives_nan_is_refused(clips):
    opened = made(clips, run="0a1b")
    opened.model.classifier[1].running_var.fill_(-1)
    with pytest.raises(PredictionError, match=r"^model: run '0a1b' gives NaN or infinity, expected prob"):
        next(predict(opened, clips))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_the_weights_are_those_of_the_faces_of_a_clip_in_their_order(clips, aggregation, at_once, monkeypatch):
    """As the aggregation weights the faces of a single clip without a mask, whatever number is computed at once."""
    monkeypatch.setattr(prediction, "FACES_AT_ONCE", at_once)
    monkeypatch.setattr(prediction, "CLIPS_AT_ONCE", 17)
    opened = made(clips, aggregation)
    table = whole(predict(opened, clips))
    assert (table["weights"].map(len) == 0).sum() == 5, "five clips have no face"
    for row in table.itertuples():
        faces = clips.faces[row.first_face : row.first_face + len(row.weights)].float()
        assert len(faces) == clips.counts[row.Index] and row.first_face == clips.offsets[row.Index]
        if len(faces):
            with torch.inference_mode():
                expected = opened.model.aggregation.face_weights(faces[None])[0]
            np.testing.assert_allclose(row.weights, expected, rtol=1e-5)


def test_a_missing_modality_is_absent_in_every_clip(clips):
    opened = made(clips)
    fitted, lacking = fitting(replace(clips, modalities={"body": clips.modalities["body"]}), opened.card)
    assert lacking == ["audio"] and fitting(clips, opened.card)[1] == []
    audio = clips.modalities["audio"]
    silence = Modality(audio.vectors, torch.zeros_like(audio.present))
    deaf = replace(clips, modalities=clips.modalities | {"audio": silence})
    found, expected, heard = (whole(predict(opened, each)) for each in (fitted, deaf, clips))
    assert found["probabilities"].map(list).tolist() == expected["probabilities"].map(list).tolist()
    faceless = ((clips.counts == 0) & audio.present).nonzero().flatten().tolist()  # predicted from the modalities alone
    assert faceless and all(list(heard["probabilities"][v]) != list(found["probabilities"][v]) for v in faceless)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"dim": 13}, "faces: vectors of 13 numbers found, expected 16, as in training"),
        ({"dim": 16, "audio": 5}, "audio: vectors of 5 numbers found, expected 7, as in training"),
    ],
)
def test_vectors_of_another_length_are_refused(clips, made_up, other, sentence):
    with pytest.raises(PredictionError) as refusal:
        fitting(made_up(**other), made(clips).card)
    assert str(refusal.value) == sentence


def test_every_format_holds_the_same(clips, tmp_path):
    opened = made(clips, persons=('a "quoted"\nname', "Božena", *PERSONS[2:]))
    rows = pa.concat_tables(predict(opened, clips)).to_pylist()
    done = []
    parquet = write(predict(opened, clips), tmp_path / "a.parquet", done.append)
    lines = write(predict(opened, clips), tmp_path / "a.jsonl")
    assert pq.read_table(parquet).to_pylist() == rows and pq.read_schema(parquet).equals(SCHEMA)
    assert [json.loads(line) for line in lines.read_text().splitlines()] == rows
    table = pd.read_csv(write(predict(opened, clips), tmp_path / "a.csv"))
    assert table["person"].tolist() == [person for row in rows for person in row["persons"]]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * len(rows)
    np.testing.assert_allclose(table["probability"], [p for row in rows for p in row["probabilities"]], rtol=1e-5)
    assert done == [len(clips)] and sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]
    table = pd.DataFrame({"quality": []})
    given = {n: (m.vectors[:0].numpy(), m.present[:0].numpy()) for n, m in clips.modalities.items()}
    none = ClipSet.build(clips.faces[:0], np.zeros(0, int), clips.clips[:0], face_table=table, modalities=given)
    empty = pq.read_table(write(predict(opened, none), tmp_path / "a.parquet"))
    assert empty.schema == SCHEMA and len(empty) == 0


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_failure_leaves_the_earlier_file(clips, tmp_path, ending):
    def broken():
        yield next(predict(made(clips), clips))
        raise RuntimeError("the device is gone")

    place = tmp_path / f"a.{ending}"
    place.write_bytes(b"earlier")
    with pytest.raises(RuntimeError, match="the device is gone"):
        write(broken(), place)
    assert place.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [place]


def test_a_bad_place_is_refused_before_anything_is_computed(tmp_path):
    def never():
        raise AssertionError("it began")
        yield

    folder = tmp_path / "spark.parquet"
    (folder / "part").mkdir(parents=True)
    for place, sentence in ((tmp_path / "a.tsv", "'.tsv', expected one of .parquet, "), (folder, "a folder found")):
        with pytest.raises(PredictionError, match=sentence):
            write(never(), place)
    assert (folder / "part").is_dir()


def predicted(*arguments):
    """The result of the command, and its messages, the sentence of an error last."""
    done = famf("predict", *arguments)
    return done, f"{done.stderr}{done.exception or ''}".strip()


@pytest.fixture
def kept(clips, tmp_path):
    """The clips on disk, and a saved model that fits them."""
    opened = made(clips)
    return clips.save(tmp_path / "clips"), checkpoint.save(tmp_path / "model.safetensors", opened.model, opened.card)


def test_the_command_writes_the_predictions(clips, kept, tmp_path):
    folder, model = kept
    done, said = predicted(model, folder, "--top", 2, "--out", tmp_path / "out.parquet")
    assert done.exit_code == 0 and said == "famf: uses 3 evenly spaced faces of each clip"
    assert done.stdout == f"{tmp_path / 'out.parquet'}\n"
    assert pq.read_table(tmp_path / "out.parquet").equals(pa.concat_tables(predict(made(clips), clips, 2)))


def test_without_a_file_it_prints_one_line_per_clip(clips, kept):
    done, _ = predicted(kept[1], kept[0], "--top", 1)
    row = pa.concat_tables(predict(made(clips), clips, 1)).to_pylist()[1]
    weights = " ".join(f"{weight:.2f}" for weight in row["weights"])
    line = f"{row['name']}: {row['persons'][0]} {row['probabilities'][0]:.3f}; weights of its faces: {weights}"
    assert done.stdout.splitlines()[1] == line and len(done.stdout.splitlines()) == len(clips)
    assert done.stdout.splitlines()[0].endswith("weights of its faces: none"), "the first clip has no face"


def test_it_says_so_when_the_clips_lack_a_modality(clips, kept, tmp_path):
    folder = replace(clips, modalities={}).save(tmp_path / "faces")
    done, said = predicted(kept[1], folder)
    assert done.exit_code == 0 and len(said.splitlines()) == 4
    assert said.splitlines()[0] == "famf: audio: these clips have none, so the model gets zero vectors (Sec. 4.3)"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing", "{clips}"), "run: 'nothing' is not known, expected one of the 0 in "),
        (("{model}", "nothing"), "dataset: 'nothing' is not known, expected one of synthetic, "),
        (("{clips}/clips.parquet", "{clips}"), "clips.parquet: this is not a saved model ("),
        (("{model}", "{clips}", "--out", "a.tsv"), "a.tsv: ends in '.tsv', expected one of .parquet, .jsonl, .csv"),
        (("{model}", "{clips}", "--faces", "0"), "--faces: '0' found, expected a number of 1 or more, or all"),
        (("{model}", "{clips}", "--out", "{model}/a.jsonl"), "a.jsonl: cannot be written ("),
        (("{model}", "{clips}", "--device", "abacus"), "device: 'abacus' cannot be used here"),
    ],
)
def test_bad_input_is_one_sentence(kept, arguments, sentence):
    done, said = predicted(*(a.format(clips=kept[0], model=kept[1]) for a in arguments))
    said = said.removeprefix("famf: uses 3 evenly spaced faces of each clip\n")
    assert done.exit_code == 1 and sentence in said and len(said.splitlines()) == 1
