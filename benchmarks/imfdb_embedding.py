"""Face vectors from the pictures of IMFDB: how many a second beside the network alone, and do they agree?

    python benchmarks/imfdb_embedding.py [--faces 2000] > results/imfdb-embedding-cpu.json

Pictures are drawn by lot from all over the archive and taken the way of ``famf data import imfdb``: decoded, padded,
seen by O-Net at three zooms, aligned, embedded, on all cores. The floor is the recogniser alone on the same faces and
cores. Both are measured in turn, piece by piece, so that both meet the same noise. The vectors are compared with
the recorded ones, ``mobilefacenet128.npz``.
"""

import argparse
import json
import sys
import time

import numpy as np

from famf_lib import provenance
from famf_lib.datasets import imfdb
from famf_lib.datasets.imfdb_embedding import Landmarks, _embedded, _opened, aligned
from famf_lib.extraction import registry
from famf_lib.extraction.embedding import ArcFace
from famf_lib.files import ROOT, sources

PIECE, SEED = 250, 11
QUANTILES = {"min": 0, "1 %": 0.01, "5 %": 0.05, "25 %": 0.25, "median": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=2000)
    number = parser.parse_args().faces
    with np.load(sources() / "imfdb" / imfdb.EMBEDDINGS) as file:
        paths, recorded, scores = (file[name] for name in imfdb.FIELDS)
    rows = np.sort(np.random.default_rng(SEED).choice(len(paths), number, replace=False))
    contents = imfdb.pictures(imfdb.archive(), set(paths[rows]))
    landmarks = Landmarks.open(registry.find("mtcnn-onet"))
    network = registry.find("mobilefacenet128")
    one, all_cores = ArcFace(network, workers=1), ArcFace(network)

    seconds, found = {"whole": 0.0, "network alone": 0.0}, []
    for start in range(0, number, PIECE):
        pictures = [(path, contents[path]) for path in paths[rows[start : start + PIECE]]]
        faces = np.concatenate([aligned([_opened(content)], landmarks)[0] for _, content in pictures])
        begin = time.perf_counter()
        found.append(_embedded(pictures, one, landmarks))
        seconds["whole"] += time.perf_counter() - begin
        begin = time.perf_counter()
        all_cores.embed(faces)
        seconds["network alone"] += time.perf_counter() - begin

    vectors, probability = (np.concatenate([piece[name] for piece in found]) for name in imfdb.FIELDS[1:])
    a, b = vectors, recorded[rows].astype(np.float32)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    whole = scores[rows] > imfdb.UNALIGNED
    record = {
        "command": f"python benchmarks/imfdb_embedding.py --faces {number}",
        "faces": number,
        "faces a second": {name: round(number / value, 1) for name, value in seconds.items()},
        "whole / network alone": round(seconds["network alone"] / seconds["whole"], 2),
        "cosine with the recorded vectors": _summary(cosine),
        "of faces that O-Net does not find": _summary(cosine[~whole]),
        "share above 0.99": round(float((cosine > 0.99).mean()), 3),
        "largest difference of O-Net's probability": round(float(abs(probability - scores[rows]).max()), 4),
        "origin": provenance.origin(ROOT),
    }
    json.dump(record, sys.stdout, indent=1)


def _summary(cosine: np.ndarray) -> dict[str, float]:
    return {name: round(float(np.quantile(cosine, part)), 5) for name, part in QUANTILES.items()}


if __name__ == "__main__":
    main()
