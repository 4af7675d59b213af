"""From faces in pictures to tracks: which faces are one person's, until the picture is cut to another."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from famf_video.detection import overlap

LINK = 0.6  # least overlap plus cosine of a face and the track that it goes on with
GAP = 1.0  # seconds for which a track waits for its next face
CUT = 0.5  # share of colours in common below which two pictures are of different shots
COLOURS, BLUR = 16, 1.5  # steps of each of red, green and blue, and how many of them count as neighbours


@dataclass(eq=False)
class Track:
    """The faces of one person in one shot. ``presence`` is the area of the face over time, in pixels² · seconds.

    The faces themselves are kept by who asked: this is what is needed to go on with the track, and to compare it.
    """

    number: int
    time: float
    box: Float[np.ndarray, " 4"]
    total: Float[np.ndarray, " D"] = field(repr=False)  # of its unit vectors
    faces: int = 1
    presence: float = 0.0
    largest: float = 0.0

    @property
    def rank(self) -> tuple[float, float, int]:
        """The main person's track has the greatest: most area of the face over time. Where nobody lasts for two
        pictures, the largest face decides, and then who came first."""
        return self.presence, self.largest, -self.number


class Tracker:
    """Joins faces to tracks, picture by picture, by overlap of boxes and likeness of vectors.

    Faces and running tracks are paired so that the sum of overlap (IoU with the track's last box) and cosine (with the
    mean of its unit vectors) is largest: the assignment problem, solved exactly. A pair below ``link`` is none: the
    face begins a track. A track that has seen no face for ``gap`` seconds is over, and all are at a cut.
    """

    def __init__(self, link: float = LINK, gap: float = GAP):
        self.link, self.gap = link, gap
        self.running: list[Track] = []
        self._over: list[Track] = []
        self._begun = 0

    def add(
        self, time: float, boxes: Float[np.ndarray, "F 4"], vectors: Float[np.ndarray, "F D"], cut: bool = False
    ) -> Int[np.ndarray, " F"]:
        """The number of the track of each face of the next picture.

        Args:
            time: of the picture in seconds, later than the one before.
            cut: this picture is of another shot than the one before.
        """
        goes_on = [not cut and time - track.time <= self.gap for track in self.running]
        self._over += [track for track, on in zip(self.running, goes_on, strict=True) if not on]
        self.running = [track for track, on in zip(self.running, goes_on, strict=True) if on]
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        numbers = np.full(len(boxes), -1)
        if self.running and len(boxes):
            total = np.stack([track.total for track in self.running])
            mean = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
            likeness = overlap(boxes, np.stack([track.box for track in self.running])) + unit @ mean.T
            # What is no pair must not keep two real pairs apart: it counts as nothing gained.
            for face, row in zip(*linear_sum_assignment(np.maximum(likeness, self.link), maximize=True), strict=True):
                if likeness[face, row] > self.link:
                    self._go_on(self.running[row], time, boxes[face], unit[face])
                    numbers[face] = self.running[row].number
        for face in np.flatnonzero(numbers < 0):
            self.running.append(Track(self._begun, time, boxes[face], unit[face], largest=_area(boxes[face])))
            numbers[face] = self._begun
            self._begun += 1
        return numbers

    def over(self, ended: bool = False) -> list[Track]:
        """The tracks that are over since this was last asked for; where the video has ``ended``, all are."""
        found, self._over = self._over, []
        if ended:
            found, self.running = found + self.running, []
        return found

    def _go_on(self, track: Track, time: float, box: np.ndarray, unit: np.ndarray) -> None:
        area = _area(box)
        track.presence += (_area(track.box) + area) / 2 * (time - track.time)
        track.time, track.box, track.total = time, box, track.total + unit
        track.largest, track.faces = max(track.largest, area), track.faces + 1


def _area(box: Float[np.ndarray, " 4"]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def colours(picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "16 16 16"]:
    """The shares of colours in a picture. A colour counts for its neighbours too: a little more light is no cut."""
    small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX), dtype=np.int64)
    steps = (small * COLOURS // 256).reshape(-1, 3)
    codes = np.ravel_multi_index(tuple(steps.T), (COLOURS,) * 3)
    shares = np.bincount(codes, minlength=COLOURS**3).reshape((COLOURS,) * 3).astype(np.float64)
    shares = ndimage.gaussian_filter(shares, BLUR, mode="constant")
    return shares / shares.sum()


def is_cut(before: Float[np.ndarray, "16 16 16"], now: Float[np.ndarray, "16 16 16"]) -> bool:
    """Whether two successive pictures have less than half of their colours in common.

    Movement changes where colours are, a cut which there are. A cut between like pictures is missed; there the vectors
    of the faces keep persons apart.
    """
    return bool(np.minimum(before, now).sum() < CUT)
