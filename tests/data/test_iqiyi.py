"""The import of the official files: what comes out of a folder in the true format, and what is said of a faulty one."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import official_files
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import DIM, PERSONS

from famf_lib.data import datasets, imported, iqiyi, pickles
from famf_lib.data.clipset import ClipSetError
from famf_lib.data.iqiyi import IqiyiError, import_folder
from famf_lib.data.iqiyi_text import OfficialFileError
from famf_lib.data.pickles import PickleError
from famf_lib.data.splits import split
from famf_lib.support.files import ROOT

MADE = official_files.clips()


@pytest.fixture
def folder(tmp_path):
    official_files.write(tmp_path / "official", MADE)
    return tmp_path / "official"


def changed(folder, change):
    """Writes the folder again after a change of what it holds."""
    made = copy.deepcopy(MADE)
    change(made)
    return official_files.write(folder, made)


def clip(made, split="train", n=2):
    return list(made[split].values())[n]


def name(split="train", n=2):
    return list(MADE[split])[n].decode()


# --- what comes out ---


def test_every_number_of_every_clip_arrives(folder):
    clips, _ = import_folder(folder)
    table, faces = clips.clips.set_index("name"), clips.face_columns()
    row = {n: i for i, n in enumerate(clips.clips["name"])}
    assert len(row) == sum(len(of_split) for of_split in MADE.values())
    for split_name, of_split in MADE.items():
        for key, made in of_split.items():
            v = row[key.decode()]
            assert table["split"].iloc[v] == split_name
            person = table["person"].iloc[v]
            assert pd.isna(person) if made["person"] is None else person == str(made["person"] + 3)
            start, end = clips.offsets[v : v + 2].tolist()
            records = made.get("face", [])
            assert end - start == len(records)
            for found, (frame, box, score, quality, vector) in zip(range(start, end), records, strict=True):
                np.testing.assert_array_equal(clips.faces[found].numpy(), vector)
                its = faces.iloc[found]
                assert its["frame"] == int(frame) and its[["x1", "y1", "x2", "y2"]].tolist() == box
                assert its["det_score"] == np.float32(score) and its["quality"] == quality
            for kind in ("head", "body"):
                given_ = [record[-1] for record in made.get(kind, [])]
                assert bool(clips.modalities[kind].present[v]) == bool(given_)
                if given_:
                    mean = np.mean(np.stack(given_).astype(np.float64), axis=0)
                    np.testing.assert_allclose(clips.modalities[kind].vectors[v].numpy(), mean, rtol=2e-3, atol=2e-3)
            assert bool(clips.modalities["audio"].present[v]) == ("audio" in made)
            if "audio" in made:
                np.testing.assert_array_equal(clips.modalities["audio"].vectors[v].numpy(), made["audio"])
    assert "text" not in clips.modalities and clips.dim == DIM


def test_the_paper_trains_without_noise_and_ranks_with_it(folder):
    import_folder(folder)
    clips = datasets.load("iqiyi", "paper")
    parts = split(clips, datasets.get("iqiyi").protocol)
    names = clips.clips["name"]
    gallery = {names[v] for v in parts.gallery.tolist()}
    assert gallery == {key.decode() for key in MADE["val"]}
    assert int((parts.gallery_classes < 0).sum()) == official_files.NOISE
    assert {names[v] for v in parts.train.tolist()} == {key.decode() for key in MADE["train"]}
    assert len(parts.persons) == PERSONS


def test_what_was_found_stands_beside_what_is_published(folder):
    _, found = import_folder(folder)
    table = found.table()
    assert table.loc["persons"].tolist() == [10_034, PERSONS, True]
    assert table.loc["val: noise clips", "found"] == official_files.NOISE
    assert table.loc["val: clips of them with a face", "found"] == PERSONS * official_files.VAL - 1
    assert table.loc["train: faces", "found"] == sum(len(c["face"]) for c in MADE["train"].values())
    assert table.loc["val: clips without body", "found"] == 2 and not table.loc["val: clips without body", "differs"]
    assert not found.notes
    same = iqiyi.Found({"persons": 10_000}).table()  # within one per cent
    assert not same["differs"].any()


@pytest.mark.parametrize("puts", ["all", "some"])
@pytest.mark.parametrize("version", [2, 3, 5])
def test_however_it_was_written_it_is_the_same(folder, version, puts):
    wanted, _ = import_folder(folder, "first")
    official_files.write(folder, MADE, puts)
    for path in (folder / "feat").iterdir():
        if version > 2:  # somebody opened them with Python 3 and saved them again
            value = pickle.loads(path.read_bytes(), encoding="latin1" if version == 3 else "bytes")
            path.write_bytes(pickle.dumps(value, version))
    found, _ = import_folder(folder, "again")
    assert found.fingerprint == wanted.fingerprint


def test_the_lists_may_lie_in_feat_and_the_pickles_outside(folder):
    wanted, _ = import_folder(folder, "first")
    for path in list((folder / "feat").iterdir()):
        path.rename(folder / path.name.replace("_v2", ""))
    for path in list(folder.glob("*_gt.txt")):
        path.rename(folder / "feat" / path.name)
    found, _ = import_folder(folder, "again")
    assert found.fingerprint == wanted.fingerprint


def test_text_of_ones_own_is_read_like_audio(folder):
    made = {key: np.full(DIM, n, dtype=np.float32) for n, key in enumerate(MADE["val"])}
    (folder / "feat" / "text_val.pickle").write_bytes(pickle.dumps(made, 2))
    clips, found = import_folder(folder)
    text = clips.modalities["text"]
    assert int(text.present.sum()) == len(made) and datasets.get("iqiyi").modalities[-1] == "text"
    v = clips.clips["name"].tolist().index(name("val", 7))
    assert torch.equal(text.vectors[v], torch.full((DIM,), 7, dtype=torch.float16)) and not found.notes


def test_what_is_not_there_is_told(folder):
    for kind in ("face_test", "head_val"):
        (folder / "feat" / f"{kind}.pickle").unlink()
    clips, found = import_folder(folder)
    assert found.notes == {"file not there: face_test.pickle": 1, "file not there: head_val.pickle": 1}
    held = clips.modalities["head"].present[torch.from_numpy(np.array(clips.clips["split"] == "val"))]
    assert not held.any() and clips.modalities["head"].present.any()


def test_windows_line_ends_and_no_last_newline_change_nothing(folder):
    wanted, _ = import_folder(folder, "first")
    for path in folder.glob("*_gt.txt"):
        path.write_bytes(path.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    found, _ = import_folder(folder, "again")
    assert found.fingerprint == wanted.fingerprint


# --- faults ---


def set_record(place, value, split="train", n=2, kind="face"):
    def change(made):
        made = clip(made, split, n)[kind]
        made[0] = type(made[0])([*made[0][:place], value, *made[0][place + 1 :]] if place < 9 else value)

    return change


def bad_vector(value):
    vector = np.ones(DIM, dtype=np.float32)
    vector[7] = value
    return vector


FAULTS = {
    "vectors that float16 does not hold (NaN)": (
        set_record(4, bad_vector(np.nan)),
        "vector of a record of clip .*numbers too large, too small or not finite found, expected numbers within ±65504",
    ),
    "vectors that float16 does not hold (inf)": (set_record(4, bad_vector(np.inf)), "expected numbers within ±65504"),
    "vectors that float16 does not hold (large)": (set_record(4, bad_vector(1e6)), "expected numbers within ±65504"),
    "vectors that float16 does not hold (small)": (
        set_record(4, np.full(DIM, 1e-9, dtype=np.float32)),
        "the largest of a vector 3.8e-06 or more, or all 0",
    ),
    "vectors that float16 does not hold (small halves)": (
        set_record(4, np.full(DIM, 1e-7, dtype=np.float16)),
        "face_train_v2.pickle: vector of a record of clip .*the largest of a vector 3.8e-06 or more",
    ),
    "vectors that float16 does not hold (small, head)": (
        set_record(3, np.full(DIM, 1e-9, dtype=np.float64), kind="head"),
        "head_train.pickle: vector of a record of clip .*the largest of a vector 3.8e-06 or more",
    ),
    "vectors of another length (2048)": (
        set_record(4, np.ones(2048, dtype=np.float16)),
        r"record 0 of clip .*: array of 2048 \(<f2\) found, expected a vector of 512 floats",
    ),
    "vectors of another length (int)": (set_record(4, np.ones(DIM, dtype=np.int32)), r"array of 512 \(<i4\) found"),
    "vectors of another length (list)": (set_record(4, [0.5] * DIM), "expected a vector of 512 floats"),
    "boxes out of order (x)": (set_record(1, [9, 1, 8, 2]), r"\[9, 1, 8, 2\] found, expected 0 <= x1 <= x2"),
    "boxes out of order (y)": (set_record(1, (1, 9, 2, 8)), r"\(1, 9, 2, 8\) found"),
    "boxes out of order (minus)": (set_record(1, [-1, 1, 8, 2]), r"box of a record of clip \w+: \[-1, 1"),
    "boxes out of order (nan)": (set_record(1, [1.0, 1.0, np.nan, 2.0]), "expected 0 <= x1 <= x2"),
    "boxes out of order (three)": (set_record(1, [1, 2, 3]), r"\[1, 2, 3\] found"),
    "boxes out of order (text)": (set_record(1, [b"1", b"1", b"2", b"2"]), "expected 0 <= x1 <= x2"),
    "boxes out of order (huge)": (set_record(1, [0, 0, 10**200, 9]), "expected 0 <= x1 <= x2"),
    "detection scores that are no number (nan)": (
        set_record(2, np.nan),
        "detection score .*: nan found, expected a fin",
    ),
    "detection scores that are no number (none)": (set_record(2, None), "detection score .*: None found"),
    "quality scores that are no number": (
        set_record(3, b"90"),
        "quality score .*: b'90' found, expected a finite number",
    ),
    "frames that are no number (text)": (set_record(0, b"12a"), "frame .*: b'12a' found, expected up to nine digits"),
    "frames that are no number (long)": (set_record(0, b"1" * 30), "up to nine digits"),
    "records of another form": (
        set_record(9, [b"1", [0, 0, 1, 1], 0.9]),
        "expected 5 fields: frame, box, detection score",
    ),
    "records of another form (head)": (set_record(9, (b"1",), kind="head"), "expected 4 fields: frame, box, detection"),
    "boxes out of order (body)": (set_record(1, [3, 3, 1, 1], "val", 4, "body"), "body_val.pickle: box of a record"),
    "vectors of another length (audio)": (
        lambda made: clip(made).update(audio=np.ones(100, dtype=np.float16)),
        r"audio_train.pickle: clip \w+: array of 100 \(<f2\) found, expected a vector of 512 floats",
    ),
    "vectors that float16 does not hold (audio)": (
        lambda made: clip(made).update(audio=bad_vector(np.nan)),
        "vector of clip",
    ),
    "vectors that float16 does not hold (small, audio)": (
        lambda made: clip(made).update(audio=np.full(DIM, 1e-9, dtype=np.float32)),
        "audio_train.pickle: vector of clip .*the largest of a vector 3.8e-06 or more",
    ),
    "clips without a list": (lambda made: clip(made).update(face=b"nothing"), "b'nothing' found, expected a list"),
    "clips without a name": (
        lambda made: made["train"].__setitem__(b"\xff\x00", {"person": 1, "face": []}),
        "expected text in ASCII",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_stops_the_import_or_is_skipped_and_counted(folder, store, what):
    change, sentence = FAULTS[what]
    truth = {path: path.read_bytes() for path in folder.glob("*_gt.txt")}
    changed(folder, change)
    for path, content in truth.items():
        path.write_bytes(content)
    with pytest.raises(IqiyiError, match=sentence) as refusal:
        import_folder(folder)
    assert str(refusal.value).startswith(f"{folder}/feat/") and "\n" not in str(refusal.value)
    assert "iqiyi" not in imported.names() and os.listdir(store / "imported") == ["iqiyi.lock"]

    clips, found = import_folder(folder, faults="skip")
    kind = what.split(" (")[0]
    assert found.notes == {f"skipped: {kind}": 1} and clips.info["notes"] == dict(found.notes)
    assert len(clips) == sum(len(of_split) for of_split in MADE.values())
    faces = sum(len(c.get("face", [])) for of_split in MADE.values() for c in of_split.values())
    gone = {"clips without a list": len(clip(MADE)["face"])}.get(kind, 1 if "face_train" in str(refusal.value) else 0)
    assert len(clips.faces) == faces - (0 if kind == "clips without a name" else gone)


def test_a_clip_of_another_split_or_of_two(folder):
    def change(made):
        made["val"][list(made["train"])[3]] = {"person": None} | clip(made, "train", 3)

    truth = {path: path.read_bytes() for path in folder.glob("*_gt.txt")}
    changed(folder, change)
    for path, content in truth.items():
        path.write_bytes(content)
    with pytest.raises(IqiyiError, match=f"clip {name(n=3)} of train found, expected clips of val"):
        import_folder(folder)
    clips, found = import_folder(folder, faults="skip")
    assert found.notes == {"skipped: clips of another split": 3}  # its faces, bodies and voice: it has no head
    with (folder / "val_gt.txt").open("a") as out:
        out.write(f"99 {name(n=3)}.mp4 \n")
    with pytest.raises(IqiyiError, match=f"clip {name(n=3)} found, which train_gt.txt has too"):
        import_folder(folder)


def test_a_clip_that_comes_twice(folder):
    """With ``.mp4`` and without it: a pickle of a dict has no key twice."""
    key = list(MADE["train"])[1]
    changed(folder, lambda made: made["train"].__setitem__(key + b".mp4", {"person": 1, "audio": clip(made)["audio"]}))
    (folder / "train_gt.txt").write_bytes(b"".join(b"%s.mp4 3\n" % name for name in MADE["train"]))
    with pytest.raises(IqiyiError, match=f"clip {key.decode()} found a second time, expected it once"):
        import_folder(folder)


def test_frames_out_of_order_are_sorted(folder):
    changed(folder, lambda made: clip(made)["face"].reverse())
    clips, found = import_folder(folder)
    assert found.notes == {"clips with frames out of order (they were sorted)": 1}
    v = clips.clips["name"].tolist().index(name())
    start, end = clips.offsets[v : v + 2].tolist()
    frames = clips.face_columns()["frame"][start:end].tolist()
    assert frames == sorted(frames)
    last = clip(MADE)["face"][-1][-1]
    np.testing.assert_array_equal(clips.faces[end - 1].numpy(), last)


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (lambda f: (f / "feat" / "face_val_v2.pickle").write_bytes(b""), IqiyiError, "the file is empty"),
        (lambda f: (f / "train_gt.txt").write_bytes(b""), OfficialFileError, "train_gt.txt"),
        (lambda f: (f / "train_gt.txt").unlink(), IqiyiError, "train_gt.txt not found, neither there nor in feat/"),
        (lambda f: (f / "feat" / "face_val_v2.pickle").unlink(), IqiyiError, "face_val.pickle not found"),
        (
            lambda f: os.truncate(f / "feat" / "body_train.pickle", 40_000),
            PickleError,
            "body_train.pickle: the file ends in the middle of its content, expected a whole pickle",
        ),
        (
            lambda f: (f / "feat" / "audio_val.pickle").write_bytes(b"cos\nsystem\n(U\x05touchtR."),
            PickleError,
            "audio_val.pickle: it asks for os.system, expected arrays of numbers",
        ),
        (
            lambda f: (f / "val_gt.txt").write_text("3 IQIYI_VID_VAL_0000000 \n"),
            OfficialFileError,
            "val_gt.txt",
        ),
    ],
)
def test_what_nobody_can_skip(folder, store, spoil, error, sentence):
    import_folder(folder)
    before = imported.open("iqiyi").fingerprint
    spoil(folder)
    for faults in ("stop", "skip"):
        with pytest.raises(error, match=sentence) as refusal:
            import_folder(folder, faults=faults)
        assert "\n" not in str(refusal.value)
        assert imported.open("iqiyi").fingerprint == before, "the earlier import is gone"
    assert sorted(os.listdir(store / "imported")) == ["iqiyi", "iqiyi.lock"]


def test_a_folder_that_is_none_and_a_name_that_is_none(folder, tmp_path):
    with pytest.raises(IqiyiError, match="not a folder"):
        import_folder(tmp_path / "gone")
    with pytest.raises(imported.ImportedError, match=r"'\.\./x' found, expected small letters"):
        import_folder(folder, "../x")


# --- interrupted ---


def test_killed_in_the_middle_it_leaves_nothing_that_opens_and_the_next_one_clears_up(folder, store):
    code = (
        "import sys, time; from pathlib import Path; from famf_lib.data.clipset import Writer;"
        "from famf_lib.data.datasets import iqiyi;"
        "Writer.finish = lambda *a, **k: (print('here', flush=True), time.sleep(60));"
        f"iqiyi.import_folder(Path({str(folder)!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [entry for entry in os.listdir(store / "imported") if entry.startswith(".iqiyi.")]
    assert left and imported.names() == []
    with pytest.raises(ClipSetError):
        imported.open("iqiyi")
    import_folder(folder)
    assert sorted(os.listdir(store / "imported")) == ["iqiyi", "iqiyi.lock"]


def test_interrupted_it_clears_up_itself(folder, store, monkeypatch):
    items = pickles.items

    def interrupted(path, progress=None, **options):
        for n, item in enumerate(items(path, progress, **options)):
            if "val" in path.name and n == 3:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(pickles, "items", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_folder(folder)
    assert os.listdir(store / "imported") == ["iqiyi.lock"]


def test_two_imports_at_once_come_one_after_the_other(folder, store):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(import_folder, [folder, folder]))
    assert len({clips.fingerprint for clips, _ in both}) == 1
    assert len(imported.open("iqiyi")) == 97 and sorted(os.listdir(store / "imported")) == ["iqiyi", "iqiyi.lock"]


# --- whatever the files hold ---

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.binary(max_size=5)
    | st.sampled_from([np.ones(DIM, np.float16), np.ones(4), np.zeros((2, 3)), np.float32(2), np.ones(DIM, ">f4")]),
    lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple),
    max_leaves=9,
)  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["face", "head", "body", "audio"]),
    st.integers(0, 6),
    st.integers(0, 3) | st.none(),
    st.integers(0, 4) | st.none(),
    junk,
    st.sampled_from(["stop", "skip"]),
)
def test_any_value_in_any_place_is_imported_or_refused(folder, kind, n, record, field, value, faults):
    def change(made):
        its = list(made["train"].values())[n]
        if record is None or kind == "audio" or not its.get(kind):
            its[kind] = value
        elif field is None or field >= len(its[kind][0]):
            its[kind][record % len(its[kind])] = value
        else:
            whole = list(its[kind][record % len(its[kind])])
            whole[field] = value
            its[kind][record % len(its[kind])] = whole

    made = copy.deepcopy(MADE)
    change(made)
    path = folder / "feat" / f"{kind}_train{'_v2' if kind == 'face' else ''}.pickle"
    path.write_bytes(pickle.dumps({key: c[kind] for key, c in made["train"].items() if kind in c}, 2))
    try:
        clips, _ = import_folder(folder, faults=faults)
        assert torch.isfinite(clips.faces).all()
    except (IqiyiError, PickleError) as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 1000


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["face_train_v2", "face_val_v2", "head_train", "body_val", "audio_test"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["stop", "skip"]),
)
def test_any_damage_of_a_pickle_is_imported_or_refused(folder, which, changes, cut, faults):
    content = bytearray((folder / "feat" / f"{which}.pickle").read_bytes())
    for where, value in changes:
        content[int(where * len(content))] = value
    if cut:
        del content[int(changes[0][0] * len(content)) :]
    (folder / "feat" / f"{which}.pickle").write_bytes(content)
    try:
        import_folder(folder, faults=faults)
    except (IqiyiError, PickleError) as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 1000
    finally:
        official_files.write(folder, MADE)


def test_a_page_on_an_import_is_out_of_date_when_a_quality_changes(folder):
    import_folder(folder)
    before = datasets.get("iqiyi").key("quick")
    changed(folder, set_record(3, 77.0))
    clips, _ = import_folder(folder)
    assert clips.face_columns()["quality"].isin([77.0]).sum() == 1
    assert datasets.get("iqiyi").key("quick") != before
