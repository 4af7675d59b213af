"""Data-parallel training: the processes that ``torchrun`` started train one model, each on its share of every step.

The first process, rank 0, is the one that the user talks to: it alone reads the command, keeps the store and prints.
The others wait to be told what it is about to train, and train it too; the rest of the library knows nothing of them.

A step has the clips, the faces and the gradient that it has in one process: the clips are dealt out, gradients are
averaged over all of them (PyTorch's DistributedDataParallel), and batch normalisation sees them all. What differs is
the order in which floats are added.
"""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Split
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training import train as single
from famf_lib.training.train import SingleProcess, Trained, TrainingConfig, world_size

PATIENCE = timedelta(days=7)  # the others wait while the first process makes data or asks probes
LOST = ("peer", "timed out", "gloo", "nccl", "socket", "broken pipe")  # words of an error of the connection

_waiting: list[dist.ProcessGroup] = []  # the group through which requests go, with that patience


@dataclass(frozen=True)
class _Request:
    """What the others need to train along; the clips they open themselves."""

    folder: Path
    fingerprint: str
    device: str
    arguments: tuple[ModelConfig, TrainingConfig, Split, int]


def run(command: Callable[[], Any]) -> None:
    """Runs a command in the first process, while the others train along with it until it ends."""
    if world_size() == 1:
        return command()
    with _connected():
        _join()
    if dist.get_rank() > 0:
        return _follow()
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise  # the others may be in the middle of something: torchrun ends them
    _tell(None)


def train(
    model: ModelConfig, settings: TrainingConfig, clipset: ClipSet, split: Split, seed: int, **kept: Any
) -> Trained:
    """``train.train`` by all processes that torchrun started.

    Raises:
        ValueError: as ``train.train`` does; another process cannot open the clips, or was lost.
    """
    if not dist.is_initialized():
        raise ValueError(
            f"WORLD_SIZE: {world_size()} found, and a run that is not there yet, expected torchrun to make it"
        )
    if clipset.folder is None:
        raise ValueError("clips: in memory only, expected them in a folder that every process can open")
    if clipset.faces.is_cuda and (local := int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise ValueError(f"--nproc-per-node: {local} found on a machine with {gpus} GPUs, expected {gpus} or fewer")
    with _connected():
        device = clipset.faces.device.type
        _tell(_Request(clipset.folder, clipset.fingerprint, device, (model, settings, split, seed)))
        _agree(None)
        return single.train(model, settings, clipset, split, seed, processes=DataParallel(), **kept)


def _follow() -> None:
    """Trains along until the first process has nothing more to train."""
    with _connected():
        while (request := _told()) is not None:
            model, settings, split, seed = request.arguments
            try:
                clipset, problem = _opened(request.folder, request.fingerprint, request.device), None
            except ValueError as error:
                problem = str(error)
            with suppress(ValueError):  # it meets all processes alike, and the first one tells
                _agree(problem)
                torch.set_num_threads(1 if request.device == "cpu" else torch.get_num_threads())
                single.train(model, settings, clipset, split, seed, processes=DataParallel())


@lru_cache(maxsize=1)  # the runs of an experiment share their clips
def _opened(folder: Path, fingerprint: str, device: str) -> ClipSet:
    clipset = ClipSet.open(folder)
    if clipset.fingerprint != fingerprint:
        raise ValueError(f"{folder}: other clips found than the first process has, expected one store for all")
    return clipset.to(device)


class DataParallel(SingleProcess):
    """This process and the others."""

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def wrap(self, model: FAMF) -> nn.Module:
        """The model whose gradients are averaged over the processes. All begin with the weights of the first."""
        for module in model.modules():
            if type(module) is nn.BatchNorm1d:
                module.__class__ = BatchNorm  # the same parameters and buffers, which the optimiser already holds
        return DistributedDataParallel(model)

    def share(self, rows: Int64[Tensor, " B"]) -> Int64[Tensor, " b"]:
        return rows[self.rank :: self.size]

    def mean(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return _Sum.apply(value) / self.size

    def broadcast(self, state: dict | None) -> dict | None:
        box = [state]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the clips of all processes. PyTorch's SyncBatchNorm does the same on GPUs alone."""

    def forward(self, x: Float[Tensor, "b H"]) -> Float[Tensor, "b H"]:
        if not self.training:
            return super().forward(x)
        given, x = x.dtype, x.float()
        sums = _Sum.apply(torch.cat([x.sum(dim=0), x.new_tensor([len(x)])]))
        mean, number = sums[:-1] / sums[-1], sums[-1].detach()
        centred = x - mean
        variance = _Sum.apply(centred.square().sum(dim=0)) / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(given)


class _Sum(torch.autograd.Function):
    """The sum over all processes. So is its gradient: what one process puts in reaches the loss of every one."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


# --- what the processes say to each other ----------------------------------------------------------------------------


def _join() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _waiting.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    dist.barrier(group=_waiting[0])  # else the first, which holds the addresses, might end before


def _tell(request: _Request | None) -> None:
    dist.broadcast_object_list([request], group=_waiting[0], device=torch.device("cpu"))


def _told() -> _Request | None:
    box: list[_Request | None] = [None]
    dist.broadcast_object_list(box, group=_waiting[0], device=torch.device("cpu"))
    return box[0]


def _agree(problem: str | None) -> None:
    """Goes on if no process has a problem.

    Raises:
        ValueError: one has; all processes raise it.
    """
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem, group=_waiting[0])
    for rank, found in enumerate(problems):
        if found is not None:
            raise ValueError(f"process {rank}: {found}")


@contextmanager
def _connected():
    """Where another process is lost, the first one says so; where it is the first, it has."""
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "").rpartition("] ")[2].partition(". ")[0]
        if not any(word in reason.lower() for word in LOST):
            raise
        if int(os.environ["RANK"]) > 0:  # it may have been lost before there was a group to ask
            sys.exit(1)
        raise ValueError(
            f"a process was lost ({reason}), expected {world_size()}; runs that are done stay done, the others go on"
        ) from error
