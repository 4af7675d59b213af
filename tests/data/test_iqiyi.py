import copy
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import official_files
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import DIM, PERSONS

from famf_lib.data import datasets, imported, iqiyi, pickles
from famf_lib.data.iqiyi import IqiyiError, import_folder
from famf_lib.data.iqiyi_text import OfficialFileError
from famf_lib.data.pickles import PickleError
from famf_lib.data.splits import split

MADE = official_files.clips()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "official"
    official_files.write(folder, MADE)
    return folder


KNOWN = {}  # by the bytes of a pickle, the items that the real reader found in it


@pytest.fixture
def folder(made_once, tmp_path, monkeypatch):
    """A folder of its own; a pickle that was read before is not read again, which takes a process each."""
    read = pickles.items

    def items(path, progress=None):
        content, found = path.read_bytes(), []
        for item in KNOWN.get(content) or read(path, progress):
            found.append(item)
            yield item
        KNOWN[content] = found

    monkeypatch.setattr(pickles, "items", items)
    return Path(shutil.copytree(made_once, tmp_path / "official"))


def changed(folder, change):
    """Writes the pickles again after a change of what they hold; the lists stay."""
    truth = {path: path.read_bytes() for path in folder.glob("*_gt.txt")}
    made = copy.deepcopy(MADE)
    change(made)
    official_files.write(folder, made)
    for path, content in truth.items():
        path.write_bytes(content)


def clip(made, split="train", n=2):
    return list(made[split].values())[n]


def name(split="train", n=2):
    return list(MADE[split])[n].decode()


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


def saved_again(encoding, version):

    def change(folder):
        for path in (folder / "feat").iterdir():
            path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes(), encoding=encoding), version))

    return change


def laid_out_otherwise(folder):
    for path in list((folder / "feat").iterdir()):
        path.rename(folder / path.name.replace("_v2", ""))
    for path in list(folder.glob("*_gt.txt")):
        path.rename(folder / "feat" / path.name)


def written_on_windows(folder):
    for path in folder.glob("*_gt.txt"):
        path.write_bytes(path.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))


def written_by_cpickle(folder):
    official_files.write(folder, MADE, "some")


@pytest.mark.parametrize(
    "change",
    [written_by_cpickle, saved_again("latin1", 3), saved_again("bytes", 5), laid_out_otherwise, written_on_windows],
)
def test_however_it_was_written_and_laid_out_it_is_the_same(folder, change):
    wanted, _ = import_folder(folder, "first")
    change(folder)
    assert import_folder(folder, "again")[0].fingerprint == wanted.fingerprint


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


def put(place, value, split="train", n=2, kind="face"):
    """A change: another value in the first record of a clip, or another record."""

    def change(made):
        made = clip(made, split, n)[kind]
        made[0] = type(made[0])([*made[0][:place], value, *made[0][place + 1 :]] if place < 9 else value)

    return change


def bad_vector(value):
    vector = np.ones(DIM, dtype=np.float32)
    vector[7] = value
    return vector


def voice(vector):
    return lambda made: clip(made).update(audio=vector)


HELD, LONG, BOX = "vectors that float16 does not hold", "vectors of another length", "boxes out of order"
SCORE, FRAME, FORM = "detection scores that are no number", "frames that are no number", "records of another form"
LARGE, SMALL = "expected numbers within ±65504", ".*the largest of a vector 3.8e-06 or more"
FAULTS = [
    (HELD, put(4, bad_vector(np.nan)), f"vector of a record of clip .* too small or not finite found, {LARGE}"),
    (HELD, put(4, bad_vector(1e6)), LARGE),
    (HELD, put(4, np.full(DIM, 1e-9, np.float32)), SMALL),
    (HELD, put(4, np.full(DIM, 1e-7, np.float16)), f"face_train_v2.pickle: vector of a record of clip {SMALL}"),
    (HELD, put(3, np.full(DIM, 1e-9), kind="head"), f"head_train.pickle: vector of a record of clip {SMALL}"),
    (HELD, voice(bad_vector(np.nan)), "vector of clip"),
    (HELD, voice(np.full(DIM, 1e-9, np.float32)), f"audio_train.pickle: vector of clip {SMALL}"),
    (LONG, put(4, np.ones(2048, np.float16)), r"record 0 of clip .*: array of 2048 \(<f2\) found, expected a vector"),
    (LONG, put(4, np.ones(DIM, np.int32)), r"array of 512 \(<i4\) found"),
    (LONG, put(4, [0.5] * DIM), "expected a vector of 512 floats"),
    (LONG, voice(np.ones(100, np.float16)), r"audio_train.pickle: clip \w+: array of 100 \(<f2\) found, expected a"),
    (BOX, put(1, [9, 1, 8, 2]), r"\[9, 1, 8, 2\] found, expected 0 <= x1 <= x2"),
    (BOX, put(1, (1, 9, 2, 8)), r"\(1, 9, 2, 8\) found"),
    (BOX, put(1, [-1, 1, 8, 2]), r"box of a record of clip \w+: \[-1, 1"),
    (BOX, put(1, [1.0, 1.0, np.nan, 2.0]), "expected 0 <= x1 <= x2"),
    (BOX, put(1, [1, 2, 3]), r"\[1, 2, 3\] found"),
    (BOX, put(1, [b"1", b"1", b"2", b"2"]), "expected 0 <= x1 <= x2"),
    (BOX, put(1, [0, 0, 10**200, 9]), "expected 0 <= x1 <= x2"),
    (BOX, put(1, [3, 3, 1, 1], "val", 4, "body"), "body_val.pickle: box of a record"),
    (SCORE, put(2, np.nan), "detection score .*: nan found, expected a fin"),
    (SCORE, put(2, None), "detection score .*: None found"),
    ("quality scores that are no number", put(3, b"90"), "quality score .*: b'90' found, expected a finite number"),
    (FRAME, put(0, b"12a"), "frame .*: b'12a' found, expected up to nine digits"),
    (FRAME, put(0, b"1" * 30), "up to nine digits"),
    (FORM, put(9, [b"1", [0, 0, 1, 1], 0.9]), "expected 5 fields: frame, box, detection score"),
    (FORM, put(9, (b"1",), kind="head"), "expected 4 fields: frame, box, detection"),
    ("clips without a list", lambda made: clip(made).update(face=b"nothing"), "b'nothing' found, expected a list"),
    ("clips without a name", lambda made: made["train"].update({b"\xff": {"person": 1, "face": []}}), "text in ASCII"),
]


@pytest.mark.parametrize(("kind", "change", "sentence"), FAULTS)
def test_a_fault_stops_the_import_or_is_skipped_and_counted(folder, store, kind, change, sentence):
    changed(folder, change)
    with pytest.raises(IqiyiError, match=sentence) as refusal:
        import_folder(folder)
    assert str(refusal.value).startswith(f"{folder}/feat/") and "\n" not in str(refusal.value)
    assert "iqiyi" not in imported.names() and os.listdir(store / "imported") == ["iqiyi.lock"]

    clips, found = import_folder(folder, faults="skip")
    assert found.notes == {f"skipped: {kind}": 1} and clips.info["notes"] == dict(found.notes)
    assert len(clips) == sum(len(of_split) for of_split in MADE.values())
    faces = sum(len(c.get("face", [])) for of_split in MADE.values() for c in of_split.values())
    gone = {"clips without a list": len(clip(MADE)["face"]), "clips without a name": 0}
    assert len(clips.faces) == faces - gone.get(kind, int("face_train" in str(refusal.value)))


def test_a_file_without_a_usable_face_is_refused_even_if_faults_are_skipped(folder):
    def shorten(made):
        for one in made["train"].values():
            one["face"] = [[*record[:-1], record[-1][:101]] for record in one.get("face", [])]

    changed(folder, shorten)
    found = r"no face of a clip of train_gt.txt found \(skipped: vectors of another length, \d+ times\), expected faces"
    with pytest.raises(IqiyiError, match=f"face_train_v2.pickle: {found}"):
        import_folder(folder, faults="skip")
    assert "iqiyi" not in imported.names()


def test_a_clip_of_another_split_or_of_two(folder):
    def change(made):
        made["val"][list(made["train"])[3]] = {"person": None} | clip(made, "train", 3)

    changed(folder, change)
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


COMMAND = b"cos\nsystem\n(U\x05touchtR."


@pytest.mark.parametrize(
    ("file", "content", "error", "sentence"),
    [
        ("feat/face_val_v2.pickle", b"", IqiyiError, "the file is empty"),
        ("feat/face_val_v2.pickle", None, IqiyiError, "face_val.pickle not found"),
        ("feat/body_train.pickle", 40_000, PickleError, "body_train.pickle: the file ends in the middle of its"),
        ("feat/audio_val.pickle", COMMAND, PickleError, "audio_val.pickle: it asks for os.system, expected arrays of"),
        ("train_gt.txt", b"", OfficialFileError, "train_gt.txt"),
        ("train_gt.txt", None, IqiyiError, "train_gt.txt not found, neither there nor in feat/"),
        ("val_gt.txt", b"3 IQIYI_VID_VAL_0000000 \n", OfficialFileError, "val_gt.txt"),
    ],
)
def test_what_nobody_can_skip(folder, store, file, content, error, sentence):
    import_folder(folder)
    before = imported.open("iqiyi").fingerprint
    if content is None:
        (folder / file).unlink()
    elif isinstance(content, int):
        os.truncate(folder / file, content)
    else:
        (folder / file).write_bytes(content)
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
    made = copy.deepcopy(MADE["train"])
    its = list(made.values())[n]
    if record is None or kind == "audio" or not its.get(kind):
        its[kind] = value
    elif field is None or field >= len(its[kind][0]):
        its[kind][record % len(its[kind])] = value
    else:
        whole = list(its[kind][record % len(its[kind])])
        whole[field] = value
        its[kind][record % len(its[kind])] = whole
    path = folder / "feat" / f"{kind}_train{'_v2' if kind == 'face' else ''}.pickle"
    good = path.read_bytes()
    path.write_bytes(pickle.dumps({key: c[kind] for key, c in made.items() if kind in c}, 2))
    try:
        clips, _ = import_folder(folder, faults=faults)
        assert torch.isfinite(clips.faces).all()
    except (IqiyiError, PickleError) as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 1000
    finally:
        path.write_bytes(good)


def test_a_page_on_an_import_is_out_of_date_when_a_quality_changes(folder):
    import_folder(folder)
    before = datasets.get("iqiyi").key("quick")
    changed(folder, put(3, 77.0))
    clips, _ = import_folder(folder)
    assert clips.face_columns()["quality"].isin([77.0]).sum() == 1
    assert datasets.get("iqiyi").key("quick") != before
