"""Measures the recipe, each of its ingredients, and FAMF with its head. All is declared here before it is run.

Margin, scale and learning rate are chosen on the tuning part as the rows of Table 1 are: 24 points with one seed, the
four best with two more. What is measured is kept in the store under a hash of everything that decides it.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from joblib import delayed
from torch import nn

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.data.splits import Part, split
from famf_lib.experiments import settings
from famf_lib.experiments.catalogue import FAMF, TABLE_1_MODALITIES
from famf_lib.experiments.parameters import Profile
from famf_lib.experiments.run_store import DECIDING_MODULES, in_parallel, threads
from famf_lib.experiments.settings import row_settings
from famf_lib.experiments.tuning import FINAL, FINALISTS, SCREENING, best_of, finalists
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, store, written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.training.memory import Allocations, empty_batch
from famf_today import famf_with_head, recipe
from famf_today.recipe import Recipe

DECIDING = ("famf_today.famf_with_head", "famf_today.heads", "famf_today.recipe")
SEEDS = (1, 2, 3, 4, 5)
RECIPE, FAMF_WITH_HEAD = "the recipe", "FAMF with the head"
WITHOUT: dict[str, dict[str, Any]] = {
    "one head, from faces": {"trained": "faces"},
    "one head, from clips": {"trained": "clips"},
    "the persons' means, untrained": {"trained": "none"},
    "no margin": {"margin": 0.0},
    "no linear map": {"mapped": False},
    "all films of a person as one": {"balanced": False},
    "all faces alike in the loss": {"face_power": 0.0},
    "all faces alike in the clip": {"clip_power": 0.0},
    "detection score for the norm": {"quality": "det_score"},
    "ranked by cosine": {"score": "logit"},
    "ArcFace's margin": {"kind": "arcface"},
    "with query expansion": {"expanded": 10},
}
"""What is changed in the recipe, one thing at a time, at the recipe's own point of the grid."""
MAIN = (RECIPE, "one head, from faces", "the persons' means, untrained", FAMF_WITH_HEAD)
"""The rows that are quick enough for every build of the book."""

GRIDS = {
    RECIPE: {"lr": (0.001, 0.004), "margin": (0.2, 0.3, 0.4), "scale": (12.0, 16.0, 24.0, 32.0)},
    FAMF_WITH_HEAD: {"lr": (0.00025, 0.001, 0.004, 0.016), "margin": (0.1, 0.2, 0.3), "scale": (16.0, 32.0)},
}
"""24 points each. FAMF with the head keeps the normalisation and the scale of features that are FAMF's own best."""

KNOWN = """
What was known before these runs: a trial of the heads without balanced films, with margin 0.3 and scale 16, on the
reported part of IMFDB with ten seeds (mAP .829, with a head from clips .837, FAMF .781). The balance of films, the size
of batches and the numbers of epochs were then found in some hundred trials on the tuning parts, most of them on that of
IMFDB. Tried there without a gain: a start from linear discriminant analysis, several directions per person, nearest
neighbours, ensembles, decay towards the identity, noise on the vectors, mixed faces.
"""


@dataclass(frozen=True)
class Measured:
    """AP of each person (S, P), seconds of a training on one core, parameters, and the bytes of a step."""

    ap: np.ndarray
    seconds: float
    parameters: int
    memory: int


@dataclass(frozen=True)
class Study:
    """What was measured on a dataset, by row; ``recorded`` is the header of a recording, or None."""

    rows: dict[str, Measured]
    seeds: list[int]
    data: str
    recorded: dict[str, Any] | None = None


def modalities_of(dataset: str) -> tuple[str, ...]:
    """Those of Table 1 that the dataset has."""
    return tuple(m for m in TABLE_1_MODALITIES if m in datasets.get(dataset).modalities)


def chosen(dataset: str, profile: Profile) -> dict[str, dict[str, float]]:
    """The tuned point of both; without a record, the recipe's defaults and the same margin and scale for FAMF."""
    files = [tuning_file(dataset, p) for p in dict.fromkeys((profile, "standard"))]
    if found := next((file for file in files if file.is_file()), None):
        return {label: row["chosen"] for label, row in json.loads(found.read_text())["rows"].items()}
    point = Recipe().model_dump(include={"margin", "scale", "lr"})
    return {RECIPE: point, FAMF_WITH_HEAD: point | {"lr": row_settings(dataset, profile).choice(FAMF.label).lr}}


def tuning_file(dataset: str, profile: Profile) -> Path:
    return settings.RESULTS / f"today-tuning-{dataset}-{profile}.json"


def recording(dataset: str, profile: Profile) -> Path:
    return settings.RESULTS / f"today-{dataset}-{profile}.json"


Job = dict[str, Any]  # dataset, profile, row, point, changes, seed, part: all that decides a measurement but the data


def job(dataset: str, profile: Profile, row: str, point: dict[str, float], seed: int, part: Part = "report") -> Job:
    changes = {} if row == FAMF_WITH_HEAD else WITHOUT.get(row, {})
    return dict(dataset=dataset, profile=profile, row=row, point=point, changes=changes, seed=seed, part=part)


def measure(jobs: Sequence[Job], clipset: ClipSet, label: str) -> list[dict[str, Any]]:
    """Reads each measurement from the store or makes it, on all cores: ap, rank_1, seconds, parameters, memory."""
    places = [_place(one, clipset) for one in jobs]
    missing = [(one, place) for one, place in zip(jobs, places, strict=True) if not place.exists()]
    if missing:
        workers = min(len(missing), provenance.cores()) if clipset.folder else 1
        with progress(label, len(missing)) as bar:
            tasks = [delayed(_make)(one, place, clipset.folder or clipset) for one, place in missing]
            for done in in_parallel(tasks, workers):
                bar.to(done)
    return [json.loads(place.read_text()) for place in places]


@cache
def _code() -> str:
    return source_fingerprint(*DECIDING, *DECIDING_MODULES)


def _place(one: Job, clipset: ClipSet) -> Path:
    own = (
        row_settings(one["dataset"], one["profile"]).of(FAMF.label).model_dump() if one["row"] == FAMF_WITH_HEAD else {}
    )
    what = {name: one[name] for name in ("point", "changes", "seed", "part")} | {"famf": own}
    what |= {"data": clipset.fingerprint, "quality": clipset.checksums, "torch": torch.__version__, "code": _code()}
    return store() / "today" / f"{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]}.json"


def _make(one: Job, place: Path, data: Path | ClipSet) -> None:
    clipset = data if isinstance(data, ClipSet) else opened(data)
    source, point, seed = datasets.get(one["dataset"]), one["point"], one["seed"]
    parts = split(clipset, source.protocol, seed, one["part"])
    begin = time.process_time()
    with threads(1):
        if one["row"] == FAMF_WITH_HEAD:
            setting = row_settings(one["dataset"], one["profile"])
            own = setting.base.at(setting.choice(FAMF.label).model_copy(update={"lr": point["lr"]}))
            spec = FAMF.spec(source, own, seed, part=one["part"])
            model = famf_with_head.fit(spec, clipset, parts, margin=point["margin"], scale=point["scale"])
            seconds, scores = time.process_time() - begin, famf_with_head.rank(model, spec, clipset, parts)
        else:
            how = Recipe(**({"modalities": modalities_of(one["dataset"])} | point | one["changes"]))
            model = recipe.fit(how, clipset, parts, seed)
            seconds, scores = time.process_time() - begin, recipe.rank(model, how, clipset, parts)
    found = {
        "ap": [None if np.isnan(v) else round(float(v), 5) for v in scores.ap],
        "rank_1": scores.rank_1,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "memory": 0 if one["changes"].get("trained") == "none" else _step_memory(model, clipset),
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as new:
        new.write_text(json.dumps(found))


def _step_memory(model: nn.Module, clipset: ClipSet) -> int:
    """The peak of a training step in bytes: weights, Adam's two moments, the batch, and all that the step allocates.

    Of the recipe's heads, which are trained one after the other, it is that of the first.
    """
    with Allocations() as held:
        if isinstance(model, recipe.Recogniser):
            kind, model = next(iter(model.face.items()))
            clips = recipe.BATCH[kind]
            batch = torch.empty(clips, clipset.dim)
        else:
            clips, faces = model.training_shape
            dims = {name: clipset.modalities[name].vectors.shape[1] for name in model.config.modalities}
            batch = empty_batch(model.config, clips, faces, clipset.dim, dims)
        classes = torch.zeros(clips, dtype=torch.int64)
        F.cross_entropy(model(batch, classes), classes).backward()
    return held.peak + 3 * sum(p.numel() * p.element_size() for p in model.parameters())


def tune(dataset: str, profile: Profile) -> dict[str, Any]:
    """Chooses the point of each grid on the tuning part, and records every point that was tried."""
    clipset = datasets.load(dataset, profile)
    scores: dict[tuple[str, int], dict[int, float]] = {}  # row and point → seed → mAP

    def train(wanted: Sequence[tuple[str, int]], seed: int, what: str) -> None:
        jobs = [job(dataset, profile, row, points[row][n], seed, "tune") for row, n in wanted]
        for key, found in zip(wanted, measure(jobs, clipset, f"tuning {dataset}, {what}"), strict=True):
            scores.setdefault(key, {})[seed] = float(np.nanmean(np.array(found["ap"], dtype=float)))

    points = {row: [dict(zip(grid, v, strict=True)) for v in product(*grid.values())] for row, grid in GRIDS.items()}
    train([(row, n) for row in points for n in range(len(points[row]))], SCREENING, "every point")
    best = [point for row in points for point in finalists(scores, row)]
    for seed in FINAL:
        train(best, seed, f"the best {FINALISTS} points")
    result = {
        "command": f"python -m famf_today.study tune {dataset} {profile}",
        "data": clipset.fingerprint,
        "seeds": {"every point": [SCREENING], f"the {FINALISTS} best of a row": list(FINAL)},
        "rows": {
            row: {
                "grid": GRIDS[row],
                "chosen": points[row][best_of(scores, row)],
                "tried": [
                    point | {"mAP": [round(v, 5) for v in scores[row, n].values()]}
                    for n, point in enumerate(points[row])
                ],
            }
            for row in points
        },
        "origin": provenance.origin(ROOT),
    }
    with written_whole(tuning_file(dataset, profile)) as new:
        new.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    return result


def run(dataset: str, profile: Profile, seeds: Sequence[int] = SEEDS, rows: Sequence[str] = ()) -> Study:
    """These rows, or all, on the reported part: from the store, made now, or from a recording if the dataset is absent.

    Raises:
        DatasetAbsent: neither the dataset nor a recording of it is here.
    """
    if absence := datasets.get(dataset).absence():
        if (found := find_recording(dataset, profile)) is None:
            raise datasets.DatasetAbsent(absence)
        return found
    clipset, points = datasets.load(dataset, profile), chosen(dataset, profile)
    columns = set(clipset.face_columns().columns) | {"norm"}
    rows = rows or [RECIPE, *WITHOUT, FAMF_WITH_HEAD]
    rows = [row for row in rows if WITHOUT.get(row, {}).get("quality", "norm") in columns]
    jobs = [job(dataset, profile, row, points.get(row, points[RECIPE]), seed) for row in rows for seed in seeds]
    made = measure(jobs, clipset, f"what one would do today, {dataset}")
    found = {}
    for n, row in enumerate(rows):
        of = made[n * len(seeds) : (n + 1) * len(seeds)]
        ap = np.array([one["ap"] for one in of], dtype=float)
        found[row] = Measured(ap, float(np.mean([m["seconds"] for m in of])), of[0]["parameters"], of[0]["memory"])
    return Study(found, list(seeds), clipset.fingerprint)


def record(dataset: str, profile: Profile) -> Path:
    """Runs the rows with the book's seeds, and writes their numbers to ``results/``, without names of persons."""
    study = run(dataset, profile)
    content = {
        "command": f"python -m famf_today.study record {dataset} {profile}",
        "data": study.data,
        "seeds": study.seeds,
        "points": chosen(dataset, profile),
        "origin": provenance.origin(ROOT),
        "rows": {
            row: {
                "ap": [[None if np.isnan(v) else v for v in of_seed] for of_seed in one.ap.tolist()],
                "seconds": round(one.seconds, 3),
                "parameters": one.parameters,
                "memory": one.memory,
            }
            for row, one in study.rows.items()
        },
    }
    with written_whole(target := recording(dataset, profile)) as new:
        new.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return target


def find_recording(dataset: str, profile: Profile) -> Study | None:
    """The recorded numbers of a profile, or else of the standard one."""
    files = [recording(dataset, p) for p in dict.fromkeys((profile, "standard"))]
    if (found := next((file for file in files if file.is_file()), None)) is None:
        return None
    content = json.loads(found.read_text())
    rows = {row: Measured(**one | {"ap": np.array(one["ap"], dtype=float)}) for row, one in content["rows"].items()}
    return Study(rows, content["seeds"], content["data"], content)


if __name__ == "__main__":
    import sys

    action, name, size = sys.argv[1:]
    print(tune(name, size)["rows"] if action == "tune" else record(name, size))
