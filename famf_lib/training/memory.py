"""The memory of one training step at any size, counted without making it.

The step runs on tensors that have a shape and no content (PyTorch's fake tensors), while every tensor that an operation
makes is counted until the last reference to it goes. The paper's full size takes a second and no memory to speak of.

What is counted is what PyTorch hands out to tensors. Not counted: the clips themselves, what a kernel uses inside
itself, and what an allocator loses to rounding and to gaps.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from famf_lib.data.sampling import Batch
from famf_lib.models.aggregation import Aggregation, AttentionVLAD, normalise
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.train import TrainingConfig, autocast

CPU = torch.device("cpu")  # where the fake tensors are said to lie


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step.

    Args:
        parameters: the weights; their gradients take as much again.
        optimiser: Adam's two moments of every weight, and the number of steps of every tensor.
        activations: what forward leaves behind: logits, loss, and what backward will read, of the batch too.
        peak: the most that is held at any moment of the step, all of the above included.
    """

    parameters: int
    optimiser: int
    activations: int
    peak: int


def peak_of_step(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    dim: int,
    modality_dims: dict[str, int],
    persons: int,
    aggregation: Callable[..., Aggregation] | None = None,
) -> StepMemory:
    """What a step of ``training.train`` needs: its second one, when the optimiser has its state, every clip with faces.

    Args:
        training: batch size, faces and precision count; ``auto`` is the precision of this machine's CPU.
        dim: D, the length of a face vector.
        modality_dims: D_m of each modality.
        persons: C.
        aggregation: takes the place of the configuration's class, with the same arguments: what would another way to
            compute the same tokens need?

    Raises:
        ValueError: a modality of the configuration is not in ``modality_dims``; the aggregation has other tokens.
    """
    with FakeTensorMode(), Allocations() as held:
        famf = FAMF(model, dim, modality_dims, persons).train()
        if aggregation is not None:
            famf.aggregation = _in_place_of(famf.aggregation, aggregation(dim, **model.aggregation_options))
        optimiser = torch.optim.Adam(famf.parameters(), fused=True)

        def step() -> int:  # as in ``training.train``, names included: what it made goes when it ends
            with autocast(CPU, training):
                logits = famf(_batch(model, training, dim, modality_dims))
            classes = torch.empty(training.batch_size, dtype=torch.int64)
            loss = F.cross_entropy(logits.float(), classes) + famf.fusion.penalty()
            behind_forward = held.now
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            return behind_forward

        for _ in range(2):
            held.peak = held.now
            behind_forward = step()
        parameters = _bytes(famf.parameters())
        state = _bytes(value for of_one in optimiser.state.values() for value in of_one.values())
        lasting = 2 * parameters + state + _bytes(famf.buffers())  # twice: with the gradients of the step before
        return StepMemory(parameters, state, behind_forward - lasting, held.peak)


def _batch(model: ModelConfig, training: TrainingConfig, dim: int, modality_dims: dict[str, int]) -> Batch:
    clips = training.batch_size
    return Batch(
        faces=torch.empty(clips, training.faces, dim),
        mask=None,
        modalities={m: torch.empty(clips, modality_dims[m]) for m in model.modalities},
        present={m: torch.empty(clips, dtype=torch.bool) for m in model.modalities},
    )


def _in_place_of(old: Aggregation, new: Aggregation) -> Aggregation:
    if (new.tokens, new.width) != (old.tokens, old.width):
        raise ValueError(
            f"aggregation: {new.tokens} tokens of length {new.width}, expected {old.tokens} of length {old.width}"
        )
    return new


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make: those alive ``now`` and their ``peak``."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()  # views share a storage, and it counts once

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._free, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, size: int) -> None:
        self.now -= size


class ResidualsMaterialised(AttentionVLAD):
    """AttentionVLAD as public NetVLAD code computes it: every residual x_i − c_k is written down, (B, N, K, D).

    The tokens are those of ``AttentionVLAD``. It is here to be measured, and no configuration can name it.
    """

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K D"]:
        alpha, phi = self.assign(x, mask), self.cluster_attention()
        x = x if mask is None else x.masked_fill(~mask[..., None], 0.0)
        residuals = x[:, :, None] - self.centres  # (B, N, K, D)
        v = (alpha[..., None] * residuals).sum(dim=1)
        if self.normalisation.startswith("cluster"):
            v = normalise(v)
        v = v * phi[:, None]
        if self.normalisation.endswith("whole"):
            v = normalise(v.flatten(1)).view_as(v)
        return v
