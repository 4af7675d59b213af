"""Every figure can be drawn from a table of any size and has a row for each of its lines."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from famf_book import plots
from famf_book.figures import (
    at_a_glance,
    confidence,
    curves,
    missing,
    modalities,
    robustness,
    training_clips,
)
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison, Verdict

BOTH = [confidence.KNOWN, confidence.ALL]


def names(n):
    return [f"name {i}" for i in range(n)]


def table(**columns):
    """One row for each combination of the values of the columns, with an interval."""
    rows = pd.DataFrame(list(product(*columns.values())), columns=list(columns))
    rows["seeds"] = [[0.0, 0.2]] * len(rows)
    return rows.assign(mean=0.5, low=0.4, high=0.6, ours=0.5, paper=np.nan)


def comparisons(n):
    return [Comparison("A", case, "", 0.1, Estimate(0.01, -0.02, 0.04, 5, 11)) for case in names(n)]


def of_clusters(n):
    seeds = pd.DataFrame(0.5, range(n), [1, 2])
    return curves.clusters(table(clusters=range(1, n + 1)).assign(batch=211), seeds, seeds)


def memory(n):
    used = pd.DataFrame({form: np.arange(1.0, n + 1) * plots.GB for form in curves.FORMS}, index=range(1, n + 1))
    return curves.memory(dict.fromkeys(names(n % 3), used))


# By figure: how to make it with a size of n, and the labels of its rows; None for the labels of an axis of numbers.
FIGURES = {
    "calibration": (
        lambda n: confidence.reliability_figure(table(row=["A"], of=BOTH, right=range(n)).assign(confidence=0.5)),
        None,
    ),
    "risk": (
        lambda n: confidence.risk_figure(table(row=["A"], of=BOTH, risk=range(n)).assign(coverage=0.5)),
        None,
    ),
    "clusters": (of_clusters, None),
    "memory": (memory, None),
    "faces": (lambda n: curves.faces(table(trained=range(1, n + 1), faces=range(1, n + 1))), None),
    "faces beside": (
        lambda n: curves.faces_beside(table(trained=range(1, n + 1), faces=[1]).assign(verdict=Verdict.CANNOT_TELL)),
        None,
    ),
    "losses": (
        lambda n: missing.dots(table(row=names(n % 9), missing=names(n)), ""),
        lambda n: names(n) if n % 9 else [],
    ),
    "gains": (
        lambda n: modalities.gains(table(modality=names(n), joins=["set", modalities.AVERAGE])),
        lambda n: [label for name in names(n) for label in (f"set + {name}", f"{name}, average")],
    ),
    "ruined": (
        lambda n: robustness.levels_figure(table(kind=robustness.KINDS, label=names(n), share=[0.0, 0.5])),
        None,
    ),
    "ruined, losses": (lambda n: robustness.losses_figure(comparisons(n)), names),
    "clips": (
        lambda n: training_clips.levels_figure(table(row=["A", "B"], measure=["rank-1", "mAP"], clips=names(n))),
        None,
    ),
    "clips, gains": (
        lambda n: training_clips.gains_figure(table(measure=["mAP"], clips=names(n)).assign(verdict="holds")),
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
