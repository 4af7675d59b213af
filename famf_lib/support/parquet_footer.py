"""What the metadata of a Parquet file declare of its columns, read without Arrow.

Arrow ends the process when it builds the metadata of a damaged column, and offers no call that checks them without
decoding the column. The metadata are a Thrift struct in the compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md); the numbers of its fields are those
of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift. Only what is asked for is kept.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)
FIXED = {TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8, UUID: 16}  # bytes of a field's value
BITS = 63  # of the longest number


def column_chunks(path: Path) -> Iterator[tuple[int, int, int]]:
    """(physical type, number of values, uncompressed bytes) of each column of each row group, as declared.

    Raises:
        ValueError: the metadata are damaged.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        (length,) = struct.unpack("<I", file.read(4))
        file.seek(max(size - 8 - length, 0))
        footer = _Compact(file.read(length))
    try:
        yield from _file(footer)
    except (IndexError, RecursionError, KeyError) as error:
        raise ValueError("damaged metadata of columns found, expected those of a Parquet file") from error


def _file(read: "_Compact") -> Iterator[tuple[int, int, int]]:
    for number, kind in read.fields():
        if (number, kind) != (4, LIST):
            read.skip(kind)
            continue
        for _ in range(read.structs()):  # row groups
            for number, kind in read.fields():
                if (number, kind) != (1, LIST):
                    read.skip(kind)
                    continue
                for _ in range(read.structs()):
                    yield _chunk(read)


def _chunk(read: "_Compact") -> tuple[int, int, int]:
    found = {}
    for number, kind in read.fields():
        if (number, kind) != (3, STRUCT):
            read.skip(kind)
            continue
        for number, kind in read.fields():
            if number in (1, 5, 6) and kind in (I32, I64):
                found[number] = read.integer()
            else:
                read.skip(kind)
    return found[1], found[5], found[6]


class _Compact:
    """A position in a text of the compact protocol."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def byte(self) -> int:
        value = self.content[self.at]
        self.at += 1
        return value

    def natural(self) -> int:
        value = 0
        for shift in range(0, BITS + 7, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise IndexError("a number of more than 64 bits")

    def integer(self) -> int:
        value = self.natural()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """The number and kind of each field of a struct. The caller reads or skips its value before the next."""
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 15

    def elements(self) -> tuple[int, int]:
        """How many elements a list has, and their kind."""
        head = self.byte()
        return self.natural() if head >> 4 == 15 else head >> 4, head & 15

    def structs(self) -> int:
        """How many elements a list of structs has."""
        number, kind = self.elements()
        if number and kind != STRUCT:
            raise IndexError("a list of another kind")
        return number

    def skip(self, kind: int) -> None:
        """Goes past a value, each of which takes a byte or more but for a field that is true or false."""
        if kind in FIXED:
            self.at += FIXED[kind]
        elif kind in (I16, I32, I64):
            self.natural()
        elif kind == BINARY:
            length = self.natural()  # which moves ``at`` as well
            self.at += length
        elif kind in (LIST, SET):
            number, kind = self.elements()
            self._skip_all(number, (kind,))
        elif kind == MAP:
            if number := self.natural():
                head = self.byte()
                self._skip_all(number, (head >> 4, head & 15))
        elif kind == STRUCT:
            for _, kind in self.fields():
                self.skip(kind)
        else:
            raise IndexError("a value of an unknown kind")

    def _skip_all(self, number: int, kinds: tuple[int, ...]) -> None:
        for _ in range(number):
            for kind in kinds:
                self.skip(BYTE if kind in (TRUE, FALSE) else kind)  # in a list, true is a byte
                if self.at > len(self.content):
                    raise IndexError("beyond the end")
