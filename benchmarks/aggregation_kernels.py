"""Aggregation forward and backward: seconds and memory of this library's forms beside the forms of public code.

    python benchmarks/aggregation_kernels.py [--modules attentionvlad,netvlad] [--device cpu] [--record]

The forms of one case take turns on one batch. ``residuals`` writes down every x_i − c_k, (B, N, K, D); ``loop`` goes
through the clusters; ``products`` is two matrix products with autograd; ``chunks`` goes through the batch in chunks,
with a gradient written by hand. On a GPU ``compiled`` is ``products`` in the hands of ``torch.compile``, and ``fused``
three kernels of ``fused_residual_sums.py``. All have to give the same tokens and gradients. ``library`` is the one that
the library takes. The faces want a gradient, but for the cases that say otherwise; and at the end come training steps
of whole models, where they want none.

Memory is what a step holds beyond its inputs, outputs and weights at its peak, counted tensor by tensor, so that it is
the same on every machine. The floor is the longer of two times: moving the bytes that have to be moved (the faces read
forward and backward, their gradient written, the tokens written and their gradient read) at the speed of a copy, and
the operations of the matrix products at the speed of a large one, both measured here.

On a CPU large tensors also cost what the system takes to hand out their memory anew in each step. How much of the gain
that is, a process shows at the end that keeps its memory (``KEEPING``, for the allocator of Linux).
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from famf_lib.data.sampling import Batch
from famf_lib.data.synthetic import SIZES
from famf_lib.experiments.catalogue import TABLE_1_MODALITIES
from famf_lib.experiments.settings import BASE
from famf_lib.models import aggregation, kernels
from famf_lib.models.aggregation import AGGREGATIONS, Aggregation, NetVLAD, NeXtVLAD
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.memory import Allocations

D, N = 512, 24
# The clips of a batch. NetVLAD and GhostVLAD are AttentionVLAD without φ, and have fewer cases.
CLIPS = {
    "attentionvlad": (64, 1024, 4096),
    "netvlad": (64, 4096),
    "ghostvlad": (64, 4096),
    "nextvlad": (64, 1024, 4096),
}
CLUSTERS = (8, 16, 64)
GIVEN = ((8, 256), (8, 4096))  # (K, B) that are measured with faces that want no gradient as well
MOST = 5 * 2**28  # bytes that residuals may take on a CPU; where there would be more, the first two forms are left out
COMPILED = 1024  # clips from which on ``torch.compile`` is tried, which takes its time for each shape
ROUNDS, BUDGET = 15, 3.0  # seconds a case
KEEPING = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40))  # glibc; others ignore it

Form = Callable[[Aggregation, Tensor], Tensor]


def products(module: Aggregation, x: Tensor) -> Tensor:
    with patch.object(aggregation, "residual_sums", sums("products")):
        return module(x)


def chunks(module: Aggregation, x: Tensor) -> Tensor:
    with patch.object(aggregation, "residual_sums", sums("chunks")):
        return module(x)


def fused(module: Aggregation, x: Tensor) -> Tensor:
    with patch.object(aggregation, "residual_sums", sums("fused")):
        return module(x)


def fast_form(device: torch.device) -> str:
    """The form that is made for a device. Not every system that has a GPU has Triton."""
    return "fused" if device.type == "cuda" and find_spec("triton") else "chunks"


def sums(form: str) -> Callable[..., Tensor]:
    if form == "fused":
        from fused_residual_sums import fused_residual_sums  # imports Triton

        return fused_residual_sums
    return {"products": kernels.plain_residual_sums, "chunks": kernels.chunked_residual_sums}[form]


def residuals(module: Aggregation, x: Tensor) -> Tensor:
    descriptors, alpha, phi = _weights(module, x)
    v = (alpha[..., None] * (descriptors[:, :, None] - module.centres)).sum(dim=1)
    return v if phi is None else v * phi[:, None]


def loop(module: Aggregation, x: Tensor) -> Tensor:
    descriptors, alpha, phi = _weights(module, x)
    tokens = [(alpha[..., k, None] * (descriptors - c)).sum(dim=1) for k, c in enumerate(module.centres.unbind())]
    v = torch.stack(tokens, dim=1)
    return v if phi is None else v * phi[:, None]


def _weights(module: Aggregation, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Descriptors (B, M, W), their α (B, M, K), and φ."""
    if isinstance(module, NetVLAD):
        return x, module.assign(x), module.cluster_attention()
    expanded = module.expand(x)
    descriptors = expanded.unflatten(-1, (module.groups, module.width)).flatten(1, 2)
    return descriptors, module.assign(expanded, None).flatten(1, 2), None


def forms(module: Aggregation, clips: int, clusters: int, device: torch.device) -> dict[str, Form]:
    """Those that fit: the first keeps the residuals for backward, and makes their product with α and its gradient."""
    wide = module.groups * module.width if isinstance(module, NeXtVLAD) else D
    large = 4 * clips * N * clusters * wide
    most = MOST if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // 2
    found: dict[str, Form] = {"residuals": residuals, "loop": loop} if 3 * large <= most else {}
    found["products"] = products
    if isinstance(module, NetVLAD):
        found["chunks"] = chunks
        if fast_form(device) == "fused":
            found["fused"] = fused
    if device.type == "cuda" and clips >= COMPILED:
        torch.compiler.reset()  # it gives up behind a number of shapes
        compiled = torch.compile(module, dynamic=False)
        found["compiled"] = lambda module, x: compiled(x)
    return found


def step(form: Form, module: Aggregation, x: Tensor, upstream: Tensor) -> list[Tensor]:
    tokens = form(module, x)
    wanted = [x] * x.requires_grad + list(module.parameters())
    return [tokens, *torch.autograd.grad(tokens, wanted, upstream)]


def memory(form: Form, module: Aggregation, x: Tensor, upstream: Tensor, expected: list[Tensor]) -> int:
    """Bytes at the peak of a step, whose results have to be those expected."""
    with Allocations() as held:
        given = [tensor.detach() for tensor in (x, upstream, *module.parameters())]  # counted as soon as they are seen
        before = held.now
        results = step(form, module, x, upstream)
        del given
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.detach().abs().max()))
    return held.peak - before - sum(tensor.untyped_storage().nbytes() for tensor in results)


def machine(device: torch.device, quick: bool) -> dict[str, float]:
    """Bytes a second of a copy, read and write together, and operations a second of a large matrix product."""
    numbers, side = (2**20, 256) if quick else (2**25, 2048) if device.type == "cpu" else (2**28, 8192)
    block, square = torch.rand(numbers, device=device), torch.rand(side, side, device=device)
    target, result = torch.empty_like(block), torch.empty_like(square)
    works = {"copy": lambda: target.copy_(block), "product": lambda: torch.mm(square, square, out=result)}
    fastest = {name: min(taken) for name, taken in common.in_turn(works, device, 7).items()}
    return {
        "bytes a second": 2 * block.nbytes / fastest["copy"],
        "operations a second": 2 * side**3 / fastest["product"],
    }


def floor(module: Aggregation, clips: int, given: bool, speed: dict[str, float]) -> dict[str, float]:
    """Seconds. Forward makes two products of every face with K vectors, backward four, two of them for the faces.

    NeXtVLAD's layers make three each, and their faces' descriptors take the place of the faces.
    """
    kept, faces = module.tokens, clips * N
    moved = 4 * ((2 if given else 3) * faces * D + 2 * clips * kept * module.width)
    if isinstance(module, NeXtVLAD):
        layers = sum(layer.weight.numel() for layer in (module.expand, module.attention, module.assignment))
        operations = 2 * faces * (3 * layers + 3 * kept * module.groups * module.width)
    else:
        operations = 2 * faces * D * (2 if given else 3) * (kept + module.assigned())
    return {"bytes": moved / speed["bytes a second"], "operations": operations / speed["operations a second"]}


def case(
    name: str, clusters: int, clips: int, given: bool, device: torch.device, speed: dict[str, float], rounds: int
) -> dict[str, Any]:
    torch.manual_seed(0)
    module = AGGREGATIONS[name](D, clusters=clusters).to(device)
    x = torch.randn(clips, N, D, device=device).requires_grad_(not given)
    upstream = torch.randn(clips, clusters, module.width, device=device)
    chosen = forms(module, clips, clusters, device)
    expected = step(lambda module, x: module(x), module, x, upstream)
    peaks = {form: memory(f, module, x, upstream, expected) for form, f in chosen.items()}
    library = "chunks" if "chunks" in chosen and kernels._chunks_pay(x, module.centres) else "products"
    works = {form: lambda f=f: step(f, module, x, upstream) for form, f in chosen.items()}
    taken = common.in_turn(works, device, rounds, BUDGET)
    least = floor(module, clips, given, speed)
    row = {
        "module": name,
        "K": clusters,
        "B": clips,
        "faces given": given,
        "library": library,
        "seconds": common.medians(taken),
        "memory (bytes)": peaks,
        "times the library's": {form: common.ratio(taken[form], taken[library]) for form in chosen},
        "floor (s)": least,
        "library / floor": common.medians(taken)[library] / max(least.values()),
    }
    common.say(row)
    return row


def kept(sizes: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """Products and chunks of AttentionVLAD, for each (K, B), in a process that has to itself what it once had."""
    torch.set_num_threads(1)
    rows = []
    for clusters, clips in sizes:
        torch.manual_seed(0)
        module = AGGREGATIONS["attentionvlad"](D, clusters=clusters)
        x, upstream = torch.randn(clips, N, D, requires_grad=True), torch.randn(clips, clusters, D)
        works = {form.__name__: lambda f=form: step(f, module, x, upstream) for form in (products, chunks)}  # noqa: B023
        taken = common.in_turn(works, torch.device("cpu"), rounds, BUDGET)
        row = {"K": clusters, "B": clips, "seconds": common.medians(taken)}
        rows.append(row | {"products / chunks": common.ratio(taken["products"], taken["chunks"])})
        common.say(rows[-1])
    return rows


def training(profile: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """A step of AttentionVLAD + MLMA at the sizes of a profile, with products and with the form made for the device."""
    size, base = SIZES[profile], BASE[profile]
    torch.manual_seed(0)
    model = FAMF(
        ModelConfig(hidden=base.hidden, modalities=TABLE_1_MODALITIES),
        size.dim,
        dict.fromkeys(TABLE_1_MODALITIES, size.dim),
        size.persons,
    ).to(device)
    clips, faces = base.training.batch_size, base.training.faces
    batch = Batch(
        torch.randn(clips, faces, size.dim, device=device),
        None,
        {m: torch.randn(clips, size.dim, device=device) for m in TABLE_1_MODALITIES},
        {m: torch.ones(clips, dtype=torch.bool, device=device) for m in TABLE_1_MODALITIES},
    )
    classes = torch.randint(size.persons, (clips,), device=device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def whole(form: str) -> None:
        with patch.object(aggregation, "residual_sums", sums(form)):
            loss = F.cross_entropy(model(batch), classes) + model.fusion.penalty()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    fast = fast_form(device)
    taken = common.in_turn({form: lambda f=form: whole(f) for form in ("products", fast)}, device, rounds)
    row = {
        "profile": profile,
        "batch": clips,
        "form": fast,
        "seconds": common.medians(taken),
        "products / form": common.ratio(taken["products"], taken[fast]),
    }
    common.say(row)
    return row


def measure(device: torch.device, quick: bool, modules: str = ",".join(CLIPS)) -> dict[str, Any]:
    speed = machine(device, quick)
    every = [(name, k, b, False) for name in modules.split(",") for k in CLUSTERS for b in CLIPS[name]]
    every += [("attentionvlad", k, b, True) for k, b in GIVEN]
    if quick:
        every = [("attentionvlad", 3, 13, False), ("attentionvlad", 3, 13, True), ("nextvlad", 3, 13, False)]
    rounds = 2 if quick else ROUNDS
    keeping = []
    if device.type == "cpu":
        sizes = [(3, 13)] if quick else [(k, b) for k in CLUSTERS for b in CLIPS["attentionvlad"]]
        with patch.dict(os.environ, KEEPING):
            keeping = common.apart(kept, sizes, rounds)[0]
    return {
        "D": D,
        "N": N,
        "machine": speed,
        "rows": [case(*one, device, speed, rounds) for one in every],
        "memory kept": keeping,
        "training": [training("quick" if quick else "standard", device, rounds if quick else 4 * ROUNDS)],
    }


if __name__ == "__main__":
    common.main(measure)
