from dataclasses import replace

import pytest
import torch

from famf_lib.data.splits import split
from famf_lib.models.aggregation import AGGREGATIONS, AttentionVLAD, NetVLAD
from famf_lib.models.config import ModelConfig
from famf_lib.training import train
from famf_lib.training.memory import ResidualsMaterialised, peak_of_step
from famf_lib.training.train import TrainingConfig

DIM, AUDIO, PERSONS, BATCH = 53, 61, 31, 248
TOLERANCE = 0.03  # the drawn faces, and workspace inside CPU kernels
DIMS = {"audio": AUDIO, "body": DIM}


@pytest.fixture(scope="module")
def clips(made_up):
    clipset = made_up(persons=PERSONS, clips=12, dim=DIM, audio=AUDIO)
    parts = split(clipset, "given")
    faced = clipset.counts[parts.train] > 0
    parts = replace(parts, train=parts.train[faced], train_classes=parts.train_classes[faced])
    assert len(parts.train) == BATCH and len(parts.persons) == PERSONS
    return clipset, parts


def config(clusters=3, **changed):
    values = {"aggregation_options": {"clusters": clusters, "centres": "random"}, "fusion_options": {"hidden": (13, 7)}}
    return ModelConfig(**(values | {"modalities": ("audio", "body"), "hidden": 97} | changed))


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


VLAD = {"aggregation_options": {"clusters": 17, "centres": "random"}, "fusion_options": {}}
CASES = {
    "famf": ({}, "float32"),
    "famf, bfloat16": ({}, "bfloat16"),
    "more weights than activations": ({"hidden": 2003}, "bfloat16"),
    "mean + concat": (dict(aggregation="mean", aggregation_options={}, fusion="concat", fusion_options={}), "float32"),
    "netvlad + mma": (VLAD | {"aggregation": "netvlad", "fusion": "mma"}, "float32"),
    "ghostvlad": (VLAD | {"aggregation": "ghostvlad"}, "float32"),
    "nextvlad": ({"aggregation": "nextvlad", "aggregation_options": {"clusters": 3, "groups": 2}}, "float32"),
    "residuals": (VLAD, "float32"),
    "residuals, bfloat16": (VLAD, "bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_peak_is_that_of_the_allocator(clips, monkeypatch, case):
    changed, precision = CASES[case]
    model, settings, materialised = config(**changed), schedule(precision=precision), case.startswith("residuals")
    found = counted(model, settings, ResidualsMaterialised if materialised else None)
    if materialised:
        monkeypatch.setitem(AGGREGATIONS, "attentionvlad", ResidualsMaterialised)
    assert found.peak == pytest.approx(allocated(model, settings, clips), rel=TOLERANCE)
    assert "weights" not in case or found.parameters > found.activations


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
    """Mean pooling has no weights: backward ends at the classifier, and the faces are freed after forward."""
    model = config(aggregation="mean", aggregation_options={}, fusion="concat", fusion_options={}, modalities=())
    batch, hidden = 211, 97
    layer = 2 * batch * hidden + 2 * hidden  # before and after the normalisation, whose mean and deviation are kept
    scores = 2 * batch * PERSONS  # logits and their log-softmax
    losses = 2  # the loss, and the sum of weights that it was divided by
    floats = batch * DIM + 2 * layer + scores + losses
    assert counted(model, schedule(batch)).activations == 4 * floats + 8 * batch  # a class is an int64


@pytest.mark.parametrize("materialised", [False, True], ids=["famf", "residuals"])
def test_only_materialised_residuals_grow_with_faces_times_clusters(materialised):
    def peak(faces, clusters):
        aggregation = ResidualsMaterialised if materialised else None
        return counted(config(clusters), schedule(faces=faces), aggregation).peak

    # How much more the additional faces take with 16 more clusters; the unit is a vector per clip, face and cluster.
    more = (peak(29, 47) - peak(11, 47)) - (peak(29, 31) - peak(11, 31))
    unit = 4 * BATCH * (29 - 11) * 16 * DIM
    assert more > 2 * unit if materialised else more < unit / 5


def test_sizes_that_no_machine_holds_can_be_counted():
    model, settings = ModelConfig(aggregation_options={"clusters": 64}), schedule(2**20, faces=24)
    found = peak_of_step(model, settings, dim=512, modality_dims={"audio": 512, "body": 512}, persons=10_034)
    assert 2**40 / 2 < found.peak < 2**42


@pytest.mark.parametrize("normalisation", ["none", "cluster+whole"])
@pytest.mark.parametrize("masked", [False, True])
def test_materialised_residuals_give_the_same_tokens(normalisation, masked):
    torch.manual_seed(0)
    ours = AttentionVLAD(11, 3, normalisation=normalisation)
    other = ResidualsMaterialised(11, 3, normalisation=normalisation)
    other.load_state_dict(ours.state_dict())
    x, mask = torch.randn(5, 7, 11), None
    if masked:
        mask = torch.rand(5, 7) < 0.6
        x[~mask] = torch.nan
    torch.testing.assert_close(other(x, mask), ours(x, mask))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="aggregation: 4 tokens of length 53 found, expected 3 tokens of length 53"):
        counted(config(3), schedule(), lambda dim, **options: NetVLAD(dim, 4))
    with pytest.raises(ValueError, match="modalities: the data have no 'audio'"):
        peak_of_step(config(), schedule(), dim=DIM, modality_dims={"body": DIM}, persons=PERSONS)
