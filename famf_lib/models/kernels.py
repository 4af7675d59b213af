"""The residual sums of Eq. 1 to 3, V_k = Σ_i φ_k α_k(x_i) (x_i − c_k), plain or normalised as in published NetVLAD.

All forms compute Σ_i w_ik x_i − (Σ_i w_ik) c_k with w = φ α, so that (B, N, K, D) is never materialised. As published,
each V_k is scaled to unit norm, before φ because that would cancel it, and then the K of a clip together.

*Plain*: two matrix products, differentiated by autograd. This is the reference. *Chunked*: a CPU processes chunks of
clips that fit the cache, with a hand-written gradient, because large intermediate tensors cost more than the products.
It does so if the sums are normalised, since the normalisations then happen in the cache as well, or if the faces need a
gradient, because the network that computes them is trained too. ``benchmarks/aggregation_kernels.py`` measures both.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Normalisation = Literal["none", "cluster", "whole", "cluster+whole"]
CHUNK = 2**18  # numbers of faces in a chunk: 1 MiB in float32
FEWEST = 3  # chunks in a batch, from which on chunks are faster
FEWEST_NORMALISED = 1  # the same if the sums are normalised
SHORT = 1e-12  # vectors are divided by at least this norm, as by ``F.normalize``
FAINT = 1e-20  # the least φ of normalised chunks: the gradient of φ_k needs the direction of V_k, which 0 V_k has lost


def hide(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
    """The faces, with zeros for masked ones. (Multiplying by 0 would keep a NaN.)"""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def normalise(v: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """Vectors scaled to unit norm; zeros stay zeros, with a finite gradient in half precision too.

    In full precision this is ``F.normalize``, which divides by at least 1e-12: in float16 that is 0.
    """
    if v.dtype in (torch.float32, torch.float64):
        return F.normalize(v, dim=-1)
    wide = v.float()  # the squares, too, leave the range of float16
    norm = wide.norm(dim=-1, keepdim=True)
    return (wide / norm.masked_fill(norm == 0, 1)).to(v.dtype)


def normalise_whole(v: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """The K vectors of a clip scaled together to unit norm."""
    return normalise(v.flatten(1)).view_as(v)


def soft_assignment(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    kept: int,
) -> Float[Tensor, "B N {kept}"]:
    """α_k(x_i) of Eq. 2: a softmax over A clusters, of which the first ``kept`` are returned; 0 for masked faces.

    In ``x`` masked faces are zeros (see ``hide``).
    """
    alpha = F.linear(x, weight, bias).softmax(dim=-1)[..., :kept]
    return alpha if mask is None else alpha * mask[..., None]


def residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
    normalisation: Normalisation = "none",
) -> Float[Tensor, "B K D"]:
    """V_k = Σ_i α_k(x_i) (x_i − c_k), normalised, times φ_k; α are the first K of a softmax over A clusters.

    With ``cluster`` each V_k is scaled to unit norm, before φ, which would be cancelled; with ``whole`` the K of a clip
    are scaled together, after it. φ is 1 if it is None.

    Chunked if that is faster (see above); otherwise exactly ``plain_residual_sums``.
    """
    form = chunked_residual_sums if _chunks_pay(x, centres, normalisation) else plain_residual_sums
    return form(x, mask, weight, bias, centres, phi, normalisation)


def plain_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
    normalisation: Normalisation = "none",
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` as two matrix products over the whole batch, differentiated by autograd: the reference form."""
    x = hide(x.to(_precision(x)), mask)  # once for both products
    alpha = soft_assignment(x, mask, weight, bias, len(centres))
    v = torch.bmm(alpha.transpose(1, 2).to(x.dtype), x)  # (B, K, D)
    v = v.to(centres.dtype) - alpha.sum(dim=1)[..., None] * centres
    v = normalise(v) if normalisation.startswith("cluster") else v
    v = v if phi is None else v * phi[:, None]
    return normalise_whole(v) if normalisation.endswith("whole") else v


def chunked_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None = None,
    normalisation: Normalisation = "none",
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` chunk by chunk, with a hand-written gradient. Second derivatives use the plain form.

    Each V_k is normalised while its chunk is in the cache. Under autocast the matrix products are autocast too; the
    softmax and the sums keep the precision of the centres.
    """
    phi = centres.new_ones(len(centres)) if phi is None else phi
    scaling, product = normalisation if normalisation.startswith("cluster") else "none", _precision(x)
    with torch.autocast(x.device.type, enabled=False):
        v = _Sums.apply(x, mask, weight, bias, centres, phi, product, scaling)[0]
    return normalise_whole(v) if normalisation == "whole" else v


def _precision(x: Tensor) -> torch.dtype:
    """The precision of matrix products with ``x``: its own, or that of autocast, which leaves float64 alone."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:  # meta tensors have no autocast
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _chunks_pay(x: Float[Tensor, "B N D"], centres: Float[Tensor, "K D"], normalisation: Normalisation) -> bool:
    """Whether chunks are faster, and each V_k is normalised or the faces need a gradient.

    Otherwise they take half the time as well, but a training step gains nothing that can be told from noise, and runs
    with the paper's setting stay what they were, bit by bit.
    """
    if x.device.type != "cpu" or x.dtype != centres.dtype or torch.compiler.is_compiling():
        return False  # a compiler or exporter needs plain operations for any B
    if normalisation.startswith("cluster"):  # half precision needs the care of ``normalise``
        return x.dtype in (torch.float32, torch.float64) and x.numel() >= FEWEST_NORMALISED * CHUNK
    return x.requires_grad and torch.is_grad_enabled() and x.numel() >= FEWEST * CHUNK


class _Sums(torch.autograd.Function):
    """Returns the sums and, for backward, α of all A clusters as (A, B, N) and |V| (B, K).

    A softmax over the first axis is faster. ``scaling`` is "none", "cluster" or "cluster+whole".
    """

    @staticmethod
    def forward(
        x: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        centres: Tensor,
        phi: Tensor,
        product: torch.dtype,
        scaling: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        v, kept = centres.new_empty(len(x), *centres.shape), len(centres)
        alphas = centres.new_empty(len(weight), *x.shape[:2])
        norms = centres.new_empty(len(x) if scaling != "none" else 0, kept)
        a, b = weight.to(product), bias.to(product)[:, None]
        for rows in _chunks(x):
            faces, alpha, sums = _faces(x, mask, rows, product), alphas[:, rows], v[rows]
            logits = torch.addmm(b, a, faces.flatten(0, 1).T).to(alpha.dtype)  # (A, b·N)
            # By hand, because the rounding of softmax() depends on the number of threads.
            powers = logits.sub_(logits.amax(dim=0)).exp_()
            torch.div(powers.view_as(alpha), powers.sum(dim=0).view(alpha.shape[1:]), out=alpha)
            if mask is not None:
                alpha *= mask[rows]
            w = (alpha[:kept] * phi[:, None, None] if scaling == "none" else alpha[:kept]).transpose(0, 1)  # (b, K, N)
            _product_into(sums, w, faces)
            sums.addcmul_(w.sum(dim=-1, keepdim=True), centres, value=-1)
            if scaling != "none":
                norm = torch.linalg.vector_norm(sums, dim=-1, out=norms[rows])
                r, _, m = _scales(norm, phi, scaling)
                sums *= (_visible(phi) * r / m)[..., None]
        return v, alphas, norms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, mask, weight, bias, centres, phi, ctx.product, ctx.scaling = inputs
        v, alphas, norms = output
        ctx.mark_non_differentiable(alphas, norms)
        ctx.set_materialize_grads(False)
        v = None if ctx.scaling == "none" else v
        ctx.save_for_backward(x, mask, weight, bias, centres, phi, v, alphas, norms)

    @staticmethod
    def backward(ctx: Any, dv: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if dv is None:
            return (None,) * 8
        x, mask, weight, bias, centres, phi, v, alphas, norms = ctx.saved_tensors
        if not torch.is_grad_enabled():
            with torch.autocast(x.device.type, enabled=False):
                return _gradients(ctx, dv)
        with _autocast_to(ctx.product, x):  # a second derivative is needed

            def plain(x: Tensor, *parameters: Tensor) -> Tensor:
                return plain_residual_sums(x, mask, *parameters, ctx.scaling)

            dx, *rest = torch.func.vjp(plain, x, weight, bias, centres, phi)[1](dv)
        return dx, None, *rest, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, *arguments: Any) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, None, None]]:
        """vmap rule: falls back to the autograd form."""
        *tensors, product, scaling = arguments
        with _autocast_to(product, tensors[0]):
            v = torch.vmap(lambda *given: plain_residual_sums(*given, scaling), in_dims=dims[:-2])(*tensors)
        return (v, v.new_empty(0), v.new_empty(0)), (0, None, None)


def _scales(
    norms: Float[Tensor, "b K"], phi: Float[Tensor, " K"], scaling: str
) -> tuple[Float[Tensor, "b K"], Float[Tensor, "b K"], Float[Tensor, "b 1"]]:
    """r_k = 1 / |V_k|; the length of φ_k r_k V_k with the sign of φ_k; and m, by which the K of a clip are divided."""
    r = norms.clamp_min(SHORT).reciprocal()
    lengths = _visible(phi) * (norms * r)
    if scaling == "cluster":
        return r, lengths, torch.ones_like(norms[:, :1])
    return r, lengths, torch.linalg.vector_norm(lengths, dim=-1, keepdim=True).clamp_min(SHORT)


def _visible(phi: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """φ, but at least ``FAINT`` in size."""
    return phi.abs().clamp_min(FAINT).copysign(phi)


def _of_sums(
    t: Float[Tensor, "b K D"],
    upstream: Float[Tensor, "b K D"],
    norms: Float[Tensor, "b K"],
    phi: Float[Tensor, " K"],
    scaling: str,
) -> tuple[Float[Tensor, "b K D"], Float[Tensor, " K"]]:
    """The gradients of V_k and φ from that of the tokens t_k = φ_k r_k V_k / m, and those tokens."""
    r, lengths, m = _scales(norms, phi, scaling)
    phi = _visible(phi)
    along = (upstream * t).sum(dim=-1)  # (b, K)
    whole = along.sum(dim=-1, keepdim=True) * (m > SHORT) * (scaling == "cluster+whole")  # through m
    d_phi = ((along - (lengths / m).square() * whole) / phi).sum(dim=0)
    factor = phi * r / m
    # What is along V_k does not change its direction; a V_k too short to be scaled to unit norm only changes m.
    removed = torch.where(norms >= SHORT, r * m / phi * along, factor * whole)
    return (upstream * factor[..., None]).addcmul_(t, removed[..., None], value=-1), d_phi


def _gradients(ctx: Any, dv: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of all arguments of ``_Sums``. A masked face has α = 0, so its gradient is zero."""
    x, mask, weight, _, centres, phi, v, alphas, norms = ctx.saved_tensors
    product, scaling = ctx.product, ctx.scaling
    dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
    d_weight, d_centres, d_phi = torch.zeros_like(weight), torch.zeros_like(centres), torch.zeros_like(phi)
    d_bias = weight.new_zeros(len(weight))
    a, kept = weight.to(product), len(centres)
    for rows in _chunks(x):
        faces, alpha, upstream = _faces(x, mask, rows, product), alphas[:, rows], dv[rows]
        w = alpha[:kept]
        if scaling == "none":
            w = w * phi[:, None, None]
        else:
            upstream, of_phi = _of_sums(v[rows], upstream, norms[rows], phi, scaling)
            d_phi += of_phi
        up = upstream.to(product)
        # V_k = Σ_i w_ik (x_i − c_k)
        by_cluster = upstream.transpose(0, 1)  # (K, b, D)
        dw = torch.bmm(up, faces.transpose(1, 2)).to(w.dtype) - (upstream * centres).sum(dim=-1, keepdim=True)
        dw = dw.transpose(0, 1)  # (K, b, N)
        d_centres -= torch.bmm(w.sum(dim=-1)[:, None], by_cluster)[:, 0]
        if scaling == "none":
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
    return dx, None, d_weight, d_bias, d_centres, d_phi, None, None


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
