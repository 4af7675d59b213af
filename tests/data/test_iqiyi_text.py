import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from famf_lib.data.iqiyi_text import OfficialFileError, read_submission, read_train, read_val, write_submission
from famf_lib.support.files import ROOT

READERS = (read_train, read_val, read_submission)

TRAIN = b"IQIYI_VID_TRAIN_0000007.mp4 11\nIQIYI_VID_TRAIN_00000007.mp4 2\nIQIYI_VID_TRAIN_0000003.mp4 11\n"
VAL = b"2 IQIYI_VID_VAL_0000005.mp4 \n11 IQIYI_VID_VAL_0000013.mp4 IQIYI_VID_VAL_0000001.mp4 \n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "gt.txt"

    def written(content):
        path.write_bytes(content)
        return path

    return written


def sentence(read, path, *arguments):
    with pytest.raises(OfficialFileError) as caught:
        read(path, *arguments)
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said and ", expected " in said
    return said.removeprefix(str(path))


def test_each_kind_of_line_is_read_as_it_stands(file):
    expected = {"IQIYI_VID_TRAIN_0000007": "11", "IQIYI_VID_TRAIN_00000007": "2", "IQIYI_VID_TRAIN_0000003": "11"}
    assert list(read_train(file(TRAIN)).items()) == list(expected.items())  # 7 and 8 digits are different names
    expected = {"2": ["IQIYI_VID_VAL_0000005"], "11": ["IQIYI_VID_VAL_0000013", "IQIYI_VID_VAL_0000001"]}
    assert read_val(file(VAL)) == expected
    content = b"11 b.mp4 a.mp4 b.mp4\n7\nann a.mp4\n"
    assert read_submission(file(content)) == {"11": ["b", "a", "b"], "7": [], "ann": ["a"]}
    assert read_submission(file("zoë ñ.mp4\n".encode())) == {"zoë": ["ñ"]}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda content: content, {}),
        (lambda content: content.rstrip(), {}),
        (lambda content: content.replace(b" \n", b"\n"), {}),
        (lambda content: content.replace(b" ", b"  \t"), {}),
        (lambda content: b"\xef\xbb\xbf" + content, {"byte-order marks": 1}),
        (lambda content: content.replace(b"\n", b"\r\n"), {"lines that end as on Windows": "all"}),
    ],
)
@pytest.mark.parametrize(("read", "content"), [(read_train, TRAIN), (read_val, VAL)])
def test_odd_spaces_line_ends_and_marks_change_nothing(file, read, content, change, note):
    expected, notes = read(file(content)), Counter()
    assert read(file(change(content)), notes=notes) == expected
    assert notes == {kind: content.count(b"\n") if n == "all" else n for kind, n in note.items()}


FIELDS, MARK = "lines with too few or too many fields", "names without .mp4"
PLAIN, IDS = "lines that are no plain text", "ids that are none"
NUMBER = "found, expected a whole number from 1 to 10034"
NO_IDS = (b"0", b"10035", b"-1", b"+1", b"1.0", b"1_0", b"007", b"ann", b"1e3", b"9" * 30)
FAULTS = [
    (read_train, b"", "a blank line found, expected NAME.mp4 ID", "blank lines"),
    (read_train, b"b.mp4", "1 fields found, expected NAME.mp4 ID", FIELDS),
    (read_train, b"b.mp4 2 3", "3 fields found, expected NAME.mp4 ID", FIELDS),
    (read_train, b"b 2", "the name 'b' found, expected one that ends with .mp4", MARK),
    (read_train, b".mp4 2", "the name '.mp4' found, expected one that ends with .mp4", MARK),
    (read_train, b"b.MP4 2", "the name 'b.MP4' found", MARK),
    (read_train, b"x" * 300 + b" 2", f"the name '{'x' * 37}…' found", MARK),
    *((read_train, b"b.mp4 " + word, f"the id {word.decode()!r} {NUMBER}", IDS) for word in NO_IDS),
    (read_train, b"a.mp4 2", "clip 'a' found a second time, expected one line per clip", "clips named again"),
    (read_train, b"a.mp4 1", "clip 'a' found a second time, expected one line per clip", "clips named again"),
    (read_train, b"caf\xe9.mp4 2", r"'caf\xe9.mp4' found, expected printable ASCII", PLAIN),
    (read_train, "é.mp4 2".encode(), r"'\xc3\xa9.mp4' found, expected printable ASCII", PLAIN),
    (read_train, b"b.mp4 \x00", r"'\x00' found, expected printable ASCII", PLAIN),
    (read_val, b"", "a blank line found, expected ID NAME.mp4", "blank lines"),
    (read_val, b"2", "the id 2 without a clip found, expected ID NAME.mp4", "ids without a clip"),
    (read_val, b"0 b.mp4 ", f"the id '0' {NUMBER}", IDS),
    (read_val, b"b.mp4 2", f"the id 'b.mp4' {NUMBER}", IDS),
    (read_val, b"2 b ", "the name 'b' found, expected one that ends with .mp4", MARK),
    (read_val, b"1 b.mp4 ", "a second line for the id 1 found, expected one line per id", "ids with a second line"),
    (read_val, b"2 a.mp4 ", "clip 'a' found again after the id 1, expected every clip once", "clips named again"),
    (read_val, b"2 \xff.mp4 ", r"'\xff.mp4' found, expected printable ASCII", PLAIN),
]
AROUND = {read_train: (b"a.mp4 1\n", b"c.mp4 3\n"), read_val: (b"1 a.mp4 \n", b"3 c.mp4 \n")}


@pytest.mark.parametrize(("read", "line", "said", "kind"), FAULTS)
def test_a_fault_is_a_sentence_or_skipped_and_counted(file, read, line, said, kind):
    before, after = AROUND[read]
    path, notes = file(before + line + b"\n" + after), Counter()
    assert sentence(read, path).startswith(f", line 2: {said}")
    assert sentence(read, path, "stop", notes) and not notes
    assert read(path, "skip") == read(path, "skip", notes) == read(file(before + after))
    assert notes == {kind: 1}


def test_a_faulty_name_costs_the_others_of_its_line_nothing(file):
    notes = Counter()
    content = b"1 a.mp4 b c.mp4 a.mp4 \n2 d.mp4 c.mp4 e.mp4 \n"
    assert read_val(file(content), "skip", notes) == {"1": ["a", "c"], "2": ["d", "e"]}
    assert notes == {"names without .mp4": 1, "clips named again": 2}


@pytest.mark.parametrize(
    "content", [b"1 a.mp4 b,c.mp4\n2\n", b"a,b x.mp4\n", b"\xef\xbb\xbf1\ta.mp4\tb,c.mp4\r\n2\r\n"]
)
def test_commas_within_names_tabs_and_windows_are_no_fault(file, content):
    words = [line.split() for line in content.decode("utf-8-sig").splitlines()]
    assert read_submission(file(content)) == {w[0]: [name.removesuffix(".mp4") for name in w[1:]] for w in words}


SPACE = "without a space found, expected ID NAME.mp4 NAME.mp4 …"
ENDS = "found, expected one that ends with .mp4"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "a blank line found"),
        (b"7 b.mp4", "a second line for the id '7' found, expected one line per id"),
        (b"2 b.mp4 c", f"the name 'c' {ENDS}"),
        (b"2 \xff.mp4", r"'\xff.mp4' found, expected printable UTF-8"),
        (b"2 \xc2\xa0.mp4", r"'\xa0.mp4' found, expected printable UTF-8"),
        (b"1,a.mp4,b.mp4", f"'1,a.mp4,b.mp4' {SPACE}"),
        (b"1,a.mp4", f"'1,a.mp4' {SPACE}"),
        (b"1;a.mp4;b.mp4\r", f"'1;a.mp4;b.mp4' {SPACE}"),
        (b'"1","a.mp4"', f'\'"1","a.mp4"\' {SPACE}'),
        (b"1|a.mp4|b.mp4", f"'1|a.mp4|b.mp4' {SPACE}"),
        (b"1,a.mp4, b.mp4", f"'1,a.mp4,' {SPACE}"),
        (b"1 a.mp4,b.mp4", f"'a.mp4,b.mp4' {SPACE}"),
        (b"1\ta.mp4;b.mp4 c.mp4", f"'a.mp4;b.mp4' {SPACE}"),
        (b"1, a.mp4, b.mp4", f"'a.mp4,' {SPACE}"),
        (b"1 val/a.mkv", f"the name 'val/a.mkv' {ENDS}"),
        (b"id names", f"the name 'names' {ENDS}"),
        (b"\xff\xfe1\x00 \x00a\x00", r"'\xff\xfe1\x00' found, expected printable UTF-8"),  # UTF-16
    ],
)
def test_a_faulty_submission_is_not_scored(file, line, said):
    assert sentence(read_submission, file(b"7 c.mp4\n" + line + b"\n")).startswith(f", line 2: {said}")


@pytest.mark.parametrize("read", READERS)
def test_a_file_without_valid_lines_is_refused(file, read, tmp_path):
    assert sentence(read, file(b"")).startswith(": an empty file found, expected lines of the form ")
    assert "it cannot be read (No such file or directory)" in sentence(read, tmp_path / "absent.txt")
    assert "it cannot be read (Is a directory)" in sentence(read, tmp_path)
    if read != read_submission:
        assert ": 3 lines and none valid found" in sentence(read, file(b"\n\x00\n\n"), "skip")
        other = file(VAL if read == read_train else TRAIN)  # one list is not taken for the other
        assert ", line 1: " in sentence(read, other) and "none valid" in sentence(read, other, "skip")


@pytest.mark.parametrize(("read", "faults"), [("read_train", "stop"), ("read_val", "skip")])
def test_a_line_without_end_is_not_read_whole(tmp_path, read, faults):
    """A file of 1 GB (none of it on the disk) in a process that may not have as much."""
    path = tmp_path / "gt.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    code = (
        "import resource, sys; from famf_lib.data import iqiyi_text;"
        " before = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"try: iqiyi_text.{read}(sys.argv[1], {faults!r})\n"
        "except iqiyi_text.OfficialFileError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT)
    said, kilobytes = done.stdout.splitlines()
    assert f"{path}, line 1: more than 1,048,576 bytes without a line end found, expected " in said
    assert int(kilobytes) < 1 << 16


WORDS = st.sampled_from(
    [b"1", b"2", b"10034", b"10035", b"0", b"a.mp4", b"b.mp4", b"a", b".mp4", b" ", b"\n", b"\r\n", b"\t", b"\xff"]
    + [b"\x00", "é".encode(), b"\xef\xbb\xbf", b"\x0c", b"\x1c"]
)
SEVERAL = st.lists(WORDS, max_size=20)
CONTENT = st.binary(max_size=80) | SEVERAL.map(b" ".join) | SEVERAL.map(b"".join)


@given(CONTENT, st.sampled_from(["stop", "skip"]))
@example(b"\xef\xbb\xbf", "skip")
@example(b"1 \x1c.mp4", "skip")
def test_any_bytes_are_read_or_refused(file, content, faults):
    path, notes = file(content), Counter()
    for read, arguments in ((read_train, (faults, notes)), (read_val, (faults, notes)), (read_submission, ())):
        try:
            found = read(path, *arguments)
        except OfficialFileError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        if read == read_train:
            assert found and all(found) and all(1 <= int(person) <= 10034 for person in found.values())
        if read == read_val:
            names = [name for own in found.values() for name in own]
            assert found and all(found.values()) and len(set(names)) == len(names)
    assert all(kind and n > 0 for kind, n in notes.items())


@given(CONTENT)
def test_what_stops_nothing_skips_nothing(file, content):
    path, notes = file(content), Counter()
    for read in (read_train, read_val):
        try:
            strict = read(path)
        except OfficialFileError:
            continue
        assert read(path, "skip", notes) == strict
    assert set(notes) <= {"byte-order marks", "lines that end as on Windows"}


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=9)


@given(st.dictionaries(names, st.lists(names, max_size=5), min_size=1, max_size=7))
def test_a_submission_comes_back_as_it_was_written(file, ranked):
    path = write_submission(file(b"earlier"), ranked)
    assert read_submission(path) == ranked
    assert path.read_bytes().decode().splitlines() == [
        " ".join([person, *(f"{name}.mp4" for name in own)]) for person, own in ranked.items()
    ]


@given(st.lists(st.integers(1, 10034), min_size=1, max_size=9, unique=True), st.data())
def test_the_lists_come_back_too(file, persons, data):
    clips = data.draw(st.lists(st.integers(0, 10**8), min_size=len(persons), max_size=25, unique=True))
    truth = {str(p): [f"V_{n:07d}" for n in clips[i :: len(persons)]] for i, p in enumerate(persons)}
    lines = [f"{p} " + "".join(f"{n}.mp4 " for n in own) + "\n" for p, own in truth.items()]
    assert read_val(file("".join(lines).encode())) == truth
    owner = {name: p for p, own in truth.items() for name in own}
    assert read_train(file("".join(f"{n}.mp4 {p}\n" for n, p in owner.items()).encode())) == owner


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=3), min_size=1, max_size=3), st.none()
)
@example({"Ann Bee": ["a"]}, "refused")
@example({"1": ["a"], "2": [""]}, "refused")
@example({"1": ["a\n2 b"]}, "refused")
@example({"\ufeff": ["a"]}, "refused")
@example({"1": ["\udce9"]}, "refused")
@example({"1": ["a\u2028"]}, "refused")
def test_what_is_written_can_be_read_and_the_rest_is_refused(file, ranked, refused):
    path = file(b"earlier")
    try:
        write_submission(path, ranked)
    except OfficialFileError as error:
        assert path.read_bytes() == b"earlier" and list(path.parent.iterdir()) == [path]
        assert "\n" not in str(error) and "cannot be written, expected printable characters and no space" in str(error)
    else:
        assert not refused and read_submission(path) == ranked


def test_a_folder_is_not_written_over(tmp_path):
    (tmp_path / "out" / "precious").mkdir(parents=True)
    with pytest.raises(OfficialFileError, match=": a folder found, expected the name of a file to write"):
        write_submission(tmp_path / "out", {"1": ["a"]})
    assert (tmp_path / "out" / "precious").is_dir()
    (tmp_path / "file").write_text("earlier")
    with pytest.raises(OfficialFileError, match=r"it cannot be written \(.+\), expected a place for it"):
        write_submission(tmp_path / "file" / "below", {"1": ["a"]})
