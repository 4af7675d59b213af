"""Frame aggregation: the faces of a clip (B, N, D), any number of them, become K tokens (B, K, D').

Every aggregation sums residuals to K cluster centres, weighted by how much each face belongs to each cluster::

    V_k = Σ_i w_ik (x_i − c_k) = (wᵀX)_k − (Σ_i w_ik) c_k

The right-hand side is what is computed: (B, N, K, D) is never materialised. A mask (B, N) marks the faces that
count; what lies under it, NaN included, changes nothing.

Where the faces want a gradient, because the network before them is trained too, NetVLAD and its kin go through a batch
on a CPU in chunks of clips that stay in the cache, backward too: large tensors in between cost more than the products.
``benchmarks/aggregation_kernels.py`` measures what that gives. Faces that are given, as in all trainings of the book,
are left to autograd, and so is NeXtVLAD, which spends its time on its own layers.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

CHUNK = 2**18  # numbers of faces in a chunk: 1 MiB in float32
FEWEST = 3  # chunks in a batch, for them to be faster than the whole

Count = Annotated[int, Field(ge=1)]
Normalisation = Literal["none", "cluster", "whole", "cluster+whole"]
Centres = Literal["kmeans", "random"]
Attention = Literal["sigmoid", "softmax", "none"]


class Aggregation(nn.Module):
    """What all aggregations share. A subclass defines ``tokens`` (K), ``width`` (D') and ``forward``.

    Args:
        dim: D, the length of a face vector.
    """

    tokens: int
    width: int

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K W"]:
        """K tokens of length D' a clip. A clip whose mask is empty, or of N = 0 faces, gives zeros."""
        raise NotImplementedError

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """How much of each face enters the tokens; 0 where the mask is off. The numbers over the faces in Fig. 3."""
        raise NotImplementedError

    def initialise(self, faces: Float[Tensor, "S D"], seed: int) -> None:
        """Sets what is best set from data, given a sample of training faces. By default nothing."""


def normalise(v: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """Vectors scaled to unit norm; zeros stay zeros, with a finite gradient in half precision too.

    In full precision this is ``F.normalize``, which divides by 1e-12 at the least: in float16 that is 0.
    """
    if v.dtype in (torch.float32, torch.float64):
        return F.normalize(v, dim=-1)
    wide = v.float()  # squares, too, leave the range of float16
    norm = wide.norm(dim=-1, keepdim=True)
    return (wide / norm.masked_fill(norm == 0, 1)).to(v.dtype)


def _hide(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
    # Multiplying by 0 would keep a NaN.
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def _assigned(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    kept: int,
) -> Float[Tensor, "B N {kept}"]:
    alpha = F.linear(_hide(x, mask), weight, bias).softmax(dim=-1)[..., :kept]
    return alpha if mask is None else alpha * mask[..., None]


def residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None,
) -> Float[Tensor, "B K D"]:
    """Σ_i φ_k α_k(x_i) (x_i − c_k), where α are the first K of a softmax over A clusters; φ = 1 where there is none.

    In chunks where that is faster, see above; else ``plain_residual_sums``, bit by bit.
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
    phi: Float[Tensor, " K"] | None,
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` as two matrix products over the whole batch, differentiated by autograd: the reference."""
    alpha = _assigned(x, mask, weight, bias, len(centres))
    v = torch.bmm(alpha.transpose(1, 2).to(x.dtype), _hide(x, mask))  # (B, K, D)
    v = v.to(centres.dtype) - alpha.sum(dim=1)[..., None] * centres
    return v if phi is None else v * phi[:, None]


def chunked_residual_sums(
    x: Float[Tensor, "B N D"],
    mask: Bool[Tensor, "B N"] | None,
    weight: Float[Tensor, "A D"],
    bias: Float[Tensor, " A"],
    centres: Float[Tensor, "K D"],
    phi: Float[Tensor, " K"] | None,
) -> Float[Tensor, "B K D"]:
    """``residual_sums`` chunk by chunk, with a gradient written by hand. A second derivative is that of the plain form.

    Where matrix products are autocast, those here are; the softmax and the sums keep the precision of the centres.
    """
    product = x.dtype
    if torch.is_autocast_enabled(x.device.type) and product != torch.float64:  # which no autocast touches
        product = torch.get_autocast_dtype(x.device.type)
    phi = centres.new_ones(len(centres)) if phi is None else phi
    with torch.autocast(x.device.type, enabled=False):
        return _ResidualSums.apply(x, mask, weight, bias, centres, phi, product)[0]


def _chunks_pay(x: Float[Tensor, "B N D"], centres: Float[Tensor, "K D"]) -> bool:
    """Whether chunks are the faster form. They are not in training, which has no use for the gradient of the faces."""
    if not (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False  # a compiler and an exporter want plain operations, for any B
    return x.device.type == "cpu" and x.dtype == centres.dtype and x.numel() >= FEWEST * CHUNK


class _ResidualSums(torch.autograd.Function):
    """Gives α of all A clusters as well, for backward, as (A, B, N): a softmax over rows is faster than within them."""

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
            powers = logits.sub_(logits.amax(dim=0)).exp_()  # softmax itself rounds otherwise with other threads
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
        with _autocast_to(ctx.product, x):  # a second derivative will be asked for

            def plain(x: Tensor, *parameters: Tensor) -> Tensor:
                return plain_residual_sums(x, mask, *parameters)

            dx, *rest = torch.func.vjp(plain, x, weight, bias, centres, phi)[1](dv)
        return dx, None, *rest, None

    @staticmethod
    def vmap(info: Any, dims: tuple, *arguments: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        """For who batches models: over the operations of the plain form, differentiable as they are."""
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
    """Of all arguments of ``_ResidualSums``. A face that is hidden has α = 0, and that makes all of its own zero."""
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
    """The batched product, in the precision of ``second``; without a copy where that is the target's."""
    if target.dtype == second.dtype:
        torch.bmm(first, second, out=target)
    else:
        target.copy_(torch.bmm(first.to(second.dtype), second))


def _chunks(x: Float[Tensor, "B N D"]) -> Iterator[slice]:
    """Of the clips, equal ones that fit the cache. Only the shape decides, so that the sums are always the same."""
    clips, faces, dim = x.shape
    step = max(1, math.ceil(clips / max(1, math.ceil(clips * faces * dim / CHUNK))))
    return (slice(begin, begin + step) for begin in range(0, clips, step))


def _faces(x: Tensor, mask: Tensor | None, rows: slice, dtype: torch.dtype) -> Tensor:
    return _hide(x[rows], None if mask is None else mask[rows]).to(dtype)


def _autocast_to(product: torch.dtype, x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, dtype=product, enabled=product != x.dtype)


class MeanPooling(Aggregation):
    """The mean of a clip's faces, as a single token: the baseline that the paper leaves out."""

    tokens = 1

    def __init__(self, dim: int):
        super().__init__(dim)
        self.width = dim

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        if mask is None:
            return x.new_full(x.shape[:2], 1 / max(x.shape[1], 1))
        return mask.to(x.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B 1 D"]:
        return torch.bmm(self.face_weights(x, mask)[:, None].to(x.dtype), _hide(x, mask))


class NetVLAD(Aggregation):
    """NetVLAD (Arandjelović et al. 2016), Eq. 1 and 2 of the paper.

    Args:
        dim: D.
        clusters: K.
        normalisation: none is Eq. 1 as printed; cluster scales each V_k to unit norm, whole the K of them together;
            cluster+whole does one after the other, as NetVLAD was published.
        centres: kmeans starts a_k, b_k and c_k from the training faces, as published; random does not look at them.
    """

    def __init__(
        self, dim: int, clusters: Count = 8, normalisation: Normalisation = "none", centres: Centres = "kmeans"
    ):
        super().__init__(dim)
        self.tokens, self.width = _positive(clusters, "clusters"), dim
        self.normalisation, self.start = normalisation, centres
        self.assignment = nn.Linear(dim, self.assigned())  # a_k and b_k
        self.centres = nn.Parameter(torch.randn(clusters, dim) / math.sqrt(dim))  # c_k

    def assigned(self) -> int:
        """How many clusters compete in the softmax."""
        return self.tokens

    def assign(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N K"]:
        """α_k(x_i) of Eq. 2 for the clusters that are kept; 0 for a face that the mask hides."""
        return _assigned(x, mask, self.assignment.weight, self.assignment.bias, self.tokens)

    def cluster_attention(self) -> Float[Tensor, " K"] | None:
        """φ(c_k). None, where clusters have no weight of their own, stands for 1."""
        return None

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K D"]:
        phi, by_cluster = self.cluster_attention(), self.normalisation.startswith("cluster")
        within = None if by_cluster else phi  # scaling a weight of K numbers is cheaper than scaling a token of D
        v = residual_sums(x, mask, self.assignment.weight, self.assignment.bias, self.centres, within)
        if by_cluster:
            v = normalise(v)
            v = v if phi is None else v * phi[:, None]  # behind the scaling of each cluster, which would cancel it
        if self.normalisation.endswith("whole"):
            v = normalise(v.flatten(1)).view_as(v)
        return v

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """Σ_k α_k(x_i) φ(c_k), over the clusters that are kept: what Eq. 3 gives face i to say."""
        alpha, phi = self.assign(x, mask), self.cluster_attention()
        return alpha.sum(dim=-1) if phi is None else alpha @ phi.to(alpha.dtype)

    @torch.no_grad()
    def initialise(self, faces: Float[Tensor, "S D"], seed: int) -> None:
        """Centres by k-means; a_k = 2s c_k and b_k = −s|c_k|², so that α falls with the squared distance to c_k.

        The sharpness s makes the nearest cluster on average 100 times as heavy as the second (NetVLAD, Sec. 3.1).
        """
        if self.start == "random":
            return
        from sklearn.cluster import KMeans  # a second to import, and needed once a training

        sample = faces.float().cpu()
        if len(sample) < self.assigned():
            raise ValueError(
                f"clusters: {self.assigned()} of them from {len(sample)} training faces, expected more faces"
            )
        found = KMeans(self.assigned(), n_init=1, random_state=seed).fit(sample.numpy())
        centres = torch.from_numpy(found.cluster_centers_).float()
        nearest = torch.cdist(sample, centres).square().sort(dim=1).values
        gap = float((nearest[:, 1] - nearest[:, 0]).mean()) if len(centres) > 1 else 1.0
        sharpness = math.log(100) / max(gap, 1e-6)
        self.assignment.weight.copy_(2 * sharpness * centres)
        self.assignment.bias.copy_(-sharpness * centres.square().sum(dim=1))
        self.centres.copy_(centres[: self.tokens])


class GhostVLAD(NetVLAD):
    """GhostVLAD (Zhong et al. 2018): G more clusters take part in the softmax and are dropped from the output.

    Args:
        ghosts: G. What a ghost cluster attracts is lost to the others: meant for poor faces.
    """

    def __init__(
        self,
        dim: int,
        clusters: Count = 8,
        ghosts: Count = 1,
        normalisation: Normalisation = "none",
        centres: Centres = "kmeans",
    ):
        self.ghosts = _positive(ghosts, "ghosts")
        super().__init__(dim, clusters, normalisation, centres)

    def assigned(self) -> int:
        return self.tokens + self.ghosts


class AttentionVLAD(NetVLAD):
    """AttentionVLAD, Eq. 3 and 4: NetVLAD with a weight φ(c_k) a cluster from a fully-connected layer on its centre.

    Args:
        attention: what follows that layer. The paper does not say; sigmoid gives weights in 0..1 as in its Fig. 3.
    """

    def __init__(
        self,
        dim: int,
        clusters: Count = 8,
        attention: Attention = "sigmoid",
        normalisation: Normalisation = "none",
        centres: Centres = "kmeans",
    ):
        super().__init__(dim, clusters, normalisation, centres)
        self.attention = attention
        self.score = nn.Linear(dim, 1)

    def cluster_attention(self) -> Float[Tensor, " K"]:
        score = self.score(self.centres).squeeze(-1).to(self.centres.dtype)
        if self.attention == "sigmoid":
            return score.sigmoid()
        return score.softmax(dim=0) if self.attention == "softmax" else score


class NeXtVLAD(Aggregation):
    """NeXtVLAD (Lin et al. 2018): faces are expanded to λD, cut into G groups of λD/G, and each group is aggregated.

    A sigmoid attention weighs each group of each face; the groups share one set of K centres and are summed.

    Args:
        dim: D.
        clusters: K.
        expansion: λ.
        groups: G; λD has to be a multiple of it. By default 8, or as many of these as divide λD.
        normalisation: as for NetVLAD. Published with cluster, followed by batch normalisation.
    """

    def __init__(
        self,
        dim: int,
        clusters: Count = 8,
        expansion: Count = 2,
        groups: Count | None = None,
        normalisation: Normalisation = "none",
    ):
        super().__init__(dim)
        expanded = _positive(expansion, "expansion") * dim
        groups = math.gcd(8, expanded) if groups is None else groups
        if expanded % _positive(groups, "groups"):
            raise ValueError(f"groups: {groups} do not divide the expanded length {expanded}, expected a divisor")
        self.tokens, self.groups, self.normalisation = _positive(clusters, "clusters"), groups, normalisation
        self.width = expanded // groups
        self.expand = nn.Linear(dim, expanded)
        self.attention = nn.Linear(expanded, groups)
        self.assignment = nn.Linear(expanded, groups * clusters)
        self.centres = nn.Parameter(torch.randn(clusters, self.width) / math.sqrt(self.width))

    def assign(
        self, expanded: Float[Tensor, "B N E"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B N {self.groups} {self.tokens}"]:
        """α_gk(x_i) of each group, times the group's attention: the weights of the sum."""
        alpha = self.assignment(expanded).unflatten(-1, (self.groups, self.tokens)).softmax(dim=-1)
        alpha = alpha * self.attention(expanded).sigmoid()[..., None]
        return alpha if mask is None else alpha * mask[..., None, None]

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K W"]:
        expanded = self.expand(_hide(x, mask))  # (B, N, λD)
        alpha = self.assign(expanded, mask).flatten(1, 2)  # (B, N·G, K): a group of a face is one more descriptor
        descriptors = expanded.unflatten(-1, (self.groups, self.width)).flatten(1, 2)  # (B, N·G, λD/G)
        v = torch.bmm(alpha.transpose(1, 2).to(descriptors.dtype), descriptors)
        v = v.to(self.centres.dtype) - alpha.sum(dim=1)[..., None] * self.centres
        if self.normalisation.startswith("cluster"):
            v = normalise(v)
        if self.normalisation.endswith("whole"):
            v = normalise(v.flatten(1)).view_as(v)
        return v

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """The attention of a face, averaged over its groups (the softmax over clusters adds up to 1)."""
        return self.assign(self.expand(_hide(x, mask)), mask).sum(dim=-1).mean(dim=-1)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name}: {value}, expected 1 or more")
    return value


AGGREGATIONS: dict[str, type[Aggregation]] = {
    "mean": MeanPooling,
    "netvlad": NetVLAD,
    "ghostvlad": GhostVLAD,
    "nextvlad": NeXtVLAD,
    "attentionvlad": AttentionVLAD,
}
"""What a configuration may name. An aggregation of your own takes part once it stands here."""
