"""``residual_sums`` for GPUs as three Triton kernels with few passes over the faces: a candidate for the library.

Two products with autograd pass nine times over the faces (B, N, D), forward and backward together, and more often over
the tokens (B, K, D). Here

- ``_forward`` reads a clip's faces to compute α and, while they are still in the cache, the clip's tokens;
- ``_grad_logits`` reads the faces and the gradient of the tokens, and writes the small gradient of the logits (B, N,
  A);
- ``_grad_faces_and_weights`` reads both again, a block of columns of all clips at a time, writes the gradient of the
  faces, and sums over clips for the weights and centres. Each program writes its own sums, which are added in a fixed
  order, so that the numbers are reproducible.

These are four passes over the faces and three over the tokens; the minimum is three and two. Masked faces are never
read. Products have the precision of autocast, or else float32 as three products of tensor cores.

The library does not use it because it has not been timed yet; ``aggregation_kernels.py`` times it on a GPU.
``tests/benchmarks/test_fused_residual_sums.py`` runs it in Triton's interpreter and compiles it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

PROGRAMS = 512  # of the last kernel, which share the clips: a few per multiprocessor of a large GPU
PRODUCTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def fused_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None,
) -> Float[Tensor, "B K D"]:
    """``famf_lib.models.kernels.residual_sums`` of faces in float32, differentiable once."""
    autocast = torch.is_autocast_enabled(x.device.type)
    product = torch.get_autocast_dtype(x.device.type) if autocast else torch.float32
    phi = centres.new_ones(len(centres)) if phi is None else phi
    return _Fused.apply(x.contiguous(), mask, weight, bias, centres, phi, product)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        centres: Tensor,
        phi: Tensor,
        product: torch.dtype,
    ) -> Tensor:
        clips, faces, dim = x.shape
        shapes = _shapes(faces, dim, len(weight), len(centres), product)
        v = centres.new_empty(clips, len(centres), dim)
        alpha = centres.new_empty(clips, faces, len(weight))
        if clips:
            _forward[(clips,)](
                x, _bytes(mask, x), weight, bias, centres, phi, v, alpha, MASKED=mask is not None, **shapes
            )
        ctx.save_for_backward(x, mask, weight, centres, phi, alpha)
        ctx.shapes = shapes
        return v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, weight, centres, phi, alpha = ctx.saved_tensors
        dv = dv.contiguous()
        clips, _, dim = x.shape
        columns = triton.cdiv(dim, ctx.shapes["COLUMNS"])
        groups = max(1, min(clips, PROGRAMS // columns))
        dl = torch.empty_like(alpha)
        of_phi = phi.new_zeros(clips, len(phi))
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else x.new_empty(0)
        sums = weight.new_zeros(groups, *weight.shape), centres.new_zeros(groups, *centres.shape)
        if clips:
            hidden, given = _bytes(mask, x), {"MASKED": mask is not None, **ctx.shapes}
            _grad_logits[(clips,)](x, hidden, centres, phi, alpha, dv, dl, of_phi, **given)
            _grad_faces_and_weights[(columns, groups)](
                x, hidden, weight, phi, alpha, dl, dv, dx, *sums, clips, OF_FACES=dx.numel() > 0, **given
            )
        d_weight, d_centres = (each.sum(dim=0) for each in sums)
        dx = dx if ctx.needs_input_grad[0] else None
        return dx, None, d_weight, dl.sum(dim=(0, 1)), d_centres, of_phi.sum(dim=0), None


def _shapes(faces: int, dim: int, assigned: int, kept: int, product: torch.dtype) -> dict[str, Any]:
    """The constants that the kernels are compiled for. Tensor cores need at least 16 rows and columns."""
    clusters = max(16, triton.next_power_of_2(assigned))
    many = clusters >= 64  # their sums need more registers than four warps have
    return {
        "N": faces,
        "D": dim,
        "A": assigned,
        "K": kept,
        "ROWS": max(16, triton.next_power_of_2(faces)),
        "CLUSTERS": clusters,
        "COLUMNS": 32 if many else 64,  # of D that a program holds at a time
        "PRODUCT": PRODUCTS[product],
        "num_warps": 8 if many else 4,
    }


def _bytes(mask: Tensor | None, x: Tensor) -> Tensor:
    return x if mask is None else mask.contiguous().view(torch.uint8)  # a kernel always needs a pointer


@triton.jit
def _product(a, b, PRODUCT: tl.constexpr):
    return tl.dot(a.to(PRODUCT), b.to(PRODUCT), input_precision="tf32x3")


@triton.jit
def _seen(mask, clip, rows, N: tl.constexpr, MASKED: tl.constexpr):
    """Whether each row is an unmasked face."""
    seen = rows < N
    if MASKED:
        seen = seen & (tl.load(mask + clip * N + rows, mask=seen, other=0) != 0)
    return seen


@triton.jit
def _forward(
    x,
    mask,
    weight,
    bias,
    centres,
    phi,
    v,
    alphas,
    MASKED: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CLUSTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    clip = tl.program_id(0).to(tl.int64)
    rows, clusters = tl.arange(0, ROWS), tl.arange(0, CLUSTERS)
    seen = _seen(mask, clip, rows, N, MASKED)
    faces = x + (clip * N + rows[:, None]) * D

    logits = tl.zeros((ROWS, CLUSTERS), tl.float32)
    for first in range(0, D, COLUMNS):
        d = first + tl.arange(0, COLUMNS)
        block = tl.load(faces + d, mask=seen[:, None] & (d < D), other=0.0)
        a = tl.load(
            weight + clusters[None, :] * D + d[:, None], mask=(clusters < A)[None, :] & (d < D)[:, None], other=0.0
        )
        logits += _product(block, a, PRODUCT)
    logits += tl.load(bias + clusters, mask=clusters < A, other=0.0)
    logits = tl.where((clusters < A)[None, :], logits, float("-inf"))
    powers = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    alpha = tl.where(seen[:, None], powers / tl.sum(powers, axis=1)[:, None], 0.0)
    place = alphas + (clip * N + rows[:, None]) * A + clusters
    tl.store(place, alpha, mask=(rows < N)[:, None] & (clusters < A)[None, :])

    w = alpha * tl.load(phi + clusters, mask=clusters < K, other=0.0)  # 0 for ghosts
    total = tl.sum(w, axis=0)
    for first in range(0, D, COLUMNS):
        d = first + tl.arange(0, COLUMNS)
        inside = (clusters < K)[:, None] & (d < D)
        block = tl.load(faces + d, mask=seen[:, None] & (d < D), other=0.0)
        c = tl.load(centres + clusters[:, None] * D + d, mask=inside, other=0.0)
        tokens = _product(tl.trans(w), block, PRODUCT) - total[:, None] * c
        tl.store(v + (clip * K + clusters[:, None]) * D + d, tokens, mask=inside)


@triton.jit
def _grad_logits(
    x,
    mask,
    centres,
    phi,
    alphas,
    dv,
    dl,
    of_phi,
    MASKED: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CLUSTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    clip = tl.program_id(0).to(tl.int64)
    rows, clusters = tl.arange(0, ROWS), tl.arange(0, CLUSTERS)
    seen = _seen(mask, clip, rows, N, MASKED)

    dw = tl.zeros((ROWS, CLUSTERS), tl.float32)  # Σ_d (x_i − c_k) dV_k
    of_centres = tl.zeros((CLUSTERS,), tl.float32)
    for first in range(0, D, COLUMNS):
        d = first + tl.arange(0, COLUMNS)
        inside = (clusters < K)[:, None] & (d < D)
        block = tl.load(x + (clip * N + rows[:, None]) * D + d, mask=seen[:, None] & (d < D), other=0.0)
        up = tl.load(dv + (clip * K + clusters[:, None]) * D + d, mask=inside, other=0.0)
        c = tl.load(centres + clusters[:, None] * D + d, mask=inside, other=0.0)
        dw += _product(block, tl.trans(up), PRODUCT)
        of_centres += tl.sum(up * c, axis=1)
    dw -= of_centres

    place = (clip * N + rows[:, None]) * A + clusters
    known = (rows < N)[:, None] & (clusters < A)[None, :]
    alpha = tl.load(alphas + place, mask=known, other=0.0)
    tl.store(of_phi + clip * K + clusters, tl.sum(alpha * dw, axis=0), mask=clusters < K)
    share = alpha * tl.load(phi + clusters, mask=clusters < K, other=0.0) * dw
    tl.store(dl + place, share - alpha * tl.sum(share, axis=1)[:, None], mask=known)


@triton.jit
def _grad_faces_and_weights(
    x,
    mask,
    weight,
    phi,
    alphas,
    dl,
    dv,
    dx,
    of_weight,
    of_centres,
    clips,
    OF_FACES: tl.constexpr,
    MASKED: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    A: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CLUSTERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    group, groups = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    rows, clusters = tl.arange(0, ROWS), tl.arange(0, CLUSTERS)
    d = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    assigned, kept = (clusters < A)[:, None] & (d < D), (clusters < K)[:, None] & (d < D)
    a = tl.load(weight + clusters[:, None] * D + d, mask=assigned, other=0.0)
    attention = tl.load(phi + clusters, mask=clusters < K, other=0.0)
    d_weight = tl.zeros((CLUSTERS, COLUMNS), tl.float32)
    d_centres = tl.zeros((CLUSTERS, COLUMNS), tl.float32)
    for turn in range(tl.cdiv(clips - tl.program_id(1), groups)):
        clip = group + turn * groups
        seen = _seen(mask, clip, rows, N, MASKED)
        place = (clip * N + rows[:, None]) * A + clusters
        known = (rows < N)[:, None] & (clusters < A)[None, :]
        w = tl.load(alphas + place, mask=known, other=0.0) * attention
        logits = tl.load(dl + place, mask=known, other=0.0)
        block = tl.load(x + (clip * N + rows[:, None]) * D + d, mask=seen[:, None] & (d < D), other=0.0)
        up = tl.load(dv + (clip * K + clusters[:, None]) * D + d, mask=kept, other=0.0)
        d_weight += _product(tl.trans(logits), block, PRODUCT)
        d_centres -= tl.sum(w, axis=0)[:, None] * up
        if OF_FACES:
            faces = _product(w, up, PRODUCT) + _product(logits, a, PRODUCT)
            tl.store(dx + (clip * N + rows[:, None]) * D + d, faces, mask=(rows < N)[:, None] & (d < D))
    tl.store(of_weight + (group * A + clusters[:, None]) * D + d, d_weight, mask=assigned)
    tl.store(of_centres + (group * K + clusters[:, None]) * D + d, d_centres, mask=kept)
