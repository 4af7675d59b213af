"""From one video to its clips: all stages of the extraction together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from famf_lib.data.clipset import HELD, held
from famf_lib.support.provenance import cores
from famf_lib.support.wording import counted
from famf_video.alignment import align
from famf_video.detection import Detections, FaceDetector
from famf_video.embedding import FaceEmbedder
from famf_video.quality import quality
from famf_video.regions import REGIONS, ImageEmbedder, cut_out, region
from famf_video.speech import SpeakerEncoder
from famf_video.text import SentenceEncoder, TextReader
from famf_video.tracking import Track, Tracker, colour_histogram, is_cut
from famf_video.video import Frame, Video, VideoError

FPS = 5.0
BEST = 8  # faces of a clip, those of the highest quality, around which head and body are cut out
READ_AT = (1 / 6, 1 / 2, 5 / 6)  # positions in a clip where text is read; the paper reads one picture (Sec. 4.3)
MIN_FACES = 3  # in a track that becomes a clip, except the main person's

FACE_COLUMNS = pa.schema(
    [("frame", pa.int64()), ("time", pa.float64())]
    + [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "det_score", "quality")]
)


class StageError(ValueError):
    """A model gives vectors that cannot be stored."""


@dataclass(frozen=True)
class Stages:
    """The models of the extraction. Where one is None, clips lack what it computes."""

    detector: FaceDetector
    embedder: FaceEmbedder
    head: ImageEmbedder | None = None
    body: ImageEmbedder | None = None
    speaker: SpeakerEncoder | None = None
    reader: TextReader | None = None
    sentences: SentenceEncoder | None = None

    @property
    def dims(self) -> dict[str, int]:
        """The modalities that a clip can have, and the length of their vectors."""
        text = None if self.reader is None else self.sentences
        of = {"head": self.head, "body": self.body, "audio": self.speaker, "text": text}
        return {name: stage.dim for name, stage in of.items() if stage is not None}

    @property
    def checksums(self) -> list[str]:
        return ["" if stage is None else stage.checksum for stage in vars(self).values()]


@dataclass(frozen=True)
class Clip:
    """A person in a video: F faces in order of time, and the other modalities.

    ``frames`` are the numbers of the pictures (see ``Video.numbered``), ``points`` the landmarks of each face.
    ``vectors`` has one entry for each modality that was found.
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

    @classmethod
    def of_rows(cls, rows: Sequence[tuple], dim: int) -> "Clip":
        """Builds a clip of one row per face: frame, time, box, points, score, quality and vector."""
        shapes = ((), (), (4,), (5, 2), (), (), (dim,))
        kinds = (np.int64, np.float64, np.float32, np.float32, np.float32, np.float32, np.float16)
        columns = zip(*rows, strict=True) if rows else [()] * len(shapes)
        filled = zip(columns, shapes, kinds, strict=True)
        return cls(*(np.array(column, dtype=kind).reshape(-1, *shape) for column, shape, kind in filled))

    @property
    def table(self) -> pa.Table:
        """The face table of a ClipSet, one row per face."""
        columns = [self.frames, self.times, *self.boxes.T, self.scores, self.quality]
        return pa.table([np.ascontiguousarray(column) for column in columns], schema=FACE_COLUMNS)


def extract_clips(
    video: Video,
    stages: Stages,
    *,
    fps: float | int = FPS,
    everybody: bool = False,
    workers: int | None = None,
    report: Callable[[float], None] = lambda seconds: None,
) -> list[Clip]:
    """Extracts the clip of a video's main person and, with ``everybody``, those of all others by falling presence.

    The main person is the one with the most face area over time (``tracking.Track.rank``). A track ends with its shot.
    Sound and text belong to the whole video, so only the main person's clip gets them. A video without a face gives one
    clip without faces. Memory holds only the faces of tracks that may still become clips.

    Args:
        workers: pictures that are processed at once; by default one per core.
        report: is called with the seconds of video processed so far.

    Raises:
        VideoError: nothing in it can be decoded.
    """
    tracker, before, last = Tracker(), None, 0
    rows: dict[int, list[tuple]] = {}
    over: list[Track] = []

    def discard(ended: bool = False) -> None:
        """Drops the faces of ended tracks that will not become clips: in a long video these are most faces."""
        over.extend(tracker.over(ended))
        over.sort(key=lambda track: track.rank, reverse=True)
        for track in over[1:]:
            if not everybody or track.faces < MIN_FACES:
                del rows[track.number]
        over[:] = [track for track in over if track.number in rows]

    pictures = _in_parallel(lambda frame: _analyse(frame, stages), video.frames(fps), workers or cores())
    for seen in pictures:
        cut = before is not None and is_cut(before, seen.colours)
        before, last = seen.colours, seen.number
        found = seen.found
        for face, track in enumerate(tracker.add(seen.time, found.boxes, seen.vectors, cut).tolist()):
            columns = (found.boxes, found.points, found.scores, seen.quality, seen.vectors)
            rows.setdefault(track, []).append((seen.number, seen.time, *(column[face] for column in columns)))
        discard()
        report(seen.time)
    discard(ended=True)

    clips = [Clip.of_rows(rows.pop(track.number), stages.embedder.dim) for track in over]
    clips = _second_pass(video, clips or [Clip.of_rows([], stages.embedder.dim)], stages, last)
    if stages.speaker is not None:
        try:
            voice = stages.speaker.embed(video.sound())
        except VideoError:  # the faces are kept even if the sound cannot be read
            voice, video.unheard = None, video.unheard + 1
        if voice is not None:
            clips[0].vectors["audio"] = to_float16(voice, "speaker")
    return clips


def remarks(video: Video, clip: Clip, stages: Stages) -> list[str]:
    """Says what is missing from a video's main clip, and why."""
    said = []
    if video.damaged:
        said.append(f"{counted(video.damaged, 'part')} of the pictures left out as damaged")
    if not len(clip.faces):
        said.append("no face found, so its clip has none")
    if "audio" in clip.vectors and video.unheard:
        said.append(f"{counted(video.unheard, 'part')} of the sound left out as undecodable")
    elif stages.speaker is not None and "audio" not in clip.vectors:
        silent = "no audible sound can be decoded" if video.unheard else "nothing to hear"
        said.append(f"{silent if video.has_sound else 'no sound track'}, so its clip has no audio")
    return said


def stack_modalities(
    vectors: Sequence[Mapping[str, np.ndarray]], dims: Mapping[str, int]
) -> dict[str, tuple[Float16[np.ndarray, "n _"], np.ndarray]]:
    """Stacks the vectors of n clips for each modality that one of them has, with a mask (n,) of those that have it."""
    found = {}
    for name, dim in dims.items():
        present = np.array([name in of for of in vectors])
        if present.any():
            found[name] = np.stack([of.get(name, np.zeros(dim, np.float16)) for of in vectors]), present
    return found


@dataclass(frozen=True)
class _Analysed:
    """The faces and colours of one picture."""

    number: int
    time: float
    found: Detections
    vectors: np.ndarray
    quality: np.ndarray
    colours: np.ndarray


def _analyse(frame: Frame, stages: Stages) -> _Analysed:
    found = stages.detector.detect(frame.picture)
    faces = align(frame.picture, found.points)
    vectors = to_float16(stages.embedder.embed(faces), "embedder")
    good = quality(faces, found.points, found.scores)
    return _Analysed(frame.number, frame.time, found, vectors, good, colour_histogram(frame.picture))


def to_float16(vectors: Float[np.ndarray, "..."], of: str) -> Float16[np.ndarray, "..."]:
    """Converts vectors to float16. Raises: StageError, if float16 cannot hold one; ``of`` names the model."""
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    if not held(torch.from_numpy(np.atleast_2d(half)), np.atleast_2d(vectors)).all():
        raise StageError(f"{of}: vectors that float16 cannot hold found, expected {HELD}")
    return half


def _in_parallel(work: Callable[[Frame], _Analysed], frames: Iterable[Frame], workers: int) -> Iterator[_Analysed]:
    """Applies ``work`` to frames in threads and yields the results in order; at most ``workers`` + 1 are pending."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future] = deque()
        for frame in frames:
            pending.append(pool.submit(work, frame))
            if len(pending) > workers:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()


def _second_pass(video: Video, clips: list[Clip], stages: Stages, last: int) -> list[Clip]:
    """Adds to the clips the mean vectors of head and body over their best faces, and to the first one its text.

    Which pictures are needed is known only now, so they are decoded again. ``last`` is the number of the last picture.
    """
    regions = {name: stage for name in REGIONS if (stage := getattr(stages, name)) is not None}
    wanted: dict[int, list[tuple[int, int]]] = {}
    for number, clip in enumerate(clips if regions else []):
        for face in np.argsort(-clip.quality, kind="stable")[:BEST].tolist():
            wanted.setdefault(int(clip.frames[face]), []).append((number, face))
    read = set()
    if "text" in stages.dims:
        first, end = (clips[0].frames[0], clips[0].frames[-1]) if len(clips[0].frames) else (0, last)
        read = {round(first + part * (end - first)) for part in READ_AT}

    found: list[dict[str, list[np.ndarray]]] = [{} for _ in clips]
    lines: dict[str, None] = {}
    for frame in video.numbered({*wanted, *read}):
        size = (frame.picture.shape[1], frame.picture.shape[0])
        for number, face in wanted.get(frame.number, []):
            for name, stage in regions.items():
                box = region(clips[number].boxes[face : face + 1], name, size)[0]
                found[number].setdefault(name, []).append(stage.embed([cut_out(frame.picture, box)])[0])
        if frame.number in read:
            lines.update(dict.fromkeys(stages.reader.read(frame.picture)))
    vectors = [{name: to_float16(np.mean(of, axis=0), name) for name, of in clip.items()} for clip in found]
    if text := " ".join(lines):
        vectors[0]["text"] = to_float16(stages.sentences.encode(text), "text")
    texts = [text] + [""] * (len(clips) - 1)
    return [replace(clip, vectors=v, text=t) for clip, v, t in zip(clips, vectors, texts, strict=True)]
