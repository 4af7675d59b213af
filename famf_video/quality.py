"""The quality of a face as a camera and a detector give it, 0 to 1: is it sharp, large, turned to us, surely a face?

It needs no network. What *face vectors* tell of quality, by their length, is another matter (``datasets.quality``).
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from famf_video.alignment import SIZE, TEMPLATE, similarity

HALF_SHARP = 0.03  # what counts as half sharp: the median of the aligned faces of IMFDB
PIXELS = (64, 80)  # of a face in its own box
PARTS = ("detection", "sharpness", "size", "frontality")


def quality(
    faces: UInt8[np.ndarray, "F 112 112 3"], points: Float[np.ndarray, "F 5 2"], scores: Float[np.ndarray, " F"]
) -> Float[np.ndarray, " F"]:
    """The geometric mean of the four parts of a face: 0 where one of them is 0, 1 where all are 1.

    Args:
        faces: aligned, in RGB.
        points: of each in its picture, as ``alignment.align`` takes them.
        scores: of the detector, 0 to 1.
    """
    parts = quality_parts(faces, points, scores)
    return np.prod([parts[name] for name in PARTS], axis=0) ** (1 / len(PARTS))


def quality_parts(
    faces: UInt8[np.ndarray, "F 112 112 3"], points: Float[np.ndarray, "F 5 2"], scores: Float[np.ndarray, " F"]
) -> dict[str, Float[np.ndarray, " F"]]:
    """What the quality is made of, each 0 to 1.

    ``detection`` is the detector's score. ``sharpness`` is s / (s + 0.03), s being what ``sharpness`` gives for the
    aligned face. ``size`` is how many of the 112 pixels of a side the picture really has, from the distances of the
    five points; more count as 1. ``frontality`` falls from 1 to 0 as the nose leaves the middle between the eyes,
    measured along the line of the eyes, and reaches 0 where it lies below an eye.
    """
    scale, _ = similarity(points, TEMPLATE)
    sharp = np.array([sharpness(Image.fromarray(face), (SIZE, SIZE)) for face in faces])
    left, right, nose = (points[:, n, 0] + 1j * points[:, n, 1] for n in range(3))
    # Along the line of the eyes: -1 below the left eye, 0 in the middle, 1 below the right one.
    apart = np.where(left == right, np.inf, right - left)
    aside = np.where(left == right, 1.0, ((2 * nose - left - right) / apart).real)
    return {
        "detection": np.clip(scores, 0, 1).astype(np.float64),
        "sharpness": sharp.astype(np.float64) / (sharp + HALF_SHARP),
        "size": np.minimum(1 / abs(scale), 1.0),
        "frontality": np.clip(1 - abs(aside), 0, 1),
    }


def sharpness(picture: Image.Image, pixels: tuple[int, int] = PIXELS) -> float:
    """How sharp a picture is: the variance of its Laplacian at so many pixels, over the variance of its grey values.

    Divided by the latter, so that a picture of little contrast does not pass for a blurred one. 0 for an even grey.
    """
    grey = np.asarray(picture.convert("L").resize(pixels, Image.Resampling.LANCZOS), dtype=np.float64)
    return float(ndimage.laplace(grey).var() / max(grey.var(), 1e-9))
