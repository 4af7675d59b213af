"""Identification: who is in a video, according to a saved model, and which faces decided it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Batch
from famf_lib.training import prediction
from famf_lib.training.checkpoint import SavedModel
from famf_video.clips import FPS, Clip, Stages, extract_clips
from famf_video.contained import ContainedVideo
from famf_video.enrolment import as_clipset
from famf_video.video import Video


class IdentificationError(ValueError):
    """The model cannot be applied to a video, or the answer cannot be written."""


@dataclass(frozen=True)
class Answer:
    """A model's prediction for one clip of a video.

    ``persons`` and ``probabilities`` by falling probability; ``weights`` of the faces in order of time (Fig. 3).
    """

    name: str
    clip: Clip
    persons: tuple[str, ...]
    probabilities: tuple[float, ...]
    weights: Float[np.ndarray, " F"]


@dataclass(frozen=True, eq=False)
class Identified:
    """The answers for a video, the main person's clip first. ``lacking``: the model's modalities that it lacks."""

    video: Video
    answers: list[Answer]
    clipset: ClipSet
    lacking: list[str]


def identify(
    path: Path,
    opened: SavedModel,
    stages: Stages,
    *,
    top: int = 5,
    fps: float = FPS,
    everybody: bool = False,
    report: Callable[[float], None] = lambda seconds: None,
) -> Identified:
    """Extracts the clips of a video and predicts, on the CPU, who is in them.

    Raises:
        ValueError: the file is no video, shows no face, or the model needs vectors of another network.
    """
    check(opened, stages)
    video = ContainedVideo(path)
    clips = extract_clips(video, stages, fps=fps, everybody=everybody, report=report)
    if not len(clips[0].faces):
        raise IdentificationError(f"{path}: no face found, expected at least one")
    names = [path.name if n == 1 else f"{path.name}#{n}" for n in range(1, len(clips) + 1)]
    table = pd.DataFrame({"name": names}).assign(person=None, split=None, group=None)
    table = table.astype({column: "str" for column in ("person", "split", "group")})
    clipset, lacking = prediction.fitting(as_clipset(clips, table, stages), opened.card)
    rows = [row for batch in prediction.predict(opened, clipset, top) for row in batch.to_pylist()]
    answers = [
        Answer(row["name"], clip, tuple(row["persons"]), tuple(row["probabilities"]), np.array(row["weights"]))
        for clip, row in zip(clips, rows, strict=True)
    ]
    return Identified(video, answers, clipset, lacking)


def check(opened: SavedModel, stages: Stages) -> None:
    """Checks that the embedder is the one whose vectors the model was trained on, before a video is processed.

    Raises:
        IdentificationError: it is another one, or its vectors have another length.
    """
    expected, found = opened.card.embedder, stages.embedder.checksum
    if expected and found != expected:
        trained = f"expected {expected[:16]}…, on whose vectors the model was trained"
        raise IdentificationError(f"embedder: SHA-256 {found[:16]}… found, {trained}")
    if stages.embedder.dim != opened.card.dim:
        numbers = f"vectors of length {stages.embedder.dim} found, expected {opened.card.dim}"
        raise IdentificationError(f"embedder: {numbers}")


@torch.inference_mode()
def attention(opened: SavedModel, found: Identified, row: int = 0) -> Float[np.ndarray, "T T"]:
    """Computes the attention matrix of one clip from all of its faces (Fig. 4); rows as in ``token_names``."""
    clipset = found.clipset
    faces = clipset.faces[clipset.offsets[row] : clipset.offsets[row + 1]].float()[None]
    modalities = {name: clipset.modalities[name] for name in opened.model.config.modalities}
    batch = Batch(
        faces,
        torch.ones(faces.shape[:2], dtype=torch.bool),
        {name: of.vectors[row : row + 1].float() for name, of in modalities.items()},
        {name: of.present[row : row + 1] for name, of in modalities.items()},
    )
    return opened.model.attention(batch)[0].numpy()
