"""Rank-1 and mAP by the number of training clips, on made-up answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from famf_book.figures import training_clips
from famf_lib.evidence.bootstrap import difference, estimate
from famf_lib.evidence.claims import Verdict

NUMBER = np.array([1, 1, 1, 2, 2, 3, 4, 4, 5, 7, 8, 30, 31])  # training clips of 13 persons


@pytest.fixture
def results(made_results):
    """Two rows; person p has p % 3 + 1 ranked clips, and there are noise clips.

    A recognises all clips of persons with more than four training clips, B the first clip of each person.
    """
    found = made_results({"A": 0.6, "B": 0.5}, noise=0.02)
    lines = [("A", seed, p, n > 4, n) for seed in found.seeds for p, n in enumerate(NUMBER) for _ in range(p % 3 + 1)]
    lines += [("B", s, p, i == 0, n) for s in found.seeds for p, n in enumerate(NUMBER) for i in range(p % 3 + 1)]
    lines += [(label, seed, -1, False, 0) for label in "AB" for seed in found.seeds] * 3
    columns = ["label", "seed", "person", "right", "trained"]
    return replace(found, answers={"answers": pd.DataFrame(lines, columns=columns)})


@pytest.mark.parametrize(
    ("number", "least", "expected"),
    [
        ([[1, 1, 2, 2, 3, 4, 5, 8, 9, 16]], 2, [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16)]),
        ([[1, 2, 2, 3, 4, 5, 8, 9]], 2, [(1, 2), (3, 4), (5, 16)]),  # one with 1, one with 9: both bins are merged
        ([[5, 5, 5, 5]], 3, [(1, 8)]),
        ([[1, 2]], 9, [(1, 2)]),  # too few for any bin: one bin of all
        ([[1, np.nan, 2, 2], [1, 1, 2, np.nan]], 1.5, [(1, 1), (2, 2)]),  # two runs, 1.5 persons per bin on average
        ([[np.nan, np.nan]], 2, []),
    ],
)
def test_bins_double_and_hold_enough_persons(number, least, expected):
    number = np.array(number, dtype=float)
    found = training_clips.bins(number, least)
    assert found == expected
    inside = sum(training_clips._inside(number, *each) for each in found)
    assert (inside == ~np.isnan(number)).all() if found else not np.sum(inside)


def test_rank_1_and_map_are_means_over_the_persons_of_a_bin(results):
    table = training_clips.by_clips(results).set_index(["row", "measure", "clips"]).sort_index()
    assert list(table.loc[("A", "rank-1")].index) == ["1–2", "3+"]
    few, many = NUMBER <= 2, NUMBER >= 3
    assert table.loc[("A", "rank-1", "3+"), "mean"] == pytest.approx((NUMBER[many] > 4).mean())
    of_b = np.array([1 / (p % 3 + 1) for p in range(13)])
    assert table.loc[("B", "rank-1", "1–2"), "mean"] == pytest.approx(of_b[few].mean())
    for inside, bin in ((few, "1–2"), (many, "3+")):
        naive = estimate(results.ap("B")[:, inside])
        line = table.loc[("B", "mAP", bin)]
        assert (line["mean"], line["low"], line["high"]) == pytest.approx((naive.mean, naive.low, naive.high))
        assert line["persons"] == inside.sum()
    assert list(training_clips.side_by_side(table.reset_index(), "mAP")["persons"]) == ["5", "8"]


def test_a_person_counts_in_the_bin_of_the_run(results):
    """Each seed has a new split: person 0 has 1 clip in the first run and 30 in the others."""
    answers = results.answers["answers"].copy()
    answers.loc[(answers["person"] == 0) & (answers["seed"] > 1), "trained"] = 30
    moved = replace(results, answers={"answers": answers})
    table = training_clips.by_clips(moved).set_index(["row", "measure", "clips"]).sort_index()
    ap = results.ap("A")
    number = np.tile(NUMBER, (5, 1))
    number[1:, 0] = 30
    assert list(table.loc[("A", "mAP")].index) == ["1–4", "5+"]  # 4.2 persons in 1–2 are too few
    by_run = [ap[s][number[s] <= 4].mean() for s in range(5)]
    assert table.loc[("A", "mAP", "1–4"), "mean"] == pytest.approx(np.mean(by_run))
    assert table.loc[("A", "mAP", "1–4"), "persons"] == pytest.approx((8 + 4 * 7) / 5)


def test_gain_is_paired(results):
    found = training_clips.gains(results, "A", "B").set_index(["measure", "clips"])
    naive = difference(results.ap("A")[:, NUMBER >= 3], results.ap("B")[:, NUMBER >= 3])
    line = found.loc[("mAP", "3+")]
    assert (line["mean"], line["low"], line["high"]) == pytest.approx((naive.mean, naive.low, naive.high))
    assert line["verdict"] == Verdict.HOLDS
    assert found.loc[("rank-1", "1–2"), "verdict"] == Verdict.DOES_NOT_HOLD


def levels(means):
    return pd.DataFrame(
        [("A", "rank-1", f"{n}", 7.0, m, m, m) for n, m in enumerate(means, start=1)], columns=training_clips.COLUMNS
    )


def test_enough_holds_for_all_larger_bins():
    means = {(0.2, 0.9, 0.95): "2", (0.95, 0.5, 0.9): "3", (0.95, 0.91): "1", (0.95, 0.5): None, (): None}
    assert {m: training_clips.enough(levels(m), "A") for m in means} == means


def test_answer_follows_the_numbers(results):
    table, gained = training_clips.by_clips(results), training_clips.gains(results, "A", "B")
    text = training_clips.answer(table, gained, "A", "B", "FAMF")
    assert text.startswith("The rank-1 of FAMF is 0.0% [0.0%, 0.0%] for persons with 1–2 training clips and 62.5% [")
    assert "does not reach 90%" in text and "Compared with B, it gains mAP with 1–2, 3+ training clips." in text
    other = training_clips.gains(results, "B", "A")
    assert "with A, it loses mAP with 1–2, 3+ training clips." in training_clips.answer(table, other, "B", "A")
    other["high"] = 0.001  # still does not hold
    assert "its gain is negligible with 1–2, 3+ training clips." in training_clips.answer(table, other, "B", "A")
