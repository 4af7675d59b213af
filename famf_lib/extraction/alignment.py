"""Faces turned, scaled and shifted to one place by five points: the 112 × 112 pictures that ArcFace networks expect."""

import numpy as np
from jaxtyping import Complex, Float, UInt8
from PIL import Image

SIZE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace has the points in a picture of 112 × 112: left eye, right eye, nose, left and right corner of the
mouth, as seen in the picture; x, y in pixels, the middle of the first pixel being (0, 0)."""


class AlignmentError(ValueError):
    """Points that lie in one place tell no size and no angle."""


def align(
    picture: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "F 5 2"], size: int = SIZE
) -> UInt8[np.ndarray, "F size size 3"]:
    """The F faces of an RGB picture, each with its five points (x, y in pixels) where ``TEMPLATE`` has them.

    Interpolated between four pixels. What is larger than twice its place is halved first, as often as it takes: between
    neighbours only, much of it would be skipped. Beyond the picture's edge there is black.

    Raises:
        AlignmentError: the five points of a face coincide, or are not finite.
    """
    scale, shift = similarity(points, TEMPLATE * (size / SIZE))
    original = Image.fromarray(picture)
    reduced = {1: original}
    faces = np.empty((len(points), size, size, 3), dtype=np.uint8)
    for face, (a, b) in enumerate(zip(scale, shift, strict=True)):
        factor = 1
        while 2 * factor * abs(a) <= 1:
            factor *= 2
            if factor not in reduced:
                reduced[factor] = reduced[factor // 2].reduce(2)
        # From a pixel of the face back to one of the picture. Pillow counts from the corner of the first pixel.
        inverse, half = 1 / a, 0.5 + 0.5j
        start = (half - (half + b) * inverse) / factor
        inverse /= factor
        rows = (inverse.real, -inverse.imag, start.real, inverse.imag, inverse.real, start.imag)
        faces[face] = reduced[factor].transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return faces


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
        raise AlignmentError(f"points: face {int(good.argmin())} has {points[good.argmin()].tolist()}, expected a face")
    return a, goal.mean() - a * middle
