"""Curves against K and N: their tables against naive computations, their figures by what is drawn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from famf_book import report
from famf_book.figures import curves
from famf_book.figures.curves import GB, OURS_FORM, STORED
from famf_lib.evidence.bootstrap import estimate
from famf_lib.evidence.claims import MARGIN, Verdict

TESTED = (1, 3, 7, 13, 61)
TRAINED = {"few": 3, "many": 13}


@pytest.fixture
def of_clusters(made_results):
    """Rows of 2, 5 and 5 clusters, the last with a smaller batch; seed s took 10 · row + s seconds."""
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
    """Two rows that were tested with TESTED faces. "few" has reached its mAP with 7, "many" falls from 13 to 61."""
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


# --- K ---------------------------------------------------------------------------------------------------------------


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
    [((0.5, 0.5), "makes no difference beyond"), ((0.5, 0.4), "changes mAP by more than"), (None, "may or may not")],
)
def test_batch_is_told_by_the_rule_of_no_difference(made_results, levels, words):
    noise = 0.0 if levels else 0.3
    found = made_results(dict(zip(("whole", "half"), levels or (0.5, 0.5), strict=True)), noise=noise)
    told = curves.told_batch(found, "whole", "half")
    assert words in told
    if levels:
        assert f"{levels[1] - levels[0]:+.4f} [" in told  # half the batch less the whole


def test_papers_size_is_the_papers():
    size = curves.paper_size()
    assert (size.training.batch_size, size.training.faces, size.model.hidden) == (4096, 24, 4096)
    assert (size.dim, size.modality_dims, size.persons) == (512, {"audio": 512, "body": 512}, 10_034)
    assert size.training.precision == "float32"


def test_size_of_runs_is_theirs(of_clusters, made_up):
    clipset = made_up(persons=11)
    size = curves.size_of(of_clusters, clipset)
    assert (size.dim, size.modality_dims, size.persons) == (11, {"audio": 7, "body": 11}, 11)
    assert size.training.batch_size == 211 and size.training.precision in ("float32", "bfloat16")


def test_stored_residuals_cost_three_tensors_of_their_size_and_ours_not_one():
    """Kept for backward, weighted, and the gradient: three tensors (B, N, K, D) of 4 bytes are alive at the peak."""
    table = curves.step_memory([8, 16], curves.paper_size())
    assert table.index.tolist() == [8, 16]
    tensor = 4096 * 24 * 512 * 4
    ours, stored = table[OURS_FORM], table[STORED]
    # From K = 8 to 16 both add the same weights and tokens; residuals add three times eight faces' worth on top.
    more = (stored[16] - stored[8]) - (ours[16] - ours[8])
    assert more == pytest.approx(3 * 8 * tensor, rel=0.1)
    assert ours[16] - ours[8] < tensor * 8
    told = curves.told_memory(table, 16)
    assert f"takes {stored[16] / GB:.3g} GB where every" in told and f"{ours[16] / GB:.3g} GB where none" in told


def test_what_fits_on_a_card():
    memory = pd.DataFrame({"a": [1, 2, 3], "b": [2, 11, 12]}, index=[1, 8, 16]) * GB
    found = curves.fitting(memory, (1, 11, 40))
    assert found["a"].tolist() == ["1 (1.0 GB)", "16 (3.0 GB)", "16 (3.0 GB)"]
    assert found["b"].tolist() == ["", "8 (11.0 GB)", "16 (12.0 GB)"]


# --- N ---------------------------------------------------------------------------------------------------------------


def naive(results, label, n):
    table = results.answers["faces"]
    rows = table[(table["label"] == label) & (table["faces"] == n)]
    return np.array([rows[rows["seed"] == s].sort_values("person")["ap"] for s in results.seeds])


def test_points_are_means_over_seeds_and_persons(of_faces):
    table = curves.by_faces(of_faces)
    assert len(table) == 2 * len(TESTED)
    for row in table.itertuples():
        ap = naive(of_faces, row.label, row.faces)
        assert row.trained == TRAINED[row.label]
        assert (row.mean, row.low) == pytest.approx((ap.mean(), estimate(ap).low))


def test_differences_to_the_most_are_paired(of_faces):
    table = curves.beside_most(of_faces)
    assert sorted(table["faces"].unique()) == list(TESTED[:-1]) and set(table["most"]) == {61}
    for row in table.itertuples():
        apart = naive(of_faces, row.label, row.faces) - naive(of_faces, row.label, 61)
        one = estimate(apart)
        assert (row.mean, row.low, row.high) == pytest.approx((one.mean, one.low, one.high))
        assert row.high - row.low < 0.01  # the common ups and downs of seeds and persons are gone


def test_enough_is_found_by_the_rule(of_faces):
    found = curves.enough(curves.beside_most(of_faces))
    assert found.index.tolist() == [3, 13]
    assert found.loc[3, "from"] == 7 and np.isnan(found.loc[13, "from"])
    assert found["cost"].tolist() == pytest.approx([0.3, 0.4], abs=1e-3)
    assert found["gain"].tolist() == pytest.approx([0.1, -0.05], abs=1e-3)
    assert (found["low"] < found["cost"]).all() and (found["cost"] < found["high"]).all()
    assert (found["gain low"] < found["gain"]).all() and (found["gain"] < found["gain high"]).all()


def beside(verdicts, trained=24):
    values = [(trained, n, -0.01, -0.02, -0.005, v, 61) for n, v in zip(TESTED, verdicts, strict=False)]
    return pd.DataFrame(values, columns=["trained", "faces", "mean", "low", "high", "verdict", "most"])


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("hhhh", 1),
        ("dchh", 7),
        ("hdhh", 7),  # what holds with one face alone is not enough: three make a difference
        ("hhhc", np.nan),
        ("dddd", np.nan),
    ],
)
def test_enough_holds_from_there_on(verdicts, expected):
    kinds = {"h": Verdict.HOLDS, "d": Verdict.DOES_NOT_HOLD, "c": Verdict.CANNOT_TELL}
    table = beside([kinds[v] for v in verdicts]).sample(frac=1, random_state=3)
    assert curves.enough(table)["from"].tolist() == pytest.approx([expected], nan_ok=True)


def test_enough_of_nothing_and_of_one_point():
    assert curves.enough(beside([])).empty
    found = curves.enough(beside([Verdict.HOLDS]))
    assert found.loc[24, "from"] == 1 and np.isnan(found.loc[24, "gain"])


def test_enough_is_told(of_faces):
    found = curves.enough(curves.beside_most(of_faces))
    told = curves.told_enough(found, 61, 13)
    assert "Trained with N = 13, no smaller N at test time is shown to give the mAP of 61" in told
    assert "a single face costs 0.4" in told and "in the other trainings: 7 with N = 3" in told
    assert "lower than with the N of training for N = 13 (-0.05" in told
    assert "higher than with the N of training for N = 3 (+0.1" in told
    assert "N = 3, more than 7 faces" in curves.told_enough(found, 61, 24)  # 24 is not among them: the first one
    assert curves.told_enough(found.iloc[:0], 61, 24) == ""


def test_normalisation_and_lengths_are_told(of_faces):
    def normalised(kind):
        def change(run):
            model = run.spec.model.model_copy(update={"aggregation_options": {"normalisation": kind}})
            return replace(run, spec=run.spec.model_copy(update={"model": model}))

        return replace(of_faces, runs={key: change(run) for key, run in of_faces.runs.items()})

    assert "not normalised" in curves.told_normalisation(normalised("none"))
    assert "`normalisation: cluster+whole`" in curves.told_normalisation(normalised("cluster+whole"))
    counts = np.array([0, 3, 5, 7, 90])
    told = curves.told_lengths(counts, (5, 64))
    assert told.startswith("Half of the ranked clips have 5 faces or fewer; 40% have fewer than 5 and 80% have fewer")
    assert curves.told_lengths(counts[:0], (5,)) == ""


# --- figures ---------------------------------------------------------------------------------------------------------


def drawn(figure):
    """The figure, drawn: what cannot be drawn raises."""
    figure.draw_without_rendering()
    return figure


def texts(axes):
    return [text.get_text() for text in axes.texts]


def clusters_table(ks, batch=211):
    index = [f"K = {k}" for k in ks]
    table = pd.DataFrame({"clusters": ks, "batch": batch, "paper": np.nan, "ours": 0.5, "low": 0.4, "high": 0.6}, index)
    return table, pd.DataFrame(0.5, index, [1, 2]), pd.DataFrame(3.0, index, [1, 2])


def test_clusters_are_drawn_with_the_papers_values(of_clusters):
    table = curves.by_clusters(of_clusters, {"K = 2": 0.7, "K = 5": 0.8})
    above, below = drawn(curves.clusters(table, report.by_seed(of_clusters), curves.seconds(of_clusters))).axes
    offsets = np.concatenate([np.asarray(c.get_offsets()) for c in above.collections if hasattr(c, "get_sizes")])
    for value in (0.7, 0.8, *table["ours"], *report.by_seed(of_clusters).to_numpy().flatten()):
        assert np.isclose(offsets[:, 1].astype(float), value).any()
    whole = next(line for line in above.lines if len(line.get_xdata()) == 2)
    assert list(whole.get_xdata()) == [2, 5] and list(whole.get_ydata()) == pytest.approx(table["ours"][:2])
    assert [t.get_text() for t in below.get_xticklabels()] == ["2", "5"]
    low, high = below.get_ylim()
    assert low == 0 and high > 23  # the slowest training is in the picture


@pytest.mark.parametrize("ks", [[], [7], list(range(1, 2000))])
def test_clusters_of_any_number_are_drawn(ks):
    above, _ = drawn(curves.clusters(*clusters_table(ks))).axes
    assert len(above.get_xticks()) <= 26


def test_memory_is_drawn_with_the_cards_in_reach():
    small = pd.DataFrame({OURS_FORM: [1, 2], STORED: [3, 4]}, index=[1, 8]) * curves.MB
    large = pd.DataFrame({OURS_FORM: [2, 3], STORED: [6, 12]}, index=[1, 8]) * GB
    left, right = drawn(curves.memory({"a": small, "b": large})).axes
    assert texts(left) == [] and texts(right) == ["11 GB card", "16 GB card"]
    assert (left.get_title(), right.get_title()) == ("a", "b")
    assert list(right.lines[1].get_ydata()) == [6 * GB, 12 * GB]


@pytest.mark.parametrize("ks", [[], [7], list(range(1, 2000))])
def test_memory_of_any_number_is_drawn(ks):
    table = pd.DataFrame({name: np.array(ks, dtype=float) * GB for name in (OURS_FORM, STORED)}, index=ks)
    drawn(curves.memory({"one": table}))
    drawn(curves.memory({}))


def test_faces_are_drawn_with_rings_where_training_and_test_are_the_same(of_faces):
    table = curves.by_faces(of_faces)
    (axes,) = drawn(curves.faces(table)).axes
    rings = next(c for c in axes.collections if c.get_label() == "as many faces as in training")
    expected = [
        (TRAINED[label], naive(of_faces, label, TRAINED[label]).mean()) for label in TRAINED
    ]  # the curve of "few" at 3, that of "many" at 13
    assert np.asarray(rings.get_offsets()) == pytest.approx(np.array(expected))
    assert sorted(texts(axes)) == ["trained with 13", "trained with 3"]


def test_points_without_a_difference_are_full(of_faces):
    table = curves.beside_most(of_faces)
    (axes,) = drawn(curves.faces_beside(table)).axes
    few, many = (c for c in axes.collections if len(c.get_offsets()) == 4)
    white = to_rgba("white")
    assert [tuple(c) == white for c in few.get_facecolors()] == [True, True, False, False]
    assert [tuple(c) == white for c in many.get_facecolors()] == [True] * 4
    low, high = axes.get_ylim()
    assert low == pytest.approx(-6 * MARGIN) and 2 * MARGIN <= high <= 6 * MARGIN


def points(trained, tested, mean=0.5):
    rows = [(f"{t}", t, n, mean, mean - 0.1, mean + 0.1) for t in trained for n in tested]
    return pd.DataFrame(rows, columns=["label", "trained", "faces", "mean", "low", "high"])


@pytest.mark.parametrize(("trained", "tested"), [([], []), ([3], [7]), (range(1, 31), range(1, 300))])
def test_any_number_of_curves_is_drawn(trained, tested):
    table = points(trained, tested)
    drawn(curves.faces(table))
    drawn(curves.faces_beside(table.assign(verdict=Verdict.CANNOT_TELL, most=301)))


def test_names_of_curves_do_not_lie_on_each_other():
    (axes,) = drawn(curves.faces(points((4, 8, 24, 48), (1, 2, 4)))).axes  # four curves that end in one point
    renderer = axes.figure.canvas.get_renderer()
    boxes = sorted((Text.get_window_extent(text, renderer) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    for lower, upper in zip(boxes, boxes[1:], strict=False):
        assert upper.y0 - lower.y0 >= 10 * axes.figure.dpi / 72
