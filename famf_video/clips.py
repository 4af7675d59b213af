"""From one video to its clips: every stage of the extraction, put together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from famf_lib.data.clipset import HELD, held
from famf_lib.support.provenance import cores
from famf_video.alignment import align
from famf_video.detection import Detections, FaceDetector
from famf_video.embedding import FaceEmbedder
from famf_video.quality import quality
from famf_video.regions import REGIONS, ImageEmbedder, cut_out, region
from famf_video.speech import SpeakerEncoder
from famf_video.text import SentenceEncoder, TextReader
from famf_video.tracking import Track, Tracker, colours, is_cut
from famf_video.video import Frame, Video, VideoError

FPS = 5.0
LOOKS = 8  # faces of a clip, the best, around which head and body are looked at
READ_AT = (1 / 6, 1 / 2, 5 / 6)  # where in a clip text is read: the paper reads one picture (Sec. 4.3)
MIN_FACES = 3  # of a track that is a clip of its own beside the main person's

FACE_COLUMNS = pa.schema(
    [("frame", pa.int64()), ("time", pa.float64())]
    + [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "det_score", "quality")]
)


class StageError(ValueError):
    """A model that gives what cannot be kept."""


@dataclass(frozen=True)
class Stages:
    """The models. Where one is None, the clips have nothing of what it makes."""

    detector: FaceDetector
    embedder: FaceEmbedder
    head: ImageEmbedder | None = None
    body: ImageEmbedder | None = None
    speaker: SpeakerEncoder | None = None
    reader: TextReader | None = None
    sentences: SentenceEncoder | None = None

    @property
    def dims(self) -> dict[str, int]:
        """The modalities of a clip that can be had, and how long their vectors are."""
        text = None if self.reader is None else self.sentences
        of = {"head": self.head, "body": self.body, "audio": self.speaker, "text": text}
        return {name: stage.dim for name, stage in of.items() if stage is not None}

    @property
    def checksums(self) -> list[str]:
        return ["" if stage is None else stage.checksum for stage in vars(self).values()]


@dataclass(frozen=True)
class Clip:
    """A person in a video: F faces in the order of their pictures, and what else was found.

    ``frames`` are the numbers of the pictures (``Video.numbered`` gives them again), ``points`` the five of each face.
    ``vectors`` has an entry for each modality that was found.
    """

    frames: Int64[np.ndarray, " F"]
    times: Float64[np.ndarray, " F"]
    boxes: Float32[np.ndarray, "F 4"]
    points: Float32[np.ndarray, "F 5 2"]
    scores: Float32[np.ndarray, " F"]
    quality: Float32[np.ndarray, " F"]
    faces: Float16[np.ndarray, "F D"]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    text: str = ""

    @property
    def table(self) -> pa.Table:
        """What a ClipSet says of the faces, a row each."""
        columns = [self.frames, self.times, *self.boxes.T, self.scores, self.quality]
        return pa.table([np.ascontiguousarray(column) for column in columns], schema=FACE_COLUMNS)


def clips_of(
    video: Video,
    stages: Stages,
    *,
    fps: float | int = FPS,
    everybody: bool = False,
    workers: int | None = None,
    report: Callable[[float], None] = lambda seconds: None,
) -> list[Clip]:
    """The clips of a video: the main person's and, with ``everybody``, those of all others, the most present first.

    The main person is the one whose face fills most of the picture for the longest time (``tracking.Track.rank``). A
    track ends with its shot. Sound and text are those of the video, so that only the main person has them. A video
    without a face gives one clip without faces.

    Pictures are looked at side by side. In memory are the faces of the tracks that may still be wanted.

    Args:
        workers: pictures that are looked at at once; one a core unless told.
        report: is told how many seconds of the video are done.

    Raises:
        VideoError: nothing in it can be decoded.
    """
    tracker, before, last = Tracker(), None, 0
    rows: dict[int, list[tuple]] = {}
    over: list[Track] = []

    def settle(ended: bool = False) -> None:
        """Forgets the faces of tracks that are over and not wanted: they are most of a long video's."""
        over.extend(tracker.over(ended))
        over.sort(key=lambda track: track.rank, reverse=True)
        for track in over[1:]:
            if not everybody or track.faces < MIN_FACES:
                del rows[track.number]
        over[:] = [track for track in over if track.number in rows]

    looked = _ahead(lambda frame: _look(frame, stages), video.frames(fps), cores() if workers is None else workers)
    for frame, seen in looked:
        cut = before is not None and is_cut(before, seen.colours)
        before, last = seen.colours, frame.number
        found = seen.found
        for face, track in enumerate(tracker.add(frame.time, found.boxes, seen.vectors, cut).tolist()):
            told = (found.boxes[face], found.points[face], found.scores[face], seen.quality[face], seen.vectors[face])
            rows.setdefault(track, []).append((frame.number, frame.time, *told))
        settle()
        report(frame.time)
    settle(ended=True)

    clips = [_clip(rows.pop(track.number), stages.embedder.dim) for track in over]
    clips = _looked_at_again(video, clips or [_clip([], stages.embedder.dim)], stages, last)
    if stages.speaker is not None:
        try:
            heard = stages.speaker.embed(video.sound())
        except VideoError:  # sound that cannot be read costs no face
            heard, video.unheard = None, video.unheard + 1
        if heard is not None:
            clips[0].vectors["audio"] = as_half(heard, "speaker")
    return clips


@dataclass(frozen=True)
class _Seen:
    """What was made of one picture."""

    found: Detections
    vectors: np.ndarray
    quality: np.ndarray
    colours: np.ndarray


def _look(frame: Frame, stages: Stages) -> _Seen:
    found = stages.detector.detect(frame.picture)
    faces = align(frame.picture, found.points)
    vectors = as_half(stages.embedder.embed(faces), "embedder")
    return _Seen(found, vectors, quality(faces, found.points, found.scores), colours(frame.picture))


def as_half(vectors: Float[np.ndarray, "..."], of: str) -> Float16[np.ndarray, "..."]:
    """One vector or many in float16. Raises: StageError, where it does not hold one; ``of`` names the model."""
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    if not held(torch.from_numpy(np.atleast_2d(half)), np.atleast_2d(vectors)).all():
        raise StageError(f"{of}: it gives vectors that float16 does not hold, expected {HELD}")
    return half


def _ahead(work: Callable[[Frame], _Seen], frames: Iterable[Frame], workers: int) -> Iterator[tuple[Frame, _Seen]]:
    """Each picture with what was made of it, in order. As many are under way as there are workers, and one waits."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Frame, Future]] = deque()
        for frame in frames:
            waiting.append((frame, pool.submit(work, frame)))
            if len(waiting) > workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def _clip(rows: list[tuple], dim: int) -> Clip:
    shapes = ((), (), (4,), (5, 2), (), (), (dim,))
    columns = zip(*rows, strict=True) if rows else [()] * len(shapes)
    kinds = (np.int64, np.float64, np.float32, np.float32, np.float32, np.float32, np.float16)
    filled = zip(columns, shapes, kinds, strict=True)
    return Clip(*(np.array(column, dtype=kind).reshape(-1, *shape) for column, shape, kind in filled))


def _looked_at_again(video: Video, clips: list[Clip], stages: Stages, last: int) -> list[Clip]:
    """The clips with the vectors of head and body, means over their best faces, and the first one with its text.

    Only now it is known in which pictures those are, so these are decoded again. ``last`` is the number of the last.
    """
    regions = {name: stage for name in REGIONS if (stage := getattr(stages, name)) is not None}
    looks: dict[int, list[tuple[int, int]]] = {}
    for number, clip in enumerate(clips if regions else []):
        for face in np.argsort(-clip.quality, kind="stable")[:LOOKS].tolist():
            looks.setdefault(int(clip.frames[face]), []).append((number, face))
    read = set()
    if stages.reader is not None and stages.sentences is not None:
        first, end = (clips[0].frames[0], clips[0].frames[-1]) if len(clips[0].frames) else (0, last)
        read = {round(first + part * (end - first)) for part in READ_AT}

    found: list[dict[str, list[np.ndarray]]] = [{} for _ in clips]
    lines: dict[str, None] = {}
    for frame in video.numbered({*looks, *read}):
        size = (frame.picture.shape[1], frame.picture.shape[0])
        for number, face in looks.get(frame.number, []):
            for name, stage in regions.items():
                box = region(clips[number].boxes[face : face + 1], name, size)[0]
                found[number].setdefault(name, []).append(stage.embed([cut_out(frame.picture, box)])[0])
        if frame.number in read:
            lines.update(dict.fromkeys(stages.reader.read(frame.picture)))
    vectors = [{name: as_half(np.mean(of, axis=0), name) for name, of in clip.items()} for clip in found]
    if text := " ".join(lines):
        vectors[0]["text"] = as_half(stages.sentences.encode(text), "text")
    texts = [text] + [""] * (len(clips) - 1)
    return [replace(clip, vectors=v, text=t) for clip, v, t in zip(clips, vectors, texts, strict=True)]
