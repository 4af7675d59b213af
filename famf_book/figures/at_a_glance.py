"""Table 1 in the paper and on several datasets: one panel each, with the rank of FAMF."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famf_book.plots import MUTED, OURS, PAPER, WIDTH, tip
from famf_book.report import ordinal
from famf_lib.experiments.catalogue import FAMF

BAND = 0.5  # half the height of a row


def order(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The labels of the rows in order of the paper's mAP, best first, then those that it does not have."""
    printed = next(iter(tables.values()))["paper"] if tables else pd.Series(dtype=float)
    return list(printed.sort_values(ascending=False, na_position="last", kind="stable").index)


def place(values: Sequence[float], value: float) -> str:
    """The rank of a value among those that are not NaN: "best of 7", "3rd of 7"."""
    given = [v for v in values if pd.notna(v)]
    number = 1 + int(sum(v > value for v in given))
    return f"{'best' if number == 1 else ordinal(number)} of {len(given)}"


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel for the paper's values, and one per dataset for ours (``report.rows``) with their intervals."""
    labels = order(tables)
    panels = len(tables) + 1
    figure, every = plt.subplots(
        1,
        panels,
        sharey=True,
        squeeze=False,
        figsize=(WIDTH * 1.15, 0.9 + 0.34 * max(len(labels), 1)),
        layout="constrained",
    )
    paper, *ours = every[0]
    if labels:
        _paper(paper, next(iter(tables.values()))["paper"].reindex(labels))
    for axes, (name, table) in zip(ours, tables.items(), strict=True):
        _ours(axes, name, table.reindex(labels))
    for axes in every[0]:
        if FAMF.label in labels:
            y = labels.index(FAMF.label)
            axes.axhspan(y - BAND, y + BAND, color="0.5", alpha=0.15, linewidth=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="both", length=0, labelsize=8)
        axes.locator_params(axis="x", nbins=3)
        axes.margins(x=0.12)
    paper.set_yticks(range(len(labels)), labels, fontsize=9)
    paper.set_ylim(max(len(labels), 1) - BAND, -BAND)
    for text in paper.get_yticklabels():
        text.set_fontweight("bold" if text.get_text() == FAMF.label else "normal")
    figure.supxlabel("mAP at 100", fontsize=9)
    return figure


def _paper(axes: Axes, values: pd.Series) -> None:
    for y, (label, value) in enumerate(values.items()):
        if pd.notna(value):
            face = PAPER if label == FAMF.label else "none"
            dot = axes.scatter(value, y, s=44, marker="D", facecolor=face, edgecolor=PAPER, linewidth=1.6, zorder=3)
            tip(dot, f"{label}, the paper: {value:.4f}")
    _title(axes, "the paper", values)


def _ours(axes: Axes, name: str, table: pd.DataFrame) -> None:
    for y, (label, row) in enumerate(table.iterrows()):
        if pd.isna(row["ours"]):
            continue
        colour = OURS if label == FAMF.label else MUTED
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.5, solid_capstyle="round", zorder=2)
        dot = axes.scatter(row["ours"], y, s=44, color=colour, zorder=3)
        tip(dot, f"{label} on {name}: {row['ours']:.4f}, 95 % interval {row['low']:.4f} to {row['high']:.4f}")
    _title(axes, name, table["ours"])


def _title(axes: Axes, name: str, values: pd.Series) -> None:
    rank = f"\nFAMF {place(list(values), values[FAMF.label])}" if pd.notna(values.get(FAMF.label)) else ""
    axes.set_title(f"{name}{rank}", fontsize=9)
