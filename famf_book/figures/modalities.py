"""Table 2: how much mAP a modality adds to a set of others."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from famf_book.plots import DIAMOND, MUTED, OURS, WIDTH, name_rows
from famf_lib.evidence.bootstrap import estimate
from famf_lib.experiments.catalogue import TABLE_2, set_name
from famf_lib.experiments.results import Results

AVERAGE = "average"


def joining(results: Results) -> pd.DataFrame:
    """The gain in mAP for each pair of sets in Table 2 where the second has one modality more.

    One row per pair, and one for the average over the pairs of a modality that has several. Columns: modality, joins
    (the smaller set, or "average"), paper, ours, low, high. Differences are paired by seed and person.
    """
    sets = [variant for variant in TABLE_2 if variant.label in results.labels]
    gains: dict[str, list[tuple[str, float, np.ndarray]]] = {}
    for small, large in product(sets, sets):
        more = set(large.modalities) - set(small.modalities)
        if len(more) == 1 and set(small.modalities) < set(large.modalities):
            gain = results.ap(large.label) - results.ap(small.label)
            pair = set_name(small.modalities), round(large.paper - small.paper, 4), gain
            gains.setdefault(more.pop(), []).append(pair)
    lines = []
    for modality in sorted(gains):
        pairs = gains[modality]
        if len(pairs) > 1:
            _, printed, ours = zip(*pairs, strict=True)
            pairs = [*pairs, (AVERAGE, round(float(np.mean(printed)), 4), np.mean(ours, axis=0))]
        for joins, said, gain in pairs:
            one = estimate(gain)
            lines.append((modality, joins, said, one.mean, one.low, one.high))
    return pd.DataFrame(lines, columns=["modality", "joins", "paper", "ours", "low", "high"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per modality of ``joining``: the average or the only pair, the largest gain first."""
    return table.groupby("modality").tail(1).sort_values("ours", ascending=False, ignore_index=True)


def gains(table: pd.DataFrame) -> Figure:
    """A dot plot of ``joining``: pairs in grey, averages in colour, the paper's differences as diamonds."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.34 * max(len(table), 1)), layout="constrained")
    axes.axvline(0, color="0.35", linewidth=1)
    last = table.groupby("modality").tail(1).index  # what ``summary`` shows
    for y, row in table.iterrows():
        colour, width, size = (OURS, 2.5, 60) if y in last else (MUTED, 1.6, 26)
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=width, solid_capstyle="round")
        axes.scatter(row["ours"], y, s=size, color=colour, zorder=3)
        axes.scatter(row["paper"], y, **DIAMOND, zorder=3)
        if y in last and y + 1 < len(table):
            axes.axhline(y + 0.5, color="0.88", linewidth=1)
    pairs = zip(table["modality"], table["joins"], strict=True)
    names = [f"{modality}, average" if joins == AVERAGE else f"{joins} + {modality}" for modality, joins in pairs]
    name_rows(axes, names)
    for y in last:
        axes.get_yticklabels()[y].set_fontweight("bold")
    axes.set_xlabel("gain in mAP at 100")
    axes.plot([], [], color=OURS, marker="o", linewidth=2.5, label="average, 95 % interval")
    axes.plot([], [], color=MUTED, marker="o", markersize=5, linewidth=1.6, label="one pair of sets")
    axes.scatter([], [], **DIAMOND, label="paper")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
