"""Reads the arrays of a user's ``.npz`` file without running code from it, and checks their shapes and types."""

import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famf_lib.support.untrusted import check_archive, check_array
from famf_lib.support.wording import first_line, listed, plain

KINDS = {"U": "text", "iu": "integers", "f": "floats", "b": "booleans", "Ubiuf": "text, numbers or booleans"}
"""Groups of NumPy's kinds of types, and their names in error messages."""


def read(path: Path, error: type[ValueError], names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Returns the arrays called ``names``, or all arrays of the file if no names are given.

    Raises:
        error: the file cannot be read, lacks one of the names, has a name twice or holds Python objects.
    """
    try:
        check_archive(path)  # also since, for other files, NumPy's message advises to unpickle them
        loaded = np.load(path, allow_pickle=False)  # unpickling object arrays could run code: NumPy refuses them
    except Exception as why:
        expected = f"an .npz file with {', '.join(names) or 'plain arrays'}"
        found = f"it cannot be read as an .npz file ({first_line(why, 200)})"
        raise error(plain(f"{path}: {found}, expected {expected}")) from why
    arrays = {}
    with loaded as file:
        members = Counter(file.files)
        for name in names or members:
            if name not in members:
                found, expected = listed(members), ", ".join(names)
                raise error(plain(f"{path}: the array {name} is missing, found {found}, expected {expected}"))
            if members[name] > 1:
                raise error(plain(f"{path}: the array {name} occurs twice, expected once"))
            try:
                arrays[name] = _array(file, name)
            except Exception as why:
                said = first_line(why, 200)
                found = "holds Python objects" if "Object arrays" in said else f"cannot be read ({said})"
                raise error(plain(f"{path}: the array {name} {found}, expected {KINDS['Ubiuf']}")) from why
    return arrays


def _array(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of the file, after its header was compared with its size."""
    inside = file.zip.namelist()
    member = file.zip.getinfo(name if name in inside else f"{name}.npy")
    with file.zip.open(member) as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise ValueError("it is not a NumPy array")
    with warnings.catch_warnings(action="ignore"):  # of headers by old versions
        with file.zip.open(member) as stream:
            check_array(stream, member.file_size)
        array = file[name]
    if array.dtype.kind == "U" and array.nbytes:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if (codes > sys.maxunicode).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
            raise ValueError("text that is no Unicode")
    return array


def read_rows(path: Path, error: type[ValueError], fields: dict[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Returns arrays with one row per item; ``fields`` gives the kinds (a key of KINDS) and dimensions of each.

    Raises:
        error: as ``read`` and ``check``.
    """
    arrays = read(path, error, list(fields))
    first, array = next(iter(arrays.items()))
    if not (rows := len(np.atleast_1d(array))):
        raise error(f"{path}: {first} has no rows, expected one or more")
    for name, (kinds, dimensions) in fields.items():
        check(path, error, name, arrays[name], rows, kinds, dimensions)
    return arrays


def check(
    path: Path, error: type[ValueError], name: str, array: np.ndarray, rows: int, kinds: str, dimensions: int = 1
) -> None:
    """Raises ``error`` if the array is not (rows,), or (rows, D) with two dimensions, or of none of the kinds."""
    if array.ndim != dimensions or len(array) != rows or 0 in array.shape[1:]:
        expected = f"({rows},)" if dimensions == 1 else f"({rows}, D)"
        raise error(f"{path}: the shape of {name} is {array.shape}, expected {expected}")
    if array.dtype.kind not in kinds or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise error(f"{path}: {name} is {array.dtype}, expected {KINDS[kinds]}")
