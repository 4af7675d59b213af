"""Aggregations from before and after the paper. Each makes one token of a clip: a weighted sum of its faces.

The library is not changed: ``famf_today.plugin`` adds them to its table of modules.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from famf_lib.models.aggregation import Aggregation, Count, normalise
from famf_lib.models.kernels import hide

Power = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class WeightedSum(Aggregation):
    """The base class: Σ_i w_i x_i. A subclass gives the weights of the faces, (B, N, 1), or (B, N, D) per dimension.

    ``over_faces`` is a softmax over the faces of a clip, 0 for masked ones.
    """

    tokens = 1

    def __init__(self, dim: int):
        super().__init__(dim)
        self.width = dim

    def weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N _"]:
        raise NotImplementedError

    def over_faces(self, logits: Float[Tensor, "B N W"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N W"]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask is None:
            return logits.softmax(dim=1)
        hidden = ~mask[..., None]
        return logits.masked_fill(hidden, torch.finfo(logits.dtype).min).softmax(dim=1).masked_fill(hidden, 0.0)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B 1 D"]:
        x = hide(x, mask)
        return (self.weights(x, mask) * x).sum(dim=1, keepdim=True)

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        return self.weights(hide(x, mask), mask).mean(dim=2)


class NormMean(WeightedSum):
    """Σ_i |x_i|^p x̂_i / Σ_i |x_i|^p, where x̂_i = x_i / |x_i|: directions, weighted by a power of the norm.

    A recogniser trained with a softmax gives poor faces short vectors (Ranjan et al. 2017), so the norm is a measure of
    quality that needs no training. With p = 1 the direction is that of the plain mean of the raw vectors.

    Args:
        power: p.
    """

    def __init__(self, dim: int, power: Power = 3.0):
        super().__init__(dim)
        self.power = power

    def weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N 1"]:
        weight = x.norm(dim=2, keepdim=True) ** self.power
        weight = weight if mask is None else weight.masked_fill(~mask[..., None], 0.0)
        return weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-12)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B 1 D"]:
        x = hide(x, mask)
        return (self.weights(x, mask) * normalise(x)).sum(dim=1, keepdim=True)


class NAN(WeightedSum):
    """Neural Aggregation Network (Yang et al. 2017), two attention blocks: the first one's sum asks the second.

    a⁰ = softmax_i(q⁰·x_i), r⁰ = Σ_i a⁰_i x_i, q¹ = tanh(W r⁰ + b), a¹ = softmax_i(q¹·x_i); the token is Σ_i a¹_i x_i.
    q⁰ starts at 0, so that the first block starts as the mean.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.query = nn.Parameter(torch.zeros(dim))
        self.second = nn.Linear(dim, dim)

    def weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N 1"]:
        first = self.over_faces((x @ self.query)[..., None], mask)
        query = self.second((first * x).sum(dim=1)).tanh()  # (B, D)
        return self.over_faces((x * query[:, None]).sum(dim=2, keepdim=True), mask)


class ComponentQuality(WeightedSum):
    """C-FAN (Gong et al. 2019): every dimension d of a face has a quality of its own, and its own mean over the faces.

    q_i = W x_i + b, w_id = softmax_i(q_id); the token is Σ_i w_id x_id. W and b start at 0: it starts as the mean.
    The publication computes q from a feature map inside the recogniser; here there is only the vector.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.quality = nn.Linear(dim, dim)
        nn.init.zeros_(self.quality.weight)
        nn.init.zeros_(self.quality.bias)

    def weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        return self.over_faces(self.quality(x), mask)


class ClusterAggregate(WeightedSum):
    """The core idea of CAFace (Kim et al. 2022): faces of one style form a cluster, and the clusters are weighted.

    s_i = ReLU(S [x̂_i, log|x_i|]) is a style; a_im = softmax_m(A s_i) assigns it to cluster m, ã_im = a_im / Σ_j a_jm;
    F_m = Σ_i ã_im x_i and S_m = Σ_i ã_im s_i; P = softmax_m(M [F_m, S_m]) per dimension; the token is Σ_m P_m ⊙ F_m.
    The publication takes the style from inside the recogniser and mixes the clusters with an MLP-Mixer.
    """

    def __init__(self, dim: int, clusters: Count = 4, style: Count = 64):
        super().__init__(dim)
        self.style = nn.Linear(dim + 1, style)
        self.assignment = nn.Linear(style, clusters)
        self.merge = nn.Linear(dim + style, dim)

    def weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        norm = x.norm(dim=2, keepdim=True).clamp(min=1e-6)
        style = self.style(torch.cat([x / norm, norm.log()], dim=2)).relu()  # (B, N, S)
        share = self.assignment(style).softmax(dim=2)  # (B, N, M)
        share = share if mask is None else share.masked_fill(~mask[..., None], 0.0)
        share = (share / share.sum(dim=1, keepdim=True).clamp(min=1e-6)).to(x.dtype)
        clusters = torch.bmm(share.transpose(1, 2), torch.cat([x, style.to(x.dtype)], dim=2))  # (B, M, D + S)
        return torch.bmm(share, self.merge(clusters).softmax(dim=1).to(x.dtype))
