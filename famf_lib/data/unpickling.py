"""Unpickles one file in a process of its own and writes the content to standard output in a plain form.

``famf_lib.data.pickles`` starts this script and reads the output. A pickle can call any function that it names, so
``find_class`` imports nothing: it returns methods of this module for the few names that arrays of numbers need, and
refuses every other name. A hostile file can still waste memory and time: this process has limits on both.

The output is a sequence of messages: the lengths of two parts, a JSON list, and the bytes of the arrays in it. JSON has
no bytes, tuples and arrays: an object with one key stands for each of them.
"""

import fcntl
import gc
import io
import json
import math
import os
import pickle
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import Any

HEAD = struct.Struct("<II")  # before a message: bytes of JSON, bytes of arrays
ITEM = 64 << 20  # bytes of one message at most: some 30,000 faces of one clip
VALUE = 64  # bytes of memory that the parent needs for one value
DEPTH = 32  # levels of nested lists
GROWTH = 8, 64 << 20  # the messages of a file may have 8 times its size and 64 MB: a file can use a value repeatedly
FORMATS = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
FORMATS |= {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?"}
"""From numpy's codes of number types to those of ``struct``. All other types (objects, text) are refused."""
NAMES = {
    **{f"numpy.{core}.multiarray._reconstruct": "empty" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": "filled" for core in ("core", "_core")},
    "numpy.ndarray": "empty",
    "numpy.dtype": "type",
    "_codecs.encode": "encoded",  # Python 3 writes bytes for Python 2 as a call of it
    "__builtin__.bytes": "no_bytes",
}
"""The names that a file may ask for, each with the method of ``Unpickler`` that it gets."""


class RefusedError(Exception):
    """What was found, and what was expected."""


class Type:
    """A numpy type: its code, and the order of the bytes."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or (order := text(state[1])) not in ("<", ">", "|", "="):
            raise RefusedError("a type with another state", "a type of numbers")
        self.order = order


class Array:
    """A numpy array as the file has it. One that is created and never filled stays empty, as in numpy."""

    __slots__ = ("dtype", "raw", "shape")

    def __init__(self) -> None:
        self.dtype, self.shape, self.raw = "|i1", (0,), b""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise RefusedError("an array with another state", "arrays of numbers")
        _, shape, kind, by_columns, raw = state
        if by_columns and type(shape) is tuple and len(shape) > 1:
            raise RefusedError("an array stored column by column", "arrays stored row by row")
        self.fill(shape, kind, raw)

    def fill(self, shape: Any, kind: Any, raw: Any) -> "Array":
        raw = raw.encode("latin-1", "replace") if type(raw) is str else bytes(raw) if type(raw) is bytearray else raw
        if type(kind) is Type and type(raw) is bytes and type(shape) is tuple and len(shape) <= 2:
            sound = all(type(side) is int and 0 <= side < 1 << 31 for side in shape)
            if sound and math.prod(shape) * int(kind.code[1]) == len(raw):
                self.dtype, self.shape, self.raw = kind.order + kind.code, shape, raw
                return self
        raise RefusedError("an array whose shape, type and bytes disagree", "arrays of one or two sides of numbers")


class Unpickler(pickle.Unpickler):
    """Python's own unpickler, restricted to numbers, text, bytes, lists, tuples and arrays.

    ``find_class`` returns bound methods: a file can set attributes of functions and classes, but not of those.
    """

    def find_class(self, module: str, name: str) -> Any:
        if method := NAMES.get(f"{module}.{name}"):
            return getattr(self, method)
        found = f"it asks for {module[:80]}.{name[:80]}"
        raise RefusedError(found, "arrays of numbers and plain containers only; nothing of it was run")

    def empty(self, *_: Any) -> Array:
        return Array()

    def filled(self, raw: Any, kind: Any, shape: Any, order: Any) -> Array:
        if text(order) != "C":
            raise RefusedError("an array stored column by column", "arrays stored row by row")
        return Array().fill(shape, kind, raw)

    def type(self, code: Any, *_: Any) -> Type:
        if text(code) not in FORMATS:
            raise RefusedError(f"the array type {text(code)[:40]!r}", f"one of numbers ({', '.join(FORMATS)})")
        return Type(text(code))

    def scalar(self, kind: Any, raw: Any) -> Any:
        array = Array().fill((1,), kind, raw)
        return struct.unpack(array.dtype[0].replace("|", "=") + FORMATS[array.dtype[1:]], array.raw)[0]

    def encoded(self, content: str, encoding: Any) -> bytes:
        if type(content) is not str or text(encoding) not in ("latin1", "latin-1"):
            raise RefusedError("text in another encoding", "bytes as Latin-1")
        return content.encode("latin-1")

    def no_bytes(self) -> bytes:
        return b""


def text(value: Any) -> str:
    """The str of a str or of Python 2's text; "?" for anything else."""
    return value.decode("latin-1") if type(value) is bytes else value if type(value) is str else "?"


class Source(io.FileIO):
    """The file. It reports how much has been read; reading is half of the work."""

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        send("done", self.tell() // 2)
        sys.stdout.buffer.flush()
        return count


class Plain:
    """Converts the values of one item for JSON. ``raw`` collects the bytes of its arrays."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.cost = 0

    def __call__(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        self.cost += VALUE
        if depth > DEPTH or self.cost > ITEM:  # a list that holds itself is endless; shared lists can double each time
            raise RefusedError("a value that is nested too deep or too large", f"{DEPTH} lists and {ITEM >> 20} MB")
        if kind is float or kind is int or kind is bool or value is None:
            return value
        if kind is bytes or kind is bytearray or kind is str:
            self.cost += len(value)
            return value if kind is str else {"bytes": value.decode("latin-1")}
        if kind is Array:
            self.cost += len(value.raw)
            self.raw.append(value.raw)
            return {"array": [value.dtype, value.shape]}
        if kind is not list and kind is not tuple:
            raise RefusedError(f"a value of type {kind.__name__}", "arrays, numbers, text, lists and tuples")
        inner = [self(one, depth + 1) for one in value]
        return inner if kind is list else {"tuple": inner}


encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


def send(*message: Any, raw: bytes = b"") -> int:
    """Writes a message and returns its size in bytes."""
    content = encode(message).encode()
    if (size := len(content) + len(raw)) > ITEM:
        raise RefusedError(f"a value of {size >> 20} MB", f"{ITEM >> 20} MB at most")
    sys.stdout.buffer.write(HEAD.pack(len(content), len(raw)) + content + raw)
    return size


def read(path: str) -> None:
    """Sends the items of the dict in a pickle.

    Raises:
        RefusedError: the content is something else.
        Exception: whatever the unpickler of Python raises for a damaged file.
    """
    with io.BufferedReader(Source(path), 1 << 20) as file:
        size = os.fstat(file.fileno()).st_size
        content = Unpickler(file, fix_imports=False, encoding="bytes").load()
    if type(content) is not dict:
        raise RefusedError(f"a pickle of type {type(content).__name__}", "a dict of clips")
    left = GROWTH[0] * size + GROWTH[1]
    for n, key in enumerate(list(content), start=1):
        plain = Plain()
        item = plain(key), plain(content.pop(key))
        left -= send("item", (size + size * n // (n + len(content))) // 2, *item, raw=b"".join(plain.raw))
        if left < 0:
            raise RefusedError("the same values again and again", f"{GROWTH[0]} times the bytes of the file at most")


def main(path: str, memory: str, seconds: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(OSError):  # standard input closes when the parent ends: SIGIO then ends this process, even in a load
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)
    gc.disable()  # nothing becomes garbage before the end
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError):  # the user's own limit is lower, or the system has none of that kind
            resource.setrlimit(what, (int(most), resource.getrlimit(what)[1]))
    try:
        read(path)
        send("end")
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more
    except RefusedError as refusal:
        send("refused", *refusal.args)
    except MemoryError:
        send("refused", f"content that needs more than {int(memory) >> 20} MB of memory", "a file that needs less")
    except OSError as error:
        send("refused", f"it cannot be read ({error.strerror})", "a pickle")
    except Exception as error:
        if isinstance(error, EOFError) or "truncated" in str(error) or "exhausted" in str(error):
            send("refused", "the file ends in the middle of its content", "a whole pickle (was it cut off?)")
        else:
            send("refused", f"damaged content found ({str(error)[:80]})", "an undamaged pickle of plain values")
    with suppress(BrokenPipeError):
        sys.stdout.buffer.flush()
    os._exit(0)  # freeing millions of objects takes seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
