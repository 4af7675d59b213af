"""The attention matrix and the tokens behind it, against naive sums over made-up matrices and a trained model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from famf_book.figures import attention
from famf_lib.evidence.bootstrap import estimate
from famf_lib.experiments.results import Results
from famf_lib.experiments.run_store import RunSpec, get_or_train
from famf_lib.training.evaluation import logits_of

CPU = torch.device("cpu")
NAMES = ["face 1", "face 2", "face 10", "audio", "body"]
KINDS = {"face": [0, 1, 2], "audio": [3], "body": [4]}
SEEDS, PERSONS, NOISE = 3, 7, -1


def with_answers(made_results, weights):
    """Results whose probe found these weights (seeds, persons + 1, T, T), the last person being the noise."""
    results = made_results({"MLMA": 0.5}, seeds=SEEDS, persons=PERSONS)
    persons = [*range(PERSONS), NOISE]
    index = pd.MultiIndex.from_product([[1, 2, 3], persons, NAMES, NAMES], names=["seed", "person", "row", "column"])
    table = pd.DataFrame({"weight": weights.ravel()}, index=index).reset_index().assign(label="MLMA")
    return replace(results, answers={"attention": table})


@pytest.fixture
def weights():
    return np.random.default_rng(3).dirichlet(np.full(5, 0.4), size=(SEEDS, PERSONS + 1, 5))


def test_matrix_is_the_mean_and_deviation_over_the_persons_of_one_seed(made_results, weights):
    mean, spread = attention.matrix(with_answers(made_results, weights), "MLMA", 2)
    assert list(mean.index) == list(mean.columns) == list(spread.index) == NAMES
    np.testing.assert_allclose(mean, weights[1, :PERSONS].mean(axis=0))
    np.testing.assert_allclose(spread, weights[1, :PERSONS].std(axis=0, ddof=1))


def test_blocks_pool_the_clusters_of_the_face(made_results, weights):
    table = attention.blocks(with_answers(made_results, weights), "MLMA").set_index(["row", "column"])
    for row, rows in KINDS.items():
        assert table.loc[row]["share"].sum() == pytest.approx(1)
        for column, columns in KINDS.items():
            share = weights[:, :PERSONS, rows][..., columns].sum(axis=-1).mean(axis=-1)
            expected, found = estimate(share), table.loc[(row, column)]
            assert (found["share"], found["even"]) == pytest.approx((expected.mean, len(columns) / 5))
            assert (found["low"], found["high"]) == pytest.approx((max(expected.low, 0), min(expected.high, 1)))


def test_number_of_tokens_drawn_on(made_results, weights):
    rows = np.array([[1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25, 0], [0.2] * 5])
    weights[:, :PERSONS] = rows
    table = attention.sources(with_answers(made_results, weights), "MLMA").set_index("row")
    assert table["number"].to_dict() == pytest.approx({"face": (1 + 2 + 1) / 3, "audio": 4, "body": 5})
    assert table.loc["body", ["low", "high"]].tolist() == pytest.approx([5, 5])


def test_a_person_without_such_a_clip_is_passed_over(made_results, weights):
    results = with_answers(made_results, weights)
    whole = results.answers["attention"]
    results = replace(results, answers={"attention": whole[(whole["person"] != 4) | (whole["seed"] == 3)]})
    stays = [p for p in range(PERSONS) if p != 4]
    mean, _ = attention.matrix(results, "MLMA", 1)
    np.testing.assert_allclose(mean, weights[0, stays].mean(axis=0))
    body = attention.blocks(results, "MLMA").set_index(["row", "column"]).loc[("body", "body"), "share"]
    by_seed = [weights[0, stays, 4, 4].mean(), weights[1, stays, 4, 4].mean(), weights[2, :PERSONS, 4, 4].mean()]
    assert body == pytest.approx(np.mean(by_seed))


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_directions_of_tokens_at_right_angles_and_in_line():
    square = torch.eye(5, 11)[None] * torch.tensor([3.0, 0.1, 7.0, 1.0, 2.0])[:, None]  # lengths do not matter
    line = torch.ones(1, 5, 11) * torch.tensor([3.0, -0.1, 7.0, 1.0, 2.0])[:, None]
    two = torch.cat([square[:, :1].expand(1, 2, 11), square[:, 1:3]], dim=1)[:, [0, 2, 1, 3]]
    assert attention.effective_rank(torch.cat([square, line])).tolist() == pytest.approx([5, 1], abs=1e-4)
    values = np.array([np.sqrt(2), 1, 1]) / (np.sqrt(2) + 2)
    assert attention.effective_rank(two).item() == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-5)


def test_cosines_pair_by_pair():
    tokens = torch.randn(3, 5, 11, generator=torch.manual_seed(1))
    for clip, mean in zip(tokens.numpy(), attention.similarity(tokens).tolist(), strict=True):
        pairs = [
            np.dot(clip[i], clip[j]) / np.linalg.norm(clip[i]) / np.linalg.norm(clip[j])
            for i in range(5)
            for j in range(5)
            if i != j
        ]
        assert mean == pytest.approx(np.mean(pairs), rel=1e-5)
    assert attention.kept(tokens, -2 * tokens).tolist() == pytest.approx([-1, -1, -1], rel=1e-5)


def spec(fusion):
    return RunSpec(
        model={"aggregation_options": {"clusters": 3}, "fusion": fusion, "hidden": 13},
        training={"epochs": 2, "decay_after": 1, "batch_size": 16, "faces": 5},
        evaluation={"faces": 5},
    )


@pytest.fixture
def trained(made_up):
    """A clip set, and the runs on it with each fusion."""
    clipset = made_up(persons=5, clips=12)
    runs = {(name, 1): get_or_train(spec(name), clipset, CPU) for name in ("mlma", "mma", "concat")}
    return clipset, Results(runs, "data", "quick")


def test_tokens_are_those_that_the_evaluation_saw(trained):
    clipset, results = trained
    run = results.runs["mlma", 1]
    model, split = run.model(clipset), run.split(clipset)
    person, before, behind = attention.tokens(model, run, clipset)
    whole = (clipset.counts > 0) & clipset.modalities["audio"].present
    expected = [(g, c) for g, c in zip(split.gallery.tolist(), split.gallery_classes.tolist(), strict=True) if c >= 0]
    expected = [(g, c) for g, c in expected if whole[g]]
    assert 0 < len(expected) < len(split.gallery)
    assert person.tolist() == [c for _, c in expected]
    logits = torch.cat([part for _, part in logits_of(model, 5, clipset, split.gallery, run.spec.seed)])
    place = {g: n for n, g in enumerate(split.gallery.tolist())}
    with torch.inference_mode():
        torch.testing.assert_close(model.classifier(behind.flatten(1)), logits[[place[g] for g, _ in expected]])
        torch.testing.assert_close(behind, model.fusion.attention(before) @ before)


def test_of_many_clips_some_from_end_to_end(trained):
    clipset, results = trained
    run = results.runs["mlma", 1]
    model = run.model(clipset)
    everybody, all_tokens, _ = attention.tokens(model, run, clipset)
    _, few, _ = attention.tokens(model, run, clipset, clips=3)
    torch.testing.assert_close(few[[0, -1]], all_tokens[[0, -1]])
    assert len(few) == 3 < len(everybody)


def test_what_is_left_of_the_tokens(trained):
    clipset, results = trained
    table = attention.left(results, clipset).set_index(["label", "person"])
    assert table.loc["mlma", "γ"].isna().all()
    scale = results.runs["mma", 1].model(clipset).state_dict()["fusion.scale"].item()
    assert scale != 0 and (table.loc["mma", "γ"] == scale).all()
    same = table.loc["concat"]
    ranks = ["directions of the tokens, before", "directions of the tokens, behind"]
    np.testing.assert_allclose(same[ranks[0]], same[ranks[1]])
    np.testing.assert_allclose(same["cosine of a token before with itself behind"], 1, rtol=1e-5)
    run = results.runs["mlma", 1]
    person, _, behind = attention.tokens(run.model(clipset), run, clipset)
    of_first = attention.effective_rank(behind[person == person[0]]).mean().item()
    assert table.loc["mlma", ranks[1]][person[0]] == pytest.approx(of_first, rel=1e-5)

    pair = attention.side_by_side(table.reset_index(), "concat", "mlma").loc[ranks[1]]
    means = [table.loc[label, ranks[1]].mean() for label in ("concat", "mlma")]
    assert pair[["concat", "mlma"]].tolist() == pytest.approx(means)
    assert pair["difference"] == pytest.approx(means[0] - means[1])
    assert pair["low"] <= pair["difference"] <= pair["high"]


def test_alike_is_before_and_behind_of_each_row(trained):
    clipset, results = trained
    frames = attention.alike(results, clipset, 1)
    assert [*frames] == [f"{label}: {when}" for label in results.labels for when in ("before", "behind")]
    for frame in frames.values():
        assert list(frame.index) == ["face 1", "face 2", "face 3", "audio", "body"]
        np.testing.assert_allclose(np.diag(frame), 1, rtol=1e-5)
    np.testing.assert_allclose(frames["concat: before"], frames["concat: behind"])


def test_a_recorded_run_has_no_tokens(trained):
    clipset, results = trained
    recorded = Results({key: replace(run, folder=None) for key, run in results.runs.items()}, "data", "quick")
    with pytest.raises(ValueError, match="only its numbers were recorded"):
        attention.left(recorded, clipset)


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 71])
@pytest.mark.parametrize("panels", [0, 1, 3])
def test_heatmaps_of_any_size(count, panels):
    names = [f"face {n}" for n in range(count)]
    frame = pd.DataFrame(np.full((count, count), 0.3), names, names)
    figure = attention.heatmaps({f"panel {n}": frame for n in range(panels)}, "weight", low=-1.0)
    figure.canvas.draw()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"panel {n}" for n in range(panels)]


@pytest.mark.parametrize("kinds", [0, 1, 5])
@pytest.mark.parametrize("panels", [0, 1, 2])
def test_blocks_of_any_size(kinds, panels):
    names = [f"kind {n}" for n in range(kinds)]
    lines = [(row, column, 0.25, 0.125, 0.5, 1 / kinds) for row in names for column in names]
    table = pd.DataFrame(lines, columns=["row", "column", "share", "low", "high", "even"])
    figure = attention.block_heatmaps({f"panel {n}": table for n in range(panels)})
    figure.canvas.draw()
    words = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert words.count("0.25\n0.12 … 0.50") == panels * kinds**2
    assert len(words) == panels * (kinds**2 + kinds)
