"""Identification: who is in a video or a picture, according to a saved model, and which faces decided it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Batch
from famf_lib.support import rasters
from famf_lib.training import prediction
from famf_lib.training.checkpoint import SavedModel
from famf_video import similarity, stills
from famf_video.clips import FPS, Clip, Stages, extract_clips
from famf_video.contained import ContainedVideo
from famf_video.enrolment import as_clipset
from famf_video.video import Frame, Video


class IdentificationError(ValueError):
    """The model cannot be applied to a video, or the answer cannot be written."""


@dataclass(frozen=True)
class Answer:
    """Who is in one clip of a video, or in a picture.

    ``persons`` and ``probabilities`` are those of the classifier, by falling probability, and ``weights`` those of the
    faces, in order of time (Fig. 3). All are empty if there is no face. ``likely`` is the most similar person, and
    ``score`` the similarity (see ``similarity``). If the model also uses other modalities, which similarity does not,
    the most probable person takes the place of all whom the model was trained on. If it was not enrolled, ``likely`` is
    the most probable person, and ``score`` the probability.
    """

    name: str
    clip: Clip
    persons: tuple[str, ...]
    probabilities: tuple[float, ...]
    weights: Float[np.ndarray, " F"]
    likely: str | None
    score: float
    threshold: float | None

    @property
    def person(self) -> str | None:
        """The name, None for somebody unknown or if there is no face."""
        return self.likely if self.threshold is None or self.score >= self.threshold else None


class Still(Video):
    """A picture, as a video of one frame. It is read when it is asked for: there may be thousands."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.damaged, self.unheard, self.has_sound = 0, 0, False

    def numbered(self, numbers: Collection[int]) -> Iterator[Frame]:
        yield from [Frame(0, 0.0, rasters.rgb(self.path))] if numbers else []


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
    threshold: float | None = None,
    fps: float = FPS,
    everybody: bool = False,
    report: Callable[[float], None] = lambda seconds: None,
) -> Identified:
    """Extracts the clips of a video, or the largest face of a picture, and says, on the CPU, who is in them.

    Args:
        threshold: the score below which somebody is unknown; by default that of the model, if it was enrolled.

    Raises:
        ValueError: the file is neither, or the model needs vectors of another network.
    """
    check(opened, stages)
    video: Video
    if Path(path).suffix.lower() in rasters.ENDINGS:
        face = stills.largest_face(rasters.rgb(Path(path)), stages)
        video, clips = Still(path), [Clip.of_rows([(0, 0.0, *face)] if face else [], stages.embedder.dim)]
    else:
        video = ContainedVideo(path)
        clips = extract_clips(video, stages, fps=fps, everybody=everybody, report=report)
    names = [video.path.name if n == 1 else f"{video.path.name}#{n}" for n in range(1, len(clips) + 1)]
    table = pd.DataFrame({"name": names}).assign(person=None, split=None, group=None)
    table = table.astype({column: "str" for column in ("person", "split", "group")})
    clipset, lacking = prediction.fitting(as_clipset(clips, table, stages), opened.card)
    rows = [row for batch in prediction.predict(opened, clipset, top) for row in batch.to_pylist()]
    if threshold is None and opened.card.known is not None:
        threshold = opened.card.known.threshold
    answers = []
    for row, clip, decided in zip(rows, clips, decide(opened, clipset, rows), strict=True):
        given = (tuple(row[of]) if len(clip.faces) else () for of in ("persons", "probabilities"))
        answers.append(Answer(row["name"], clip, *given, np.array(row["weights"]), *decided, threshold))
    return Identified(video, answers, clipset, lacking)


def decide(opened: SavedModel, clipset: ClipSet, rows: Sequence[dict]) -> list[tuple[str | None, float]]:
    """Who each clip most likely shows, and the score (see ``Answer``); None without a face.

    ``rows`` are those of ``prediction.predict`` for the clips.
    """
    known, likely = opened.card.known, []
    similar = similarity.similarities(similarity.descriptors(clipset), opened.centroids) if known else None
    for n, (row, faces) in enumerate(zip(rows, clipset.counts.tolist(), strict=True)):
        if not faces:
            likely.append((None, 0.0))
        elif known is None:
            likely.append((row["persons"][0], row["probabilities"][0]))
        else:
            to = dict(zip(known.persons, similar[n].tolist(), strict=True))
            candidates: Sequence[str] = known.persons
            if opened.card.config.modalities:
                candidates = [row["persons"][0], *(name for name in candidates if name not in opened.card.persons)]
            best = max(candidates, key=to.__getitem__)
            likely.append((best, to[best]))
    return likely


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
