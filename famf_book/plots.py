"""The style of all figures, and two dot plots with intervals that many pages share.

The paper's values are hollow diamonds.
"""

import re
from collections.abc import Sequence
from typing import SupportsFloat

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from famf_lib.evidence.claims import Comparison, Verdict

PALETTE = sns.color_palette("colorblind")
OURS, PAPER, MUTED = PALETTE[0], PALETTE[3], "0.55"
VERDICT_COLOURS = {Verdict.HOLDS: PALETTE[2], Verdict.DOES_NOT_HOLD: PALETTE[3], Verdict.CANNOT_TELL: MUTED}
DIAMOND = {"s": 48, "marker": "D", "facecolor": "none", "edgecolor": PAPER, "linewidth": 1.6}
TIP = "tip: "
WIDTH = 7.5  # inches: the text column of the book
GB, MB = 2**30, 2**20  # as for graphics cards: an "11 GB" card has 11 × 2³⁰ bytes


def theme() -> None:
    """Sets the style of every figure and SVG output in notebooks. The background is transparent."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 4.0),
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "0.88",
            "svg.hashsalt": "famf",  # makes the SVG of a figure reproducible
        }
    )
    if (shell := get_ipython()) is not None:
        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def tip(artist: Artist, text: str) -> None:
    """Gives a mark the text that an SVG figure shows when a reader points at it."""
    artist.set_gid(f"{TIP}{text}")


def svg(figure: Figure) -> str:
    """The figure as SVG, with its tips."""
    return re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", print_figure(figure, "svg"))


def levels(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """A dot plot of ``report.rows``: every seed, the mean with its interval, and the paper's value."""
    height = 0.9 + 0.5 * max(len(table), 1)
    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    for y, (label, row) in enumerate(table.iterrows()):
        axes.plot([row["low"], row["high"]], [y, y], color=OURS, linewidth=2.5, solid_capstyle="round", zorder=2)
        for seed, value in seeds.loc[label].items():
            dot = axes.scatter(value, y + 0.22, s=14, color=OURS, alpha=0.5, linewidth=0, zorder=2)
            tip(dot, f"{label}, seed {seed}: {value:.4f}")
        mean = axes.scatter(row["ours"], y, s=60, color=OURS, zorder=3)
        tip(mean, f"{label}: {row['ours']:.4f}, 95 % interval {row['low']:.4f} to {row['high']:.4f}")
        axes.annotate(
            f"{row['ours']:.3f}", (row["ours"], y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9
        )
        if pd.notna(row["paper"]):
            tip(axes.scatter(row["paper"], y, **DIAMOND, zorder=3), f"{label}, the paper: {row['paper']:.4f}")
    name_rows(axes, list(table.index))
    axes.set_xlabel("mAP at 100")
    axes.scatter([], [], s=60, color=OURS, label="ours: mean, 95 % interval")
    axes.scatter([], [], s=14, color=OURS, alpha=0.5, linewidth=0, label="ours: each seed")
    axes.scatter([], [], **DIAMOND, label="paper (iQIYI-VID-2019)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def differences(compared: list[Comparison]) -> Figure:
    """A dot plot of paired differences, coloured by verdict, and the paper's; those in the grey band are negligible."""
    height = 1.1 + 0.42 * max(len(compared), 1)
    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    axes.axvline(0, color="0.35", linewidth=1)
    for y, one in enumerate(compared):
        low, high = one.rule.band(one.margin)
        axes.fill_betweenx([y - 0.5, y + 0.5], low, high, color="0.5", alpha=0.15, linewidth=0)
        colour = VERDICT_COLOURS[one.verdict]
        axes.plot([one.ours.low, one.ours.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
        ours = f"{one.ours.mean:+.4f} [{one.ours.low:+.4f}, {one.ours.high:+.4f}]"
        tip(axes.scatter(one.ours.mean, y, s=55, color=colour, zorder=3), f"{one.name}: {ours}, {one.verdict}")
        if one.paper is not None:
            tip(axes.scatter(one.paper, y, **DIAMOND, zorder=3), f"{one.name}, the paper: {one.paper:+.4f}")
    several = len({one.claim for one in compared}) > 1  # the name of a single claim would be on every line
    name_rows(axes, [f"{one.claim}\n{one.case}" if several else one.case for one in compared])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("difference in mAP at 100")
    for verdict, colour in VERDICT_COLOURS.items():
        axes.plot([], [], color=colour, marker="o", linewidth=2.5, label=str(verdict))
    if any(one.paper is not None for one in compared):
        axes.scatter([], [], **DIAMOND, label="paper")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def name_rows(axes: Axes, names: list[str]) -> None:
    """Names the rows of a dot plot, from the top: row n is at y = n."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def styles(rows: Sequence[str]) -> dict[str, tuple]:
    """Colour and marker of each row; the last row, which is FAMF, is a blue circle."""
    looks = ((OURS, "o"), (PALETTE[1], "s"), (PALETTE[2], "^"))
    return {row: looks[n % len(looks)] for n, row in enumerate(reversed(rows))}


def bytes_text(value: SupportsFloat) -> str:
    """A number of bytes as MB or GB, which are 2²⁰ and 2³⁰ bytes."""
    return f"{value / GB:.3g} GB" if value >= GB else f"{value / MB:.3g} MB"
