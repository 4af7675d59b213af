"""Alignment of faces by five landmarks to the 112 × 112 crops that ArcFace networks expect."""

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float, UInt8
from PIL import Image

SIZE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""ArcFace's landmarks in a crop of 112 × 112: left eye, right eye, nose, left and right corner of the mouth, as seen in
the picture; x, y in pixels, where (0, 0) is the centre of the first pixel."""

Border = Literal["black", "edge"]
"""How a picture continues beyond its edge: black, as in InsightFace, or with its last pixels repeated."""


class AlignmentError(ValueError):
    """The landmarks of a face coincide, so they define no scale and no angle."""


def align(
    picture: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "F 5 2"], border: Border = "black"
) -> UInt8[np.ndarray, "F 112 112 3"]:
    """Crops F faces from an RGB picture so that their landmarks (x, y in pixels) lie where ``TEMPLATE`` has them.

    If a face is at least twice as large as its crop, the picture is first halved, repeatedly if necessary, because
    bilinear interpolation alone would skip pixels.

    Raises:
        AlignmentError: the five points of a face coincide, or are not finite.
    """
    scale, shift = similarity(points, TEMPLATE)
    reduced = {1: picture}
    faces = np.empty((len(points), SIZE, SIZE, 3), dtype=np.uint8)
    goal = np.arange(SIZE) + 1j * np.arange(SIZE)[:, None]
    for face, (a, b) in enumerate(zip(scale, shift, strict=True)):
        factor = 1
        while 2 * factor * abs(a) <= 1 and min(reduced[factor].shape[:2]) > 1:
            factor *= 2
            if factor not in reduced:
                reduced[factor] = np.asarray(Image.fromarray(reduced[factor // 2]).reduce(2))
        # Halving keeps the corner of the picture fixed, which is half a pixel before the centre of its first pixel.
        at = ((goal - b) / a + (0.5 + 0.5j)) / factor - (0.5 + 0.5j)
        faces[face] = interpolate(reduced[factor], at.real, at.imag, border)
    return faces


def interpolate(
    picture: UInt8[np.ndarray, "H W 3"], x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], border: Border
) -> UInt8[np.ndarray, "*n 3"]:
    """Samples a picture between its pixels by bilinear interpolation.

    ``scipy.ndimage.map_coordinates`` is no faster, and rounds otherwise: the recorded face vectors would change.
    """
    height, width, _ = picture.shape
    x, y = np.clip(x, -1, width), np.clip(y, -1, height)  # so that no index overflows
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    total = np.zeros((*left.shape, 3), np.float32)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = np.clip(1 - abs(y - row), 0, 1) * np.clip(1 - abs(x - column), 0, 1)
            if border == "black":
                weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            total += weight.astype(np.float32)[..., None] * picture[row.clip(0, height - 1), column.clip(0, width - 1)]
    return np.rint(total).astype(np.uint8)


def resize(
    picture: UInt8[np.ndarray, "H W 3"], size: int, box: tuple[int, int, int, int] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes a picture, or the box (x1, y1, x2, y2) of it, to size × size by bilinear interpolation.

    Unlike Pillow it does not average when it shrinks: MTCNN was trained on such crops.
    """
    x1, y1, x2, y2 = box or (0, 0, picture.shape[1], picture.shape[0])
    x, y = ((np.arange(size) + 0.5) * (end - start) / size - 0.5 for start, end in ((x1, x2), (y1, y2)))
    x, y = x.clip(0, x2 - x1 - 1) + x1, y.clip(0, y2 - y1 - 1) + y1
    return interpolate(picture, *np.meshgrid(x, y), "edge")


def similarity(
    points: Float[np.ndarray, "F n 2"], target: Float[np.ndarray, "n 2"]
) -> tuple[Complex[np.ndarray, " F"], Complex[np.ndarray, " F"]]:
    """Fits a similarity transform z → a z + b, z = x + iy, from each set of points to the target by least squares.

    Multiplication by a complex number rotates and scales, so this is Umeyama's solution (IEEE TPAMI 13(4), 1991) in the
    plane, in closed form.

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
        raise AlignmentError(f"points: face {face} has {points[face].tolist()}, expected five distinct places")
    return a, goal.mean() - a * middle
