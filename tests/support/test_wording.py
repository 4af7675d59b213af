"""Numbers with their nouns: what one of something is called."""

from famf_lib.support.wording import counted, lasting, sized


def test_one_is_singular_and_all_others_plural():
    assert [counted(number, "seed") for number in (1, 0, 1009)] == ["1 seed", "0 seeds", "1,009 seeds"]
    assert [counted(number, "piece of sound") for number in (1, 2)] == ["1 piece of sound", "2 pieces of sound"]


def test_lengths_of_time_and_sizes_have_one_unit():
    found = [lasting(seconds) for seconds in (0, 31, 58, 420, 4.3 * 3600, 3600, 1.94 * 86400, 12 * 86400)]
    assert found == ["0 s", "31 s", "1 minute", "7 minutes", "4.3 hours", "1 hour", "1.9 days", "12 days"]
    assert [sized(13e6), sized(2.38e9)] == ["13 MB", "2.4 GB"]
