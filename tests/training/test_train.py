"""Training and evaluation: that they learn what is there and nothing else, and give the same numbers twice."""

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
from famf_lib.training.train import (
    TrainingConfig,
    build,
    learning_rate_factor,
    pick_device,
    precision_of,
    train,
)

CPU = torch.device("cpu")
SMALL = {
    "aggregation_options": {"clusters": 3},
    "fusion_options": {"hidden": (7, 5)},
    "modalities": ("audio", "body"),
    "hidden": 29,
}
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
    """Somebody pressed a key."""


def stop_after(epochs, seen=None):
    def report(epoch, loss):
        if seen is not None:
            seen.append(epoch)
        if epoch == epochs:
            raise Stop

    return report


# --- Learning ---


@pytest.mark.parametrize("aggregation", ["mean", "attentionvlad"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_what_is_there_and_only_that(made_up, aggregation, precision):
    scores = {}
    options = SMALL | ({"aggregation": "mean", "aggregation_options": {}} if aggregation == "mean" else {})
    settings = brief(epochs=12, decay_after=8, precision=precision)
    for labels in ("true", "shuffled"):
        clipset = made_up(persons=7, clips=24, labels=labels, spread=0.6)
        parts = split(clipset, "given")
        trained = train(ModelConfig(**options), settings, clipset, parts, seed=1)
        assert trained.losses[-1] < trained.losses[0] and len(trained.losses) == 12
        scores[labels] = evaluate(trained.model, EvaluationConfig(faces=7), clipset, parts, seed=1)
    # Of 7 persons a random order gives about 1/7 and a little.
    assert scores["true"].mean_ap > 0.8 and scores["true"].rank_1 > 0.8
    assert scores["shuffled"].mean_ap < 0.35 and scores["shuffled"].rank_1 < 0.35


# --- The same numbers twice ---


def test_a_seed_repeats_a_training_and_another_one_does_not(clips):
    first, again, other = (train(MODEL, BRIEF, *clips, seed=seed) for seed in (1, 1, 2))
    assert first.losses == again.losses and equal(weights(first.model), weights(again.model))
    assert first.losses != other.losses
    scores = [evaluate(t.model, EvaluationConfig(faces=3), *clips, seed=1).ap for t in (first, again)]
    assert torch.equal(scores[0], scores[1])


def test_the_callers_random_numbers_are_neither_used_nor_spent(clips):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train(MODEL, brief(epochs=1), *clips, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert train(MODEL, brief(epochs=1), *clips, seed=1).losses == first.losses


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_an_interrupted_training_ends_with_the_numbers_of_an_uninterrupted_one(clips, tmp_path, stop):
    whole = train(MODEL, BRIEF, *clips, seed=1)
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    with pytest.raises(Stop):
        train(MODEL, BRIEF, *clips, seed=1, report=stop_after(stop), **place)
    seen = []
    resumed = train(MODEL, BRIEF, *clips, seed=1, report=stop_after(99, seen), **place)
    assert seen == list(range(stop, 6)), "it began again"
    assert resumed.losses == whole.losses and equal(weights(resumed.model), weights(whole.model))
    assert not resumed.model.training


def test_it_may_be_interrupted_again_and_again(clips, tmp_path):
    whole = train(MODEL, BRIEF, *clips, seed=1)
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    for stop in (2, 3, 3, 5):
        with pytest.raises(Stop):
            train(MODEL, BRIEF, *clips, seed=1, report=stop_after(stop), **place)
    resumed = train(MODEL, BRIEF, *clips, seed=1, **place)
    assert resumed.losses == whole.losses and equal(weights(resumed.model), weights(whole.model))


def test_an_interrupted_checkpoint_leaves_the_one_before(clips, tmp_path, monkeypatch):
    whole = train(MODEL, BRIEF, *clips, seed=1)
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
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
    assert equal(weights(resumed.model), weights(whole.model))


def test_checkpoints_are_as_far_apart_as_asked(clips, tmp_path):
    train(MODEL, BRIEF, *clips, seed=1, checkpoint=tmp_path / "checkpoint.pt", checkpoint_seconds=3600.0)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def an_epoch_a_second(monkeypatch):
    """A clock that goes on by a second when a training reports an epoch; gives the ``report`` for it."""
    now = [7.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def until(stop):
        def report(epoch, loss):
            now[0] += 1
            if epoch == stop:
                raise Stop

        return report

    return until


def test_checkpoints_come_every_so_many_seconds(clips, tmp_path, monkeypatch, an_epoch_a_second):
    written, real = [], torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: written.append(len(state["losses"])) or real(state, file))
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 2.0}
    train(RANDOM, brief(epochs=7), *clips, seed=1, report=an_epoch_a_second(None), **place)
    assert written == [2, 4, 6]
    train(RANDOM, brief(epochs=3), *clips, seed=1, report=an_epoch_a_second(None), checkpoint_seconds=0.0)
    assert len(written) == 3, "there was no place for it"


def test_the_time_of_a_training_is_that_of_all_its_parts(clips, tmp_path, an_epoch_a_second):
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    for stop in (2, 4):  # the second in which it is stopped is lost
        with pytest.raises(Stop):
            train(RANDOM, BRIEF, *clips, seed=1, report=an_epoch_a_second(stop), **place)
    assert train(RANDOM, BRIEF, *clips, seed=1, report=an_epoch_a_second(None), **place).seconds == 5


# --- The optimiser ---


def test_the_schedule_of_the_paper():
    factors = [learning_rate_factor(TrainingConfig(), epoch) for epoch in range(80)]
    assert factors == pytest.approx([1] * 50 + [0.1] * 10 + [0.01] * 10 + [0.001] * 10)


def test_the_schedule_of_other_lengths():
    factors = [learning_rate_factor(brief(decay_after=3, decay_every=2), epoch) for epoch in range(8)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert learning_rate_factor(brief(decay_after=0, decay_every=1), 0) == pytest.approx(0.1)


@pytest.mark.parametrize("resumed", [False, True])
def test_every_step_has_the_rates_of_its_epoch(clips, tmp_path, monkeypatch, resumed):
    rates, step = [], torch.optim.Adam.step

    def spied(self, *args, **kwargs):
        rates.append(tuple(group["lr"] for group in self.param_groups))
        return step(self, *args, **kwargs)

    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
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
            assert moved.max() >= rate * 0.9, key  # batch normalisation takes the gradient of a bias before it


def test_the_loss_is_cross_entropy_of_the_drawn_faces_plus_the_penalty(clips):
    clipset, parts = clips
    config = ModelConfig(
        **(SMALL | {"fusion": "mma", "fusion_options": {"penalty": 0.1}, "aggregation_options": {"centres": "random"}})
    )
    model = build(config, clipset, len(parts.persons), seed=1).train()
    sampler = Sampler(clipset, parts.train, 5, config.modalities)
    drawn = sampler.draw(generator(CPU, 1, training.FACES, 0))
    logits = model(sampler.batch(drawn, torch.arange(len(parts.train))))
    squares = model.fusion.convolution.weight.square().sum()
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    expected = -log_p[torch.arange(len(logits)), parts.train_classes].mean() + 0.1 * squares
    found = train(config, brief(epochs=1, batch_size=4096), clipset, parts, seed=1)
    assert found.losses == [pytest.approx(float(expected.detach()), rel=1e-5)]


@pytest.mark.parametrize(("number", "batch_size"), [(37, 7), (37, 36), (37, 37), (37, 4096), (41, 5), (2, 2), (7, 3)])
def test_every_clip_comes_once_an_epoch_in_steps_of_about_equal_size(clips, monkeypatch, number, batch_size):
    clipset, parts = clips
    steps, batch = [], Sampler.batch

    def spied(self, drawn, rows):
        steps.append(rows.tolist())
        return batch(self, drawn, rows)

    monkeypatch.setattr(Sampler, "batch", spied)
    train(RANDOM, brief(epochs=2, batch_size=batch_size), clipset, with_training(parts, number), seed=1)
    half = len(steps) // 2
    assert half == math.ceil(number / batch_size)
    epochs = [sum(steps[:half], []), sum(steps[half:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(number))] * 2
    assert number < 3 or epochs[0] != epochs[1]
    sizes = {len(step) for step in steps}
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1 and min(sizes) >= 2


def test_a_batch_of_two_suits_an_odd_number_of_clips(clips):
    clipset, parts = clips
    train(RANDOM, brief(epochs=1, batch_size=2), clipset, with_training(parts, 7), seed=1)


def test_faces_are_drawn_anew_every_epoch(clips, monkeypatch):
    seen, draw = [], Sampler.draw

    def spied(self, generator):
        seen.append(draw(self, generator))
        return seen[-1]

    monkeypatch.setattr(Sampler, "draw", spied)
    train(RANDOM, brief(epochs=3), *clips, seed=1)
    assert len(seen) >= 3 and len({tuple(d.flatten().tolist()) for d in seen}) == len(seen)


def test_kmeans_sees_training_faces_only(clips, monkeypatch):
    clipset, parts = clips
    seen = []
    monkeypatch.setattr("famf_lib.models.famf.FAMF.initialise", lambda self, faces, seed: seen.append(faces))
    train(MODEL, brief(epochs=1), clipset, parts, seed=1)
    own = {
        tuple(face.tolist())
        for clip in parts.train.tolist()
        for face in clipset.faces[clipset.offsets[clip] : clipset.offsets[clip + 1]].float()
    }
    assert {tuple(face.tolist()) for face in seen[0]} <= own and len(seen[0]) > len(own) / 4


# --- Evaluation ---


@pytest.mark.parametrize("rank_by", ["probability", "logit"])
@pytest.mark.parametrize("k", [3, 100])
def test_evaluation_ranks_the_whole_gallery(clips, monkeypatch, rank_by, k):
    clipset, parts = clips
    model = train(MODEL, brief(epochs=1), clipset, parts, seed=1).model
    sampler = Sampler(clipset, parts.gallery, 4, MODEL.modalities)
    batch = sampler.batch(sampler.draw(generator(CPU, 9, sampling.EVALUATION)), torch.arange(len(parts.gallery)))
    with torch.no_grad():
        logits = model.eval()(batch)
    scores = logits if rank_by == "logit" else logits - logits.double().exp().sum(dim=1, keepdim=True).log().float()
    assert (parts.gallery_classes == -1).any(), "the gallery lacks its noise"
    expected = mean_average_precision(scores, parts.gallery_classes, k)
    settings = EvaluationConfig(faces=4, k=k, rank_by=rank_by)
    for size in (1024, 5):
        monkeypatch.setattr(evaluation, "EVALUATION_BATCH", size)
        model.train()  # evaluation has to switch batch normalisation itself
        found = evaluate(model, settings, clipset, parts, seed=9)
        np.testing.assert_allclose(found.ap, expected.ap, rtol=1e-6)
        assert found.rank_1 == expected.rank_1


def test_clips_that_are_all_but_certain_are_told_apart(clips, monkeypatch):
    """Margins of 20 and more, where the probability itself is 1 in float32: the larger margin ranks first."""
    clipset, parts = clips
    model = build(MODEL, clipset, len(parts.persons), seed=1)
    logits = torch.zeros(len(parts.gallery), len(parts.persons))
    logits[:, 0] = 20 + torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(evaluation, "logits_of", lambda *given: [(torch.arange(len(logits)), logits)])
    ranking = evaluation.rank(model, EvaluationConfig(faces=4), clipset, parts, seed=1)
    assert ranking.clips()[0].tolist() == logits[:, 0].argsort(descending=True)[:100].tolist()


def test_logits_come_for_every_clip_in_order(clips, monkeypatch):
    clipset, parts = clips
    model = build(MODEL, clipset, len(parts.persons), seed=1)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 5)
    rows, logits = zip(*logits_of(model, 4, clipset, parts.gallery, 0), strict=True)
    assert torch.cat(rows).tolist() == list(range(len(parts.gallery)))
    assert torch.cat(logits).shape == (len(parts.gallery), len(parts.persons))


def test_the_number_of_faces_may_differ_between_training_and_evaluation(clips):
    model = train(MODEL, brief(epochs=1), *clips, seed=1).model
    for faces in (1, 5, 31):
        assert 0 <= evaluate(model, EvaluationConfig(faces=faces), *clips, seed=1).mean_ap <= 1


# --- Bad input ---


@pytest.mark.parametrize("name", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_here_gives_its_sentence(name):
    with pytest.raises(ValueError, match=rf"^device: '{name}' cannot be used here, expected auto or one of: cpu"):
        pick_device(name)


def test_the_device_is_found_by_itself():
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_precision_is_what_was_asked_for():
    assert precision_of(brief(precision="bfloat16"), CPU) == torch.bfloat16
    assert precision_of(brief(precision="float32"), CPU) == torch.float32
    assert precision_of(brief(precision="auto"), CPU) in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_precision_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, instructions, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert precision_of(brief(precision="auto"), CPU) == precision


def test_a_loss_that_is_not_finite_gives_its_sentence(clips):
    with pytest.raises(ValueError, match=r"^lr: the loss is (nan|inf) after epoch \d, expected lower learning rates$"):
        train(RANDOM, brief(lr=1e30, lr_aggregation=1e30), *clips, seed=1)


def test_a_single_training_clip_gives_its_sentence(clips):
    clipset, parts = clips
    with pytest.raises(ValueError, match=r"^split: 1 training clips, expected 2 or more for batch normalisation$"):
        train(MODEL, BRIEF, clipset, with_training(parts, 1), seed=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: brief(epoch=3), "epoch: no such key, expected one of epochs, decay_after, decay_every, batch_size,"),
        (lambda: brief(epochs=0), "epochs: 0 found; input should be greater than or equal to 1"),
        (lambda: brief(batch_size=1), "batch_size: 1 found; input should be greater than or equal to 2"),
        (lambda: brief(lr=-1), "lr: -1 found; input should be greater than 0"),
        (lambda: brief(lr=math.nan), "lr: nan found; input should be a finite number"),
        (lambda: brief(faces=2.5), "faces: 2.5 found; input should be a valid integer, got a number with a fractional"),
        (lambda: brief(precision="half"), "precision: 'half' found; input should be 'auto', 'float32' or 'bfloat16'"),
        (lambda: EvaluationConfig(k=0), "k: 0 found; input should be greater than or equal to 1"),
        (lambda: EvaluationConfig(rank_by="luck"), "rank_by: 'luck' found; input should be 'probability' or 'logit'"),
    ],
)
def test_a_bad_setting_gives_its_sentence(make, sentence):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value).startswith(sentence)
