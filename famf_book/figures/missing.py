"""How much mAP a trained model loses when one of its modalities, or all of them, are missing at test time."""

from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from famf_book.plots import WIDTH, name_rows, styles
from famf_lib.evidence.bootstrap import estimate
from famf_lib.experiments.results import Results

NOTHING, ALL = "nothing", "all of them"
COLUMNS = ["row", "missing", "mean", "low", "high"]


def levels(results: Results) -> pd.DataFrame:
    """mAP of each row by missing modality. Columns: row, missing, mean, low, high."""
    return _table(results, ["", *_taken(results)], lambda ap, gone: ap(missing=gone))


def losses(results: Results) -> pd.DataFrame:
    """mAP with nothing missing minus mAP with a modality missing, paired. Columns as in ``levels``."""
    return _table(results, _taken(results), lambda ap, gone: ap(missing="") - ap(missing=gone))


def _taken(results: Results) -> list[str]:
    return [name for name in results.answers["missing"]["missing"].unique() if name]


def _table(results: Results, gone: list[str], value: Callable[[Callable, str], np.ndarray]) -> pd.DataFrame:
    names = {"": NOTHING, "all": ALL}
    lines = []
    for label in results.labels:
        ap = partial(results.answer, "missing", label, "ap")  # (S, P)
        for name in gone:
            e = estimate(value(ap, name))
            lines.append((label.removesuffix(", all modalities"), names.get(name, name), e.mean, e.low, e.high))
    return pd.DataFrame(lines, columns=COLUMNS)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """``levels`` or ``losses`` as text, mean and interval: one line per missing modality, one column per row."""
    cells = [f"{t.mean:.4f} [{t.low:.4f}, {t.high:.4f}]" for t in table.itertuples(index=False)]
    wide = table.assign(cells=cells).pivot(index="missing", columns="row", values="cells")
    return wide.reindex(index=table["missing"].unique(), columns=table["row"].unique()).rename_axis(columns=None)


def answer(table: pd.DataFrame, row: str) -> str:
    """The losses of a row, and those of the other rows without any modality, in sentences."""
    line = table.set_index(["row", "missing"])

    def interval(who: str, gone: str) -> str:
        mean, low, high = line.loc[(who, gone), ["mean", "low", "high"]]
        return f"{mean:.4f} [{low:.4f}, {high:.4f}]"

    single = table[(table["row"] == row) & (table["missing"] != ALL)].sort_values("mean", ascending=False)["missing"]
    most, least = single.iloc[0], single.iloc[-1]
    text = f"Without {most}, {row} loses {interval(row, most)} mAP"
    text += f", the largest loss; without {least}, {interval(row, least)}, the smallest" if len(single) > 1 else ""
    others = [f"{other}: {interval(other, ALL)}" for other in table["row"].unique() if other != row]
    compared = f" ({'; '.join(others)})" if others else ""
    return f"{text}. With only the face left, it loses {interval(row, ALL)}{compared}."


def dots(table: pd.DataFrame, label: str) -> Figure:
    """A dot plot of ``levels`` or ``losses``: one line per missing modality, with a dot and interval for each row."""
    rows, gone = list(table["row"].unique()), list(table["missing"].unique())
    height = 1.1 + (0.25 + 0.17 * max(len(rows), 1)) * max(len(gone), 1)
    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    place = {name: y for y, name in enumerate(gone)}
    for n, row in enumerate(rows):
        colour, marker = styles(rows)[row]
        of = table[table["row"] == row]
        y = of["missing"].map(place).to_numpy(dtype=float) + 0.6 * ((n + 0.5) / len(rows) - 0.5)
        axes.hlines(y, of["low"], of["high"], color=colour, linewidth=2.5, zorder=2)
        axes.scatter(of["mean"], y, s=45, color=colour, marker=marker, label=row, zorder=3)
    for y in np.arange(1, len(gone)) - 0.5:
        axes.axhline(y, color="0.5", alpha=0.25, linewidth=0.8)
    name_rows(axes, gone)
    axes.set_ylabel("missing")
    axes.set_xlabel(label)
    if len(table) and table["low"].min() < 0:
        axes.axvline(0, color="0.35", linewidth=1)
    if rows:
        figure.legend(loc="outside upper center", ncols=len(rows) if len(rows) <= 3 else 2, frameon=False)
    return figure
