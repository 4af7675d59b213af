"""Writes pickles as Python 2 did, which no dump of Python 3 reproduces: text as SHORT_BINSTRING or BINSTRING, numpy's
module under its old name, and a PUT after nearly everything."""

import pickle
import struct
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

RECONSTRUCT, SCALAR = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]


class Python2Pickler(pickle._Pickler):
    """Protocol 2. ``puts``: what goes into the memo.

    all      everything, as the module pickle did
    some     what cPickle kept: it left out what nobody else held, such as the bytes of an array
    """

    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, out: BinaryIO, puts: str = "all"):
        super().__init__(out, 2)
        self.puts, self.number = puts, 0

    def memoize(self, value: Any) -> None:
        length = len(value) if isinstance(value, bytes) else 0
        shared = callable(value) or isinstance(value, np.dtype) or length == 1
        if self.puts == "all" or shared or isinstance(value, list | np.ndarray | np.generic) or 0 < length < 30:
            self.write(self.put(self.number))
            if shared:  # the others are not held, so that a large file needs little memory
                self.memo[id(value)] = self.number, value
            self.number += 1

    def save_text(self, value: bytes) -> None:
        length = len(value)
        self.write((b"U" + bytes([length]) if length < 256 else b"T" + struct.pack("<i", length)) + value)
        self.memoize(value)

    dispatch[bytes] = save_text

    def save_global(self, value: Any, name: str | None = None) -> None:
        self.write(f"c{value.__module__.replace('_core', 'core')}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            state = (1, value.shape, value.dtype, False, value.tobytes())
            return RECONSTRUCT, (np.ndarray, (0,), b"b"), state
        if isinstance(value, np.generic):
            return SCALAR, (value.dtype, value.tobytes())
        if isinstance(value, np.dtype):
            order, code = value.str[:1].encode(), value.str[1:].encode()
            return np.dtype, (code, 0, 1), (3, order, None, None, None, -1, -1, 0)
        return NotImplemented

    def dump(self, items: Iterable[tuple[bytes, Any]]) -> None:
        """A dict with these items, a thousand of them at a time, as Python writes it."""
        self.write(b"\x80\x02}")
        self.memoize({})
        self._batch_setitems(iter(items))
        self.write(b".")
