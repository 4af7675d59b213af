"""Imports a user's own features: two tables, in Parquet or in an ``.npz``, become a ClipSet.

``data/README.md`` describes the tables. Nothing is guessed and nothing is left out: a value that does not fit stops the
import with one sentence. Vectors in Parquet are read piece by piece, so that tables of millions of faces need little
more memory than the ClipSet itself.
"""

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
from pyarrow import types as kinds

from famf_lib.data import datasets, imported, npz
from famf_lib.data.clipset import HELD, SPLITS, ClipSet, held, sha256
from famf_lib.data.doubtful_names import doubts, misspelt, simplified
from famf_lib.data.table_files import NpzTable, ParquetTable, Table, TableError
from famf_lib.support.progress import progress
from famf_lib.support.wording import listed, plain

FACES, CLIPS, NPZ = "faces.parquet", "clips.parquet", "features.npz"
FACE_FIELDS = ("clip", "frame", "embedding")
CLIP_FIELDS = {"clip": "name", "label": "person", "split": "split", "group": "group"}
"""The columns of the clips and their names in the ClipSet."""
OPTIONAL = ("split", "group")
OTHERS = {
    "clip": ("clip_id", "name", "video", "track", "file"),
    "label": ("person", "identity", "id", "person_id", "name", "subject", "class"),
    "frame": ("frame_id", "index", "time"),
    "embedding": ("vector", "feature", "features", "face", "embeddings"),
}
"""What others call the columns that are required."""

CORNERS = ("x1", "y1", "x2", "y2")
NUMBERS = (*CORNERS, "score", "det_score", "quality", "size", "blur", "darkness", "yaw")  # as ``traits`` needs them
NPZ_FACES = {"clip": "face_clip", "embedding": "faces"} | {name: name for name in ("frame", "box", "score", "quality")}
"""Columns of the faces and the names of their arrays in an ``.npz``."""

# Kinds of columns, as the error messages name them.
TEXT, INTEGER, NUMBER = "text", "integers", "numbers"
BOOLEAN, VECTOR, NOTHING = "booleans", "lists of numbers", "nothing"
KINDS = {
    TEXT: (kinds.is_string, kinds.is_large_string, kinds.is_string_view),
    INTEGER: (kinds.is_integer,),
    NUMBER: (kinds.is_floating,),
    BOOLEAN: (kinds.is_boolean,),
    NOTHING: (kinds.is_null,),
}


def import_tables(
    source: Path, name: str = "", *, replacing: bool = False, say: Callable[[str], None] = warnings.warn
) -> ClipSet:
    """Imports a folder of tables, or an ``.npz``, as a dataset of that name.

    Args:
        source: a folder with faces.parquet and clips.parquet, or with features.npz; or an .npz file.
        name: by default the name of the folder or file.
        replacing: replaces an earlier import of that name once the new one is complete.
        say: receives warnings about names of persons and groups that may be mistakes.

    Raises:
        ValueError: the name is taken or not allowed, or the tables cannot be used. An earlier import stays as it was.
    """
    source = Path(source)
    name = name or (source.resolve().stem if source.is_file() else source.resolve().name)
    with datasets.importing(name, replacing) as place:
        clipset = build(source, say)
        replace(clipset, info={"dataset": name} | clipset.info).save(place)
        return imported.open(name)


def build(source: Path, say: Callable[[str], None] = warnings.warn) -> ClipSet:
    """Builds the ClipSet of a folder of tables, or of an ``.npz``. See ``import_tables`` for ``say``.

    Raises:
        TableError: one sentence with the file, the column, what was found and what was expected.
    """
    files = _files(Path(source))
    if len(files) == 2:
        faces, clips = ParquetTable(files[0], joined="embedding"), ParquetTable(files[1])
    else:
        faces, clips = _npz_tables(files[0])
    rows, modalities = _clips(clips, say)
    clip, columns = _face_columns(faces, rows["name"])
    order = np.lexsort((columns["frame"].to_numpy(), clip))  # stable: faces of one frame keep their order
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    vectors, _ = _vectors(faces, "embedding", place, rows["name"].to_numpy()[clip])
    return ClipSet.build(
        vectors,
        np.bincount(clip, minlength=len(rows)),
        rows,
        face_table=columns.iloc[order],
        modalities=modalities,
        info={"tables": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}},
    )


# --- files and columns -----------------------------------------------------------------------------------------------


def _files(source: Path) -> list[Path]:
    """The two Parquet files, or the one .npz."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise TableError(f"{source}: there is no such folder, expected one with {FACES} and {CLIPS}, or with {NPZ}")
    present = [name for name in (FACES, CLIPS, NPZ) if (source / name).is_file()]
    if present not in ([FACES, CLIPS], [NPZ]):
        found = " and ".join(present) or "none of them"
        raise TableError(f"{source}: {found} found, expected {FACES} and {CLIPS}, or {NPZ} alone")
    return [source / name for name in present]


def _npz_tables(path: Path) -> tuple[Table, Table]:
    arrays = npz.read(path, TableError)
    faces = {column: name for column, name in NPZ_FACES.items() if name in arrays or column in FACE_FIELDS}
    clips = {column: column for column in CLIP_FIELDS if column in arrays or column not in OPTIONAL}
    fields = {*faces.values(), *clips}
    flags = {name.removesuffix("_present"): name for name in arrays if name.endswith("_present")}
    flags = {modality: name for modality, name in flags.items() if modality not in fields}
    if unknown := [name for name in arrays if name not in {*fields, *flags, *flags.values()}]:
        expected = f"a field, or a modality and its flags {unknown[0]}_present"
        raise TableError(plain(f"{path}: the array {unknown[0]} has no meaning, expected {expected}"))
    of_clips = NpzTable(path, arrays, clips | {name: name for name in flags}, list(flags), flags)
    return NpzTable(path, arrays, faces, ("embedding", "box")), of_clips


def _kind(kind: pa.DataType) -> str:
    """The kind of an Arrow type; the type's own name if it is none of the kinds."""
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return VECTOR if _kind(kind.value_type) in (NUMBER, INTEGER) else str(kind)
    return next((name for name, tests in KINDS.items() if any(test(kind) for test in tests)), str(kind))


def _expect(table: Table, column: str, *expected: str) -> None:
    if column not in table.types:
        found = listed(map(table.called, table.types))
        other = next((name for name in table.types if simplified(name) in OTHERS.get(column, ())), None)
        meant = f"; did you mean {other}? Rename it to {column}" if other else ""
        raise table.fault(column, f"is missing, found {found}, expected it with {' or '.join(expected)}{meant}")
    if (kind := _kind(table.types[column])) not in expected:
        raise table.fault(column, f"holds {kind}, expected {' or '.join(expected)}")


def _check_spelling(table: Table, known: Sequence[str]) -> None:
    """Refuses columns that are nearly called like an optional one, which would then seem to be missing."""
    if pair := misspelt(table.types, known):
        column, name = pair
        raise table.fault(repr(column), f"is almost spelled like {name}, expected {name} or another name")


def _first(mask: pa.ChunkedArray) -> int:
    """The first row that is true, -1 if there is none."""
    return pc.index(mask, True).as_py()


def _text(table: Table, column: str, values: pa.ChunkedArray, missing: bool) -> pa.ChunkedArray:
    """A column of names as text, from text or integers. ``missing``: whether a name may be missing."""
    values = _plain(values).cast(pa.string())
    named = pc.not_equal(values, "")
    if (row := _first(pc.equal(named, False) if missing else pc.invert(pc.fill_null(named, False)))) >= 0:
        found = "nothing" if values[row].as_py() is None else "an empty text"
        raise table.fault(column, f"of row {row} is {found}, expected a name{' or nothing' if missing else ''}")
    return values


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(values.type.value_type) if kinds.is_dictionary(values.type) else values


def _further(table: Table, taken: Sequence[str], reserved: Sequence[str]) -> list[str]:
    """The columns other than ``taken``, which are kept as they are: numbers, text or booleans."""
    further = [column for column in table.types if column not in taken]
    for column in further:
        if column in reserved:
            raise table.fault(column, f"is a name that the ClipSet uses, expected another besides {', '.join(taken)}")
        _expect(table, column, *([] if column in NUMBERS else [TEXT, BOOLEAN]), INTEGER, NUMBER, NOTHING)
    return further


# --- clips -----------------------------------------------------------------------------------------------------------


def _clips(table: Table, say: Callable[[str], None]) -> tuple[pd.DataFrame, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The clip table of the ClipSet, and vectors (V, D_m) and presence (V,) of each modality."""
    fields = [column for column in CLIP_FIELDS if column not in OPTIONAL or column in table.types]
    modalities = [column for column, kind in table.types.items() if column not in fields and _kind(kind) == VECTOR]
    _check_spelling(table, [*CLIP_FIELDS, *modalities])
    for column in fields:
        _expect(table, column, TEXT, INTEGER, *([] if column == "clip" else [NOTHING]))
    further = _further(table, [*fields, *modalities], list(CLIP_FIELDS.values()))
    if not table.rows:
        raise table.fault("clip", "has no row, expected one row per clip")

    read = table.read([*fields, *further])
    texts = {column: _text(table, column, read[column], missing=column != "clip") for column in fields}
    if "split" in texts:
        known = pc.fill_null(pc.is_in(texts["split"], pa.array(SPLITS)), False)
        if (row := _first(pc.and_(pc.invert(known), texts["split"].is_valid()))) >= 0:
            found = f"{texts['split'][row].as_py()!r} (clip {texts['clip'][row].as_py()!r})"
            raise table.fault("split", f"of row {row} is {found}, expected one of {', '.join(SPLITS)}, or nothing")
    else:
        say(f"{table.path}: no split found, so every seed splits the clips anew (data/README.md says how)")
    rows = pd.DataFrame({name: texts[column].to_pandas() for column, name in CLIP_FIELDS.items() if column in texts})
    for column in OPTIONAL:
        if column not in rows:
            rows[column] = pd.Series(None, index=rows.index, dtype="str")
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
            raise table.fault(repr(column), "cannot name a modality, expected a word other than faces and offsets")
        vectors[column] = _vectors(table, column, np.arange(len(rows)), rows["name"].to_numpy(), missing=True)
    return rows, vectors


# --- faces -----------------------------------------------------------------------------------------------------------


def _face_columns(table: Table, names: pd.Series) -> tuple[Int[np.ndarray, " F"], pd.DataFrame]:
    """The clip of each face as a position in ``names``, and the face columns, in the order of the file."""
    _check_spelling(table, [*FACE_FIELDS, "box", *NUMBERS])
    fields = {"clip": (TEXT, INTEGER), "frame": (INTEGER,), "embedding": (VECTOR,)}
    fields |= {"box": (VECTOR,)} if "box" in table.types else {}
    for column, expected in fields.items():
        _expect(table, column, *expected)
    if (corners := [column for column in CORNERS if column in table.types]) and len(corners) < len(CORNERS):
        missing = next(column for column in CORNERS if column not in corners)
        found, complete = ", ".join(corners), f"all of {', '.join(CORNERS)} or none"
        raise table.fault(missing, f"is missing, found {found}, expected {complete}")
    renamed = [*(CORNERS if "box" in fields else ()), *(["det_score"] if "score" in table.types else [])]
    further = _further(table, list(fields), renamed)

    read = table.read([column for column in fields if column != "embedding"] + further)
    named = _text(table, "clip", read["clip"], missing=False)
    clip = pc.index_in(named, value_set=pa.array(names, type=pa.string()))
    if (row := _first(clip.is_null())) >= 0:
        raise table.fault("clip", f"of row {row} is {named[row].as_py()!r}, expected one of the {len(names)} clips")
    if (row := _first(read["frame"].is_null())) >= 0:
        raise table.fault("frame", f"of row {row} (clip {named[row].as_py()!r}) is missing, expected an integer")
    columns = pd.DataFrame({"frame": _plain(read["frame"]).to_pandas()})

    def check(row: int, column: str, text: str) -> None:
        if row >= 0:
            raise table.fault(column, f"of row {row} (clip {named[row].as_py()!r}) is {text}")

    if "box" in fields:
        lengths = pc.list_value_length(read["box"])
        wrong = _first(pc.not_equal(lengths, len(CORNERS)))
        check(
            wrong, "box", f"{lengths[wrong].as_py()} numbers long, expected {', '.join(CORNERS)}" if wrong >= 0 else ""
        )
        columns[list(CORNERS)] = np.nan
        values = pc.list_flatten(read["box"]).to_numpy().astype(np.float64).reshape(-1, len(CORNERS))
        columns.loc[read["box"].is_valid().to_numpy(), list(CORNERS)] = values
    for column in further:
        columns["det_score" if column == "score" else column] = _plain(read[column]).to_pandas()
        if _kind(read[column].type) == NUMBER:
            infinite = pc.is_inf(pc.cast(read[column], pa.float64()))
            check(_first(infinite), column, "infinite, expected a number or nothing")
    if "x1" in columns:  # a box is missing as a whole or not at all, finite, and its corners are in order
        box = columns[list(CORNERS)].to_numpy(np.float64, na_value=np.nan)
        with np.errstate(invalid="ignore"):
            right = np.isfinite(box).all(axis=1) & (box[:, :2] <= box[:, 2:]).all(axis=1) | np.isnan(box).all(axis=1)
        if not right.all():
            found = f"({', '.join(f'{value:g}' for value in box[right.argmin()])}) for {', '.join(CORNERS)}"
            column = "box" if "box" in fields else "x1"
            check(int(right.argmin()), column, f"{found}, expected x1 ≤ x2 and y1 ≤ y2")
    return clip.to_numpy(), columns


# --- vectors ---------------------------------------------------------------------------------------------------------


def _vectors(
    table: Table, column: str, place: Int[np.ndarray, " n"], clips: np.ndarray, *, missing: bool = False
) -> tuple[Float16[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
    """A column of n vectors and which of them are present; row r of the file goes to ``place[r]``.

    ``clips`` holds the name of the clip of each row; ``missing`` says whether a vector may be missing.
    """
    kind = table.types[column]
    dim = kind.list_size if kinds.is_fixed_size_list(kind) else None
    vectors, present, start = None, np.zeros(len(place), dtype=bool), 0

    def fault(row: int | np.integer, found: str, expected: str) -> TableError:
        row = start + int(row)
        return table.fault(column, f"of row {row} (clip {clips[row]!r}) {found}, expected {expected}")

    with progress(f"reading {column}", len(place)) as bar:
        for piece in table.pieces(column):
            valid = piece.is_valid().to_numpy(zero_copy_only=False)
            if not missing and not valid.all():
                raise fault(valid.argmin(), "is missing", "a list of numbers")
            rows, values = np.flatnonzero(valid), piece.flatten()
            lengths = pc.list_value_length(piece).drop_null().to_numpy()
            if dim is None and len(lengths):
                dim = int(lengths[0])
            if dim == 0 and len(rows):
                raise fault(rows[0], "is an empty list", "one number or more")
            if (wrong := lengths != dim).any():
                raise fault(rows[wrong.argmax()], f"is {lengths[wrong.argmax()]} numbers long", f"{dim} as before")
            if values.null_count:
                hole = values.is_null().to_numpy(zero_copy_only=False).argmax()
                found = f"has nothing or NaN at place {hole % dim}"  # pandas writes nothing for NaN
                raise fault(rows[hole // dim], found, "a number")
            if len(rows):
                full = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
                with np.errstate(over="ignore"):
                    half = full.astype(np.float16)
                if not (good := held(torch.from_numpy(half), full).numpy()).all():
                    wrong = full[good.argmin()]
                    number = np.abs(wrong).argmax()  # NaN if there is one
                    raise fault(
                        rows[good.argmin()], f"holds {wrong[number]:g} at place {number}, its largest number", HELD
                    )
                if vectors is None:
                    vectors = np.zeros((len(place), dim), dtype=np.float16)
                vectors[place[start + rows]] = half
                present[place[start + rows]] = True
            start += len(piece)
            bar.to(start)
    if not dim:
        raise table.fault(column, "has no vector and so no length of vectors, expected lists of a fixed size")
    return np.zeros((len(place), dim), dtype=np.float16) if vectors is None else vectors, present
