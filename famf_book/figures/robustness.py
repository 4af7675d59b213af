"""How much mAP is lost as the share of ruined frames grows, and which aggregation loses less."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from famf_book.plots import MUTED, PALETTE, VERDICT_COLOURS, WIDTH, name_rows
from famf_book.report import verdicts
from famf_lib.evidence.bootstrap import difference, estimate
from famf_lib.evidence.claims import MARGIN, Comparison
from famf_lib.experiments.catalogue import FAMF
from famf_lib.experiments.results import Results

KINDS = {"poor": "poor faces", "stranger": "strangers"}
"""What replaces a ruined face, in words."""

PAIRS = (
    ("AttentionVLAD + MMA", "NetVLAD + MMA"),
    ("AttentionVLAD + MLMA", "NetVLAD + MLMA"),
    ("AttentionVLAD + MLMA", "Mean pooling + Concat"),
)
"""Which row should lose less than which. In Table 1, mean pooling is only combined with Concat."""

# Colour shows the aggregation, line style the fusion.
COLOURS = {
    "Mean pooling": PALETTE[7],
    "NetVLAD": PALETTE[1],
    "GhostVLAD": PALETTE[2],
    "NeXtVLAD": PALETTE[4],
    "AttentionVLAD": PALETTE[0],
}
LINES = {"Concat": ":", "MMA": "--", "MLMA": "-"}
SHOWN = 12  # names in the legend


def kinds(results: Results) -> list[str]:
    """The kinds of ruined faces in the results."""
    asked = set(results.answers["ruined"]["kind"])
    return [kind for kind in KINDS if kind in asked]


def shares(results: Results) -> list[float]:
    """The shares of ruined faces in the results, ascending from 0."""
    return sorted(float(s) for s in results.answers["ruined"]["share"].unique())


def levels(results: Results) -> pd.DataFrame:
    """mAP by kind, row and share of ruined faces. Columns: kind, label, share, mean, low, high."""
    rows = []
    for kind in kinds(results):
        for label in results.labels:
            for share in shares(results):
                ap = results.answer("ruined", label, "ap", kind=kind, share=share)
                one = estimate(ap)
                rows.append((kind, label, share, one.mean, one.low, one.high))
    return pd.DataFrame(rows, columns=["kind", "label", "share", "mean", "low", "high"])


def loss(results: Results, label: str, kind: str, share: float) -> Float[np.ndarray, "S P"]:
    """AP of each person with intact clips minus AP with ruined ones."""
    whole = results.answer("ruined", label, "ap", kind=kind, share=shares(results)[0])
    return whole - results.answer("ruined", label, "ap", kind=kind, share=share)


def comparisons(results: Results) -> list[Comparison]:
    """The loss of the other row minus that of AttentionVLAD, paired by seed and person, at every share above 0."""
    return [
        Comparison(
            f"{ours} loses less than {other}",
            f"{share:.0%} {KINDS[kind]}",
            f"loss of {other} minus loss of {ours}",
            None,
            difference(loss(results, other, kind, share), loss(results, ours, kind, share)),
        )
        for ours, other in PAIRS
        for kind in kinds(results)
        for share in shares(results)[1:]
    ]


def answer(results: Results, compared: Sequence[Comparison]) -> str:
    """The verdicts, and the loss of each compared row at the largest share of ruined faces, in sentences."""
    worst = shares(results)[-1]
    parts = [verdicts(compared)]
    for kind in kinds(results):
        lost = [
            f"{label} loses {estimate(loss(results, label, kind, worst)).mean:.3f} mAP"
            for label in dict.fromkeys(label for pair in PAIRS if FAMF.label in pair for label in pair)
        ]
        parts.append(f"With {worst:.0%} {KINDS[kind]}, {', '.join(lost)}.")
    return " ".join(parts)


def shown(compared: Sequence[Comparison]) -> pd.DataFrame:
    """``comparisons`` as text, difference, interval and verdict: one row per case, one column per claim."""
    cells: dict[str, dict[str, str]] = {}
    for one in compared:
        e = one.ours
        text = f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}] {one.verdict}"
        cells.setdefault(one.claim, {})[one.case] = text
    return pd.DataFrame(cells).rename_axis("ruined faces")


# --- figures ---------------------------------------------------------------------------------------------------------


def levels_figure(table: pd.DataFrame) -> Figure:
    """mAP against the share of ruined faces, from ``levels``: one panel per kind, one line per row, with intervals."""
    labels, across = list(table["label"].unique()), list(table["kind"].unique())
    figure, grid = plt.subplots(
        1, max(len(across), 1), figsize=(WIDTH, 3.9), layout="constrained", sharey=True, squeeze=False
    )
    for axes, kind in zip(grid.flat, across, strict=False):
        for n, label in enumerate(labels):
            of = table[(table["kind"] == kind) & (table["label"] == label)]
            look = _look(label)
            x = 100 * of["share"] + 0.8 * (n - (len(labels) - 1) / 2) * min(1, 7 / len(labels))  # side by side
            axes.vlines(x, of["low"], of["high"], color=look["color"], alpha=0.45, linewidth=1.4, zorder=2)
            axes.plot(x, of["mean"], **look, zorder=3)
        axes.set_title(KINDS.get(kind, kind), fontsize=10.5)
        axes.set_xticks(100 * np.sort(table["share"].unique()))
        axes.set_xlabel("share of ruined faces (%)")
        axes.grid(axis="x", visible=False)
    grid.flat[0].set_ylabel("mAP at 100")
    for label in labels[:SHOWN]:
        grid.flat[0].plot([], [], **_look(label), label=label)
    if labels:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9, handlelength=3)
    return figure


def _look(label: str) -> dict[str, Any]:
    aggregation, _, fusion = label.partition(" + ")
    look = {"color": COLOURS.get(aggregation, MUTED), "linestyle": LINES.get(fusion, "-")}
    return look | {"linewidth": 1.8, "marker": "o", "markersize": 4}


def losses_figure(compared: Sequence[Comparison]) -> Figure:
    """``comparisons`` as a dot plot, one panel per claim, coloured by verdict.

    Positive where the first row of the claim loses less. Differences in the grey band are negligible.
    """
    panels = list(dict.fromkeys(one.claim for one in compared))
    cases = list(dict.fromkeys(one.case for one in compared))
    figure, grid = plt.subplots(
        1,
        max(len(panels), 1),
        figsize=(WIDTH, 1.6 + 0.3 * max(len(cases), 1)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, claim in zip(grid.flat, panels, strict=False):
        axes.axvspan(0, MARGIN, color="0.5", alpha=0.15, linewidth=0)
        axes.axvline(0, color="0.35", linewidth=1)
        for one in (c for c in compared if c.claim == claim):
            y, colour = cases.index(one.case), VERDICT_COLOURS[one.verdict]
            axes.plot([one.ours.low, one.ours.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="round")
            axes.scatter(one.ours.mean, y, s=34, color=colour, zorder=3)
        axes.set_title(claim.replace(" loses less than ", "\nloses less than\n"), fontsize=9)
    for axes in grid.flat:
        name_rows(axes, cases)
    figure.supxlabel("loss in mAP of the second row minus that of the first", fontsize=9.5)
    for verdict, colour in VERDICT_COLOURS.items():
        grid.flat[0].plot([], [], color=colour, marker="o", linewidth=2.5, label=str(verdict))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
