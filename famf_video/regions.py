"""Head and body: their boxes, derived from the face, and the vectors that a network for pictures gives them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from famf_video.onnx import OnnxEmbedder

REGIONS = {"head": (-0.3, -0.45, 1.3, 1.15), "body": (-1.0, -0.45, 2.0, 7.0)}
"""Left, top, right and bottom in widths and heights of the face box, from its upper left corner.

The box of a face reaches from the eyebrows or the forehead to the chin and from temple to temple. The head adds hair,
ears and chin. The body follows the proportions of figure drawing: shoulders three faces wide, and seven and a half
heads tall, where a head is about as tall as a face box. Spread arms lie outside.
"""

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SIDE = 224


@runtime_checkable
class ImageEmbedder(Protocol):
    """Turns pictures into vectors. ``checksum`` identifies the embedder: vectors of two embedders do not mix."""

    dim: int
    checksum: str

    def embed(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n D"]:
        """Computes the vectors of RGB pictures of any sizes."""
        ...


def region(boxes: Float[np.ndarray, "F 4"], which: str, size: tuple[int, int]) -> Float[np.ndarray, "F 4"]:
    """Computes the boxes of heads or bodies from those of faces, clipped to a picture of that width and height."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.clip(np.tile(boxes[:, :2], 2) + np.array(REGIONS[which]) * sides, 0, np.tile(size, 2))


def cut_out(picture: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the part of a picture in a box, at least one pixel."""
    x1, y1, x2, y2 = box.round().astype(int)
    x1, y1 = min(x1, picture.shape[1] - 1), min(y1, picture.shape[0] - 1)
    return picture[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]


class OnnxImages(OnnxEmbedder):
    """A network for pictures in an ONNX file, N × 3 × H × W → N × D, normalised as for ImageNet: RGB, 0 to 1, minus
    (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225).

    A side that the file leaves open is 224. Heads and bodies are stretched to H × W, as networks for re-identification
    expect them.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str):
        super().__init__(path, (None, 3, None, None), [np.zeros((1, 1, 3), np.uint8)])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input."""
        _, _, height, width = self.model.inputs[0][1]
        return width or SIDE, height or SIDE

    def prepare(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n 3 h w"]:
        resized = [Image.fromarray(np.ascontiguousarray(p)).resize(self.size, Image.Resampling.BILINEAR)
                   for p in pictures]  # fmt: skip
        return ((np.stack(resized).astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)
