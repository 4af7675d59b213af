"""Curves against K and N: tables against naive computations, and what the figures show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from famf_book.figures import curves
from famf_book.figures.curves import OURS_FORM, STORED
from famf_book.plots import GB
from famf_lib.evidence.bootstrap import estimate
from famf_lib.evidence.claims import Verdict

TESTED = (1, 3, 7, 13, 61)
TRAINED = {"few": 3, "many": 13}


@pytest.fixture
def of_clusters(made_results):
    """Rows with 2, 5 and 5 clusters, the last with a smaller batch; seed s of row r took 10 r + s seconds."""
    found = made_results({"K = 2": 0.5, "K = 5": 0.6, "K = 5, small": 0.55}, seeds=3, persons=11)
    for (label, seed), run in found.runs.items():
        row = found.labels.index(label)
        model = run.spec.model.model_copy(update={"aggregation_options": {"clusters": (2, 5, 5)[row]}})
        training = run.spec.training.model_copy(update={"batch_size": (211, 211, 101)[row]})
        spec = run.spec.model_copy(update={"model": model, "training": training})
        found.runs[label, seed] = replace(run, spec=spec, seconds=10.0 * row + seed)
    return found


@pytest.fixture
def of_faces(made_results):
    """Two rows, tested with TESTED faces: "few" reaches its mAP with 7 faces, "many" loses from 13 to 61."""
    found = made_results(dict.fromkeys(TRAINED, 0.5), seeds=4, persons=17)
    levels = {"few": (-0.3, -0.1, 0.0, 0.0, 0.0), "many": (-0.4, -0.2, -0.1, 0.05, 0.0)}
    rng = np.random.default_rng(5)
    tables = []
    for (label, seed), run in found.runs.items():
        training = run.spec.training.model_copy(update={"faces": TRAINED[label]})
        found.runs[label, seed] = replace(run, spec=run.spec.model_copy(update={"training": training}))
        for n, level in zip(TESTED, levels[label], strict=True):
            ap = run.ap.to_numpy() + level + 1e-4 * rng.normal(size=len(run.ap))
            table = pd.DataFrame({"faces": n, "person": np.arange(len(ap)), "ap": ap})
            tables.append(table.assign(label=label, seed=seed))
    return replace(found, answers={"faces": pd.concat(tables, ignore_index=True)})


def test_rows_of_clusters_have_their_numbers(of_clusters):
    table = curves.by_clusters(of_clusters, {"K = 5": 0.83})
    assert table["clusters"].tolist() == [2, 5, 5] and table["batch"].tolist() == [211, 211, 101]
    assert table["paper"].isna().tolist() == [True, False, True]
    assert table.loc["K = 2", "ours"] == pytest.approx(np.mean(of_clusters.ap("K = 2")))
    assert table.loc["K = 2", "low"] == estimate(of_clusters.ap("K = 2")).low
    times = curves.seconds(of_clusters)
    assert times.loc["K = 5, small"].tolist() == [21.0, 22.0, 23.0] and times.columns.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("levels", "words"),
    [((0.5, 0.5), "changes mAP by less than"), ((0.5, 0.4), "changes mAP by more than"), (None, "may or may not")],
)
def test_effect_of_the_batch_is_by_the_rule_of_no_difference(made_results, levels, words):
    noise = 0.0 if levels else 0.3
    found = made_results(dict(zip(("whole", "half"), levels or (0.5, 0.5), strict=True)), noise=noise)
    told = curves.told_batch(found, "whole", "half")
    assert words in told
    if levels:
        assert f"{levels[1] - levels[0]:+.4f} [" in told  # half the batch minus the whole


def test_sizes_of_the_paper_and_of_runs(of_clusters, made_up):
    size = curves.paper_size()
    assert (size.training.batch_size, size.training.faces, size.model.hidden) == (4096, 24, 4096)
    assert (size.dim, size.modality_dims, size.persons) == (512, {"audio": 512, "body": 512}, 10_034)
    assert size.training.precision == "float32"
    size = curves.size_of(of_clusters, made_up(persons=11))
    assert (size.dim, size.modality_dims, size.persons) == (11, {"audio": 7, "body": 11}, 11)
    assert size.training.batch_size == 211 and size.training.precision in ("float32", "bfloat16")


def test_storing_residuals_takes_three_tensors_more():
    """At the peak, (B, N, K, D) is stored for the backward pass, weighted, and as gradient, with 4 bytes each."""
    table = curves.step_memory([8, 16], curves.paper_size())
    assert table.index.tolist() == [8, 16]
    tensor = 4096 * 24 * 512 * 4
    ours, stored = table[OURS_FORM], table[STORED]
    more = (stored[16] - stored[8]) - (ours[16] - ours[8])
    assert more == pytest.approx(3 * 8 * tensor, rel=0.1)
    assert ours[16] - ours[8] < tensor * 8
    text = curves.told_memory(table, 16)
    assert f"takes {stored[16] / GB:.3g} GB if every" in text and f"{ours[16] / GB:.3g} GB if none" in text


def test_what_fits_on_a_card():
    memory = pd.DataFrame({"a": [1, 2, 3], "b": [2, 11, 12]}, index=[1, 8, 16]) * GB
    found = curves.fitting(memory, (1, 11, 40))
    assert found["a"].tolist() == ["1 (1.0 GB)", "16 (3.0 GB)", "16 (3.0 GB)"]
    assert found["b"].tolist() == ["", "8 (11.0 GB)", "16 (12.0 GB)"]


def naive(results, label, n):
    table = results.answers["faces"]
    rows = table[(table["label"] == label) & (table["faces"] == n)]
    return np.array([rows[rows["seed"] == s].sort_values("person")["ap"] for s in results.seeds])


def test_levels_and_paired_differences_from_the_largest_n(of_faces):
    table = curves.by_faces(of_faces)
    assert len(table) == 2 * len(TESTED)
    for row in table.itertuples():
        ap = naive(of_faces, row.label, row.faces)
        assert row.trained == TRAINED[row.label]
        assert (row.mean, row.low) == pytest.approx((ap.mean(), estimate(ap).low))
    table = curves.beside_most(of_faces)
    assert sorted(table["faces"].unique()) == list(TESTED[:-1]) and set(table["most"]) == {61}
    for row in table.itertuples():
        one = estimate(naive(of_faces, row.label, row.faces) - naive(of_faces, row.label, 61))
        assert (row.mean, row.low, row.high) == pytest.approx((one.mean, one.low, one.high))
        assert row.high - row.low < 0.01  # what seeds and persons share cancels


def test_enough_follows_the_rule(of_faces):
    found = curves.enough(curves.beside_most(of_faces))
    assert found.index.tolist() == [3, 13]
    assert found.loc[3, "from"] == 7 and np.isnan(found.loc[13, "from"])
    assert found["cost"].tolist() == pytest.approx([0.3, 0.4], abs=1e-3)
    assert found["gain"].tolist() == pytest.approx([0.1, -0.05], abs=1e-3)
    assert (found["low"] < found["cost"]).all() and (found["cost"] < found["high"]).all()
    assert (found["gain low"] < found["gain"]).all() and (found["gain"] < found["gain high"]).all()
    text = curves.told_enough(found, 61, 13)
    assert "Trained with N = 13, no smaller N at test time is shown to match the mAP with 61" in text
    assert "a single face loses 0.4" in text and "trained with other N: 7 (N = 3)" in text
    assert "lower than with the N of training for N = 13 (-0.05" in text
    assert "higher than with the N of training for N = 3 (+0.1" in text
    assert "N = 3, more than 7 faces" in curves.told_enough(found, 61, 24)  # no row with 24: starts with the first
    assert curves.told_enough(found.iloc[:0], 61, 24) == ""


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("hhhh", [1]), ("dchh", [7]), ("hdhh", [7]), ("hhhc", [np.nan]), ("dddd", [np.nan]), ("h", [1]), ("", [])],
)
def test_enough_holds_for_all_larger_n(verdicts, expected):
    kinds = {"h": Verdict.HOLDS, "d": Verdict.DOES_NOT_HOLD, "c": Verdict.CANNOT_TELL}
    values = [(24, n, -0.01, -0.02, -0.005, kinds[v], 61) for n, v in zip(TESTED, verdicts, strict=False)]
    table = pd.DataFrame(values, columns=["trained", "faces", "mean", "low", "high", "verdict", "most"])
    found = curves.enough(table.sample(frac=1, random_state=3))
    assert found["from"].tolist() == pytest.approx(expected, nan_ok=True)
    assert found["gain"].isna().all()  # 24 was not tested


def test_lengths_are_told_for_the_ranked_clips():
    counts = np.array([0, 3, 5, 7, 90])
    text = curves.told_lengths(counts, (5, 64))
    assert text.startswith("Half of the ranked clips have 5 faces or fewer; 40% have fewer than 5 and 80% have fewer")
    assert curves.told_lengths(counts[:0], (5,)) == ""


def test_only_points_without_a_difference_are_filled(of_faces):
    axes = curves.faces_beside(curves.beside_most(of_faces)).axes[0]
    few, many = (c for c in axes.collections if len(c.get_offsets()) == 4)
    hollow = [[tuple(colour) == to_rgba("white") for colour in c.get_facecolors()] for c in (few, many)]
    assert hollow == [[True, True, False, False], [True] * 4]


def test_names_of_curves_do_not_overlap():
    rows = [(f"{t}", t, n, 0.5, 0.4, 0.6) for t in (4, 8, 24, 48) for n in (1, 2, 4)]  # four that end in one point
    figure = curves.faces(pd.DataFrame(rows, columns=["label", "trained", "faces", "mean", "low", "high"]))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text, figure.canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == 4 and (np.diff(sorted(box.y0 for box in boxes)) >= 10 * figure.dpi / 72).all()
