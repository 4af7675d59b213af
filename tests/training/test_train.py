import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from famf_lib.data import sampling
from famf_lib.data.sampling import Sampler, generator
from famf_lib.data.splits import split
from famf_lib.metrics import mean_average_precision
from famf_lib.models.config import ModelConfig
from famf_lib.training import evaluation
from famf_lib.training import train as training
from famf_lib.training.evaluation import EvaluationConfig, evaluate, logits_of
from famf_lib.training.train import TrainingConfig, build, learning_rate_factor, pick_device, precision_of, train

CPU = torch.device("cpu")
SMALL = {"aggregation_options": {"clusters": 3}, "fusion_options": {"hidden": (7, 5)}}
SMALL |= {"modalities": ("audio", "body"), "hidden": 29}
MODEL = ModelConfig(**SMALL)
RANDOM = ModelConfig(**(SMALL | {"aggregation_options": {"clusters": 3, "centres": "random"}}))
BRIEF = TrainingConfig(
    epochs=5, decay_after=2, decay_every=2, batch_size=16, faces=5, precision="float32", lr=0.004, lr_aggregation=0.04
)


@pytest.fixture(scope="module")
def clips(made_up):
    clipset = made_up(persons=7, clips=12)
    return clipset, split(clipset, "given")


def with_training(parts, number):
    return replace(parts, train=parts.train[:number], train_classes=parts.train_classes[:number])


def brief(**changed):
    return TrainingConfig(**(BRIEF.model_dump() | changed))


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Stop(Exception):
    """The user interrupts the training."""


def stop_after(epochs, seen=None):
    def report(epoch, loss):
        if seen is not None:
            seen.append(epoch)
        if epoch == epochs:
            raise Stop

    return report


@pytest.fixture(scope="module")
def whole(clips):
    return train(MODEL, BRIEF, *clips, seed=1)


@pytest.fixture
def place(tmp_path):
    return {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}


@pytest.mark.parametrize(("aggregation", "precision"), [("mean", "float32"), ("attentionvlad", "bfloat16")])
def test_it_learns_true_labels_and_not_shuffled_ones(made_up, aggregation, precision):
    scores = {}
    options = SMALL | ({"aggregation": "mean", "aggregation_options": {}} if aggregation == "mean" else {})
    settings = brief(epochs=12, decay_after=8, precision=precision)
    for labels in ("true", "shuffled"):
        clipset = made_up(persons=7, clips=24, labels=labels, spread=0.6)
        parts = split(clipset, "given")
        trained = train(ModelConfig(**options), settings, clipset, parts, seed=1)
        assert trained.losses[-1] < trained.losses[0] and len(trained.losses) == 12
        scores[labels] = evaluate(trained.model, EvaluationConfig(faces=7), clipset, parts, seed=1)
    # With 7 persons the mAP of a random order is slightly above 1/7.
    assert scores["true"].mean_ap > 0.8 and scores["true"].rank_1 > 0.8
    assert scores["shuffled"].mean_ap < 0.35 and scores["shuffled"].rank_1 < 0.35


def test_a_seed_repeats_a_training_whatever_the_caller_draws_and_another_one_does_not(clips, whole):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = (train(MODEL, BRIEF, *clips, seed=seed) for seed in (1, 2))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were moved"
    assert whole.losses == again.losses != other.losses and equal(weights(whole.model), weights(again.model))
    scores = [evaluate(t.model, EvaluationConfig(faces=3), *clips, seed=1).ap for t in (whole, again)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("stops", [(1,), (4,), (2, 3, 3)], ids=str)
def test_an_interrupted_training_ends_with_the_numbers_of_an_uninterrupted_one(clips, whole, place, stops):
    for stop in stops:
        with pytest.raises(Stop):
            train(MODEL, BRIEF, *clips, seed=1, report=stop_after(stop), **place)
    seen = []
    resumed = train(MODEL, BRIEF, *clips, seed=1, report=stop_after(99, seen), **place)
    assert seen == list(range(stops[-1], 6)), "it began again"
    assert resumed.losses == whole.losses and equal(weights(resumed.model), weights(whole.model))
    assert not resumed.model.training


def test_an_interrupted_checkpoint_leaves_the_one_before(clips, whole, place, tmp_path, monkeypatch):
    real, written = torch.save, []

    def half(state, file):
        written.append(len(state["losses"]))
        if len(written) == 3:
            file.write_bytes(b"half")
            raise Stop
        real(state, file)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(torch, "save", half)
        train(MODEL, BRIEF, *clips, seed=1, **place)
    assert written == [1, 2, 3] and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    seen = []
    resumed = train(MODEL, BRIEF, *clips, seed=1, report=stop_after(99, seen), **place)
    assert seen == [3, 4, 5] and resumed.losses == whole.losses


@pytest.fixture
def an_epoch_a_second(monkeypatch):
    """A clock that advances by a second per epoch; returns a function that makes its ``report``."""
    passed = []
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: 7.0 + len(passed)))
    return lambda stop: stop_after(stop, passed)


def test_checkpoints_come_every_so_many_seconds(clips, place, monkeypatch, an_epoch_a_second):
    written, real = [], torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: written.append(len(state["losses"])) or real(state, file))
    every_two = place | {"checkpoint_seconds": 2.0}
    train(RANDOM, brief(epochs=7), *clips, seed=1, report=an_epoch_a_second(None), **every_two)
    assert written == [2, 4, 6]
    train(RANDOM, brief(epochs=3), *clips, seed=1, report=an_epoch_a_second(None), checkpoint_seconds=0.0)
    assert len(written) == 3, "a checkpoint without a file"


def test_the_time_of_a_training_includes_the_time_before_its_interruptions(clips, place, an_epoch_a_second):
    for stop in (2, 4):  # the second in which it is interrupted is lost
        with pytest.raises(Stop):
            train(RANDOM, BRIEF, *clips, seed=1, report=an_epoch_a_second(stop), **place)
    assert train(RANDOM, BRIEF, *clips, seed=1, report=an_epoch_a_second(None), **place).seconds == 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1] * 50 + [0.1] * 10 + [0.01] * 10 + [0.001] * 10),  # Sec. 4.3
        ({"decay_after": 3, "decay_every": 2}, [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"decay_after": 0, "decay_every": 1}, [0.1, 0.01]),
    ],
)
def test_learning_rates_decay_by_the_schedule(schedule, expected):
    config = TrainingConfig(**schedule)
    assert [learning_rate_factor(config, epoch) for epoch in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize("resumed", [False, True])
def test_every_step_has_the_rates_of_its_epoch(clips, place, monkeypatch, resumed):
    rates, step = [], torch.optim.Adam.step

    def spied(self, *args, **kwargs):
        rates.append(tuple(group["lr"] for group in self.param_groups))
        return step(self, *args, **kwargs)

    if resumed:
        with pytest.raises(Stop):
            train(MODEL, BRIEF, *clips, seed=1, report=stop_after(4), **place)
    monkeypatch.setattr(torch.optim.Adam, "step", spied)
    train(MODEL, BRIEF, *clips, seed=1, **place)
    steps = math.ceil(len(clips[1].train) / 16)
    expected = [r for f in (1, 1, 0.1, 0.1, 0.01)[3 if resumed else 0 :] for r in [(0.04 * f, 0.004 * f)] * steps]
    np.testing.assert_allclose(rates, expected)


def test_the_first_step_moves_the_aggregation_by_its_rate_and_the_rest_by_theirs(clips):
    """Adam's first step is the learning rate times the sign of the gradient."""
    clipset, parts = clips
    settings = brief(epochs=1, batch_size=4096, lr=0.003, lr_aggregation=0.02)
    before = build(RANDOM, clipset, len(parts.persons), seed=1).state_dict()
    after = dict(train(RANDOM, settings, clipset, parts, seed=1).model.named_parameters())
    assert any(key.startswith("aggregation.") for key in after)
    for key, value in after.items():
        rate = 0.02 if key.startswith("aggregation.") else 0.003
        moved = (value.detach() - before[key]).abs()
        assert moved.max() <= rate * 1.01, key
        if not key.startswith("classifier.0.bias") and not key.startswith("classifier.3.bias"):
            assert moved.max() >= rate * 0.9, key  # a bias before batch normalisation has no gradient


def test_the_loss_is_cross_entropy_of_the_drawn_faces_plus_the_penalty(clips):
    clipset, parts = clips
    changed = {"fusion": "mma", "fusion_options": {"penalty": 0.1}, "aggregation_options": {"centres": "random"}}
    config = ModelConfig(**(SMALL | changed))
    model = build(config, clipset, len(parts.persons), seed=1).train()
    sampler = Sampler(clipset, parts.train, 5, config.modalities)
    drawn = sampler.draw(generator(CPU, 1, training.FACES, 0))
    logits = model(sampler.batch(drawn, torch.arange(len(parts.train))))
    squares = model.fusion.convolution.weight.square().sum()
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    expected = -log_p[torch.arange(len(logits)), parts.train_classes].mean() + 0.1 * squares
    found = train(config, brief(epochs=1, batch_size=4096), clipset, parts, seed=1)
    assert found.losses == [pytest.approx(float(expected.detach()), rel=1e-5)]


@pytest.mark.parametrize(
    ("number", "batch_size", "count"), [(37, 7, 6), (37, 36, 2), (37, 37, 1), (37, 4096, 1), (2, 2, 1), (7, 2, 3)]
)
def test_every_epoch_has_every_clip_once_and_other_faces(clips, monkeypatch, number, batch_size, count):
    """The steps differ by one clip at most, and have two or more: 7 clips in steps of 2 are 3, 2 and 2."""
    clipset, parts = clips
    steps, draws, batch = [], [], Sampler.batch

    def spied(self, drawn, rows):
        steps.append(rows.tolist())
        draws.append(tuple(drawn.flatten().tolist()))
        return batch(self, drawn, rows)

    monkeypatch.setattr(Sampler, "batch", spied)
    train(RANDOM, brief(epochs=2, batch_size=batch_size), clipset, with_training(parts, number), seed=1)
    assert len(steps) == 2 * count
    epochs = [sum(steps[:count], []), sum(steps[count:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(number))] * 2
    assert number < 3 or epochs[0] != epochs[1] and len(set(draws)) == 2
    sizes = {len(step) for step in steps}
    assert max(sizes) <= max(batch_size, 3) and max(sizes) - min(sizes) <= 1 and min(sizes) >= 2


def test_kmeans_sees_training_faces_only(clips, monkeypatch):
    clipset, parts = clips
    seen = []
    monkeypatch.setattr("famf_lib.models.famf.FAMF.initialise", lambda self, faces, seed: seen.append(faces))
    train(MODEL, brief(epochs=1), clipset, parts, seed=1)
    offsets = clipset.offsets.tolist()
    own = {tuple(f.tolist()) for c in parts.train.tolist() for f in clipset.faces[offsets[c] : offsets[c + 1]].float()}
    assert {tuple(face.tolist()) for face in seen[0]} <= own and len(seen[0]) > len(own) / 4


@pytest.mark.parametrize("rank_by", ["probability", "logit"])
@pytest.mark.parametrize("k", [3, 100])
def test_evaluation_ranks_the_whole_gallery(clips, whole, monkeypatch, rank_by, k):
    clipset, parts = clips
    model, faces = whole.model, 4  # in training there were 5
    sampler = Sampler(clipset, parts.gallery, faces, MODEL.modalities)
    batch = sampler.batch(sampler.draw(generator(CPU, 9, sampling.EVALUATION)), torch.arange(len(parts.gallery)))
    with torch.no_grad():
        logits = model.eval()(batch)
    scores = logits if rank_by == "logit" else logits - logits.double().exp().sum(dim=1, keepdim=True).log().float()
    assert (parts.gallery_classes == -1).any(), "the gallery lacks its noise"
    expected = mean_average_precision(scores, parts.gallery_classes, k)
    settings = EvaluationConfig(faces=faces, k=k, rank_by=rank_by)
    for size in (1024, 5):
        monkeypatch.setattr(evaluation, "EVALUATION_BATCH", size)
        model.train()  # evaluation must switch batch normalisation itself
        rows, found = zip(*logits_of(model, faces, clipset, parts.gallery, 9), strict=True)
        assert torch.cat(rows).tolist() == list(range(len(parts.gallery)))
        torch.testing.assert_close(torch.cat(found), logits)
        found = evaluate(model, settings, clipset, parts, seed=9)
        np.testing.assert_allclose(found.ap, expected.ap, rtol=1e-6)
        assert found.rank_1 == expected.rank_1


def test_clips_with_probabilities_close_to_1_are_separated(clips, monkeypatch):
    """Margins of 20 and more, where the probability itself is 1 in float32: the larger margin ranks first."""
    clipset, parts = clips
    model = build(MODEL, clipset, len(parts.persons), seed=1)
    logits = torch.zeros(len(parts.gallery), len(parts.persons))
    logits[:, 0] = 20 + torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(evaluation, "logits_of", lambda *given: [(torch.arange(len(logits)), logits)])
    ranking = evaluation.rank(model, EvaluationConfig(faces=4), clipset, parts, seed=1)
    assert ranking.clips()[0].tolist() == logits[:, 0].argsort(descending=True)[:100].tolist()


@pytest.mark.parametrize(
    ("asked", "instructions", "precision"),
    [
        ("bfloat16", {}, torch.bfloat16),
        ("float32", {"amx_bf16": True}, torch.float32),
        ("auto", {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("auto", {"amx_bf16": True}, torch.bfloat16),
        ("auto", {"avx512_bf16": False, "avx2": True}, torch.float32),
        ("auto", {}, torch.float32),
    ],
)
def test_auto_is_bfloat16_on_processors_with_fast_products_of_it(monkeypatch, asked, instructions, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert precision_of(brief(precision=asked), CPU) == precision


@pytest.mark.parametrize("name", ["abacus", "cuda:99", ""])
def test_an_unavailable_device_is_refused(name):
    assert pick_device("cpu") == CPU and pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=rf"^device: '{name}' cannot be used here, expected auto or one of: cpu"):
        pick_device(name)


def test_an_infinite_loss_and_a_single_clip_are_refused(clips):
    with pytest.raises(ValueError, match=r"^lr: the loss is (nan|inf) after epoch \d, expected lower learning rates$"):
        train(RANDOM, brief(lr=1e30, lr_aggregation=1e30), *clips, seed=1)
    clipset, parts = clips
    with pytest.raises(ValueError, match=r"^split: 1 training clips, expected 2 or more for batch normalisation$"):
        train(MODEL, BRIEF, clipset, with_training(parts, 1), seed=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: brief(epoch=3), "epoch: no such key, expected one of epochs, decay_after, decay_every, batch_size,"),
        (lambda: brief(batch_size=1), "batch_size: 1 found; input should be greater than or equal to 2"),
        (lambda: brief(lr=-1), "lr: -1 found; input should be greater than 0"),
        (lambda: brief(lr=math.nan), "lr: nan found; input should be a finite number"),
        (lambda: brief(faces=2.5), "faces: 2.5 found; input should be a valid integer, got a number with a fractional"),
        (lambda: brief(precision="half"), "precision: 'half' found; input should be 'auto', 'float32' or 'bfloat16'"),
        (lambda: EvaluationConfig(rank_by="luck"), "rank_by: 'luck' found; input should be 'probability' or 'logit'"),
    ],
)
def test_a_bad_setting_is_refused(make, sentence):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value).startswith(sentence)
