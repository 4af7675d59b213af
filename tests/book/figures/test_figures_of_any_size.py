"""Every figure can be drawn from a table of any size and has a row for each of its lines."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from famf_book import plots
from famf_book.figures import (
    at_a_glance,
    attention,
    cluster_weights,
    readings,
    weights,
)
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison

TRAITS = [*weights.EASIER, *(f"trait {n}" for n in range(17))]


def names(n):
    return [f"name {i}" for i in range(n)]


def table(**columns):
    """One row for each combination of the values of the columns, with an interval."""
    rows = pd.DataFrame(list(product(*columns.values())), columns=list(columns))
    rows["seeds"] = [[0.0, 0.2]] * len(rows)
    return rows.assign(mean=0.5, low=0.4, high=0.6, ours=0.5, paper=np.nan)


def comparisons(n):
    return [Comparison("A", case, "", 0.1, Estimate(0.01, -0.02, 0.04, 5, 11)) for case in names(n)]


# By figure: how to make it with a size of n, and the labels of its rows; None for the labels of an axis of numbers.
FIGURES = {
    "matrices": (
        lambda n: attention.heatmaps(dict.fromkeys(names(n % 5), pd.DataFrame(0.3, names(n), names(n))), "", low=-1.0),
        None,
    ),
    "blocks": (
        lambda n: attention.block_heatmaps({"panel": table(row=names(n), column=names(n)).assign(share=0.2, even=0.1)}),
        lambda n: names(n) + ["if even"] if n == 1 else None,  # seaborn thins out the labels of many rows
    ),
    "φ": (
        lambda n: cluster_weights.strip(table(row=cluster_weights.GRADED, seed=range(n), cluster=[1, 2]).assign(φ=0.5)),
        lambda n: [f"seed {seed}" for seed in range(n)],
    ),
    "readings": (
        lambda n: readings.forest(
            table(question=names(n), reading=["B"]).assign(**{"instead of": "A", "difference": 0.5, "outcome": "worse"})
        ),
        lambda n: [f"{question}, instead of A:" for question in names(n)] + ["B"] * n,
    ),
    "correlations": (
        lambda n: weights.correlations_figure(table(label=["A", "B"], trait=TRAITS[:n])),
        lambda n: [weights.EASIER.get(trait, trait) for trait in TRAITS[:n]],
    ),
    "fifths": (lambda n: weights.fifths_figure(table(trait=TRAITS[:n], fifth=range(1, 6))), None),
    "nothing known": (
        lambda n: weights.correlations_figure(table(label=["A"], trait=TRAITS[:n]).assign(mean=np.nan)),
        None,
    ),
    "at a glance": (
        lambda n: at_a_glance.draw(dict.fromkeys(names(n % 3), table(label=names(n)).set_index("label"))),
        None,
    ),
    "levels": (
        lambda n: plots.levels(table(label=names(n)).set_index("label"), pd.DataFrame(0.5, names(n), [1, 2])),
        names,
    ),
    "differences": (lambda n: plots.differences(comparisons(n)), names),
}


@pytest.mark.parametrize("size", [0, 1, 11])
@pytest.mark.parametrize("name", FIGURES)
def test_figure_of_any_size(name, size):
    make, rows = FIGURES[name]
    figure = make(size)
    figure.canvas.draw()
    if rows is not None and (expected := rows(size)) is not None:
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == expected
