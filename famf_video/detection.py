"""Face detectors: where the faces of a picture are, with five points of each. MTCNN and SCRFD, as ONNX files."""

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
MIN_FACE = 40  # pixels
CROPS = 256  # candidates that a network sees together


@dataclass(frozen=True)
class Detections:
    """The F faces of a picture, the most probable first, in pixels of it.

    ``boxes`` are x1, y1, x2, y2 within the picture; ``points`` left eye, right eye, nose, left and right corner of the
    mouth, as seen in the picture (x, y); ``scores`` lie between 0 and 1.
    """

    boxes: Float32[np.ndarray, "F 4"]
    scores: Float32[np.ndarray, " F"]
    points: Float32[np.ndarray, "F 5 2"]

    def __len__(self) -> int:
        return len(self.scores)


@runtime_checkable
class FaceDetector(Protocol):
    """What finds faces. ``checksum`` tells one detector, with its settings, from another."""

    checksum: str

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """The faces of an RGB picture."""
        ...


def detector(name: str | Path, min_face: int = MIN_FACE) -> FaceDetector:
    """The detector that a user means: "mtcnn" from the registry, the folder of its three files, or an SCRFD file.

    Raises:
        OnnxError, RegistryError: there is no such model, or it is another one.
    """
    if Path(name).is_dir():
        return MTCNN(*(Path(name) / file for file in NAMES), min_face=min_face)
    if str(name) == "mtcnn":
        return MTCNN(*map(registry.find, ENTRIES), min_face=min_face)
    return SCRFD(registry.find(name), min_face=min_face)


# --- MTCNN -----------------------------------------------------------------------------------------------------------


class MTCNN:
    """Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (2016).

    P-Net looks at every place of the picture at every size, R-Net and O-Net look again at what is left. The files hold
    the networks, in BGR, scaled to (x − 127.5) / 128; what happens between them is worked out here.

    Args:
        pnet, rnet, onet: the three files.
        min_face: the side of the smallest face that is looked for, in pixels.
        thresholds: the least probability after each network.
        factor: between neighbouring sizes.
        threads: that one picture uses. Several pictures may be looked at at once.

    Raises:
        OnnxError: a file is no such network.
    """

    def __init__(
        self,
        pnet: Path,
        rnet: Path,
        onet: Path,
        *,
        min_face: int = MIN_FACE,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.8),
        factor: float = 0.709,
        threads: int = 1,
    ):
        self.pnet = OnnxModel(pnet, [(None, 3, None, None)], [(None, 2, None, None), (None, 4, None, None)], threads)
        self.rnet = OnnxModel(rnet, [(None, 3, 24, 24)], [(None, 2), (None, 4)], threads)
        self.onet = OnnxModel(onet, [(None, 3, 48, 48)], [(None, 2), (None, 4), (None, 10)], threads)
        self.min_face, self.thresholds, self.factor = min_face, thresholds, factor
        files = [registry.checksum(model.path)[:16] for model in (self.pnet, self.rnet, self.onet)]
        self.checksum = f"mtcnn {' '.join(files)} {min_face} {thresholds} {factor}"

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        image = Image.fromarray(picture)
        found = [self._propose(image, scale) for scale in self._scales(image.size)]
        boxes, scores = (np.concatenate(part) for part in zip(*found, strict=True)) if found else _nothing()
        kept = suppressed(boxes, scores, 0.7)
        boxes = _square(boxes[kept])

        scores, moves = self._look(self.rnet, image, boxes, 24)
        sure = scores > self.thresholds[1]
        boxes, scores = _moved(boxes[sure], moves[sure]), scores[sure]
        boxes = _square(boxes[suppressed(boxes, scores, 0.7)])

        scores, moves, places = self._look(self.onet, image, boxes, 48)
        sure = scores > self.thresholds[2]
        boxes, scores, places = boxes[sure], scores[sure], places[sure]
        points = places.reshape(-1, 2, 5).transpose(0, 2, 1)  # five x, then five y, as parts of the square box
        points = boxes[:, None, :2] + points * (boxes[:, 2:] - boxes[:, :2])[:, None]
        boxes = _moved(boxes, moves[sure])
        return _detections(boxes, scores, points, suppressed(boxes, scores, 0.7, of_smaller=True), image.size)

    def _scales(self, size: tuple[int, int]) -> Iterator[float]:
        scale = 12 / self.min_face
        while min(size) * scale >= 12:
            yield scale
            scale *= self.factor

    def _propose(self, image: Image.Image, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) and probabilities (n,) of P-Net, whose fields are 12 × 12 pixels and 2 apart, at one scale."""
        width, height = (-int(-side * scale // 1) for side in image.size)
        small = _bgr([image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)])
        probability, moves = self.pnet(small)
        rows, columns = np.nonzero(probability[0, 1] > self.thresholds[0])
        corner = 2 * np.stack([columns, rows], axis=1) + 1
        boxes = np.concatenate([corner, corner + 12], axis=1) / scale
        scores = probability[0, 1, rows, columns]
        kept = suppressed(boxes, scores, 0.5)
        return _moved(boxes[kept], moves[0][:, rows, columns].T[kept]), scores[kept]

    def _look(
        self, network: OnnxModel, image: Image.Image, boxes: Float[np.ndarray, "n 4"], side: int
    ) -> list[np.ndarray]:
        """What a network says of n boxes: the probability of a face (n,), and its further outputs."""
        given: list[list[np.ndarray]] = []
        for start in range(0, len(boxes), CROPS):
            corners = [tuple(map(int, box.round())) for box in boxes[start : start + CROPS]]
            crops = [image.crop(box).resize((side, side), Image.Resampling.BILINEAR) for box in corners]  # black beyond
            given.append(network(_bgr(crops)))
        if not given:
            return [np.empty((0, *shape), np.float32) for shape in ((), (4,), (10,))][: len(network.outputs)]
        probability, *further = (np.concatenate(part) for part in zip(*given, strict=True))
        return [probability[:, 1], *further]


def _bgr(images: list[Image.Image]) -> Float32[np.ndarray, "n 3 h w"]:
    pixels = np.stack([np.asarray(image) for image in images])[..., ::-1]
    return np.ascontiguousarray(((pixels.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2))


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.empty((0, 4)), np.empty(0)


def _moved(boxes: Float[np.ndarray, "n 4"], moves: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Boxes with their corners moved by parts of their width and height."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _square(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Squares about the same middles, as large as the longer sides; at least a pixel."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=1)[:, None] / 2, 0.5)
    return np.concatenate([middle - half, middle + half], axis=1)


# --- SCRFD -----------------------------------------------------------------------------------------------------------


class SCRFD:
    """Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (2021), InsightFace's export.

    The picture, scaled to fit, lies in the upper left of the input; (x − 127.5) / 128 in RGB. The outputs are scores,
    then boxes, then points, each at steps of 8, 16, 32 … pixels: a row for each anchor of each cell, cells row by row;
    boxes as distances to the four sides and points as distances from the middle of the cell, in steps.

    Args:
        path: of the file.
        min_face: the longer side of the smallest face that is kept, in pixels.
        threshold: the least score.
        side: of the input, where the file leaves it open.
        threads: that one picture uses. Several pictures may be looked at at once.

    Raises:
        OnnxError: the file is no such network, or gives no points.
    """

    def __init__(
        self, path: Path, *, min_face: int = MIN_FACE, threshold: float = 0.5, side: int = 640, threads: int = 1
    ):
        self.model = _scrfd(path, threads)
        self.steps = [8 << level for level in range(len(self.model.outputs) // 3)]
        self.min_face, self.threshold = min_face, threshold
        _, _, height, width = self.model.inputs[0][1]
        self.size = (width or side, height or side)
        self.checksum = f"scrfd {registry.checksum(path)[:16]} {min_face} {threshold} {self.size}"

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        height, width = picture.shape[:2]
        scale = min(self.size[0] / width, self.size[1] / height)
        inner = max(round(width * scale), 1), max(round(height * scale), 1)
        canvas = Image.new("RGB", self.size)
        canvas.paste(Image.fromarray(picture).resize(inner, Image.Resampling.BILINEAR))
        given = (np.asarray(canvas, np.float32) - 127.5) / 128
        outputs = [part.reshape(-1, part.shape[-1]) for part in self.model(given.transpose(2, 0, 1)[None].copy())]

        levels, boxes, scores, points = len(self.steps), [], [], []
        for level, step in enumerate(self.steps):
            score, sides, offsets = outputs[level::levels]
            sure = np.flatnonzero(score[:, 0] >= self.threshold)
            middle = self._middles(step, len(score))[sure]
            near, far = sides[sure, :2] * step, sides[sure, 2:] * step
            boxes.append(np.concatenate([middle - near, middle + far], axis=1))
            points.append(middle[:, None] + offsets[sure].reshape(-1, 5, 2) * step)
            scores.append(score[sure, 0])
        box, score, point = np.concatenate(boxes) / scale, np.concatenate(scores), np.concatenate(points) / scale
        large = (box[:, 2:] - box[:, :2]).max(axis=1, initial=0) >= self.min_face
        box, score, point = box[large], score[large], point[large]
        return _detections(box, score, point, suppressed(box, score, 0.4), (width, height))

    def _middles(self, step: int, rows: int) -> Int[np.ndarray, "rows 2"]:
        """Where the cell of each row of an output is, in pixels of the input."""
        across, down = -(-self.size[0] // step), -(-self.size[1] // step)
        anchors, odd = divmod(rows, across * down)
        if odd or not anchors:
            expected = f"a multiple of {across} × {down} cells of {step} pixels"
            raise OnnxError(f"{self.model.path}: an output of {rows} rows found, expected {expected}")
        cells = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2) * step
        return cells.repeat(anchors, axis=0)


def _scrfd(path: Path, threads: int) -> OnnxModel:
    """The model with its 3 × 3 or 3 × 5 outputs, of which some exports have a dimension more."""
    faults = []
    for levels in (3, 5):
        for batch in ((), (1,)):
            outputs = [(*batch, None, width) for width in (1, 4, 10) for _ in range(levels)]
            try:
                return OnnxModel(path, [(None, 3, None, None)], outputs, threads)
            except OnnxError as error:
                faults.append(error)
    raise faults[0]


# --- what both need --------------------------------------------------------------------------------------------------


def overlap(
    boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"], *, of_smaller: bool = False
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each box with each other one; or over the smaller of the two."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    area, other = ((part[:, 2:] - part[:, :2]).prod(axis=-1) for part in (boxes, others))
    whole = np.minimum.outer(area, other) if of_smaller else np.add.outer(area, other) - common
    return common / np.maximum(whole, 1e-9)


def suppressed(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], limit: float, *, of_smaller: bool = False
) -> Int[np.ndarray, " kept"]:
    """Non-maximum suppression: the rows to keep, best first, none of which overlaps a better one beyond ``limit``."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlap(boxes[best : best + 1], boxes[order], of_smaller=of_smaller)[0] <= limit]
    return np.array(kept, dtype=np.int64)


def _detections(
    boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, kept: np.ndarray, size: tuple[int, int]
) -> Detections:
    """The faces to keep, their boxes cut at the picture's edges; a box beyond them is none, nor points in one place."""
    boxes, points = np.clip(boxes[kept], 0, np.tile(size, 2)), points[kept]
    real = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (np.ptp(points, axis=1) > 1).all(axis=1)
    return Detections(
        boxes[real].astype(np.float32), scores[kept][real].astype(np.float32), points[real].astype(np.float32)
    )
