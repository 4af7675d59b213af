"""Face vectors of IMFDB, computed from its pictures by an embedder of the user's choice.

The steps are those of the recorded vectors (``data/README.md``): a picture is padded to a square, with a margin of 15 %
on each side that repeats its edge; MTCNN's O-Net examines it at three zooms, and the most probable result gives the
five landmarks for the alignment. If O-Net finds no face, the picture is only resized.
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

from famf_lib.data import datasets, imfdb, imported, npz
from famf_lib.data.clipset import ClipSet
from famf_lib.data.imfdb import FIELDS, UNALIGNED
from famf_lib.support import rasters
from famf_lib.support.files import store, written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.provenance import cores
from famf_video.alignment import SIZE, align, resize
from famf_video.detection import ONET, bgr, onet_points
from famf_video.embedding import FaceEmbedder
from famf_video.onnx import OnnxModel
from famf_video.registry import checksum

PART = 512  # pictures whose vectors are saved together: the most that an interruption costs
TOGETHER = 16  # pictures that a thread processes at once
MARGIN = 0.15
ZOOMS = (0.0, 0.05, 0.10)  # fractions cut off each side


@dataclass(frozen=True)
class Landmarks:
    """O-Net, the last of MTCNN's three networks: the landmarks of a face that fills its picture."""

    model: OnnxModel
    checksum: str

    @classmethod
    def open(cls, path: Path) -> "Landmarks":
        """Opens the file. Raises: OnnxError, if it is no such network."""
        return cls(OnnxModel(path, *ONET, threads=1), checksum(path))

    def find(
        self, squares: list[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[Float[np.ndarray, "n 5 2"], Float32[np.ndarray, " n"]]:
        """Finds the five landmarks in each of n square pictures (x, y in pixels), and the probability of a face."""
        cuts = np.array([[int(zoom * len(square)) for zoom in ZOOMS] for square in squares])
        seen = [
            resize(square, 48, (cut, cut, len(square) - cut, len(square) - cut))
            for square, of in zip(squares, cuts.tolist(), strict=True)
            for cut in of
        ]
        probability, _, places = self.model(bgr(seen))
        probability = probability[:, 1].reshape(cuts.shape)
        best = np.arange(len(squares)), probability.argmax(axis=1)
        cut, side = cuts[best], np.array([len(square) for square in squares]) - 2 * cuts[best]
        points = onet_points(places.reshape(*cuts.shape, 10)[best])
        return points.astype(np.float64) * side[:, None, None] + cut[:, None, None], probability[best]


def pad_to_square(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """Pads a picture to a square and adds a margin of 15 % of the longer side, both by repeating its edge."""
    height, width, _ = picture.shape
    side = max(height, width)
    margin, above, left = int(MARGIN * side), (side - height) // 2, (side - width) // 2
    rows, columns = (above, side - height - above), (left, side - width - left)
    return np.pad(picture, (*((before + margin, after + margin) for before, after in (rows, columns)), (0, 0)), "edge")


def align_faces(
    pictures: list[UInt8[np.ndarray, "_ _ 3"]], landmarks: Landmarks
) -> tuple[UInt8[np.ndarray, "n 112 112 3"], Float32[np.ndarray, " n"]]:
    """Aligns the faces of n cropped pictures for an embedder; also returns the probability that each is a face."""
    squares = [pad_to_square(picture) for picture in pictures]
    points, probability = landmarks.find(squares)
    faces = np.empty((len(pictures), SIZE, SIZE, 3), np.uint8)
    for n, picture in enumerate(pictures):
        sure = probability[n] > UNALIGNED
        faces[n] = align(squares[n], points[n : n + 1], border="edge")[0] if sure else resize(picture, SIZE)
    return faces, probability


@dataclass(frozen=True)
class Embedded:
    """An import, and its speed: ``faces`` embedded in ``seconds``, not counting an earlier, interrupted attempt."""

    clipset: ClipSet
    faces: int
    seconds: float


def import_pictures(
    source: Path, embedder: FaceEmbedder, landmarks: Landmarks, name: str, *, replacing: bool = False
) -> Embedded:
    """Imports IMFDB under a name, with vectors computed from its pictures. After an interruption it resumes.

    The clips, their names and films are those of ``imfdb``, and therefore the splits as well.

    Args:
        source: ``IMFDB_final.tar.gz``, which is read as a stream and never unpacked, or the folder ``IMFDB_final``.
        embedder: is called from several threads at once.
        replacing: whether to replace an earlier import of that name, once the new one is complete.

    Raises:
        ValueError: the name is taken or invalid, or the archive cannot be used.
    """
    with datasets.importing(name, replacing) as folder:
        return _import(source, embedder, landmarks, name, folder)


def _import(source: Path, embedder: FaceEmbedder, landmarks: Landmarks, name: str, folder: Path) -> Embedded:
    if not Path(source).exists():
        raise imfdb.ImfdbError(f"{source}: there is no such file, expected {imfdb.ARCHIVE} or the folder {imfdb.TOP}")
    total = sum(1 for _ in imfdb.all_pictures(source))  # an extra pass of about a second, for the progress bar
    if not total:
        raise imfdb.ImfdbError(f"{source}: no picture found, expected {imfdb.TOP}/<actor>/<film>/images/*.jpg in it")
    code = source_fingerprint(__name__, "famf_video.alignment", "famf_video.embedding")
    models = [embedder.checksum, landmarks.checksum]
    key = json.dumps([imfdb.hash_of(Path(source)).hex(), *models, PART, code])
    parts = store() / "embeddings" / hashlib.sha256(key.encode()).hexdigest()[:16]
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
    """Computes path, vector and O-Net's probability of the pictures that can be opened, on all cores."""

    def work(few: list[tuple[str, bytes]]) -> tuple[list[str], np.ndarray, np.ndarray]:
        opened = [(path, picture) for path, content in few if (picture := _opened(content)) is not None]
        if not opened:
            return [], np.empty((0, embedder.dim), np.float32), np.empty(0, np.float32)
        faces, probability = align_faces([picture for _, picture in opened], landmarks)
        return [path for path, _ in opened], embedder.embed(faces), probability

    with ThreadPoolExecutor(cores()) as pool:
        paths, vectors, probabilities = zip(*pool.map(work, _batches(iter(pictures), TOGETHER)), strict=True)
    values = (np.array(sum(paths, []), dtype=np.str_), np.concatenate(vectors), np.concatenate(probabilities))
    return dict(zip(FIELDS, values, strict=True))


def _opened(content: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture in RGB, or None if it cannot be read; ``imfdb`` counts those."""
    try:
        with rasters.open(BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def _joined(source: Path, parts: Path) -> ClipSet:
    """Builds the ClipSet from the parts. Of two pictures with one path the later one counts, as in the archive."""
    loaded = [npz.read(file, imfdb.ImfdbError, FIELDS) for file in sorted(parts.glob("*.npz"))]
    paths, vectors, probabilities = (np.concatenate([part[field] for part in loaded]) for field in FIELDS)
    last = list({path: row for row, path in enumerate(paths.tolist())}.values())
    with written_whole(file := parts / "all") as new, new.open("wb") as opened:
        np.savez(opened, **dict(zip(FIELDS, (paths[last], vectors[last], probabilities[last]), strict=True)))
    return imfdb.build(source, file)
