"""A recogniser of clips from heads with a margin: how it is trained, and how it ranks clips.

A clip is one vector per modality: Σ_i q_i^p x̂_i of its faces, where q_i is the quality of face i, or the vector of the
modality itself. Every head sees one modality. The logits of the heads are added up, and a modality that a clip lacks is
a zero vector and adds nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import FACES, ORDER, generator
from famf_lib.data.splits import Split
from famf_lib.metrics import Scores, log_odds, mean_average_precision
from famf_lib.models.aggregation import normalise
from famf_lib.models.config import Config
from famf_today.heads import Kind, MarginHead

EPOCHS = {"faces": 10, "clips": 20}
BATCH = {"faces": 1024, "clips": 256}
KEPT = 0.5  # the probability that a face is in its clip, drawn anew in every epoch


class Recipe(Config):
    """What is trained, and how a clip is scored. Every ingredient can be left out.

    Args:
        trained: face heads are trained on single faces, on clips, or one on each; or the persons' means are used.
        margin, scale, kind, mapped: see ``MarginHead``.
        quality: q, the norm of a face's vector, or a column of the faces such as det_score.
        face_power: the power of q that weights a face in the loss.
        clip_power: p, the power of q that weights a face in its clip.
        balanced: whether every film of a person has the same weight in the loss.
        score: what ranks clips: a person's probability, or the logits, which are cosines, as they are.
        expanded: how many clips of the gallery stand for a person in a second ranking (query expansion); 0 for none.
    """

    trained: Literal["none", "faces", "clips", "both"] = "both"
    margin: float = Field(0.3, ge=0, allow_inf_nan=False)
    scale: float = Field(24.0, gt=0, allow_inf_nan=False)
    kind: Kind = "cosface"
    mapped: bool = True
    quality: str = "norm"
    face_power: float = Field(1.0, ge=0, allow_inf_nan=False)
    clip_power: float = Field(3.0, ge=0, allow_inf_nan=False)
    balanced: bool = True
    score: Literal["probability", "logit"] = "probability"
    expanded: int = Field(0, ge=0)
    lr: float = Field(0.001, gt=0, allow_inf_nan=False)
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Faces:
    """The faces of V clips, clip by clip: directions (F, D), qualities (F,), and the clip of each, 0 … V − 1, (F,)."""

    unit: Float[Tensor, "F D"]
    quality: Float[Tensor, " F"]
    clip: Int64[Tensor, " F"]
    clips: int

    @classmethod
    def of(cls, clipset: ClipSet, clips: Int64[Tensor, " V"], quality: str = "norm") -> "Faces":
        """All faces of these clips."""
        counts = clipset.counts[clips]
        clip = torch.repeat_interleave(torch.arange(len(clips), device=counts.device), counts)
        place = (
            clipset.offsets[clips][clip]
            + torch.arange(len(clip), device=clip.device)
            - (counts.cumsum(0) - counts)[clip]
        )
        x = clipset.faces[place].float()
        if quality == "norm":
            return cls(normalise(x), x.norm(dim=1), clip, len(clips))
        column = clipset.face_columns([quality])[quality].to_numpy(np.float32)[place.cpu().numpy()]
        return cls(normalise(x), torch.from_numpy(column).to(x.device), clip, len(clips))

    def means(self, weight: Float[Tensor, " F"]) -> Float[Tensor, "V D"]:
        """The direction of Σ_i w_i x̂_i of every clip; zero for a clip without faces."""
        total = self.unit.new_zeros(self.clips, self.unit.shape[1])
        return normalise(total.index_add_(0, self.clip, weight[:, None] * self.unit))


def train_head(
    head: MarginHead,
    x: Float[Tensor, "n D"],
    classes: Int64[Tensor, " n"],
    weight: Float[Tensor, " n"],
    *,
    lr: float,
    epochs: int,
    batch: int,
    seed: int,
    redraw: Callable[[int], Tensor] | None = None,
) -> MarginHead:
    """Starts from the persons' weighted means and follows the weighted cross-entropy; the rate falls as a cosine to 0.

    ``redraw(epoch)`` gives other vectors in every epoch.
    """
    with torch.no_grad():
        head.directions.zero_().index_add_(0, classes, weight[:, None] * x)
    if lr == 0:
        return head
    optimiser = torch.optim.Adam(head.parameters(), lr=lr, fused=True)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * math.ceil(len(x) / batch))
    for epoch in range(epochs):
        x = x if redraw is None else redraw(epoch)
        order = torch.randperm(len(x), generator=generator(x.device, seed, ORDER, epoch), device=x.device)
        for rows in order.split(batch):
            losses = F.cross_entropy(head(x[rows], classes[rows]), classes[rows], reduction="none")
            loss = (weight[rows] * losses).sum() / weight[rows].sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps.step()
    return head


class Recogniser(nn.Module):
    """The heads of the face, whose mean counts, and one head per modality."""

    def __init__(self, face: dict[str, MarginHead], others: dict[str, MarginHead]):
        super().__init__()
        self.face, self.others = nn.ModuleDict(face), nn.ModuleDict(others)

    def forward(self, vectors: dict[str, Float[Tensor, "B _"]]) -> Float[Tensor, "B C"]:
        logits = sum(head(vectors["face"]) for head in self.face.values()) / len(self.face)
        return logits + sum(head(vectors[name]) for name, head in self.others.items())


def fit(recipe: Recipe, clipset: ClipSet, split: Split, seed: int) -> Recogniser:
    """Trains the heads on the training clips of the split."""
    faces, device = Faces.of(clipset, split.train, recipe.quality), clipset.faces.device
    classes, persons = split.train_classes.to(device), len(split.persons)
    films = _films(clipset, split).to(device)  # (T,)
    quality = faces.quality.pow(recipe.face_power)  # (F,)
    lr = 0.0 if recipe.trained == "none" else recipe.lr

    def trained(kind: str, x: Tensor, of: Tensor, film: Tensor, weight: Tensor, **more) -> MarginHead:
        head = MarginHead(x.shape[1], persons, recipe.margin, recipe.scale, recipe.kind, recipe.mapped).to(device)
        weight = weight / torch.bincount(film)[film] if recipe.balanced else weight
        return train_head(head, x, of, weight, lr=lr, epochs=EPOCHS[kind], batch=BATCH[kind], seed=seed, **more)

    face, others = {}, {}
    if recipe.trained != "clips":
        face["faces"] = trained("faces", faces.unit, classes[faces.clip], films[faces.clip], quality)
    if recipe.trained in ("clips", "both"):
        seen = torch.bincount(faces.clip, minlength=faces.clips) > 0

        def redraw(epoch: int) -> Tensor:
            kept = torch.rand(len(faces.clip), generator=generator(device, seed, FACES, epoch), device=device) < KEPT
            some = faces.means(power * kept)
            return torch.where(some.any(dim=1, keepdim=True), some, whole)[seen]  # at least one face

        power = faces.quality.pow(recipe.clip_power)
        whole = faces.means(power)
        ones = torch.ones(int(seen.sum()), device=device)
        face["clips"] = trained("clips", whole[seen], classes[seen], films[seen], ones, redraw=redraw)
    for name in recipe.modalities:
        modality = clipset.modalities[name]
        there = modality.present[split.train.to(device)]
        x = normalise(modality.vectors[split.train.to(device)][there].float())
        others[name] = trained("clips", x, classes[there], films[there], torch.ones(len(x), device=device))
    return Recogniser(face, others)


def _films(clipset: ClipSet, split: Split) -> Int64[Tensor, " T"]:
    """A number for each person's film, by training clip; a clip without a film counts as one."""
    group = clipset.clips["group"].astype("object").where(clipset.clips["group"].notna(), clipset.clips["name"])
    of = pd.DataFrame(
        {"person": split.train_classes.cpu().numpy(), "film": group.iloc[split.train.cpu().numpy()].to_numpy()}
    )
    return torch.from_numpy(of.groupby(["person", "film"]).ngroup().to_numpy(copy=True))


def vectors_of(recipe: Recipe, clipset: ClipSet, clips: Int64[Tensor, " V"]) -> dict[str, Float[Tensor, "V _"]]:
    """The vector of each modality for these clips; zero where a clip lacks it."""
    faces = Faces.of(clipset, clips, recipe.quality)
    found = {"face": faces.means(faces.quality.pow(recipe.clip_power))}
    for name in recipe.modalities:
        modality = clipset.modalities[name]
        found[name] = normalise(modality.vectors[clips].float() * modality.present[clips][:, None])
    return found


@torch.no_grad()
def rank(recogniser: Recogniser, recipe: Recipe, clipset: ClipSet, split: Split) -> Scores:
    """mAP at 100 and rank-1 of the gallery, noise clips included."""
    vectors = vectors_of(recipe, clipset, split.gallery.to(clipset.faces.device))
    logits = recogniser(vectors)  # (G, C)
    if recipe.expanded:
        logits = logits + expansion(logits, vectors, recipe)
    scores = log_odds(logits) if recipe.score == "probability" else logits
    return mean_average_precision(scores, split.gallery_classes.to(scores.device))


def expansion(
    logits: Float[Tensor, "G C"], vectors: dict[str, Float[Tensor, "G _"]], recipe: Recipe
) -> Float[Tensor, "G C"]:
    """Logits of a second ranking, by the cosine to each person's best clips of the gallery, weighted by probability.

    Query expansion looks at the whole gallery: a clip's score depends on which other clips are ranked.
    """
    probability = logits.softmax(dim=1)
    best = log_odds(logits).topk(min(recipe.expanded, len(logits)), dim=0).indices  # (k, C)
    weight = torch.zeros_like(probability).scatter(0, best, probability.gather(0, best))  # (G, C)
    return recipe.scale * sum(x @ normalise(weight.T @ x).T for x in vectors.values())
