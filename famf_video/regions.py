"""Head and body: where they are, told by the face, and what a network for pictures makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from famf_video import registry
from famf_video.onnx import OnnxModel

REGIONS = {"head": (-0.3, -0.45, 1.3, 1.15), "body": (-1.0, -0.45, 2.0, 7.0)}
"""Left, top, right and bottom in widths and heights of the face box, from its upper left corner.

A detector's face reaches from the eyebrows or the forehead to the chin and from temple to temple. The head adds hair,
ears and chin. The body is as a draughtsman draws it: shoulders three faces wide, head and body seven and a half heads
tall, a head being about as tall as a face box. Arms that are spread lie outside.
"""

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SIDE = 224
BATCH = 8


@runtime_checkable
class ImageEmbedder(Protocol):
    """What turns pictures into vectors. ``checksum`` tells one from another: their vectors do not mix."""

    dim: int
    checksum: str

    def embed(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n D"]:
        """The vectors of RGB pictures of any sizes."""
        ...


def region(boxes: Float[np.ndarray, "F 4"], which: str, size: tuple[int, int]) -> Float[np.ndarray, "F 4"]:
    """The boxes of heads or bodies from those of faces, cut at the edges of a picture of that width and height."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.clip(np.tile(boxes[:, :2], 2) + np.array(REGIONS[which]) * sides, 0, np.tile(size, 2))


def cut_out(picture: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a picture in a box, a pixel at least."""
    x1, y1, x2, y2 = box.round().astype(int)
    x1, y1 = min(x1, picture.shape[1] - 1), min(y1, picture.shape[0] - 1)
    return picture[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]


class OnnxImages:
    """A network in an ONNX file that takes pictures, N × 3 × H × W → N × D, prepared as for ImageNet: RGB, 0 to 1,
    less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).

    A side that the file leaves open is 224. Heads and bodies are stretched to H × W, as networks for re-identification
    expect them.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str, threads: int = 0):
        self.model = OnnxModel(path, [(None, 3, None, None)], [(None, None)], threads)
        _, _, height, width = self.model.inputs[0][1]
        self.size = (width or SIDE, height or SIDE)
        self.checksum = registry.checksum(self.model.path)
        self.dim = self._run([np.zeros((1, 1, 3), np.uint8)]).shape[1]

    def embed(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n D"]:
        size = self.model.batch or BATCH
        found = [self._run(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)

    def _run(self, pictures: Sequence[np.ndarray]) -> Float32[np.ndarray, "n D"]:
        width, height = self.size
        given = np.zeros((self.model.batch or len(pictures), 3, height, width), np.float32)
        for row, picture in enumerate(pictures):
            pixels = Image.fromarray(np.ascontiguousarray(picture)).resize(self.size, Image.Resampling.BILINEAR)
            given[row] = ((np.asarray(pixels, np.float32) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)
        return self.model(given)[0][: len(pictures)]
