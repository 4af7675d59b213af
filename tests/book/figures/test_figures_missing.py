"""What a missing modality costs, on made-up answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from famf_book.figures import missing
from famf_lib.evidence.bootstrap import estimate

ROWS = ("AttentionVLAD + Concat, all modalities", "AttentionVLAD + MLMA, all modalities")
GONE = ("", "head", "body", "all")


@pytest.fixture
def results(made_results):
    rng = np.random.default_rng(5)
    ap = rng.random((len(ROWS), len(GONE), 5, 13))
    answers = pd.DataFrame(
        [
            {"label": label, "seed": s + 1, "missing": gone, "person": p, "ap": ap[i, j, s, p]}
            for i, label in enumerate(ROWS)
            for s in range(5)
            for j, gone in enumerate(GONE)
            for p in range(13)
        ]
    )
    return replace(made_results(dict.fromkeys(ROWS, 0.5)), answers={"missing": answers}), ap


def test_levels_and_losses_are_means_over_seeds_and_persons(results):
    found, ap = results
    levels, losses = missing.levels(found), missing.losses(found)
    assert list(levels["missing"].unique()) == ["nothing", "head", "body", "all of them"]
    assert list(losses["row"].unique()) == ["AttentionVLAD + Concat", "AttentionVLAD + MLMA"]
    assert levels["mean"].to_numpy() == pytest.approx(ap.mean(axis=(2, 3)).ravel())
    assert losses["mean"].to_numpy() == pytest.approx((ap[:, :1] - ap[:, 1:]).mean(axis=(2, 3)).ravel())
    paired = estimate(ap[1, 0] - ap[1, 2])
    line = losses.set_index(["row", "missing"]).loc[("AttentionVLAD + MLMA", "body")]
    assert (line["low"], line["high"]) == pytest.approx((paired.low, paired.high))


def test_tables_keep_the_order_and_say_what_is_missing(results):
    wide = missing.side_by_side(missing.levels(results[0]))
    assert list(wide.index) == ["nothing", "head", "body", "all of them"] and wide.index.name == "missing"
    assert list(wide.columns) == ["AttentionVLAD + Concat", "AttentionVLAD + MLMA"]


def test_answer_names_the_dearest_and_the_cheapest():
    means = {"A": {"head": 0.02, "body": 0.07, "text": -0.01, "all of them": 0.2}, "B": {"all of them": 0.3}}
    lines = [(row, gone, m, m - 0.01, m + 0.01) for row, of in means.items() for gone, m in of.items()]
    text = missing.answer(pd.DataFrame(lines, columns=missing.COLUMNS), "A")
    assert text.startswith("Without body, A loses 0.0700 [0.0600, 0.0800] mAP, the most")
    assert "without text, the least, -0.0100" in text
    assert text.endswith("it loses 0.2000 [0.1900, 0.2100] (B 0.3000 [0.2900, 0.3100]).")


@pytest.mark.parametrize(("rows", "gone"), [(0, 0), (1, 1), (3, 6), (9, 70)])
def test_figure_of_any_length(rows, gone):
    lines = [(f"row {r}", f"modality {g}", 0.1 * r, -0.1, 1.0) for r in range(rows) for g in range(gone)]
    figure = missing.dots(pd.DataFrame(lines, columns=missing.COLUMNS), "loss in mAP")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [f"modality {g}" for g in range(gone)]
    drawn = [y for points in axes.collections if hasattr(points, "get_sizes") for y in points.get_offsets()[:, 1]]
    for y in drawn:  # a dot lies on the line of what is missing
        assert abs(y - round(y)) < 0.5
    assert len(drawn) == rows * gone and len(set(drawn)) == len(drawn)
