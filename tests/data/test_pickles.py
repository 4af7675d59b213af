"""Pickles read without running their code: the values that Python's own reader gives, whatever the file holds."""

import io
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python2_pickle import Python2Pickler

from famf_lib.data import pickles, unpickling
from famf_lib.data.pickles import PickleError, brief
from famf_lib.support.files import ROOT

DIM = 13


def read(content, path):
    path.write_bytes(content)
    return list(pickles.items(path))


def python_2(value, puts="all"):
    out = io.BytesIO()
    Python2Pickler(out, puts).dump(value.items())
    return out.getvalue()


def plain(value):
    """With arrays as lists, so that == compares them."""
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.newbyteorder("=").str, value.shape, value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(plain(v) for v in value) if isinstance(value, list | tuple) else value


def same(found, wanted):
    return [(k, plain(v)) for k, v in found] == [(k, plain(v)) for k, v in wanted.items()]


def record(n, box=list, kind=list, floats=2):
    vector = (n + np.arange(DIM)).astype(np.float16)
    return kind([b"%d" % n, box([1.5, 2.25, 3.0 + n, 4.0]), *[0.9, -10.0][:floats], vector])


def clips(number=3, **options):
    """Some clips with some records each, of the shape of the official files."""
    return {b"CLIP_%07d" % n: [record(7 * n + m, **options) for m in range(n % 4 + 1)] for n in range(number)}


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
kinds = st.sampled_from([list, tuple])
records = st.builds(record, st.integers(0, 60_000), box=kinds, kind=kinds, floats=st.integers(0, 2))
dicts = st.dictionaries(st.binary(min_size=1, max_size=9), st.lists(records, max_size=4) | values, max_size=7)


@settings(max_examples=50)
@given(dicts, st.sampled_from(["all", "some"]))
def test_python_2_files_say_what_python_reads_from_them(tmp_path_factory, value, puts):
    content = python_2(value, puts)
    found = read(content, tmp_path_factory.mktemp("p") / "x.pickle")
    assert same(found, pickle.loads(content, encoding="bytes"))


@settings(max_examples=50)
@given(dicts, st.integers(0, 5))
def test_files_of_every_protocol_say_what_was_written(tmp_path_factory, value, protocol):
    assert same(read(pickle.dumps(value, protocol), tmp_path_factory.mktemp("p") / "x.pickle"), value)


def test_a_file_of_many_batches(tmp_path):
    value = clips(1013, kind=tuple, box=tuple)
    assert same(read(python_2(value), tmp_path / "x.pickle"), value)


def test_a_long_array_arrives_and_cannot_be_written_to(tmp_path):
    long = np.arange(70_001, dtype=np.float32)
    ((_, found),) = read(python_2({b"x": long}), tmp_path / "x")
    assert np.array_equal(found, long) and not found.flags.writeable


def test_text_that_looks_like_a_message_stays_text(tmp_path):
    value = {'{"bytes": "x"}': b'{"tuple": [1]}', "text": ["item", b'"', "\ud800", float("inf"), -0.0, 10**300]}
    assert repr(dict(read(pickle.dumps(value, 3), tmp_path / "x"))) == repr(value)


def test_an_array_that_is_begun_and_not_filled_is_empty(tmp_path):
    content = python_2({b"x": np.arange(3, dtype=np.float16)})
    begun = content[: content.index(b"(K\x01")] + b"s."
    ((_, found),) = read(begun, tmp_path / "x")
    assert plain(found) == plain(pickle.loads(begun, encoding="bytes")[b"x"])


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    pass


def array_of(length):
    """An array that states this length and holds four numbers."""
    content = python_2({b"x": np.arange(4, dtype=np.float16)})
    return content.replace(b"(K\x01K\x04\x85", b"(K\x01J" + struct.pack("<i", length) + b"\x85", 1)


EVIL = Evil(os.mkdir, "evil")  # makes a folder in the working directory
REFUSED = {
    "a call": pickle.dumps({"x": EVIL}, 2),
    "a call by its stacked name": pickle.dumps({"x": EVIL}, 4),
    "a call as a key": pickle.dumps({EVIL: 1}, 2),
    "a call by the oldest way": b"}(U\x01x(cos\nmkdir\nU\x04eviltRu.",
    "INST": b"(S'evil'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nU\x04evilo.",
    "NEWOBJ": pickle.dumps({"x": Plain()}, 2),
    "EXT1": b"\x80\x02}U\x01x\x82\x01s.",
    "PERSID": b"}U\x01xPevil\ns.",
    "BINPERSID": b"}U\x01xU\x04evilQs.",
    "a set": pickle.dumps({"x": {1}}, 4),
    "an ordered dict": pickle.dumps({"x": OrderedDict(a=1)}, 2),
    "a dict in the dict": pickle.dumps({"x": {"y": 1}}, 2),
    "an array of objects": pickle.dumps({"x": np.array([EVIL], dtype=object)}, 2),
    "an array of text": pickle.dumps({"x": np.array(["a", "b"])}, 2),
    "records": pickle.dumps({"x": np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])}, 2),
    "a list": pickle.dumps([1, 2], 2),
    "a number": pickle.dumps(7, 2),
    "numpy's own opener": b"\x80\x02}U\x01xcnumpy\nload\nU\x01y\x85Rs.",
    "a builtin": b"\x80\x02}U\x01xc__builtin__\neval\nU\x011\x85Rs.",
    "a name through a name": b"\x80\x04}\x8c\x01x\x8c\x05numpy\x8c\x0actypeslib.x\x93s.",
    "an array that states less than it holds": array_of(3),
    "an array that states more than it holds": array_of(5),
    "an array of a negative length": array_of(-4),
    "a later protocol": b"\x80\x06}.",
    "text": b"IQIYI_VID_TRAIN_0000001.mp4 1\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_dict_of_plain_things_is_refused_and_nothing_runs(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError) as refusal:
        read(REFUSED[what], tmp_path / "x.pickle")
    assert re.fullmatch(r"\S+x\.pickle: .+, expected .+", str(refusal.value))
    assert not os.path.exists("evil")
    if what in ("a call", "a call by its stacked name"):  # the same file does run in Python's own reader
        pickle.loads(REFUSED[what])
        assert os.path.exists("evil")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (REFUSED["a call"], r"posix\.mkdir"),
        (b"\x80\x04}\x8c\x01x\x8c\x05numpy\x8c\x06lo\nad\x1b\x93s.", r"numpy\.lo ad\?"),
    ],
)
def test_who_asks_for_code_is_told_by_name_on_one_line(tmp_path, content, name):
    with pytest.raises(PickleError, match=rf"x: it asks for {name}, expected .* nothing of it was run"):
        read(content, tmp_path / "x")


@pytest.mark.parametrize("end", range(0, 331, 23))
def test_a_cut_is_told(tmp_path, end):
    content = python_2(clips(2))
    with pytest.raises(PickleError, match="x: the file ends in the middle of its content, expected a whole pickle"):
        read(content[: min(end, len(content) - 1)], tmp_path / "x")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PickleError, match="gone.pickle: it cannot be read"):
        list(pickles.items(tmp_path / "gone.pickle"))


def nested(depth=60):
    """A tuple of two of a tuple of two …: 2^60 things in some hundred bytes."""
    inner = b"K\x01"
    return inner + b"".join(b"2\x86" for _ in range(depth))


ENDLESS = b"\x80\x02}" + nested() + b"K\x01s."  # the hash of this key takes for ever


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}U\x01x" + nested() + b"s.",
        b"\x80\x02}U\x01xr\xff\xff\xff\x7fs.",  # a place in the memo that Python would make room for
        b"\x80\x02}U\x01xT\xff\xff\xff\x7fs.",  # a text of 2 GB
        b"\x80\x04}U\x01x\x8e" + struct.pack("<Q", 2**62) + b"s.",
        b"\x80\x02}U\x01x\x8b\xff\xff\xff\x7fs.",  # a number of 2 GB
        b"}U\x01xI" + b"9" * 100_000 + b"\ns.",  # a number that takes long to be read
        b"\x80\x02}U\x01xcnumpy\ndtype\n" + nested() + b"\x85Rs.",  # shown in a message
        b"\x80\x02}U\x01x]q\x00h\x00as.",  # a list that holds itself
        b"\x80\x02}U\x01x" + b"]" * 100_003 + b"a" * 100_002 + b"s.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",  # a frame that long
    ],
)
def test_bombs_do_not_go_off(tmp_path, content):
    try:
        found = read(content, tmp_path / "x")
        assert len(found) == 1 and len(brief(found[0])) < 400
    except PickleError as refusal:
        assert len(str(refusal)) < 400


def test_more_memory_than_the_file_explains_is_refused(tmp_path, monkeypatch):
    """The operations are bytes, the lists that they make take 60 times the memory."""
    monkeypatch.setattr(pickles, "MEMORY", 64 << 20)
    with pytest.raises(PickleError, match=r"x: content that needs more than \d+ MB of memory, expected"):
        read(b"\x80\x02}K\x01(" + b"]" * 2_000_003 + b"ls.", tmp_path / "x")


def test_what_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "SECONDS", 1)
    with pytest.raises(PickleError, match="x: reading it takes more than 1 s of processor time, expected"):
        read(ENDLESS, tmp_path / "x")


def test_the_same_values_again_and_again_are_refused(tmp_path):
    """A small file must not fill the disk."""
    shared = [b"x" * 1000] * 2003
    with pytest.raises(PickleError, match="x: the same values again and again, expected 8 times the bytes of the file"):
        read(pickle.dumps({n: shared for n in range(53)}, 2), tmp_path / "x")


def test_a_value_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(PickleError, match="x: a value that is nested too deep or too large"):
        read(pickle.dumps({b"x": [[b"x" * 1_000_003] * 71] * 2}, 3), tmp_path / "x")
    with pytest.raises(PickleError, match="x: a value of 67 MB, expected"):
        read(pickle.dumps({b"x": np.zeros(71_000_003, dtype=np.uint8)}, 3), tmp_path / "x")


def test_a_file_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes of whatever it is given, of functions too."""
    for state in (b"}U\x0c__setstate__K\x01s", b"N}X\x08\x00\x00\x00__func__K\x01s\x86"):
        content = b"\x80\x02}U\x01xcnumpy\nndarray\n" + state + b"bs."
        with pytest.raises(PickleError, match=r"x: (damaged content|a value of type method)"):
            read(content, tmp_path / "x")


def test_a_child_that_dies_becomes_one_sentence(tmp_path, monkeypatch):
    """It may say anything before: a message that is incomplete or malformed is not read."""
    script = tmp_path / "child.py"
    monkeypatch.setattr(unpickling, "__file__", str(script))

    def read_from_child(code):
        script.write_text(f"import os, time; {code}")
        with pytest.raises(PickleError, match="x: the process that reads it stopped early") as refusal:
            read(b"", tmp_path / "x")
        return str(refusal.value)

    for words in (b"[]", b"nonsense!", b'["item", 1, 2]', b'["item", 1, 2, {"array": ["O", [1]]}]', b'[{"bytes": 7}]'):
        said = unpickling.HEAD.pack(len(words), 0) + words
        assert "early (-11)" in read_from_child(f"os.write(1, {said!r}); os.kill(os.getpid(), 11)")
    for said in (b"", b"\xff" * 99, unpickling.HEAD.pack(99, 1) + b"["):
        assert "early (-11)" in read_from_child(f"os.write(1, {said!r}); os.kill(os.getpid(), 11)")
    assert "early (-9)" in read_from_child(f"os.write(1, {b'?' * 99!r}); time.sleep(99)")


def gone(pid):
    """Whether the process has ended; what nobody waited for stays as a zombie."""
    for _ in range(600):
        try:
            if " Z " in open(f"/proc/{pid}/stat").read():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def started(monkeypatch):
    """The child processes that were started."""
    all_of_them, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: all_of_them.append(start(*a, **k)) or all_of_them[-1])
    return all_of_them


def test_the_child_ends_when_nobody_reads_on(tmp_path, started):
    (tmp_path / "x").write_bytes(python_2(clips(2003)))
    items = pickles.items(tmp_path / "x")
    next(items)
    items.close()
    assert [process.poll() for process in started] == [-signal.SIGKILL]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are looked up in /proc")
def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "x").write_bytes(ENDLESS)
    code = (
        "import subprocess; from famf_lib.data import pickles; start = subprocess.Popen;"
        "pickles.SECONDS = 1000;"
        "subprocess.Popen = lambda *a, **k: (p := start(*a, **k), print(p.pid, flush=True))[0];"
        f"list(pickles.items({str(tmp_path / 'x')!r}, lambda done: print('reading', flush=True)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "reading\n"
    parent.kill()
    parent.wait()
    assert gone(child)


READ_OR_REFUSED = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def read_or_refused(content, path):
    try:
        for item in read(content, path):
            brief(item)
    except PickleError as refusal:
        assert "\n" not in str(refusal)


@READ_OR_REFUSED
@given(st.sampled_from(SEEDS), edits)
def test_a_damaged_file_is_read_or_refused(tmp_path, content, changes):
    read_or_refused(edited(content, changes), tmp_path / "x")


@READ_OR_REFUSED
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02}", b"\x80\x04}(", b"}U\x01x("]))
def test_any_bytes_are_read_or_refused(tmp_path, content, before):
    read_or_refused(before + content, tmp_path / "x")


def test_progress_rises_to_the_end(tmp_path):
    content = python_2({b"%d" % n: np.zeros(500_009, dtype=np.uint8) for n in range(11)})
    (tmp_path / "x").write_bytes(content)
    told = []
    list(pickles.items(tmp_path / "x", told.append))
    assert told == sorted(told) and len(set(told)) > 15 and told[-1] == len(content)
