"""Tracking: which faces of successive pictures belong to the same person, up to the next cut."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from famf_video.detection import overlap

LINK = 0.6  # the least sum of overlap and cosine with which a face joins a track
GAP = 1.0  # seconds for which a track waits for its next face
CUT = 0.5  # two pictures that share less than this part of their colours belong to different shots
COLOURS, BLUR = 16, 1.5  # bins for each of red, green and blue; blur of the histogram in bins


@dataclass(eq=False)
class Track:
    """A person's faces in one shot, summarised. ``presence`` is face area integrated over time, in pixels² · seconds.

    The faces themselves are kept by the caller.
    """

    number: int
    time: float
    box: Float[np.ndarray, " 4"]
    total: Float[np.ndarray, " D"] = field(repr=False)  # sum of the unit vectors
    faces: int = 1
    presence: float = 0.0
    largest: float = 0.0

    @property
    def rank(self) -> tuple[float, float, int]:
        """A sort key that is greatest for the main person: presence, then the largest face, then who came first."""
        return self.presence, self.largest, -self.number


class Tracker:
    """Links faces to tracks, picture by picture, by overlap of boxes and similarity of vectors.

    Each face is paired with at most one running track so that the sum of overlap (IoU with the track's last box) and
    cosine (with the mean of its unit vectors) is largest (Hungarian method). Pairs below ``LINK`` do not count: the
    face begins a new track. A track ends at a cut, or when it has had no face for ``GAP`` seconds.
    """

    def __init__(self):
        self.running: list[Track] = []
        self._ended: list[Track] = []
        self._begun = 0

    def add(
        self, time: float, boxes: Float[np.ndarray, "F 4"], vectors: Float[np.ndarray, "F D"], cut: bool = False
    ) -> Int[np.ndarray, " F"]:
        """Adds the faces of the next picture and returns the track number of each.

        Args:
            time: of the picture in seconds, later than the previous one.
            cut: whether this picture begins a new shot.
        """
        running: list[Track] = []
        for track in self.running:
            (self._ended if cut or time - track.time > GAP else running).append(track)
        self.running = running
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        numbers = np.full(len(boxes), -1)
        if running and len(boxes):
            total = np.stack([track.total for track in running])
            mean = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
            similarity = overlap(boxes, np.stack([track.box for track in running])) + unit @ mean.T
            # Raised to the threshold, so that a pair below it does not prevent two pairs above it.
            pairs = linear_sum_assignment(np.maximum(similarity, LINK), maximize=True)
            for face, row in zip(*pairs, strict=True):
                if similarity[face, row] > LINK:
                    _extend(running[row], time, boxes[face], unit[face])
                    numbers[face] = running[row].number
        for face in np.flatnonzero(numbers < 0):
            running.append(Track(self._begun, time, boxes[face], unit[face], largest=_area(boxes[face])))
            numbers[face] = self._begun
            self._begun += 1
        return numbers

    def over(self, ended: bool = False) -> list[Track]:
        """Returns the tracks that ended since the last call; all of them if the video has ``ended``."""
        found, self._ended = self._ended, []
        if ended:
            found, self.running = found + self.running, []
        return found


def _extend(track: Track, time: float, box: np.ndarray, unit: np.ndarray) -> None:
    area = _area(box)
    track.presence += (_area(track.box) + area) / 2 * (time - track.time)
    track.time, track.box, track.total = time, box, track.total + unit
    track.largest, track.faces = max(track.largest, area), track.faces + 1


def _area(box: Float[np.ndarray, " 4"]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def colour_histogram(picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "16 16 16"]:
    """Computes the colour histogram of a picture, blurred so that a small change of light is not a cut."""
    small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX))
    counts, _ = np.histogramdd(small.reshape(-1, 3), bins=COLOURS, range=[(0, 256)] * 3)
    blurred = ndimage.gaussian_filter(counts, BLUR, mode="constant")
    return blurred / blurred.sum()


def is_cut(before: Float[np.ndarray, "16 16 16"], now: Float[np.ndarray, "16 16 16"]) -> bool:
    """Returns whether two successive pictures have less than half of their colours in common.

    Movement moves colours within the picture, a cut replaces them. A cut between similar pictures is missed; there the
    face vectors keep people apart.
    """
    return bool(np.minimum(before, now).sum() < CUT)
