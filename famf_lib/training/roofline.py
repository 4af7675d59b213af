"""A roofline model of a training: the least time that each part needs, counted without running it.

A part takes the time of its matrix products at the machine's rate or the time to move its bytes, whichever is longer.
PyTorch counts the products on fake tensors. Each input of a part is read once and each result is written once, forward
and backward, in the precision in which it is stored; intermediate results that could stay inside a part, such as the
projected tokens of an attention matrix, do not count.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import ALIGNED, FAMF
from famf_lib.training.evaluation import EvaluationConfig
from famf_lib.training.memory import empty_batch
from famf_lib.training.train import TrainingConfig, steps_of

ADAM = 7 * 4  # bytes per weight in float32: weight, gradient and two moments are read, weight and moments are written
KEY = 8  # bytes of a sort key, for drawing the faces of an epoch


@dataclass(frozen=True)
class Machine:
    """The rates of a machine: FLOP/s of matrix products in the training precision and in float32, and bytes/s.

    ``unaligned`` is the rate in the training precision if rows do not begin at multiples of 16 bytes; None if it was
    not measured.
    """

    training: float
    float32: float
    memory: float
    unaligned: float | None = None


@dataclass(frozen=True)
class Work:
    """FLOPs of matrix products (a multiplication and an addition count as two), and bytes read and written."""

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
    """The sizes that determine the work of a training, apart from its model and settings.

    Args:
        dim: D.
        modality_dims: D_m of each modality.
        persons: C.
        clips: the number of training clips.
        faces: the number of all their faces.
        gallery: the number of clips to rank.
    """

    dim: int
    modality_dims: dict[str, int]
    persons: int
    clips: int
    faces: int
    gallery: int


def of_step(model: ModelConfig, training: TrainingConfig, size: Size, clips: int) -> dict[str, Work]:
    """The parts of one step of B ``clips``. ``training.precision`` must not be auto."""
    if training.precision == "auto":
        raise ValueError("precision: 'auto' found, expected float32 or bfloat16")
    element = 2 if training.precision == "bfloat16" else 4
    with FakeTensorMode():
        famf = FAMF(model, size.dim, size.modality_dims, size.persons).train()
        batch = empty_batch(model, clips, training.faces, size.dim, size.modality_dims)
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
    """The parts of a whole training: those of its steps, and the draw of faces before each epoch."""
    steps = steps_of(size.clips, training.batch_size)
    parts = of_step(model, training, size, -(-size.clips // steps))
    # A key per face is created and sorted; N faces per clip are kept.
    draw = Work(0, 2 * KEY * size.faces + KEY * training.faces * size.clips)
    return {"draw": draw * training.epochs} | {name: work * (steps * training.epochs) for name, work in parts.items()}


def of_evaluation(model: ModelConfig, evaluation: EvaluationConfig, size: Size) -> Work:
    """Ranking the gallery in float32: faces are read; all scores are written and read again."""
    with FakeTensorMode(), torch.no_grad():
        famf = FAMF(model, size.dim, size.modality_dims, size.persons).eval()
        batch = empty_batch(model, size.gallery, evaluation.faces, size.dim, size.modality_dims)
        flops = _flops(lambda: famf(batch))
    given = evaluation.faces * size.dim + sum(size.modality_dims[m] for m in model.modalities)
    return Work(flops, size.gallery * (2 * given + 2 * 4 * size.persons), float32=True)


PADDED, FACES, COMPILED = "last layer padded", "faces rounded once", "normalisation and activation compiled"


def savings(model: ModelConfig, training: TrainingConfig, size: Size, clips: int, machine: Machine) -> dict[str, float]:
    """The seconds that each change of a step of B ``clips`` in bfloat16 should save on a GPU, predicted by counting.

    *Last layer padded*: its three products (forward, and the gradients of weights and inputs) run at the aligned rate.
    A copy of the weights and one of the gradient of the logits are written and read in addition.
    *Faces rounded once*: before each of the two products that use them, faces in float32 were read, masked, written,
    read and rounded to bfloat16. Now they are rounded, and then masked, once.
    *Normalisation and activation compiled*: in each of the two hidden layers, ReLU no longer reads and writes the
    activations forward. Backward, one kernel reads the gradient, ReLU's output and the input, and writes one tensor: 4
    in place of 3 for ReLU and 3 for batch normalisation.

    Raises:
        ValueError: the rate of products whose rows are not aligned is unknown.
    """
    if machine.unaligned is None:
        raise ValueError("unaligned: None found, expected the rate of products whose rows are not aligned")
    last, logits = model.hidden * size.persons, clips * size.persons
    wider = -(-size.persons // ALIGNED) * ALIGNED / size.persons
    flops = 3 * 2 * clips * last
    copies = (2 + 2) * last + (2 + 2 + 2) * logits  # a slice's gradient is zeros, then a copy
    faces = clips * training.faces * size.dim
    activations = 2 * clips * model.hidden
    return {
        PADDED: flops / machine.unaligned - flops * wider / machine.training - copies / machine.memory,
        FACES: (2 * (4 + 4 + 4 + 2) - (4 + 2 + 2 + 2)) * faces / machine.memory,
        COMPILED: (2 + 2) * 2 * activations / machine.memory,
    }


def _flops(forward: Callable[[], Tensor]) -> int:
    """The FLOPs of a forward pass, and of its backward pass if it has one."""
    with FlopCounterMode(display=False) as counted:
        result = forward()
        if result.requires_grad:
            result.sum().backward()
    return counted.get_total_flops()
