"""Fusions from before and after the paper: tensor fusion, its low-rank form, and a transformer over the tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from famf_lib.models.fusion import Channels, Concat, Fusion


class JointVector(Concat):
    """The base class: adds one vector, made of the mean face token and the modalities, to every token.

    A subclass gives it. The classifier thus receives all that it receives from Concat, and the products.

    Args:
        modalities: M, how many of the tokens are modalities; they are the last ones.
    """

    def __init__(self, dim: int, modalities: Channels = 2):
        super().__init__(dim)
        self.modalities = modalities

    def joint(self, vectors: tuple[Float[Tensor, "B D"], ...]) -> Float[Tensor, "B D"]:
        raise NotImplementedError

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        face, others = tokens[:, : -self.modalities].mean(dim=1), tokens[:, -self.modalities :]
        return tokens + self.joint((face, *others.unbind(dim=1)))[:, None]


class TensorFusion(JointVector):
    """Tensor Fusion Network (Zadeh et al. 2017): all products of features of all modalities.

    z_m = W_m x_m of length H; the joint vector is W · vec([1, z_0] ⊗ [1, z_1] ⊗ … ⊗ [1, z_M]).

    Args:
        modalities: M, see JointVector.
        hidden: H.
    """

    def __init__(self, dim: int, modalities: Channels = 2, hidden: Channels = 8):
        super().__init__(dim, modalities)
        self.reduce = nn.ModuleList(nn.Linear(dim, hidden, bias=False) for _ in range(1 + modalities))
        self.out = nn.Linear((1 + hidden) ** (1 + modalities), dim)

    def joint(self, vectors: tuple[Float[Tensor, "B D"], ...]) -> Float[Tensor, "B D"]:
        product = vectors[0].new_ones(len(vectors[0]), 1)
        for layer, vector in zip(self.reduce, vectors, strict=True):
            extended = nn.functional.pad(layer(vector), (1, 0), value=1.0)  # [1, z]
            product = (product[:, :, None] * extended[:, None]).flatten(1)
        return self.out(product)


class LowRankFusion(JointVector):
    """Low-rank multimodal fusion (Liu et al. 2018): tensor fusion whose weights are a sum of R outer products.

    The joint vector is Σ_r ⊙_m (W_rm x_m + b_rm), where ⊙ multiplies the modalities element by element. b starts at 1,
    so that the terms of single modalities pass from the first step on.

    Args:
        modalities: M, see JointVector.
        rank: R.
    """

    def __init__(self, dim: int, modalities: Channels = 2, rank: Channels = 4):
        super().__init__(dim, modalities)
        self.factors = nn.ModuleList(nn.Linear(dim, rank * dim) for _ in range(1 + modalities))
        for factor in self.factors:
            nn.init.ones_(factor.bias)

    def joint(self, vectors: tuple[Float[Tensor, "B D"], ...]) -> Float[Tensor, "B D"]:
        product = torch.ones((), device=vectors[0].device)
        for layer, vector in zip(self.factors, vectors, strict=True):
            product = product * layer(vector).unflatten(1, (-1, self.dim))  # (B, R, D)
        return product.sum(dim=1)


class TokenTransformer(Fusion):
    """A transformer layer over the tokens (Vaswani et al. 2017), as multimodal transformers use it (Tsai et al. 2019).

    X' = X + E; Y = X' + MultiHead(LN(X')); the tokens are Y + W_2 GELU(W_1 LN(Y)). E tells the tokens apart, and starts
    at 0. Tokens of absent modalities, which are zero, are not attended to and stay zero.

    Args:
        heads: the number of heads, a divisor of D.
        kinds: the most tokens.
    """

    def __init__(self, dim: int, heads: Channels = 4, kinds: Channels = 16):
        super().__init__(dim)
        self.kind = nn.Parameter(torch.zeros(kinds, dim))
        self.norm, self.mixing = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feedforward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def mixed(self, tokens: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T T"]]:
        absent = (tokens == 0).all(dim=2)
        x = tokens + self.kind[: tokens.shape[1]]
        normed, hidden = self.norm(x), absent & ~absent.all(dim=1, keepdim=True)  # a softmax over nothing is NaN
        mixed, attention = self.mixing(normed, normed, normed, key_padding_mask=hidden)
        y = x + mixed
        return (y + self.feedforward(y)).masked_fill(absent[..., None], 0.0), attention

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.mixed(tokens)[0]

    def attention(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
        return self.mixed(tokens)[1]
