"""The attention matrix, and the tokens before and after the fusion, against naive sums."""

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

NAMES = ["face 1", "face 2", "face 10", "audio", "body"]
KINDS = {"face": [0, 1, 2], "audio": [3], "body": [4]}
SEEDS, PERSONS, NOISE = 3, 7, -1


def with_answers(made_results, weights):
    """Results whose probe found these weights (seeds, persons + 1, T, T); the last person is noise."""
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
            e = estimate(weights[:, :PERSONS, rows][..., columns].sum(axis=-1).mean(axis=-1))
            expected = e.mean, max(e.low, 0), min(e.high, 1), len(columns) / 5
            assert tuple(table.loc[(row, column), ["share", "low", "high", "even"]]) == pytest.approx(expected)


def test_effective_number_of_tokens(made_results, weights):
    rows = np.array([[1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25, 0], [0.2] * 5])
    weights[:, :PERSONS] = rows
    table = attention.sources(with_answers(made_results, weights), "MLMA").set_index("row")
    assert table["number"].to_dict() == pytest.approx({"face": (1 + 2 + 1) / 3, "audio": 4, "body": 5})
    assert table.loc["body", ["low", "high"]].tolist() == pytest.approx([5, 5])


def test_a_person_without_such_a_clip_is_left_out(made_results, weights):
    results = with_answers(made_results, weights)
    table = results.answers["attention"]
    results = replace(results, answers={"attention": table[(table["person"] != 4) | (table["seed"] == 3)]})
    kept = [p for p in range(PERSONS) if p != 4]
    mean, _ = attention.matrix(results, "MLMA", 1)
    np.testing.assert_allclose(mean, weights[0, kept].mean(axis=0))
    body = attention.blocks(results, "MLMA").set_index(["row", "column"]).loc[("body", "body"), "share"]
    by_seed = [weights[0, kept, 4, 4].mean(), weights[1, kept, 4, 4].mean(), weights[2, :PERSONS, 4, 4].mean()]
    assert body == pytest.approx(np.mean(by_seed))


def test_effective_rank_of_orthogonal_and_parallel_tokens():
    square = torch.eye(5, 11)[None] * torch.tensor([3.0, 0.1, 7.0, 1.0, 2.0])[:, None]  # lengths do not matter
    line = torch.ones(1, 5, 11) * torch.tensor([3.0, -0.1, 7.0, 1.0, 2.0])[:, None]
    two = torch.cat([square[:, :1].expand(1, 2, 11), square[:, 1:3]], dim=1)[:, [0, 2, 1, 3]]
    assert attention.effective_rank(torch.cat([square, line])).tolist() == pytest.approx([5, 1], abs=1e-4)
    values = np.array([np.sqrt(2), 1, 1]) / (np.sqrt(2) + 2)
    assert attention.effective_rank(two).item() == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-5)


def test_cosines_pair_by_pair():
    tokens = torch.randn(3, 5, 11, generator=torch.manual_seed(1))
    for clip, mean in zip(tokens.numpy(), attention.similarity(tokens).tolist(), strict=True):
        cosine = np.corrcoef(np.hstack([clip, -clip]))  # the rows have mean 0, so correlations are cosines
        assert mean == pytest.approx(cosine[~np.eye(5, dtype=bool)].mean(), rel=1e-5)
    assert attention.kept(tokens, -2 * tokens).tolist() == pytest.approx([-1, -1, -1], rel=1e-5)


@pytest.fixture
def trained(made_up):
    """A clip set and the runs on it with each fusion."""
    clipset, runs = made_up(persons=5, clips=12), {}
    for name in ("mlma", "mma", "concat"):
        spec = RunSpec(
            model={"aggregation_options": {"clusters": 3}, "fusion": name, "hidden": 13},
            training={"epochs": 2, "decay_after": 1, "batch_size": 16, "faces": 5},
            evaluation={"faces": 5},
        )
        runs[name, 1] = get_or_train(spec, clipset, torch.device("cpu"))
    return clipset, Results(runs, "data", "quick")


def test_tokens_are_those_of_the_evaluation(trained):
    clipset, results = trained
    run = results.runs["mlma", 1]
    model, split = run.model(clipset), run.split(clipset)
    person, before, after = attention.tokens(model, run, clipset)
    complete = (clipset.counts > 0) & clipset.modalities["audio"].present
    gallery = list(zip(split.gallery.tolist(), split.gallery_classes.tolist(), strict=True))
    expected = [n for n, (clip, c) in enumerate(gallery) if c >= 0 and complete[clip]]
    assert 0 < len(expected) < len(gallery)
    assert person.tolist() == [gallery[n][1] for n in expected]
    logits = torch.cat([part for _, part in logits_of(model, 5, clipset, split.gallery, run.spec.seed)])
    with torch.inference_mode():
        torch.testing.assert_close(model.classifier(after.flatten(1)), logits[expected])
        torch.testing.assert_close(after, model.fusion.attention(before) @ before)
    _, few, _ = attention.tokens(model, run, clipset, clips=3)
    assert len(few) == 3 < len(person)
    torch.testing.assert_close(few[[0, -1]], before[[0, -1]])


def test_change_of_the_tokens(trained):
    clipset, results = trained
    table = attention.left(results, clipset).set_index(["label", "person"])
    assert table.loc["mlma", "γ"].isna().all()
    scale = results.runs["mma", 1].model(clipset).state_dict()["fusion.scale"].item()
    assert scale != 0 and (table.loc["mma", "γ"] == scale).all()
    same, rank = table.loc["concat"], "effective rank after"
    np.testing.assert_allclose(same["effective rank before"], same[rank])
    np.testing.assert_allclose(same["cosine of a token before and after"], 1, rtol=1e-5)
    run = results.runs["mlma", 1]
    person, _, after = attention.tokens(run.model(clipset), run, clipset)
    of_first = attention.effective_rank(after[person == person[0]]).mean().item()
    assert table.loc["mlma", rank][person[0]] == pytest.approx(of_first, rel=1e-5)

    pair = attention.side_by_side(table.reset_index(), "concat", "mlma").loc[rank]
    a, b = (table.loc[label, rank].mean() for label in ("concat", "mlma"))
    assert pair[["concat", "mlma", "difference"]].tolist() == pytest.approx([a, b, a - b])
    assert pair["low"] <= pair["difference"] <= pair["high"]

    frames = attention.alike(results, clipset, 1)
    assert [*frames] == [f"{label}: {when}" for label in results.labels for when in ("before", "after")]
    for frame in frames.values():
        assert list(frame.index) == ["face 1", "face 2", "face 3", "audio", "body"]
        np.testing.assert_allclose(np.diag(frame), 1, rtol=1e-5)
    np.testing.assert_allclose(frames["concat: before"], frames["concat: after"])

    recorded = Results({key: replace(run, folder=None) for key, run in results.runs.items()}, "data", "quick")
    with pytest.raises(ValueError, match="only its numbers were recorded"):
        attention.left(recorded, clipset)
