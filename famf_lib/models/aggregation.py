"""Frame aggregation: any number of faces of a clip (B, N, D) become K tokens (B, K, D').

The VLAD family sums the residuals of the faces to K cluster centres, weighted by a soft assignment (Eq. 1):
V_k = Σ_i α_k(x_i) (x_i − c_k). ``kernels`` computes such sums. A mask (B, N) marks the faces that count; the values of
masked faces, even NaN, have no effect.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from famf_lib.models.kernels import Normalisation, hide, normalise, normalise_whole, residual_sums, soft_assignment

Count = Annotated[int, Field(ge=1)]
Centres = Literal["kmeans", "random"]
Attention = Literal["sigmoid", "softmax", "none"]


class Aggregation(nn.Module):
    """The base class of all aggregations. A subclass defines ``tokens`` (K), ``width`` (D') and ``forward``.

    Args:
        dim: D, the length of a face vector.
    """

    tokens: int
    width: int

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K W"]:
        """K tokens of length D' per clip. A clip whose mask is empty, or that has N = 0 faces, gives zeros."""
        raise NotImplementedError

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """The weight of each face in the tokens; 0 for masked faces. Fig. 3 prints these numbers above the faces."""
        raise NotImplementedError

    def initialise(self, faces: Float[Tensor, "S D"], seed: int) -> None:
        """Initialises parameters from a sample of training faces. The default does nothing."""


class MeanPooling(Aggregation):
    """The mean of a clip's faces as a single token: a baseline that the paper does not report."""

    tokens = 1

    def __init__(self, dim: int):
        super().__init__(dim)
        self.width = dim

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        if mask is None:
            return x.new_full(x.shape[:2], 1 / max(x.shape[1], 1))
        return mask.to(x.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B 1 D"]:
        return torch.bmm(self.face_weights(x, mask)[:, None].to(x.dtype), hide(x, mask))


class NetVLAD(Aggregation):
    """NetVLAD (Arandjelović et al. 2016), Eq. 1 and 2 of the paper.

    Args:
        dim: D.
        clusters: K.
        normalisation: none is Eq. 1 as printed; cluster scales each V_k to unit norm, whole scales all K together;
            cluster+whole does both in this order, as NetVLAD was published.
        centres: kmeans initialises a_k, b_k and c_k from the training faces, as published; random ignores them.
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
        """α_k(x_i) of Eq. 2 for the K clusters of the output; 0 for masked faces."""
        return soft_assignment(hide(x, mask), mask, self.assignment.weight, self.assignment.bias, self.tokens)

    def cluster_attention(self) -> Float[Tensor, " K"] | None:
        """φ(c_k) of each cluster, or None if all are 1."""
        return None

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K D"]:
        a, b, c = self.assignment.weight, self.assignment.bias, self.centres  # (A, D), (A,), (K, D)
        return residual_sums(x, mask, a, b, c, self.cluster_attention(), self.normalisation)

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """Σ_k α_k(x_i) φ(c_k) over the K clusters of the output: the weight that Eq. 3 gives to face i."""
        alpha, phi = self.assign(x, mask), self.cluster_attention()
        return alpha.sum(dim=-1) if phi is None else alpha @ phi.to(alpha.dtype)

    @torch.no_grad()
    def initialise(self, faces: Float[Tensor, "S D"], seed: int) -> None:
        """Sets the centres by k-means, and a_k = 2s c_k, b_k = −s|c_k|², so that α falls with the squared distance.

        The sharpness s gives the nearest cluster on average 100 times the weight of the second (NetVLAD, Sec. 3.1).
        """
        if self.start == "random":
            return
        from sklearn.cluster import KMeans  # takes a second to import and is needed once per training

        sample = faces.float().cpu()
        if len(sample) < self.assigned():
            raise ValueError(
                f"clusters: {self.assigned()} requested for {len(sample)} training faces, expected more faces"
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
    """GhostVLAD (Zhong et al. 2018): G extra clusters take part in the softmax and are dropped from the output.

    Args:
        ghosts: G; faces assigned to a ghost cluster lose weight in the output. It is meant to attract poor faces.
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
    """AttentionVLAD, Eq. 3 and 4: NetVLAD with a weight φ(c_k) for each cluster, computed from its centre by a linear
    layer.

    Args:
        attention: the activation after that layer. The paper names none; sigmoid gives weights in 0..1, as in Fig. 3.
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
    """NeXtVLAD (Lin et al. 2018): faces are expanded to λD, split into G groups of λD/G, and each group is aggregated.

    A sigmoid attention weights each group of each face; the groups share K centres and are summed.

    Args:
        dim: D.
        clusters: K.
        expansion: λ.
        groups: G, a divisor of λD. The default is the greatest common divisor of 8 and λD.
        normalisation: as for NetVLAD. It was published with cluster.
        batch_norm: whether the assignment logits and the aggregated vector are batch-normalised, as published
            (``cluster_bn`` and ``vlad_bn`` in the authors' code, from which ε is). As there, masked faces enter the
            statistics of the former as zero vectors. The momentum is that of the paper's classifier (Sec. 4.3).
    """

    def __init__(
        self,
        dim: int,
        clusters: Count = 8,
        expansion: Count = 2,
        groups: Count | None = None,
        normalisation: Normalisation = "none",
        batch_norm: bool = False,
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
        self.assignment = nn.Linear(expanded, groups * clusters, bias=not batch_norm)  # batch_norm has its own bias
        self.centres = nn.Parameter(torch.randn(clusters, self.width) / math.sqrt(self.width))
        self.assignment_norm = nn.BatchNorm1d(groups * clusters, eps=1e-3, momentum=0.1) if batch_norm else None
        self.token_norm = nn.BatchNorm1d(clusters * self.width, eps=1e-3, momentum=0.1) if batch_norm else None

    def assign(
        self, expanded: Float[Tensor, "B N E"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B N {self.groups} {self.tokens}"]:
        """α_gk(x_i) of each group times the attention of the group: the weights of the sum."""
        logits = self.assignment(expanded)  # (B, N, G·K)
        if self.assignment_norm is not None:
            logits = self.assignment_norm(logits.flatten(0, 1)).view_as(logits)
        alpha = logits.unflatten(-1, (self.groups, self.tokens)).softmax(dim=-1)
        alpha = alpha * self.attention(expanded).sigmoid()[..., None]
        return alpha if mask is None else alpha * mask[..., None, None]

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K W"]:
        expanded = self.expand(hide(x, mask))  # (B, N, λD)
        alpha = self.assign(expanded, mask).flatten(1, 2)  # (B, N·G, K): each group of a face is one descriptor
        descriptors = expanded.unflatten(-1, (self.groups, self.width)).flatten(1, 2)  # (B, N·G, λD/G)
        v = torch.bmm(alpha.transpose(1, 2).to(descriptors.dtype), descriptors)
        v = v.to(self.centres.dtype) - alpha.sum(dim=1)[..., None] * self.centres
        if self.normalisation.startswith("cluster"):
            v = normalise(v)
        v = normalise_whole(v) if self.normalisation.endswith("whole") else v
        if self.token_norm is not None:
            v = self.token_norm(v.flatten(1)).view_as(v)
            seen = x.new_ones(len(x)) * (x.shape[1] > 0) if mask is None else mask.any(dim=1)
            v = v * seen[:, None, None]  # the normalisation's bias is not a face
        return v

    def face_weights(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """The attention of a face, averaged over its groups (the softmax over clusters sums to 1)."""
        return self.assign(self.expand(hide(x, mask)), mask).sum(dim=-1).mean(dim=-1)


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
"""The names that a configuration may use. Add your own aggregation here to use it."""
