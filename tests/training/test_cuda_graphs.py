"""A recorded step gives the numbers of a plain one, and an epoch never waits for the GPU; tested without a GPU.

``Tape`` replaces a CUDA graph: it records the operations of a function with their tensors, and repeats them on the same
tensors without running the Python code between them. Tensors on the device ``meta`` have no content: reading one fails.
"""

from contextlib import ExitStack
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famf_lib.data.sampling import Sampler
from famf_lib.data.splits import split
from famf_lib.experiments.catalogue import TABLE_1
from famf_lib.models.config import ModelConfig
from famf_lib.training import cuda_graphs
from famf_lib.training import train as training
from famf_lib.training.cuda_graphs import WARM_UP
from famf_lib.training.train import SingleProcess, TrainingConfig, train

aten = torch.ops.aten
# Operations that the host waits for, because it needs their result or its size.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero}
WAITING |= {aten._unique2, aten.unique_dim, aten.bincount}
SETTINGS = TrainingConfig(
    epochs=5, decay_after=2, decay_every=2, batch_size=13, faces=5, precision="float32", lr=0.004, lr_aggregation=0.04
)


class Waits(Exception):
    """The host would have to wait for the GPU."""


class Watch(TorchDispatchMode):
    """Refuses every operation that the host waits for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        indices = args[1] if packet in (aten.index, aten.index_put, aten.index_put_) else ()
        if (
            packet in WAITING
            or any(i is not None and i.dtype == torch.bool for i in indices)
            or (function is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None)
        ):
            raise Waits(str(packet))
        return self.done(function, args, kwargs)

    def done(self, function, args, kwargs):
        result = function(*args, **kwargs)
        places = {t.device for t in _tensors((args, kwargs, result)) if t.ndim}
        if len(places) > 1:
            raise Waits(f"{function} between {places}")
        return result


class Tape(Watch):
    """Records what a function does to tensors. Recording has no effect on them."""

    def __init__(self):
        super().__init__()
        self.lines, self.before = [], {}

    def done(self, function, args, kwargs):
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = super().done(function, args, kwargs)
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        made = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in given]
        if made or function._schema.is_mutable:  # a view need not be repeated
            self.lines.append((function, args, kwargs, result))
        return result

    def replay(self):
        for function, args, kwargs, places in self.lines:
            with torch.no_grad():
                for place, value in zip(_tensors(places), _tensors(function(*args, **kwargs)), strict=True):
                    if place.data_ptr() != value.data_ptr():
                        place.copy_(value)

    @classmethod
    def record(cls, function):
        tape = cls()
        with tape:
            function()
        for storage, content in tape.before.values():
            storage.copy_(content)
        return tape.replay


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(scope="module")
def clips(made_up):
    clipset = made_up(persons=7, clips=12)
    return clipset, split(clipset, "given")


def model(aggregation="attentionvlad", fusion="mlma"):
    options = {"mean": {}, "nextvlad": {"clusters": 3, "groups": 2}}.get(aggregation, {"clusters": 3})
    return ModelConfig(aggregation=aggregation, aggregation_options=options, fusion=fusion, hidden=29)


def same(a, b):
    first, second = a.model.state_dict(), b.model.state_dict()
    return a.losses == b.losses and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("modules", [row.modules for row in TABLE_1], ids="-".join)
def test_captured_steps_train_as_plain_ones_do(clips, monkeypatch, modules, precision):
    """With steps of two sizes, three learning rates, and clips without faces or audio: none of it may be frozen."""
    recordings, calls = [], []

    def record(function):
        recordings.append(1)
        replay = Tape.record(function)
        return lambda: calls.append(1) or replay()

    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: record)
    settings = SETTINGS.model_copy(update={"precision": precision})
    plain = train(model(*modules), settings, *clips, seed=1, cuda_graph=False)
    assert not recordings
    captured = train(model(*modules), settings, *clips, seed=1)
    number = len(clips[1].train)
    steps = -(-number // 13)
    assert number % steps, "all steps are of one size"
    assert len(recordings) == 2 and len(calls) == 5 * steps - 2 * WARM_UP
    assert same(plain, captured)


def test_learning_rates_as_tensors_equal_those_as_numbers(clips, monkeypatch):
    numbers = train(model(), SETTINGS, *clips, seed=1)
    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: Tape.record)
    tensors = train(model(), SETTINGS, *clips, seed=1)
    assert tensors.losses == pytest.approx(numbers.losses, rel=1e-4)


def test_a_captured_training_resumes(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: Tape.record)
    whole = train(model(), SETTINGS, *clips, seed=1)
    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    with pytest.raises(ZeroDivisionError):
        train(model(), SETTINGS, *clips, seed=1, report=lambda epoch, loss: 1 / (epoch - 3), **place)
    assert same(train(model(), SETTINGS, *clips, seed=1, **place), whole)


def test_a_step_that_cannot_be_recorded_is_run_plainly(clips, monkeypatch):
    fails = Mock(side_effect=RuntimeError("no memory left\nand much more"))
    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: fails)
    plain = train(model(), SETTINGS, *clips, seed=1, cuda_graph=False)
    with pytest.warns(UserWarning, match=r"cannot be recorded and is launched kernel by kernel: no memory left$"):
        assert same(train(model(), SETTINGS, *clips, seed=1), plain)
    fails.assert_called_once()


def test_nothing_is_recorded_on_a_cpu_or_by_several_processes(clips, monkeypatch):
    assert cuda_graphs.recorder(torch.device("cpu")) is None

    class Two(SingleProcess):
        size = 2

        def share(self, rows):
            return rows[:2]

    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: lambda function: pytest.fail("captured"))
    train(model(), SETTINGS, *clips, seed=1, processes=Two())


def test_an_epoch_reads_nothing_from_the_device(clips, monkeypatch):
    clipset, parts = clips
    meta = torch.device("meta")

    class OnMeta(Sampler):
        def __init__(self, _, *arguments):
            super().__init__(clipset, *arguments)
            self.clipset, self.clips, self.has_face = clipset.to(meta), self.clips.to(meta), self.has_face.to(meta)
            self.modalities = {name: self.clipset.modalities[name] for name in self.modalities}

    watch, losses = ExitStack(), []

    class Watched(SingleProcess):
        """Starts watching before the first epoch, and returns 0.5 as the loss."""

        def wrap(self, model):
            watch.enter_context(Watch())
            return model

        def mean(self, value):
            losses.append(value)
            return 0.5

    monkeypatch.setattr(training, "Sampler", OnMeta)
    monkeypatch.setattr(training, "generator", lambda device, *seeds: torch.Generator())
    plain = torch.autocast("cpu", enabled=False)  # autocast does not support meta
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: plain)
    monkeypatch.setattr(training, "_initialise", lambda *arguments: None)
    # PyTorch's fused Adam does not support meta.
    monkeypatch.setattr(training, "_optimiser", lambda model, *_, **__: torch.optim.SGD(model.parameters(), 0.1))
    monkeypatch.setattr(training, "_set_learning_rates", lambda *arguments: None)
    with watch:
        trained = train(model(), SETTINGS, clipset.to(meta), parts, seed=1, processes=Watched())
    assert len(losses) == 5 and {t.device for t in (*losses, *trained.model.parameters())} == {meta}


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: torch.repeat_interleave(x, torch.tensor([1, 2, 0])),
        lambda x: x.to("meta"),
    ],
)
def test_waiting_operations_are_detected(ask):
    with pytest.raises(Waits), Watch():
        ask(torch.tensor([1.0, -2.0, 3.0]))
