"""The face vectors of IMFDB, made from its pictures by an embedder of the user's choice.

The way is that of the recorded vectors (``data/README.md``): a picture is padded to a square and by 15 % a side with
its edge; O-Net of MTCNN sees it at three zooms, and the most probable gives the five points by which the face is
aligned. Where O-Net sees no face, the picture is only resized.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Float32, UInt8

from famf_lib.data import imfdb, imported
from famf_lib.data.clipset import ClipSet
from famf_lib.data.imfdb import FIELDS, UNALIGNED
from famf_lib.support import rasters
from famf_lib.support.files import store, written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.provenance import cores
from famf_video.alignment import SIZE, align, resized
from famf_video.embedding import FaceEmbedder
from famf_video.onnx import OnnxModel
from famf_video.registry import checksum

PART = 512  # pictures whose vectors are written together: what an interruption may cost
TOGETHER = 16  # pictures that a thread works on
MARGIN = 0.15
ZOOMS = (0.0, 0.05, 0.10)  # cut from each side


@dataclass(frozen=True)
class Landmarks:
    """O-Net, the last of MTCNN's three networks: five points of a face in a picture that holds little else."""

    model: OnnxModel
    checksum: str

    @classmethod
    def open(cls, path: Path) -> "Landmarks":
        """Raises: OnnxError, if the file is no such network."""
        return cls(OnnxModel(path, [(None, 3, 48, 48)], [(None, 2), (None, 4), (None, 10)], threads=1), checksum(path))

    def find(
        self, squares: list[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[Float[np.ndarray, "n 5 2"], Float32[np.ndarray, " n"]]:
        """The five points in each of n square pictures (x, y in pixels), and how probable a face is."""
        cuts = np.array([[int(zoom * len(square)) for zoom in ZOOMS] for square in squares])
        seen = [
            resized(square, 48, (cut, cut, len(square) - cut, len(square) - cut))
            for square, of in zip(squares, cuts.tolist(), strict=True)
            for cut in of
        ]
        given = (np.stack(seen)[..., ::-1].astype(np.float32) - 127.5) * np.float32(0.0078125)  # in BGR
        probability, _, places = self.model(np.ascontiguousarray(given.transpose(0, 3, 1, 2)))
        probability = probability[:, 1].reshape(cuts.shape)
        best = np.arange(len(squares)), probability.argmax(axis=1)
        cut, side = cuts[best], np.array([len(square) for square in squares]) - 2 * cuts[best]
        points = places.reshape(*cuts.shape, 2, 5)[best].transpose(0, 2, 1)  # five x, then five y
        return points.astype(np.float64) * side[:, None, None] + cut[:, None, None], probability[best]


def padded(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """The picture in the middle of a square, with its edge repeated: 15 % of the longer side beyond it all around."""
    height, width, _ = picture.shape
    side = max(height, width)
    margin, above, left = int(MARGIN * side), (side - height) // 2, (side - width) // 2
    rows, columns = (above, side - height - above), (left, side - width - left)
    return np.pad(picture, (*((before + margin, after + margin) for before, after in (rows, columns)), (0, 0)), "edge")


def aligned(
    pictures: list[UInt8[np.ndarray, "_ _ 3"]], landmarks: Landmarks
) -> tuple[UInt8[np.ndarray, "n 112 112 3"], Float32[np.ndarray, " n"]]:
    """The faces of n cut-out pictures as an embedder wants them, and how probable each is to be a face."""
    squares = [padded(picture) for picture in pictures]
    points, probability = landmarks.find(squares)
    faces = np.empty((len(pictures), SIZE, SIZE, 3), np.uint8)
    for n, picture in enumerate(pictures):
        surely = probability[n] > UNALIGNED
        faces[n] = align(squares[n], points[n : n + 1], beyond="edge")[0] if surely else resized(picture, SIZE)
    return faces, probability


@dataclass(frozen=True)
class Embedded:
    """An import, and how it was made: ``faces`` in ``seconds``, those of an earlier attempt aside."""

    clipset: ClipSet
    faces: int
    seconds: float


def import_pictures(
    source: Path, embedder: FaceEmbedder, landmarks: Landmarks, name: str, *, replacing: bool = False
) -> Embedded:
    """Imports IMFDB under a name, with vectors made from its pictures. Interrupted, it goes on where it was.

    The clips, their names and films are those of ``imfdb``, so the splits are, too.

    Args:
        source: ``IMFDB_final.tar.gz``, which is read as a stream and never unpacked, or the folder ``IMFDB_final``.
        embedder: called from several threads at once.
        replacing: an earlier import of that name gives way, once the new one is complete.

    Raises:
        ValueError: the name is taken or cannot be one, or the archive cannot be used.
    """
    folder = imported.free(name, replacing)
    if not Path(source).exists():
        raise imfdb.ImfdbError(f"{source}: there is no such file, expected {imfdb.ARCHIVE} or the folder {imfdb.TOP}")
    total = sum(
        1 for _ in imfdb.all_pictures(source)
    )  # read twice: it takes a second, and tells how long the rest will
    if not total:
        raise imfdb.ImfdbError(f"{source}: no picture found, expected {imfdb.TOP}/<actor>/<film>/images/*.jpg in it")
    code = source_fingerprint(__name__, "famf_video.alignment", "famf_video.embedding")
    models = [embedder.checksum, landmarks.checksum]
    decides = json.dumps([imfdb.hash_of(Path(source)).hex(), *models, PART, code])
    parts = store() / "embeddings" / hashlib.sha256(decides.encode()).hexdigest()[:16]
    parts.mkdir(parents=True, exist_ok=True)
    start, faces = time.monotonic(), 0
    with FileLock(f"{parts}.lock"), progress("embedding", total) as bar:
        for number, pictures in enumerate(_batches(imfdb.all_pictures(source), PART)):
            if not (file := parts / f"{number:05d}.npz").is_file():
                found = _embedded(pictures, embedder, landmarks)
                faces += len(found[FIELDS[0]])
                with written_whole(file) as new, new.open("wb") as opened:
                    np.savez(opened, **found)
            done = min((number + 1) * PART, total)
            bar.to(done, f"{faces / (time.monotonic() - start):.0f} faces/s" if faces else "")
        seconds = time.monotonic() - start
        clipset = _joined(source, parts)
        info = {"title": f"IMFDB, real faces from films ({name})", "dataset": name, "pictures": "imfdb"}
        info |= {"embedder": embedder.checksum, "landmarks": landmarks.checksum}
        replace(clipset, info=clipset.info | info).save(folder)
        shutil.rmtree(parts)
    return Embedded(imported.open(name), faces, seconds)


def _batches(pictures: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    while batch := list(islice(pictures, size)):
        yield batch


def _embedded(pictures: list[tuple[str, bytes]], embedder: FaceEmbedder, landmarks: Landmarks) -> dict[str, np.ndarray]:
    """Path, vector and O-Net's probability of the pictures that can be opened, on all cores."""

    def work(few: list[tuple[str, bytes]]) -> tuple[list[str], np.ndarray, np.ndarray]:
        opened = [(path, picture) for path, content in few if (picture := _opened(content)) is not None]
        if not opened:
            return [], np.empty((0, embedder.dim), np.float32), np.empty(0, np.float32)
        faces, probability = aligned([picture for _, picture in opened], landmarks)
        return [path for path, _ in opened], embedder.embed(faces), probability

    with ThreadPoolExecutor(cores()) as pool:
        paths, vectors, probabilities = zip(*pool.map(work, _batches(iter(pictures), TOGETHER)), strict=True)
    values = (np.array(sum(paths, []), dtype=np.str_), np.concatenate(vectors), np.concatenate(probabilities))
    return dict(zip(FIELDS, values, strict=True))


def _opened(content: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture in RGB; None where it is none. ``imfdb`` counts those."""
    try:
        with rasters.open(BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def _joined(source: Path, parts: Path) -> ClipSet:
    """The ClipSet of the vectors in the parts. Of two pictures with one path the later counts, as in the archive."""
    loaded = [np.load(file) for file in sorted(parts.glob("*.npz"))]
    paths, vectors, probabilities = (np.concatenate([part[field] for part in loaded]) for field in FIELDS)
    last = list({path: row for row, path in enumerate(paths.tolist())}.values())
    with written_whole(file := parts / "all") as new, new.open("wb") as opened:
        np.savez(opened, **dict(zip(FIELDS, (paths[last], vectors[last], probabilities[last]), strict=True)))
    return imfdb.build(source, file)
