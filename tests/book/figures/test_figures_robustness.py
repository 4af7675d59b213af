"""Ruined frames: losses and comparisons from the answers of the probe, and their figures."""

import itertools

import numpy as np
import pandas as pd
import pytest

from famf_book.figures import robustness
from famf_lib.evidence.claims import Verdict
from famf_lib.experiments.catalogue import TABLE_1

PERSONS, SEEDS = 11, 5
SHARES = (0.0, 0.5, 0.9)
LABELS = [variant.label for variant in TABLE_1]


@pytest.fixture
def ruined(made_results):
    """Makes results in which a row loses slope × share, and twice that to strangers, plus noise."""

    def make(slopes):
        results = made_results(dict.fromkeys(LABELS, 0.6), seeds=SEEDS, persons=PERSONS)
        rng = np.random.default_rng(5)
        rows = []
        for (label, seed), kind, share in itertools.product(results.runs, ("poor", "stranger"), SHARES):
            lost = slopes.get(label, 0.1) * share * (2 if kind == "stranger" else 1)
            for person in range(PERSONS):
                ap = 0.6 + 0.01 * person - lost + 0.002 * rng.normal()
                rows.append((label, seed, kind, share, person, ap))
        results.answers["ruined"] = pd.DataFrame(rows, columns=["label", "seed", "kind", "share", "person", "ap"])
        return results

    return make


def test_levels_and_losses_are_those_of_the_answers(ruined):
    results = ruined({"NetVLAD + MMA": 0.3})
    table = robustness.levels(results).set_index(["kind", "label", "share"])
    means = results.answers["ruined"].groupby(["kind", "label", "share"])["ap"].mean()
    assert len(table) == len(means) == 2 * 7 * 3
    for key, value in means.items():
        assert table.loc[key, "mean"] == pytest.approx(value)
        assert table.loc[key, "low"] < value < table.loc[key, "high"]
    lost = robustness.loss(results, LABELS[2], "stranger", 0.9)
    table = results.answers["ruined"].set_index(["label", "seed", "kind", "share", "person"])["ap"]
    for seed, person in itertools.product(range(1, SEEDS + 1), range(PERSONS)):
        intact, left = (table[LABELS[2], seed, "stranger", share, person] for share in (0.0, 0.9))
        assert lost[seed - 1, person] == pytest.approx(intact - left)


def test_signs_of_comparisons(ruined):
    results = ruined({"NetVLAD + MMA": 0.3, "NetVLAD + MLMA": 0.1, "Mean pooling + Concat": 0.02})
    found = {(c.claim, c.case): c for c in robustness.comparisons(results)}
    assert len(found) == 3 * 2 * 2
    over_mma = found["AttentionVLAD + MMA loses less than NetVLAD + MMA", "90% strangers"]
    assert over_mma.ours.mean == pytest.approx((0.3 - 0.1) * 2 * 0.9, abs=0.005)
    assert over_mma.verdict == Verdict.HOLDS
    over_mean = found["AttentionVLAD + MLMA loses less than Mean pooling + Concat", "50% poor faces"]
    assert over_mean.ours.mean == pytest.approx((0.02 - 0.1) * 0.5, abs=0.005)
    assert over_mean.verdict == Verdict.DOES_NOT_HOLD


def test_answer_and_table(ruined):
    results = ruined({"NetVLAD + MMA": 0.3, "AttentionVLAD + MLMA": 0.2})
    compared = robustness.comparisons(results)
    text = robustness.answer(results, compared)
    assert "“AttentionVLAD + MMA loses less than NetVLAD + MMA”: **holds** in all 4" in text
    assert "“AttentionVLAD + MLMA loses less than NetVLAD + MLMA”: **does not hold** in all 4" in text
    lost = robustness.loss(results, "AttentionVLAD + MLMA", "poor", 0.9).mean()
    assert f"With 90% poor faces, AttentionVLAD + MLMA loses {lost:.3f} mAP" in text
    one = compared[-1]
    expected = f"{one.ours.mean:+.3f} [{one.ours.low:+.3f}, {one.ours.high:+.3f}] {one.verdict}"
    assert robustness.shown(compared).loc[one.case, one.claim] == expected
