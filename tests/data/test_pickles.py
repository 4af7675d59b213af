"""Pickles read without running them: the values that Python's own reader gives, whatever the file holds."""

import io
import math
import os
import pickle
import re
import struct
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python2_pickle import Python2Pickler

from famf_lib.data import pickles
from famf_lib.data.pickles import Array, PickleError, Records, brief
from famf_lib.data.records import LINE

DIM = 13
ROOM = bytes(2 * LINE)  # the last bytes of a file are read operation by operation


def read(content, path):
    path.write_bytes(content)
    return list(pickles.items(path))


def python_2(value, puts="all"):
    out = io.BytesIO()
    Python2Pickler(out, puts).dump(value.items())
    return out.getvalue()


def plain(value):
    """With numpy's arrays for ours, as lists of one type, so that == compares them."""
    if isinstance(value, Array):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.newbyteorder("=").str, value.shape, value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(plain(v) for v in value) if isinstance(value, list | tuple) else value


def record(n, box=list, kind=list, floats=2):
    vector = (n + np.arange(DIM)).astype(np.float16)
    return kind([b"%d" % n, box([1.5, 2.25, 3.0 + n, 4.0]), *[0.9, -10.0][:floats], vector])


def clips(number=3, **options):
    """Some clips with some records each, of the shape of the official files."""
    return {b"CLIP_%07d" % n: [record(7 * n + m, **options) for m in range(n % 4 + 1)] for n in range(number)}


# --- the same as Python's own reader ---

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.booleans()
texts = st.binary(max_size=300) | st.integers(0, 9).map(lambda n: b"%d" % n)
arrays = st.builds(
    lambda dtype, values: np.array(values, dtype=dtype),
    st.sampled_from(["f2", "f4", "f8", ">f4", "i4", "u1", "i8", "b1"]),
    st.lists(st.integers(0, 1), max_size=7) | st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=1, max_size=5),
)
scalars = st.builds(lambda dtype, v: np.dtype(dtype).type(v), st.sampled_from(["f4", "f8", "i4"]), st.integers(-9, 9))
values = st.recursive(
    st.none() | numbers | texts | arrays | scalars,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)
records = st.builds(
    record,
    st.integers(0, 60_000),
    box=st.sampled_from([list, tuple]),
    kind=st.sampled_from([list, tuple]),
    floats=st.integers(0, 2),
)
dicts = st.dictionaries(st.binary(min_size=1, max_size=9), st.lists(records, max_size=4) | values, max_size=7)


@settings(max_examples=80)
@given(dicts, st.sampled_from(["all", "some"]))
def test_python_2_files_say_what_python_reads_from_them(tmp_path_factory, value, puts):
    content = python_2(value, puts)
    wanted = pickle.loads(content, encoding="bytes")
    found = read(content, tmp_path_factory.mktemp("p") / "x.pickle")
    assert [(k, plain(v)) for k, v in found] == [(k, plain(v)) for k, v in wanted.items()]


@settings(max_examples=60)
@given(dicts, st.integers(0, 5))
def test_files_of_every_protocol_say_what_was_written(tmp_path_factory, value, protocol):
    found = read(pickle.dumps(value, protocol), tmp_path_factory.mktemp("p") / "x.pickle")
    assert [(k, plain(v)) for k, v in found] == [(k, plain(v)) for k, v in value.items()]


@pytest.mark.parametrize("puts", ["all", "some"])
@pytest.mark.parametrize(("window", "number"), [(7, 60), (90_000, 1203), (4 << 20, 1203)])
def test_many_batches_in_windows_of_any_size(tmp_path, monkeypatch, window, number, puts):
    monkeypatch.setattr(pickles, "WINDOW", window)
    value = clips(number, kind=tuple, box=tuple)
    found = read(python_2(value, puts), tmp_path / "x.pickle")
    assert [k for k, _ in found] == list(value)
    assert all(plain(list(a)) == plain(b) for (_, a), b in zip(found, value.values(), strict=True))


def test_text_of_python_3_stays_text(tmp_path):
    assert read(pickle.dumps({"nämé": "wörd"}, 2), tmp_path / "x") == [("nämé", "wörd")]


def test_an_array_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "WINDOW", 64)
    long = np.arange(70_001, dtype=np.float32)
    ((_, found),) = read(python_2({b"x": long}), tmp_path / "x")
    assert np.array_equal(found.numpy(), long) and not found.numpy().flags.writeable


def test_whole_records_are_found_and_tell_the_same(tmp_path, monkeypatch):
    """The short way through records is taken, to the end, and the long way says the same."""
    one_digit = {b"EARLY": [record(n % 10) for n in range(30)]}  # Python 2 has each of these frames once
    content = python_2(one_digit | clips(60) | {b"LATE": [record(n % 10) for n in range(7)], b"room": ROOM})
    taken = []
    monkeypatch.setattr(pickles._Reader, "rewind", None)
    with monkeypatch.context() as patch:
        patch.setattr(pickles, "Records", lambda *given: taken.append(Records(*given)) or taken[-1])
        short = read(content, tmp_path / "x")
    alone = sum(n % 4 == 0 for n in range(60))  # records in a list of one, which is written in another way
    behind = alone + 3  # those behind them, the first of all, and what comes behind the lists of one
    assert sum(map(len, taken)) >= 30 + 150 + 7 - alone - behind
    monkeypatch.setattr(pickles, "find", lambda *given: None)
    one_by_one = read(content, tmp_path / "x")
    assert [(k, plain(v)) for k, v in short] == [(k, plain(v)) for k, v in one_by_one]


coordinates = st.floats(allow_nan=False) | st.integers(-(2**31), 2**31 - 1) | st.integers(0, 255)
frames = st.integers(0, 12) | st.integers(0, 999_999_999)


@st.composite
def alike(draw):
    """Records of one form, with whatever values, in one list."""
    kind, floats = draw(st.sampled_from([(list, 0), (list, 1), (list, 2), (tuple, 1), (tuple, 2)]))
    box = draw(st.sampled_from([list, tuple, np.array, np.float32]))
    number = coordinates if box in (list, tuple) else st.integers(-999, 999).map(float)
    made = []
    for frame in draw(st.lists(frames, min_size=2, max_size=5)):
        numbers = draw(st.lists(number, min_size=4, max_size=4))
        scores = draw(st.lists(coordinates, min_size=floats, max_size=floats))
        vector = np.frombuffer(draw(st.binary(min_size=2 * DIM, max_size=2 * DIM)), dtype=np.float16)
        made.append(kind([b"%0*d" % (draw(st.integers(1, 4)), frame), box(numbers), *scores, vector]))
    return made


def bits(value):
    """As ``plain``, with NaN equal to itself and an int not equal to a float."""
    return repr(plain(value))


@settings(max_examples=60)
@given(st.lists(alike(), min_size=1, max_size=2), st.sampled_from(["all", "some"]))
def test_records_read_many_at_once_are_those_of_python(tmp_path_factory, lists, puts):
    path = tmp_path_factory.mktemp("p") / "x.pickle"
    path.write_bytes(python_2({b"CLIP_%d" % n: one for n, one in enumerate(lists)} | {b"room": ROOM}, puts))
    wanted = pickle.loads(path.read_bytes(), encoding="bytes")
    unpacked, taken = {}, 0
    for key, found in pickles.items(path, packed=True):
        taken += sum(len(one) for one in found if isinstance(one, Records))
        unpacked[key] = [r for one in found for r in (one if isinstance(one, Records) else [one])]
    assert {k: bits(v) for k, v in unpacked.items()} | {b"room": bits(ROOM)} == {k: bits(v) for k, v in wanted.items()}
    assert taken == len(lists[0]) - 1 or len(lists) > 1  # the first one teaches what records look like


@settings(max_examples=40)
@given(alike())
def test_columns_of_records_hold_what_their_records_do(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("p") / "x.pickle"
    path.write_bytes(python_2({b"x": made, b"room": ROOM}))
    found = next(pickles.items(path, packed=True))[1]
    one, *others = [r for r in found if isinstance(r, Records)]
    assert not others and [bits(r) for r in one] == [bits(r) for r in made[1:]] and bits(one[-1]) == bits(made[-1])
    many, scores = made[1:], len(made[0]) - 3
    assert one.frames.tolist() == [int(r[0]) for r in many]
    assert one.boxes.tolist() == [list(r[1]) for r in many] and one.boxes.shape == (len(many), 4)
    assert one.scores.tolist() == [list(r[2 : 2 + scores]) for r in many]
    assert one.vectors.tobytes() == b"".join(r[-1].tobytes() for r in many) and one.vectors.shape == (len(one), DIM)


@settings(max_examples=150)
@given(st.data())
def test_a_record_with_a_byte_changed_reads_as_operation_by_operation(tmp_path_factory, data):
    """Whatever byte is another: what is read at once is what the long way reads. That one may find more to refuse."""
    path = tmp_path_factory.mktemp("p") / "x.pickle"
    content = bytearray(python_2({b"x": [record(n) for n in range(8, 14)], b"room": ROOM}))
    place = data.draw(st.integers(content.index(b"U\x019"), content.index(b"U\x04room")))
    content[place] = data.draw(st.integers(0, 255) | st.sampled_from(b"hjqrUGKMJ]()et."))
    said = []
    for way in (pickles.find, lambda *given: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pickles, "find", way)
            try:
                said.append([(bits(k), bits(v)) for k, v in read(bytes(content), path)])
            except PickleError as refusal:
                said.append(str(refusal))
    assert said[0] == said[1] or type(said[1]) is str


def test_an_array_that_is_begun_and_not_filled_is_empty(tmp_path):
    content = python_2({b"x": np.arange(3, dtype=np.float16)})
    begun = content[: content.index(b"(K\x01")] + b"u."
    ((_, found),) = read(begun, tmp_path / "x")
    assert plain(found) == plain(pickle.loads(begun, encoding="bytes")[b"x"])


# --- what refers to what ---


def with_reference(place, at=b"CLIP_0000040"):
    """A file of many clips with a reference to that place of the memo, which is read and thrown away."""
    content = python_2(clips(60))
    before = content.index(b"U" + bytes([len(at)]) + at)
    return content[:before] + b"j" + struct.pack("<I", place) + b"0" + content[before:]


def test_a_reference_to_what_a_record_left_out_is_read_the_long_way(tmp_path, monkeypatch):
    went_back = []
    rewind = pickles._Reader.rewind
    monkeypatch.setattr(pickles._Reader, "rewind", lambda self, root: went_back.append(1) or rewind(self, root))
    content = with_reference(300)
    wanted = pickle.loads(content, encoding="bytes")
    found = read(content, tmp_path / "x")
    assert went_back == [1]
    assert [(k, plain(v)) for k, v in found] == [(k, plain(v)) for k, v in wanted.items()]


def test_a_reference_to_nothing_is_refused(tmp_path):
    with pytest.raises(PickleError, match="a reference to part 99999 of an earlier item at byte"):
        read(with_reference(99_999), tmp_path / "x")


def test_small_text_of_an_early_batch_is_remembered_and_lists_are_not(tmp_path):
    name, shared = b"a name that comes back", [b"1"]
    value = {b"%d" % n: (name if n % 3 else n) for n in range(2100)}
    assert dict(read(pickle.dumps(value, 2), tmp_path / "x")) == value
    with pytest.raises(PickleError, match="expected items that stand alone"):
        read(pickle.dumps({n: shared for n in range(1001)}, 2), tmp_path / "x")
    assert len(read(pickle.dumps({n: shared for n in range(999)}, 2), tmp_path / "x")) == 999  # within one batch


# --- what is not there to be read ---


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touched(place):
    return Evil(os.mkdir, str(place))


REFUSED = {
    "a call": lambda place: pickle.dumps({"x": touched(place)}, 2),
    "a call by its stacked name": lambda place: pickle.dumps({"x": touched(place)}, 4),
    "a call as a key": lambda place: pickle.dumps({touched(place): 1}, 2),
    "a call by the oldest way": lambda place: b"}(U\x01x(cos\nmkdir\nU\x04" + b"evil" + b"tRu.",
    "INST": lambda place: b"(S'" + str(place).encode() + b"'\nios\nmkdir\n.",
    "OBJ": lambda place: b"(cos\nmkdir\nU\x04evilo.",
    "NEWOBJ": lambda place: pickle.dumps({"x": Plain()}, 2),
    "EXT1": lambda place: b"\x80\x02}U\x01x\x82\x01s.",
    "PERSID": lambda place: b"}U\x01xPevil\ns.",
    "BINPERSID": lambda place: b"}U\x01xU\x04evilQs.",
    "a set": lambda place: pickle.dumps({"x": {1}}, 4),
    "an ordered dict": lambda place: pickle.dumps({"x": OrderedDict(a=1)}, 2),
    "a dict in the dict": lambda place: pickle.dumps({"x": {"y": 1}}, 2),
    "an array of objects": lambda place: pickle.dumps({"x": np.array([touched(place)], dtype=object)}, 2),
    "an array of text": lambda place: pickle.dumps({"x": np.array(["a", "b"])}, 2),
    "records": lambda place: pickle.dumps({"x": np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])}, 2),
    "a list": lambda place: pickle.dumps([1, 2], 2),
    "a number": lambda place: pickle.dumps(7, 2),
    "numpy's own opener": lambda place: b"\x80\x02}U\x01xcnumpy\nload\nU\x01y\x85Rs.",
    "a builtin": lambda place: b"\x80\x02}U\x01xc__builtin__\neval\nU\x011\x85Rs.",
    "a name through a name": lambda place: b"\x80\x04}\x8c\x01x\x8c\x05numpy\x8c\x0actypeslib.x\x93s.",
    "an array that states less than it holds": lambda place: array_of(3, 8),
    "an array that states more than it holds": lambda place: array_of(5, 8),
    "an array of a negative length": lambda place: array_of(-4, 8),
    "a later protocol": lambda place: b"\x80\x06}.",
    "text": lambda place: b"IQIYI_VID_TRAIN_0000001.mp4 1\n",
    "nothing": lambda place: b"",
}


class Plain:
    pass


def array_of(length, number):
    """An array of float16 of that length, with that many bytes."""
    content = python_2({b"x": np.arange(4, dtype=np.float16)})
    return content.replace(b"(K\x01K\x04\x85", b"(K\x01J" + struct.pack("<i", length) + b"\x85", 1)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_dict_of_plain_things_is_refused_and_nothing_runs(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "evil"
    with pytest.raises(PickleError) as refusal:
        read(REFUSED[what](place), tmp_path / "x.pickle")
    assert re.fullmatch(r"\S+x\.pickle: .+ at byte [\d,]+, expected .+", str(refusal.value))
    assert not place.exists()
    if "call" in what and "oldest" not in what:  # the same file does run in Python's own reader
        pickle.loads(REFUSED[what](place)) if what != "a call as a key" else None
        assert what == "a call as a key" or place.exists()


def test_who_asks_for_code_is_told_by_name(tmp_path):
    with pytest.raises(PickleError, match=r"it asks for posix\.mkdir at byte .* nothing of it was run"):
        read(pickle.dumps({"x": touched(tmp_path / "evil")}, 2), tmp_path / "x")


def test_the_words_of_a_file_stay_on_one_line(tmp_path):
    with pytest.raises(PickleError, match=r"it asks for numpy\.lo\?ad\? at byte"):
        read(b"\x80\x04}\x8c\x01x\x8c\x05numpy\x8c\x06lo\nad\x1b\x93s.", tmp_path / "x")


def test_every_cut_is_told(tmp_path):
    content = python_2(clips(2))
    for end in range(len(content)):
        with pytest.raises(PickleError, match=r"at byte [\d,]+, expected"):
            read(content[:end], tmp_path / "x")


def test_items_before_a_fault_are_handed_out(tmp_path):
    content = python_2(clips(1500))
    (tmp_path / "x").write_bytes(content[:-5000])
    found = []
    with pytest.raises(PickleError, match="cut off"):
        for name, _ in pickles.items(tmp_path / "x"):
            found.append(name)
    assert found == list(clips(1000))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PickleError, match="gone.pickle: it cannot be read"):
        list(pickles.items(tmp_path / "gone.pickle"))


# --- what is made to hurt ---


def nested(depth=60):
    """A tuple of two of a tuple of two …: 2^60 things in some hundred bytes."""
    inner = b"K\x01"
    return inner + b"".join(b"2\x86" for _ in range(depth))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + nested() + b"K\x01s.",  # as a key, whose hash would take for ever
        b"\x80\x02}U\x01x" + nested() + b"s.",
        b"\x80\x02}U\x01xr\xff\xff\xff\x7fs.",  # a place in the memo that Python would make room for
        b"\x80\x02}U\x01xT\xff\xff\xff\x7fs.",  # a text of 2 GB
        b"\x80\x04}U\x01x\x8e" + struct.pack("<Q", 2**62) + b"s.",
        b"\x80\x02}U\x01x\x8b\xff\xff\xff\x7fs.",  # a number of 2 GB
        b"}U\x01xI" + b"9" * 100_000 + b"\ns.",  # a number that takes long to be read
        b"\x80\x02}U\x01xcnumpy\ndtype\n" + nested() + b"\x85Rs.",  # shown in a message
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
    ],
)
def test_bombs_do_not_go_off(tmp_path, content):
    try:
        found = read(content, tmp_path / "x")
        assert len(found) == 1 and len(brief(found[0])) < 400
    except PickleError as refusal:
        assert len(str(refusal)) < 400


def test_an_item_without_an_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "OPERATIONS", 50_000)
    monkeypatch.setattr(pickles, "WINDOW", 10_000)
    with pytest.raises(PickleError, match=r"an item that began at byte 3 has not ended at byte \d\d,\d\d\d,"):
        read(b"\x80\x02}" + b"]" * 1_000_000, tmp_path / "x")
    monkeypatch.setattr(pickles, "BATCH", 300_000)  # strings count for that
    with pytest.raises(PickleError, match="has not ended"):
        read(b"\x80\x02}(" + (b"B" + struct.pack("<I", 9000) + bytes(9000)) * 100, tmp_path / "x")


def test_a_memo_without_an_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "REMEMBERED", 500)
    monkeypatch.setattr(pickles, "WINDOW", 5000)
    with pytest.raises(PickleError, match=r"\d+ things to remember at byte [\d,]+, expected 500 at most"):
        read(python_2({b"key %d" % n: 1 for n in range(3000)}), tmp_path / "x")


# --- whatever the file holds ---

SEEDS = [
    python_2(clips(9)),
    python_2(clips(4, kind=tuple, box=tuple, floats=0), "some"),
    *(pickle.dumps({"a": [1, 2.5, "x", (None, True)], "b": np.arange(5.0), "c": np.float32(1)}, p) for p in range(6)),
]
edits = st.lists(
    st.tuples(st.sampled_from(["change", "cut", "double", "insert"]), st.floats(0, 0.999), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def edited(content, changes):
    content = bytearray(content)
    for how, where, value in changes:
        place = int(where * len(content))
        if how == "change" and content:
            content[place] = value
        elif how == "cut":
            del content[place : place + value % 40]
        elif how == "double":
            content[place:place] = content[place : place + value]
        else:
            content[place:place] = bytes([value])
    return bytes(content)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), edits)
def test_a_damaged_file_is_read_or_refused(tmp_path, content, changes):
    try:
        for item in read(edited(content, changes), tmp_path / "x"):
            brief(item)
    except PickleError as refusal:
        assert "\n" not in str(refusal)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02}", b"\x80\x04}(", b"}U\x01x("]))
def test_any_bytes_are_read_or_refused(tmp_path, content, before):
    try:
        for item in read(before + content, tmp_path / "x"):
            brief(item)
    except PickleError as refusal:
        assert "\n" not in str(refusal)


def test_progress_rises_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "WINDOW", 5000)
    content = python_2(clips(300))
    (tmp_path / "x").write_bytes(content)
    told = []
    list(pickles.items(tmp_path / "x", told.append))
    assert told == sorted(told) and len(told) > 5 and math.isclose(told[-1], len(content), abs_tol=10_000)
