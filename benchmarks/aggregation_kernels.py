"""Time and memory of aggregation, forward and backward: this library's forms compared with those of public code.

    python benchmarks/aggregation_kernels.py [--modules attentionvlad,netvlad] [--device cpu] [--record]

All forms of a case run in turn: ``residuals`` materialises x_i − c_k, (B, N, K, D); ``loop`` iterates over the
clusters; ``products`` is two matrix products with autograd; ``chunks`` iterates over chunks of the batch, with a
hand-written gradient. A GPU runs ``products``, ``compiled``, which is the same under ``torch.compile``, and ``fused``,
the three kernels of ``fused_residual_sums.py``. All must give the same tokens and gradients. ``library`` is the form
that the library chooses. The faces need a gradient unless a case says otherwise. The last rows are training steps of
whole models, in which they need none.

``normalised`` has cases of AttentionVLAD with the published normalisations on a CPU: ``public`` is NetVLAD of public
PyTorch code, with φ added (``Public``); ``after`` normalises the sums when all clips have theirs; ``one pass``
normalises each chunk while it is in the cache.

On a GPU the times are those of replays of a CUDA graph that calls a form with many batches in turn, so that neither the
host nor a warm cache counts. ``within`` says for each case whose faces need a gradient whether ``fused`` takes at most
``WITHIN`` times as long as moving the necessary bytes: if it does not in all of them, it leaves the repository.

Memory is the peak of a step beyond its inputs, outputs and weights. On a CPU it is counted tensor by tensor and
therefore the same on every machine; on a GPU it is that of PyTorch's allocator. The floor is the longer of two times:
moving the necessary bytes (faces read forward and backward, their gradient written, tokens written and their gradient
read) at the speed of a copy, and the matrix products at the speed of a large product. Both speeds are measured here.

On a CPU, part of the cost of large tensors is that the system allocates their memory again in each step. The rows
``memory kept`` come from a process that keeps its memory (``KEEPING``, for the allocator of Linux).
"""

import os
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any
from unittest.mock import patch

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famf_lib.data.synthetic import SIZES
from famf_lib.experiments.catalogue import TABLE_1_MODALITIES
from famf_lib.experiments.settings import BASE
from famf_lib.models import aggregation, kernels
from famf_lib.models.aggregation import AGGREGATIONS, Aggregation, AttentionVLAD, NetVLAD, NeXtVLAD
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.memory import Allocations

D, N = 512, 24
# B. NetVLAD and GhostVLAD are AttentionVLAD without φ, and have fewer cases.
CLIPS = {
    "attentionvlad": (64, 1024, 4096),
    "netvlad": (64, 4096),
    "ghostvlad": (64, 4096),
    "nextvlad": (64, 1024, 4096),
}
CLUSTERS = (8, 16, 64)
GIVEN = ((8, 256), (8, 4096))  # (K, B) of the cases on a CPU whose faces need no gradient
NORMALISED = (8, 64)  # K of the normalised cases, each with faces given and not
ON_GPU = ("attentionvlad", "nextvlad")  # the modules for which a GPU has time, each with faces given and not
WITHIN = 2  # times the floor of bytes
MOST = 5 * 2**28  # bytes of residuals on a CPU; above this limit the first two forms are left out
ROUNDS, BUDGET = 15, 3.0  # the budget is in seconds per case
KEEPING = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40))  # glibc; others ignore it

CPU = torch.device("cpu")

Form = Callable[[nn.Module, Tensor], Tensor]


def _with_sums(form: str) -> Form:
    def aggregate(module: Aggregation, x: Tensor) -> Tensor:
        with patch.object(aggregation, "residual_sums", sums(form)):
            return module(x)

    return aggregate


products, chunks, fused = map(_with_sums, ("products", "chunks", "fused"))


def fast_form(device: torch.device) -> str:
    """The form that is made for a device. Triton is not available on every system with a GPU."""
    return "fused" if common.can_compile(device) else "chunks"


def sums(form: str) -> Callable[..., Tensor]:
    """The implementation of ``residual_sums``."""
    if form == "fused":
        from fused_residual_sums import fused_residual_sums  # imports Triton

        return lambda *given: fused_residual_sums(*given[:6])  # of sums that are not normalised
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
    """The forms of a device, on a CPU those that fit in memory. ``residuals`` takes three tensors (B, N, K, D)."""
    if device.type == "cuda":
        found: dict[str, Form] = {"products": products}
        if common.can_compile(device):
            torch.compiler.reset()  # it stops compiling after a number of shapes
            compiled = torch.compile(module, dynamic=False)
            found["compiled"] = lambda module, x: compiled(x)
            found |= {"fused": fused} if isinstance(module, NetVLAD) else {}
        return found
    wide = module.groups * module.width if isinstance(module, NeXtVLAD) else D
    found = {"residuals": residuals, "loop": loop} if 3 * 4 * clips * N * clusters * wide <= MOST else {}
    found["products"] = products
    return found | ({"chunks": chunks} if isinstance(module, NetVLAD) else {})


def step(form: Form, module: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    tokens = form(module, x)
    wanted = [x] * x.requires_grad + list(module.parameters())
    return [tokens, *torch.autograd.grad(tokens, wanted, upstream)]


def memory(form: Form, module: nn.Module, x: Tensor, upstream: Tensor, expected: list[Tensor]) -> int:
    """The peak memory of a step in bytes. Its results must be those expected."""
    if x.is_cuda:  # compiled code allocates where ``Allocations`` does not see it
        step(form, module, x, upstream)  # compiles it, and lets libraries take their workspace
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        results = step(form, module, x, upstream)
        peak = torch.cuda.max_memory_allocated(x.device)
    else:
        with Allocations() as held:
            given = [tensor.detach() for tensor in (x, upstream, *module.parameters())]  # counted from here on
            before = held.now
            results = step(form, module, x, upstream)
            del given
        peak = held.peak
    for found, wanted in zip(results, expected, strict=True):
        # A single number is the gradient of φ's bias, a sum over all clips whose terms cancel.
        error = 1e-3 if wanted.numel() > 1 else 1e-2
        torch.testing.assert_close(found, wanted, rtol=error, atol=error * float(wanted.detach().abs().max()))
    return peak - before - sum(tensor.untyped_storage().nbytes() for tensor in results)


def machine(device: torch.device, quick: bool) -> dict[str, float]:
    """The bytes per second of a copy, reading and writing, and the FLOP/s of a large matrix product."""
    numbers, side = (2**20, 256) if quick else (2**25, 2048) if device.type == "cpu" else (2**28, 8192)
    block, square = torch.rand(numbers, device=device), torch.rand(side, side, device=device)
    target, result = torch.empty_like(block), torch.empty_like(square)
    works = {"copy": lambda: target.copy_(block), "product": lambda: torch.mm(square, square, out=result)}
    fastest = {name: min(taken) for name, taken in common.replays(works, [()], device, 7).items()}
    return {
        "bytes a second": 2 * block.nbytes / fastest["copy"],
        "operations a second": 2 * side**3 / fastest["product"],
    }


def floor(module: Aggregation, clips: int, given: bool, speed: dict[str, float]) -> dict[str, float]:
    """Seconds. Forward has two products of every face with K vectors; backward has four, two of them for the faces.

    Each layer of NeXtVLAD has three products, and its descriptors take the place of the faces.
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

    def make() -> tuple[Tensor, Tensor]:
        x = torch.randn(clips, N, D, device=device).requires_grad_(not given)
        return x, torch.randn(clips, clusters, module.width, device=device)

    inputs = common.cold_inputs(make, device)
    x, upstream = inputs[0]
    chosen = forms(module, clips, clusters, device)
    expected = step(lambda module, x: module(x), module, x, upstream)
    peaks = {form: memory(f, module, x, upstream, expected) for form, f in chosen.items()}
    library = "chunks" if "chunks" in chosen and kernels._chunks_pay(x, module.centres, "none") else "products"
    works = {form: partial(step, f, module) for form, f in chosen.items()}
    taken = common.replays(works, inputs, device, rounds, BUDGET)
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
    if "fused" in chosen and not given:
        row["within"] = row["seconds"]["fused"] <= WITHIN * least["bytes"]
    common.say(row)
    return row


class Public(nn.Module):
    """NetVLAD as the public PyTorch code of LOUPE (Miech et al. 2018, Mixture of Embedding Experts) computes it.

    Its vectors are the columns of (B, D, K), its parameters are laid out likewise, and it returns (B, D·K). φ, which it
    does not have, acts between the two normalisations.
    """

    def __init__(self, module: AttentionVLAD):
        super().__init__()
        self.centres = nn.Parameter(module.centres.detach().T.contiguous()[None])  # (1, D, K)
        self.clusters = nn.Parameter(module.assignment.weight.detach().T.contiguous())  # (D, K)
        self.bias = nn.Parameter(module.assignment.bias.detach().clone())
        self.score = deepcopy(module.score)

    def forward(self, x: Tensor) -> Tensor:
        faces = x.view(-1, x.shape[-1])
        assignment = (torch.matmul(faces, self.clusters) + self.bias).softmax(dim=1).view(*x.shape[:2], -1)
        a = assignment.sum(dim=1, keepdim=True) * self.centres  # (B, D, K)
        v = torch.matmul(assignment.transpose(1, 2), x).transpose(1, 2) - a
        v = F.normalize(v) * self.score(self.centres[0].T).squeeze(-1).sigmoid()
        return F.normalize(v.reshape(len(x), -1))


def normalised(clusters: int, clips: int, given: bool, speed: dict[str, float], rounds: int) -> dict[str, Any]:
    """A case with the published normalisations, on a CPU."""
    torch.manual_seed(0)
    module = AttentionVLAD(D, clusters=clusters, normalisation="cluster+whole")
    x, upstream = torch.randn(clips, N, D).requires_grad_(not given), torch.randn(clips, clusters, D)
    expected = step(products, module, x, upstream)
    tokens, *of_faces, centres, weight = expected[:-3]
    columns = [tokens.transpose(1, 2).flatten(1), *of_faces, centres.T[None], weight.T, *expected[-3:]]
    chosen = {
        "public": (lambda public, x: public(x), Public(module), x, upstream.transpose(1, 2).flatten(1)),
        "after": (products, module, x, upstream),
        "one pass": (chunks, module, x, upstream),
    }
    peaks = {form: memory(*each, columns if form == "public" else expected) for form, each in chosen.items()}
    taken = common.in_turn({form: partial(step, *each) for form, each in chosen.items()}, CPU, rounds, BUDGET)
    least = floor(module, clips, given, speed)
    row = {
        "K": clusters,
        "B": clips,
        "faces given": given,
        "library": "one pass" if kernels._chunks_pay(x, module.centres, module.normalisation) else "after",
        "seconds": common.medians(taken),
        "memory (bytes)": peaks,
        "public / one pass": common.ratio(taken["public"], taken["one pass"]),
        "after / one pass": common.ratio(taken["after"], taken["one pass"]),
        "floor (s)": least,
        "one pass / floor": common.medians(taken)["one pass"] / max(least.values()),
    }
    common.say(row)
    return row


def kept(sizes: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """Products and chunks of AttentionVLAD for each (K, B), in a process that never returns memory to the system."""
    torch.set_num_threads(1)
    rows = []
    for clusters, clips in sizes:
        torch.manual_seed(0)
        module = AGGREGATIONS["attentionvlad"](D, clusters=clusters)
        x, upstream = torch.randn(clips, N, D, requires_grad=True), torch.randn(clips, clusters, D)
        both = {"products": products, "chunks": chunks}
        works = {name: lambda f=f: step(f, module, x, upstream) for name, f in both.items()}  # noqa: B023
        taken = common.in_turn(works, torch.device("cpu"), rounds, BUDGET)
        row = {"K": clusters, "B": clips, "seconds": common.medians(taken)}
        rows.append(row | {"products / chunks": common.ratio(taken["products"], taken["chunks"])})
        common.say(rows[-1])
    return rows


def training(profile: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """A step of AttentionVLAD + MLMA at the sizes of a profile, with products and with the fast form of the device."""
    size, base = SIZES[profile], BASE[profile]
    dims, clips = dict.fromkeys(TABLE_1_MODALITIES, size.dim), base.training.batch_size
    torch.manual_seed(0)
    with device:
        model = FAMF(ModelConfig(hidden=base.hidden, modalities=TABLE_1_MODALITIES), size.dim, dims, size.persons)
        batch = common.random_batch(clips, base.training.faces, size.dim, dims)
        classes = torch.randint(size.persons, (clips,))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True, capturable=device.type == "cuda")

    def whole(form: str) -> None:
        with patch.object(aggregation, "residual_sums", sums(form)):
            loss = F.cross_entropy(model(batch), classes) + model.fusion.penalty()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    fast = fast_form(device)
    taken = common.replays({form: partial(whole, form) for form in ("products", fast)}, [()], device, rounds)
    row = {
        "profile": profile,
        "batch": clips,
        "form": fast,
        "seconds": common.medians(taken),
        "products / form": common.ratio(taken["products"], taken[fast]),
    }
    common.say(row)
    return row


def measure(device: torch.device, quick: bool, modules: str = "") -> dict[str, Any]:
    speed, gpu = machine(device, quick), device.type == "cuda"
    names = modules.split(",") if modules else ON_GPU if gpu else CLIPS
    every = [(name, k, b, False) for name in names for k in CLUSTERS for b in CLIPS[name]]
    given = [(name, k, b) for name, k, b, _ in every] if gpu else [("attentionvlad", *sizes) for sizes in GIVEN]
    every += [(*one, True) for one in given]
    if quick:
        every = [("attentionvlad", 3, 13, False), ("attentionvlad", 3, 13, True), ("nextvlad", 3, 13, False)]
    rounds = 2 if quick else ROUNDS
    keeping, published = [], []
    if not gpu:
        sizes = [(3, 13)] if quick else [(k, b) for k in CLUSTERS for b in CLIPS["attentionvlad"]]
        with patch.dict(os.environ, KEEPING):
            keeping = common.apart(kept, sizes, rounds)[0]
        sizes = [(3, 13)] if quick else [(k, b) for k in NORMALISED for b in CLIPS["attentionvlad"]]
        published = [normalised(*one, given, speed, rounds) for one in sizes for given in (False, True)]
    return {
        "D": D,
        "N": N,
        "timed": common.TIMED[device.type],
        "machine": speed,
        "rows": [case(*one, device, speed, rounds) for one in every],
        "normalised": published,
        "memory kept": keeping,
        "training": [training("quick" if quick else "standard", device, rounds if quick else 4 * ROUNDS)],
    }


if __name__ == "__main__":
    common.main(measure)
