"""Writes a ClipSet as the tables that ``tables`` reads; importing them gives the same fingerprint."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from famf_lib.data.clipset import ClipSet
from famf_lib.data.table_files import PIECE, TableError
from famf_lib.data.tables import CLIP_FIELDS, CLIPS, CORNERS, FACES, NPZ, NPZ_FACES
from famf_lib.support.files import written_whole
from famf_lib.support.progress import progress

ROW_GROUP = 8 * PIECE


def export(clipset: ClipSet, folder: Path, *, npz: bool = False) -> Path:
    """Writes the tables of a ClipSet into a new or empty folder, whole or not at all.

    Args:
        npz: writes features.npz instead of faces.parquet and clips.parquet, without columns that are no fields.

    Raises:
        TableError: the folder holds something, or the tables cannot express the ClipSet.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TableError(f"{folder}: it exists already, expected a new folder or an empty one")
    faces, clips = clipset.face_columns(), _clips(clipset, npz)
    clip = np.repeat(np.arange(len(clipset)), clipset.counts.numpy())
    _check_names(clipset, faces, npz)
    if "frame" not in faces or faces.empty:  # without frame numbers, number the faces of a clip in their order
        faces = faces.assign(frame=np.arange(len(faces)) - clipset.offsets.numpy()[clip])
    frame = faces["frame"]
    falls = (np.diff(frame.to_numpy(np.float64, na_value=np.nan)) < 0) & (clip[1:] == clip[:-1])
    if falls.any() or not pd.api.types.is_integer_dtype(frame):  # the importer orders faces by their frames
        row = int(falls.argmax()) + 1 if falls.any() else 0
        raise TableError(f"export: frame of face {row} is {frame[row]}, expected integers in order within a clip")
    with written_whole(folder) as new:
        new.mkdir()
        names = clips["clip"].to_numpy()[clip]
        (_write_npz if npz else _write_parquet)(clipset, clips, faces, names, new)
    return folder


def _clips(clipset: ClipSet, npz: bool) -> pd.DataFrame:
    """The fields of the clips as text, with their names in the tables."""
    clips = pd.DataFrame(
        {column: [None if pd.isna(v) else str(v) for v in clipset.clips[name]] for column, name in CLIP_FIELDS.items()},
        dtype="str",
    )
    for column, texts in clips.items():
        unfit = texts.eq("") | (npz & texts.str.endswith("\0"))  # NumPy drops zeros at the end of a text
        if unfit.any():
            found = f"{texts[unfit.argmax()]!r} for the {column} of clip {unfit.argmax()}"
            raise TableError(f"export: {found} found, expected a text that the tables do not take for a missing one")
    return clips


def _check_names(clipset: ClipSet, faces: pd.DataFrame, npz: bool) -> None:
    """Refuses columns and modalities whose name has another meaning in the tables."""
    of_clips, modalities = set(clipset.clips) - set(CLIP_FIELDS.values()), set(clipset.modalities)
    fields = set(CLIP_FIELDS) | (set(NPZ_FACES.values()) if npz else of_clips)
    flags = {f"{name}_present" for name in modalities} if npz else set()
    for what, names, taken in (
        ("face column", set(faces), {"clip", "embedding", "box", "score"}),
        ("clip column", of_clips, set(CLIP_FIELDS)),
        ("modality", modalities, fields | flags),
    ):
        if clash := sorted(names & taken):
            raise TableError(f"export: the {what} {clash[0]!r} has the name of a field of the tables, expected another")


def _write_parquet(clipset: ClipSet, clips: pd.DataFrame, faces: pd.DataFrame, names: np.ndarray, folder: Path) -> None:
    kept = clipset.clips.drop(columns=list(CLIP_FIELDS.values()))
    vectors = {name: (m.vectors.numpy(), m.present.numpy()) for name, m in clipset.modalities.items()}
    _write(folder / CLIPS, pd.concat([clips, kept], axis=1), vectors)
    faces = pd.concat([pd.Series(names, name="clip", dtype="str"), faces], axis=1)
    _write(folder / FACES, faces, {"embedding": (clipset.faces.numpy(), np.ones(len(faces), dtype=bool))})


def _write(path: Path, table: pd.DataFrame, vectors: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes a table and columns of vectors (n, d) with their presence (n,) to a Parquet file, piece by piece.

    Vectors are written in float32, because not every program reads float16.
    """
    columns = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    lists = [pa.field(name, pa.list_(pa.float32(), of.shape[1])) for name, (of, _) in vectors.items()]
    schema = pa.schema([*columns.schema, *lists])
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        with progress(f"writing {path.name}", len(table)) as bar:
            for start in range(0, len(table), ROW_GROUP):
                rows = slice(start, start + ROW_GROUP)
                arrays = [_lists(of[rows], present[rows]) for of, present in vectors.values()]
                scalars = columns.slice(start, ROW_GROUP).combine_chunks().columns
                writer.write_table(pa.table([*scalars, *arrays], schema=schema))
                bar.to(min(rows.stop, len(table)))


def _lists(vectors: np.ndarray, present: np.ndarray) -> pa.Array:
    values = pa.array(vectors.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~present))


def _write_npz(clipset: ClipSet, clips: pd.DataFrame, faces: pd.DataFrame, names: np.ndarray, folder: Path) -> None:
    with zipfile.ZipFile(folder / NPZ, "w", zipfile.ZIP_STORED) as archive:  # np.savez takes no array called "file"
        for name, array in _arrays(clipset, clips, faces, names):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _arrays(
    clipset: ClipSet, clips: pd.DataFrame, faces: pd.DataFrame, names: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    for column, texts in clips.items():
        yield str(column), texts.fillna("").to_numpy(str)
    for name, modality in clipset.modalities.items():
        yield name, modality.vectors.numpy()
        yield f"{name}_present", modality.present.numpy()
    yield "face_clip", names.astype(str)
    for column, name in (("frame", "frame"), ("det_score", "score"), ("quality", "quality")):
        if column in faces:
            yield name, faces[column].to_numpy()
    if set(CORNERS) <= set(faces):
        yield "box", faces[list(CORNERS)].to_numpy(np.float64, na_value=np.nan)
    yield "faces", clipset.faces.numpy()
