"""Numbers with their nouns: what one of something is called."""

import pytest

from famf_lib.support.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "told"),
    [
        (1, "seed", "1 seed"),
        (0, "seed", "0 seeds"),
        (1009, "clip", "1,009 clips"),
        (1, "piece of sound", "1 piece of sound"),
        (2, "piece of sound", "2 pieces of sound"),
    ],
)
def test_one_is_singular_and_all_others_plural(number, noun, told):
    assert counted(number, noun) == told
