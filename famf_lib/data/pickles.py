"""Reads a pickle of one dict without running any code that the file names.

A child process with limits on memory and processor time unpickles the file (``famf_lib.data.unpickling``), and sends
the items as JSON and raw bytes. The parent process holds one item at a time and never unpickles anything.
"""

import json
import reprlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from famf_lib.data import unpickling
from famf_lib.data.unpickling import FORMATS, HEAD, ITEM
from famf_lib.support.wording import plain

MEMORY, TIMES = 256 << 20, 4  # the child may use 256 MB and four times the size of the file; the official ones take two
SECONDS, RATE = 30, 2 << 20  # and 30 s of processor time, and one more second for each 2 MB; 100 MB take one


class PickleError(ValueError):
    """A file that is not a pickle of a dict of plain values, or is damaged."""


def items(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[tuple[Any, Any]]:
    """Yields the items of the dict in a pickle, in the order of the file.

    Keys and values are made of ``None``, bool, int, float, str, bytes, list, tuple and read-only numpy arrays of
    numbers; numpy's scalars come as int or float, and the text of Python 2 as bytes. The child process ends when the
    iteration ends, and when the parent does.

    Args:
        progress: called with the bytes done so far, now and then. Unpickling is half of the work.

    Raises:
        PickleError: one sentence with the file, what was found and what was expected.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PickleError(f"{path}: it cannot be read ({error.strerror}), expected a pickle") from error
    memory, seconds = MEMORY + TIMES * size, SECONDS + size // RATE
    command = [sys.executable, "-I", "-S", unpickling.__file__, str(path.absolute()), str(memory), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            for message in _messages(process.stdout):
                match message:
                    case ["done", int(done)]:
                        item = None
                    case ["item", int(done), key, value]:
                        item = key, value
                    case ["refused", str(found), str(expected)]:
                        raise PickleError(f"{path}: {plain(found)}, expected {plain(expected)}")
                    case ["end"]:
                        return
                    case _:
                        break
                if progress:
                    progress(done)
                if item:
                    yield item
            with suppress(subprocess.TimeoutExpired):  # after a malformed message the child may still run
                process.wait(timeout=2)
        finally:
            process.kill()
    found = f"the process that reads it stopped early ({process.returncode})"
    if process.returncode == -signal.SIGXCPU:
        found = f"reading it takes more than {seconds} s of processor time"
    raise PickleError(f"{path}: {found}, expected an undamaged pickle of plain values")


def _messages(pipe: BinaryIO) -> Iterator[Any]:
    """The messages of the child, until it ends or a message is incomplete or malformed."""
    while len(head := pipe.read(HEAD.size)) == HEAD.size:
        lengths = HEAD.unpack(head)
        if sum(lengths) > ITEM:
            return
        content, raw = map(pipe.read, lengths)
        try:
            yield json.loads(content, object_hook=_Decoder(raw))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return


class _Decoder:
    """Turns the objects of one message into bytes, tuples and arrays. ``raw``: the bytes of its arrays, in order."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.start = raw, 0

    def __call__(self, known: dict[str, Any]) -> bytes | tuple[Any, ...] | np.ndarray:
        ((kind, content),) = known.items()
        if kind == "bytes":
            return content.encode("latin-1")
        if kind == "tuple":
            return tuple(content)
        dtype, shape = content
        if dtype[1:] not in FORMATS:
            raise ValueError(dtype)
        array = np.ndarray(shape, dtype, self.raw, self.start)
        self.start += array.nbytes
        return array


class _Brief(reprlib.Repr):
    def repr_ndarray(self, array: np.ndarray, level: int) -> str:
        return f"array of {' x '.join(map(str, array.shape))} ({array.dtype.str})"


def brief(value: Any) -> str:
    """A short form of a value, for messages."""
    return _brief.repr(value)


_brief = _Brief()
_brief.maxlevel, _brief.maxother, _brief.maxstring = 2, 40, 40
