"""The dot plots that pages share can be drawn from a table of any size and have a row for each of its lines."""

import pandas as pd
import pytest

from famf_book import plots
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison


def names(n):
    return [f"name {i}" for i in range(n)]


def levels(n):
    table = pd.DataFrame({"ours": 0.5, "low": 0.4, "high": 0.6, "paper": None}, index=names(n))
    return plots.levels(table, pd.DataFrame(0.5, names(n), [1, 2]))


def differences(n):
    comparisons = [Comparison("A", case, "", 0.1, Estimate(0.01, -0.02, 0.04, 5, 11)) for case in names(n)]
    return plots.differences({"own": comparisons, "printed": comparisons})


@pytest.mark.parametrize("size", [0, 1, 11])
@pytest.mark.parametrize("draw", [levels, differences])
def test_figure_of_any_size(draw, size):
    figure = draw(size)
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names(size)
