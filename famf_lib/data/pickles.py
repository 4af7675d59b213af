"""Reads a pickle of one dict, item by item, without running anything that is in it.

Python's own unpickler calls what the file names: whoever wrote the file decides what runs. This one knows numbers,
text, bytes, lists, tuples and numpy arrays, refuses everything else by name, and imports nothing. It holds one batch of
the dict at a time (Python writes a dict in batches of 1,000), so that a file of any size is read in little memory.
Records of the official files, of which it consists nearly whole, are read many at once (``famf_lib.data.records``).

All protocols of Python 2 and 3 (0 to 5) are read, with the names numpy has had for its array module. The operations are
those of Python's ``pickletools``.
"""

import reprlib
import struct
from codecs import escape_decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from famf_lib.data.records import BOX, LINE, Array, Form, Found, Frames, Records, find

__all__ = ["Array", "PickleError", "Records", "brief", "items"]

WINDOW = 4 << 20  # bytes that are read at a time
STRING = 256 << 20  # no array and no text is longer
BATCH = 1 << 30  # bytes that may go by before items of the dict come
OPERATIONS = 32 << 20  # bytes of them that may be operations: each can make an object of some sixty bytes
REMEMBERED = 1 << 24  # small things that the file may refer to again
SMALL = 64  # bytes of text that are worth remembering beyond their item


class PickleError(ValueError):
    """A file that is no pickle of a dict of plain things, or is damaged."""


class _Name(str):
    """Something that the file asks for by name. It stays a name."""


class _Root:
    """The dict of the file. Its items are handed out and not kept."""


@dataclass(slots=True)
class _Type:
    """A numpy type: its code, and the order of the bytes."""

    code: str
    order: str = "="


class _Memo(dict[int, Any]):
    """What the file may refer to again, by place. Frames of records that were read many at once lie apart."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = Frames()

    def __missing__(self, place: int) -> bytes:
        if (frame := self.frames.get(place)) is None:
            raise KeyError(place)
        self[place] = frame  # it comes again: Python 2 had each digit once
        return frame


_RECONSTRUCT, _NDARRAY, _DTYPE, _SCALAR, _FROM_BUFFER, _ENCODE, _BYTES = map(
    _Name, ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode", "bytes")
)
_NAMES = {
    **{f"numpy.{core}.multiarray.{name}": name for core in ("core", "_core") for name in (_RECONSTRUCT, _SCALAR)},
    **{f"numpy.{core}.numeric.{_FROM_BUFFER}": _FROM_BUFFER for core in ("core", "_core")},
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _DTYPE,
    "_codecs.encode": _ENCODE,  # how Python 3 writes bytes for Python 2, and none of them
    "__builtin__.bytes": _BYTES,
}
_CODES = {"f2": 2, "f4": 4, "f8": 8, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "u8": 8, "b1": 1}
"""Types of numbers, with their bytes. All others (objects, records, text) are refused."""

_unsigned = {n: struct.Struct(f"<{c}").unpack_from for n, c in ((2, "H"), (4, "I"), (8, "Q"))}
_int4 = struct.Struct("<i").unpack_from
_float8 = struct.Struct(">d").unpack_from
_MARK = object()


def _unicode(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}
_BOOLEANS = {b"00": False, b"01": True}  # as protocol 0 writes them
_COUNTED: dict[int, tuple[int, Callable[[bytes], str] | None]] = {
    0x54: (4, None),  # T BINSTRING
    0x58: (4, _unicode),  # X BINUNICODE
    0x8C: (1, _unicode),  # SHORT_BINUNICODE
    0x8D: (8, _unicode),  # BINUNICODE8
    0x42: (4, None),  # B BINBYTES
    0x43: (1, None),  # C SHORT_BINBYTES
    0x8E: (8, None),  # BINBYTES8
    0x96: (8, None),  # BYTEARRAY8
}
"""By operation: how many bytes its length has, and what its bytes become."""


def items(
    path: Path, progress: Callable[[int], None] | None = None, *, packed: bool = False
) -> Iterator[tuple[Any, Any]]:
    """The items of the dict in a pickle, in the order of the file.

    Keys and values are made of ``None``, bool, int, float, str, bytes, list, tuple and ``Array``; numpy's scalars come
    as int or float, and the text of Python 2 as bytes. Lists may hold themselves: look at them with ``brief``.

    Args:
        progress: told the bytes read so far, now and then.
        packed: leave records of the official files in ``Records`` where they can be, each standing for many in a list.

    Raises:
        PickleError: one sentence with the file, the byte, what was found and what was expected. Items before the fault
            have been handed out by then.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            yield from _Reader(path, file, progress, packed).items()
    except OSError as error:
        raise PickleError(f"{path}: it cannot be read ({error.strerror}), expected a pickle") from error


class _Reader:
    """A stack, a memo and a window on the file. ``pos`` is where the next operation lies in the window."""

    def __init__(self, path: Path, file: BinaryIO, progress: Callable[[int], None] | None, packed: bool):
        self.path, self.file, self.progress, self.packed = path, file, progress, packed
        self.size = path.stat().st_size
        self.window, self.start, self.ended = b"", 0, False  # start: of the window in the file
        self.stack: list[Any] = []
        self.memo = _Memo()
        self.kept = 0  # how much of the memo is older than the batch
        self.memoised = self.memoised_before = 0  # how many times MEMOIZE came, and how many before the batch
        self.since, self.strings = 0, 0  # where the batch began, and the bytes of strings in it
        self.fast = True  # whether records are looked for
        self.forms: dict[int, Form] = {}  # of the arrays in them, by their length
        self.found: Found | None = None  # records in the window
        self.runs: dict[int, tuple[int, int]] = {}  # which of them begin where

    # --- the window ---

    def fail(self, pos: int, found: str, expected: str) -> NoReturn:
        found = "".join(c if c.isprintable() else "?" for c in found)  # it may be the file's own words
        raise PickleError(f"{self.path}: {found} at byte {self.start + pos:,}, expected {expected}")

    def refill(self, pos: int, need: int = LINE) -> int:
        """Moves the window so that it begins at ``pos`` and holds ``need`` bytes or the rest; the new ``pos``, 0."""
        rest = self.window[pos:]
        self.start += pos
        self.window = rest + self.file.read(max(need - len(rest), WINDOW))
        self.ended = self.start + len(self.window) >= self.size or len(self.window) < need
        went_by = self.start - self.since
        if (kept := len(self.memo) + self.memo.frames.count) > REMEMBERED:
            self.fail(0, f"{kept:,} things to remember", f"{REMEMBERED:,} at most")
        if went_by > BATCH or went_by - self.strings > OPERATIONS:
            self.fail(0, f"an item that began at byte {self.since:,} has not ended", "the items of a dict, one by one")
        if self.progress:
            self.progress(self.start)
        self.look(0)
        return 0

    def string(self, pos: int, length: int) -> tuple[bytes, int]:
        """The ``length`` bytes at ``pos``, and the place behind them."""
        end = pos + length
        if end > len(self.window):
            if length < 0 or length > STRING:
                self.fail(pos, f"a text or array of {length:,} bytes", f"0 to {STRING:,}")
            if self.start + end > self.size:
                self.fail(pos, "the file ends in the middle of an item", "a whole pickle (was it cut off?)")
            pos = self.refill(pos, length + LINE)
            end = length
        self.strings += length
        return self.window[pos:end], end

    def line(self, pos: int) -> tuple[bytes, int]:
        """The line at ``pos`` without its end, and the place behind it."""
        end = self.window.find(b"\n", pos)
        if end < 0 and not self.ended:
            pos = self.refill(pos, STRING if len(self.window) - pos >= LINE else LINE)
            end = self.window.find(b"\n", pos)
        if end < 0:
            self.fail(pos, "a line without an end", "a whole pickle (was it cut off?)")
        self.strings += end - pos
        return self.window[pos:end], end + 1

    # --- the machine ---

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Runs until the file says that it ends."""
        stack, memo, pos = self.stack, self.memo, 0
        push = stack.append
        window, limit, runs = self.window, -1, self.runs
        root = None
        while True:
            if pos > limit:  # fewer than LINE bytes are left in the window
                if not self.ended:
                    pos = self.refill(pos)
                    window, runs = self.window, self.runs
                limit = len(window) - (1 if self.ended else LINE)
                if pos >= len(window):
                    self.fail(pos, "the file ends before its pickle does", "a whole pickle (was it cut off?)")
            op = window[pos]
            if (op == 0x5D or op == 0x28) and pos in runs:
                pos = self.take(pos)
                continue
            pos += 1
            try:
                # In the order of how often they come. Those that a file of numbers rarely has are further down.
                if op == 0x72:  # r LONG_BINPUT
                    memo[_unsigned[4](window, pos)[0]] = stack[-1]
                    pos += 4
                elif op == 0x68:  # h BINGET
                    push(memo[window[pos]])
                    pos += 1
                elif op == 0x47:  # G BINFLOAT
                    push(_float8(window, pos)[0])
                    pos += 8
                elif op == 0x4B:  # K BININT1
                    push(window[pos])
                    pos += 1
                elif op == 0x28:  # ( MARK
                    push(_MARK)
                elif op == 0x4D:  # M BININT2
                    push(_unsigned[2](window, pos)[0])
                    pos += 2
                elif op == 0x55:  # U SHORT_BINSTRING
                    end = pos + 1 + window[pos]
                    if end > len(window):
                        value, pos = self.string(pos + 1, window[pos])
                        window, limit, runs = self.window, -1, self.runs
                        push(value)
                    else:
                        push(window[pos + 1 : end])
                        pos = end
                elif op in _COUNTED:  # strings with their length before them
                    width, text = _COUNTED[op]
                    length = window[pos] if width == 1 else _unsigned[width](window, pos)[0]
                    value, pos = self.string(pos + width, length)
                    if window is not self.window:
                        window, limit, runs = self.window, -1, self.runs
                    push(text(value) if text else value)
                elif op == 0x65 or op == 0x61:  # e APPENDS, a APPEND
                    values = self.popped() if op == 0x65 else [stack.pop()]
                    if type(stack[-1]) is not list:
                        self.fail(pos, f"values for {_called(stack[-1])}", "for a list")
                    stack[-1].extend(values)
                elif op == 0x5D:  # ] EMPTY_LIST
                    push([])
                elif op == 0x52:  # R REDUCE
                    arguments = stack.pop()
                    stack[-1] = self.called(pos, stack[-1], arguments)
                elif op == 0x62:  # b BUILD
                    state = stack.pop()
                    self.build(pos, stack[-1], state)
                    runs = self.runs
                elif op == 0x74:  # t TUPLE
                    push(tuple(self.popped()))
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif op == 0x87:  # TUPLE3
                    stack[-3:] = [tuple(stack[-3:])]
                elif op == 0x71:  # q BINPUT
                    memo[window[pos]] = stack[-1]
                    pos += 1
                elif op == 0x94:  # MEMOIZE
                    memo[self.memoised] = stack[-1]
                    self.memoised += 1
                elif op == 0x75 or op == 0x73:  # u SETITEMS, s SETITEM
                    values = self.popped() if op == 0x75 else [stack.pop(), stack.pop()][::-1]
                    if root is None or stack != [root]:
                        self.fail(pos, f"items for {_called(stack[-1])}", "a single dict, the whole of the file")
                    if any(type(value) is Records for value in values):  # they stand in no list
                        raise KeyError
                    if len(values) % 2:
                        self.fail(pos, "a key without a value", "pairs of them")
                    self.since = self.start + pos
                    yield from zip(values[::2], values[1::2], strict=True)
                    values = None
                    self.forget()
                elif op == 0x7D or op == 0x64:  # } EMPTY_DICT, d DICT
                    values = self.popped() if op == 0x64 else []
                    if root is not None or stack or values:
                        self.fail(pos, "a dict inside the dict", "plain values")
                    root = _Root()
                    push(root)
                    self.since = self.start + pos
                elif op == 0x2E:  # . STOP
                    if root is None or stack != [root]:
                        found = _called(stack[-1]) if stack else "nothing"
                        self.fail(pos, f"the end of a pickle of {found}", "a dict of clips")
                    return
                else:
                    pos = self.rare(op, pos)
                    if window is not self.window:
                        window, limit, runs = self.window, -1, self.runs
            except (IndexError, struct.error):
                if self.start + len(window) >= self.size and pos + 8 >= len(window):
                    self.fail(pos, "the file ends in the middle of an item", "a whole pickle (was it cut off?)")
                self.fail(pos, "an operation for which nothing is there", "an undamaged pickle")
            except UnicodeDecodeError:
                self.fail(pos, "a text that is not in UTF-8", "an undamaged pickle")
            except KeyError as missing:
                if not self.fast:
                    self.fail(pos, f"a reference to part {missing} of an earlier item", "items that stand alone")
                self.rewind(root)
                window, limit, pos, runs = self.window, -1, 0, self.runs

    # --- many records at once ---

    def look(self, pos: int) -> None:
        """Finds the records in the window."""
        frames = self.memo.frames
        self.found = find(self.window, pos, self.forms, frames, self.recalled) if self.fast and self.forms else None
        self.runs = self.found.runs if self.found else {}

    def recalled(self, place: int) -> Any:
        """What lies at a place of the memo, or None."""
        with suppress(KeyError):
            return self.memo[place]

    def take(self, pos: int) -> int:
        """The records that follow each other from ``pos`` on; the place behind them.

        Of what they put into the memo only frames are kept: Python 2 had each text of one character once, and refers
        to it. Nothing refers to the rest, and a file that does is read again without this.
        """
        assert self.found is not None
        start, stop = self.runs[pos]
        records = Records(self.found, start, stop)
        self.strings += len(records) * records.form.size
        if self.packed:
            self.stack.append(records)
        else:
            self.stack.extend(records)
        return int(self.found.ends[stop - 1])

    def learn(self, pos: int, array: Array, kind: _Type) -> None:
        """Looks for records with arrays such as this one from now on, if it is a longer one, or may be a box.

        They more than double in length: few lessons are enough.
        """
        (side,), size = array.shape, len(array.raw)
        known = [form for length, form in self.forms.items() if length != BOX]
        if not 0 < size < LINE // 2 or side in self.forms:
            return
        if side != BOX and any(2 * form.size >= size for form in known):
            return
        things = _RECONSTRUCT, _NDARRAY, b"b", kind
        places = [
            next((k for k, v in self.memo.items() if v is what or type(v) is bytes and v == what), -1)
            for what in things
        ]
        if min(places) >= 0 and max(places) < 1 << 32:
            kept = {BOX: self.forms[BOX]} if BOX in self.forms else {}
            self.forms = kept | {side: Form(array.dtype, array.shape, size, *places)}
            self.look(pos)

    def rare(self, op: int, pos: int) -> int:
        """An operation that a file of numbers hardly has; the place behind it."""
        stack, window = self.stack, self.window
        if op == 0x80:  # PROTO
            if window[pos] > 5:
                self.fail(pos, f"protocol {window[pos]}", "0 to 5")
            return pos + 1
        if op == 0x95:  # FRAME
            return pos + 8
        if op == 0x4A:  # J BININT
            stack.append(_int4(window, pos)[0])
            return pos + 4
        if op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == 0x29:  # ) EMPTY_TUPLE
            stack.append(())
        elif op == 0x86:  # TUPLE2
            stack[-2:] = [tuple(stack[-2:])]
        elif op == 0x6A:  # j LONG_BINGET
            stack.append(self.memo[_unsigned[4](window, pos)[0]])
            return pos + 4
        elif op == 0x6C:  # l LIST
            stack.append(self.popped())
        elif op == 0x30:  # 0 POP
            stack.pop()
        elif op == 0x31:  # 1 POP_MARK
            self.popped()
        elif op == 0x32:  # 2 DUP
            stack.append(stack[-1])
        elif op == 0x8A:  # LONG1
            value, pos = self.string(pos + 1, window[pos])
            stack.append(int.from_bytes(value, "little", signed=True))
        elif op == 0x63:  # c GLOBAL
            module, pos = self.line(pos)
            name, pos = self.line(pos)
            stack.append(self.name(pos, module.decode("latin-1"), name.decode("latin-1")))
        elif op == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            stack.append(self.name(pos, module, name))
        elif op in b"pgIFLSV":
            return self.written(op, *self.line(pos))
        else:
            self.fail(pos - 1, f"the operation {op:#04x}", "those of numbers, text, lists, tuples and arrays")
        return pos

    def written(self, op: int, line: bytes, pos: int) -> int:
        """An operation of protocol 0, whose argument is a line of text; the place behind it, which is given."""
        try:
            if op == 0x70:  # p PUT
                self.memo[_number(line)] = self.stack[-1]
            elif op == 0x67:  # g GET
                self.stack.append(self.memo[_number(line)])
            elif op == 0x49:  # I INT
                self.stack.append(_BOOLEANS[line] if line in _BOOLEANS else _number(line))
            elif op == 0x46:  # F FLOAT
                self.stack.append(float(line))
            elif op == 0x4C:  # L LONG
                self.stack.append(_number(line.removesuffix(b"L")))
            elif op == 0x53:  # S STRING
                if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
                    raise ValueError
                self.stack.append(escape_decode(line[1:-1])[0])
            else:  # V UNICODE
                self.stack.append(line.decode("raw-unicode-escape"))
        except ValueError:
            self.fail(pos, f"{chr(op)}{line[:20].decode('latin-1')!r}", "a number or a text")
        return pos

    def popped(self) -> list[Any]:
        """What lies above the last mark. The mark goes too."""
        stack = self.stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        values = stack[place + 1 :]
        del stack[place:]
        return values

    def rewind(self, root: _Root | None) -> None:
        """Goes back to where the batch began, to read it and what follows operation by operation."""
        self.fast, self.found, self.runs, self.window, self.ended = False, None, {}, b"", False
        self.start = self.since
        self.file.seek(self.since)
        self.stack[:] = [root] if root else []
        for place in list(islice(reversed(self.memo), len(self.memo) - self.kept)):
            del self.memo[place]
        self.memoised = self.memoised_before

    def forget(self) -> None:
        """Lets go of what the batch made, but for small things that later items may refer to again."""
        memo = self.memo
        for place in list(islice(reversed(memo), len(memo) - self.kept)):
            value = memo[place]
            kind = type(value)
            if kind is list or kind is Array or kind is tuple or (kind in (bytes, str) and len(value) > SMALL):
                del memo[place]
        self.kept, self.memoised_before = len(memo), self.memoised
        self.strings = 0

    # --- what the file asks for by name ---

    def name(self, pos: int, module: Any, name: Any) -> _Name:
        known = _NAMES.get(f"{_text(module)}.{_text(name)}")
        if known is None:
            found = f"it asks for {_text(module)[:80]}.{_text(name)[:80]}"
            self.fail(pos, found, "arrays of numbers and plain containers only; nothing of it was run")
        return known

    def called(self, pos: int, name: Any, given: Any) -> Any:
        """What numpy's functions would give for these arguments."""
        if type(name) is not _Name or type(given) is not tuple:
            self.fail(pos, f"a call of {_called(name)}", "an array")
        if name is _RECONSTRUCT and given and given[0] is _NDARRAY:
            return Array()
        if name is _DTYPE and given and (code := _text(given[0])) in _CODES:
            return _Type(code)
        if name is _SCALAR and len(given) == 2 and type(given[0]) is _Type and type(given[1]) in (bytes, str):
            return self.filled(pos, Array(), given[0], (1,), given[1]).numpy()[0].item()
        if name is _FROM_BUFFER and len(given) == 4 and type(given[1]) is _Type and _text(given[3]) == "C":
            return self.filled(pos, Array(), given[1], given[2], given[0])
        if name is _ENCODE and len(given) == 2 and type(given[0]) is str and _text(given[1]) in ("latin1", "latin-1"):
            try:
                return given[0].encode("latin-1")
            except UnicodeEncodeError:
                self.fail(pos, "bytes beyond 255", "bytes")
        if name is _BYTES and given == ():
            return b""
        self.fail(pos, f"{name} of {brief(given)}", f"one of numbers ({', '.join(_CODES)})")

    def build(self, pos: int, what: Any, state: Any) -> None:
        """Fills an array, or says in what order the bytes of a type lie."""
        if type(what) is Array and type(state) is tuple and len(state) == 5 and type(state[2]) is _Type:
            _, shape, kind, by_columns, raw = state
            if by_columns and type(shape) is tuple and len(shape) > 1:
                self.fail(pos, "an array that lies column by column", "row by row")
            self.filled(pos, what, kind, shape, raw)
            if self.fast and len(shape) == 1:
                self.learn(pos, what, kind)
        elif type(what) is _Type and type(state) is tuple and len(state) >= 2 and _text(state[1]) in tuple("<>|="):
            what.order = _text(state[1])
        else:
            self.fail(pos, f"a state of {_called(what)}", "one of an array of numbers")

    def filled(self, pos: int, array: Array, kind: _Type, shape: Any, raw: Any) -> Array:
        if type(raw) is str:  # Python 2 text that a reader turned into str
            raw = raw.encode("latin-1", "replace")
        size = _CODES[kind.code]
        if type(shape) is tuple and type(raw) is bytes and len(shape) <= 2:
            count = 1
            for side in shape:
                count *= side if type(side) is int and side >= 0 else -1
            if count * size == len(raw) and count >= 0:
                array.dtype, array.shape, array.raw = kind.order + kind.code, shape, raw
                return array
        found = f"an array of shape {brief(shape)} in {len(raw) if type(raw) is bytes else 'no'} bytes"
        self.fail(pos, found, f"one or two sides of {size} bytes a number")


def _number(line: bytes) -> int:
    if len(line) > 80:  # none of ours is that long, and to read a very long one takes very long
        raise ValueError
    return int(line)


def _text(value: Any) -> str:
    if type(value) is bytes:
        return value.decode("latin-1")
    return value if type(value) is str else "?"


def brief(value: Any) -> str:
    """A value as short as it can be told. What is deep, or holds itself many times over, takes no longer."""
    return _brief.repr(value)


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxother, _brief.maxstring = 2, 40, 40


def _called(value: Any) -> str:
    """What a value is, in a word or two."""
    if value is _MARK:
        return "nothing"
    words = {_Root: "a dict", _Name: "a name", _Type: "a type of numbers", Array: "an array"}
    return words.get(type(value), f"a {type(value).__name__}")
