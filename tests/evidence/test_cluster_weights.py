from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from famf_lib.data.sampling import Batch
from famf_lib.evidence import cluster_weights
from famf_lib.evidence.cluster_weights import GRADED, absorbed, clip_scale
from famf_lib.experiments.results import Results
from famf_lib.experiments.run_store import RunSpec, get_or_train
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF

B, N, D, K, H, C, A = 13, 7, 11, 5, 17, 19, 3  # clips, faces, D, clusters, hidden units, persons, D of audio


def model_of(seed=0, normalisation="none", fusion="concat", attention="sigmoid", features="raw", aggregation=None):
    """A model in float64 with well separated φ and batch-norm statistics as after training."""
    torch.manual_seed(seed)
    options = {"clusters": K, "normalisation": normalisation, "attention": attention}
    options = {"aggregation_options": {"clusters": K} if aggregation else options, "features": features, "hidden": H}
    config = ModelConfig(
        aggregation=aggregation or "attentionvlad", fusion=fusion, modalities=("audio", "body"), **options
    )
    model = FAMF(config, D, {"audio": A, "body": D}, C).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn_like(value) * (1.5 if "score" in name else 0.7))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def clips(seed=1):
    torch.manual_seed(seed)
    mask = torch.rand(B, N) < 0.7
    mask[:, 0] = True
    mask[3] = False  # a clip without a face
    vectors = {"audio": torch.randn(B, A), "body": torch.randn(B, D)}
    there = {"audio": torch.rand(B) < 0.5, "body": torch.ones(B, dtype=torch.bool)}
    return Batch(torch.randn(B, N, D).double(), mask, {k: v.double() for k, v in vectors.items()}, there)


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["none", "cluster", "cluster+whole"]),
    st.sampled_from(["sigmoid", "softmax", "none"]),
    st.sampled_from(["raw", "unit"]),
)
def test_phi_is_absorbed_after_concat(seed, normalisation, attention, features):
    model, given_clips = model_of(seed, normalisation, attention=attention, features=features), clips(seed + 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = absorbed(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    others = plain.state_dict().keys() - {"classifier.0.weight"}
    assert all(torch.equal(plain.state_dict()[name], before[name]) for name in others)
    assert plain.config.aggregation == "netvlad" and plain.aggregation.cluster_attention() is None
    torch.testing.assert_close(plain(given_clips), model(given_clips), rtol=1e-8, atol=1e-8)
    scale = clip_scale(model, given_clips)
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=1e-8, atol=1e-8)


def test_one_factor_per_clip_remains_if_only_the_whole_is_normalised():
    model, given_clips = model_of(normalisation="whole"), clips()
    plain, scale = absorbed(model), clip_scale(model, given_clips)
    assert not torch.allclose(plain(given_clips), model(given_clips), atol=1e-3)
    phi = model.aggregation.cluster_attention().detach()
    bare = model_of(normalisation="none")  # the same parameters without normalisation
    v = (bare.aggregation(given_clips.faces, given_clips.mask) / phi[:, None]).detach()
    for b in range(B):
        if given_clips.mask[b].any():
            by_hand = v[b].norm() / (v[b] * phi[:, None]).norm() * phi.norm() / K**0.5
            assert float(scale[b]) == pytest.approx(float(by_hand))
    assert scale[3] == 1
    tokens = plain.tokens(given_clips)
    tokens[:, :K] *= scale[:, None, None]
    torch.testing.assert_close(plain.classifier(tokens.flatten(1)), model(given_clips), rtol=1e-8, atol=1e-8)


def test_a_model_without_phi_is_an_error():
    with pytest.raises(ValueError, match="'netvlad' has no φ, expected 'attentionvlad'"):
        absorbed(model_of(aggregation="netvlad"))


def test_the_table_of_the_argument():
    table = cluster_weights.identity(dim=23, clips=29, faces=5, persons=7)
    exact = ["Concat, none", "Concat, cluster", "Concat, cluster+whole"]
    assert (table.loc[exact, "φ absorbed"] < 1e-5).all() and (table.loc[exact, "φ left out"] > 1e-3).all()
    whole = table.loc["Concat, whole"]
    assert whole["φ absorbed"] > 1e-3 > 1e-5 > whole["with clip factor"]
    assert whole["smallest factor"] < 0.99 < 1.01 < whole["largest factor"]
    assert table.loc["MLMA, none", "φ absorbed"] > 1e-3  # MLMA does not absorb φ
    assert table.equals(cluster_weights.identity(dim=23, clips=29, faces=5, persons=7))


@pytest.fixture
def trained(made_up):
    clipset, runs = made_up(spread=2.0), {}  # hard to distinguish
    options = {"clusters": 3, "normalisation": "cluster+whole"}
    training = {"epochs": 2, "decay_after": 2, "decay_every": 1, "batch_size": 16, "faces": 5}
    for (label, fusion), seed in product(zip(GRADED, ("concat", "mlma"), strict=True), (1, 2)):
        model = {"aggregation_options": options, "fusion": fusion, "modalities": ["audio", "body"], "hidden": H}
        spec = RunSpec(model=model, training=training, evaluation={"faces": 5}, seed=seed)
        runs[label, seed] = get_or_train(spec, clipset, torch.device("cpu"))
    return Results(runs, clipset.fingerprint, "quick"), clipset


def test_trained_models_are_the_same_with_phi_absorbed(trained):
    results, clipset = trained
    table = cluster_weights.compare_clips(results, clipset)
    gallery = results.runs[GRADED[0], 2].split(clipset).gallery.tolist()
    assert table.loc[table["seed"] == 2, "clip"].tolist() == gallery and set(table["seed"]) == {1, 2}
    assert (table["difference"] < 1e-4).all() and not table["short cluster"].any()
    other = cluster_weights.compare_clips(results, clipset, GRADED[1])
    assert other["difference"].max() > 1e-3  # MLMA: the check can fail


def test_a_cluster_without_faces_leaves_a_factor_of_the_clip():
    """Scaling to unit length divides by at least 1e-12; a cluster below stays short, and φ no longer has norm |φ|."""
    model, given_clips = model_of(normalisation="cluster+whole"), clips()
    with torch.no_grad():  # the first number of a face decides alone about cluster 0
        model.aggregation.assignment.weight[:, 0] = 0
        model.aggregation.assignment.weight[0] = 0
        model.aggregation.assignment.weight[0, 0] = 1
    given_clips.faces[:, :, 0] = 0
    given_clips.faces[2, :, 0] = -80  # clip 2: α of cluster 0 is below 1e-30
    short = cluster_weights.has_short_cluster(model, given_clips)
    assert short.tolist() == [b == 2 for b in range(B)]  # not clip 3, which has no face
    apart = (absorbed(model)(given_clips) - model(given_clips)).abs().amax(dim=1)
    assert (apart[~short] < 1e-8).all() and apart[2] > 1e-3
    phi = model.aggregation.cluster_attention().detach()
    by_hand = phi.norm() / K**0.5 * (K - 1) ** 0.5 / phi[1:].norm()
    assert float(clip_scale(model, given_clips)[2]) == pytest.approx(float(by_hand))
    assert not cluster_weights.has_short_cluster(model_of(normalisation="none"), given_clips).any()
