"""Memory of a step: against what the allocator of PyTorch reports of a real training, and against counts by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from famf_lib.data.splits import split
from famf_lib.models.aggregation import AGGREGATIONS, AttentionVLAD, NetVLAD
from famf_lib.models.config import ModelConfig
from famf_lib.training import train
from famf_lib.training.memory import ResidualsMaterialised, peak_of_step
from famf_lib.training.train import TrainingConfig

DIM, AUDIO, PERSONS, BATCH = 53, 61, 31, 248
TOLERANCE = 0.03  # which faces were sampled, and what kernels of a CPU use inside themselves
DIMS = {"audio": AUDIO, "body": DIM}


@pytest.fixture(scope="module")
def clips(made_up):
    """31 persons with 8 training clips each, all with faces: one batch."""
    clipset = made_up(persons=PERSONS, clips=12, dim=DIM, audio=AUDIO)
    parts = split(clipset, "given")
    faced = clipset.counts[parts.train] > 0
    parts = replace(parts, train=parts.train[faced], train_classes=parts.train_classes[faced])
    assert len(parts.train) == BATCH and len(parts.persons) == PERSONS
    return clipset, parts


def config(clusters=3, **changed):
    values = {
        "aggregation_options": {"clusters": clusters, "centres": "random"},
        "fusion_options": {"hidden": (13, 7)},
        "modalities": ("audio", "body"),
        "hidden": 97,
    }
    return ModelConfig(**(values | changed))


def schedule(batch=BATCH, precision="float32", faces=11):
    return TrainingConfig(batch_size=batch, faces=faces, precision=precision, epochs=3)


def counted(model, settings, aggregation=None):
    return peak_of_step(model, settings, dim=DIM, modality_dims=DIMS, persons=PERSONS, aggregation=aggregation)


def allocated(model, settings, clips):
    """The peak of a real training: PyTorch's profiler reports every call of the allocator in turn."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        train.train(model, settings, *clips, seed=1)
    now = peak = 0
    calls = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for call in sorted(calls, key=lambda call: call.start_ns()):
        now += call.nbytes()
        peak = max(peak, now)
    return peak


# --- Against the allocator ---


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("materialised", [False, True], ids=["famf", "residuals"])
@pytest.mark.parametrize("clusters", [2, 17])
def test_the_peak_is_that_of_the_allocator(clips, monkeypatch, precision, materialised, clusters):
    model, settings = config(clusters), schedule(precision=precision)
    expected = counted(model, settings, ResidualsMaterialised if materialised else None).peak
    if materialised:
        monkeypatch.setitem(AGGREGATIONS, "attentionvlad", ResidualsMaterialised)
    assert expected == pytest.approx(allocated(model, settings, clips), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("aggregation", "fusion"), [("mean", "concat"), ("netvlad", "mma"), ("ghostvlad", "concat"), ("nextvlad", "mlma")]
)
def test_so_it_is_for_the_other_modules(clips, aggregation, fusion):
    vlad = {"clusters": 3, "centres": "random"}
    options = {"mean": {}, "nextvlad": {"clusters": 3, "groups": 2}}.get(aggregation, vlad)
    model = config(aggregation=aggregation, aggregation_options=options, fusion=fusion, fusion_options={})
    assert counted(model, schedule()).peak == pytest.approx(allocated(model, schedule(), clips), rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_so_it_is_where_weights_outweigh_activations(clips, precision):
    model, settings = config(hidden=2003), schedule(precision=precision)
    found = counted(model, settings)
    assert found.parameters > found.activations
    assert found.peak == pytest.approx(allocated(model, settings, clips), rel=TOLERANCE)


# --- Against counts by hand ---


def test_weights_and_moments_are_counted_to_the_byte():
    clusters, hidden, tokens = 3, 97, 5
    aggregation = [clusters * DIM, clusters, clusters * DIM, DIM, 1]  # a, b, c, and the layer of φ
    fusion = [DIM * 13, 13 * 7, AUDIO * DIM, DIM]  # the body's vectors have the length of a token
    layers = [tokens * DIM * hidden, hidden, hidden * hidden, hidden, hidden * PERSONS, PERSONS]
    normalisations = [hidden] * 4
    weights = aggregation + fusion + layers + normalisations
    found = counted(config(clusters), schedule())
    assert found.parameters == 4 * sum(weights)
    assert found.optimiser == 2 * 4 * sum(weights) + 4 * len(weights)


def test_activations_of_the_plainest_model_are_counted_to_the_byte():
    """Mean pooling has nothing to learn: backward ends at the classifier, and the faces go when forward is done."""
    model = config(aggregation="mean", aggregation_options={}, fusion="concat", fusion_options={}, modalities=())
    batch, hidden = 211, 97
    layer = 2 * batch * hidden + 2 * hidden  # before and behind the normalisation, whose mean and deviation are kept
    scores = 2 * batch * PERSONS  # logits and their log-softmax
    losses = 2  # the loss, and the sum of weights that it was divided by
    floats = batch * DIM + 2 * layer + scores + losses
    assert counted(model, schedule(batch)).activations == 4 * floats + 8 * batch  # a class is an int64


@pytest.mark.parametrize("materialised", [False, True], ids=["famf", "residuals"])
def test_only_residuals_that_are_written_down_grow_with_faces_times_clusters(materialised):
    def peak(faces, clusters):
        aggregation = ResidualsMaterialised if materialised else None
        return counted(config(clusters), schedule(faces=faces), aggregation).peak

    # What a face more costs with 16 clusters more, in units of one vector of D numbers a clip and cluster.
    more = (peak(29, 47) - peak(11, 47)) - (peak(29, 31) - peak(11, 31))
    unit = 4 * BATCH * (29 - 11) * 16 * DIM
    assert more > 2 * unit if materialised else more < unit / 5


# --- The order of things ---


@hypothesis_settings(max_examples=5)
@given(st.integers(2, 300), st.integers(1, 40), st.sampled_from(["float32", "bfloat16"]))
def test_the_peak_grows_with_the_batch_and_with_the_clusters(batch, clusters, precision):
    least = counted(config(clusters), schedule(batch, precision))
    for more in (
        counted(config(clusters), schedule(batch + 50, precision)),
        counted(config(clusters + 5), schedule(batch, precision)),
    ):
        assert more.peak > least.peak and more.activations > least.activations
        assert more.peak > more.parameters + more.optimiser + more.activations


def test_it_is_for_sizes_that_no_machine_holds():
    found = peak_of_step(
        ModelConfig(aggregation_options={"clusters": 64}),
        TrainingConfig(batch_size=2**20, precision="float32"),
        dim=512,
        modality_dims={"audio": 512, "body": 512},
        persons=10_034,
    )
    assert 2**40 / 2 < found.peak < 2**42


# --- The other form ---


@pytest.mark.parametrize("normalisation", ["none", "cluster", "cluster+whole"])
@pytest.mark.parametrize("masked", [False, True])
def test_written_down_or_not_the_tokens_are_the_same(normalisation, masked):
    torch.manual_seed(0)
    ours = AttentionVLAD(11, 3, normalisation=normalisation)
    other = ResidualsMaterialised(11, 3, normalisation=normalisation)
    other.load_state_dict(ours.state_dict())
    x, mask = torch.randn(5, 7, 11), None
    if masked:
        mask = torch.rand(5, 7) < 0.6
        x[~mask] = torch.nan
    torch.testing.assert_close(other(x, mask), ours(x, mask))


# --- What is refused ---


def test_an_aggregation_with_other_tokens_is_refused():
    with pytest.raises(ValueError, match="aggregation: 4 tokens of length 53, expected 3 of length 53"):
        counted(config(3), schedule(), lambda dim, **options: NetVLAD(dim, 4))


def test_a_modality_without_a_length_is_refused():
    with pytest.raises(ValueError, match="modalities: the data have no 'audio'"):
        peak_of_step(config(), schedule(), dim=DIM, modality_dims={"body": DIM}, persons=PERSONS)
