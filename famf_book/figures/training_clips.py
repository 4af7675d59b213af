"""How rank-1 and mAP depend on the number of training clips of a person."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famf_book.plots import VERDICT_COLOURS, WIDTH, styles
from famf_lib.evidence.bootstrap import difference, estimate
from famf_lib.evidence.claims import BETTER, MARGIN, Verdict
from famf_lib.experiments.results import Results

LEAST = 5  # fewest persons in a bin
ENOUGH = 0.9  # the rank-1 that we call enough
MEASURES = {"rank-1": "rank-1", "mAP": "mAP at 100"}
COLUMNS = ["row", "measure", "clips", "persons", "mean", "low", "high"]


def trained(results: Results, label: str) -> Float[np.ndarray, "S P"]:
    """The number of training clips of each person in each run; NaN for persons without a clip in the gallery."""
    return _by_person(results, label, "trained")


def rank_1(results: Results, label: str) -> Float[np.ndarray, "S P"]:
    """The share of each person's ranked clips that are recognised, in each run."""
    return _by_person(results, label, "right")


def _by_person(results: Results, label: str, column: str) -> Float[np.ndarray, "S P"]:
    table = results.answers["answers"]
    table = table[(table["label"] == label) & (table["person"] >= 0)]
    wide = table.groupby(["seed", "person"])[column].mean().unstack()
    return wide.reindex(index=results.seeds, columns=range(results.ap(label).shape[1])).to_numpy(dtype=float)


def bins(number: Float[np.ndarray, "S P"], least: int | float = LEAST) -> list[tuple[int, int]]:
    """Bins of the number of training clips as (first, last): 1, 2, 3–4, 5–8, …, doubling up to the largest number.

    A bin with fewer than ``least`` persons on average over the runs is merged with the next, the last one with the
    previous.
    """
    known = number[~np.isnan(number)]
    if known.size == 0:
        return []
    tops, top = [], 1
    while top < known.max():
        tops.append(top)
        top *= 2
    edges = [0]
    for last in [*tops, top]:
        if _inside(number, edges[-1] + 1, last).sum() / len(number) >= least:
            edges.append(last)
    if len(edges) == 1:
        return [(1, top)]
    edges[-1] = top
    return [(low + 1, high) for low, high in pairwise(edges)]


def _inside(number: Float[np.ndarray, "S P"], first: int, last: int) -> np.ndarray:
    return (number >= first) & (number <= last)


def name(first: int, last: int, most: int | float) -> str:
    """The name of a bin: 1, 3–4, and 17+ for the last."""
    return f"{first}+" if last >= most and last > first else f"{first}" if first == last else f"{first}–{last}"


def by_clips(results: Results) -> pd.DataFrame:
    """Rank-1 and mAP of every row by the number of training clips of the person.

    Columns: row, measure, clips (the bin), persons (average per run), mean, low, high (both clipped to 0..1).
    """
    lines = []
    for label in results.labels:
        for measure, clips, persons, values in _binned(results, label):
            e = estimate(values)
            lines.append((label, measure, clips, persons, e.mean, max(e.low, 0.0), min(e.high, 1.0)))
    return pd.DataFrame(lines, columns=COLUMNS)


def gains(results: Results, label: str, base: str) -> pd.DataFrame:
    """The paired gain of a row over another. Columns as in ``by_clips`` without row, and the verdict of “better”."""
    lines = []
    for (measure, clips, persons, a), (*_, b) in zip(_binned(results, label), _binned(results, base), strict=True):
        e = difference(a, b)
        lines.append((measure, clips, persons, e.mean, e.low, e.high, str(BETTER.judge(e, MARGIN))))
    return pd.DataFrame(lines, columns=[*COLUMNS[1:], "verdict"])


def _binned(results: Results, label: str) -> list[tuple[str, str, float, Float[np.ndarray, "s p"]]]:
    """(measure, bin, persons per run, values); values of other persons are NaN, empty runs and persons are dropped."""
    number = trained(results, label)
    ranges = bins(number)
    found = []
    for measure, values in (("rank-1", rank_1(results, label)), ("mAP", results.ap(label))):
        for first, last in ranges:
            inside = _inside(number, first, last)
            held = np.where(inside, values, np.nan)[inside.any(axis=1)][:, inside.any(axis=0)]
            found.append((measure, name(first, last, np.nanmax(number)), inside.sum() / len(inside), held))
    return found


def side_by_side(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One line per bin: the number of persons, and the measure of each row with its interval as text."""
    table = table[table["measure"] == measure]
    cells = [f"{t.mean:.3f} [{t.low:.3f}, {t.high:.3f}]" for t in table.itertuples(index=False)]
    wide = table.assign(cells=cells).pivot(index="clips", columns="row", values="cells")
    wide = wide.reindex(index=table["clips"].unique(), columns=table["row"].unique()).rename_axis(columns=None)
    wide.insert(0, "persons", [f"{n:g}" for n in table.drop_duplicates("clips")["persons"].round(1)])
    return wide.rename_axis("training clips")


def enough(table: pd.DataFrame, row: str, wanted: float = ENOUGH) -> str | None:
    """The first bin from which on every bin of a row has at least the wanted rank-1; None if there is none."""
    of = table[(table["row"] == row) & (table["measure"] == "rank-1")]
    below = (of["mean"] < wanted).to_numpy()
    first = int(np.flatnonzero(below).max()) + 1 if below.any() else 0
    return of["clips"].iloc[first] if first < len(of) else None


def answer(table: pd.DataFrame, gained: pd.DataFrame, row: str, base: str, name: str = "") -> str:
    """How many clips are enough for a row, and for which bins it gains over another, in sentences."""
    of = table[(table["row"] == row) & (table["measure"] == "rank-1")]
    few, many = of.iloc[0], of.iloc[-1]

    def interval(line: pd.Series) -> str:
        return f"{line['mean']:.1%} [{line['low']:.1%}, {line['high']:.1%}]"

    clips = "clip" if few["clips"] == "1" else "clips"
    text = f"The rank-1 of {name or row} is {interval(few)} for persons with {few['clips']} training {clips}"
    text += f" and {interval(many)} for those with {many['clips']}. " if len(of) > 1 else ". "
    found = enough(table, row)
    text += (
        f"It reaches {ENOUGH:.0%} with {found} clips. "
        if found
        else f"It does not reach {ENOUGH:.0%} with any number of training clips. "
    )
    ap = gained[gained["measure"] == "mAP"]
    loses = ap["high"] < 0
    ways = {
        "it gains mAP with {} training clips": ap["verdict"] == str(Verdict.HOLDS),
        "we cannot tell for {} training clips": ap["verdict"] == str(Verdict.CANNOT_TELL),
        "its gain is negligible with {} training clips": (ap["verdict"] == str(Verdict.DOES_NOT_HOLD)) & ~loses,
        "it loses mAP with {} training clips": loses,
    }
    told_of = [way.format(", ".join(ap["clips"][chosen])) for way, chosen in ways.items() if chosen.any()]
    return f"{text}Compared with {base}, {'; '.join(told_of)}."


def levels_figure(table: pd.DataFrame) -> Figure:
    """Rank-1 (above) and mAP (below) by bin, from ``by_clips``: one line per row."""
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 5.6), layout="constrained", sharex=True)
    names = list(table["clips"].unique())
    rows = list(table["row"].unique())
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for n, row in enumerate(rows):
            colour, marker = styles(rows)[row]
            of = table[(table["row"] == row) & (table["measure"] == measure)]
            x = of["clips"].map(names.index).to_numpy(dtype=float) + 0.16 * (n - (len(rows) - 1) / 2)
            axes.plot(x, of["mean"], color=colour, linewidth=1, alpha=0.5)
            axes.vlines(x, of["low"], of["high"], color=colour, linewidth=2.5)
            axes.scatter(x, of["mean"], s=40, color=colour, marker=marker, label=row, zorder=3)
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)
    _bins_below(panels[-1], names)
    if rows:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def gains_figure(table: pd.DataFrame) -> Figure:
    """The gain in mAP by bin, from ``gains``, coloured by verdict. Gains in the grey band are negligible."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    table = table[table["measure"] == "mAP"]
    axes.axhspan(0, MARGIN, color="0.5", alpha=0.15, linewidth=0)
    axes.axhline(0, color="0.35", linewidth=1)
    for verdict, colour in VERDICT_COLOURS.items():
        of = table["verdict"] == str(verdict)
        x = np.flatnonzero(of)
        axes.vlines(x, table["low"][of], table["high"][of], color=colour, linewidth=2.5)
        axes.plot(x, table["mean"][of], color=colour, marker="o", linewidth=0, label=str(verdict))
    axes.set_ylabel("gain in mAP at 100")
    axes.grid(axis="x", visible=False)
    _bins_below(axes, list(table["clips"]))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, title="“it gains”:", title_fontsize=9)
    return figure


def _bins_below(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, max(len(names), 1) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("training clips of the person")
