"""Ruined frames: losses and comparisons from the probe's answers, and the figures of them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from famf_book.figures import robustness
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison, Verdict
from famf_lib.experiments.catalogue import TABLE_1

PERSONS, SEEDS = 11, 5
SHARES = (0.0, 0.5, 0.9)
LABELS = [variant.label for variant in TABLE_1]


@pytest.fixture
def ruined(made_results):
    """Makes Results in which a row loses its slope times the share, and twice that to strangers, but for a little."""

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


def test_levels_are_the_means_of_the_answers(ruined):
    results = ruined({"NetVLAD + MMA": 0.3})
    table = robustness.levels(results).set_index(["kind", "label", "share"])
    told = results.answers["ruined"].groupby(["kind", "label", "share"])["ap"].mean()
    assert len(table) == len(told) == 2 * 7 * 3
    for key, value in told.items():
        assert table.loc[key, "mean"] == pytest.approx(value)
        assert table.loc[key, "low"] < value < table.loc[key, "high"]


def test_loss_is_paired_by_seed_and_person(ruined):
    results = ruined({})
    lost = robustness.loss(results, LABELS[2], "stranger", 0.9)
    table = results.answers["ruined"].set_index(["label", "seed", "kind", "share", "person"])["ap"]
    for seed, person in itertools.product(range(1, SEEDS + 1), range(PERSONS)):
        whole = table[LABELS[2], seed, "stranger", 0.0, person]
        left = table[LABELS[2], seed, "stranger", 0.9, person]
        assert lost[seed - 1, person] == pytest.approx(whole - left)


def test_comparisons_take_the_right_sides(ruined):
    results = ruined({"NetVLAD + MMA": 0.3, "NetVLAD + MLMA": 0.1, "Mean pooling + Concat": 0.02})
    found = {(c.claim, c.case): c for c in robustness.comparisons(results)}
    assert len(found) == 3 * 2 * 2
    over_mma = found["AttentionVLAD + MMA loses less than NetVLAD + MMA", "90% strangers"]
    assert over_mma.ours.mean == pytest.approx((0.3 - 0.1) * 2 * 0.9, abs=0.005)
    assert over_mma.verdict == Verdict.HOLDS
    over_mean = found["AttentionVLAD + MLMA loses less than Mean pooling + Concat", "50% poor faces"]
    assert over_mean.ours.mean == pytest.approx((0.02 - 0.1) * 0.5, abs=0.005)
    assert over_mean.verdict == Verdict.DOES_NOT_HOLD


def test_answer_gives_verdicts_and_the_losses_of_the_worst_share(ruined):
    results = ruined({"NetVLAD + MMA": 0.3, "AttentionVLAD + MLMA": 0.2})
    text = robustness.answer(results, robustness.comparisons(results))
    assert "“AttentionVLAD + MMA loses less than NetVLAD + MMA”: **holds** in all 4" in text
    assert "“AttentionVLAD + MLMA loses less than NetVLAD + MLMA”: **does not hold** in all 4" in text
    lost = robustness.loss(results, "AttentionVLAD + MLMA", "poor", 0.9).mean()
    assert f"With 90% poor faces AttentionVLAD + MLMA loses {lost:.3f} of mAP" in text
    assert "50%" not in text


def test_table_has_a_cell_a_comparison(ruined):
    compared = robustness.comparisons(ruined({}))
    shown = robustness.shown(compared)
    assert shown.shape == (4, 3)
    one = compared[-1]
    assert shown.loc[one.case, one.claim].startswith(f"{one.ours.mean:+.3f} [{one.ours.low:+.3f}")
    assert shown.loc[one.case, one.claim].endswith(str(one.verdict))
    assert robustness.shown([]).empty


@pytest.mark.parametrize(("kinds", "labels", "shares"), [(0, 0, 0), (1, 1, 1), (2, 7, 5), (2, 60, 40)])
def test_levels_of_any_number(kinds, labels, shares):
    names = (LABELS + [f"row {n}" for n in range(60)])[:labels]
    rows = list(itertools.product(list(robustness.KINDS)[:kinds], names, np.linspace(0, 0.9, shares)))
    table = pd.DataFrame(rows, columns=["kind", "label", "share"]).assign(mean=0.5, low=0.4, high=0.6)
    figure = robustness.levels_figure(table)
    figure.canvas.draw()
    for axes in figure.axes[:kinds]:
        assert len([line for line in axes.lines if len(line.get_xdata())]) == labels
        assert len(axes.get_xticks()) == shares


@pytest.mark.parametrize(("claims", "cases"), [(0, 0), (1, 1), (3, 8), (3, 70)])
def test_losses_of_any_number(claims, cases):
    compared = [
        Comparison(f"A loses less than {n}", f"case {m}", "", None, Estimate(0.01, -0.02, 0.04, 5, 11))
        for n in range(claims)
        for m in range(cases)
    ]
    figure = robustness.losses_figure(compared)
    figure.canvas.draw()
    assert len(figure.axes) == max(claims, 1)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [f"case {m}" for m in range(cases)]
