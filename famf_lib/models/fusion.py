"""Multi-modal fusion: the K tokens of the face and those of M other modalities, (B, T, D), are mixed; the shape stays.

The attention of both MMA and MLMA is a softmax of the Gram matrix Z = (WX)ᵀ(WX) of projected tokens (Eq. 6). A 1×1
convolution over the D channels, the tokens being the positions, is a linear layer: that is what stands here.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

Channels = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Axis = Literal["source", "target"]
Activation = Literal["none", "relu"]


class Fusion(nn.Module):
    """What all fusions share.

    Args:
        dim: D, the length of a token.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Each token after the fusion, in the same order."""
        raise NotImplementedError

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        """A[i, j]: the weight of token j in fused token i."""
        raise NotImplementedError

    def penalty(self) -> Float[Tensor, ""] | float:
        """What the fusion adds to the loss."""
        return 0.0


class Concat(Fusion):
    """The tokens stay as they are; the classifier behind sees them side by side."""

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return tokens

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        return torch.eye(tokens.shape[1], device=tokens.device).expand(len(tokens), -1, -1)


class GramAttention(Fusion):
    """Y_i = Σ_j A_ij X_j with A a softmax of the Gram matrix Z of projected tokens, Eq. 5 and 6.

    Args:
        axis: source: the weights of one sum over j add up to 1, as in SAGAN, which Eq. 5 takes after. target: over i,
            as Eq. 5 is printed. Z is symmetric, so the two attention matrices are each other's transpose.
    """

    def __init__(self, dim: int, axis: Axis):
        super().__init__(dim)
        self.axis = axis

    def project(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        """W X, without a bias: an absent modality, a zero vector, stays one."""
        raise NotImplementedError

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        projected = self.project(tokens)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        with torch.autocast(tokens.device.type, enabled=False):  # an exponential of products: float32 or better
            gram = torch.bmm(projected, projected.transpose(1, 2))  # (B, T, T)
        return gram.softmax(dim=2 if self.axis == "source" else 1)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return torch.bmm(self.attention(tokens).to(tokens.dtype), tokens)


class MMA(GramAttention):
    """Multi-Modal Attention (Liu et al. 2018): one convolution, a residual with a learned scale, an L2 term.

    The learned scale starts at 0, as in SAGAN: training begins with the tokens as they are.

    Args:
        hidden: channels behind the convolution.
        residual: whether the tokens are added to γ times the fused ones.
        penalty: weight of |W|² in the loss.
        axis: see GramAttention.
    """

    def __init__(
        self, dim: int, hidden: Channels = 32, residual: bool = True, penalty: Weight = 1e-4, axis: Axis = "source"
    ):
        super().__init__(dim, axis)
        if not 0 <= penalty < float("inf"):
            raise ValueError(f"penalty: {penalty}, expected a finite number of 0 or more")
        self.convolution = nn.Linear(dim, _channels(hidden), bias=False)
        self.scale = nn.Parameter(torch.zeros(())) if residual else None
        self.weight = penalty

    def project(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        return self.convolution(tokens)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        fused = super().forward(tokens)
        return fused if self.scale is None else tokens + self.scale * fused

    def penalty(self) -> Float[Tensor, ""] | float:
        return self.weight * self.convolution.weight.square().sum()


class MLMA(GramAttention):
    """Multi-Layer Multi-Modal Attention, Eq. 5 and 6: two consecutive convolutions, no residual, no L2 term.

    Args:
        hidden: channels behind the first and the second convolution (Sec. 4.3: 128 and 32).
        activation: between the two. Eq. 6 prints none, which makes the two one matrix of rank ≤ 32.
        axis: see GramAttention.
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[Channels, Channels] = (128, 32),
        activation: Activation = "none",
        axis: Axis = "source",
    ):
        super().__init__(dim, axis)
        self.first = nn.Linear(dim, _channels(hidden[0]), bias=False)
        self.second = nn.Linear(hidden[0], _channels(hidden[1]), bias=False)
        self.activation = activation

    def project(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        between = self.first(tokens)
        return self.second(F.relu(between) if self.activation == "relu" else between)


def _channels(value: int) -> int:
    if value < 1:
        raise ValueError(f"hidden: {value} channels, expected 1 or more")
    return value


FUSIONS: dict[str, type[Fusion]] = {"concat": Concat, "mma": MMA, "mlma": MLMA}
"""What a configuration may name. A fusion of your own takes part once it stands here."""
