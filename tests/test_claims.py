"""The rule of the verdicts, on made-up estimates of every outcome."""

import pytest

from famf_lib.claims import MARGIN, RULE, Comparison, Verdict, better
from famf_lib.statistics import Estimate


def made(low, high):
    return Estimate((low + high) / 2, low, high, seeds=5, persons=11)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.010, 0.030, Verdict.HOLDS),
        (0.001, 0.004, Verdict.HOLDS),  # small, but there
        (-0.030, -0.010, Verdict.DOES_NOT_HOLD),
        (-0.010, 0.004, Verdict.DOES_NOT_HOLD),  # whatever it is, it is below the margin
        (-0.010, 0.010, Verdict.CANNOT_TELL),
        (0.0, 0.010, Verdict.CANNOT_TELL),  # the interval touches 0
        (-0.010, MARGIN, Verdict.CANNOT_TELL),
    ],
)
def test_rule(low, high, verdict):
    assert better(made(low, high)) == verdict


def test_rule_is_printed_with_its_margin():
    assert str(MARGIN) in RULE and "95%" in RULE


def test_sentence_carries_the_numbers():
    one = Comparison("A over B", "with C", "A + C", "B + C", 0.0364, made(0.01, 0.03))
    for part in ("A + C over B + C", "+0.0200", "[+0.0100, +0.0300]", "5 seeds", "11 persons", "holds", "+0.0364"):
        assert part in one.sentence()
    assert "paper" not in Comparison("A", "B", "a", "b", None, made(0.01, 0.03)).sentence()
