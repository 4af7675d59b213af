from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from famf_lib.evidence import calibration
from famf_lib.evidence.bootstrap import estimate
from famf_lib.evidence.calibration import ALL, KNOWN


def clips(seeds=3, persons=17, noise=0, seed=0, power=2.0):
    """Answers of which the more confident are more often right; the number per person differs between runs."""
    rng = np.random.default_rng(seed)
    tables = []
    for s in range(1, seeds + 1):
        who = np.repeat(np.arange(persons), rng.integers(1, 8, persons))
        sure = rng.random(len(who) + noise)
        right = rng.random(len(sure)) < sure**power
        right[len(who) :] = False
        unit = np.concatenate([who, -1 - np.arange(noise)])
        tables.append(pd.DataFrame({"seed": s, "unit": unit, "confidence": sure, "right": right}))
    return pd.concat(tables, ignore_index=True)


def test_each_noise_clip_is_a_unit_of_its_own_in_every_run(made_results):
    keys = [(label, s, p, p == 0) for label in ("A", "B") for s in (1, 2) for p in (-1, 0, 3, -1, -1, 0)]
    answers = pd.DataFrame(keys, columns=["label", "seed", "person", "right"]).assign(confidence=0.5, trained=1)
    results = replace(made_results({"A": 0.5, "B": 0.5}, seeds=2), answers={"answers": answers})
    found = calibration.clips_by_row(results)
    assert list(found) == [("A", KNOWN), ("A", ALL), ("B", KNOWN), ("B", ALL)]
    for s in (1, 2):
        of = found["B", ALL]
        assert list(of["unit"][of["seed"] == s]) == [-1, 0, 3, -2, -3, 0]
    assert set(found["A", KNOWN]["unit"]) == {0, 3}


def test_share_is_the_mean_over_clips_and_its_interval_that_of_the_bootstrap():
    table = clips()
    assert calibration.share(table, table["right"]).mean == pytest.approx(table["right"].mean())
    some = table["confidence"] > 0.4
    assert calibration.of_right(table, some).mean == pytest.approx(table["right"][some].mean())
    assert calibration.share(table, table["right"], some).mean == pytest.approx(table["right"][some].mean())
    with pytest.raises(ValueError, match="clips: none"):
        calibration.share(table, table["right"], some & ~some)
    ap = np.random.default_rng(1).random((3, 17))  # one clip per person: as for AP
    table = pd.DataFrame({"seed": np.repeat([1, 2, 3], 17), "unit": np.tile(np.arange(17), 3)})
    ours, theirs = calibration.share(table, pd.Series(ap.ravel())), estimate(ap)
    assert (ours.low, ours.high, ours.persons) == pytest.approx((theirs.low, theirs.high, 17))


def naive_area(sure, right):
    """The mean risk over all coverages, by definition."""
    wrong = ~right[np.argsort(-sure, kind="stable")]
    return np.mean([wrong[:k].mean() for k in range(1, len(wrong) + 1)])


def test_interval_of_the_area_is_that_of_resampled_persons():
    table = clips(seeds=1, persons=61, seed=3)
    sure, right = table["confidence"].to_numpy(), table["right"].to_numpy()
    of = list(table.groupby("unit").indices.values())
    rng = np.random.default_rng(0)
    rows = [np.concatenate([of[n] for n in rng.integers(len(of), size=len(of))]) for _ in range(500)]
    low, high = np.quantile([naive_area(sure[r], right[r]) for r in rows], [0.025, 0.975])
    found = calibration.area(table)
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert found.mean == pytest.approx(naive_area(sure, right))


def test_bins_are_those_of_scikit_learn():
    table = clips(persons=53)
    found = calibration.reliability(table, 7)
    right, sure = calibration_curve(table["right"], table["confidence"], n_bins=7, strategy="quantile")
    assert found["right"].to_numpy() == pytest.approx(right)
    assert found["confidence"].to_numpy() == pytest.approx(sure)
    assert found["clips"].sum() == len(table) and found["clips"].max() - found["clips"].min() <= 1
    assert (found["low"] <= found["right"]).all() and (found["right"] <= found["high"]).all()
    assert found["low"].min() >= 0 and found["high"].max() <= 1

    table = table.assign(confidence=1.0)  # equal confidences are one bin
    found = calibration.reliability(table)
    assert len(found) == 1 and found["clips"][0] == len(table)
    assert calibration.calibration_error(table).mean == pytest.approx(1 - table["right"].mean())


def test_calibration_error_is_the_gap_averaged_over_clips():
    table = clips(persons=53)
    place = pd.qcut(table["confidence"], 10, labels=False)
    bins = [(len(of) / len(table), of["right"].mean() - of["confidence"].mean()) for _, of in table.groupby(place)]
    naive = sum(share * abs(gap) for share, gap in bins)
    assert calibration.calibration_error(table).mean == pytest.approx(naive)
    over = calibration.overconfidence(table)
    assert over.mean == pytest.approx(table["confidence"].mean() - table["right"].mean()) and over.low > 0
    assert calibration.overconfidence(table.assign(confidence=table["confidence"] / 9)).high < 0


def test_the_order_of_clips_of_equal_confidence_does_not_matter():
    sure, right = [0.9, 0.5, 0.5, 0.5, 0.2], [True, True, False, False, True]
    table = pd.DataFrame({"seed": 1, "unit": range(5), "confidence": sure, "right": right})
    areas = []
    for order in permutations([1, 2, 3]):
        wrong = [1 - right[n] for n in (0, *order, 4)]
        areas.append(np.mean([np.mean(wrong[:k]) for k in range(1, 6)]))
    assert calibration.area(table).mean == pytest.approx(np.mean(areas))
    assert calibration.area(table.iloc[::-1].reset_index(drop=True)).mean == pytest.approx(np.mean(areas))


def test_curve_ends_at_the_share_of_errors_and_is_zero_for_perfect_confidence():
    table = clips(persons=53)
    curve = calibration.risk_coverage(table)
    assert curve["coverage"].iloc[-1] == 1 and curve["risk"].iloc[-1] == pytest.approx(1 - table["right"].mean())
    assert np.isclose(curve["coverage"][curve["low"].notna()].to_numpy(), calibration.COVERAGES).all()
    half = curve.set_index(curve["coverage"].round(2)).loc[0.5]
    wrong = []
    for _, run in table.groupby("seed"):
        wrong += list(~run.sort_values("confidence", ascending=False)["right"][: len(run) // 2])
    assert half["risk"] == pytest.approx(np.mean(wrong)) and half["low"] <= half["risk"] <= half["high"]
    perfect = table.assign(confidence=table["right"] * 0.5 + table["confidence"] / 10)
    curve = calibration.risk_coverage(perfect)
    assert (curve["risk"][curve["coverage"] < table.groupby("seed")["right"].mean().min()] == 0).all()


@pytest.mark.parametrize(
    ("sure", "right", "wanted", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 1.0, 0.8),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1], 0.75, 0.6),  # the lowest that gives it, not the first to fail
        ([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0], 1.0, 0.9),  # equal confidences are answered or refused together
        ([0.9, 0.8], [0, 1], 0.99, np.inf),
    ],
)
def test_threshold(sure, right, wanted, expected):
    table = pd.DataFrame({"confidence": sure, "right": np.array(right, dtype=bool)})
    assert calibration.threshold(table, wanted) == expected


def test_no_person_sets_the_threshold_for_their_own_clips():
    table = clips(seeds=2, persons=29, noise=7)
    before = calibration.kept(table, 0.8)
    assert 0 < before.mean() < 1
    even = table["unit"] % 2 == 0
    after = calibration.kept(table.assign(right=table["right"] & ~even), 0.8)  # all clips of even persons are wrong
    assert (after[even] == before[even]).all()
    assert not after[~even].any()
    one = table["seed"] == 1
    assert (calibration.kept(table[one], 0.8) == before[one]).all()  # runs are independent
