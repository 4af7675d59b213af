"""FAMF: aggregate → fuse → classify, put together from a configuration."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from famf_lib.data.sampling import Batch
from famf_lib.models.aggregation import AGGREGATIONS, normalise
from famf_lib.models.config import ModelConfig
from famf_lib.models.fusion import FUSIONS

ALIGNED = 64  # numbers; a GPU multiplies matrices fast if their rows begin at multiples of 16 bytes, and best at these


class FAMF(nn.Module):
    """The whole model: faces (B, N, D) and M other modalities (B, D_m) → one logit per person (B, C).

    Args:
        config: the modules and their options.
        dim: D, the length of a face vector and of a token.
        modality_dims: D_m of each modality in ``config.modalities``. A linear layer projects a modality whose D_m is
            not D, and the tokens of an aggregation whose width is not D. With Concat such a projection adds nothing
            that the first layer of the classifier could not learn.
        persons: C.

    Raises:
        ValueError: the data lack a modality of the configuration.
    """

    def __init__(self, config: ModelConfig, dim: int, modality_dims: dict[str, int], persons: int):
        super().__init__()
        if absent := [m for m in config.modalities if m not in modality_dims]:
            offered = ", ".join(modality_dims) or "none"
            raise ValueError(f"modalities: the data have no {absent[0]!r}, expected some of: {offered}")
        self.config, self.dim, self.persons = config, dim, persons
        self.aggregation = AGGREGATIONS[config.aggregation](dim, **config.aggregation_options)
        self.fusion = FUSIONS[config.fusion](dim, **config.fusion_options)
        self.to_token = _projection(self.aggregation.width, dim)
        self.projections = nn.ModuleDict({m: _projection(modality_dims[m], dim) for m in config.modalities})
        tokens = self.aggregation.tokens + len(config.modalities)
        self.classifier = classifier(tokens * dim, config.hidden, persons, config.activation)

    @property
    def token_names(self) -> list[str]:
        """The names of the rows of the attention matrix: the clusters of the face, then the modalities."""
        return [f"face {k + 1}" for k in range(self.aggregation.tokens)] + list(self.config.modalities)

    def scaled(self, vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The feature vectors that the modules receive: raw, or scaled to unit norm."""
        return normalise(vectors) if self.config.features == "unit" else vectors

    def tokens(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """K tokens of the face and one per modality; zeros if a clip has no face or lacks the modality (Sec. 4.3)."""
        faces = self.to_token(self.aggregation(self.scaled(batch.faces), batch.mask))
        if self.aggregation.width != self.dim:  # without a face, the projection's bias must not count
            if batch.mask is not None:
                faces = faces * batch.mask.any(dim=1)[:, None, None]
            elif batch.faces.shape[1] == 0:
                faces = torch.zeros_like(faces)
        others = []
        for name in self.config.modalities:
            present = batch.present[name][:, None]
            vector = self.scaled(batch.modalities[name].masked_fill(~present, 0.0))
            others.append((self.projections[name](vector) * present)[:, None])
        return torch.cat([faces, *others], dim=1)

    def forward(self, batch: Batch) -> Float[Tensor, "B C"]:
        """One logit per person for each clip."""
        return self.classifier(self.fusion(self.tokens(batch)).flatten(1))

    def attention(self, batch: Batch) -> Float[Tensor, "B T T"]:
        """The attention matrix of the fusion for each clip (Fig. 4)."""
        return self.fusion.attention(self.tokens(batch))

    def face_weights(self, batch: Batch) -> Float[Tensor, "B N"]:
        """The weight that each face received (Fig. 3)."""
        return self.aggregation.face_weights(self.scaled(batch.faces), batch.mask)

    def initialise(self, faces: Float[Tensor, "S D"], seed: int) -> None:
        """Initialises the aggregation from a sample of training faces."""
        self.aggregation.initialise(self.scaled(faces), seed)


def _projection(width: int, dim: int) -> nn.Module:
    return nn.Identity() if width == dim else nn.Linear(width, dim)


class PaddedLinear(nn.Linear):
    """A linear layer whose product a GPU pads to a multiple of ``ALIGNED`` outputs in half precision.

    The rows of 10,034 logits in half precision are not aligned, and for such matrices cuBLAS only has slow kernels.
    Weights, results and gradients are those of ``nn.Linear``.
    """

    def forward(self, x: Float[Tensor, "*n H"]) -> Float[Tensor, "*n C"]:
        if x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float16) and self.out_features % ALIGNED:
            return padded_linear(x, self.weight, self.bias)
        return super().forward(x)


def padded_linear(
    x: Float[Tensor, "*n H"], weight: Float[Tensor, "C H"], bias: Float[Tensor, " C"]
) -> Float[Tensor, "*n C"]:
    """``F.linear`` in the precision of ``x``, with zero rows below the weights whose outputs are cut off."""
    outputs = len(weight)
    weight, bias = (
        torch.cat([given.to(x.dtype), x.new_zeros(-outputs % ALIGNED, *given.shape[1:])]) for given in (weight, bias)
    )
    return F.linear(x, weight, bias)[..., :outputs]


def classifier(inputs: int, hidden: int, persons: int, activation: str = "relu") -> nn.Sequential:
    """Three fully-connected layers with batch normalisation (momentum 0.1) between them, Sec. 4.3."""

    def between() -> list[nn.Module]:
        return [nn.BatchNorm1d(hidden, momentum=0.1)] + ([nn.ReLU()] if activation == "relu" else [])

    return nn.Sequential(
        nn.Linear(inputs, hidden), *between(), nn.Linear(hidden, hidden), *between(), PaddedLinear(hidden, persons)
    )
