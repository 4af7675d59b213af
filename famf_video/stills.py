"""Faces from photographs of a person, in place of a video."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from famf_lib.support import rasters
from famf_video.alignment import align
from famf_video.clips import Clip, Stages, to_float16
from famf_video.quality import quality

MARGIN = 0.5  # of a picture's longer side, added around it if no face is found: a cropped face may fill it completely


def clip_from_pictures(
    paths: Iterable[Path], stages: Stages, say: Callable[[str], None] = lambda sentence: None
) -> Clip:
    """Makes a clip of the largest face of each picture; ``frames`` are the positions of the pictures in ``paths``.

    A picture that cannot be read or shows no face is left out, and ``say`` receives a sentence about it. Boxes and
    points are in pixels of the picture; they may lie beyond its edge if the face fills it.
    """
    rows = []
    for number, path in enumerate(paths):
        try:
            face = largest_face(rasters.rgb(path), stages)
        except rasters.RasterError as error:
            say(f"{path}: cannot be read as a picture ({error}), so it is left out")
            continue
        if face is None:
            say(f"{path}: no face found, so it is left out")
        else:
            rows.append((number, 0.0, *face))
    return Clip.of_rows(rows, stages.embedder.dim)


def largest_face(picture: UInt8[np.ndarray, "H W 3"], stages: Stages) -> tuple | None:
    """The largest face of a picture, as box, points, score, quality and vector; None if it shows none."""
    margin, found = 0, stages.detector.detect(picture)
    if not len(found):
        margin = int(MARGIN * max(picture.shape[:2]))
        picture = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), "edge")
        found = stages.detector.detect(picture)
    if not len(found):
        return None
    largest = int((found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1).argmax())
    points, score = found.points[largest : largest + 1], found.scores[largest : largest + 1]
    face = align(picture, points)
    vector = to_float16(stages.embedder.embed(face), "embedder")[0]
    return found.boxes[largest] - margin, points[0] - margin, score[0], quality(face, points, score)[0], vector
