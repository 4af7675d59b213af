import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from famf_command import famf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from famf_book import notebooks
from famf_lib.data import datasets, imported, table_export, table_files, tables
from famf_lib.data.clipset import ClipSet
from famf_lib.data.table_files import TableError
from famf_lib.support.files import ROOT

D, A = 3, 2  # length of a face, of an audio vector


def user_tables():
    """Two tables as a user has them: faces in any order, a clip without any, one that is noise; audio of some."""
    rng = np.random.default_rng(0)
    box = {"x1": np.arange(7) * 1.0, "y1": 0.0, "x2": np.arange(7) + 5.0, "y2": 8.0}
    faces = pd.DataFrame({"clip": [*"zxzxzxz"], "frame": [9, 4, 2, 4, 5, 1, 2]})
    faces["embedding"] = list(rng.normal(size=(7, D)).astype(np.float32))
    faces = faces.assign(**box, score=rng.random(7), quality=rng.random(7), yaw=rng.normal(size=7))
    faces["path"] = [f"picture {n}" for n in range(7)]
    clips = pd.DataFrame({"clip": [*"xyz"], "label": ["ann", "bob", None], "split": ["train", "val", "val"]})
    clips["group"] = ["film", None, "film"]
    clips["audio"] = [None, rng.normal(size=A), rng.normal(size=A)]
    clips["year"] = [1999, 2001, 2010]
    return faces, clips


def written(folder, faces=None, clips=None):
    folder.mkdir(parents=True, exist_ok=True)
    good = user_tables()
    for name, table, otherwise in (("faces", faces, good[0]), ("clips", clips, good[1])):
        table = otherwise if table is None else table
        if isinstance(table, pd.DataFrame):
            table.to_parquet(folder / f"{name}.parquet", index=False)
        else:
            pq.write_table(table, folder / f"{name}.parquet")
    return folder


def user_arrays():
    """The same as arrays: what NumPy cannot leave out is an empty text or a flag."""
    faces, clips = user_tables()
    audio = np.stack([np.full(A, np.nan) if v is None else v for v in clips["audio"]])
    return {
        **{name: faces[name].to_numpy() for name in ("frame", "score", "quality")},
        **{name: clips[name].fillna("").to_numpy(str) for name in ("clip", "label", "split", "group")},
        "faces": np.stack(faces["embedding"]),
        "face_clip": faces["clip"].to_numpy(str),
        "box": faces[["x1", "y1", "x2", "y2"]].to_numpy(),
        "audio": audio,
        "audio_present": np.array([False, True, True]),
    }


def check(clipset, faces, clips):
    """The ClipSet against the tables, face by face and from the definition."""
    order = [r for name in clips["clip"] for r in sorted(np.flatnonzero(faces["clip"] == name), key=faces["frame"].get)]
    expected = np.stack(faces["embedding"][order]).astype(np.float16)
    np.testing.assert_array_equal(clipset.faces, expected)
    assert clipset.counts.tolist() == [int((faces["clip"] == name).sum()) for name in clips["clip"]]
    columns = clipset.face_columns()
    for column in ("frame", "x1", "y2", "score", "quality"):
        ours = "det_score" if column == "score" else column
        assert columns[ours].tolist() == faces[column][order].tolist()
    for column, ours in (("clip", "name"), ("label", "person"), ("split", "split"), ("group", "group")):
        assert clipset.clips[ours].fillna("none").tolist() == clips[column].fillna("none").tolist()
    audio = clipset.modalities["audio"]
    assert audio.present.tolist() == clips["audio"].notna().tolist()
    heard = np.stack(clips["audio"].dropna().tolist()).astype(np.float16)
    np.testing.assert_array_equal(audio.vectors[audio.present], heard)
    return columns


@pytest.mark.parametrize("piece", [1, 2, 8_192])
def test_parquet_tables_become_a_clipset_whatever_the_order_of_the_faces(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "PIECE", piece)
    faces, clips = user_tables()
    clipset = tables.build(written(tmp_path))
    columns = check(clipset, faces, clips)
    assert columns["path"].tolist() == [f"picture {n}" for n in (5, 1, 3, 2, 6, 4, 0)]
    assert list(columns) == ["frame", "x1", "y1", "x2", "y2", "det_score", "quality", "yaw", "path"]
    assert list(clipset.clips) == ["name", "person", "split", "group", "year"]


@pytest.mark.parametrize("piece", [1, 2, 8_192])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_become_the_same_clipset(piece, order, tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "PIECE", piece)
    arrays = user_arrays()
    arrays["faces"] = np.asarray(arrays["faces"], order=order).astype(">f4" if order == "C" else "<f4")
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    clipset = tables.build(tmp_path / "mine.npz")
    check(clipset, *user_tables())
    assert clipset.fingerprint == tables.build(written(tmp_path / "parquet")).fingerprint


def test_what_means_the_same_gives_the_same_clipset(tmp_path):
    """Boxes as lists, names as numbers or categories, vectors in half or double precision or of a fixed size."""
    faces, clips = user_tables()
    numbers = {"x": 7, "y": 11, "z": 13}
    as_text = [table.assign(clip=table["clip"].map(numbers).astype(str)) for table in (faces, clips)]
    spelt = written(tmp_path / "spelt", *as_text)
    box = pd.Series(faces[["x1", "y1", "x2", "y2"]].to_numpy().tolist())
    others = faces.drop(columns=["x1", "y1", "x2", "y2", "embedding"]).assign(box=box, clip=faces["clip"].map(numbers))
    values = pa.array(np.stack(faces["embedding"]).astype(np.float64).ravel())
    fixed = pa.FixedSizeListArray.from_arrays(values, D)
    mine = pa.Table.from_pandas(others, preserve_index=False).append_column("embedding", fixed)
    kinds = clips.assign(clip=clips["clip"].map(numbers)).astype({"label": "category", "split": "category"})
    one, other = tables.build(spelt), tables.build(written(tmp_path / "other", mine, kinds))
    assert one.fingerprint == other.fingerprint
    pd.testing.assert_frame_equal(one.face_columns(), other.face_columns()[list(one.face_columns())])


def test_vectors_may_lie_in_columns_of_numbers(tmp_path):
    faces, clips = user_tables()
    wide = np.pad(np.stack(faces["embedding"]), ((0, 0), (0, 4)), constant_values=2.0)
    columns = pd.DataFrame(wide, columns=[f"f{n}" for n in range(7)])
    lists = tables.build(written(tmp_path / "a", faces=faces.assign(embedding=list(wide))))
    given = pd.concat([faces.drop(columns="embedding"), columns[[f"f{n}" for n in (6, 0, 1, 2, 3, 4, 5)]]], axis=1)
    found = tables.build(written(tmp_path / "b", faces=given))
    assert found.fingerprint == lists.fingerprint
    assert found.face_columns().equals(lists.face_columns())
    given.loc[2, "f3"] = np.nan
    refused(written(tmp_path / "b", faces=given), "embedding of row 2 (clip 'z') has nothing or NaN at place 3")
    refused(written(tmp_path / "b", faces=given.drop(columns="f2")), "embedding is missing, found clip")


def test_only_some_columns_must_be_there(tmp_path):
    faces, clips = user_tables()
    folder = written(tmp_path, faces[["embedding", "frame", "clip"]], clips[["split", "label", "clip"]])
    clipset = tables.build(folder)
    assert list(clipset.face_columns()) == ["frame"] and not clipset.modalities and clipset.clips["group"].isna().all()
    unsplit = tables.build(written(tmp_path, clips=clips.drop(columns=["split", "group"])), (said := []).append)
    assert unsplit.clips["split"].isna().all() and imported.protocol(unsplit) == "random"
    assert len(said) == 1 and "no split found, so every seed splits the clips anew" in said[0]


def test_a_file_of_one_row_group_is_read_in_little_memory(tmp_path, monkeypatch):
    rows, dim = 30_011, 131  # 16 MB
    values = np.random.default_rng(0).random(rows * dim, np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), dim)
    pq.write_table(pa.table({"embedding": vectors, "frame": np.arange(rows)}), tmp_path / "big.parquet")
    del values, vectors
    monkeypatch.setattr(table_files, "PIECE", 1_009)
    table = table_files.ParquetTable(tmp_path / "big.parquet")
    before, most = pa.total_allocated_bytes(), 0
    table.read(["frame"])
    for _ in table.pieces("embedding"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 8e6, f"{most / 1e6:.0f} MB"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
halves = st.integers(-2047, 2047).map(lambda n: n / 64) | st.sampled_from([65504.0, -65504.0, 2.0**-18])
words = st.sampled_from(["audio", "body", "tête", "file", "_x"])


@st.composite
def clipsets(draw):
    """What any ClipSet is built from: clips or all without faces, noise clips, missing groups, splits, modalities."""
    names = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    v = len(names)

    def column(values):
        return pd.Series(draw(st.lists(st.none() | values, min_size=v, max_size=v)), dtype=object)

    counts = draw(st.just([0] * v) | st.lists(st.integers(0, 3), min_size=v, max_size=v))
    total, dim = sum(counts), draw(st.sampled_from([1, 2, 5]))
    table = pd.DataFrame(index=range(total))
    if draw(st.booleans()):
        table["frame"] = [f for n in counts for f in sorted(draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)))]
    if draw(st.booleans()):
        corners = draw(hnp.arrays(np.float32, (total, 4), elements=halves))
        corners[:, 2:] = np.maximum(corners[:, :2], corners[:, 2:])
        table[["x1", "y1", "x2", "y2"]] = corners
    for name in draw(st.sets(st.sampled_from(["det_score", "quality", "blur"]))):
        table[name] = draw(hnp.arrays(np.float64, total, elements=halves | st.just(np.nan)))
    modalities = {}
    for name in draw(st.sets(words)):
        vectors = draw(hnp.arrays(np.float16, (v, draw(st.sampled_from([1, 3]))), elements=halves))
        modalities[name] = (vectors, draw(hnp.arrays(bool, v)))
    clips = pd.DataFrame({"name": names, "person": column(texts), "group": column(texts)})
    clips["split"] = column(st.sampled_from(["train", "val", "test"]))
    faces = draw(hnp.arrays(np.float16, (total, dim), elements=halves))
    return dict(faces=faces, counts=np.array(counts), clips=clips, face_table=table, modalities=modalities)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(parts=clipsets(), npz=st.booleans(), piece=st.sampled_from([2, 8_192]))
def test_an_export_imports_with_the_same_fingerprint_in_pieces_of_any_size(parts, npz, piece):
    clipset = ClipSet.build(**parts)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(table_files, "PIECE", piece),
        mock.patch.object(table_export, "ROW_GROUP", piece + 1),
    ):
        back = tables.build(table_export.export(clipset, Path(folder) / "tables", npz=npz))
    assert back.fingerprint == clipset.fingerprint
    assert set(back.modalities) == set(clipset.modalities)
    there = clipset.face_columns()
    for column in set(there) - ({"blur"} if npz else set()):
        np.testing.assert_array_equal(back.face_columns()[column], there[column])


def test_an_export_takes_no_place_that_is_taken(tmp_path, made_up):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(TableError, match="it exists already, expected a new folder"):
            table_export.export(made_up(), place)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert table_export.export(made_up(), tmp_path / "empty") == tmp_path / "empty"


@pytest.mark.parametrize(
    ("clips", "faces", "modality", "npz", "sentence"),
    [
        ({"label": "a"}, {}, "audio", False, "the clip column 'label'"),
        ({}, {"embedding": 1.0}, "audio", False, "the face column 'embedding'"),
        ({"age": "a"}, {}, "age", False, "the modality 'age'"),
        ({}, {}, "frame", True, "the modality 'frame'"),
        ({"person": ""}, {}, "audio", False, "'' for the label of clip 0"),
        ({"group": "a\0"}, {}, "audio", True, "for the group of clip 0"),
        ({}, {"frame": [2, 1, 3, 4]}, "audio", False, "frame of face 1 is 1, expected integers in order"),
        ({}, {"frame": 1.5}, "audio", False, "frame of face 0 is 1.5, expected integers"),
    ],
)
def test_what_tables_cannot_say_is_not_exported(clips, faces, modality, npz, sentence, tmp_path):
    table = pd.DataFrame({"name": ["x", "y"], "person": "p", "split": "val", "group": None}).assign(**clips)
    of_faces = pd.DataFrame({"frame": [1, 2, 1, 2]}).assign(**faces)
    modalities = {modality: (np.ones((2, A)), np.ones(2))}
    clipset = ClipSet.build(np.ones((4, D)), np.array([2, 2]), table, face_table=of_faces, modalities=modalities)
    with pytest.raises(TableError, match="^export: .*expected") as error:
        table_export.export(clipset, tmp_path / "tables", npz=npz)
    assert sentence in str(error.value) and not list(tmp_path.iterdir())


def refused(source, *words):
    with pytest.raises(TableError) as error:
        tables.build(source)
    sentence = str(error.value)
    assert sentence.startswith(str(source)) and "expected" in sentence and len(sentence.splitlines()) == 1
    for word in words:
        assert word in sentence, f"{word!r} is not in: {sentence}"


def at(row, value):

    def change(faces):
        embeddings = faces["embedding"].copy()
        embeddings[row] = value
        return faces.assign(embedding=embeddings)

    return change


def boxes(faces, last):
    return faces.drop(columns=["x1", "y1", "x2", "y2"]).assign(box=[[0, 0, 1, 1]] * 6 + [last])


def of_fixed_size(faces):
    values = pa.array([0.5] * 7 + [np.nan] + [0.5] * 13)
    others = pa.Table.from_pandas(faces.drop(columns="embedding"))
    return others.append_column("embedding", pa.FixedSizeListArray.from_arrays(values, 3))


def never_heard(clips):
    others = pa.Table.from_pandas(clips.drop(columns="audio"))
    return others.append_column("audio", pa.array([None] * 3, pa.list_(pa.float32())))


WITHIN = "its largest number, expected numbers within ±65504, the largest of a vector 3.8e-06 or more, or all 0"
OF_FACES = [
    (lambda f: f.drop(columns="embedding"), "embedding is missing", "found clip, frame, x1"),
    (lambda f: f.drop(columns="clip"), "clip is missing"),
    (lambda f: f.drop(columns="frame"), "frame is missing"),
    (lambda f: f.assign(embedding="0.5 0.1"), "embedding holds text, expected lists of numbers"),
    (lambda f: f.assign(embedding=[["a"]] * 7), "embedding holds", "expected lists of numbers"),
    (lambda f: f.assign(frame="1"), "frame holds text, expected integers"),
    (lambda f: f.assign(frame=0.5), "frame holds numbers, expected integers"),
    (lambda f: f.assign(clip=0.5), "clip holds numbers, expected text or integers"),
    (lambda f: f.assign(day=pd.Timestamp("2026-01-01")), "day holds timestamp", "expected text"),
    (lambda f: f.assign(quality="good"), "quality holds text", "expected integers or numbers or nothing"),
    (at(4, np.zeros(5, "f4")), "embedding of row 4 (clip 'z') is 5 numbers long, expected 3"),
    (lambda f: f.assign(embedding=[[]] * 6 + [[1.0]]), "embedding of row 0", "is an empty list"),
    (at(3, None), "embedding of row 3 (clip 'x') is missing"),
    (at(4, [1.0, None, 2.0]), "embedding of row 4 (clip 'z') has nothing or NaN at place 1"),
    (at(2, [0, np.nan, 0]), "embedding of row 2 (clip 'z') has nothing or NaN at place 1, expected a number"),
    (of_fixed_size, "embedding of row 2 (clip 'z') holds nan at place 1, its largest number"),
    (at(5, [0, 0, -np.inf]), "embedding of row 5 (clip 'x') holds -inf at place 2"),
    (at(6, [65520, 0, 0]), f"embedding of row 6 (clip 'z') holds 65520 at place 0, {WITHIN}"),
    (at(1, [0, -1e-7, 1e-8]), f"embedding of row 1 (clip 'x') holds -1e-07 at place 1, {WITHIN}"),
    (lambda f: f.assign(embedding=[np.full(3, 1e-9)] * 7), "row 0 (clip 'z') holds 1e-09 at place 0, its largest"),
    (lambda f: f.assign(clip=[*"zxzxz", "w", "z"]), "clip of row 5 is 'w', expected one of the 3 clips"),
    (lambda f: f.assign(clip=[*"zxzx", None, "x", "z"]), "clip of row 4 is nothing, expected a name"),
    (lambda f: f.assign(frame=pd.array([1, None, 3, 4, 5, 6, 7], "Int64")), "frame of row 1 (clip 'x') is missing"),
    (lambda f: f.drop(columns="y2"), "y2 is missing", "expected all of x1, y1, x2, y2 or none"),
    (lambda f: f.assign(x2=[9, 9, 9, 2, 9, 9, 9]), "x1 of row 3 (clip 'x') is (3, 0, 2, 8)", "x1 ≤ x2"),
    (lambda f: f.assign(y2=[9, np.nan] + [9] * 5), "x1 of row 1 (clip 'x') is (1, 0, 6, nan)"),
    (lambda f: boxes(f, [0, 0, 1, 1, 1]), "box of row 6 (clip 'z') is 5 numbers long, expected x1, y1, x2, y2"),
    (lambda f: f.assign(box=[[0, 0, 1, 1]] * 7), "x1 is a name that the ClipSet uses"),
    (lambda f: f.assign(det_score=0.5), "det_score is a name that the ClipSet uses"),
    (lambda f: f.assign(Box=[[0, 0, 1, 1]] * 7), "'Box' is almost spelled like box, expected box or"),
    (lambda f: f.assign(Quality=0.5), "'Quality' is almost spelled like quality"),
    (lambda f: f.assign(score=[0.5] * 6 + [np.inf]), "score of row 6 (clip 'z') is infinite"),
    (lambda f: f.iloc[:0], "embedding"),
]
OF_CLIPS = [
    (
        lambda c: c.rename(columns={"label": "Identity"}),
        "label is missing",
        "did you mean Identity? Rename it to label",
    ),
    (lambda c: c.rename(columns={"label": "person"}), "did you mean person? Rename it to label"),
    (lambda c: c.drop(columns="label"), "label is missing"),
    (lambda c: c.assign(split=["train", "dev", "val"]), "split of row 1 is 'dev' (clip 'y'), expected one"),
    (lambda c: c.assign(clip=[*"xyx"]), "clip of row 2 is 'x' again, expected once"),
    (lambda c: c.assign(label=["ann", "", None]), "label of row 1 is an empty text, expected a name or"),
    (lambda c: c.assign(label=[0.0, 1.0, None]), "label holds numbers, expected text or integers"),
    (lambda c: c.iloc[:0].astype({"clip": str, "label": str, "split": str}), "clip has no row"),
    (lambda c: c.assign(audio=[[0, 0], None, [0, 0, 0]]), "audio of row 2 (clip 'z') is 3 numbers long, expected 2"),
    (lambda c: c.rename(columns={"audio": "faces"}), "'faces' cannot name a modality, expected a word"),
    (lambda c: c.rename(columns={"audio": "the audio"}), "'the audio' cannot name"),
    (lambda c: c.assign(person="ann"), "person is a name that the ClipSet uses"),
    (lambda c: c.rename(columns={"group": "Group"}), "'Group' is almost spelled like group, expected group or another"),
    (lambda c: c.rename(columns={"label": "label "}), "'label ' is almost spelled like label"),
    (lambda c: c.assign(Audio=c["audio"]), "'audio' is almost spelled like Audio"),
    (never_heard, "audio has no vector"),
]


@pytest.mark.parametrize(
    ("table", "fault"), [*(("faces", fault) for fault in OF_FACES), *(("clips", fault) for fault in OF_CLIPS)]
)
def test_a_fault_in_a_table_is_one_sentence(table, fault, tmp_path):
    change, *words = fault
    good = dict(zip(("faces", "clips"), user_tables(), strict=True))
    refused(written(tmp_path, **{table: change(good[table])}), f"{table}.parquet: ", *words)


ARRAYS = [
    ({"face_clip": None}, "the array face_clip is missing, found frame, score"),
    ({"audio_present": None}, "the array audio has no meaning, expected", "audio_present"),
    ({"audio": None}, "the array audio is missing"),
    ({"split_present": np.ones(3, bool)}, "the array split_present has no meaning"),
    ({"audio_present": np.ones(3)}, "audio_present is float64, expected booleans"),
    ({"frame": np.arange(5)}, "the shape of frame is (5,), expected (7,)"),
    ({"faces": np.ones((7, D), complex)}, "faces is complex128, expected text, numbers or booleans"),
    ({"faces": np.full((7, D), np.nan)}, "faces of row 0 (clip 'z') holds nan at place 0"),
    ({"audio": np.full((3, A), 1e-9)}, "audio of row 1 (clip 'y') holds 1e-09 at place 0"),
    ({"face_clip": np.array([*"zxzxzxw"])}, "face_clip of row 6 is 'w'"),
    ({"clip": np.array(["x", "", "z"])}, "clip of row 1 is nothing, expected a name"),
    ({"box": np.ones((7, 3))}, "box of row 0 (clip 'z') is 3 numbers long"),
    ({"box": np.tile([3.0, 1, 2, 5], (7, 1))}, "box of row 0 (clip 'z') is (3, 1, 2, 5)"),
]


@pytest.mark.parametrize("fault", ARRAYS)
def test_a_fault_in_the_arrays_is_one_sentence(fault, tmp_path):
    change, *words = fault
    arrays = {name: array for name, array in (user_arrays() | change).items() if array is not None}
    np.savez(tmp_path / "features.npz", **arrays)
    refused(tmp_path, "features.npz: ", *words)


def test_a_folder_without_tables_and_a_column_that_stands_twice_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "there is no such folder")
    refused(tmp_path, "none of them found, expected faces.parquet and clips.parquet, or features.npz alone")
    (written(tmp_path) / "clips.parquet").rename(tmp_path / "features.npz")
    refused(tmp_path, "faces.parquet and features.npz found")
    columns = [pa.array(["x"]), pa.array([1]), pa.array([[1.0]]), pa.array([2])]
    written(tmp_path / "twice", faces=pa.Table.from_arrays(columns, ["clip", "frame", "embedding", "frame"]))
    refused(tmp_path / "twice", "'frame' occurs twice among the columns")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"clip,frame\nx,1\n", b"PK\x03\x04"])
def test_what_is_no_table_is_refused(content, tmp_path):
    (written(tmp_path / "parquet") / "faces.parquet").write_bytes(content)
    refused(tmp_path / "parquet", "faces.parquet: it cannot be read (", "expected a Parquet file")
    (tmp_path / "mine.npz").write_bytes(content)
    refused(tmp_path / "mine.npz", "it cannot be read as an .npz file (")


def told(source, **changed):
    """The sentences that an import of the changed clips says, and what came of it."""
    said = []
    clips = user_tables()[1].assign(**changed)
    clipset = tables.build(written(source / "parquet", clips=clips), said.append)
    arrays = user_arrays() | {name: clips[name].fillna("").to_numpy(str) for name in changed}
    np.savez(source / "mine.npz", **arrays)
    again = []
    assert tables.build(source / "mine.npz", again.append).fingerprint == clipset.fingerprint
    said, again = (
        [sentence.removeprefix(f"{source}/{file}: ") for sentence in one]
        for one, file in ((said, "parquet/clips.parquet"), (again, "mine.npz"))
    )
    assert said == again
    return said, clipset


ALIKE = "differ from another only in case, spaces or the form of letters, and are taken as different names"
READS = "found, which reads as a missing value and is taken as a name; expected an empty field if the name is unknown"


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        ({"label": ["nan", "ann", "nan"]}, [f"label: 'nan' (2 times) {READS}"]),
        ({"label": ["NaN", "None", "null"]}, [f"label: 'NaN' (1 time), 'None' (1 time), 'null' (1 time) {READS}"]),
        ({"label": ["-1", "ann", "<NA>"]}, [f"label: '-1' (1 time), '<NA>' (1 time) {READS}"]),
        ({"group": ["nan", "nan", "film"]}, [f"group: 'nan' (2 times) {READS}"]),
        ({"label": ["P ", "P", "P"]}, [f"label: 2 names {ALIKE}: 'P' (2 times), 'P ' (1 time)"]),
        (
            {"label": ["P\u200b", "P", " "]},
            [f"label: ' ' (1 time) {READS}", f"label: 2 names {ALIKE}: 'P' (1 time), 'P\\u200b' (1 time)"],
        ),
        ({"label": ["ann", "Ann", None]}, [f"label: 2 names {ALIKE}: 'Ann' (1 time), 'ann' (1 time)"]),
        ({"label": ["Zoë", "Zoe\u0308", "x"]}, [f"label: 2 names {ALIKE}: 'Zoe\u0308' (1 time), 'Zoë' (1 time)"]),
        ({"group": ["film", "a\u00a0b", "a  b"]}, [f"group: 2 names {ALIKE}: 'a  b' (1 time), 'a\\xa0b' (1 time)"]),
        ({"label": ["Nana", "Na", "Noney"]}, []),
        ({"label": ["ann ", None, None]}, []),
    ],
)
def test_names_that_may_not_be_meant_are_taken_and_told(changed, sentences, tmp_path):
    said, clipset = told(tmp_path, **changed)
    assert said == sentences
    for column, name in (("label", "person"), ("group", "group")):
        if column in changed:
            assert [None if pd.isna(v) else v for v in clipset.clips[name]] == changed[column]


def test_who_does_not_listen_is_warned(tmp_path):
    clips = user_tables()[1].assign(label=["nan", "ann", None])
    with pytest.warns(UserWarning, match="clips.parquet: label: 'nan'"):
        tables.import_tables(written(tmp_path / "mine", clips=clips))
    done = famf("data", "import", "table", tmp_path / "mine", "--replace")
    assert done.exit_code == 0
    assert done.stderr == f"famf: {tmp_path}/mine/clips.parquet: label: 'nan' (1 time) {READS}\n"


def test_an_import_is_a_dataset_of_that_name(tmp_path):
    clipset = tables.import_tables(written(tmp_path / "own-faces"))
    assert imported.names() == ["own-faces"] and clipset.folder == imported.place("own-faces")
    dataset, built = datasets.get("own-faces"), tables.build(tmp_path / "own-faces")
    assert dataset.load().fingerprint == datasets.load("own-faces").fingerprint == clipset.fingerprint
    assert built.fingerprint == clipset.fingerprint
    assert dataset.modalities == ("audio",) and dataset.protocol == "given"
    told = clipset.info["tables"]["faces.parquet"]
    assert told["bytes"] == (tmp_path / "own-faces" / "faces.parquet").stat().st_size and len(told["sha256"]) == 64


def test_an_earlier_import_stays_until_the_new_one_is_whole(tmp_path):
    source = written(tmp_path / "mine")
    first = tables.import_tables(source).fingerprint
    faces = user_tables()[0]
    written(source, faces.iloc[1:])
    with pytest.raises(imported.ImportedError, match="an import 'mine' already, expected another name, or --replace"):
        tables.import_tables(source)
    (source / "faces.parquet").write_bytes(b"broken")
    with pytest.raises(TableError):
        tables.import_tables(source, replacing=True)
    assert imported.open("mine").fingerprint == first
    written(source, faces.iloc[1:])
    assert tables.import_tables(source, replacing=True).fingerprint != first
    assert len(imported.open("mine").faces) == len(faces) - 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(name, f"'{name}' is a dataset of the book") for name in ("synthetic", "imfdb", "chimera", "iqiyi")]
    + [("../up", "small letters, digits and hyphens")],
)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_read(name, sentence, tmp_path):
    with pytest.raises(imported.ImportedError, match=sentence):
        tables.import_tables(tmp_path, name)


def test_the_page_imports_trains_asks_and_leaves_nothing_behind(store, tiny, capsys, monkeypatch):
    monkeypatch.setenv("FAMF_PROGRESS", "silent")
    names = {}
    for cell in notebooks.read(ROOT / "book" / "own-features.ipynb").cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("persons: int = 11", "persons: int = 3"), names)
    shown = capsys.readouterr().out
    assert names["clipset"].fingerprint in shown and "embedding of row 3" in shown
    assert len(names["of_faces"]) >= 5 and np.isfinite(names["of_faces"]["weight"]).all()
    assert not Path(names["place"].name).exists() and not store.exists()
