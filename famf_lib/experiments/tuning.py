"""Tunes every row on a dataset's tuning part, all with the same budget.

Every point of ``GRID`` is trained with one seed; the ``FINALISTS`` best points of each row are trained with more seeds,
and the best mean wins. Learning rates are added below or above, for all rows, until no chosen rate lies at an end.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from famf_lib.data import datasets
from famf_lib.data.datasets import Dataset
from famf_lib.experiments import plugins
from famf_lib.experiments.catalogue import TABLE_1, Variant, get_experiment, tuned_rows
from famf_lib.experiments.results import run
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import BASE, GRID, Choice, Profile, tuning_file
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training.train import pick_device

SCREENING = 101
"""The seed with which every point is trained."""
FINAL = (102, 103)
"""Further seeds for the best points of a row."""
FINALISTS = 4
STEP = 4.0  # the ratio of neighbouring learning rates
WIDENINGS = 3  # so often, at most, the grid gets a rate at either end

Point = tuple[str, Any]  # a row's label and its choice


def tune(dataset: str, profile: Profile, device: str = "auto", experiment: str = "") -> dict[str, Any]:
    """Trains every row of the book's experiments at every point of the grid on the tuning part, and records the choice.

    The shared choice is the point with the highest mAP over the rows of Table 1 with the seed of the screening.
    With an ``experiment``, only those of its rows are tuned that the dataset's record lacks. They get a record of their
    own, by the same rules, and the shared choice stays. Returns what was recorded.

    Raises:
        ValueError: the dataset has no record, or its record has every row of the experiment.
    """
    source = datasets.get(dataset)
    clipset, where = datasets.load(dataset, profile), pick_device(device)
    rows = {v.label: v for v in (_lacking(experiment, source, profile) if experiment else tuned_rows(source))}
    scores: dict[Point, dict[int, float]] = {}

    def train(points: list[Point], seed: int, what: str) -> None:
        wanted = {
            (label, choice): rows[label].spec(source, BASE[profile].at(choice), seed, part="tune")
            for label, choice in points
            if seed not in scores.get((label, choice), {})
        }
        for point, found in run(wanted, clipset, where, f"tuning {dataset}, {what}").items():
            scores.setdefault(point, {})[seed] = found.mean_ap

    rates = sorted(GRID["lr"])
    for left in reversed(range(WIDENINGS + 1)):
        train([(label, choice) for label in rows for choice in points(rates)], SCREENING, "every point")
        best = [point for label in rows for point in finalists(scores, label)]
        for seed in FINAL:
            train(best, seed, f"the best {FINALISTS} points of each row")
        chosen = {label: best_of(scores, label) for label in rows}
        shared = None if experiment else best_shared(scores, [v for v in TABLE_1 if v.label in rows])
        used = {choice.lr for choice in (*chosen.values(), *([shared] if shared else []))}
        wider = [rates[0] / STEP] * (rates[0] in used) + [rates[-1] * STEP] * (rates[-1] in used)
        if not wider or not left:
            break
        rates = sorted([*rates, *wider])
    result = {
        "command": f"famf{plugins.option()} tune {dataset} --profile {profile}"
        + f" --experiment {experiment}" * bool(experiment),
        "data": clipset.fingerprint,
        "grid": {**GRID, "lr": rates},
        "seeds": {"every point": [SCREENING], f"the {FINALISTS} best of a row": list(FINAL)},
        **({"shared": shared.model_dump()} if shared else {}),
        "rows": {
            label: {
                "chosen": chosen[label].model_dump(),
                "tried": [
                    choice.model_dump() | {"mAP": [round(value, 5) for value in scores[label, choice].values()]}
                    for choice in of_row(scores, label)
                ],
            }
            for label in rows
        },
        "origin": provenance.origin(ROOT),
    }
    with written_whole(tuning_file(dataset, profile, experiment)) as new:
        new.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    return result


def first_runs(dataset: str, profile: Profile, experiment: str = "") -> list[RunSpec]:
    """As many runs as ``tune`` makes if it need not widen the grid; which points are the best is not known yet."""
    source, grid = datasets.get(dataset), list(points(sorted(GRID["lr"])))
    every = [(choice, SCREENING) for choice in grid] + [(choice, seed) for choice in grid[:FINALISTS] for seed in FINAL]
    if source.absence():
        return []
    rows = _lacking(experiment, source, profile) if experiment else tuned_rows(source)
    return [row.spec(source, BASE[profile].at(c), seed, part="tune") for row in rows for c, seed in every]


def _lacking(experiment: str, source: Dataset, profile: Profile) -> list[Variant]:
    """The rows of an experiment that have a setting of their own and are not in the dataset's record."""
    file = tuning_file(source.name, profile)
    if not file.is_file():
        raise ValueError(f"{file}: no such record found, expected one: tune {source.name} without an experiment first")
    known = json.loads(file.read_text())["rows"]
    wanted = [v for v in get_experiment(experiment).variants if v.tuned_as is None and v.label not in known]
    if not (found := [v for v in wanted if v.available_modalities(source) is not None]):
        raise ValueError(f"experiment: all rows of {experiment} are in {file}, expected one with further rows")
    return found


def points(rates: list[float]) -> Iterator[Choice]:
    """The points of the grid with these learning rates."""
    for values in product(GRID["normalisation"], GRID["features"], rates):
        yield Choice(**dict(zip(("normalisation", "features", "lr"), values, strict=True)))


def of_row(scores: Mapping[Point, Mapping[int, float]], label: str) -> list[Any]:
    """The points at which a row was trained."""
    return [choice for row, choice in scores if row == label]


def finalists(scores: Mapping[Point, Mapping[int, float]], label: str) -> list[Point]:
    """The best points of a row by the seed of the screening."""
    return sorted(((label, c) for c in of_row(scores, label)), key=lambda p: -scores[p][SCREENING])[:FINALISTS]


def best_of(scores: Mapping[Point, Mapping[int, float]], label: str) -> Any:
    """The point with the best mean mAP among those that a row trained with every seed; the first of equal ones."""
    complete = [c for c in of_row(scores, label) if len(scores[label, c]) == 1 + len(FINAL)]
    return max(complete, key=lambda choice: np.mean(list(scores[label, choice].values())))


def best_shared(scores: Mapping[Point, Mapping[int, float]], rows: list[Variant]) -> Choice:
    """The point with the best mean mAP over several rows."""
    candidates = of_row(scores, rows[0].label)
    return max(candidates, key=lambda choice: np.mean([scores[v.label, choice][SCREENING] for v in rows]))
