"""What was tried while the book was made and did not help, from the records that the attempts left in results/."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from famf_book.figures.benchmarks import spread


def attempts(folder: Path) -> pd.DataFrame:
    """A row an attempt: what was hoped for, what was found, and the command that repeats it.

    Args:
        folder: results/. An attempt whose record is not there is left out.
    """
    known = {"batched-seeds-cpu": _batched, "precision-cpu": _precision, "aggregation-kernels-cpu": _kernels}
    rows = [row for name, tell in known.items() for row in _read(folder, name, tell)]
    for path in sorted(folder.glob("tuning-*.json")):
        rows += _read(folder, path.stem, _tuning)
    return pd.DataFrame(rows, columns=["tried", "hoped for", "found", "command"]).set_index("tried")


def _read(folder: Path, name: str, tell: Any) -> Iterator[tuple[str, str, str, str]]:
    place = folder / f"{name}.json"
    if place.is_file():
        told = json.loads(place.read_text())
        yield *tell(name, told), told["command"]


def _batched(name: str, told: dict) -> tuple[str, str, str]:
    ratios = [row["one after the other / batched"] for row in told["rows"] if row["profile"] == "standard"]
    return (
        "five seeds trained as one batched computation",
        "less time, so more seeds",
        f"on one CPU thread, at the standard size, {min(ratios):.2f} to {max(ratios):.2f} times the speed",
    )


def _precision(name: str, told: dict) -> tuple[str, str, str]:
    rows = told["rows"]
    faster = [row["float32 / bfloat16"] for row in rows]
    lost = mean(row["mAP, float32"] - row["mAP, bfloat16"] for row in rows)
    return (
        "bfloat16 for the matrix products of a CPU",
        "less time at no cost",
        f"{min(faster):.1f} to {max(faster):.1f} times the speed, {-lost:+.4f} mAP on average; used all the same",
    )


def _kernels(name: str, told: dict) -> tuple[str, str, str]:
    ratios = [row["products / form"] for row in told["training"]]
    gave = f"a training step at {spread(ratios)} times the speed"
    return (
        "aggregation in chunks that stay in the cache, with a gradient written by hand",
        "less time in training",
        f"{gave}; used where the faces want a gradient",
    )


def _tuning(name: str, told: dict) -> tuple[str, str, str]:
    table = pd.DataFrame([{k: v for k, v in line.items() if k != "rows"} for line in told["table"]])
    best = table.groupby("normalisation")["mean_ap"].max()
    dataset = name.split("-")[1]
    return (
        f"Eq. 1 and 3 as printed, without normalisation ({dataset})",
        "the paper's own form",
        f"on the tuning part, {best['none'] - best.drop('none').max():+.4f} mAP against the best normalised form",
    )
