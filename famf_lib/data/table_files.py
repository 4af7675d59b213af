"""A table in a user's file, Parquet or ``.npz``: its columns and their types, read in pieces. Reading runs no code.

The two kinds of files look alike from here, so that ``tables`` has one rule for both: a column is an Arrow array, and a
column of vectors is one of lists.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from famf_lib.data import npz

PIECE = 8_192  # rows: 16 MB of vectors of 512 numbers in float32
BUFFER = 1 << 20  # bytes: a column is read through a buffer, since a row group can be as large as the file


class TableError(ValueError):
    """A table that cannot be used. The message names file and column, what was found and what was expected."""


class Table:
    """A table of ``rows`` rows in the file at ``path``; ``types`` has the type of each column."""

    path: Path
    rows: int
    types: dict[str, pa.DataType]

    def called(self, column: str) -> str:
        """What the file itself calls a column."""
        return column

    def fault(self, column: str, text: str) -> TableError:
        return TableError(f"{self.path}: {self.called(column)} {text}")

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns whole."""
        raise NotImplementedError

    def pieces(self, column: str) -> Iterator[pa.Array]:
        """One column, piece by piece: what is larger than memory should be is read this way."""
        raise NotImplementedError


class ParquetTable(Table):
    """The table that a Parquet file is.

    Raises:
        TableError: it is none, or a column stands in it twice.
    """

    def __init__(self, path: Path):
        self.path = path
        with _reading(path, "a Parquet file"):
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True)
            schema = self._file.schema_arrow
            self.rows = self._file.metadata.num_rows
        if twice := [name for name in schema.names if schema.names.count(name) > 1]:
            raise self.fault(repr(twice[0]), "stands twice among the columns, expected once")
        self.types = dict(zip(schema.names, schema.types, strict=True))

    def read(self, columns: Sequence[str]) -> pa.Table:
        with _reading(self.path, "a Parquet file"):
            table = self._file.read(list(columns)).select(list(columns)).replace_schema_metadata(None)
            table.validate(full=True)
            self._whole(len(table))
        return table

    def pieces(self, column: str) -> Iterator[pa.Array]:
        rows = 0
        with _reading(self.path, "a Parquet file"):
            for batch in self._file.iter_batches(PIECE, columns=[column]):
                piece = batch.column(column)
                piece.validate(full=True)
                yield piece
                rows += len(piece)
            self._whole(rows)

    def _whole(self, rows: int) -> None:
        if rows != self.rows:
            raise ValueError(f"{rows} rows in it, {self.rows} announced")


class NpzTable(Table):
    """One of the tables in an ``.npz`` file.

    Args:
        arrays: the name of the array of each column. The first says how many rows there are.
        vectors: the columns that hold a vector a row, arrays (n, D); the others are (n,).
        flags: the arrays that say, of a column of vectors, which rows have one; where there is none, all have.

    In an array of text, nothing between the quotes means a missing value: NumPy has no other sign for it.

    Raises:
        TableError: an array is missing, or has another shape or type than it should.
    """

    def __init__(
        self, archive: "Archive", arrays: dict[str, str], vectors: Sequence[str], flags: dict[str, str] | None = None
    ):
        self.path, self._archive, self._arrays, self._flags = archive.path, archive, arrays, flags or {}
        self.rows = (archive.header(next(iter(arrays.values()))).shape or (0,))[0]
        self.types = {}
        for column, name in arrays.items():
            kind = archive.typed(name, self.rows, "Ubiuf", is_2d=column in vectors)
            self.types[column] = pa.list_(kind, archive.header(name).shape[1]) if column in vectors else kind
        for name in self._flags.values():
            archive.typed(name, self.rows, "b", is_2d=False)

    def called(self, column: str) -> str:
        return self._arrays.get(column, column)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return pa.table({column: self._column(column) for column in columns})

    def _column(self, column: str) -> pa.Array:
        array = self._archive.array(self._arrays[column])
        with _reading(self.path, "an .npz file"):
            if array.ndim == 2:
                return _lists(array)
            if array.dtype.kind == "U":
                return pa.array(array, type=pa.string(), mask=array == "")
            return pa.array(_native(array))

    def pieces(self, column: str) -> Iterator[pa.Array]:
        there = self._archive.array(self._flags[column]) if column in self._flags else None
        start = 0
        for rows in self._archive.pieces(self._arrays[column]):
            yield _lists(rows, None if there is None else ~there[start : start + len(rows)])
            start += len(rows)


@dataclass(frozen=True)
class Header:
    """What stands before the numbers of an array."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype


class Archive:
    """An ``.npz`` file: the headers of its arrays, then the arrays themselves, by rows where they are large.

    Raises:
        TableError: it is none, or holds Python objects.
    """

    def __init__(self, path: Path):
        self.path = path
        self.headers: dict[str, Header] = {}
        with _reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if (name := member.removesuffix(".npy")) in self.headers:
                    raise TableError(f"{path}: the array {name} stands twice, expected once")
                with archive.open(member) as stream:
                    self.headers[name] = _header(stream)
        for name, header in self.headers.items():
            if header.dtype.hasobject:
                # Reading them could run code, so nothing here ever does.
                raise TableError(f"{path}: {name} holds Python objects, expected text, numbers or booleans")

    def header(self, name: str) -> Header:
        if name not in self.headers:
            found = ", ".join(self.headers) or "nothing"
            raise TableError(f"{self.path}: the array {name} is missing, found {found}, expected it as well")
        return self.headers[name]

    def typed(self, name: str, rows: int, kinds: str, *, is_2d: bool) -> pa.DataType:
        """The type of the numbers in an array that should have so many rows, and a dtype of one of those kinds."""
        shape, dtype = self.header(name).shape, self.header(name).dtype
        if len(shape) != 1 + is_2d or shape[0] != rows or 0 in shape[1:]:
            expected = f"({rows}, D)" if is_2d else f"({rows},)"
            raise TableError(f"{self.path}: the shape of {name} is {shape}, expected {expected}")
        if dtype.kind not in kinds or (dtype.kind == "f" and dtype.itemsize > 8):
            expected = "booleans" if kinds == "b" else "text, numbers or booleans"
            raise TableError(f"{self.path}: {name} is {dtype}, expected {expected}")
        return pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype.newbyteorder("="))

    def array(self, name: str) -> np.ndarray:
        """The array whole."""
        with _reading(self.path, "an .npz file"):
            (array,) = npz.arrays(self.path, (name,), TableError)
        return array

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array (n, D), some rows at a time."""
        header = self.headers[name]
        if header.by_columns:  # rows lie scattered over the file
            yield from np.array_split(self.array(name), max(1, header.shape[0] // PIECE))
            return
        with _reading(self.path, "an .npz file"), zipfile.ZipFile(self.path) as archive:
            with archive.open(f"{name}.npy") as stream:
                _header(stream)
                size = header.dtype.itemsize * header.shape[1]
                for start in range(0, header.shape[0], PIECE):
                    rows = min(PIECE, header.shape[0] - start)
                    content = stream.read(rows * size)
                    if len(content) != rows * size:
                        raise EOFError(f"{name} ends early")
                    yield np.frombuffer(content, header.dtype).reshape(rows, -1)
                if stream.read(1):  # at the end lies a checksum, which is compared when it is reached
                    raise ValueError(f"{name} goes on behind its last row")


def _header(stream) -> Header:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return Header(*read(stream))


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _lists(rows: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
    values = pa.array(_native(rows).ravel())
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1], mask=None if absent is None else pa.array(absent))


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """What a reader says of a damaged file, whatever it is, becomes one sentence."""
    try:
        yield
    except (TableError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise TableError(f"{path}: there is no such file, expected {kind}") from error
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TableError(f"{path}: it cannot be read ({why[:200]}), expected {kind}") from error
