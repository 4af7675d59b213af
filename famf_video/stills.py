"""Faces from single pictures: photographs of a person, in place of a video."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from famf_lib.support import rasters
from famf_video.alignment import align
from famf_video.clips import Clip, Stages, as_half
from famf_video.quality import quality

ROOM = 0.5  # of a picture's longer side, added around it where no face is found: a cut-out face may fill it wholly


def clip_of(paths: Iterable[Path], stages: Stages, say: Callable[[str], None] = lambda sentence: None) -> Clip:
    """The largest face of each picture, in their order, as a clip; ``frames`` are the positions of the pictures.

    A picture that cannot be read or holds no face is left out, and ``say`` is told. Boxes and points are in pixels of
    the picture; they may lie beyond its edge where the face fills it.
    """
    rows = []
    for number, path in enumerate(paths):
        try:
            picture = rasters.rgb(path)
        except rasters.RasterError as error:
            say(f"{path}: no picture can be read here ({error}), expected one")
            continue
        shift, found = 0, stages.detector.detect(picture)
        if not len(found):
            shift = int(ROOM * max(picture.shape[:2]))
            picture = np.pad(picture, ((shift, shift), (shift, shift), (0, 0)), "edge")
            found = stages.detector.detect(picture)
        if not len(found):
            say(f"{path}: no face found, so it is left out")
            continue
        largest = int((found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1).argmax())
        points, score = found.points[largest : largest + 1], found.scores[largest : largest + 1]
        face = align(picture, points)
        good, vector = quality(face, points, score), stages.embedder.embed(face)
        rows.append((number, found.boxes[largest] - shift, points[0] - shift, score[0], good[0], vector[0]))
    frames, boxes, points, scores, goods, vectors = zip(*rows, strict=True) if rows else [()] * 6
    return Clip(
        np.array(frames, np.int64),
        np.zeros(len(rows)),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(points, np.float32).reshape(-1, 5, 2),
        np.array(scores, np.float32),
        np.array(goods, np.float32),
        as_half(np.array(vectors, np.float32).reshape(-1, stages.embedder.dim), "embedder"),
    )
