"""Attempts at speed or accuracy and what they gained, from their records in results/."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd


def attempts(folder: Path) -> pd.DataFrame:
    """One row per attempt: the aim, the result, and the command that repeats it.

    Args:
        folder: results/. An attempt without a record is left out.
    """
    known = {"batched-seeds-cpu": _batched, "precision-cpu": _precision, "aggregation-kernels-cpu": _kernels}
    rows = [row for name, tell in known.items() for row in _read(folder, name, tell)]
    for path in sorted(folder.glob("tuning-*.json")):
        rows += _read(folder, path.stem, _tuning)
    return pd.DataFrame(rows, columns=["attempt", "aim", "result", "command"]).set_index("attempt")


def _read(folder: Path, name: str, tell: Any) -> Iterator[tuple[str, str, str, str]]:
    place = folder / f"{name}.json"
    if place.is_file():
        record = json.loads(place.read_text())
        yield *tell(name, record), record["command"]


def _batched(name: str, record: dict) -> tuple[str, str, str]:
    ratios = [row["one after the other / batched"] for row in record["rows"] if row["profile"] == "standard"]
    return (
        "training five seeds as one batched computation",
        "less time, hence more seeds",
        f"{min(ratios):.2f} to {max(ratios):.2f} times the speed on one CPU thread, in the profile `standard`",
    )


def _precision(name: str, record: dict) -> tuple[str, str, str]:
    rows = record["rows"]
    faster = [row["float32 / bfloat16"] for row in rows]
    lost = mean(row["mAP, float32"] - row["mAP, bfloat16"] for row in rows)
    return (
        "bfloat16 matrix products on a CPU",
        "less time without a loss in mAP",
        f"{min(faster):.1f} to {max(faster):.1f} times the speed, {-lost:+.4f} mAP on average; used nevertheless",
    )


def _kernels(name: str, record: dict) -> tuple[str, str, str]:
    ratios = [row["products / form"] for row in record["training"]]
    return (
        "aggregation in chunks that fit the cache, with a hand-written gradient",
        "less time in training",
        f"{spread(ratios)} times the speed of a training step; used where faces require a gradient",
    )


def _tuning(name: str, record: dict) -> tuple[str, str, str]:
    table = pd.DataFrame([{k: v for k, v in line.items() if k != "rows"} for line in record["table"]])
    best = table.groupby("normalisation")["mean_ap"].max()
    dataset = name.split("-")[1]
    return (
        f"Eq. 1 and 3 as printed, without normalisation ({dataset})",
        "the form printed in the paper",
        f"{best['none'] - best.drop('none').max():+.4f} mAP on the tuning part, compared with the best normalised form",
    )


def spread(ratios: Sequence[float]) -> str:
    """The smallest and largest ratio, or one number if they are equal."""
    return " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))))
