"""Evaluates a trained model: ranks the gallery for every person, batch by batch."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import EVALUATION, Sampler, generator
from famf_lib.data.splits import Split
from famf_lib.metrics import Ranking, Scores, log_odds
from famf_lib.models.config import Config
from famf_lib.models.famf import FAMF

EVALUATION_BATCH = 1_024  # clips


class EvaluationConfig(Config):
    """How a model is evaluated.

    Args:
        faces: N at test time; it may differ from training (Sec. 4.3).
        k: the cutoff of mAP (Sec. 4.2).
        rank_by: the score of a clip for a person: its probability, or its raw logit.
    """

    faces: int = Field(24, ge=1)
    k: int = Field(100, ge=1)
    rank_by: Literal["probability", "logit"] = "probability"


def evaluate(model: FAMF, evaluation: EvaluationConfig, clipset: ClipSet, split: Split, seed: int) -> Scores:
    """mAP at k and rank-1 of the gallery, noise clips included, ranked for every person."""
    return rank(model, evaluation, clipset, split, seed).compute()


@torch.inference_mode()
def rank(
    model: FAMF,
    evaluation: EvaluationConfig,
    clipset: ClipSet,
    split: Split,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> Ranking:
    """Ranks the gallery. ``report`` is called after every batch with the number of clips done."""
    device = clipset.faces.device
    ranking = Ranking(len(split.persons), evaluation.k, device)
    classes = split.gallery_classes.to(device)
    for rows, logits in logits_of(model, evaluation.faces, clipset, split.gallery, seed):
        scores = log_odds(logits) if evaluation.rank_by == "probability" else logits
        ranking.update(scores, classes[rows])
        if report is not None:
            report(len(ranking.classes))
    return ranking


@torch.inference_mode()
def logits_of(
    model: FAMF, faces: int, clipset: ClipSet, clips: Int64[Tensor, " G"], seed: int
) -> Iterator[tuple[Int64[Tensor, " B"], Float[Tensor, "B C"]]]:
    """Yields the logits of clips batch by batch, with their positions in ``clips``.

    They are computed in float32 even after training in bfloat16, whose eight bits would give many clips equal scores.
    """
    device = clipset.faces.device
    sampler = Sampler(clipset, clips, faces, model.config.modalities)
    drawn = sampler.draw(generator(device, seed, EVALUATION))
    model.eval()
    for rows in torch.arange(len(clips), device=device).split(EVALUATION_BATCH):
        yield rows, model(sampler.batch(drawn, rows))
