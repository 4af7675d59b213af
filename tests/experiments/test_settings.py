"""The profiles, and the choice among the grid."""

import numpy as np
import pytest

from famf_book import report
from famf_lib.experiments import settings, tuning
from famf_lib.experiments.catalogue import TABLE_1
from famf_lib.experiments.settings import BASE, with_choice


def test_paper_profile_is_the_papers():
    training = BASE["paper"].training
    assert (training.lr, training.lr_aggregation, training.batch_size, training.faces) == (0.004, 0.04, 4096, 24)
    assert BASE["paper"].hidden == 4096


def test_shorter_profiles_keep_the_proportions_of_the_schedule():
    of_paper = BASE["paper"].training
    for profile in ("quick", "standard"):
        training = BASE[profile].training
        scale = training.epochs / of_paper.epochs
        assert training.decay_after == of_paper.decay_after * scale
        assert training.decay_every == of_paper.decay_every * scale


def test_choice_changes_what_was_chosen_and_nothing_else():
    base = BASE["standard"]
    chosen = with_choice(base, {"normalisation": "cluster", "features": "unit", "lr": 0.002})
    assert (chosen.normalisation, chosen.features) == ("cluster", "unit")
    assert chosen.training.lr == 0.002
    assert chosen.training.lr_aggregation == pytest.approx(0.02)
    back = with_choice(chosen, {"normalisation": base.normalisation, "features": base.features, "lr": base.training.lr})
    assert back == base


def test_tuning_takes_the_best_of_the_grid_and_the_setting_follows(results_folder, tiny, monkeypatch):
    grid = {"normalisation": ("none",), "features": ("raw", "unit"), "lr": (0.004,)}
    for module in (settings, tuning, report):
        monkeypatch.setattr(module, "GRID", grid)
    monkeypatch.setattr(tuning, "TUNING_SEEDS", (101,))
    monkeypatch.setattr(tuning, "TABLE_1", TABLE_1[:2])
    assert settings.setting("synthetic", "quick").features == "raw"
    result = tuning.tune("synthetic", "quick", "cpu")
    best = max(result["table"], key=lambda line: np.mean(list(line["rows"].values())))
    assert result["chosen"]["features"] == best["features"]
    assert settings.setting("synthetic", "quick").features == best["features"]
    assert report.tuning_table("synthetic", "quick")["all rows"].is_monotonic_decreasing
