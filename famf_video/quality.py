"""The quality of a face in a picture, 0 to 1: is it sharp, large, frontal, and certainly a face?

No network is needed. What the length of a *face vector* says about quality is a separate matter (``datasets.quality``).
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from famf_video.alignment import SIZE, TEMPLATE, similarity

HALF_SHARP = 0.03  # the sharpness that scores one half: the median of the aligned faces of IMFDB
PIXELS = (64, 80)  # to which the crop of a face is resized before its sharpness is measured
PARTS = ("detection", "sharpness", "size", "frontality")


def quality(
    faces: UInt8[np.ndarray, "F 112 112 3"], points: Float[np.ndarray, "F 5 2"], scores: Float[np.ndarray, " F"]
) -> Float[np.ndarray, " F"]:
    """Computes the quality of faces as the geometric mean of the four parts of ``quality_parts``.

    Args:
        faces: aligned, in RGB.
        points: the landmarks in the picture, as ``alignment.align`` takes them.
        scores: of the detector, 0 to 1.
    """
    parts = quality_parts(faces, points, scores)
    return np.prod([parts[name] for name in PARTS], axis=0) ** (1 / len(PARTS))


def quality_parts(
    faces: UInt8[np.ndarray, "F 112 112 3"], points: Float[np.ndarray, "F 5 2"], scores: Float[np.ndarray, " F"]
) -> dict[str, Float[np.ndarray, " F"]]:
    """Computes the four parts of the quality, each 0 to 1.

    ``detection`` is the detector's score. ``sharpness`` is s / (s + 0.03), where s is the ``sharpness`` of the aligned
    face. ``size`` is the side of the face in the picture as a share of 112 pixels, at most 1, from the distances
    between the landmarks. ``frontality`` falls from 1 to 0 as the nose moves from the middle between the eyes to below
    one of them, measured along the line through the eyes.
    """
    scale, _ = similarity(points, TEMPLATE)
    sharp = np.array([sharpness(Image.fromarray(face), (SIZE, SIZE)) for face in faces])
    left, right, nose = (points[:, n, 0] + 1j * points[:, n, 1] for n in range(3))
    # Along the line through the eyes: -1 below the left eye, 0 in the middle, 1 below the right eye.
    apart = np.where(left == right, np.inf, right - left)
    offset = np.where(left == right, 1.0, ((2 * nose - left - right) / apart).real)
    return {
        "detection": np.clip(scores, 0, 1).astype(np.float64),
        "sharpness": sharp.astype(np.float64) / (sharp + HALF_SHARP),
        "size": np.minimum(1 / abs(scale), 1.0),
        "frontality": np.clip(1 - abs(offset), 0, 1),
    }


def sharpness(picture: Image.Image, pixels: tuple[int, int] = PIXELS) -> float:
    """Computes sharpness: the variance of the Laplacian of the resized picture, divided by that of its grey values.

    The division keeps a picture of low contrast from counting as blurred. The sharpness of a uniform grey is 0.
    """
    grey = np.asarray(picture.convert("L").resize(pixels, Image.Resampling.LANCZOS), dtype=np.float64)
    return float(ndimage.laplace(grey).var() / max(grey.var(), 1e-9))
