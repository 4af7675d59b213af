"""Face weights: the rule that selects clips, the tables from the answers of the probe, and their figures."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.stats import rankdata

from famf_book.figures import weights
from famf_lib.experiments import run_store
from famf_lib.experiments.results import Results
from famf_lib.experiments.run_store import RunSpec
from famf_lib.models.config import ModelConfig
from famf_lib.training import train
from famf_lib.training.train import TrainingConfig

PERSONS, SEEDS = 7, 3


@pytest.fixture
def asked(made_results):
    """Results of two rows with made-up answers of the probe, some of them NaN."""
    results = made_results({"A + MLMA": 0.5, "B + Concat": 0.5}, seeds=SEEDS, persons=PERSONS)
    rng = np.random.default_rng(11)
    rows = []
    for (label, seed), trait in itertools.product(results.runs, ("quality", "blur", "norm")):
        for person in range(PERSONS):
            rho = rng.uniform(-1, 1) if rng.random() > 0.2 else np.nan
            row = {"label": label, "seed": seed, "person": person, "trait": trait, "faces": 5, "rho": rho}
            rows.append(
                row | {f"fifth {n}": rng.random() if n != 2 or trait != "blur" else np.nan for n in range(1, 6)}
            )
    results.answers["weights"] = pd.DataFrame(rows)
    return results


def naive(table, label, trait, column):
    """The mean over seeds of the mean over the persons with a value."""
    of = table[(table["label"] == label) & (table["trait"] == trait)]
    return np.mean([part[column].dropna().sum() / part[column].count() for _, part in of.groupby("seed")])


def test_correlations_are_positive_if_easier_faces_get_more_weight(asked):
    for one in weights.correlations(asked).itertuples():
        sign = -1 if one.trait == "blur" else 1
        assert one.mean == pytest.approx(sign * naive(asked.answers["weights"], one.label, one.trait, "rho"))
        assert np.mean(one.seeds) == pytest.approx(one.mean) and -1 <= one.low <= one.mean <= one.high <= 1


def test_fifths_run_from_hard_to_easy(asked):
    fifths, answers = weights.by_fifths(asked, "A + MLMA"), asked.answers["weights"]
    table = fifths.set_index(["trait", "fifth"])["mean"]
    for n in range(1, 6):
        assert table["quality", n] == pytest.approx(naive(answers, "A + MLMA", "quality", f"fifth {n}"))
        if n != 4:
            assert table["blur", n] == pytest.approx(naive(answers, "A + MLMA", "blur", f"fifth {6 - n}"))
    assert np.isnan(table["blur", 4])  # the second is empty, the fourth with the sign changed


def test_a_seed_without_any_value_is_left_out(asked):
    table = asked.answers["weights"]
    table.loc[(table["seed"] == 2) & (table["trait"] == "blur"), "rho"] = np.nan
    one = weights.correlations(asked).set_index(["label", "trait"]).loc["A + MLMA", "blur"]
    left = table[table["seed"] != 2]
    assert one["mean"] == pytest.approx(-naive(left, "A + MLMA", "blur", "rho"))
    assert np.isnan(one["seeds"][1]) and not np.isnan(one["seeds"][0])


def test_quality_equal_to_the_norm_is_left_out(asked):
    assert weights.told(asked) == ["norm", "quality", "blur"]
    table = asked.answers["weights"]
    norm = table[table["trait"] == "norm"]
    asked.answers["weights"] = pd.concat([table[table["trait"] == "blur"], norm, norm.assign(trait="quality")])
    assert weights.told(asked) == ["norm", "blur"]


def told_table(**means):
    """Correlations of one row with intervals of ±0.1 and two seeds at their ends."""
    rows = [
        {"label": "A", "trait": t, "mean": m, "low": m - 0.1, "high": m + 0.1, "seeds": [m - 0.1, m + 0.1]}
        for t, m in means.items()
    ]
    return pd.DataFrame(rows, columns=["label", "trait", "mean", "low", "high", "seeds"])


def test_answer_and_table():
    text = weights.answer(told_table(norm=0.3, size=0.2, quality=0.05, blur=-0.4), "A")
    assert "With A, faces with longer vectors and larger size get more weight; faces with less blur get less" in text
    assert "for 1 of 4 traits the interval contains 0" in text
    assert "weight and quality is +0.05 [-0.05, +0.15], and it is positive in 1 of 2 seeds." in text
    text = weights.answer(told_table(norm=0.02, blur=-0.03), "A", told_table(norm=-0.3, blur=0.2))
    assert "before training, it is -0.30 [-0.40, -0.20], and positive in 0" in text
    shown = weights.shown(told_table(norm=0.3, blur=-0.4), told_table(norm=0.0, blur=np.nan))
    assert list(shown.index) == ["longer vectors", "less blur"]
    assert list(shown["A"]) == ["+0.30 [+0.20, +0.40]", "-0.40 [-0.50, -0.30]"]
    assert list(shown["A, untrained"]) == ["+0.00 [-0.10, +0.10]", ""]


@given(
    st.lists(st.tuples(st.floats(0, 9), st.integers(0, 4)), max_size=30),
    st.lists(st.floats(0, 1), max_size=6),
)
def test_each_clip_is_of_a_different_person(given, quantiles):
    candidates = [(spread, clip, person) for clip, (spread, person) in enumerate(given)]
    chosen = weights._at_quantiles(candidates, quantiles)
    persons = [given[clip][1] for clip in chosen]
    assert len(set(persons)) == len(persons) <= len(quantiles)
    assert chosen == weights._at_quantiles(candidates[::-1], quantiles)  # whatever the order of the clips
    if quantiles and candidates:
        assert chosen[0] == sorted(candidates)[round(quantiles[0] * (len(candidates) - 1))][1]


def test_the_next_less_varied_clip_follows_if_a_person_was_selected_before():
    candidates = [(0.1, 10, 0), (0.2, 11, 1), (0.3, 12, 2), (0.4, 13, 2), (0.5, 14, 2)]
    assert weights._at_quantiles(candidates, (0.5, 1.0)) == [12, 11]
    assert weights._at_quantiles(candidates, (0.0, 0.25, 0.75, 1.0)) == [10, 11, 13]  # nobody is left for the last


def test_spacing_and_rank_correlation_of_a_clip():
    for faces, number, expected in ((13, 5, [0, 3, 6, 9, 12]), (3, 5, [0, 1, 2]), (1, 5, [0]), (11, 2, [0, 10])):
        clip = weights.Clip(0, np.arange(faces), np.arange(faces) / faces, np.arange(faces) / 2)
        assert list(clip.spaced(number)) == expected
    quality, weight = np.array([3.0, 1, 4, 1, 5, 9, 2]), np.array([0.2, 0.7, 0.1, 0.8, 0.2, 0.8, 0.1])
    clip = weights.Clip(0, np.arange(7), weight, quality)
    assert clip.rho == pytest.approx(np.corrcoef(rankdata(quality), rankdata(weight))[0, 1])
    assert clip.note() == f"weight, quality:\nρ = {clip.rho:+.2f}"
    even = weights.Clip(0, np.arange(7), np.full(7, 0.5), quality)
    assert np.isnan(even.rho) and even.note() == "no correlation"


@pytest.fixture
def clipset(made_up):
    return made_up(persons=5, clips=12, seed=3)


def spec(clusters=3, **options):
    return RunSpec(
        model=ModelConfig(hidden=13, modalities=("audio",), aggregation_options={"clusters": clusters} | options),
        training=TrainingConfig(epochs=2, decay_after=1, batch_size=17, faces=5, precision="float32"),
        seed=1,
    )


def test_clips_follow_the_rule_and_carry_the_weights_of_eq_3(clipset):
    run = run_store.get_or_train(spec(), clipset, torch.device("cpu"))
    found = weights.clips(run, clipset, spreads=(0.2, 1.0), least=4)
    offsets, quality = clipset.offsets.numpy(), clipset.face_columns()["quality"].to_numpy()
    known = clipset.clips[(clipset.clips["split"] == "val") & clipset.clips["person"].notna()].index
    spread = {c: quality[offsets[c] : offsets[c + 1]].std() for c in known if offsets[c + 1] - offsets[c] >= 4}
    assert len(found) == 2 and found[1].clip == max(spread, key=spread.get)
    state = load_file(run.folder / "model.safetensors")
    for one in found:
        x = clipset.faces[one.rows].float()
        scores = x @ state["aggregation.assignment.weight"].T + state["aggregation.assignment.bias"]
        alpha = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        phi = state["aggregation.centres"] @ state["aggregation.score.weight"].T + state["aggregation.score.bias"]
        expected = (alpha * (1 / (1 + (-phi).exp())).flatten()).sum(dim=1)
        np.testing.assert_allclose(one.weights, expected, rtol=1e-4)
        assert (np.diff(one.weights) >= 0).all() and sorted(one.rows) == list(range(*offsets[one.clip : one.clip + 2]))
        np.testing.assert_array_equal(one.quality, quality[one.rows])


def test_untrained_models_are_the_start_of_the_trained_ones(clipset):
    device = torch.device("cpu")
    specs = {("A", 1): spec(centres="random"), ("k-means", 1): spec()}
    trained = {key: run_store.get_or_train(one, clipset, device) for key, one in specs.items()}
    found = weights.untrained(Results(trained, "data", "quick"), clipset, device)
    start = train.build(specs["A", 1].model, clipset, 5, seed=1)
    left = found.runs["A", 1].model(clipset).state_dict()
    for name, value in start.named_parameters():
        torch.testing.assert_close(left[name], value, rtol=0, atol=1e-29, msg=name)  # a bias of 0 can still change
    ends = {key: run.model(clipset).state_dict()["aggregation.centres"] for key, run in trained.items()}
    assert not torch.equal(ends["A", 1], left["aggregation.centres"])
    # k-means centres are means of faces and lie among them.
    centres = found.runs["k-means", 1].model(clipset).state_dict()["aggregation.centres"]
    assert float(torch.cdist(centres, clipset.faces.float()).min(dim=1).values.max()) < 2.0
    assert set(found.answers["weights"]["label"]) == {"A", "k-means"}
    assert found.answers["weights"]["seed"].eq(1).all()
