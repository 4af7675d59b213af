import json
from itertools import product

import numpy as np
import pytest

from famf_book import report
from famf_lib.data.datasets import DATASETS
from famf_lib.experiments import settings, tuning
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, SIMPLE, TABLE_1, specs, tuned_rows
from famf_lib.experiments.parameters import SETTINGS
from famf_lib.experiments.settings import BASE, GRID, PRINTED, Choice, row_settings

BASELINE = TABLE_1[1]
SHARED = Choice(normalisation="cluster", features="unit", lr=0.001)


def recorded(folder, dataset="synthetic", profile="standard", **rows):
    chosen = {label: {"chosen": choice.model_dump()} for label, choice in rows.items()}
    content = {
        "shared": SHARED.model_dump(),
        "rows": chosen,
        "grid": GRID,
        "seeds": {"every point": [1]},
        "command": "",
    }
    folder.mkdir(exist_ok=True)
    settings.tuning_file(dataset, profile).write_text(json.dumps(content))


def test_the_profile_of_the_paper_is_its_own_and_shorter_ones_keep_the_proportions_of_its_schedule():
    paper = BASE["paper"].training
    assert (paper.lr, paper.lr_aggregation, paper.batch_size, paper.faces) == (0.004, 0.04, 4096, 24)
    assert BASE["paper"].hidden == 4096 and BASE["paper"].at(PRINTED) == BASE["paper"]
    for training in (BASE[profile].training for profile in ("quick", "standard")):
        scale = training.epochs / paper.epochs
        assert (training.decay_after, training.decay_every) == (paper.decay_after * scale, paper.decay_every * scale)
    chosen = BASE["standard"].at(Choice(normalisation="cluster", features="unit", lr=0.002))
    assert (chosen.normalisation, chosen.features, chosen.training.lr) == ("cluster", "unit", 0.002)
    assert chosen.training.lr_aggregation == pytest.approx(0.02) and chosen.at(PRINTED) == BASE["standard"]


def test_each_setting_gives_a_row_its_own_point(results_folder):
    own = Choice(normalisation="cluster+whole", features="raw", lr=0.016)
    recorded(results_folder, **{FAMF.label: own})
    points = {name: row_settings("synthetic", "standard", name).choice(FAMF.label) for name in SETTINGS}
    assert points == {"printed": PRINTED, "own": own, "shared": SHARED}
    assert row_settings("synthetic", "standard").choice(FAMF.label) == own, "the deciding setting is not the default"
    assert row_settings("synthetic", "standard").choice("not tuned") == points["shared"]
    assert row_settings("synthetic", "quick").choice(FAMF.label) == own, "quick is a preview of standard"
    assert row_settings("synthetic", "paper").choice(FAMF.label) == PRINTED, "nothing was tuned at that size"
    assert report.points("table-1", "synthetic", "standard", [FAMF.label]).loc[FAMF.label, "lr"] == "0.016"
    assert "nothing was tuned" in report.choice("imfdb", "standard", "table-1").lower()


def test_three_settings_never_share_a_run_by_accident(results_folder):
    """Where the points differ, so do the runs; where two settings agree on the point, they share them."""
    points = [Choice(normalisation=n, features=f, lr=lr) for n, f, lr in product(*GRID.values())]
    rows = [BASELINE, FAMF, next(v for v in TABLE_1 if v.aggregation == "nextvlad")]
    source, base = DATASETS["synthetic"], BASE["standard"]
    for row in rows:
        runs = {row.spec(source, base.at(choice), 1).model_dump_json() for choice in points}
        assert len(runs) == len(points)
    recorded(results_folder, **{FAMF.label: PRINTED})
    made = {n: specs([FAMF], source, row_settings("synthetic", "standard", n), [1])[FAMF.label, 1] for n in SETTINGS}
    assert made["own"] == made["printed"] != made["shared"]


def test_rows_that_change_one_detail_use_the_point_of_their_base(results_folder):
    own = Choice(normalisation="cluster", features="raw", lr=0.016)
    recorded(results_folder, **{FAMF.label: own})
    readings = EXPERIMENTS["readings"].variants
    made = specs(readings, DATASETS["synthetic"], row_settings("synthetic", "standard"), [1])
    for label in ("φ: softmax", "classifier: linear", "learning rates: one"):
        assert made[label, 1].training.lr == own.lr and made[label, 1].model.features == own.features
    assert made["learning rates: one", 1].training.lr_aggregation == own.lr


def test_the_normalised_forms_of_nextvlad_are_the_published_ones():
    row = next(v for v in TABLE_1 if v.aggregation == "nextvlad")
    for normalisation in GRID["normalisation"]:
        used = BASE["standard"].at(Choice(normalisation=normalisation))
        options = row.spec(DATASETS["synthetic"], used, 1).model.aggregation_options
        assert options.get("batch_norm", False) == (normalisation != "none")
        assert options["normalisation"] == normalisation


def test_every_row_that_is_compared_is_tuned_or_says_whose_point_it_uses():
    for dataset in DATASETS.values():
        labels = {variant.label for variant in tuned_rows(dataset)}
        for experiment in EXPERIMENTS.values():
            for variant in experiment.variants if experiment.serves(dataset) else ():
                if variant.available_modalities(dataset) is not None:
                    assert (variant.tuned_as or variant.label) in labels
    rows = {}
    for variant in (v for experiment in EXPERIMENTS.values() for v in experiment.variants):
        assert rows.setdefault(variant.label, variant) == variant, "two rows of one name"


@pytest.fixture
def level(monkeypatch):
    """Replaces training by a made-up mAP of (row, choice, seed); returns the list of what was trained."""
    trained = []

    def fake(of):
        class Made:
            def __init__(self, value):
                self.mean_ap = value

        def run(wanted, clipset, device, label):
            trained.extend((row, choice, spec.seed, spec.part) for (row, choice), spec in wanted.items())
            return {(row, choice): Made(of(row, choice, spec.seed)) for (row, choice), spec in wanted.items()}

        monkeypatch.setattr(tuning, "run", run)
        return trained

    return fake


def test_tuning_gives_every_row_the_same_budget_and_takes_its_best_point(results_folder, store, monkeypatch, level):
    monkeypatch.setattr(tuning, "tuned_rows", lambda source: [SIMPLE, BASELINE, FAMF])
    monkeypatch.setattr(tuning, "TABLE_1", (SIMPLE, BASELINE, FAMF))
    rng = np.random.default_rng(0)
    noise = {}

    def of(row, choice, seed):
        best = 0.001 if row == FAMF.label else 0.004
        ends = choice.lr in (0.016, 0.00025)
        jitter = noise.setdefault((row, choice, seed), rng.uniform(0, 0.2))
        return 0.5 + 0.1 * (choice.lr == best) + jitter - 0.3 * ends

    trained = level(of)
    result = tuning.tune("synthetic", "quick", "cpu")
    of_row = {label: [t for t in trained if t[0] == label] for label in result["rows"]}
    expected = 24 + tuning.FINALISTS * len(tuning.FINAL)
    assert all(len(done) == len(set(done)) == expected for done in of_row.values())
    assert {part for *_, part in trained} == {"tune"}
    for row in result["rows"].values():
        full = {Choice(**{k: t[k] for k in Choice.model_fields}): t["mAP"] for t in row["tried"] if len(t["mAP"]) == 3}
        assert len(full) == tuning.FINALISTS
        assert Choice(**row["chosen"]) == max(full, key=lambda choice: np.mean(full[choice]))
    every = tuning.points(sorted(GRID["lr"]))
    means = {choice: np.mean([of(label, choice, tuning.SCREENING) for label in of_row]) for choice in every}
    assert Choice(**result["shared"]) == max(means, key=means.get)
    assert row_settings("synthetic", "quick").choice(FAMF.label) == Choice(**result["rows"][FAMF.label]["chosen"])


def test_rows_are_added_to_what_was_tuned_and_change_nothing(results_folder, store, monkeypatch, level):
    recorded(results_folder, profile="quick", **{FAMF.label: PRINTED})
    before = settings.tuning_file("synthetic", "quick").read_bytes()
    trained = level(lambda row, choice, seed: float(choice.lr == 0.001))
    result = tuning.tune("synthetic", "quick", "cpu", "graded-weights")
    further = {v.label for v in EXPERIMENTS["graded-weights"].variants} - {FAMF.label}
    assert set(result["rows"]) == {row for row, *_ in trained} == further
    assert settings.tuning_file("synthetic", "quick").read_bytes() == before
    own = row_settings("synthetic", "quick")
    assert own.choice(FAMF.label) == PRINTED and own.common == SHARED
    assert {own.choice(label).lr for label in further} == {0.001}
    with pytest.raises(ValueError, match="no such record found"):
        tuning.tune("synthetic", "standard", "cpu", "graded-weights")
    with pytest.raises(ValueError, match="all rows of faces are in"):
        tuning.tune("synthetic", "quick", "cpu", "faces")


@pytest.mark.parametrize(("best", "rates"), [(0.064, 6), (0.0000625, 6), (0.001, 4), (1e9, 4 + tuning.WIDENINGS)])
def test_the_grid_grows_until_no_chosen_rate_lies_at_its_end(best, rates, results_folder, store, monkeypatch, level):
    monkeypatch.setattr(tuning, "tuned_rows", lambda source: [BASELINE, FAMF])
    monkeypatch.setattr(tuning, "TABLE_1", (BASELINE, FAMF))
    level(lambda row, choice, seed: -abs(np.log(choice.lr) - np.log(best if row == FAMF.label else 0.004)))
    result = tuning.tune("synthetic", "quick", "cpu")
    found = result["grid"]["lr"]
    assert len(found) == rates and np.allclose(np.diff(np.log(found)), np.log(4))
    if best < 1e9:
        assert result["rows"][FAMF.label]["chosen"]["lr"] == pytest.approx(best)
        assert min(found) < result["rows"][FAMF.label]["chosen"]["lr"] < max(found)
    tried = {label: {t["lr"] for t in row["tried"]} for label, row in result["rows"].items()}
    assert tried[FAMF.label] == tried[BASELINE.label] == set(found), "some rows have a larger budget"
