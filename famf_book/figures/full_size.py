"""Training time at the paper's full size by part: the roofline, a lower bound, and measurements."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from famf_book.plots import MUTED, OURS, PALETTE, WIDTH, name_rows
from famf_lib.data.datasets import DATASETS
from famf_lib.data.synthetic import SIZES
from famf_lib.experiments.catalogue import FAMF, TABLE_1, specs
from famf_lib.experiments.settings import BASE
from famf_lib.paper import IQIYI
from famf_lib.training import roofline
from famf_lib.training.roofline import H200, Size, Work
from famf_lib.training.train import steps_of

CARD = "an H200"
SPOKEN = {
    "draw": "sampling of faces",
    "sampling": "gathering of batches",
    "aggregation": "aggregation",
    "fusion": "fusion",
    "classifier": "classifier",
    "loss": "softmax and loss",
    "optimiser": "optimiser",
    "evaluation": "ranking, top 100",
}
SMALL = ("sampling", "aggregation", "fusion", "loss")  # parts whose kernels a compiler could fuse
UNITS = (("ms", 0.001), ("s", 1), ("min", 60), ("h", 3600), ("days", 86_400))
TICKS = {
    **{0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min"},
    **{3600: "1 h", 36_000: "10 h", 360_000: "4 days"},
}


def record(folder: Path, kind: str) -> dict[str, Any] | None:
    """The record of ``benchmarks/full_size.py`` for ``cpu`` or ``gpu``; None if there is none."""
    place = folder / f"full-size-{kind}.json"
    return json.loads(place.read_text()) if place.is_file() else None


def paper_size() -> Size:
    """The published sizes of iQIYI-VID-2019, with D as in the synthetic data."""
    dim, row = SIZES["paper"].dim, _spec(FAMF.label)
    return Size(
        dim=dim,
        modality_dims=dict.fromkeys(row.model.modalities, dim),
        persons=IQIYI["persons"],
        clips=IQIYI["train_clips_with_face"],
        faces=IQIYI["train_faces"],
        gallery=IQIYI["val_gallery"],
    )


def _spec(label: str):
    return specs(TABLE_1, DATASETS["synthetic"], BASE["paper"], [1])[label, 1]


def work(label: str = FAMF.label, batch: int | None = None) -> dict[str, Work]:
    """The work of one training and one evaluation of a row of Table 1 at the paper's size, by part, in bfloat16.

    Raises:
        ValueError: there is no such row.
    """
    if label not in (names := [row.label for row in TABLE_1]):
        raise ValueError(f"row: {label!r} is not known, expected one of {', '.join(names)}")
    spec, size = _spec(label), paper_size()
    changed = {"precision": "bfloat16"} | ({"batch_size": batch} if batch else {})
    training = type(spec.training)(**(spec.training.model_dump() | changed))
    parts = roofline.of_training(spec.model, training, size)
    return parts | {"evaluation": roofline.of_evaluation(spec.model, spec.evaluation, size)}


def floor_table(parts: dict[str, Work]) -> pd.DataFrame:
    """One row per part: operations, bytes, least seconds on an H200, what limits it, and its share of the time."""
    seconds = {name: one.seconds(H200) for name, one in parts.items()}
    return pd.DataFrame(
        {
            "TFLOP": [one.flops / 1e12 for one in parts.values()],
            "GB": [one.bytes / 1e9 for one in parts.values()],
            "least": list(seconds.values()),
            "limited by": [
                "compute" if one.bytes / H200.memory < seconds[name] else "memory" for name, one in parts.items()
            ],
            "share": [s / sum(seconds.values()) for s in seconds.values()],
        },
        index=pd.Index([SPOKEN[name] for name in parts], name="part"),
    )


def rates() -> str:
    """The rates of the card that ``floor_table`` assumes, in a sentence."""
    return (
        f"The rates of {CARD} are assumptions: {H200.training / 1e12:.0f} TFLOP/s for bfloat16 matrix products and "
        f"{H200.memory / 1e12:.1f} TB/s were measured on one, but are not recorded here; {H200.float32 / 1e12:.0f} "
        "TFLOP/s for float32 products, which the evaluation uses, is the published rate."
    )


def measured(run: dict[str, Any]) -> pd.DataFrame:
    """One row per part of a record: the least seconds of a training on that machine, the measured ones, the ratio."""
    lines = run["parts"]
    table = pd.DataFrame(
        {"least": [line["floor here"] for line in lines], "measured": [line["measured"] for line in lines]},
        index=pd.Index([SPOKEN[line["part"]] for line in lines], name="part"),
        dtype=float,
    )
    return table.assign(ratio=table["measured"] / table["least"])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of ``floor_table`` or ``measured`` as text, with times in readable units."""
    formats = {
        "TFLOP": "{:,.1f}".format,
        "GB": "{:,.0f}".format,
        "least": spoken,
        "measured": spoken,
        "share": "{:.0%}".format,
        "ratio": "{:.1f} ×".format,
    }
    return table.assign(**{name: table[name].map(way) for name, way in formats.items() if name in table})


def spoken(seconds: float) -> str:
    """A time in a readable unit: 12 ms, 0.6 s, 4.1 s, 2.5 h."""
    name, unit = next(((n, u) for n, u in reversed(UNITS) if seconds >= (0.1 if n == "s" else 2 * u)), UNITS[0])
    value = seconds / unit
    return f"{value:.{0 if name == 'ms' and value >= 10 else 1 if value >= 1 else 2}f} {name}"


def total(table: pd.DataFrame, column: str) -> float:
    """Seconds of a whole training and evaluation."""
    return float(table[column].sum())


def machine(run: dict[str, Any]) -> str:
    """The machine of a record in words."""
    hardware = run["origin"]["hardware"]
    if run["device"] == "cuda":
        return hardware.get("gpu", "a GPU")
    cores = "one core" if run["threads"] == 1 else f"{run['threads']} cores"
    return f"{cores} of {hardware['processor']}"


def where_from(run: dict[str, Any]) -> str:
    """The command, commit, machine and size of a record."""
    size, origin, rates = run["size"], run["origin"], run["machine"]
    return (
        f"**Recorded** by `{run['command']}` at commit `{(origin['commit'] or 'unknown')[:12]}` on {machine(run)}, "
        f"PyTorch {origin['versions']['torch']}, matrix products in {run['precision']}. Steps of "
        f"{run['step']['batch']:,} clips were measured; a training has {size['steps']:,} steps of up to "
        f"{size['batch']:,}. The machine reached {rates['training'] / 1e12:.3g} TFLOP/s "
        f"({rates['float32'] / 1e12:.3g} in float32) and {rates['memory'] / 1e9:,.0f} GB/s."
    )


def answer(parts: dict[str, Work], cpu: dict[str, Any] | None, gpu: dict[str, Any] | None) -> str:
    """The roofline of one training and its measured time, in sentences."""
    table = floor_table(parts)
    most = table["share"].idxmax()
    text = (
        f"One training and evaluation at the paper's full size needs {table['TFLOP'].sum() / 1000:.1f} PFLOP of matrix "
        f"products and moves at least {table['GB'].sum() / 1000:.1f} TB. On {CARD} that takes at least "
        f"{spoken(total(table, 'least'))}, {table.loc[most, 'share']:.0%} of it for the {most}."
    )
    if gpu is not None:
        took = gpu["training"]["captured"]["seconds"] + gpu["training"]["evaluation"]
        least = total(measured(gpu), "least")
        text += f" Recorded on {machine(gpu)}: {spoken(took)}, {took / least:.1f} times the roofline there."
        if gpu.get("table 1"):
            text += f" All {gpu['table 1']['runs']} runs of Table 1: {spoken(gpu['table 1']['seconds'])}."
    else:
        text += " No GPU was available for measurements."
    if cpu is not None:
        steps = cpu["step"]["a training of these"]
        text += f" Extrapolated from a few steps, {machine(cpu)} would take {spoken(steps)}."
    return text


def launching(parts: dict[str, Work], run: dict[str, Any] | None, batch: int) -> str:
    """Whether the host can launch kernels as fast as a GPU runs them, and what fusing could gain, in sentences."""
    steps = BASE["paper"].training.epochs * steps_of(IQIYI["train_clips_with_face"], batch)
    step = sum(one.seconds(H200) for name, one in parts.items() if name not in ("draw", "evaluation")) / steps
    text = f"A training has {steps:,} steps, and {CARD} needs at least {1000 * step:.1f} ms for each."
    if run is not None:
        text += (
            f" Launching the kernels of a step one by one takes {1000 * run['step']['host']:.1f} ms on the host "
            f"({machine(run)}), measured with tensors so small that computing takes no time."
        )
    small = sum(parts[name].seconds(H200) for name in SMALL)
    *others, last = (SPOKEN[name] for name in SMALL)
    text += (
        f" The parts with many small kernels, {', '.join(others)} and {last}, need at least {spoken(small)} together."
    )
    return text


def ways(run: dict[str, Any]) -> pd.DataFrame:
    """One row per way to launch the steps of a recorded training: seconds in total, per epoch, before the first."""
    rows = {name: run["training"][name] for name in ("captured", "launched", "compiled") if name in run["training"]}
    names = {"captured": "captured", "launched": "kernel by kernel", "compiled": "compiled"}
    columns = {"seconds": "training", "an epoch": "one epoch", "before": "before the first epoch"}
    table = pd.DataFrame.from_dict(rows, orient="index").rename(index=names, columns=columns)
    return table.map(spoken).rename_axis("steps")


def figure(parts: dict[str, Work], records: list[dict[str, Any]]) -> Figure:
    """The roofline of each part as a circle and its measured time as a dot: one panel per record.

    Without a record of a GPU, the first panel shows the calculated rooflines on an H200.
    """
    panels = {} if any(run["device"] == "cuda" for run in records) else {f"{CARD}, calculated": floor_table(parts)}
    panels |= {f"{machine(run)}, measured": measured(run) for run in records}
    figure, axes = plt.subplots(
        1, max(len(panels), 1), sharey=True, figsize=(WIDTH, 3.9), layout="constrained", squeeze=False
    )
    for one, (title, table) in zip(axes[0], panels.items(), strict=False):
        y = np.arange(len(table))
        one.scatter(table["least"], y, s=50, facecolor="none", edgecolor=PALETTE[1], linewidth=1.6, zorder=3)
        if "measured" in table:
            one.hlines(y, table["least"], table["measured"], color=MUTED, linewidth=1, zorder=1)
            one.scatter(table["measured"], y, s=50, color=OURS, zorder=2)
        one.set_xscale("log")
        low, high = one.get_xlim()
        one.set_xticks(
            [t for t in TICKS if low <= t <= high], [TICKS[t] for t in TICKS if low <= t <= high], fontsize=8
        )
        one.xaxis.set_minor_locator(NullLocator())
        one.set_title(title, fontsize=10)
        one.set_xlabel("time per training")
        name_rows(one, list(table.index))
    first = axes[0][0]
    first.scatter([], [], s=50, facecolor="none", edgecolor=PALETTE[1], linewidth=1.6, label="roofline")
    if records:
        first.scatter([], [], s=50, color=OURS, label="measured, each part separately")
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure
