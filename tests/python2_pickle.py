"""Writes pickles as Python 2 did, which no dump of Python 3 reproduces: text as SHORT_BINSTRING or BINSTRING, numpy's
module under its old name, and a PUT after nearly everything."""

import struct
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

import numpy as np


class Python2Pickler:
    """Protocol 2. ``puts``: what goes into the memo.

    all      everything, as the module pickle did
    some     what cPickle kept: it left out what nobody else held, such as the bytes of an array
    """

    def __init__(self, out: BinaryIO, puts: str = "all"):
        self.out, self.puts = out, puts
        self.number = 0
        self.places: dict[Any, int] = {}

    def put(self, shared: bool = True) -> int:
        if not shared and self.puts == "some":
            return -1
        number, self.number = self.number, self.number + 1
        self.out.write(b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number))
        return number

    def again(self, key: Any) -> bool:
        """Refers to what was written before, if it was."""
        if (number := self.places.get(key)) is None:
            return False
        self.out.write(b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number))
        return True

    def write(self, value: Any) -> None:
        if value is None:
            self.out.write(b"N")
        elif isinstance(value, bool):
            self.out.write(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            self.integer(value)
        elif isinstance(value, float):
            self.out.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, bytes):
            self.text(value)
        elif isinstance(value, str):
            content = value.encode()
            self.out.write(b"X" + struct.pack("<I", len(content)) + content)
            self.put()
        elif isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, np.generic):
            self.scalar(value)
        elif isinstance(value, list):
            self.out.write(b"]")
            self.put()
            if value:
                self.out.write(b"(" if len(value) > 1 else b"")
                for one in value:
                    self.write(one)
                self.out.write(b"e" if len(value) > 1 else b"a")
        elif isinstance(value, tuple):
            short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value))
            self.out.write(b"" if short else b"(")
            for one in value:
                self.write(one)
            self.out.write(short or b"t")
            if value:
                self.put()
        else:
            raise TypeError(value)

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out.write(b"K" + bytes([value]))
        elif 0 <= value < 65_536:
            self.out.write(b"M" + struct.pack("<H", value))
        elif -(2**31) <= value < 2**31:
            self.out.write(b"J" + struct.pack("<i", value))
        else:
            content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out.write(b"\x8a" + bytes([len(content)]) + content)

    def text(self, value: bytes, shared: bool = True) -> None:
        if len(value) == 1:  # Python 2 had each of them once
            if self.again(value):
                return
            self.places[value] = self.number
        self.out.write(b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value)))
        self.out.write(value)
        self.put(shared or len(value) == 1)

    def name(self, module: bytes, name: bytes) -> None:
        if not self.again((module, name)):
            self.out.write(b"c" + module + b"\n" + name + b"\n")
            self.places[module, name] = self.put()

    def type(self, dtype: np.dtype) -> None:
        code = dtype.str[1:].encode()
        if self.again(("type", dtype.str)):
            return
        self.name(b"numpy", b"dtype")
        self.text(code)
        self.out.write(b"K\x00K\x01\x87")
        self.put(False)
        self.out.write(b"R")
        self.places["type", dtype.str] = self.put()
        self.out.write(b"(K\x03")
        self.text(dtype.str[:1].encode())
        self.out.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t")
        self.put(False)
        self.out.write(b"b")

    def array(self, array: np.ndarray) -> None:
        self.name(b"numpy.core.multiarray", b"_reconstruct")
        self.name(b"numpy", b"ndarray")
        self.out.write(b"K\x00\x85")
        self.put(False)
        self.text(b"b")
        self.out.write(b"\x87")
        self.put(False)
        self.out.write(b"R")
        self.put()
        self.out.write(b"(K\x01" + (b"(" if array.ndim > 3 else b""))
        for side in array.shape:
            self.integer(side)
        self.out.write({0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}[array.ndim])
        self.put(False)
        self.type(array.dtype)
        self.out.write(b"\x89")
        self.text(array.tobytes(), shared=False)
        self.out.write(b"t")
        self.put(False)
        self.out.write(b"b")

    def scalar(self, value: np.generic) -> None:
        self.name(b"numpy.core.multiarray", b"scalar")
        self.type(value.dtype)
        self.text(value.tobytes(), shared=False)
        self.out.write(b"\x86")
        self.put(False)
        self.out.write(b"R")
        self.put()

    def dump(self, items: Iterable[tuple[bytes, Any]]) -> None:
        """A dict with these items, a thousand of them at a time, as Python writes it."""
        items = iter(items)
        self.out.write(b"\x80\x02}")
        self.put()
        while batch := list(islice(items, 1000)):
            self.out.write(b"(")
            for key, value in batch:
                self.write(key)
                self.write(value)
            self.out.write(b"u")
        self.out.write(b".")
