"""The floor under a training: what it has to compute and to move at the least, part by part, counted and not run.

A part takes as long as its matrix products at the rate of the machine, or as long as its bytes take to move, whichever
is longer. Products are counted by PyTorch on tensors without content. Of bytes each input of a part is read once and
each result is written once, forward and backward, at the precision in which it is kept; what a part could keep to
itself, such as the projected tokens behind an attention matrix, does not count.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from famf_lib.data.sampling import Batch
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.evaluation import EvaluationConfig
from famf_lib.training.train import TrainingConfig, steps_of

ADAM = 7 * 4  # bytes a weight: weight, gradient and two moments are read, weight and moments written, in float32
KEY = 8  # bytes of what is sorted to draw the faces of an epoch


@dataclass(frozen=True)
class Machine:
    """What a machine reaches: operations a second of matrix products in training and in float32, bytes a second."""

    training: float
    float32: float
    memory: float


H200 = Machine(training=790e12, float32=67e12, memory=4.3e12)
"""An H200: bfloat16 products and copies as measured on one, float32 as published."""


@dataclass(frozen=True)
class Work:
    """Operations of matrix products (a multiplication and an addition are two), and bytes read and written."""

    flops: int
    bytes: int
    float32: bool = False

    def seconds(self, machine: Machine) -> float:
        """The least time on a machine."""
        return max(self.flops / (machine.float32 if self.float32 else machine.training), self.bytes / machine.memory)

    def __mul__(self, times: int) -> "Work":
        return replace(self, flops=self.flops * times, bytes=self.bytes * times)


@dataclass(frozen=True)
class Size:
    """What decides the work of a training, its model and settings aside.

    Args:
        dim: D.
        modality_dims: D_m of each modality.
        persons: C.
        clips: of the training.
        faces: of all these clips together.
        gallery: clips that are ranked.
    """

    dim: int
    modality_dims: dict[str, int]
    persons: int
    clips: int
    faces: int
    gallery: int


def of_step(model: ModelConfig, training: TrainingConfig, size: Size, clips: int) -> dict[str, Work]:
    """The parts of one step of B ``clips``; ``training.precision`` must not be ``auto``: it would be this machine's."""
    if training.precision == "auto":
        raise ValueError("precision: 'auto' found, expected float32 or bfloat16")
    element = 2 if training.precision == "bfloat16" else 4
    with FakeTensorMode():
        famf = FAMF(model, size.dim, size.modality_dims, size.persons).train()
        batch = Batch(
            faces=torch.empty(clips, training.faces, size.dim),
            mask=None,
            modalities={m: torch.empty(clips, size.modality_dims[m]) for m in model.modalities},
            present={m: torch.empty(clips, dtype=torch.bool) for m in model.modalities},
        )
        fused = famf.fusion(famf.tokens(batch)).flatten(1)
        whole = _flops(lambda: famf(batch))
        aggregation = _flops(lambda: famf.aggregation(batch.faces, None))
        classifier = _flops(lambda: famf.classifier(fused.detach().requires_grad_(fused.requires_grad)))
        weights = sum(p.numel() for p in famf.parameters())
        layers = [layer for layer in famf.classifier if isinstance(layer, torch.nn.Linear)]
        of_layers = sum(p.numel() for layer in layers for p in layer.parameters())
        between = sum(layer.in_features + layer.out_features for layer in layers)
    given = clips * (training.faces * size.dim + sum(size.modality_dims[m] for m in model.modalities))
    faces = clips * training.faces * size.dim
    tokens = clips * famf.aggregation.tokens * famf.aggregation.width
    joined = fused.numel()
    return {
        "sampling": Work(0, (2 + element) * given),  # from float16
        "aggregation": Work(aggregation, element * (2 * faces + 2 * tokens)),
        "fusion": Work(whole - aggregation - classifier, element * 2 * (tokens + joined)),
        "classifier": Work(classifier, element * 2 * (of_layers + clips * between) + 4 * of_layers),
        "loss": Work(0, element * 2 * clips * size.persons),
        "optimiser": Work(0, ADAM * weights),
    }


def of_training(model: ModelConfig, training: TrainingConfig, size: Size) -> dict[str, Work]:
    """The parts of a whole training: those of its steps, and the draw of the faces that goes before each epoch."""
    steps = steps_of(size.clips, training.batch_size)
    parts = of_step(model, training, size, -(-size.clips // steps))
    # Of each face a key is made and sorted, of each clip N are kept.
    draw = Work(0, 2 * KEY * size.faces + KEY * training.faces * size.clips)
    return {"draw": draw * training.epochs} | {name: work * (steps * training.epochs) for name, work in parts.items()}


def of_evaluation(model: ModelConfig, evaluation: EvaluationConfig, size: Size) -> Work:
    """Ranking the gallery, in float32: faces are read, scores of all clips for all persons written and read again."""
    with FakeTensorMode(), torch.no_grad():
        famf = FAMF(model, size.dim, size.modality_dims, size.persons).eval()
        batch = Batch(
            faces=torch.empty(size.gallery, evaluation.faces, size.dim),
            mask=None,
            modalities={m: torch.empty(size.gallery, size.modality_dims[m]) for m in model.modalities},
            present={m: torch.empty(size.gallery, dtype=torch.bool) for m in model.modalities},
        )
        flops = _flops(lambda: famf(batch))
    given = evaluation.faces * size.dim + sum(size.modality_dims[m] for m in model.modalities)
    return Work(flops, size.gallery * (2 * given + 2 * 4 * size.persons), float32=True)


def _flops(forward) -> int:
    """Of forward, and of backward where there is one."""
    with FlopCounterMode(display=False) as counted:
        result: Tensor = forward()
        if result.requires_grad:
            result.sum().backward()
    return counted.get_total_flops()
