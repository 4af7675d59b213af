"""Faces turned, scaled and shifted to one place by five points: the 112 × 112 pictures that ArcFace networks expect."""

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float, UInt8
from PIL import Image

SIZE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace has the points in a picture of 112 × 112: left eye, right eye, nose, left and right corner of the
mouth, as seen in the picture; x, y in pixels, the middle of the first pixel being (0, 0)."""

Beyond = Literal["black", "edge"]
"""What lies beyond the edge of a picture: nothing, as InsightFace has it, or its last pixels again."""


class AlignmentError(ValueError):
    """Points that lie in one place tell no size and no angle."""


def align(
    picture: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "F 5 2"], size: int = SIZE, beyond: Beyond = "black"
) -> UInt8[np.ndarray, "F size size 3"]:
    """The F faces of an RGB picture, each with its five points (x, y in pixels) where ``TEMPLATE`` has them.

    A picture in which a face is at least twice as large as it becomes is halved first, as often as it takes: between
    neighbours only, much of it would be skipped.

    Raises:
        AlignmentError: the five points of a face coincide, or are not finite.
    """
    scale, shift = similarity(points, TEMPLATE * (size / SIZE))
    reduced = {1: picture}
    faces = np.empty((len(points), size, size, 3), dtype=np.uint8)
    goal = np.arange(size) + 1j * np.arange(size)[:, None]
    for face, (a, b) in enumerate(zip(scale, shift, strict=True)):
        factor = 1
        while 2 * factor * abs(a) <= 1 and min(reduced[factor].shape[:2]) > 1:
            factor *= 2
            if factor not in reduced:
                reduced[factor] = np.asarray(Image.fromarray(reduced[factor // 2]).reduce(2))
        # A picture is halved about its corner, which is half a pixel before the middle of its first pixel.
        at = ((goal - b) / a + (0.5 + 0.5j)) / factor - (0.5 + 0.5j)
        faces[face] = sampled(reduced[factor], at.real, at.imag, beyond)
    return faces


def sampled(
    picture: UInt8[np.ndarray, "H W 3"], x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], beyond: Beyond
) -> UInt8[np.ndarray, "*n 3"]:
    """The colours of a picture between its pixels, each from the four around (bilinear)."""
    height, width, _ = picture.shape
    x, y = np.clip(x, -1, width), np.clip(y, -1, height)  # farther out it is the same
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    total = np.zeros((*left.shape, 3), np.float32)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = np.clip(1 - abs(y - row), 0, 1) * np.clip(1 - abs(x - column), 0, 1)
            if beyond == "black":
                weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            total += weight.astype(np.float32)[..., None] * picture[row.clip(0, height - 1), column.clip(0, width - 1)]
    return np.rint(total).astype(np.uint8)


def resized(
    picture: UInt8[np.ndarray, "H W 3"], size: int, box: tuple[int, int, int, int] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """A box (x1, y1, x2, y2) of a picture, or all of it, at size × size pixels, each from the four around.

    What detectors of the MTCNN kind were trained with. Pictures made much smaller lose detail unevenly by it.
    """
    x1, y1, x2, y2 = box or (0, 0, picture.shape[1], picture.shape[0])
    x, y = ((np.arange(size) + 0.5) * (end - start) / size - 0.5 for start, end in ((x1, x2), (y1, y2)))
    x, y = x.clip(0, x2 - x1 - 1) + x1, y.clip(0, y2 - y1 - 1) + y1
    return sampled(picture, *np.meshgrid(x, y), "edge")


def similarity(
    points: Float[np.ndarray, "F n 2"], target: Float[np.ndarray, "n 2"]
) -> tuple[Complex[np.ndarray, " F"], Complex[np.ndarray, " F"]]:
    """The a and b of z → a z + b with z = x + iy, which bring points to their target with the least squared distance.

    A product with a complex number turns and scales, so this is Umeyama's least-squares similarity (IEEE TPAMI 13(4),
    1991) in the plane, in closed form.

    Raises:
        AlignmentError: the points of a face coincide, or are not finite.
    """
    source, goal = points[..., 0] + 1j * points[..., 1], target[:, 0] + 1j * target[:, 1]
    middle = source.mean(axis=1)
    centred = source - middle[:, None]
    spread = (abs(centred) ** 2).sum(axis=1)
    a = (centred.conj() * (goal - goal.mean())).sum(axis=1) / np.where(spread > 0, spread, 1)
    if not (good := np.isfinite(a) & (abs(a) > 1e-9)).all():
        face = int(good.argmin())
        raise AlignmentError(f"points: face {face} has {points[face].tolist()}, expected five places apart")
    return a, goal.mean() - a * middle
