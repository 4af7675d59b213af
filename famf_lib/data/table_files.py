"""Reads a user's tables, from Parquet files or from the arrays of an ``.npz``, as Arrow columns.

Both kinds of file give the same interface, so that ``tables`` needs one set of rules: a column is an Arrow array, and a
column of vectors is an Arrow array of lists. Reading runs no code from the file.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from famf_lib.data import npz
from famf_lib.support.untrusted import check_parquet
from famf_lib.support.wording import first_line, listed, plain

PIECE = 8_192  # rows: 16 MB of vectors of 512 numbers in float32
BUFFER = 1 << 20  # bytes: a column is read through a buffer, since a row group can be as large as the file


class TableError(ValueError):
    """A table that cannot be used. The message names file and column, what was found and what was expected."""


class Table:
    """A table of ``rows`` rows in the file ``path``; ``types`` maps each column to its Arrow type."""

    path: Path
    rows: int
    types: dict[str, pa.DataType]

    def called(self, column: str) -> str:
        """The name of a column in the file."""
        return column

    def fault(self, column: str, text: str) -> TableError:
        return TableError(plain(f"{self.path}: {self.called(column)} {text}"))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Reads whole columns."""
        raise NotImplementedError

    def pieces(self, column: str) -> Iterator[pa.Array]:
        """Reads one column piece by piece, PIECE rows at a time."""
        raise NotImplementedError


class ParquetTable(Table):
    """The table in a Parquet file; ``pieces`` holds one piece in memory.

    If there is no column ``joined``, columns such as f0, f1, … f511 are read as that column of vectors.

    Raises:
        TableError: the file cannot be read, or two columns have the same name.
    """

    def __init__(self, path: Path, joined: str = ""):
        self.path = path
        with self._reading():
            check_parquet(path)
            options = {"pre_buffer": False, "buffer_size": BUFFER, "page_checksum_verification": True}
            self._file = pq.ParquetFile(path, **options)
            schema, self.rows = self._file.schema_arrow, self._file.metadata.num_rows
        if twice := [name for name, times in Counter(schema.names).items() if times > 1]:
            raise self.fault(repr(twice[0]), "occurs twice among the columns, expected once")
        self.types = dict(zip(schema.names, schema.types, strict=True))
        self._wide = _wide(self.types) if joined and joined not in self.types else []
        if self._wide:
            self.types = {column: kind for column, kind in self.types.items() if column not in self._wide}
            self.types[joined] = pa.list_(pa.float64(), len(self._wide))

    def read(self, columns: Sequence[str]) -> pa.Table:
        with self._reading():
            table = self._file.read(list(columns)).select(list(columns)).replace_schema_metadata(None)
            table.validate(full=True)
            self._check_rows(len(table))
        return table

    def pieces(self, column: str) -> Iterator[pa.Array]:
        rows = 0
        with self._reading():
            wide = self._wide and column not in self._file.schema_arrow.names
            for batch in self._file.iter_batches(PIECE, columns=self._wide if wide else [column]):
                piece = _joined(batch, self._wide) if wide else batch.column(column)
                piece.validate(full=True)
                yield piece
                rows += len(piece)
            self._check_rows(rows)

    def _check_rows(self, rows: int) -> None:
        if rows != self.rows:
            raise ValueError(f"{rows} rows in it, {self.rows} announced")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns any error of the Parquet reader into one sentence."""
        try:
            yield
        except (TableError, GeneratorExit):
            raise
        except Exception as error:
            found = f"it cannot be read ({first_line(error, 200)})"
            raise TableError(f"{self.path}: {found}, expected a Parquet file") from error


def _wide(types: dict[str, pa.DataType]) -> list[str]:
    """The columns such as f0, f1, …, in their order, that hold one vector per row; empty if there are none."""
    found: dict[str, dict[int, str]] = {}
    for name, kind in types.items():
        if pa.types.is_floating(kind) and (parts := re.fullmatch(r"(\D*)(\d{1,5})", name)):
            found.setdefault(parts[1], {})[int(parts[2])] = name
    columns = max(found.values(), key=len, default={})
    numbers = sorted(columns)
    complete = len(numbers) > 4 and numbers[0] in (0, 1) and numbers[-1] == numbers[0] + len(numbers) - 1
    return [columns[number] for number in numbers] if complete else []


def _joined(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Array:
    """Columns of numbers as one column of lists."""
    values = [batch.column(name).cast(pa.float64()) for name in columns]
    matrix = np.column_stack([value.to_numpy(zero_copy_only=False) for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), from_pandas=True), len(columns))


class NpzTable(Table):
    """A table made of arrays of an ``.npz`` file. An empty text means a missing value.

    Args:
        arrays: all arrays of the file.
        columns: maps each column to the name of its array. The first array sets the number of rows.
        vectors: columns with one vector per row, arrays (n, D); the others are (n,).
        flags: maps a column of vectors to the array (n,) that says which rows have one; without it, all have.

    Raises:
        TableError: an array is missing, or its shape or type is not what it should be.
    """

    def __init__(
        self,
        path: Path,
        arrays: dict[str, np.ndarray],
        columns: dict[str, str],
        vectors: Sequence[str],
        flags: dict[str, str] | None = None,
    ):
        self.path, self._names, flags = path, columns, flags or {}
        if missing := [name for name in [*columns.values(), *flags.values()] if name not in arrays]:
            found = listed(arrays)
            raise TableError(plain(f"{path}: the array {missing[0]} is missing, found {found}, expected it as well"))
        self.rows = (arrays[next(iter(columns.values()))].shape or (0,))[0]
        table = {}
        for column, name in columns.items():
            array = self._checked(name, arrays[name], "Ubiuf", 1 + (column in vectors))
            present = self._checked(flags[column], arrays[flags[column]], "b") if column in flags else None
            try:
                table[column] = _arrow(array, present)
            except Exception as error:  # such as text that is no Unicode
                found = f"cannot be read ({first_line(error, 200)})"
                raise self.fault(column, f"{found}, expected text or numbers") from error
        self._table = pa.table(table)
        self.types = dict(zip(self._table.column_names, self._table.schema.types, strict=True))

    def called(self, column: str) -> str:
        return self._names.get(column, column)

    def _checked(self, name: str, array: np.ndarray, kinds: str, dimensions: int = 1) -> np.ndarray:
        npz.check(self.path, TableError, name, array, self.rows, kinds, dimensions)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self._table.select(list(columns))

    def pieces(self, column: str) -> Iterator[pa.Array]:
        for batch in self._table.select([column]).to_batches(PIECE):
            yield batch.column(0)


def _arrow(array: np.ndarray, present: np.ndarray | None) -> pa.Array:
    if array.ndim == 2:
        mask = None if present is None else pa.array(~present)
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1], mask=mask)
    if array.dtype.kind == "U":
        return pa.array(array, type=pa.string(), mask=array == "")
    return pa.array(array)
