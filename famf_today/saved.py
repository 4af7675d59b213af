"""The recipe's heads of the face as a FAMF model, which is saved, exported and asked like any other.

Importing this module adds the aggregation ``mapped-mean``, which such a model needs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Split
from famf_lib.models.aggregation import AGGREGATIONS, Count, normalise
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_today import recipe, study
from famf_today.aggregations import NormMean, Power
from famf_today.heads import MarginHead


class MappedMean(NormMean):
    """K linear maps of the mean of the faces' directions, each scaled to unit norm: A_k v / |A_k v|.

    Args:
        power: see NormMean.
        maps: K.
    """

    def __init__(self, dim: int, power: Power = 3.0, maps: Count = 1):
        super().__init__(dim, power)
        self.tokens = maps
        self.maps = nn.Parameter(torch.eye(dim).repeat(maps, 1, 1))

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B K D"]:
        mean = super().forward(x, mask)[:, 0]
        return normalise(torch.stack([mean @ one.T for one in self.maps], dim=1))


AGGREGATIONS["mapped-mean"] = MappedMean


@torch.no_grad()
def as_famf(heads: list[MarginHead], power: float) -> FAMF:
    """A FAMF model with the mean of the heads' logits: its classifier's hidden layers are identities.

    Args:
        power: p, a face's weight in its clip is this power of its norm.
    """
    persons, dim = heads[0].directions.shape
    width = len(heads) * dim
    options = {"power": power, "maps": len(heads)}
    config = ModelConfig(
        aggregation="mapped-mean",
        aggregation_options=options,
        fusion="concat",
        modalities=(),
        hidden=width,
        activation="none",
    )
    model = FAMF(config, dim, {}, persons).to(heads[0].directions.device)
    for place, head in enumerate(heads):
        model.aggregation.maps[place] = torch.eye(dim) if head.map is None else head.map
    *between, last = model.classifier
    for layer in between:
        layer.bias.zero_()
        if isinstance(layer, nn.Linear):
            nn.init.eye_(layer.weight)
        else:  # batch normalisation with the statistics 0 and 1
            layer.weight.fill_((1 + layer.eps) ** 0.5)
    last.weight.copy_(torch.cat([head.scale / len(heads) * normalise(head.directions) for head in heads], dim=1))
    last.bias.zero_()
    return model.eval()


def train(clipset: ClipSet, split: Split, seed: int) -> FAMF:
    """Trains the recipe on the faces of the training clips, at its tuned point for real faces, as a FAMF model."""
    how = recipe.Recipe(**study.chosen("imfdb", "standard")[study.RECIPE])
    heads = recipe.fit(how, clipset, split, seed)
    return as_famf(list(heads.face.values()), how.clip_power)
