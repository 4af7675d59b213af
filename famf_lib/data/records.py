"""Finds the records of an official pickle in a piece of it, many at once.

Most bytes of such a file are records as Python 2 wrote them: a frame in digits, a box of four numbers, two scores at
most, and an array; some fifty operations each (``famf_lib.data.pickles``). Here all the records of a window go through
the same grammar side by side, one array operation for a step of all of them. Only what fits it to the last byte counts;
the rest is left to whoever reads the pickle operation by operation, and means the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

LINE = 4096  # no record is longer, and no operation without its string
DIGITS = 9  # of a frame at most
BOX, SCORES = 4, 2  # numbers of a box, and scores at most


class Array:
    """A numpy array as it lies in the file: its bytes, and what they mean.

    ``dtype`` is a numpy type string such as ``<f2``, ``shape`` the lengths of its sides; ``raw``, the bytes, fits both.
    One that a file begins and does not fill is empty, as it is in Python.
    """

    __slots__ = ("dtype", "raw", "shape")

    def __init__(self, dtype: str = "|i1", shape: tuple[int, ...] = (0,), raw: bytes = b"") -> None:
        self.dtype, self.shape, self.raw = dtype, shape, raw

    def __repr__(self) -> str:
        return f"array of {' x '.join(map(str, self.shape))} ({self.dtype})"

    def numpy(self) -> np.ndarray:
        """The array. It shares the bytes, and cannot be written to."""
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape)


class Form(NamedTuple):
    """What arrays of one type and one length look like in a file: what their operations refer to, by place."""

    dtype: str
    shape: tuple[int]
    size: int  # bytes
    reconstruct: int
    ndarray: int
    letter: int  # the text b
    type: int

    @property
    def length(self) -> bytes:
        """The operation before its bytes."""
        return b"U" + bytes([self.size]) if self.size < 256 else b"T" + self.size.to_bytes(4, "little")

    @property
    def side(self) -> bytes:
        (side,) = self.shape
        return b"K" + bytes([side]) if side < 256 else b"M" + side.to_bytes(2, "little")

    def of(self, numbers: list[float]) -> Array:
        return Array(self.dtype, self.shape, np.array(numbers, dtype=self.dtype).tobytes())


@dataclass(slots=True)
class Found:
    """The n records of a window, one after the other as they lie there, and where each begins and ends."""

    window: bytes
    form: Form  # of the vectors
    starts: Int64[np.ndarray, " n"]
    ends: Int64[np.ndarray, " n"]
    frames: Int64[np.ndarray, " n"]
    digits: Int64[np.ndarray, " n"]  # as many a frame has
    boxes: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, "n S"]
    whole: Bool[np.ndarray, "n 4+S"]  # numbers of boxes and scores that are int
    raw: Int64[np.ndarray, " n"]  # where the bytes of each vector begin
    kind: type[list] | type[tuple]
    box: "Form | type[list] | type[tuple]"  # what a box is: an array of that form, a list or a tuple
    runs: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By where it begins: which records follow each other without anything between them, the last one not included."""

    def __post_init__(self) -> None:
        breaks = np.flatnonzero(self.ends[:-1] != self.starts[1:]) + 1
        first = np.concatenate([[0], breaks]) if len(self.starts) else breaks
        last = np.append(breaks, len(self.starts))
        pairs = zip(first.tolist(), last.tolist(), strict=False)
        self.runs = dict(zip(self.starts[first].tolist(), pairs, strict=True))


class Records:
    """Records that follow each other in a list, as columns. ``len`` counts them; iteration unpacks one by one.

    ``frames`` (n,) and ``boxes`` (n, 4) and ``scores`` (n, S) are numbers, ``vectors`` (n, D) what ``dtype`` says.
    """

    __slots__ = ("found", "start", "stop")

    def __init__(self, found: Found, start: int, stop: int) -> None:
        self.found, self.start, self.stop = found, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Any] | tuple[Any, ...]]:
        return (self._unpacked(n) for n in range(self.start, self.stop))

    def __getitem__(self, n: int) -> list[Any] | tuple[Any, ...]:
        return self._unpacked(range(self.start, self.stop)[n])

    def __repr__(self) -> str:
        return f"{len(self)} records"

    def followed_by(self, other: "Records") -> "Records | None":
        """Both as one, where the other begins as this one ends."""
        if other.found is self.found and other.start == self.stop:
            return Records(self.found, self.start, other.stop)
        return None

    @property
    def form(self) -> Form:
        return self.found.form

    @property
    def frames(self) -> Int64[np.ndarray, " n"]:
        return self.found.frames[self.start : self.stop]

    @property
    def boxes(self) -> Float64[np.ndarray, "n 4"]:
        return self.found.boxes[self.start : self.stop]

    @property
    def scores(self) -> Float64[np.ndarray, "n S"]:
        return self.found.scores[self.start : self.stop]

    @property
    def vectors(self) -> np.ndarray:
        rows = _rows(np.frombuffer(self.found.window, np.uint8), self.form.size)
        return rows[self.found.raw[self.start : self.stop]].view(self.form.dtype)

    def _unpacked(self, n: int) -> list[Any] | tuple[Any, ...]:
        """A record as Python would read it."""
        found = self.found
        frame = b"%0*d" % (int(found.digits[n]), int(found.frames[n]))
        numbers = [*found.boxes[n].tolist(), *found.scores[n].tolist()]
        numbers = [int(v) if whole else v for v, whole in zip(numbers, found.whole[n].tolist(), strict=True)]
        box, scores, at = numbers[:BOX], numbers[BOX:], int(found.raw[n])
        its = found.box.of(box) if isinstance(found.box, Form) else found.box(box)
        vector = Array(self.form.dtype, self.form.shape, found.window[at : at + self.form.size])
        return found.kind([frame, its, *scores, vector])


class Frames:
    """Places in the memo of a pickle where frames lie, ascending, and their digits."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count, self.last = 0, -1

    def add(self, places: np.ndarray, frames: np.ndarray, digits: np.ndarray) -> bool:
        """Whether they do ascend, as Python numbers them. They are kept then."""
        if len(places) == 0:
            return True
        if places[0] <= self.last or (np.diff(places) <= 0).any():
            return False
        self.parts.append((places.astype(np.uint32), frames.astype(np.uint32), digits.astype(np.uint8)))
        self.count, self.last = self.count + len(places), int(places[-1])
        return True

    def get(self, place: int) -> bytes | None:
        for places, frames, digits in reversed(self.parts):
            if places[0] <= place <= places[-1]:
                n = int(np.searchsorted(places, place))
                return b"%0*d" % (int(digits[n]), int(frames[n])) if places[n] == place else None
        return None


def _table(lengths: dict[bytes, int]) -> Int64[np.ndarray, " 256"]:
    """How many bytes an operation has, by its code; 0 for all others."""
    table = np.zeros(256, dtype=np.int64)
    for op, length in lengths.items():
        table[op[0]] = length
    return table


_PUT = _table({b"q": 2, b"r": 5})
_GET = _table({b"h": 2, b"j": 5})
_NUMBER = _table({b"G": 9, b"K": 2, b"M": 3, b"J": 5})
_FIRST = np.frombuffer(b"](", np.uint8)  # of a record


def _reference(place: int) -> bytes:
    return b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")


def _rows(window: UInt8[np.ndarray, " L"], width: int) -> UInt8[np.ndarray, "L_less_width {width}"]:
    """Row n is what begins at byte n. Nothing is copied."""
    return np.lib.stride_tricks.sliding_window_view(window, width)


class _Cursor:
    """n places in a window that go through one grammar side by side. ``sound`` says which of them still fit it."""

    def __init__(self, window: UInt8[np.ndarray, " L"], at: Int64[np.ndarray, " n"]) -> None:
        self.window, self.at = window, at
        self.sound = np.ones(len(at), dtype=bool)

    def op(self) -> UInt8[np.ndarray, " n"]:
        return self.window[self.at]

    def content(self, width: int, ahead: int = 0) -> UInt8[np.ndarray, "n {width}"]:
        return _rows(self.window, width)[self.at + ahead]

    def take(self, content: bytes) -> None:
        """These very bytes."""
        found = self.op() == content[0] if len(content) == 1 else (self.content(len(content)) == list(content)).all(1)
        self.sound &= found
        self.at += len(content)

    def opens(self, kind: type) -> None:
        """A list, or a tuple."""
        if kind is list:
            self.take(b"]")
            self.put()
        self.take(b"(")

    def closes(self, kind: type) -> None:
        self.take(b"e" if kind is list else b"t")
        if kind is tuple:
            self.put()

    def mostly(self, op: bytes) -> bool:
        """What most places have next. Records of a file are alike; who is not goes the long way."""
        return bool((self.op() == op[0]).mean() > 0.5)

    def put(self, where: Bool[np.ndarray, " n"] | bool = True) -> None:
        """What may go into the memo. Python 2 left some of them out."""
        self.at += _PUT[self.op()] * where

    def refer(self, place: int) -> None:
        self.take(_reference(place))

    def place(self) -> Int64[np.ndarray, " n"]:
        """The place in the memo that the operation here names, in one byte or in four."""
        place = self.content(4, 1).view("<u4")[:, 0].astype(np.int64)
        return np.where((self.op() == ord("h")) | (self.op() == ord("q")), place & 0xFF, place)

    def numbers(self, count: int) -> tuple[Float64[np.ndarray, "n {count}"], Bool[np.ndarray, "n {count}"]]:
        """``count`` numbers, and which of them are int."""
        values, whole = np.zeros((len(self.at), count)), np.zeros((len(self.at), count), dtype=bool)
        for n in range(count):
            op = self.op()
            length = _NUMBER[op]
            values[:, n] = self.content(8, 1).view(">f8")[:, 0]
            if (ints := op != ord("G")).any():
                given = self.content(4, 1).view("<i4")[:, 0]
                given = np.select([length == 2, length == 3], [given & 0xFF, given & 0xFFFF], given)
                values[ints, n], whole[:, n] = given[ints], ints
            self.sound &= length > 0
            self.at += length
        return values, whole

    def array(self, form: Form) -> Int64[np.ndarray, " n"]:
        """An array of that form: where its bytes begin."""
        self.refer(form.reconstruct)
        self.refer(form.ndarray)
        self.take(b"K\x00\x85")
        self.put()
        new = self.op() == ord("U")  # the letter b, or a reference to it
        again = _reference(form.letter)
        short, long = (self.content(len(what)) == list(what) for what in (b"U\x01b", again))
        self.sound &= np.where(new, short.all(1), long.all(1))
        self.at += np.where(new, 3, len(again))
        self.put(new)
        self.take(b"\x87")
        self.put()
        self.take(b"R")
        self.put()
        self.take(b"(K\x01" + form.side + b"\x85")
        self.put()
        self.refer(form.type)
        self.take(b"\x89" + form.length)
        raw = self.at.copy()
        self.at += form.size
        self.array_end()
        return raw

    def array_end(self) -> None:
        self.put()
        self.take(b"t")
        self.put()
        self.take(b"b")


def find(window: bytes, pos: int, forms: dict[int, Form], frames: Frames, recall: Callable[[int], Any]) -> Found | None:
    """The records that lie whole in the window; None if there are none.

    Args:
        pos: where one may begin. The others begin where one ends, or a list of them.
        forms: of arrays in the file, by their length: the longest is a vector, one of four may be a box.
        frames: what they put into the memo goes there.
        recall: what lies at a place of the memo, or None.
    """
    form = forms[max(forms)]
    content = np.frombuffer(window, np.uint8)
    last = len(window) - LINE
    starts = _starts(content, _ends(window, form), pos)
    starts = starts[(starts >= pos) & (starts <= last)]
    cursor = _Cursor(content, starts[np.isin(content[starts], _FIRST)])
    if len(cursor.at) == 0:
        return None
    starts = cursor.at.copy()
    kind = list if cursor.mostly(b"]") else tuple
    cursor.opens(kind)
    number, digits, places, referred = _frames(cursor)
    referring = cursor.mostly(b"h") or cursor.mostly(b"j")
    box = forms[BOX] if referring and BOX in forms else tuple if cursor.mostly(b"(") else list
    boxes, whole = _boxes(cursor, box)
    scores, whole_scores = cursor.numbers(_scores(cursor))
    raw = cursor.array(form)
    cursor.closes(kind)
    sound = cursor.sound
    put = sound & (places >= 0)
    if not frames.add(places[put], number[put], digits[put]):
        return None
    for place in np.unique(referred[sound & (referred >= 0)]).tolist():
        text, its = recall(place), referred == place
        if type(text) is bytes and text.isdigit() and len(text) <= DIGITS:
            number[its], digits[its] = int(text), len(text)
        else:
            sound &= ~its
    if not sound.any():
        return None
    columns = starts, cursor.at, number, digits, boxes, scores, np.hstack([whole, whole_scores]), raw
    return Found(window, form, *(column[sound] for column in columns), kind, box)


def _ends(window: bytes, form: Form) -> Int64[np.ndarray, " n"]:
    """Where the bytes of vectors end, or of what looks like one."""
    mark, at, ends = b"\x89" + form.length, 0, []
    step = len(mark) + form.size
    while (at := window.find(mark, at)) >= 0:
        at += step
        ends.append(at)
    return np.array(ends, dtype=np.int64)


def _starts(window: UInt8[np.ndarray, " L"], ends: Int64[np.ndarray, " n"], pos: int) -> Int64[np.ndarray, " m"]:
    """Where a record may begin: behind another one, or in the list of the next key. A guess: it is looked at later."""
    after = _Cursor(window, ends[ends <= len(window) - LINE])
    after.array_end()
    tupled = after.op() == ord("t")
    after.at += 1
    after.put(tupled)
    ended = after.op() == ord("e")  # the list of records: a key comes, perhaps in the next batch of the dict
    after.at += ended
    after.at += 2 * (ended & (after.op() == ord("u")))
    after.at += ended * (2 + after.window[after.at + 1].astype(np.int64))
    after.put(ended)
    after.at += ended
    after.put(ended)
    after.at += ended
    return np.unique(np.append(after.at, pos))


def _frames(cursor: _Cursor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames (n,), how many digits they have, where they go in the memo, and where they lie in it; -1 for neither."""
    written = cursor.op() == ord("U")
    text = cursor.content(2 + DIGITS)
    digits = np.where(written, text[:, 1].astype(np.int64), 0)
    cursor.sound &= ~written | ((digits > 0) & (digits <= DIGITS))
    number = np.zeros(len(digits), dtype=np.int64)
    for n in range(DIGITS):
        digit = text[:, 2 + n].astype(np.int64) - ord("0")
        its = n < digits
        cursor.sound &= ~its | ((digit >= 0) & (digit <= 9))
        number = np.where(its, 10 * number + digit, number)
    referred = np.where(~written, cursor.place(), -1)
    cursor.sound &= written | (_GET[cursor.op()] > 0)
    cursor.at += np.where(written, 2 + np.minimum(digits, DIGITS), _GET[cursor.op()])
    put = written & (_PUT[cursor.op()] > 0)
    places = np.where(put, cursor.place(), -1)
    cursor.put(written)
    return number, digits, places, referred


def _boxes(cursor: _Cursor, box: "Form | type") -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4), and which of their numbers are int."""
    if isinstance(box, Form):
        rows = _rows(cursor.window, box.size)[cursor.array(box)]
        with np.errstate(invalid="ignore"):  # of what was no box
            boxes = rows.view(box.dtype).astype(np.float64)
        return boxes, np.full(boxes.shape, box.dtype[1] in "iu")
    cursor.opens(box)
    found = cursor.numbers(BOX)
    cursor.closes(box)
    return found


def _scores(cursor: _Cursor) -> int:
    """How many numbers most records have between box and vector."""
    at, many = cursor.at, np.zeros(len(cursor.at), dtype=np.int64)
    for _ in range(SCORES):
        many += (length := _NUMBER[cursor.window[at]]) > 0
        at = at + length
    return int(np.median(many))
