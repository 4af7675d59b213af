"""Table 1 on several datasets: the order of its rows, the rank of FAMF, and what is drawn."""

import pytest

from famf_book.figures import at_a_glance
from famf_book.report import rows
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, TABLE_1

LEVELS = {variant.label: 0.5 + 0.01 * n for n, variant in enumerate(TABLE_1)}
PRINTED = EXPERIMENTS["table-1"].paper()
MANY = [n / 100 for n in range(30)]


@pytest.mark.parametrize(
    ("values", "value", "words"),
    [
        ([0.3, float("nan"), 0.1], 0.1, "2nd of 2"),
        ([0.5, 0.5], 0.5, "best of 2"),
        (MANY, 0.19, "11th of 30"),
        (MANY, 0.08, "22nd of 30"),
    ],
)
def test_rank_of_a_value(values, value, words):
    assert at_a_glance.place(values, value) == words


def test_rows_go_from_the_papers_best_to_its_worst(made_results):
    labels = at_a_glance.order({"made": rows(made_results(LEVELS), PRINTED)})
    printed = [PRINTED[label] for label in labels if PRINTED[label] is not None]
    assert labels[0] == FAMF.label and printed == sorted(printed, reverse=True)
    assert PRINTED[labels[-1]] is None and sorted(labels) == sorted(LEVELS)


def test_one_panel_per_dataset_and_one_for_the_paper(made_results):
    low = rows(made_results(LEVELS | {FAMF.label: 0.1}), PRINTED)
    few = rows(made_results({FAMF.label: 0.9, "NetVLAD + MMA": 0.8}), PRINTED)
    paper, one, two = at_a_glance.draw({"one": low, "two": few}).axes
    titles = [axes.get_title() for axes in (paper, one, two)]
    assert titles == ["the paper\nFAMF best of 6", "one\nFAMF 7th of 7", "two\nFAMF best of 2"]
    assert sorted(dots.get_offsets()[0, 0] for dots in paper.collections) == sorted(v for v in PRINTED.values() if v)
    assert len(one.lines) == 7 and len(two.lines) == 2
