"""Data-parallel training: the processes that ``torchrun`` started train one model, each on its share of every step.

Only the first process, rank 0, runs the user's command, writes to the store and prints. The others wait for its
requests and take part in each training. The rest of the library does not depend on their number.

A step has the same clips, faces and gradient as in one process: its clips are divided among the processes, PyTorch's
DistributedDataParallel averages the gradients, and batch normalisation sees all clips. Only the order in which floats
are added differs.
"""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # a sum over all processes, and so is its gradient
from torch.nn.parallel import DistributedDataParallel

from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.data.splits import Split
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training import train as single
from famf_lib.training.train import SingleProcess, Trained, TrainingConfig, world_size

T = TypeVar("T")
STEP_TIMEOUT = timedelta(minutes=10)  # gloo does not notice a process that is lost in the middle of a message
REQUEST_TIMEOUT = timedelta(days=7)  # the first process may generate data or compute probes between two trainings
CONNECTION_ERRORS = ("peer", "timed out", "gloo", "nccl", "socket", "broken pipe")  # words in their messages

_requests: list[dist.ProcessGroup] = []  # the group for requests, which has that timeout


@dataclass(frozen=True)
class _Request:
    """What the other processes need for a training. They open the clips themselves."""

    folder: Path
    fingerprint: str
    device: str
    arguments: tuple[ModelConfig, TrainingConfig, Split, int]


def run(command: Callable[[], Any]) -> None:
    """Runs a command in the first process; the others take part in its trainings until it ends."""
    if world_size() == 1:
        return command()
    with _connection_errors():
        _join()
    if dist.get_rank() > 0:
        return _follow()
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise  # the others may be in the middle of a training: torchrun ends them
    _broadcast(None, _requests[0])


def train(
    model: ModelConfig, settings: TrainingConfig, clipset: ClipSet, split: Split, seed: int, **options: Any
) -> Trained:
    """``train.train`` by all processes that torchrun started.

    Raises:
        ValueError: as ``train.train``; or a process cannot open the clips, or was lost.
    """
    if not dist.is_initialized():
        raise ValueError(f"WORLD_SIZE: {world_size()} found for a new run, expected torchrun to start the command")
    if clipset.folder is None:
        raise ValueError("clips: in memory only, expected them in a folder that every process can open")
    if clipset.faces.is_cuda and (local := int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise ValueError(f"--nproc-per-node: {local} found on a machine with {gpus} GPUs, expected at most {gpus}")
    with _connection_errors():
        device = clipset.faces.device.type
        _broadcast(_Request(clipset.folder, clipset.fingerprint, device, (model, settings, split, seed)), _requests[0])
        _raise_in_all(None)
        return single.train(model, settings, clipset, split, seed, processes=DataParallel(), **options)


def _follow() -> None:
    """Takes part in trainings until the first process ends."""
    with _connection_errors():
        while (request := _broadcast(None, _requests[0])) is not None:
            model, settings, split, seed = request.arguments
            try:
                clipset, problem = _open(request.folder, request.fingerprint, request.device), None
            except ValueError as error:
                problem = str(error)
            with suppress(ValueError):  # all processes raise it, and the first one prints it
                _raise_in_all(problem)
                torch.set_num_threads(1 if request.device == "cpu" else torch.get_num_threads())
                single.train(model, settings, clipset, split, seed, processes=DataParallel())


def _open(folder: Path, fingerprint: str, device: str) -> ClipSet:
    clipset = opened(folder, device)
    if clipset.fingerprint != fingerprint:
        raise ValueError(f"{folder}: other clips found than in the first process, expected a store that all share")
    return clipset


class DataParallel(SingleProcess):
    """Training in all processes of the group; this one has the rank ``rank``."""

    def __init__(self) -> None:
        self.size, self.rank = dist.get_world_size(), dist.get_rank()

    def wrap(self, model: FAMF) -> nn.Module:
        """The model with averaged gradients and shared batch normalisation, starting from the first one's weights."""
        for module in model.modules():
            if type(module) is nn.BatchNorm1d:
                module.__class__ = BatchNorm  # keeps the parameters and buffers, which the optimiser already holds
        return DistributedDataParallel(model)

    def share(self, rows: Int64[Tensor, " B"]) -> Int64[Tensor, " b"]:
        return rows[self.rank :: self.size]

    def mean(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return all_reduce(value) / self.size

    def broadcast(self, state: dict | None) -> dict | None:
        return _broadcast(state)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the clips of all processes. PyTorch's SyncBatchNorm requires GPUs."""

    def forward(self, x: Float[Tensor, "b H"]) -> Float[Tensor, "b H"]:
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        sums = all_reduce(torch.cat([x.sum(dim=0), x.new_tensor([len(x)])]))
        mean, number = sums[:-1] / sums[-1], sums[-1].detach()
        centred = x - mean
        variance = all_reduce(centred.square().sum(dim=0)) / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(dtype)


# --- Communication between the processes ---


def _join() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=STEP_TIMEOUT)
    _requests.append(dist.new_group(backend="gloo", timeout=REQUEST_TIMEOUT))
    dist.barrier(group=_requests[0])  # the first process holds the addresses and must not end before all have joined


def _broadcast(value: T, group: dist.ProcessGroup | None = None) -> T:
    """The value that the first process passed, in every process."""
    values = [value]
    dist.broadcast_object_list(values, group=group, device=torch.device("cpu"))
    return values[0]


def _raise_in_all(problem: str | None) -> None:
    """Raises the first problem that any process has, in all of them.

    Raises:
        ValueError: the rank of that process, and its problem.
    """
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem, group=_requests[0])
    for rank, found in enumerate(problems):
        if found is not None:
            raise ValueError(f"process {rank}: {found}")


@contextmanager
def _connection_errors():
    """If a process was lost, the first one raises one sentence and the others exit silently."""
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "").rpartition("] ")[2].partition(". ")[0]
        if not any(word in reason.lower() for word in CONNECTION_ERRORS):
            raise
        if int(os.environ["RANK"]) > 0:  # the connection may have failed before there was a group with a rank
            sys.exit(1)
        raise ValueError(
            f"a process was lost ({reason}), expected {world_size()}; completed runs are kept; run it again to resume"
        ) from error
