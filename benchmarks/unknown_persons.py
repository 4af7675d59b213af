"""Measures how often famf identify errs on persons that it knows and on strangers, on IMFDB.

    python benchmarks/unknown_persons.py [--quick] [--record]

Some actors are enrolled with clips of part of their films. Asked about are their other films, and all clips of the
other actors. The threshold is that of ``enroll``, which sees only the enrolled clips.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import torch

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import split
from famf_lib.training import checkpoint, prediction
from famf_video import enrolment, identification

DRAWS = {5: 8, 20: 4}  # by number of persons
ADDED = 5  # persons who are added to each model without a training
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)


def measure(device: torch.device, quick: bool) -> dict[str, Any]:
    clipset, rows = datasets.load("imfdb"), []
    for persons, draws in ({3: 1} if quick else DRAWS).items():
        with TemporaryDirectory() as folder:
            found = [draw(clipset, persons, seed, Path(folder)) for seed in range(1, draws + 1)]
        mean = {name: {key: round(float(np.mean([one[name][key] for one in found])), 4) for key in found[0][name]}
                for name in found[0]}  # fmt: skip
        false = [one["calibrated"]["strangers named"] for one in found]
        spread = {"lowest": round(min(false), 4), "highest": round(max(false), 4)}
        rows.append({"persons": persons, "draws": draws, "strangers named": spread} | mean)
        common.say(rows[-1])
    return {"rows": rows}


def draw(clipset: ClipSet, persons: int, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """The shares of right and wrong answers for persons drawn by a seed."""
    parts, who = split(clipset, "groups", seed), clipset.clips["person"].to_numpy()
    drawn = np.random.default_rng(seed).choice(parts.persons, persons + ADDED, replace=False)
    known, added = drawn[:persons], drawn[persons:]
    train, gallery = parts.train.numpy(), parts.gallery.numpy()

    def of(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        return rows[np.isin(who[rows], names)]

    first, second = folder / "first.safetensors", folder / "second.safetensors"
    enrolment.enroll(subset(clipset, of(train, known)), first, seed=seed)
    strangers = np.flatnonzero(~np.isin(who, drawn))
    own = decided(first, clipset, of(gallery, known), who)
    others = decided(first, clipset, strangers, who)
    limit = checkpoint.open(first).card.known.threshold
    enrolment.add(subset(clipset, of(train, added)), checkpoint.open(first), second)
    more = decided(second, clipset, of(gallery, added), who)
    result = {"without a threshold": shares(own, others, -1.0), "calibrated": shares(own, others, limit)}
    result |= {str(threshold): shares(own, others, threshold) for threshold in THRESHOLDS}
    result |= {"added, calibrated": shares(more, others, limit)}
    return result | {"threshold": {"mean": limit}, "classifier": {"known, named right": float(own[2].mean())}}


def subset(clipset: ClipSet, rows: np.ndarray) -> ClipSet:
    """A ClipSet of some of the clips."""
    faces = np.concatenate([np.arange(*clipset.offsets[row : row + 2].tolist()) for row in rows])
    table = clipset.face_columns().iloc[faces]
    return ClipSet.build(clipset.faces[faces], clipset.counts[rows].numpy(), clipset.clips.iloc[rows], face_table=table)


def decided(file: Path, clipset: ClipSet, rows: np.ndarray, who: np.ndarray) -> np.ndarray:
    """(3, n): for each clip, whether the likely person is right, the score, and whether the classifier is right."""
    opened, clips = checkpoint.open(file), subset(clipset, rows)
    said = [row for batch in prediction.predict(opened, clips, 1) for row in batch.to_pylist()]
    named = zip(identification.decide(opened, clips, said), said, who[rows], strict=True)
    return np.array([(name == right, score, row["persons"][:1] == [right]) for (name, score), row, right in named]).T


def shares(own: np.ndarray, others: np.ndarray, threshold: float) -> dict[str, float]:
    named = own[1] >= threshold
    right = float((named & (own[0] == 1)).mean())
    return {
        "known, named right": right,
        "known, named wrong": float(named.mean()) - right,
        "known, missed": 1 - float(named.mean()),
        "strangers named": float((others[1] >= threshold).mean()),
    }


if __name__ == "__main__":
    common.main(measure)
