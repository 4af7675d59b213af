"""The residual sums of Eq. 1 to 3, Σ_i φ_k α_k(x_i) (x_i − c_k), in two forms that give the same numbers.

Both compute Σ_i w_ik x_i − (Σ_i w_ik) c_k with w = φ α, so that (B, N, K, D) is never materialised.

*Plain*: two matrix products, differentiated by autograd. This is the reference, and the form that every training in the
book uses. *Chunked*: if the faces need a gradient, because the network that computes them is trained as well, a CPU
processes chunks of clips that fit the cache, in the backward pass too, because large intermediate tensors cost more
than the products. ``benchmarks/aggregation_kernels.py`` measures both.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

CHUNK = 2**18  # numbers of faces in a chunk: 1 MiB in float32
FEWEST = 3  # chunks in a batch, from which on chunks are faster


def hide(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
    """The faces, with zeros for masked ones. (Multiplying by 0 would keep a NaN.)"""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def soft_assignment(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    kept: int,
) -> Float[Tensor, "B N {kept}"]:
    """α_k(x_i) of Eq. 2: a softmax over A clusters, of which the first ``kept`` are returned; 0 for masked faces."""
    alpha = F.linear(hide(x, mask), weight, bias).softmax(dim=-1)[..., :kept]
    return alpha if mask is None else alpha * mask[..., None]


def residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, "B K D"]:
    """Σ_i φ_k α_k(x_i) (x_i − c_k), where α are the first K of a softmax over A clusters; φ is 1 if it is None.

    Chunked if that is faster (see above); otherwise exactly ``plain_residual_sums``.
    """
    if _chunks_pay(x, centres):
        return chunked_residual_sums(x, mask, weight, bias, centres, phi)
    return plain_residual_sums(x, mask, weight, bias, centres, phi)


def plain_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` as two matrix products over the whole batch, differentiated by autograd: the reference form."""
    alpha = soft_assignment(x, mask, weight, bias, len(centres))
    v = torch.bmm(alpha.transpose(1, 2).to(x.dtype), hide(x, mask))  # (B, K, D)
    v = v.to(centres.dtype) - alpha.sum(dim=1)[..., None] * centres
    return v if phi is None else v * phi[:, None]


def chunked_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` chunk by chunk, with a hand-written gradient. Second derivatives use the plain form.

    Under autocast its matrix products are autocast too; the softmax and the sums keep the precision of the centres.
    """
    product = x.dtype
    if torch.is_autocast_enabled(x.device.type) and product != torch.float64:  # autocast leaves float64 alone
        product = torch.get_autocast_dtype(x.device.type)
    phi = centres.new_ones(len(centres)) if phi is None else phi
    with torch.autocast(x.device.type, enabled=False):
        return _ResidualSums.apply(x, mask, weight, bias, centres, phi, product)[0]


def _chunks_pay(x: Float[Tensor, "B N D"], centres: Float[Tensor, "K D"]) -> bool:
    """Whether chunks are faster. In training on given faces they are not, since the faces need no gradient."""
    if not (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False  # a compiler or exporter needs plain operations for any B
    return x.device.type == "cpu" and x.dtype == centres.dtype and x.numel() >= FEWEST * CHUNK


class _ResidualSums(torch.autograd.Function):
    """Returns the sums and, for backward, α of all A clusters as (A, B, N): a softmax over the first axis is faster."""

    @staticmethod
    def forward(
        x: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, centres: Tensor, phi: Tensor, product: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        v = centres.new_empty(len(x), *centres.shape)
        alphas = centres.new_empty(len(weight), *x.shape[:2])
        a, b = weight.to(product), bias.to(product)[:, None]
        for rows in _chunks(x):
            faces, alpha, sums = _faces(x, mask, rows, product), alphas[:, rows], v[rows]
            logits = torch.addmm(b, a, faces.flatten(0, 1).T).to(alpha.dtype)  # (A, b·N)
            # By hand, because the rounding of softmax() depends on the number of threads.
            powers = logits.sub_(logits.amax(dim=0)).exp_()
            torch.div(powers.view_as(alpha), powers.sum(dim=0).view(alpha.shape[1:]), out=alpha)
            if mask is not None:
                alpha *= mask[rows]
            w = (alpha[: len(centres)] * phi[:, None, None]).transpose(0, 1)  # (b, K, N)
            _product_into(sums, w, faces)
            sums.addcmul_(w.sum(dim=-1, keepdim=True), centres, value=-1)
        return v, alphas

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, mask, weight, bias, centres, phi, ctx.product = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mask, weight, bias, centres, phi, output[1])

    @staticmethod
    def backward(ctx: Any, dv: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if dv is None:
            return (None,) * 7
        x, mask, weight, bias, centres, phi, alphas = ctx.saved_tensors
        if not torch.is_grad_enabled():
            with torch.autocast(x.device.type, enabled=False):
                return _gradients(x, mask, weight, centres, phi, alphas, dv, ctx.product, ctx.needs_input_grad[0])
        with _autocast_to(ctx.product, x):  # a second derivative is needed

            def plain(x: Tensor, *parameters: Tensor) -> Tensor:
                return plain_residual_sums(x, mask, *parameters)

            dx, *rest = torch.func.vjp(plain, x, weight, bias, centres, phi)[1](dv)
        return dx, None, *rest, None

    @staticmethod
    def vmap(info: Any, dims: tuple, *arguments: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        """vmap rule: falls back to the autograd form."""
        *tensors, product = arguments
        with _autocast_to(product, tensors[0]):
            v = torch.vmap(plain_residual_sums, in_dims=dims[:-1])(*tensors)
        return (v, v.new_empty(0)), (0, None)


def _gradients(
    x: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    centres: Tensor,
    phi: Tensor,
    alphas: Tensor,
    dv: Tensor,
    product: torch.dtype,
    of_faces: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of all arguments of ``_ResidualSums``. A masked face has α = 0, so its gradient is zero."""
    dx = torch.empty_like(x) if of_faces else None
    d_weight, d_centres, d_phi = torch.zeros_like(weight), torch.zeros_like(centres), torch.zeros_like(phi)
    d_bias = weight.new_zeros(len(weight))
    a, kept = weight.to(product), len(centres)
    for rows in _chunks(x):
        faces, alpha, upstream = _faces(x, mask, rows, product), alphas[:, rows], dv[rows]
        w, up = alpha[:kept] * phi[:, None, None], upstream.to(product)
        # V_k = Σ_i w_ik (x_i − c_k), w = φ α
        dw = torch.bmm(up, faces.transpose(1, 2)).to(w.dtype) - (upstream * centres).sum(dim=-1, keepdim=True)
        dw = dw.transpose(0, 1)  # (K, b, N)
        d_centres -= (w.sum(dim=-1).T[..., None] * upstream).sum(dim=0)
        d_phi += (alpha[:kept] * dw).sum(dim=(1, 2))
        # α = softmax(l), l = a x + b
        share = w * dw
        dl = alpha * -share.sum(dim=0)
        dl[:kept] += share
        flat = dl.flatten(1)  # (A, b·N)
        d_bias += flat.sum(dim=1)
        flat = flat.to(product)
        d_weight += flat @ faces.flatten(0, 1)
        if dx is not None:
            part = dx[rows] if dx.dtype == product else torch.empty_like(faces)
            torch.bmm(w.permute(1, 2, 0).to(product), up, out=part)
            part.flatten(0, 1).addmm_(flat.T, a)
            if part.dtype != dx.dtype:
                dx[rows] = part
    return dx, None, d_weight, d_bias, d_centres, d_phi, None


def _product_into(target: Tensor, first: Tensor, second: Tensor) -> None:
    """Writes the batched product, in the precision of ``second``; without a copy if the target has it too."""
    if target.dtype == second.dtype:
        torch.bmm(first, second, out=target)
    else:
        target.copy_(torch.bmm(first.to(second.dtype), second))


def _chunks(x: Float[Tensor, "B N D"]) -> Iterator[slice]:
    """Equal slices of clips that fit the cache. They depend on the shape only, so that sums are reproducible."""
    clips, faces, dim = x.shape
    step = max(1, math.ceil(clips / max(1, math.ceil(clips * faces * dim / CHUNK))))
    return (slice(begin, begin + step) for begin in range(0, clips, step))


def _faces(x: Tensor, mask: Tensor | None, rows: slice, dtype: torch.dtype) -> Tensor:
    return hide(x[rows], None if mask is None else mask[rows]).to(dtype)


def _autocast_to(product: torch.dtype, x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, dtype=product, enabled=product != x.dtype)
