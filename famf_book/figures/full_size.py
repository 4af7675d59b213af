"""The time of a training at the paper's full size: what it has to be at the least, and what was measured, by part."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from famf_book.plots import MUTED, OURS, PALETTE, WIDTH, _rows
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
    "draw": "draw of the faces",
    "sampling": "sampling",
    "aggregation": "aggregation",
    "fusion": "fusion",
    "classifier": "classifier",
    "loss": "softmax and loss",
    "optimiser": "optimiser",
    "evaluation": "ranking, top 100",
}
SMALL = ("sampling", "aggregation", "fusion", "loss")  # where a compiler could fuse kernels
UNITS = (("ms", 0.001), ("s", 1), ("min", 60), ("h", 3600), ("days", 86_400))
TICKS = {
    **{0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min"},
    **{3600: "1 h", 36_000: "10 h", 360_000: "4 days"},
}


def record(folder: Path, kind: str) -> dict[str, Any] | None:
    """What ``benchmarks/full_size.py`` left on a ``cpu`` or a ``gpu``; None where nothing was recorded."""
    place = folder / f"full-size-{kind}.json"
    return json.loads(place.read_text()) if place.is_file() else None


def paper_size() -> Size:
    """The sizes of iQIYI-VID-2019 as published, D as in the synthetic data."""
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
    """The parts of one training and one ranking of a row of Table 1 at the paper's size, in bfloat16.

    Raises:
        ValueError: no such row.
    """
    if label not in (names := [row.label for row in TABLE_1]):
        raise ValueError(f"row: {label!r} is not known, expected one of {', '.join(names)}")
    spec, size = _spec(label), paper_size()
    changed = {"precision": "bfloat16"} | ({"batch_size": batch} if batch else {})
    training = type(spec.training)(**(spec.training.model_dump() | changed))
    parts = roofline.of_training(spec.model, training, size)
    return parts | {"evaluation": roofline.of_evaluation(spec.model, spec.evaluation, size)}


def floor_table(parts: dict[str, Work]) -> pd.DataFrame:
    """A row a part: operations, bytes, the least seconds on an H200, what decides them, and the share of all."""
    seconds = {name: one.seconds(H200) for name, one in parts.items()}
    return pd.DataFrame(
        {
            "TFLOP": [one.flops / 1e12 for one in parts.values()],
            "GB": [one.bytes / 1e9 for one in parts.values()],
            "least": list(seconds.values()),
            "decided by": [
                "products" if one.bytes / H200.memory < seconds[name] else "bytes" for name, one in parts.items()
            ],
            "share": [s / sum(seconds.values()) for s in seconds.values()],
        },
        index=pd.Index([SPOKEN[name] for name in parts], name="part"),
    )


def rates() -> str:
    """The card behind ``floor_table``, in a sentence."""
    return (
        f"The rates of {CARD} are taken as given, and no record of them is here: {H200.training / 1e12:.0f} TFLOP/s of "
        f"bfloat16 products and {H200.memory / 1e12:.1f} TB/s, as one was seen to reach, and "
        f"{H200.float32 / 1e12:.0f} TFLOP/s of float32 products, as published, for the ranking."
    )


def measured(told: dict[str, Any]) -> pd.DataFrame:
    """A row a part of a record: the least seconds of a training on that machine, those measured, and their ratio."""
    lines = told["parts"]
    table = pd.DataFrame(
        {"least": [line["floor here"] for line in lines], "measured": [line["measured"] for line in lines]},
        index=pd.Index([SPOKEN[line["part"]] for line in lines], name="part"),
        dtype=float,
    )
    return table.assign(ratio=table["measured"] / table["least"])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of ``floor_table`` or ``measured`` as text, times in the unit that suits them."""
    ways = {
        "TFLOP": "{:,.1f}".format,
        "GB": "{:,.0f}".format,
        "least": spoken,
        "measured": spoken,
        "share": "{:.0%}".format,
        "ratio": "{:.1f} ×".format,
    }
    return table.assign(**{name: table[name].map(way) for name, way in ways.items() if name in table})


def spoken(seconds: float) -> str:
    """A time in words: 12 ms, 0.6 s, 4.1 s, 2.5 h."""
    name, unit = next(((n, u) for n, u in reversed(UNITS) if seconds >= (0.1 if n == "s" else 2 * u)), UNITS[0])
    value = seconds / unit
    return f"{value:.{0 if name == 'ms' and value >= 10 else 1 if value >= 1 else 2}f} {name}"


def total(table: pd.DataFrame, column: str) -> float:
    """Seconds of a whole training with its ranking."""
    return float(table[column].sum())


def machine(told: dict[str, Any]) -> str:
    """The machine of a record in words."""
    hardware = told["origin"]["hardware"]
    if told["device"] == "cuda":
        return hardware.get("gpu", "a GPU")
    cores = "one core" if told["threads"] == 1 else f"{told['threads']} cores"
    return f"{cores} of {hardware['processor']}"


def where_from(told: dict[str, Any]) -> str:
    """What made a record."""
    size, origin, rates = told["size"], told["origin"], told["machine"]
    return (
        f"**Recorded** by `{told['command']}` at commit `{(origin['commit'] or 'unknown')[:12]}` on {machine(told)}, "
        f"PyTorch {origin['versions']['torch']}, products in {told['precision']}: {told['step']['batch']:,} clips a "
        f"step; a training has {size['steps']:,} steps of {size['batch']:,} or fewer. The machine reached "
        f"{rates['training'] / 1e12:.3g} TFLOP/s, in float32 {rates['float32'] / 1e12:.3g}, and "
        f"{rates['memory'] / 1e9:,.0f} GB/s."
    )


def answer(parts: dict[str, Work], cpu: dict[str, Any] | None, gpu: dict[str, Any] | None) -> str:
    """How long one training has to take, and how long it does, in sentences."""
    table = floor_table(parts)
    most = table["share"].idxmax()
    text = (
        f"One training at the paper's full size with its ranking is {table['TFLOP'].sum() / 1000:.1f} PFLOP of matrix "
        f"products and moves {table['GB'].sum() / 1000:.1f} TB at the least: {spoken(total(table, 'least'))} on "
        f"{CARD}, {table.loc[most, 'share']:.0%} of it in the {most}."
    )
    if gpu is not None:
        took = gpu["training"]["captured"]["seconds"] + gpu["training"]["evaluation"]
        least = total(measured(gpu), "least")
        text += f" Recorded on {machine(gpu)}: {spoken(took)}, {took / least:.1f} times its floor there."
        if gpu.get("table 1"):
            text += f" Table 1 whole, {gpu['table 1']['runs']} trainings: {spoken(gpu['table 1']['seconds'])}."
    else:
        text += " No GPU was at hand to measure it on."
    if cpu is not None:
        steps = cpu["step"]["a training of these"]
        text += f" At the rate of a few steps, {machine(cpu)} would take {spoken(steps)}."
    return text


def launching(parts: dict[str, Work], told: dict[str, Any] | None, batch: int) -> str:
    """Whether the host keeps up with a GPU that is launched kernel by kernel, and what fusing has to gain."""
    steps = BASE["paper"].training.epochs * steps_of(IQIYI["train_clips_with_face"], batch)
    step = sum(one.seconds(H200) for name, one in parts.items() if name not in ("draw", "evaluation")) / steps
    text = f"A training is {steps:,} steps, and {CARD} computes {1000 * step:.1f} ms for one at the least."
    if told is not None:
        text += (
            f" The host of {machine(told)} takes {1000 * told['step']['host']:.1f} ms to launch one kernel by kernel, "
            "measured on tensors so small that there is next to nothing to compute."
        )
    small = sum(parts[name].seconds(H200) for name in SMALL)
    *others, last = (SPOKEN[name] for name in SMALL)
    text += f" The parts of many small kernels, {', '.join(others)} and {last}, have a floor of {spoken(small)} in all."
    return text


def ways(told: dict[str, Any]) -> pd.DataFrame:
    """A row a way to launch the steps of a recorded training: seconds in all, of an epoch, and before the first."""
    rows = {name: told["training"][name] for name in ("captured", "launched", "compiled") if name in told["training"]}
    names = {"captured": "captured", "launched": "kernel by kernel", "compiled": "compiled"}
    columns = {"seconds": "training", "an epoch": "an epoch", "before": "before the first epoch"}
    table = pd.DataFrame.from_dict(rows, orient="index").rename(index=names, columns=columns)
    return table.map(spoken).rename_axis("steps")


def figure(parts: dict[str, Work], records: list[dict[str, Any]]) -> Figure:
    """A panel for the H200, calculated, and one for each record: the floor of a part as a circle, what was measured
    as a dot. A record of a GPU makes the calculated panel needless."""
    panels = {} if any(told["device"] == "cuda" for told in records) else {f"{CARD}, calculated": floor_table(parts)}
    panels |= {f"{machine(told)}, measured": measured(told) for told in records}
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
        one.set_xlabel("time of a whole training")
        _rows(one, list(table.index))
    first = axes[0][0]
    first.scatter([], [], s=50, facecolor="none", edgecolor=PALETTE[1], linewidth=1.6, label="floor")
    if records:
        first.scatter([], [], s=50, color=OURS, label="measured, each part alone")
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure
