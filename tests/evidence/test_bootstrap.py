import numpy as np
import pytest
from scipy.stats import t

from famf_lib.evidence.bootstrap import Estimate, difference, estimate
from famf_lib.evidence.claims import BETTER, MARGIN, NOT_WORSE, SAME, Verdict


@pytest.mark.parametrize(
    ("seeds", "persons", "of_seed", "of_person", "of_both"),
    [(5, 41, 0.03, 0.0, 0.05), (5, 31, 0.05, 0.30, 0.20)],
)
def test_interval_covers_the_truth_as_often_as_it_says(seeds, persons, of_seed, of_person, of_both):
    rng = np.random.default_rng(7)
    covered, trials = 0, 150
    for trial in range(trials):
        ap = 0.5 + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_person, (1, persons))
        found = estimate(ap + rng.normal(0, of_both, (seeds, persons)), seed=trial)
        covered += found.low <= 0.5 <= found.high
    # 95 % minus three binomial standard deviations; a wider interval is cautious, not wrong.
    assert 0.90 * trials <= covered <= trials


def test_interval_is_not_wider_than_it_need_be():
    rng = np.random.default_rng(3)
    ap = np.repeat(rng.normal(0.5, 0.2, (1, 211)), 7, axis=0)
    classical = 1.96 * ap[0].std(ddof=1) / np.sqrt(211)
    found = estimate(ap)
    assert (found.high - found.low) / 2 == pytest.approx(classical, rel=0.06)


@pytest.mark.parametrize(("seeds", "persons"), [(5, 1), (1, 7)])
def test_few_seeds_or_few_persons_alone_have_the_interval_of_student(seeds, persons):
    """Drawing n of n instead of n − 1 would make it a tenth narrower, and the normal quantile at least a fifth."""
    rng, n, ratios = np.random.default_rng(13), seeds * persons, []
    for trial in range(60):
        ap = rng.normal(0.5, 0.1, (seeds, persons))
        classical = t.ppf(0.975, n - 1) * ap.std(ddof=1) / np.sqrt(n)
        found = estimate(ap, seed=trial)
        ratios.append((found.high - found.low) / 2 / classical)
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)


def test_of_two_seeds_either_is_drawn():
    """Both ends by hand: 0.5 ± 0.1, stretched by 12.7062 of Student's t with one degree of freedom over 1.95996."""
    found = estimate(np.array([[0.4], [0.6]]))
    assert (found.low, found.high) == pytest.approx((0.5 - 0.64829, 0.5 + 0.64829), abs=1e-5)


def test_mean_is_that_of_seeds_and_leaves_absent_persons_out():
    ap = np.array([[0.2, 0.4, np.nan], [0.5, np.nan, 0.9]])
    assert estimate(ap).mean == pytest.approx(((0.2 + 0.4) / 2 + (0.5 + 0.9) / 2) / 2)
    assert (estimate(ap).seeds, estimate(ap).persons) == (2, 3)
    found = estimate(np.full((3, 5), 0.5))
    assert found.mean == found.low == found.high == 0.5


def test_pairing_removes_what_both_sides_share_and_has_a_sign():
    rng = np.random.default_rng(5)
    base = rng.uniform(0, 1, (5, 67))
    found = difference(base + 0.01, base)
    assert found.mean == pytest.approx(0.01)
    assert found.high - found.low < 1e-9
    unpaired = estimate(base)
    assert unpaired.high - unpaired.low > 0.02
    rng = np.random.default_rng(6)
    a, b = rng.uniform(0, 1, (5, 41)), rng.uniform(0, 1, (5, 41))
    forth, back = difference(a, b), difference(b, a)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.low == pytest.approx(-back.high, abs=0.01)
    assert forth == difference(a, b), "the same numbers twice"


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="no person has a value"):
        estimate(np.array([[0.1, 0.2], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(3, 2\)"):
        difference(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("truth", "rule"),
    [(0.0, BETTER), (MARGIN, SAME), (-MARGIN, SAME), (-MARGIN, NOT_WORSE)],
    ids=["no effect called better", "an effect called none", "a loss called none", "a loss called no loss"],
)
def test_a_claim_at_the_edge_of_its_rule_holds_by_chance_as_seldom_as_it_should(truth, rule):
    """Paired APs of two methods with a true difference on the border: each verdict "holds" is a false one."""
    rng = np.random.default_rng(11)
    seeds, persons, trials, at_most, false = 5, 37, 250, 0.025, 0
    for _ in range(trials):
        b = rng.normal(0.6, 0.2, (1, persons)) + rng.normal(0, 0.01, (seeds, persons))
        a = b + truth + rng.normal(0, 0.0008, (seeds, 1)) + rng.normal(0, 0.004, (1, persons))
        a = a + rng.normal(0, 0.006, (seeds, persons))
        false += rule.judge(difference(a, b), MARGIN) == Verdict.HOLDS
    assert false <= trials * at_most + 3 * np.sqrt(trials * at_most)  # plus three standard deviations of the count


def test_equivalence_is_found_where_it_is_true_and_the_data_suffice():
    rng = np.random.default_rng(12)
    b = rng.normal(0.6, 0.2, (5, 211))
    close = b + 0.001 + rng.normal(0, 0.01, b.shape)
    assert SAME.judge(difference(close, b), MARGIN) == Verdict.HOLDS
    assert SAME.judge(difference(close[:, :7], b[:, :7] + rng.normal(0, 0.05, (5, 7))), MARGIN) == Verdict.CANNOT_TELL
    assert SAME.judge(difference(b + 0.02 + rng.normal(0, 0.01, b.shape), b), MARGIN) == Verdict.DOES_NOT_HOLD


def test_an_estimate_is_written_with_true_minus_signs_in_any_format():
    found = Estimate(-0.0123, -0.25, 0.5, seeds=2, persons=3)
    assert f"{found:+.3f}" == "−0.012 [−0.250, +0.500]" and f"{found:.0%}" == "−1% [−25%, 50%]"
    assert str(found) == f"{found}" == "−0.0123 [−0.2500, 0.5000]"
