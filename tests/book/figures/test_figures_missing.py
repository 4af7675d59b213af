"""The loss when a modality is missing, on made-up answers."""

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
    index = pd.MultiIndex.from_product(
        [ROWS, GONE, range(1, 6), range(13)], names=["label", "missing", "seed", "person"]
    )
    answers = pd.DataFrame({"ap": ap.ravel()}, index=index).reset_index()
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
    wide = missing.side_by_side(levels)
    assert list(wide.index) == ["nothing", "head", "body", "all of them"] and wide.index.name == "missing"
    assert list(wide.columns) == ["AttentionVLAD + Concat", "AttentionVLAD + MLMA"]


def test_answer_names_the_largest_and_the_smallest_loss():
    means = {"A": {"head": 0.02, "body": 0.07, "text": -0.01, "all of them": 0.2}, "B": {"all of them": 0.3}}
    lines = [(row, gone, m, m - 0.01, m + 0.01) for row, of in means.items() for gone, m in of.items()]
    text = missing.answer(pd.DataFrame(lines, columns=missing.COLUMNS), "A")
    assert text.startswith("Without body, A loses 0.0700 [0.0600, 0.0800] mAP, the largest")
    assert "without text, -0.0100 [-0.0200, 0.0000], the smallest" in text
    assert text.endswith("it loses 0.2000 [0.1900, 0.2100] (B: 0.3000 [0.2900, 0.3100]).")
