"""A user's own features: two tables, in Parquet or in an ``.npz``, turned into a ClipSet.

``data/README.md`` says what the tables hold. The vectors are read in pieces, straight into the arrays of the ClipSet,
so that tables of millions of faces need little more memory than the ClipSet itself. Nothing is guessed and nothing is
left out: what does not fit is refused in a sentence.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float16, Int

from famf_lib.data import imported
from famf_lib.data.clipset import HELD, SPLITS, ClipSet, held
from famf_lib.data.doubtful_names import doubts, misspelt
from famf_lib.data.table_files import Archive, NpzTable, ParquetTable, Table, TableError
from famf_lib.support.progress import progress

FACES, CLIPS, NPZ = "faces.parquet", "clips.parquet", "features.npz"
FACE_FIELDS = ("clip", "frame", "embedding")
CLIP_FIELDS = {"clip": "name", "label": "person", "split": "split", "group": "group"}
"""Columns of the clips that have a meaning, and what the ClipSet calls them. Only ``group`` may be left out."""

CORNERS = ("x1", "y1", "x2", "y2")
NUMBERS = (*CORNERS, "score", "det_score", "quality", "size", "blur", "darkness", "yaw")  # ``traits`` reckons with them
NPZ_FACES = {"clip": "face_clip", "embedding": "faces"} | {name: name for name in ("frame", "box", "score", "quality")}
"""Columns of the faces in an ``.npz``, and the arrays that they are."""

# What a column can hold, in the words of the sentences that refuse it.
TEXT, INTEGER, NUMBER = "text", "integers", "numbers"
BOOLEAN, VECTOR, NOTHING = "booleans", "lists of numbers", "nothing"


def import_tables(
    source: Path, name: str = "", *, replacing: bool = False, say: Callable[[str], None] = warnings.warn
) -> ClipSet:
    """Imports a folder of tables, or an ``.npz``, under a name that every command and notebook then takes.

    Args:
        source: a folder with faces.parquet and clips.parquet, or with features.npz; or an .npz file.
        name: by default that of the folder or the file.
        replacing: an earlier import of that name gives way, once the new one is complete.
        say: is told of names of persons and groups that may not be meant as they stand.

    Raises:
        ValueError: the name is taken or cannot be one; the tables cannot be used. An earlier import is then as it was.
    """
    source = Path(source)
    name = name or (source.resolve().stem if source.is_file() else source.resolve().name)
    place = imported.free(name, replacing)
    clipset = build(source, say)
    replace(clipset, info={"dataset": name} | clipset.info).save(place)
    return imported.open(name)


def build(source: Path, say: Callable[[str], None] = warnings.warn) -> ClipSet:
    """The ClipSet of a folder of tables, or of an ``.npz``. See ``import_tables`` for ``say``.

    Raises:
        TableError: one sentence with the file, the column, what was found and what was expected.
    """
    files = _files(Path(source))
    if len(files) == 1:
        faces, clips = _npz_tables(files[0])
    else:
        faces, clips = (ParquetTable(path) for path in files)
    rows, modalities = _clips(clips, say)
    clip, columns = _face_columns(faces, rows["name"])
    order = np.lexsort((columns["frame"].to_numpy(), clip))  # stable: faces of one frame stay as they are
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    vectors, _ = _vectors(faces, "embedding", place, of=rows["name"].to_numpy()[clip])
    return ClipSet.build(
        vectors,
        np.bincount(clip, minlength=len(rows)),
        rows,
        face_table=columns.iloc[order],
        modalities=modalities,
        info={"tables": {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}},
    )


# --- which files, and which columns ----------------------------------------------------------------------------------


def _files(source: Path) -> list[Path]:
    """The two Parquet files, or the one .npz."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise TableError(f"{source}: there is no such folder, expected one with {FACES} and {CLIPS}, or with {NPZ}")
    there = [name for name in (FACES, CLIPS, NPZ) if (source / name).is_file()]
    if there not in ([FACES, CLIPS], [NPZ]):
        found = " and ".join(there) or "none of them"
        raise TableError(f"{source}: {found} found, expected {FACES} and {CLIPS}, or {NPZ} alone")
    return [source / name for name in there]


def _npz_tables(path: Path) -> tuple[Table, Table]:
    archive = Archive(path)
    faces = {column: name for column, name in NPZ_FACES.items() if name in archive.headers or column in FACE_FIELDS}
    clips = {column: column for column in CLIP_FIELDS if column in archive.headers or column != "group"}
    fields = {*faces.values(), *clips}
    flags = {name.removesuffix("_present"): name for name in archive.headers if name.endswith("_present")}
    flags = {modality: name for modality, name in flags.items() if modality not in fields}
    for name in archive.headers:
        if name not in fields | flags.keys() | set(flags.values()):
            expected = f"a field, or a modality and its flags {name}_present"
            raise TableError(f"{path}: the array {name} means nothing, expected {expected}")
    of_clips = NpzTable(archive, clips | {name: name for name in flags}, list(flags), flags)
    return NpzTable(archive, faces, ["embedding", "box"]), of_clips


def _kind(kind: pa.DataType) -> str:
    """What a type means here; the type's own name for one that means nothing."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return TEXT
    if pa.types.is_integer(kind):
        return INTEGER
    if pa.types.is_floating(kind):
        return NUMBER
    if pa.types.is_boolean(kind):
        return BOOLEAN
    if pa.types.is_null(kind):
        return NOTHING
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return VECTOR
    return str(kind)


def _expect(table: Table, column: str, *kinds: str) -> None:
    if column not in table.types:
        found = ", ".join(map(table.called, table.types)) or "no column"
        raise table.fault(column, f"is missing, found {found}, expected it with {' or '.join(kinds)}")
    if (kind := _kind(table.types[column])) not in kinds:
        raise table.fault(column, f"holds {kind}, expected {' or '.join(kinds)}")


def _check_spelling(table: Table, known: Sequence[str]) -> None:
    """A column that may be left out would seem to be."""
    if pair := misspelt(table.types, known):
        column, meant = pair
        raise table.fault(repr(column), f"is all but spelt as {meant}, expected {meant} or another name")


def _text(table: Table, column: str, values: pa.ChunkedArray, missing: bool) -> pa.ChunkedArray:
    """A column of names as text. Numbers will do for names; empty text is no name."""
    values = _plain(values).cast(pa.string())
    there = pc.not_equal(values, "")
    wrong = pc.equal(there, False) if missing else pc.invert(pc.fill_null(there, False))
    if (row := pc.index(wrong, True).as_py()) >= 0:
        found = "nothing" if values[row].as_py() is None else "an empty text"
        raise table.fault(column, f"of row {row} is {found}, expected a name{' or nothing' if missing else ''}")
    return values


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _further(table: Table, taken: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns beside those ``taken``: kept as they are, if they are numbers, text or booleans of another name."""
    further = [column for column in table.types if column not in taken]
    for column in further:
        if column in names:
            raise table.fault(column, f"is a name of the ClipSet's own, expected another beside {', '.join(taken)}")
        _expect(table, column, *([] if column in NUMBERS else [TEXT, BOOLEAN]), INTEGER, NUMBER, NOTHING)
    return further


# --- clips -----------------------------------------------------------------------------------------------------------


def _clips(table: Table, say: Callable[[str], None]) -> tuple[pd.DataFrame, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The table of the clips as the ClipSet has it, and vectors (V, D_m) and presence (V,) of each modality."""
    fields = [column for column in CLIP_FIELDS if column != "group" or column in table.types]
    modalities = [column for column, kind in table.types.items() if column not in fields and _kind(kind) == VECTOR]
    _check_spelling(table, [*CLIP_FIELDS, *modalities])
    for column in fields:
        _expect(table, column, TEXT, INTEGER, *([] if column == "clip" else [NOTHING]))
    further = _further(table, [*fields, *modalities], list(CLIP_FIELDS.values()))
    if not table.rows:
        raise table.fault("clip", "has no row, expected a row a clip")

    read = table.read([*fields, *further])
    texts = {column: _text(table, column, read[column], missing=column != "clip") for column in fields}
    wrong = pc.invert(pc.fill_null(pc.is_in(texts["split"], pa.array(SPLITS)), False))
    wrong = pc.and_(wrong, texts["split"].is_valid())
    if (row := pc.index(wrong, True).as_py()) >= 0:
        found = f"{texts['split'][row].as_py()!r} (clip {texts['clip'][row].as_py()!r})"
        raise table.fault("split", f"of row {row} is {found}, expected one of {', '.join(SPLITS)}, or nothing")
    rows = pd.DataFrame({name: texts[column].to_pandas() for column, name in CLIP_FIELDS.items() if column in texts})
    if "group" not in rows:
        rows["group"] = pd.Series(None, index=rows.index, dtype="str")
    if (twice := rows["name"].duplicated()).any():
        raise table.fault("clip", f"of row {twice.argmax()} is {rows['name'][twice.argmax()]!r} again, expected once")
    for column in ("label", "group"):
        for sentence in doubts(rows[CLIP_FIELDS[column]].dropna(), f"{table.path}: {table.called(column)}"):
            say(sentence)
    for column in further:
        rows[column] = _plain(read[column]).to_pandas()

    vectors = {}
    for column in modalities:
        if not column.isidentifier() or column in ("faces", "offsets"):
            raise table.fault(repr(column), "is no name of a modality, expected a word other than faces and offsets")
        vectors[column] = _vectors(table, column, np.arange(len(rows)), of=rows["name"].to_numpy(), missing=True)
    return rows, vectors


# --- faces -----------------------------------------------------------------------------------------------------------


def _face_columns(table: Table, names: pd.Series) -> tuple[Int[np.ndarray, " F"], pd.DataFrame]:
    """The clip of each face as a position in ``names``, and what is told of it, in the order of the file."""
    _check_spelling(table, [*FACE_FIELDS, "box", *NUMBERS])
    for column, kinds in (("clip", (TEXT, INTEGER)), ("frame", (INTEGER,)), ("embedding", (VECTOR,))):
        _expect(table, column, *kinds)
    fields = list(FACE_FIELDS)
    if "box" in table.types:
        _expect(table, "box", VECTOR)
        fields.append("box")
    if (corners := [column for column in CORNERS if column in table.types]) and len(corners) < len(CORNERS):
        missing = next(column for column in CORNERS if column not in corners)
        found, expected = ", ".join(corners), f"all of {', '.join(CORNERS)} or none"
        raise table.fault(missing, f"is missing, found {found}, expected {expected}")
    renamed = [*(CORNERS if "box" in fields else ()), *(["det_score"] if "score" in table.types else [])]
    further = _further(table, fields, renamed)

    read = table.read([column for column in fields if column != "embedding"] + further)
    named = _text(table, "clip", read["clip"], missing=False)
    clip = pc.index_in(named, value_set=pa.array(names, type=pa.string()))
    if clip.null_count:
        row = pc.index(clip.is_null(), True).as_py()
        raise table.fault("clip", f"of row {row} is {named[row].as_py()!r}, expected one of the {len(names)} clips")
    if read["frame"].null_count:
        row = pc.index(read["frame"].is_null(), True).as_py()
        raise table.fault("frame", f"of row {row} (clip {named[row].as_py()!r}) is missing, expected an integer")
    columns = pd.DataFrame({"frame": _plain(read["frame"]).to_pandas()})
    whose = names.to_numpy()[clip.to_numpy()]
    if "box" in fields:
        columns[list(CORNERS)] = _boxes(table, read["box"], whose)
    for column in further:
        columns["det_score" if column == "score" else column] = _plain(read[column]).to_pandas()
        if _kind(read[column].type) == NUMBER:
            infinite = pc.is_inf(pc.cast(read[column], pa.float64()))
            if (row := pc.index(infinite, True).as_py()) >= 0:
                where = f"of row {row} (clip {whose[row]!r})"
                raise table.fault(column, f"{where} is infinite, expected a number or nothing")
    if "x1" in columns:
        _check_boxes(table, columns[list(CORNERS)].to_numpy(np.float64, na_value=np.nan), whose)
    return clip.to_numpy(), columns


def _boxes(table: Table, boxes: pa.ChunkedArray, whose: np.ndarray) -> np.ndarray:
    lengths = pc.list_value_length(boxes)
    if (row := pc.index(pc.not_equal(lengths, len(CORNERS)), True).as_py()) >= 0:
        found = f"{lengths[row].as_py()} numbers long"
        raise table.fault("box", f"of row {row} (clip {whose[row]!r}) is {found}, expected x1, y1, x2, y2")
    corners = np.full((len(boxes), len(CORNERS)), np.nan)
    values = pc.list_flatten(boxes).to_numpy().astype(np.float64)
    corners[boxes.is_valid().to_numpy()] = values.reshape(-1, len(CORNERS))
    return corners


def _check_boxes(table: Table, corners: np.ndarray, whose: np.ndarray) -> None:
    """A box is missing as a whole or not at all, finite, and its corners are in order."""
    missing = np.isnan(corners)
    right = missing.all(axis=1)
    with np.errstate(invalid="ignore"):
        right |= np.isfinite(corners).all(axis=1) & (corners[:, :2] <= corners[:, 2:]).all(axis=1)
    if not right.all():
        row = int(right.argmin())
        found = f"({', '.join(f'{value:g}' for value in corners[row])}) for {', '.join(CORNERS)}"
        column = "box" if "box" in table.types else "x1"
        raise table.fault(column, f"of row {row} (clip {whose[row]!r}) is {found}, expected x1 ≤ x2 and y1 ≤ y2")


# --- vectors ---------------------------------------------------------------------------------------------------------


def _vectors(
    table: Table, column: str, place: Int[np.ndarray, " n"], *, of: np.ndarray, missing: bool = False
) -> tuple[Float16[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
    """A column of n vectors, row r of the file at ``place[r]``, and which are there; ``of`` names the clip of each."""
    kind = table.types[column]
    dim = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    vectors, present, start = None, np.zeros(len(place), dtype=bool), 0

    def fault(where: int | np.integer, found: str, expected: str) -> TableError:
        row = start + int(where)
        return table.fault(column, f"of row {row} (clip {of[row]!r}) {found}, expected {expected}")

    with progress(f"reading {column}", len(place)) as bar:
        for piece in table.pieces(column):
            there = piece.is_valid().to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(there)
            if not missing and not there.all():
                raise fault(there.argmin(), "is missing", "a list of numbers")
            lengths = pc.list_value_length(piece).drop_null().to_numpy()
            if dim is None and len(lengths):
                dim = int(lengths[0])
            if dim == 0 and len(rows):
                raise fault(rows[0], "is an empty list", "one number or more")
            if (lengths != dim).any():
                wrong = (lengths != dim).argmax()
                raise fault(rows[wrong], f"is {lengths[wrong]} numbers long", f"{dim} as in the rows before")
            values = piece.flatten()
            if len(rows):
                if values.null_count:
                    hole = values.is_null().to_numpy(zero_copy_only=False).argmax()
                    found = f"has nothing or NaN at place {hole % dim}"  # pandas writes nothing for NaN
                    raise fault(rows[hole // dim], found, "a number")
                full = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
                with np.errstate(over="ignore"):
                    half = full.astype(np.float16)
                if not (good := held(torch.from_numpy(half), full).numpy()).all():
                    wrong = good.argmin()
                    number = np.abs(full[wrong]).argmax()  # NaN where there is one
                    found = f"holds {full[wrong, number]:g} at place {number}"
                    raise fault(rows[wrong], f"{found}, its largest number", HELD)
                if vectors is None:
                    vectors = np.zeros((len(place), dim), dtype=np.float16)
                vectors[place[start + rows]] = half
                present[place[start + rows]] = True
            start += len(piece)
            bar.to(start)
    if not dim:
        raise table.fault(column, "has no vector, so nothing tells how long one is, expected a list of a fixed size")
    return np.zeros((len(place), dim), dtype=np.float16) if vectors is None else vectors, present


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
