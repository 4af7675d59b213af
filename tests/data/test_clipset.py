"""The ClipSet: what it takes, what it refuses, how it is kept, and what its fingerprint stands for."""

import os
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from famf_lib.data import clipset
from famf_lib.data.clipset import HELD, ClipSet, ClipSetError

D, A = 3, 2  # length of a face, of an audio vector
COUNTS = [2, 0, 3]


def parts():
    """What a ClipSet of three clips is built from; a test breaks one of them."""
    rng = np.random.default_rng(0)
    return {
        "faces": rng.normal(size=(sum(COUNTS), D)).astype(np.float32),
        "counts": np.array(COUNTS),
        "clips": pd.DataFrame(
            [("x", "ann", "train", "film", 1999), ("y", None, "val", None, 2001), ("z", "bob", "val", "film", 2010)],
            columns=["name", "person", "split", "group", "year"],
        ),
        "face_table": pd.DataFrame({"frame": range(sum(COUNTS)), "quality": rng.random(sum(COUNTS))}),
        "modalities": {"audio": (rng.normal(size=(3, A)), np.array([True, False, True]))},
        "info": {"source": "made up", "seed": 1},
    }


def build(**changed):
    return ClipSet.build(**(parts() | changed))


def test_it_holds_what_it_was_built_from():
    given, clips = parts(), build()
    assert len(clips) == 3 and clips.dim == D
    assert clips.offsets.tolist() == [0, 2, 2, 5] and clips.counts.tolist() == COUNTS
    assert clips.faces.dtype == torch.float16
    np.testing.assert_array_equal(clips.faces, given["faces"].astype(np.float16))
    audio, there = given["modalities"]["audio"]
    np.testing.assert_array_equal(clips.modalities["audio"].vectors[there], audio.astype(np.float16)[there])
    assert clips.modalities["audio"].present.tolist() == [True, False, True]
    assert clips.persons == ["ann", "bob"] and clips.labels.tolist() == [0, -1, 1]
    assert clips.face_columns(["frame"])["frame"].tolist() == list(range(5)) and clips.folder is None


def test_it_takes_read_only_arrays_and_tensors_and_shares_no_memory_with_them():
    given = parts()
    clips = ClipSet.build(**given)
    frozen, tensor = given["faces"].copy(), torch.from_numpy(given["faces"].copy())
    frozen.flags.writeable = False
    assert build(faces=frozen).fingerprint == build(faces=tensor).fingerprint == clips.fingerprint
    given["faces"][:], given["modalities"]["audio"][1][:] = 0, False
    assert clips.faces.any() and clips.modalities["audio"].present.any()


def test_to_moves_every_array_and_nothing_else():
    moved = build().to("meta")
    assert {t.device.type for t in (moved.faces, moved.offsets, *vars(moved.modalities["audio"]).values())} == {"meta"}
    assert moved.fingerprint == build().fingerprint


def test_what_is_saved_is_what_is_opened(tmp_path):
    clips = build()
    assert clips.save(tmp_path / "set") == tmp_path / "set"
    opened = ClipSet.open(tmp_path / "set")
    assert torch.equal(opened.faces, clips.faces) and torch.equal(opened.offsets, clips.offsets)
    for field in ("vectors", "present"):
        assert torch.equal(getattr(opened.modalities["audio"], field), getattr(clips.modalities["audio"], field))
    pd.testing.assert_frame_equal(opened.clips, clips.clips)
    pd.testing.assert_frame_equal(opened.face_columns(), clips.face_columns())
    assert opened.face_columns(["quality"]).columns.tolist() == ["quality"]
    assert opened.info == clips.info and opened.fingerprint == clips.fingerprint
    assert opened.folder == tmp_path / "set"
    assert clipset.content_fingerprint(opened) == opened.fingerprint, "the fingerprint depends on the way to the disk"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"], "something was left behind"


def test_what_was_opened_is_saved_again_even_over_itself(tmp_path):
    build().save(tmp_path / "set")
    ClipSet.open(tmp_path / "set").save(tmp_path / "set")
    assert clipset.content_fingerprint(ClipSet.open(tmp_path / "set")) == build().fingerprint


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux which files are mapped")
def test_opening_maps_the_file_and_copies_nothing(tmp_path):
    build().save(tmp_path / "set")
    opened = ClipSet.open(tmp_path / "set")
    with open("/proc/self/maps") as lines:
        maps = [line.split(maxsplit=5) for line in lines]
    mapped = [m[0].split("-") for m in maps if m[-1].strip() == str(tmp_path / "set" / "arrays.safetensors")]
    for tensor in (opened.faces, opened.offsets, *vars(opened.modalities["audio"]).values()):
        address = tensor.data_ptr()
        assert any(int(low, 16) <= address < int(high, 16) for low, high in mapped), "an array was copied"


@pytest.mark.parametrize("breaks", ["add", "finish", "to_parquet"])
def test_an_interrupted_save_leaves_the_old_one_whole(tmp_path, monkeypatch, breaks):
    build().save(tmp_path / "set")

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    place = pd.DataFrame if breaks == "to_parquet" else clipset.Writer
    monkeypatch.setattr(place, breaks, interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(faces=np.zeros((5, D))).save(tmp_path / "set")
    assert clipset.content_fingerprint(ClipSet.open(tmp_path / "set")) == build().fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["set"], "something was left behind"


def changed_clips(row, column, value):
    clips = parts()["clips"]
    clips.loc[row, column] = value
    return {"clips": clips}


def one_bit():
    faces = parts()["faces"].astype(np.float16)
    faces.view(np.uint16)[4, 2] ^= 1
    return {"faces": faces}


(AUDIO, FLAGS), CLIPS = parts()["modalities"]["audio"], parts()["clips"]


def audio(vectors, flags):
    return {"modalities": {"audio": (vectors, flags)}}


MATTERS = {
    "one bit of a face": one_bit(),
    "the counts": {"counts": np.array([2, 1, 2])},
    "a name": changed_clips(0, "name", "w"),
    "a person": changed_clips(0, "person", "bob"),
    "no person": changed_clips(0, "person", None),
    "a person called None": changed_clips(1, "person", "None"),
    "a person called nan": changed_clips(1, "person", "nan"),
    "a split": changed_clips(0, "split", "val"),
    "a group": changed_clips(0, "group", "other"),
    "a presence": audio(AUDIO, np.ones(3)),
    "a modality's vector": audio(AUDIO + 1, FLAGS),
    "a modality's name": {"modalities": {"sound": (AUDIO, FLAGS)}},
    "no modality": {"modalities": {}},
    "names in another order": {"clips": CLIPS.assign(name=["y", "x", "z"])},
}


def test_the_fingerprint_changes_with_whatever_a_result_depends_on():
    found = {what: build(**changed).fingerprint for what, changed in MATTERS.items()} | {"": build().fingerprint}
    assert len(set(found.values())) == len(found), found


TWO = {"a": (np.ones((3, A)), np.ones(3)), "b": (np.zeros((3, A)), np.ones(3))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({}, {"info": {"another": "source"}}),
        ({}, {"face_table": pd.DataFrame(index=range(5))}),
        ({}, {"clips": CLIPS.drop(columns="year")}),
        ({}, {"clips": CLIPS.set_index(pd.Index([7, 8, 9]))}),
        ({}, {"clips": CLIPS.astype({"person": "category"})}),
        ({}, audio(np.where(FLAGS[:, None], AUDIO, np.nan), FLAGS)),  # the vector of an absent one
        ({"modalities": TWO}, {"modalities": dict(reversed(TWO.items()))}),
    ],
)
def test_the_fingerprint_stays_with_what_no_result_depends_on(one, other):
    assert build(**one).fingerprint == build(**other).fingerprint


def spoilt(value, row=3):
    faces = parts()["faces"]
    faces[row, 1] = value
    return {"faces": faces}


LARGEST = "as its largest number, expected " + HELD
REFUSED = {
    "counts: clip 1 has -1, expected 0 or more": {"counts": np.array([3, -1, 3])},
    "counts: their sum is 6, expected the 5 rows of faces": {"counts": np.array([2, 1, 3])},
    "clips: 3 rows, expected one for each of 2 clips": {"counts": np.array([2, 3])},
    "face_table: 4 rows, expected one for each of 5 faces": {"face_table": pd.DataFrame(index=range(4))},
    "clips: column 'group' is missing, expected name, person, split, group": {"clips": CLIPS.drop(columns="group")},
    "clips: the name 'x' occurs twice, expected once": changed_clips(2, "name", "x"),
    "clips: the split 'valid' is not known, expected one of train, val, test": changed_clips(2, "split", "valid"),
    "audio: 2 vectors and 3 presence flags, expected one of each for 3 clips": audio(AUDIO[:2], FLAGS),
    "audio: 3 vectors and 2 presence flags, expected one of each for 3 clips": audio(AUDIO, FLAGS[:2]),
    "faces: an array of 1 dimensions, expected 2 (one row per vector)": {"faces": np.zeros(5)},
    "audio: an array of 3 dimensions, expected 2 (one row per vector)": audio(np.zeros((3, 1, 1)), FLAGS),
    f"faces: row 3 has nan {LARGEST}": spoilt(np.nan),
    f"faces: row 4 has 7e+04 {LARGEST}": spoilt(70_000.0, row=4),
    f"faces: row 1 has 1e-07 {LARGEST}": {"faces": np.full((5, D), 1e-7) ** [[0], *[[1]] * 4]},
    f"faces: row 2 has 1e-09 {LARGEST}": {"faces": np.eye(5, D)[::-1] * 1e-9},
    f"audio: row 2 has inf {LARGEST}": audio(np.array([[1, 1], [1, 1], [1, np.inf]]), FLAGS),
    f"audio: row 0 has 1e-09 {LARGEST}": audio(np.full((3, A), 1e-9), FLAGS),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_contradiction_gives_its_sentence(sentence):
    with pytest.raises(ClipSetError) as refusal:
        build(**REFUSED[sentence])
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("name", ["faces", "offsets", "audio.present"])
def test_a_modality_cannot_take_the_name_of_another_array(name):
    with pytest.raises(ClipSetError, match=f"^modalities: the name '{name}', expected a word"):
        build(modalities={"audio": (AUDIO, FLAGS), name: (AUDIO, FLAGS)})


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a file", "rubbish", "a stump", "no clips", "no faces"])
def test_what_is_no_clipset_gives_its_sentence(tmp_path, what):
    folder = tmp_path / "set"
    if what == "an empty folder":
        folder.mkdir()
    elif what == "a file":
        folder.write_text("text")
    elif what != "nothing":
        arrays = build().save(folder) / "arrays.safetensors"
        if what in ("rubbish", "a stump"):
            arrays.write_bytes(b"rubbish" * 99 if what == "rubbish" else arrays.read_bytes()[:-1])
        else:
            (folder / f"{what.split()[1]}.parquet").unlink()
    with pytest.raises(ClipSetError) as refusal:
        ClipSet.open(folder)
    assert str(refusal.value).startswith(f"{folder}: no ClipSet can be opened here (")


@pytest.mark.parametrize(
    ("name", "table", "sentence"),
    [
        ("clips", parts()["clips"][:2], "/clips.parquet: 2 rows, expected one for each of 3 clips"),
        ("faces", parts()["face_table"][:2], "/faces.parquet: 2 rows, expected one for each of 5 faces"),
        ("", None, ": the format is 'famf-clipset-0', expected 'famf-clipset-1'"),
    ],
)
def test_files_that_do_not_fit_give_their_sentence(tmp_path, monkeypatch, name, table, sentence):
    with monkeypatch.context() as patch:
        patch.setattr(clipset, "FORMAT", clipset.FORMAT if name else "famf-clipset-0")
        build().save(tmp_path / "set")
    if name:
        table.to_parquet(tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ClipSetError) as refusal:
        ClipSet.open(tmp_path / "set")
    assert str(refusal.value) == f"{tmp_path}/set{sentence}"


def columns_of(clips):
    return pa.Schema.from_pandas(clips.face_columns(), preserve_index=False)


@pytest.mark.parametrize("dim", [1, 3, 8])  # of which the first two leave int64 arrays without their alignment
@pytest.mark.parametrize("pieces", [[0, 5], [1, 2, 5], [3, 3, 5]])
def test_pieces_make_what_the_whole_makes(tmp_path, dim, pieces):
    whole = build(faces=np.random.default_rng(3).normal(size=(5, dim)))
    with clipset.writing(tmp_path / "set", dim, columns_of(whole)) as out:
        for start, end in zip([0, *pieces], pieces, strict=False):
            out.add(whole.faces[start:end], whole.face_columns()[start:end])
        fingerprint = out.finish(whole.counts.numpy(), whole.clips, whole.modalities, whole.info)
    opened = ClipSet.open(tmp_path / "set")
    assert fingerprint == opened.fingerprint == clipset.content_fingerprint(opened) == whole.fingerprint
    pd.testing.assert_frame_equal(opened.face_columns(), whole.face_columns())
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "set", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("OK") == 3


def test_the_bad_row_is_counted_from_the_first_piece(tmp_path):
    whole = build()
    bad = torch.full_like(whole.faces[:2], torch.inf)
    with pytest.raises(ClipSetError, match="faces: row 5 has inf as its largest number"):
        with clipset.writing(tmp_path / "set", whole.dim, columns_of(whole)) as out:
            out.add(whole.faces, whole.face_columns())
            out.add(bad, whole.face_columns()[:2])
    assert not list(tmp_path.iterdir())


def add(out, whole, faces=slice(None), columns=slice(None)):
    out.add(whole.faces[:, faces], whole.face_columns()[columns])


def finish(out, whole, info=None):
    out.finish(whole.counts.numpy(), whole.clips, whole.modalities, info)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda *it: add(*it, faces=slice(-1)), f"faces: {D - 1} numbers in row 0, expected {D}"),
        (lambda *it: add(*it, columns=slice(4)), "face_table: 4 rows, expected one for each of 5 faces"),
        (lambda *it: add(*it), "the clips of its faces are missing"),
        (lambda *it: finish(*it), "counts: their sum is 5, expected the 0 rows of faces"),
        (lambda *it: (add(*it), finish(*it, {"x": "y" * clipset.Writer.HEADER})), "info: 6"),
    ],
)
def test_half_a_clipset_does_not_come_into_being(tmp_path, mistake, sentence):
    whole = build()
    with pytest.raises(ClipSetError, match=sentence), clipset.writing(tmp_path / "set", D, columns_of(whole)) as out:
        mistake(out, whole)
    assert not list(tmp_path.iterdir())


def spoils(row):
    """Whether float16 turns a vector by more than a hundredth of its length, or cannot hold it: from the definition."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = row.astype(np.float16).astype(np.float64)
        lost = np.linalg.norm(half - row) > 0.01 * np.linalg.norm(row)
    return bool(lost or not np.isfinite(half).all())


ROWS = [[65504.0] * 7, [-65504.0] * 7, [np.inf, -np.inf, *[0.0] * 5], [np.nan] * 7, [65520.0, *[0.0] * 6], [0.0] * 7]
ROWS += [[1e-9] * 7, [-1e-9] * 7, [1e-5, *[0.0] * 6], [1.0, *[1e-9] * 6], [0.0] * 6 + [7e-8]]
SETS = [np.array([[0.0] * 7, row, [0.0] * 7]) for row in ROWS]
RANDOM = np.random.default_rng(3).normal(size=(29, 127))
SETS += [RANDOM * norm / np.linalg.norm(RANDOM, axis=1, keepdims=True) for norm in (1e-9, 1e-7, 1e-6, 1e-3, 1.0, 1e3)]


@pytest.mark.parametrize("given", SETS)
def test_vectors_are_held_as_far_as_float16_keeps_their_directions(given):
    with np.errstate(over="ignore"):
        half = torch.from_numpy(given.astype(np.float16))
    expected = [not spoils(row) for row in given]
    assert clipset.held(half, given).tolist() == clipset.held(half, torch.from_numpy(given)).tolist() == expected


@pytest.mark.parametrize("norm", [1e-7, 1e-6])
def test_directions_lost_before_are_seen_in_what_is_left_of_them(norm):
    given = RANDOM * norm / np.linalg.norm(RANDOM, axis=1, keepdims=True)
    assert not clipset.held(torch.from_numpy(given.astype(np.float16))).all()
