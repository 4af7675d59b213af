"""Face vectors from the pictures of IMFDB: how many a second beside the network alone, and do they agree?

    python benchmarks/imfdb_embedding.py [--faces 2000] [--record]

It needs IMFDB with its vectors and the models mobilefacenet128 and mtcnn-onet. Pictures are drawn by lot from all over
the archive and taken the way of ``famf data import imfdb``: decoded, padded, seen by O-Net at three zooms, aligned,
embedded, on all cores. The floor is the recogniser alone on the same faces and cores. Both are measured in turn, piece
by piece; by the clock, and by the processors' time, since other work on the machine takes from the former. The vectors
are compared with the recorded ones, ``mobilefacenet128.npz``.
"""

import time
from typing import Any

import common
import numpy as np
import torch

from famf_lib.datasets import imfdb
from famf_lib.datasets.imfdb_embedding import Landmarks, _embedded, _opened, aligned
from famf_lib.extraction import registry
from famf_lib.extraction.embedding import ArcFace
from famf_lib.files import sources

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
    one, all_cores = ArcFace(network, workers=1), ArcFace(network)

    clock, cores, found = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0.0), []
    for start in range(0, number, PIECE):
        pictures = [(path, contents[path]) for path in paths[rows[start : start + PIECE]]]
        ready = np.concatenate([aligned([_opened(content)], landmarks)[0] for _, content in pictures])
        works = (
            lambda given=pictures: found.append(_embedded(given, one, landmarks)),
            lambda given=ready: all_cores.embed(given),
        )
        for name, work in zip(WAYS, works, strict=True):
            begin, busy = time.perf_counter(), time.process_time()
            work()
            clock[name] += time.perf_counter() - begin
            cores[name] += time.process_time() - busy

    vectors, probability = (np.concatenate([piece[name] for piece in found]) for name in imfdb.FIELDS[1:])
    a, b = vectors, recorded[rows].astype(np.float32)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {
        "faces": number,
        "faces a second": {name: round(number / value, 1) for name, value in clock.items()},
        "faces a second of one core": {name: round(number / value, 1) for name, value in cores.items()},
        "whole / network alone": round(cores["network alone"] / cores["whole"], 2),
        "cosine with the recorded vectors": _summary(cosine),
        "of faces that O-Net does not find": _summary(cosine[scores[rows] <= imfdb.UNALIGNED]),
        "share above 0.99": round(float((cosine > 0.99).mean()), 3),
        "largest difference of O-Net's probability": round(float(abs(probability - scores[rows]).max()), 4),
    }


def _summary(cosine: np.ndarray) -> dict[str, float]:
    return {name: round(float(np.quantile(cosine, part)), 5) for name, part in QUANTILES.items()} if len(cosine) else {}


if __name__ == "__main__":
    common.main(measure)
