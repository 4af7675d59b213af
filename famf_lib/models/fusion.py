"""Multi-modal fusion: the K tokens of the face and the M tokens of other modalities (B, T, D) are mixed; T = K + M.

MMA and MLMA both use as attention a softmax of the Gram matrix Z = (WX)ᵀ(WX) of projected tokens (Eq. 6). A 1×1
convolution over D channels, with the tokens as positions, is a linear layer, and is written as one here.
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
    """The base class of all fusions.

    Args:
        dim: D, the length of a token.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The fused tokens, in the same order."""
        raise NotImplementedError

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        """The attention matrix: A[i, j] is the weight of token j in fused token i."""
        raise NotImplementedError

    def penalty(self) -> Float[Tensor, ""] | float:
        """A term that is added to the loss."""
        return 0.0


class Concat(Fusion):
    """No fusion: the classifier receives the concatenated tokens."""

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return tokens

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        return torch.eye(tokens.shape[1], device=tokens.device).expand(len(tokens), -1, -1)


class GramAttention(Fusion):
    """Y_i = Σ_j A_ij X_j, where A is a softmax of the Gram matrix Z of the projected tokens (Eq. 5 and 6).

    Args:
        axis: source normalises over j, so that the weights of each sum add up to 1, as in SAGAN, which Eq. 5 follows;
            target normalises over i, as Eq. 5 is printed. Z is symmetric: one matrix is the transpose of the other.
    """

    def __init__(self, dim: int, axis: Axis):
        super().__init__(dim)
        self.axis = axis

    def project(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        """W X. There is no bias, so an absent modality, which is a zero vector, stays zero."""
        raise NotImplementedError

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        projected = self.project(tokens)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        with torch.autocast(tokens.device.type, enabled=False):  # the exponential of a product needs float32
            gram = torch.bmm(projected, projected.transpose(1, 2))  # (B, T, T)
        return gram.softmax(dim=2 if self.axis == "source" else 1)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return torch.bmm(self.attention(tokens).to(tokens.dtype), tokens)


class MMA(GramAttention):
    """Multi-Modal Attention (Liu et al. 2018): one convolution, a residual with a learned scale γ, and an L2 term.

    γ starts at 0, as in SAGAN, so that training starts from the unfused tokens.

    Args:
        hidden: output channels of the convolution.
        residual: whether the output is X + γY instead of Y.
        penalty: the weight of |W|² in the loss.
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
        hidden: output channels of the first and the second convolution (Sec. 4.3: 128 and 32).
        activation: the function between them. Eq. 6 has none, so that their product is one matrix of rank ≤ 32.
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
"""The names that a configuration may use. Add your own fusion here to use it."""
