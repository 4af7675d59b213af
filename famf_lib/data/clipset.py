"""ClipSet: the features of a set of clips with any number of faces each, in memory or on disk.

On disk a ClipSet is a folder of files that can be read without running code from them::

    arrays.safetensors   faces (F, D) float16 · offsets (V + 1,) int64 · for each clip-level modality m:
                         m (V, D_m) float16 and m.present (V,) bool
    faces.parquet        one row per face, in the order of `faces`
    clips.parquet        one row per clip: name, person, split, group, and whatever the source adds
    SHA256SUMS           checksums of these three, in the format of sha256sum

The arrays are memory-mapped: opening a ClipSet takes milliseconds and copies nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float16, Int64, Shaped
from safetensors import safe_open
from torch import Tensor

from famf_lib.support.files import written_whole

FORMAT = "famf-clipset-1"
CLIP_COLUMNS = ("name", "person", "split", "group")
SPLITS = ("train", "val", "test")
FILES = ("arrays.safetensors", "faces.parquet", "clips.parquet")
CHECKSUMS = "SHA256SUMS"
PIECE = 1024  # vectors processed at once: they fit into the cache
STEPS = 64  # of 2**-24, the smallest float16 number: below this, rounding changes a number by 1 % or more
HELD = f"numbers within ±65504, the largest of a vector {STEPS / 2**24:.1e} or more, or all 0, as float16 holds them"
DTYPES = {torch.float16: "F16", torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}


class ClipSetError(ValueError):
    """A ClipSet that contradicts itself, or a folder that does not hold one."""


@dataclass(frozen=True)
class Modality:
    """One vector per clip, and whether the clip has it. The rows of absent vectors are never used."""

    vectors: Float16[Tensor, "V Dm"]
    present: Bool[Tensor, " _"]  # (V,), which ClipSet checks itself


@dataclass(frozen=True, eq=False)
class ClipSet:
    """The features of V clips with F faces in all.

    ``faces[offsets[v]:offsets[v + 1]]`` are the faces of clip v, in the order of their frames. ``clips`` has one row
    per clip with at least the columns ``name`` (unique), ``person`` (its identity; missing for a *noise clip*, which
    shows none of the persons), ``split`` (``train``, ``val``, ``test``, or missing if the source defines none) and
    ``group`` (the film or programme of the clip, or missing).
    """

    faces: Float16[Tensor, "F D"]
    offsets: Int64[Tensor, " V_plus_1"]
    modalities: dict[str, Modality]
    clips: pd.DataFrame
    face_table: pd.DataFrame | Path = field(repr=False)
    info: dict = field(default_factory=dict)
    fingerprint: str = ""

    @classmethod
    def build(
        cls,
        faces: np.ndarray | Tensor,
        counts: np.ndarray,
        clips: pd.DataFrame,
        *,
        face_table: pd.DataFrame,
        modalities: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
        info: dict | None = None,
    ) -> "ClipSet":
        """Builds and checks a ClipSet from faces (F, D), faces per clip (V,), and vectors (V, D_m), present (V,).

        Raises:
            ClipSetError: one sentence with the field, what was found and what was expected.
        """
        built = cls(
            faces=_half(_matrix(faces, "faces"), "faces"),
            offsets=_offsets(counts),
            modalities={name: _modality(name, *given) for name, given in (modalities or {}).items()},
            clips=clips.reset_index(drop=True),
            face_table=face_table.reset_index(drop=True),
            info=dict(info or {}),
        )
        built._check()
        return replace(built, fingerprint=content_fingerprint(built))

    @classmethod
    def open(cls, folder: Path) -> "ClipSet":
        """Opens the folder that ``save`` wrote, by memory map.

        Raises:
            ClipSetError: the folder is no ClipSet, or its files do not match.
        """
        folder = Path(folder)
        try:
            arrays = safe_open(folder / "arrays.safetensors", framework="pt")
            metadata = arrays.metadata() or {}
            clips = pd.read_parquet(folder / "clips.parquet")
            face_rows = pq.read_metadata(folder / "faces.parquet").num_rows
        except Exception as error:
            raise ClipSetError(f"{folder}: no ClipSet can be opened here ({error})") from error
        if metadata.get("format") != FORMAT:
            raise ClipSetError(f"{folder}: the format is {metadata.get('format')!r}, expected {FORMAT!r}")
        modalities = [name for name in json.loads(metadata["modalities"]) if name in set(arrays.keys())]
        opened = cls(
            faces=arrays.get_tensor("faces"),
            offsets=arrays.get_tensor("offsets"),
            modalities={n: Modality(arrays.get_tensor(n), arrays.get_tensor(f"{n}.present")) for n in modalities},
            clips=clips,
            face_table=folder / "faces.parquet",
            info=json.loads(metadata["info"]),
            fingerprint=metadata["fingerprint"],
        )
        found = {"clips": (len(clips), len(opened)), "faces": (face_rows, len(opened.faces))}
        for what, (rows, expected) in found.items():
            if rows != expected:
                raise ClipSetError(f"{folder}/{what}.parquet: {rows} rows, expected one for each of {expected} {what}")
        return opened

    def save(self, folder: Path) -> Path:
        """Writes the folder whole or not at all; an earlier one is replaced only when the new one is complete."""
        table, start = self.face_columns(), 0
        with writing(folder, self.dim, pa.Schema.from_pandas(table, preserve_index=False)) as out:
            for piece in self.faces.split(PIECE):
                out.add(piece.cpu(), table[start : start + len(piece)])
                start += len(piece)
            out.finish(self.counts.cpu().numpy(), self.clips, self.modalities, self.info)
        return Path(folder)

    def to(self, device: torch.device | str) -> "ClipSet":
        """Copies the arrays to a device."""
        modalities = {k: Modality(m.vectors.to(device), m.present.to(device)) for k, m in self.modalities.items()}
        return replace(self, faces=self.faces.to(device), offsets=self.offsets.to(device), modalities=modalities)

    def face_columns(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Reads the table of faces (F rows) from disk. Training never needs it."""
        if isinstance(self.face_table, pd.DataFrame):
            return self.face_table if columns is None else self.face_table[columns]
        return pq.read_table(self.face_table, columns=columns).to_pandas()

    @property
    def folder(self) -> Path | None:
        """The folder that the ClipSet was opened from, if any."""
        return self.face_table.parent if isinstance(self.face_table, Path) else None

    @cached_property
    def checksums(self) -> str:
        """The checksums of its files, "" without a folder. They cover face columns, which the fingerprint does not."""
        sums = self.folder / CHECKSUMS if self.folder else None
        return sums.read_text() if sums and sums.exists() else ""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """D, the length of a face vector."""
        return self.faces.shape[1]

    @cached_property
    def counts(self) -> Int64[Tensor, " V"]:
        """The number of faces of each clip."""
        return self.offsets.diff()

    @cached_property
    def persons(self) -> list[str]:
        """The names of all persons, sorted; ``labels`` are positions in this list."""
        return sorted(self.clips["person"].dropna().unique())

    @cached_property
    def labels(self) -> Int64[Tensor, " V"]:
        """The person of each clip as a position in ``persons``; -1 for a noise clip."""
        return torch.from_numpy(pd.Index(self.persons).get_indexer(self.clips["person"]))

    def _check(self) -> None:
        total, clips = len(self.faces), len(self)
        if int(self.offsets[-1]) != total:
            raise ClipSetError(f"counts: their sum is {int(self.offsets[-1])}, expected the {total} rows of faces")
        if len(self.clips) != clips:
            raise ClipSetError(f"clips: {len(self.clips)} rows, expected one for each of {clips} clips")
        if len(self.face_table) != total:
            raise ClipSetError(f"face_table: {len(self.face_table)} rows, expected one for each of {total} faces")
        if missing := [c for c in CLIP_COLUMNS if c not in self.clips]:
            raise ClipSetError(f"clips: column {missing[0]!r} is missing, expected {', '.join(CLIP_COLUMNS)}")
        if (twice := self.clips["name"].duplicated()).any():
            raise ClipSetError(f"clips: the name {self.clips['name'][twice.argmax()]!r} occurs twice, expected once")
        if wrong := sorted(set(self.clips["split"].dropna().unique()) - set(SPLITS)):
            raise ClipSetError(f"clips: the split {wrong[0]!r} is not known, expected one of {', '.join(SPLITS)}")
        for name, modality in self.modalities.items():
            if len(modality.vectors) != clips or len(modality.present) != clips:
                found = f"{len(modality.vectors)} vectors and {len(modality.present)} presence flags"
                raise ClipSetError(f"{name}: {found}, expected one of each for {clips} clips")
            _check_held(modality.vectors.masked_fill(~modality.present[:, None], 0.0), name)


def _offsets(counts: np.ndarray) -> Int64[Tensor, " V_plus_1"]:
    counts = np.asarray(counts, dtype=np.int64)
    if (counts < 0).any():
        raise ClipSetError(f"counts: clip {int(np.argmax(counts < 0))} has {counts.min()}, expected 0 or more")
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))


def _matrix(array: np.ndarray | Tensor, name: str) -> Shaped[Tensor, "_ _"]:
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements="CW"))
    if tensor.ndim != 2:
        raise ClipSetError(f"{name}: an array of {tensor.ndim} dimensions, expected 2 (one row per vector)")
    return tensor


def _half(vectors: Shaped[Tensor, "n d"], name: str, start: int = 0) -> Float16[Tensor, "n d"]:
    half = vectors.to(torch.float16)
    _check_held(half, name, start, vectors)
    return half


def _modality(name: str, vectors: np.ndarray | Tensor, present: np.ndarray) -> Modality:
    if not name.isidentifier() or name in ("faces", "offsets"):
        raise ClipSetError(f"modalities: the name {name!r}, expected a word other than faces and offsets")
    flags, given = torch.from_numpy(np.array(present, dtype=bool)), _matrix(vectors, name)
    if len(given) == len(flags):  # otherwise _check refuses them
        given = given.masked_fill(~flags[:, None], 0)  # absent vectors change nothing, not even the fingerprint
    return Modality(_half(given, name), flags)


def held(half: Float16[Tensor, "n d"], given: Tensor | np.ndarray | None = None) -> Bool[Tensor, " n"]:
    """Tells which vectors float16 can hold: all numbers finite, and the largest not lost in rounding, or all 0.

    Without the sign bit, float16 numbers keep their order when read as integers: infinity and NaN are the largest, and
    subnormal numbers count steps of 2**-24. So one maximum per vector decides, three times as fast as a look at each.

    Args:
        given: (n, d), the vectors before rounding, which distinguish 0 from numbers that were rounded to 0.
    """
    if half.numel() == 0:
        return half.new_ones(len(half), dtype=torch.bool)
    largest = torch.cat([piece.abs().view(torch.int16).amax(dim=1) for piece in half.split(PIECE)])
    good = (largest >= STEPS) & (largest < 0x7C00)
    small = (largest < STEPS).nonzero()[:, 0]
    before = half if given is None else given
    good[small] = torch.as_tensor(before[small.numpy() if isinstance(before, np.ndarray) else small] == 0).all(dim=1)
    return good


def _check_held(half: Float16[Tensor, "n d"], name: str, start: int = 0, given: Tensor | None = None) -> None:
    """Refuses vectors that float16 cannot hold. ``start`` is the number of the first row."""
    if not (good := held(half, given)).all():
        row = int(good.logical_not().nonzero()[0])
        found = (half if given is None else given)[row].abs().max()  # NaN if there is one
        raise ClipSetError(f"{name}: row {start + row} has {found:.3g} as its largest number, expected {HELD}")


def content_fingerprint(clipset: ClipSet, faces: Iterable[bytes] | None = None) -> str:
    """Hashes what a result can depend on: arrays, names, persons, splits and groups. File encodings do not count.

    ``faces`` gives the bytes of the faces if they are not in memory.
    """
    digest = hashlib.sha256(FORMAT.encode())
    arrays = {"faces": clipset.faces, "offsets": clipset.offsets}
    for name in sorted(clipset.modalities):
        arrays[name], arrays[f"{name}.present"] = clipset.modalities[name].vectors, clipset.modalities[name].present
    for name, array in arrays.items():
        digest.update(f"{name}{tuple(array.shape)}".encode())
        for piece in faces if name == "faces" and faces is not None else [_bytes(array)]:
            digest.update(piece)
    for column in CLIP_COLUMNS:
        digest.update(json.dumps([None if pd.isna(v) else str(v) for v in clipset.clips[column]]).encode())
    return digest.hexdigest()[:16]


def _bytes(array: Tensor) -> np.ndarray:
    return array.cpu().flatten().view(torch.uint8).numpy()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path, dim: int, columns: pa.Schema) -> Iterator["Writer"]:
    """Writes a ClipSet piece by piece, so that its faces need not fit into memory.

    The folder appears whole when the block ends, and not at all if the block raises an error.

    Args:
        dim: D, the length of a face vector.
        columns: the schema of the table of faces.
    """
    with written_whole(folder) as new:
        new.mkdir()
        with (
            (new / "arrays.safetensors").open("w+b") as arrays,
            pq.ParquetWriter(new / "faces.parquet", columns) as table,
        ):
            yield (writer := Writer(arrays, table, dim))
            if not writer.finished:
                raise ClipSetError(f"{folder}: the clips of its faces are missing, expected a call of finish")
        writer.clips.to_parquet(new / FILES[2], index=False)
        (new / CHECKSUMS).write_text("".join(f"{sha256(new / name)}  {name}\n" for name in FILES))


class Writer:
    """Takes faces in the order of their clips, and then the clips. ``writing`` makes one.

    A safetensors file begins with a header that gives the place of every array, but the number of faces is known only
    after the last. So room is left for the header, and spaces, which the format allows, fill what is left of it.
    """

    HEADER = 1 << 16

    def __init__(self, arrays: BinaryIO, table: pq.ParquetWriter, dim: int):
        self.arrays, self.table, self.dim = arrays, table, dim
        self.faces, self.finished = 0, False
        arrays.seek(8 + self.HEADER)

    def add(self, faces: np.ndarray | Float16[Tensor, "n D"], rows: pd.DataFrame | pa.Table) -> None:
        """Adds n faces and their rows of the table.

        Raises:
            ClipSetError: a vector has another length or no row, or float16 cannot hold it.
        """
        given = _matrix(faces, "faces")
        if given.shape[1] != self.dim:
            raise ClipSetError(f"faces: {given.shape[1]} numbers in row {self.faces}, expected {self.dim}")
        if len(rows) != len(given):
            raise ClipSetError(f"face_table: {len(rows)} rows, expected one for each of {len(given)} faces")
        self.arrays.write(_bytes(_half(given, "faces", self.faces)))
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pandas(rows, self.table.schema, preserve_index=False)
        self.table.write_table(rows)
        self.faces += len(given)

    def finish(
        self, counts: np.ndarray, clips: pd.DataFrame, modalities: dict[str, Modality], info: dict | None = None
    ) -> str:
        """Adds the clips, as ``ClipSet.build`` takes them, and returns the fingerprint of the ClipSet.

        Raises:
            ClipSetError: as ``ClipSet.build`` does.
        """
        clipset = ClipSet(
            faces=torch.empty(1, dtype=torch.float16).expand(self.faces, self.dim),  # the numbers are in the file
            offsets=_offsets(counts),
            modalities=modalities,
            clips=clips.reset_index(drop=True),
            face_table=pd.DataFrame(index=pd.RangeIndex(self.faces)),
            info=dict(info or {}),
        )
        clipset._check()
        self.arrays.flush()
        size = 2 * self.faces * self.dim
        fingerprint = content_fingerprint(clipset, self._read(size))
        arrays = {name: m.vectors for name, m in modalities.items()}
        aligned = -(size + sum(2 * v.numel() for v in arrays.values())) % 8
        arrays |= {"_": torch.zeros(aligned, dtype=torch.uint8)} if aligned else {}  # int64 begins at a multiple of 8
        arrays |= {"offsets": clipset.offsets} | {f"{name}.present": m.present for name, m in modalities.items()}
        metadata = {"modalities": json.dumps(list(modalities)), "info": json.dumps(clipset.info)}
        header: dict[str, dict] = {
            "__metadata__": {"format": FORMAT, "fingerprint": fingerprint, **metadata},
            "faces": {"dtype": "F16", "shape": [self.faces, self.dim], "data_offsets": [0, size]},
        }
        self.arrays.seek(8 + self.HEADER + size)
        for name, array in arrays.items():
            end = size + self.arrays.write(_bytes(array))
            header[name] = {"dtype": DTYPES[array.dtype], "shape": list(array.shape), "data_offsets": [size, end]}
            size = end
        text = json.dumps(header).encode()
        if len(text) > self.HEADER:
            raise ClipSetError(f"info: {len(text):,} bytes with the names of arrays, expected {self.HEADER:,} at most")
        self.arrays.seek(0)
        self.arrays.write(self.HEADER.to_bytes(8, "little") + text.ljust(self.HEADER))
        self.clips, self.finished = clipset.clips, True
        return fingerprint

    def _read(self, size: int) -> Iterator[bytes]:
        """The bytes of the faces, from the file: a memory map would count as memory in use."""
        self.arrays.seek(8 + self.HEADER)
        while size > 0:
            size -= len(piece := self.arrays.read(min(size, 1 << 22)))
            yield piece
