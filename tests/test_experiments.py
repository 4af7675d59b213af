"""Experiments as data, the choice of settings, and recordings."""

import json

import numpy as np
import pandas as pd
import pytest

from famf_lib import datasets, experiments, paper, report
from famf_lib.claims import Verdict
from famf_lib.experiments import TABLE_1, with_choice
from famf_lib.plots import differences, map_table
from famf_lib.runs import Run, RunSpec


@pytest.fixture
def results_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def tiny(monkeypatch):
    """The quick profile with two epochs: the numbers do not matter, their way does."""
    base = experiments.BASE["quick"]
    training = base.training.model_copy(update={"epochs": 2, "decay_after": 1})
    monkeypatch.setitem(experiments.BASE, "quick", base.model_copy(update={"training": training, "hidden": 16}))


def test_table_1_has_every_row_of_the_paper_and_mean_pooling():
    modules = [variant.modules for variant in TABLE_1]
    assert set(paper.TABLE_1) == {m for m in modules if m != ("mean", "concat")}
    assert len(set(modules)) == len(TABLE_1) == 7


def test_rows_differ_in_their_modules_only():
    specs = experiments.specs(TABLE_1, "synthetic", experiments.BASE["standard"], [1])
    shared = [
        spec.model_dump(exclude={"model": {"aggregation", "aggregation_options", "fusion"}}) for spec in specs.values()
    ]
    assert all(one == shared[0] for one in shared)
    assert shared[0]["model"]["modalities"] == ("audio", "body")


def test_paper_profile_is_the_papers():
    training = experiments.BASE["paper"].training
    assert (training.lr, training.lr_aggregation, training.batch_size, training.faces) == (0.004, 0.04, 4096, 24)
    assert experiments.BASE["paper"].hidden == 4096


def test_shorter_profiles_keep_the_proportions_of_the_schedule():
    of_paper = experiments.BASE["paper"].training
    for profile in ("quick", "standard"):
        training = experiments.BASE[profile].training
        scale = training.epochs / of_paper.epochs
        assert training.decay_after == of_paper.decay_after * scale
        assert training.decay_every == of_paper.decay_every * scale


def test_choice_changes_what_was_chosen_and_nothing_else():
    base = experiments.BASE["standard"]
    chosen = with_choice(base, {"normalisation": "cluster", "features": "unit", "lr": 0.002})
    assert (chosen.normalisation, chosen.features) == ("cluster", "unit")
    assert chosen.training.lr == 0.002
    assert chosen.training.lr_aggregation == pytest.approx(0.02)
    back = with_choice(chosen, {"normalisation": base.normalisation, "features": base.features, "lr": base.training.lr})
    assert back == base


def test_tuning_takes_the_best_of_the_grid_and_the_setting_follows(results_folder, tiny, monkeypatch):
    monkeypatch.setattr(experiments, "GRID", {"normalisation": ("none",), "features": ("raw", "unit"), "lr": (0.004,)})
    monkeypatch.setattr(experiments, "TUNING_SEEDS", (101,))
    monkeypatch.setattr(experiments, "TABLE_1", TABLE_1[:2])
    assert experiments.setting("synthetic", "quick").features == "raw"
    result = experiments.tune("synthetic", "quick", "cpu")
    best = max(result["table"], key=lambda line: np.mean(list(line["rows"].values())))
    assert result["chosen"]["features"] == best["features"]
    assert experiments.setting("synthetic", "quick").features == best["features"]
    assert report.tuning_table("synthetic", "quick")["all rows"].is_monotonic_decreasing


def test_recording_gives_the_numbers_back(results_folder, tiny, monkeypatch):
    monkeypatch.setattr(experiments, "TABLE_1", TABLE_1[-1:])
    fresh = experiments.table_1("synthetic", "quick", [1, 2], "cpu")
    path = experiments.record(fresh, "table-1", "synthetic", "quick", "famf run table-1")
    assert "person" not in json.dumps(json.loads(path.read_text())["runs"][0]["ap"])
    recorded = experiments.find_recording("table-1", "synthetic", "quick")
    for key, run in fresh.runs.items():
        assert recorded.runs[key].mean_ap == pytest.approx(run.mean_ap, abs=1e-5)
        assert recorded.runs[key].spec == run.spec
    assert report.beside_recording(fresh, recorded) == "All 2 runs give the numbers that were recorded."
    key = next(iter(fresh.runs))
    content = json.loads(path.read_text())
    content["runs"][0]["ap"] = [0.0] * len(content["runs"][0]["ap"])
    path.write_text(json.dumps(content))
    told = report.beside_recording(fresh, experiments.find_recording("table-1", "synthetic", "quick"))
    assert told.startswith("Of 2 runs 1 differ") and f"seed {key[1]}" in told
    assert "Recorded" in report.where_from(recorded) and "famf run table-1" in report.where_from(recorded)


def test_absent_dataset_is_shown_from_its_recording_or_named(results_folder, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetAbsent, match="imfdb"):
        experiments.table_1("imfdb", "quick", [1])
    monkeypatch.setattr(experiments, "TABLE_1", TABLE_1[-1:])
    fresh = experiments.table_1("synthetic", "quick", [1], "cpu")
    experiments.record(fresh, "table-1", "imfdb", "standard", "a command")
    shown = experiments.table_1("imfdb", "quick", [1])
    assert shown.profile == "standard"
    with pytest.raises(ValueError, match="only its numbers were recorded"):
        next(iter(shown.runs.values())).model(datasets.load("synthetic", "quick"))


def test_clips_are_split_by_the_protocol_asked_for(results_folder, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "TABLE_1", TABLE_1[:1])
    found = experiments.table_1("synthetic", "quick", [1], "cpu", "random")
    (run,) = found.runs.values()
    assert run.spec.protocol == "random" and "dealt anew" in report.protocol("synthetic", found)
    (usual,) = experiments.table_1("synthetic", "quick", [1], "cpu").runs.values()
    assert usual.spec.protocol == "given" and usual.key != run.key
    with pytest.raises(ValueError, match="protocol: 'films' is not known, expected one of given, groups, random"):
        experiments.table_1("synthetic", "quick", [1], "cpu", "films")
    experiments.record(found, "table-1", "imfdb", "standard", "a command")
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetAbsent):  # the recording is not under that protocol
        experiments.table_1("imfdb", "quick", [1], "cpu", "random")


def test_unknown_dataset_is_named():
    with pytest.raises(ValueError, match="'imdb' is not known, expected one of synthetic, imfdb"):
        experiments.table_1("imdb", "quick", [1])


def made_up(levels, seeds=5, persons=13, noise=0.0):
    """Results with a given mAP a row."""
    rng = np.random.default_rng(2)
    common = rng.normal(0, 0.05, (seeds, persons))
    common -= common.mean()
    runs = {}
    for label, level in levels.items():
        ap = level + common + noise * rng.normal(size=(seeds, persons))
        for seed in range(seeds):
            runs[label, seed + 1] = Run(
                RunSpec(seed=seed + 1), "key", pd.Series(ap[seed]), 0.5, [0.1], 1.0, {"when": "2026-01-01"}
            )
    return experiments.Results(runs, "data", "standard")


LEVELS = {variant.label: 0.5 for variant in TABLE_1}


def test_table_shows_the_levels_and_the_papers_values():
    table = report.table_1(made_up(LEVELS | {"NetVLAD + MMA": 0.625}))
    assert table.loc["NetVLAD + MMA", "ours"] == pytest.approx(0.625)
    assert table.loc["NetVLAD + MMA", "paper"] == 0.8246
    assert np.isnan(table.loc["Mean pooling + Concat", "paper"])
    assert (table["low"] <= table["ours"]).all() and (table["ours"] <= table["high"]).all()


def test_comparisons_take_the_right_sides():
    levels = dict(zip(LEVELS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), strict=True))
    ours = {c.name: c.ours.mean for c in report.comparisons(made_up(levels))}
    assert ours["AttentionVLAD over NetVLAD, with MMA"] == pytest.approx(0.6 - 0.2)
    assert ours["AttentionVLAD over NetVLAD, with MLMA"] == pytest.approx(0.7 - 0.5)
    assert ours["MLMA over MMA, with NetVLAD"] == pytest.approx(0.5 - 0.2)
    assert ours["MLMA over MMA, with AttentionVLAD"] == pytest.approx(0.7 - 0.6)
    paper_says = {c.name: c.paper for c in report.comparisons(made_up(levels))}
    assert paper_says["AttentionVLAD over NetVLAD, with MLMA"] == pytest.approx(0.8824 - 0.8295)
    assert paper_says["FAMF over the simplest, mean pooling + Concat"] is None


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({report.FAMF: 0.9}, ["comes out first of 7 rows", "“FAMF over earlier methods”: **holds** in all 3"]),
        ({report.FAMF: 0.1}, ["number 7 of 7", "the best is", "“FAMF over earlier methods”: **does not hold** in all"]),
        ({report.FAMF: 0.6, "GhostVLAD + Concat": 0.8}, ["number 2 of 7", "**mixed** (2 × holds, 1 × does not hold)"]),
    ],
)
def test_answer_follows_the_numbers(levels, words):
    results = made_up(LEVELS | levels)
    answer = report.answer(results, report.comparisons(results))
    for word in words:
        assert word in answer


def test_answer_says_when_it_cannot_tell():
    results = made_up(LEVELS | {report.FAMF: 0.52}, noise=0.3)
    compared = report.comparisons(results)
    assert {c.verdict for c in compared} == {Verdict.CANNOT_TELL}
    assert "**cannot tell** in all 3 comparisons" in report.answer(results, compared)


@pytest.mark.parametrize("rows", [0, 1, 60])
def test_figures_of_any_length(rows):
    levels = {f"method {n}": 0.5 for n in range(rows)}
    if rows:
        results = made_up(levels, seeds=3)
        seeds = report.by_seed(results)
        table = pd.DataFrame({"ours": 0.5, "low": 0.4, "high": 0.6, "paper": np.nan}, index=list(levels))
    else:
        seeds = pd.DataFrame()
        table = pd.DataFrame(columns=["ours", "low", "high", "paper"])
    figure = map_table(table, seeds)
    figure.canvas.draw()
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == list(levels)
    figure = differences(report.comparisons(made_up(LEVELS))[:rows] if rows < 60 else [])
    figure.canvas.draw()


def test_interval_stands_in_one_column_of_a_shown_table():
    html = report.styled(report.table_1(made_up(LEVELS))).data
    assert "95% interval" in html and "…" in html and "NaN" not in html and "nan" not in html
