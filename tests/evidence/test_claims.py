import pytest

from famf_lib.evidence import claims
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import BETTER, BY_MARGIN, HEADROOM, MARGIN, NOT_WORSE, SAME, Comparison, Verdict

HOLDS, FAILS, UNKNOWN = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL
EASY, DEPENDS = Verdict.TOO_EASY, Verdict.DEPENDS


def made(low, high):
    return Estimate((low + high) / 2, low, high, seeds=5, persons=11)


@pytest.mark.parametrize(
    ("low", "high", "better", "same", "not_worse", "by_margin"),
    [
        (0.010, 0.030, HOLDS, FAILS, HOLDS, HOLDS),
        (0.001, 0.004, HOLDS, HOLDS, HOLDS, FAILS),  # small, but there; too small to matter
        (0.001, 0.010, HOLDS, UNKNOWN, HOLDS, UNKNOWN),
        (-0.030, -0.010, FAILS, FAILS, FAILS, FAILS),
        (-0.010, 0.004, FAILS, UNKNOWN, UNKNOWN, FAILS),  # whatever it is, it is below the margin
        (-0.010, 0.010, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
        (-0.004, 0.004, FAILS, HOLDS, HOLDS, FAILS),
        (-0.004, 0.010, UNKNOWN, UNKNOWN, HOLDS, UNKNOWN),
        (0.0, 0.010, UNKNOWN, UNKNOWN, HOLDS, UNKNOWN),  # the interval touches 0
        (-0.010, MARGIN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
        (-0.007, -0.001, FAILS, UNKNOWN, UNKNOWN, FAILS),
        (MARGIN, 0.020, HOLDS, UNKNOWN, HOLDS, UNKNOWN),  # touches the margin: neither within nor outside
        (-MARGIN, 0.004, FAILS, UNKNOWN, UNKNOWN, FAILS),
        (-0.020, -MARGIN, FAILS, UNKNOWN, UNKNOWN, FAILS),
    ],
)
def test_rules(low, high, better, same, not_worse, by_margin):
    found = [rule.judge(made(low, high), MARGIN) for rule in (BETTER, SAME, NOT_WORSE, BY_MARGIN)]
    assert found == [better, same, not_worse, by_margin]


def test_the_band_holds_the_negligible_effects():
    bands = [rule.band(0.25) for rule in (BETTER, SAME, NOT_WORSE, BY_MARGIN)]
    assert bands == [(0, 0.25), (-0.25, 0.25), (-0.25, 0), (-0.25, 0.25)]


def test_without_headroom_a_comparison_is_too_easy_to_tell():
    """Whatever the interval says, if mean pooling leaves less than four margins to a perfect mAP."""
    for low, high in ((0.01, 0.03), (-0.03, -0.01), (-0.01, 0.01)):
        for rule in (BETTER, SAME, NOT_WORSE):
            easy, hard, unknown = (
                Comparison("A", "B", "a over b", None, made(low, high), rule, headroom=room)
                for room in (HEADROOM - 1e-9, HEADROOM, None)
            )
            assert easy.verdict == EASY
            assert hard.verdict == unknown.verdict == rule.judge(made(low, high), MARGIN)


@pytest.mark.parametrize(
    ("deciding", "others", "verdict"),
    [
        (HOLDS, [HOLDS, HOLDS], HOLDS),
        (HOLDS, [UNKNOWN, EASY], HOLDS),  # nothing contradicts it
        (FAILS, [UNKNOWN, FAILS], FAILS),
        (HOLDS, [FAILS, HOLDS], DEPENDS),
        (FAILS, [HOLDS, FAILS], DEPENDS),
        (UNKNOWN, [HOLDS, HOLDS], UNKNOWN),  # the deciding setting decides
        (UNKNOWN, [HOLDS, FAILS], DEPENDS),
        (EASY, [EASY, EASY], EASY),
        (FAILS, [], FAILS),
    ],
)
def test_a_verdict_that_another_setting_contradicts_depends_on_the_setting(deciding, others, verdict):
    assert claims.across(deciding, others) == claims.across(deciding, others[::-1]) == verdict


def test_a_claim_of_several_parts():
    for parts, verdict in (
        ([HOLDS], HOLDS),
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, UNKNOWN], UNKNOWN),
        ([HOLDS, FAILS], FAILS),
        ([UNKNOWN, FAILS], FAILS),
    ):
        assert claims.combined(parts) == claims.combined(parts[::-1]) == verdict
        assert claims.combined(parts, ["what the data lack"]) == (FAILS if verdict == FAILS else UNKNOWN)
    for parts, verdict in (([HOLDS, EASY], EASY), ([UNKNOWN, EASY], EASY), ([FAILS, EASY], FAILS)):
        assert claims.combined(parts) == claims.combined(parts[::-1]) == verdict
    with pytest.raises(ValueError, match="verdicts: none"):
        claims.combined([])
    assert claims.parts_held([HOLDS, FAILS, HOLDS, UNKNOWN, EASY]) == "2 of 5 parts hold"
    assert claims.parts_held([HOLDS, FAILS]) == "1 of 2 parts holds" and claims.parts_held([HOLDS]) == ""


def test_the_sentence_carries_the_numbers_and_no_interval_where_there_is_none():
    one = Comparison("A over B", "with C", "A + C over B + C", 0.0364, made(0.01, 0.03))
    for part in ("A + C over B + C", "+0.0200", "[+0.0100, +0.0300]", "5 seeds", "11 persons", "holds", "+0.0364"):
        assert part in one.sentence()
    assert "paper" not in Comparison("A", "B", "a over b", None, made(0.01, 0.03)).sentence()
    worked_out = Estimate(3.0, 3.0, 3.0, seeds=0, persons=0)
    sentence = Comparison("A needs more than B", "C", "A less B", None, worked_out, margin=0.0).sentence()
    assert "+3.0000. “A" in sentence and not any(word in sentence for word in ("[", "seeds", "persons"))


@pytest.mark.parametrize(
    ("low", "high", "rule", "small"),
    [
        (0.001, 0.004, BETTER, True),
        (0.001, 0.014, BETTER, False),  # its middle lies above the margin
        (-0.002, 0.004, BETTER, False),  # it does not hold
        (-0.002, 0.004, SAME, False),  # to be small is what is claimed
    ],
)
def test_a_negligible_effect_that_holds_is_named(low, high, rule, small):
    assert Comparison("A", "B", "a over b", None, made(low, high), rule).small == small


def test_a_claim_that_fails_by_equivalence_says_so():
    outcome = {
        (low, high): Comparison("A", "B", "a over b", None, made(low, high)).outcome
        for low, high in ((-0.004, 0.004), (-0.03, -0.01), (-0.01, 0.004))
    }
    assert list(outcome.values()) == ["does not hold: no practical difference", "does not hold", "does not hold"]
