import pytest

from famf_lib.support.wording import counted, first_line, lasting, listed, named, plain, sized


def test_one_is_singular_and_all_others_plural():
    assert [counted(number, "seed") for number in (1, 0, 1009)] == ["1 seed", "0 seeds", "1,009 seeds"]
    assert [counted(number, "piece of sound") for number in (1, 2)] == ["1 piece of sound", "2 pieces of sound"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\nb\tc\r", "a b c"), ("\x1b[2J", "?[2J"), ("\u202etxt", "?txt"), ("\udcff陳", "?陳"), ("", "")],
)
def test_what_a_terminal_would_obey_is_not_printed(text, line):
    assert plain(text) == line


def test_the_middle_of_long_text_is_left_out():
    assert plain("a" * 10**6 + "b" * 10**6, 30) == 20 * "a" + " … " + 10 * "b"
    assert plain("a" * 999, None) == "a" * 999
    assert [listed("abc", 2), listed([]), listed("ab")] == ["a, b and 1 more", "nothing", "a, b"]


def test_an_error_is_told_by_its_first_line_or_its_class():
    assert first_line(ValueError("\n \nshape\t(3,)\nmore")) == "shape (3,)"
    assert [first_line(ZeroDivisionError(text)) for text in ("", "\n")] == ["ZeroDivisionError"] * 2
    assert named(KeyError("a" * 999), 9) == "KeyError: 'aaaaa … aa'" and len(first_line(OSError("a" * 10**6))) < 1_009


def test_lengths_of_time_and_sizes_have_one_unit():
    found = [lasting(seconds) for seconds in (0, 31, 58, 420, 4.3 * 3600, 3600, 1.94 * 86400, 12 * 86400)]
    assert found == ["0 s", "31 s", "1 minute", "7 minutes", "4.3 hours", "1 hour", "1.9 days", "12 days"]
    assert [sized(13e6), sized(2.38e9)] == ["13 MB", "2.4 GB"]
