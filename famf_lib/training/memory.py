"""The memory of one training step at any size, counted without running it.

The step runs on PyTorch's fake tensors, which have shapes but no storage, and every tensor is counted from its creation
until its last reference is gone. The paper's full size takes a second and almost no memory.

The count is of storage that PyTorch allocates for tensors. It excludes the clips themselves, workspace inside kernels,
and what an allocator loses to rounding and fragmentation.
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

CPU = torch.device("cpu")  # the device of the fake tensors


@dataclass(frozen=True)
class StepMemory:
    """The memory of one training step, in bytes.

    Args:
        parameters: the weights; their gradients take the same again.
        optimiser: Adam's two moments of every weight, and a step count per tensor.
        activations: what the forward pass keeps: logits, loss, and everything that the backward pass needs.
        peak: the maximum over the step, including all of the above.
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
    """The memory of a step of ``train.train`` once the optimiser has its state, if every clip has faces.

    Args:
        training: its batch size, faces and precision matter; ``auto`` is resolved for this machine's CPU.
        dim: D, the length of a face vector.
        modality_dims: D_m of each modality.
        persons: C.
        aggregation: replaces the configuration's class (same arguments), to measure another implementation.

    Raises:
        ValueError: ``modality_dims`` lacks a modality; the aggregation gives tokens of another shape.
    """
    with FakeTensorMode(), Allocations() as held:
        famf = FAMF(model, dim, modality_dims, persons).train()
        if aggregation is not None:
            old, new = famf.aggregation, aggregation(dim, **model.aggregation_options)
            if (new.tokens, new.width) != (old.tokens, old.width):
                found, expected = (f"{one.tokens} tokens of length {one.width}" for one in (new, old))
                raise ValueError(f"aggregation: {found} found, expected {expected}")
            famf.aggregation = new
        optimiser = torch.optim.Adam(famf.parameters(), fused=True)

        def step() -> int:  # as in ``train.train``: tensors live as long as they do there
            with autocast(CPU, training):
                logits = famf(empty_batch(model, training.batch_size, training.faces, dim, modality_dims))
            classes = torch.empty(training.batch_size, dtype=torch.int64)
            loss = F.cross_entropy(logits.float(), classes) + famf.fusion.penalty()
            after_forward = held.now
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            return after_forward

        for _ in range(2):
            held.peak = held.now
            after_forward = step()
        parameters = _bytes(famf.parameters())
        state = _bytes(value for of_one in optimiser.state.values() for value in of_one.values())
        lasting = 2 * parameters + state + _bytes(famf.buffers())  # twice: the gradients of the previous step remain
        return StepMemory(parameters, state, after_forward - lasting, held.peak)


def empty_batch(model: ModelConfig, clips: int, faces: int, dim: int, modality_dims: dict[str, int]) -> Batch:
    """A batch of uninitialised tensors in which every clip has ``faces`` faces."""
    return Batch(
        faces=torch.empty(clips, faces, dim),
        mask=None,
        modalities={m: torch.empty(clips, modality_dims[m]) for m in model.modalities},
        present={m: torch.empty(clips, dtype=torch.bool) for m in model.modalities},
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations create: those alive ``now``, and their ``peak``."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()  # views share a storage, which counts once

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
    """AttentionVLAD as public NetVLAD code computes it, with all residuals x_i − c_k materialised (B, N, K, D).

    Its tokens equal those of ``AttentionVLAD``. It exists to be measured, and no configuration can name it.
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
