"""A world in which a face is a square of one colour, with the detector and the other stages that belong to it.

The squares are found by their colours, and their vectors are those of their colours, so that everything that comes out
of a video is known beforehand.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from famf_video.clips import Stages
from famf_video.detection import Detections

SIZE = (240, 160)  # width and height
RED, GREEN, BLUE = (230, 20, 20), (20, 230, 20), (20, 20, 230)
DIM = 7
PLACES = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])  # of the five points in a box


def picture(faces, background=120):
    """``faces``: (colour, x, y, side)."""
    canvas = np.full((SIZE[1], SIZE[0], 3), background, np.uint8)
    for colour, x, y, side in faces:
        canvas[y : y + side, x : x + side] = colour
    return canvas


def looks(colour):
    """The vector of a face of this colour."""
    return np.random.default_rng(5).normal(size=(DIM, 3)) @ (np.array(colour) / 25.0 - 4)


@dataclass
class Detector:
    checksum: str = "squares"
    seen: int = 0

    def detect(self, picture):
        self.seen += 1
        boxes = []
        for channel in range(3):
            others = np.delete(picture, channel, axis=2).max(axis=2).astype(int)
            coloured = ndimage.binary_opening(picture[..., channel] > others + 100, iterations=3)
            for rows, columns in ndimage.find_objects(ndimage.label(coloured)[0]):
                boxes.append((columns.start, rows.start, columns.stop, rows.stop))
        found = np.array(boxes, np.float32).reshape(-1, 4)
        points = found[:, None, :2] + PLACES * (found[:, 2:] - found[:, :2])[:, None]
        return Detections(found, np.full(len(found), 0.9, np.float32), points.astype(np.float32))


@dataclass
class Embedder:
    dim: int = DIM
    checksum: str = "colours"

    def embed(self, faces):
        middles = [np.median(face[40:72, 40:72].reshape(-1, 3), axis=0) for face in faces]
        return np.array([looks(middle) for middle in middles], np.float32).reshape(-1, DIM)


@dataclass
class Pictures:
    """Of a picture: its width, its height and its mean."""

    dim: int = 3
    checksum: str = "sizes"

    def embed(self, pictures):
        return np.array([(p.shape[1], p.shape[0], p.mean()) for p in pictures], np.float32)


@dataclass
class Voice:
    """Of sound: how many seconds there are and how loud it is."""

    dim: int = 2
    checksum: str = "loudness"

    def embed(self, sound):
        whole = np.concatenate([np.zeros(0, np.float32), *sound])
        return np.array([len(whole) / 16_000, whole.std()], np.float32) if len(whole) else None


@dataclass
class Reader:
    """What stands in a picture is the grey of its first corner, in fifties, and "subtitle"."""

    checksum: str = "corner"

    def read(self, picture):
        return [f"grey {round(float(picture[:4, :4].mean()) / 50)}", "subtitle"]


@dataclass
class Sentences:
    dim: int = 1
    checksum: str = "length"
    given: list[str] = field(default_factory=list)

    def encode(self, text):
        self.given.append(text)
        return np.array([len(text)], np.float32)


def stages(**others):
    return Stages(**({"detector": Detector(), "embedder": Embedder()} | others))


def everything():
    return stages(head=Pictures(), body=Pictures(), speaker=Voice(), reader=Reader(), sentences=Sentences())
