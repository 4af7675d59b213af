"""A classifier of single vectors: cosines to one direction per person, trained with a margin."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from famf_lib.models.aggregation import normalise

Kind = Literal["cosface", "arcface"]


class MarginHead(nn.Module):
    """Cosines to one direction per person, with a margin for the right person in training.

    z = A x / |A x|, cos θ_c = ŵ_c·z, and the logits are s cos θ_c. In training the right person's logit is less:
    s (cos θ_y − m), CosFace (Wang et al. 2018), or s cos(θ_y + m), ArcFace (Deng et al. 2019). A starts as identity.

    Args:
        margin: m.
        scale: s.
        mapped: whether there is A.
    """

    def __init__(
        self,
        dim: int,
        persons: int,
        margin: float = 0.3,
        scale: float = 16.0,
        kind: Kind = "cosface",
        mapped: bool = True,
    ):
        super().__init__()
        self.margin, self.scale, self.kind = margin, scale, kind
        self.map = nn.Parameter(torch.eye(dim)) if mapped else None
        self.directions = nn.Parameter(torch.randn(persons, dim))

    def forward(self, x: Float[Tensor, "B D"], classes: Int64[Tensor, " B"] | None = None) -> Float[Tensor, "B C"]:
        z = normalise(x if self.map is None else x @ self.map.T)
        cosine = z @ normalise(self.directions).T
        if classes is not None:
            right = cosine.gather(1, classes[:, None])
            cosine = cosine.scatter(1, classes[:, None], self.harder(right))
        return self.scale * cosine

    def harder(self, right: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        if self.kind == "cosface":
            return right - self.margin
        sine = (1 - right.square()).clamp(min=1e-7).sqrt()
        return right * math.cos(self.margin) - sine * math.sin(self.margin)
