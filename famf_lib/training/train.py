"""Trains one FAMF model (Sec. 4.3) on the device that holds the ClipSet.

The configuration and the seed determine the result: on one machine two trainings give the same numbers, and so does
one that was interrupted and resumed.

Inside an epoch a GPU never waits for the host: faces are drawn and clips are shuffled on the device, and the host reads
one number, the loss, at the end of the epoch.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import FACES, ORDER, START, Sampler, generator
from famf_lib.data.splits import Split
from famf_lib.models.config import Config, ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training import cuda_graphs, resume

CENTRE_SAMPLE = 8_192  # training faces in the sample for k-means


class TrainingConfig(Config):
    """How a model is trained. The defaults are from Sec. 4.3 of the paper, except the number of epochs, which it omits.

    Args:
        epochs: passes over the training clips.
        decay_after: the epochs after which the learning rates are divided by 10, and by 10 again every ``decay_every``.
        batch_size: the largest number of clips per step; the steps of an epoch are of equal size.
        lr: the learning rate of Adam; ``lr_aggregation`` is that of the aggregation.
        faces: N, the number of faces sampled per clip.
        precision: that of matrix products; ``precision_of`` resolves auto.
    """

    epochs: int = Field(80, ge=1)
    decay_after: int = Field(50, ge=0)
    decay_every: int = Field(10, ge=1)
    batch_size: int = Field(4096, ge=2)
    lr: float = Field(0.004, gt=0, allow_inf_nan=False)
    lr_aggregation: float = Field(0.04, gt=0, allow_inf_nan=False)
    faces: int = Field(24, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class SingleProcess:
    """Training in a single process. ``distributed.DataParallel`` overrides what several processes do differently."""

    size = 1  # the number of processes

    def wrap(self, model: FAMF) -> nn.Module:
        """The network that a step calls: here the model itself."""
        return model

    def share(self, rows: Int64[Tensor, " B"]) -> Int64[Tensor, " b"]:
        """The clips of a step that this process takes: here all of them."""
        return rows

    def mean(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The mean over all processes."""
        return value

    def broadcast(self, state: dict | None) -> dict | None:
        """The state that the first process passed."""
        return state


@dataclass
class Trained:
    """A trained model, the mean training loss of each epoch, and the wall time of the training in seconds."""

    model: FAMF
    losses: list[float]
    seconds: float


def train(
    config: ModelConfig,
    training: TrainingConfig,
    clipset: ClipSet,
    split: Split,
    seed: int,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    report: Callable[[int, float], None] | None = None,
    processes: SingleProcess | None = None,
    cuda_graph: bool = True,
) -> Trained:
    """Trains a model with Adam and cross-entropy on the training clips of the split, on the device of the ClipSet.

    Args:
        checkpoint: the file for the state of the training, written at the end of an epoch, at most every
            ``checkpoint_seconds``. If it exists, training resumes from it and ends with the same numbers as a training
            that was never interrupted.
        report: called after every epoch with the number of epochs done and the loss.
        processes: the processes that train together, if there are several; each of them calls this function.
        cuda_graph: whether a GPU runs each step as one CUDA graph (see ``cuda_graphs``) if one process trains alone.
            The numbers do not depend on it.

    Raises:
        ValueError: the configuration does not fit the data; the loss is no longer finite.
    """
    start, processes = time.monotonic(), processes or SingleProcess()
    device = clipset.faces.device
    if len(split.train) < 2:
        raise ValueError(f"split: {len(split.train)} training clips, expected 2 or more for batch normalisation")
    model = build(config, clipset, len(split.persons), seed)
    sampler = Sampler(clipset, split.train, training.faces, config.modalities)
    classes = split.train_classes.to(device)  # (T,)
    steps = steps_of(len(classes), training.batch_size)  # per epoch
    if (clips := len(classes) // steps) < processes.size:
        raise ValueError(f"processes: {processes.size} for a step of {clips} clips, expected at least a clip for each")
    recorder = cuda_graphs.recorder(device)
    optimiser = _optimiser(model, training, capturable=recorder is not None)

    state = processes.broadcast(resume.load(checkpoint) if checkpoint is not None and checkpoint.exists() else None)
    if state is None:
        _initialise(model, clipset, sampler, seed)
        losses, earlier = [], 0.0
    else:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state["optimiser"]["state"]})
        losses, earlier = state["losses"], state["seconds"]

    network = processes.wrap(model.train())
    total = torch.zeros((), device=device)  # the sum of an epoch's losses

    def step(drawn: Int64[Tensor, "T n"], rows: Int64[Tensor, " B"]) -> None:
        own = processes.share(rows)  # (b,): all B clips in a single process
        weight = processes.size * len(own) / len(rows)  # 1, unless the processes have unequal shares
        with autocast(device, training):  # the batch gets no name, so that its memory is freed as early as possible
            logits = network(sampler.batch(drawn, own))  # faces (b, N, D), modalities (b, D_m) → (b, C)
        loss = weight * F.cross_entropy(logits.float(), classes[own]) + model.fusion.penalty()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total.add_(loss.detach() * len(rows))

    captured = cuda_graph and recorder is not None and processes.size == 1
    run_step = cuda_graphs.Captured(step, recorder) if captured else step
    saved = time.monotonic()
    for epoch in range(len(losses), training.epochs):
        _set_learning_rates(optimiser, training, epoch)
        drawn = sampler.draw(generator(device, seed, FACES, epoch))  # (T, N): which faces of each clip
        order = torch.randperm(len(classes), generator=generator(device, seed, ORDER, epoch), device=device)
        total.zero_()
        for rows in order.tensor_split(steps):
            run_step(drawn, rows)
        losses.append(float(processes.mean(total)) / len(classes))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"lr: the loss is {losses[-1]} after epoch {epoch + 1}, expected lower learning rates")
        if report is not None:
            report(len(losses), losses[-1])
        if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds and len(losses) < training.epochs:
            resume.save(checkpoint, model, optimiser, losses, earlier + time.monotonic() - start)
            saved = time.monotonic()
    return Trained(model.eval(), losses, earlier + time.monotonic() - start)


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU if there is one.

    Raises:
        ValueError: the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"device: {name!r} cannot be used here, expected auto or one of: {found}") from error
    return torch.device(name)


def precision_of(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """The precision of matrix products in training. ``auto`` is bfloat16 if the device has fast bfloat16 products.

    A CPU needs special instructions for them (``benchmarks/precision.py`` measures the gain). Weights, gradients, the
    optimiser's state, normalisations, softmax and loss are always float32. float32 means float32 on a GPU as well:
    TF32 is never switched on.
    """
    if config.precision != "auto":
        return getattr(torch, config.precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def learning_rate_factor(config: TrainingConfig, epoch: int) -> float:
    """The factor of the learning rates in epoch 0, 1, …: 1, then 0.1, 0.01 and so on (Sec. 4.3)."""
    if epoch < config.decay_after:
        return 1.0
    return 0.1 ** (1 + (epoch - config.decay_after) // config.decay_every)


def steps_of(clips: int, batch_size: int) -> int:
    """The number of equal steps per epoch. A step has at least two clips, which batch normalisation needs."""
    return min(math.ceil(clips / batch_size), clips // 2)


def build(config: ModelConfig, clipset: ClipSet, persons: int, seed: int) -> FAMF:
    """A model with random weights that fits the clips, on their device."""
    dims = {name: modality.vectors.shape[1] for name, modality in clipset.modalities.items()}
    device = clipset.faces.device
    # fork_rng leaves the caller's random state unchanged.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        return FAMF(config, clipset.dim, dims, persons)


def world_size() -> int:
    """The number of processes that train together, from torchrun's WORLD_SIZE, which child processes inherit.

    Raises:
        ValueError: WORLD_SIZE is not a number of processes.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"WORLD_SIZE: {size!r} found, expected the number of processes, as torchrun sets it")
    return int(size)


def _optimiser(model: FAMF, training: TrainingConfig, capturable: bool) -> torch.optim.Adam:
    """Adam with one learning rate for the aggregation and one for the rest.

    If ``capturable``, the rates are tensors, because a CUDA graph would keep using the numbers it was captured with.
    """
    aggregation = list(model.aggregation.parameters())
    apart = {id(p) for p in aggregation}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [
        {"params": group, "lr": group[0].new_tensor(rate) if capturable else rate, "initial_lr": rate}
        for group, rate in ((aggregation, training.lr_aggregation), (rest, training.lr))
        if group
    ]
    return torch.optim.Adam(groups, fused=True, capturable=capturable)


def _set_learning_rates(optimiser: torch.optim.Adam, training: TrainingConfig, epoch: int) -> None:
    for group in optimiser.param_groups:
        rate = group["initial_lr"] * learning_rate_factor(training, epoch)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def autocast(device: torch.device, training: TrainingConfig) -> torch.autocast:
    """Autocast to the precision of the configuration."""
    dtype = precision_of(training, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _initialise(model: FAMF, clipset: ClipSet, sampler: Sampler, seed: int) -> None:
    device = clipset.faces.device
    draw = generator(device, seed, START)
    faces = sampler.draw(draw)[sampler.has_face].flatten()  # N per clip, so that long clips do not dominate
    keep = torch.randperm(len(faces), generator=draw, device=device)[:CENTRE_SAMPLE]
    model.initialise(clipset.faces[faces[keep]].float(), seed)
