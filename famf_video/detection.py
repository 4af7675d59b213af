"""Face detectors: the boxes and landmarks of the faces in a picture. MTCNN and SCRFD, from ONNX files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

from famf_video import registry
from famf_video.onnx import OnnxError, OnnxModel

NAMES = ("mtcnn_pnet.onnx", "mtcnn_rnet.onnx", "mtcnn_onet.onnx")
ENTRIES = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet")
ONET = [(None, 3, 48, 48)], [(None, 2), (None, 4), (None, 10)]  # inputs and outputs of O-Net
MIN_FACE = 40  # pixels
THRESHOLDS = (0.6, 0.7, 0.8)  # the least probability after each network of MTCNN
FACTOR = 0.709  # the ratio of MTCNN's successive scales
CROPS = 256  # candidates in one call of a network
SIDE = 640  # of SCRFD's input, if the file leaves it open


@dataclass(frozen=True)
class Detections:
    """The F faces of a picture, in pixels of it, by falling score.

    ``boxes`` are x1, y1, x2, y2 within the picture; ``points`` are left eye, right eye, nose, left and right corner of
    the mouth, as seen in the picture (x, y); ``scores`` lie between 0 and 1.
    """

    boxes: Float32[np.ndarray, "F 4"]
    scores: Float32[np.ndarray, " F"]
    points: Float32[np.ndarray, "F 5 2"]

    def __len__(self) -> int:
        return len(self.scores)


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces. ``checksum`` identifies the detector and its settings."""

    checksum: str

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """Finds the faces of an RGB picture."""
        ...


def detector(name: str | Path, min_face: int = MIN_FACE) -> FaceDetector:
    """Opens a detector: "mtcnn" from the registry, the folder of its three files, or an SCRFD file.

    Raises:
        OnnxError, RegistryError: there is no such model, or it is a different one.
    """
    if Path(name).is_dir():
        return MTCNN(*(Path(name) / file for file in NAMES), min_face=min_face)
    if str(name) == "mtcnn":
        return MTCNN(*map(registry.find, ENTRIES), min_face=min_face)
    return SCRFD(registry.find(name), min_face=min_face)


# --- MTCNN -----------------------------------------------------------------------------------------------------------


class MTCNN:
    """Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (2016).

    P-Net scans the picture at every scale; R-Net and O-Net examine the remaining candidates. The files hold the
    networks, fed with BGR scaled to (x − 127.5) / 128; this class does what happens between them. Several threads may
    call ``detect`` at once, each with a picture of its own.

    Args:
        pnet, rnet, onet: the three files.
        min_face: the side of the smallest face to find, in pixels.

    Raises:
        OnnxError: a file is no such network.
    """

    def __init__(self, pnet: Path, rnet: Path, onet: Path, *, min_face: int = MIN_FACE):
        self.pnet = OnnxModel(pnet, [(None, 3, None, None)], [(None, 2, None, None), (None, 4, None, None)], threads=1)
        self.rnet = OnnxModel(rnet, [(None, 3, 24, 24)], [(None, 2), (None, 4)], threads=1)
        self.onet = OnnxModel(onet, *ONET, threads=1)
        self.min_face = min_face
        files = [registry.checksum(model.path)[:16] for model in (self.pnet, self.rnet, self.onet)]
        self.checksum = f"mtcnn {' '.join(files)} {min_face} {THRESHOLDS} {FACTOR}"

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        image = Image.fromarray(picture)
        found = [(np.empty((0, 4)), np.empty(0)), *(self._propose(image, scale) for scale in self._scales(image.size))]
        boxes, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        boxes = _square(boxes[non_maximum_suppression(boxes, scores, 0.7)])

        scores, moves = self._classify(self.rnet, image, boxes, 24)
        sure = scores > THRESHOLDS[1]
        boxes, scores = _moved(boxes[sure], moves[sure]), scores[sure]
        boxes = _square(boxes[non_maximum_suppression(boxes, scores, 0.7)])

        scores, moves, places = self._classify(self.onet, image, boxes, 48)
        sure = scores > THRESHOLDS[2]
        boxes, scores, places = boxes[sure], scores[sure], places[sure]
        points = boxes[:, None, :2] + onet_points(places) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        boxes = _moved(boxes, moves[sure])
        kept = non_maximum_suppression(boxes, scores, 0.7, of_smaller=True)
        return _detections(boxes[kept], scores[kept], points[kept], image.size)

    def _scales(self, size: tuple[int, int]) -> Iterator[float]:
        scale = 12 / self.min_face
        while min(size) * scale >= 12:
            yield scale
            scale *= FACTOR

    def _propose(self, image: Image.Image, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """P-Net's boxes (n, 4) and probabilities (n,) at one scale; its fields are 12 × 12 pixels at a stride of 2."""
        width, height = (-int(-side * scale // 1) for side in image.size)
        probability, moves = self.pnet(bgr([image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)]))
        rows, columns = np.nonzero(probability[0, 1] > THRESHOLDS[0])
        corner = 2 * np.stack([columns, rows], axis=1) + 1
        boxes = np.concatenate([corner, corner + 12], axis=1) / scale
        scores = probability[0, 1, rows, columns]
        kept = non_maximum_suppression(boxes, scores, 0.5)
        return _moved(boxes[kept], moves[0][:, rows, columns].T[kept]), scores[kept]

    def _classify(
        self, network: OnnxModel, image: Image.Image, boxes: Float[np.ndarray, "n 4"], side: int
    ) -> list[np.ndarray]:
        """Runs R-Net or O-Net on n boxes: the probability of a face (n,), then the other outputs."""
        given = [[np.empty((0, width), np.float32) for width in (2, 4, 10)[: len(network.outputs)]]]
        for start in range(0, len(boxes), CROPS):
            corners = [tuple(map(int, box.round())) for box in boxes[start : start + CROPS]]
            crops = [image.crop(box).resize((side, side), Image.Resampling.BILINEAR) for box in corners]  # black beyond
            given.append(network(bgr(crops)))
        probability, *further = (np.concatenate(part) for part in zip(*given, strict=True))
        return [probability[:, 1], *further]


def bgr(pictures: list[Image.Image] | list[np.ndarray]) -> Float32[np.ndarray, "n 3 h w"]:
    """RGB pictures of one size as the networks of MTCNN take them."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])[..., ::-1]
    return np.ascontiguousarray(((pixels.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2))


def onet_points(places: Float[np.ndarray, "*n 10"]) -> Float[np.ndarray, "*n 5 2"]:
    """Turns O-Net's five x and five y, as fractions of its square, into points."""
    return places.reshape(*places.shape[:-1], 2, 5).swapaxes(-1, -2)


def _moved(boxes: Float[np.ndarray, "n 4"], moves: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Moves the corners of boxes by fractions of their width and height."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _square(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Squares with the same centres and the longer sides, at least one pixel."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=1)[:, None] / 2, 0.5)
    return np.concatenate([middle - half, middle + half], axis=1)


# --- SCRFD -----------------------------------------------------------------------------------------------------------


class SCRFD:
    """Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (2021), InsightFace's export.

    The picture is scaled to fit into the upper left of the input; (x − 127.5) / 128 in RGB. The outputs are scores,
    boxes and points, each at strides of 8, 16, 32 … pixels, with one row for each anchor of each cell, cells row by
    row. Boxes are distances to the four sides, points are offsets from the centre of the cell, both in strides.

    Args:
        path: of the file.
        min_face: the longer side of the smallest face to keep, in pixels.
        threshold: the least score.

    Raises:
        OnnxError: the file is no such network, or has no points.
    """

    def __init__(self, path: Path, *, min_face: int = MIN_FACE, threshold: float = 0.5):
        self.model = _scrfd(path)
        self.strides = [8 << level for level in range(len(self.model.outputs) // 3)]
        self.min_face, self.threshold = min_face, threshold
        _, _, height, width = self.model.inputs[0][1]
        self.size = (width or SIDE, height or SIDE)
        self.checksum = f"scrfd {registry.checksum(path)[:16]} {min_face} {threshold} {self.size}"

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        height, width = picture.shape[:2]
        scale = min(self.size[0] / width, self.size[1] / height)
        inner = max(round(width * scale), 1), max(round(height * scale), 1)
        canvas = Image.new("RGB", self.size)
        canvas.paste(Image.fromarray(picture).resize(inner, Image.Resampling.BILINEAR))
        given = (np.asarray(canvas, np.float32) - 127.5) / 128
        outputs = [part.reshape(-1, part.shape[-1]) for part in self.model(given.transpose(2, 0, 1)[None].copy())]

        levels = []
        for level, stride in enumerate(self.strides):
            score, sides, offsets = outputs[level :: len(self.strides)]
            sure = np.flatnonzero(score[:, 0] >= self.threshold)
            centre = self._centres(stride, len(score))[sure]
            near, far = sides[sure, :2] * stride, sides[sure, 2:] * stride
            box = np.concatenate([centre - near, centre + far], axis=1)
            levels.append((box, score[sure, 0], centre[:, None] + offsets[sure].reshape(-1, 5, 2) * stride))
        boxes, scores, points = (np.concatenate(part) for part in zip(*levels, strict=True))
        boxes, points = boxes / scale, points / scale
        large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) >= self.min_face)
        kept = large[non_maximum_suppression(boxes[large], scores[large], 0.4)]
        return _detections(boxes[kept], scores[kept], points[kept], (width, height))

    def _centres(self, stride: int, rows: int) -> Int[np.ndarray, "rows 2"]:
        """The centre of the cell of each row of an output, in pixels of the input."""
        across, down = -(-self.size[0] // stride), -(-self.size[1] // stride)
        anchors, odd = divmod(rows, across * down)
        if odd or not anchors:
            expected = f"a multiple of {across} × {down} cells of {stride} pixels"
            raise OnnxError(f"{self.model.path}: an output of {rows} rows found, expected {expected}")
        cells = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2) * stride
        return cells.repeat(anchors, axis=0)


def _scrfd(path: Path) -> OnnxModel:
    """Opens the model with its 3 × 3 or 3 × 5 outputs, which in some exports have a batch dimension."""
    faults = []
    for levels in (3, 5):
        for batch in ((), (1,)):
            outputs = [(*batch, None, width) for width in (1, 4, 10) for _ in range(levels)]
            try:
                return OnnxModel(path, [(None, 3, None, None)], outputs, threads=1)
            except OnnxError as error:
                faults.append(error)
    raise faults[0]


# --- shared ----------------------------------------------------------------------------------------------------------


def overlap(
    boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"], *, of_smaller: bool = False
) -> Float[np.ndarray, "n m"]:
    """Computes the intersection over union of each pair of boxes, or the intersection over the smaller of the two."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    area, other = ((part[:, 2:] - part[:, :2]).prod(axis=-1) for part in (boxes, others))
    whole = np.minimum.outer(area, other) if of_smaller else np.add.outer(area, other) - common
    return common / np.maximum(whole, 1e-9)


def non_maximum_suppression(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], limit: float, *, of_smaller: bool = False
) -> Int[np.ndarray, " kept"]:
    """Returns the rows to keep, best first: none overlaps a better one by more than ``limit``."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlap(boxes[best : best + 1], boxes[order], of_smaller=of_smaller)[0] <= limit]
    return np.array(kept, dtype=np.int64)


def _detections(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> Detections:
    """Clips the boxes to the picture and drops faces outside it, and those whose points coincide."""
    boxes = np.clip(boxes, 0, np.tile(size, 2))
    real = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (np.ptp(points, axis=1) > 1).all(axis=1)
    return Detections(*(part[real].astype(np.float32) for part in (boxes, scores, points)))
