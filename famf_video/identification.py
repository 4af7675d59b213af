"""Who is in a video, according to a model trained on other videos of the same persons, and which faces decided it."""

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
from famf_video.clips import FPS, Clip, Stages, clips_of
from famf_video.contained import ContainedVideo
from famf_video.enrolment import as_clipset
from famf_video.video import Video


class IdentificationError(ValueError):
    """A video that the model cannot answer for, or a place where the answer cannot be written."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one clip of a video.

    ``persons`` and ``probabilities``, the most probable first; ``weights`` of the faces in their order (Fig. 3).
    """

    name: str
    clip: Clip
    persons: tuple[str, ...]
    probabilities: tuple[float, ...]
    weights: Float[np.ndarray, " F"]


@dataclass(frozen=True, eq=False)
class Identified:
    """The answers to a video, the main person's clip first. ``lacking``: modalities of the model that it has not."""

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
    """Looks at a video and asks a saved model, on the CPU, who is in it.

    Raises:
        ValueError: the file is no video, there is no face in it, or the model wants vectors of another network.
    """
    check(opened, stages)
    video = ContainedVideo(path)
    clips = clips_of(video, stages, fps=fps, everybody=everybody, report=report)
    if not len(clips[0].faces):
        raise IdentificationError(f"{path}: no face found, expected one at least")
    names = [path.name if n == 1 else f"{path.name}#{n}" for n in range(1, len(clips) + 1)]
    table = pd.DataFrame({"name": names}).assign(person=None, split=None, group=None).astype("str")
    table[["person", "split", "group"]] = None
    clipset, lacking = prediction.fitting(as_clipset(clips, table, stages), opened.card)
    rows = [row for told in prediction.predict(opened, clipset, top) for row in told.to_pylist()]
    answers = [
        Answer(row["name"], clip, tuple(row["persons"]), tuple(row["probabilities"]), np.array(row["weights"]))
        for clip, row in zip(clips, rows, strict=True)
    ]
    return Identified(video, answers, clipset, lacking)


def check(opened: SavedModel, stages: Stages) -> None:
    """Refuses a network that is not the one whose vectors the model was trained on, before a video is looked at.

    Raises:
        IdentificationError: it is another, or gives vectors of another length.
    """
    expected, made = opened.card.embedder, stages.embedder.checksum
    if expected and made != expected:
        told = f"SHA-256 {made[:16]}… found, expected {expected[:16]}…, whose vectors the model was trained on"
        raise IdentificationError(f"embedder: {told}")
    if stages.embedder.dim != opened.card.dim:
        raise IdentificationError(f"embedder: {stages.embedder.dim} numbers a face found, expected {opened.card.dim}")


@torch.inference_mode()
def attention(opened: SavedModel, found: Identified, row: int = 0) -> Float[np.ndarray, "T T"]:
    """The attention matrix of one of the clips, all of whose faces take part (Fig. 4); rows as ``token_names``."""
    clipset = found.clipset
    faces = clipset.faces[clipset.offsets[row] : clipset.offsets[row + 1]].float()[None]
    names = opened.model.config.modalities
    there = {name: clipset.modalities[name] for name in names}
    vectors = {name: of.vectors[row : row + 1].float() for name, of in there.items()}
    batch = Batch(faces, torch.ones(faces.shape[:2], dtype=torch.bool), vectors,
                  {name: of.present[row : row + 1] for name, of in there.items()})  # fmt: skip
    return opened.model.attention(batch)[0].numpy()
