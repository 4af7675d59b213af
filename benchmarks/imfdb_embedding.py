"""Face vectors from the pictures of IMFDB: how many per second compared with the network alone, and do they agree?

    python benchmarks/imfdb_embedding.py [--faces 2000] [--record]

It needs IMFDB with its vectors and the models mobilefacenet128 and mtcnn-onet. Pictures are drawn at random from
the whole archive and processed as by ``famf data import imfdb``: decoded, padded, examined by O-Net at three zooms,
aligned, embedded, on all cores. The bound is the recogniser alone on the same faces and cores. Both are measured
alternately, in batches, by wall-clock time and by processor time, because other work on the machine affects the former.
The vectors are compared with the recorded ones, ``mobilefacenet128.npz``; so are those of faces that OpenCV aligns by
the least median of squares, which ignores a landmark that does not fit the others.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import common
import cv2  # RapidOCR brings it
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from famf_lib.data import imfdb
from famf_lib.support import provenance
from famf_lib.support.files import sources
from famf_video import registry
from famf_video.alignment import SIZE, TEMPLATE
from famf_video.embedding import ArcFace
from famf_video.imfdb_embedding import Landmarks, _embedded, _opened, align_faces, pad_to_square
from famf_video.onnx import BATCH

PIECE, SEED = 250, 11
QUANTILES = {"min": 0, "1 %": 0.01, "5 %": 0.05, "25 %": 0.25, "median": 0.5}
WAYS = ("whole", "network alone")


def measure(device: torch.device, quick: bool, faces: int = 2000) -> dict[str, Any]:
    number = 40 if quick else faces
    with np.load(sources() / "imfdb" / imfdb.EMBEDDINGS) as file:
        paths, recorded, scores = (file[name] for name in imfdb.FIELDS)
    rows = np.sort(np.random.default_rng(SEED).choice(len(paths), number, replace=False))
    contents = imfdb.pictures(imfdb.archive(), set(paths[rows]))
    landmarks = Landmarks.open(registry.find("mtcnn-onet"))
    network = registry.find("mobilefacenet128")
    embedder = ArcFace(network)

    clock, cores, found, robust = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0.0), [], []
    for start in range(0, number, PIECE):
        pictures = [(path, contents[path]) for path in paths[rows[start : start + PIECE]]]
        opened = [_opened(content) for _, content in pictures]
        ready = np.concatenate([align_faces([picture], landmarks)[0] for picture in opened])
        works = (
            lambda given=pictures: found.append(_embedded(given, embedder, landmarks)),
            lambda given=ready: _on_all_cores(embedder, given),
        )
        for name, work in zip(WAYS, works, strict=True):
            begin, busy = time.perf_counter(), time.process_time()
            work()
            clock[name] += time.perf_counter() - begin
            cores[name] += time.process_time() - busy
        robust.append(embedder.embed(_by_least_median(opened, ready, landmarks)))

    vectors, probability = (np.concatenate([piece[name] for piece in found]) for name in imfdb.FIELDS[1:])
    cosine = _cosine(vectors, recorded[rows])
    by_median = _cosine(np.concatenate(robust), recorded[rows])
    return {
        "faces": number,
        "faces a second": {name: round(number / value, 1) for name, value in clock.items()},
        "faces a second of one core": {name: round(number / value, 1) for name, value in cores.items()},
        "whole / network alone": round(cores["network alone"] / cores["whole"], 2),
        "cosine with the recorded vectors": _summary(cosine),
        "of faces that O-Net does not find": _summary(cosine[scores[rows] <= imfdb.UNALIGNED]),
        "share above 0.99": round(float((cosine > 0.99).mean()), 3),
        "aligned by the least median of squares": _summary(by_median),
        "share above 0.99 then": round(float((by_median > 0.99).mean()), 3),
        "largest difference of O-Net's probability": round(float(abs(probability - scores[rows]).max()), 4),
    }


def _on_all_cores(embedder: ArcFace, faces: UInt8[np.ndarray, "n 112 112 3"]) -> None:
    pieces = [faces[start : start + BATCH] for start in range(0, len(faces), BATCH)]
    with ThreadPoolExecutor(provenance.cores()) as pool:
        list(pool.map(embedder.embed, pieces))


def _by_least_median(
    pictures: list[UInt8[np.ndarray, "_ _ 3"]], ready: UInt8[np.ndarray, "n 112 112 3"], landmarks: Landmarks
) -> UInt8[np.ndarray, "n 112 112 3"]:
    """Aligns the faces with OpenCV; those that O-Net does not find stay as they are."""
    squares, faces = [pad_to_square(picture) for picture in pictures], ready.copy()
    points, probability = landmarks.find(squares)
    for n in np.flatnonzero(probability > imfdb.UNALIGNED):
        moved, _ = cv2.estimateAffinePartial2D(points[n], TEMPLATE, method=cv2.LMEDS)
        if moved is not None:
            faces[n] = cv2.warpAffine(squares[n], moved, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    return faces


def _cosine(a: Float32[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, " n"]:
    b = b.astype(np.float32)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _summary(cosine: np.ndarray) -> dict[str, float]:
    return {name: round(float(np.quantile(cosine, part)), 5) for name, part in QUANTILES.items()} if len(cosine) else {}


if __name__ == "__main__":
    common.main(measure)
