"""Curves: mAP, time and memory against the number of clusters K, and mAP against the number of faces N.

Tables come first, one row per point, then the figures that draw them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from famf_book import report
from famf_book.plots import DIAMOND, GB, MUTED, OURS, PALETTE, WIDTH, bytes_text
from famf_lib.data.clipset import ClipSet
from famf_lib.data.synthetic import SIZES
from famf_lib.evidence.bootstrap import Estimate, difference, estimate
from famf_lib.evidence.claims import MARGIN, SAME, Verdict
from famf_lib.experiments.catalogue import TABLE_1_MODALITIES
from famf_lib.experiments.results import Results
from famf_lib.experiments.settings import BASE
from famf_lib.models.config import ModelConfig
from famf_lib.training.memory import ResidualsMaterialised, peak_of_step
from famf_lib.training.train import TrainingConfig, precision_of

# --- K: the number of clusters ---------------------------------------------------------------------------------------

OURS_FORM, STORED = "residuals not stored (this book)", "every residual stored"
FORMS = {OURS_FORM: None, STORED: ResidualsMaterialised}
"""The two ways to compute the tokens of AttentionVLAD, and the class that replaces the model's own for each."""

CARDS = (11, 16, 32, 80)
"""Sizes of common graphics cards, in GB."""


def by_clusters(results: Results, printed: Mapping[str, float | None]) -> pd.DataFrame:
    """``report.rows`` with the number of clusters and the batch size of each row."""
    table = report.rows(results, printed)
    of_row = [results.runs[label, results.seeds[0]].spec for label in table.index]
    table.insert(0, "clusters", [spec.model.aggregation_options["clusters"] for spec in of_row])
    table.insert(1, "batch", [spec.training.batch_size for spec in of_row])
    return table


def seconds(results: Results) -> pd.DataFrame:
    """Wall time of every run in seconds: one row per label, one column per seed."""
    values = {s: [results.runs[label, s].seconds for label in results.labels] for s in results.seeds}
    return pd.DataFrame(values, index=pd.Index(results.labels, name="row"))


def told_batch(results: Results, whole: str, half: str) -> str:
    """The effect of half the batch at the same K, by the rule “no difference”, in a sentence."""
    effect = difference(results.ap(half), results.ap(whole))
    found = {
        Verdict.HOLDS: f"changes mAP by less than {MARGIN}",
        Verdict.DOES_NOT_HOLD: f"changes mAP by more than {MARGIN}",
        Verdict.CANNOT_TELL: "may or may not matter",
    }[SAME.judge(effect, MARGIN)]
    return f"At the same K, half the batch {found}: {_interval(effect)}."


@dataclass(frozen=True)
class Size:
    """Everything but K that determines the memory of a training step: model, training, D, all D_m, and C."""

    model: ModelConfig
    training: TrainingConfig
    dim: int
    modality_dims: dict[str, int]
    persons: int


def size_of(results: Results, clipset: ClipSet) -> Size:
    """The size of the runs of an experiment, with the precision used in training."""
    run = next(iter(results.runs.values()))
    precision = str(precision_of(run.spec.training, clipset.faces.device)).removeprefix("torch.")
    return Size(
        model=run.spec.model,
        training=run.spec.training.model_copy(update={"precision": precision}),
        dim=clipset.dim,
        modality_dims={m: clipset.modalities[m].vectors.shape[1] for m in run.spec.model.modalities},
        persons=len(run.ap),
    )


def paper_size() -> Size:
    """The paper's full size (Sec. 4.3): batch 4,096, D = 512, hidden 4,096, 10,034 persons; 32-bit floats."""
    full, base = SIZES["paper"], BASE["paper"]
    return Size(
        model=ModelConfig(modalities=TABLE_1_MODALITIES, hidden=base.hidden),
        training=base.training.model_copy(update={"precision": "float32"}),
        dim=full.dim,
        modality_dims=dict.fromkeys(TABLE_1_MODALITIES, full.dim),
        persons=full.persons,
    )


def step_memory(clusters: Sequence[int], size: Size) -> pd.DataFrame:
    """Calculated peak memory of a training step in bytes: one row per K, one column per form of AttentionVLAD."""
    found = {}
    for k in clusters:
        options = size.model.aggregation_options | {"clusters": k}
        model = size.model.model_copy(update={"aggregation_options": options})
        found[k] = {
            name: peak_of_step(
                model,
                size.training,
                dim=size.dim,
                modality_dims=size.modality_dims,
                persons=size.persons,
                aggregation=form,
            ).peak
            for name, form in FORMS.items()
        }
    return pd.DataFrame.from_dict(found, orient="index", columns=list(FORMS)).rename_axis("K")


def told_memory(memory: pd.DataFrame, k: int) -> str:
    """The memory of one K in a table of ``step_memory``, as a clause."""
    stored, ours = (bytes_text(memory[form][k]) for form in (STORED, OURS_FORM))
    return f"with K = {k} a training step takes {stored} if every residual is stored, and {ours} if none is"


def fitting(memory: pd.DataFrame, cards: Sequence[int] = CARDS) -> pd.DataFrame:
    """The largest K in a table of ``step_memory`` that fits on each card, and its memory; empty if none does."""
    found = {}
    for card in cards:
        fits = {name: used[used <= card * GB] for name, used in memory.items()}
        found[f"{card} GB"] = {
            name: f"{used.index.max()} ({used[used.index.max()] / GB:.1f} GB)" if len(used) else ""
            for name, used in fits.items()
        }
    return pd.DataFrame.from_dict(found, orient="index", columns=list(memory)).rename_axis("card")


# --- N: the number of faces ------------------------------------------------------------------------------------------


def trained_with(results: Results, label: str) -> int:
    """The number of faces per clip, N, in the training of a row."""
    return results.runs[label, results.seeds[0]].spec.training.faces


def by_faces(results: Results) -> pd.DataFrame:
    """mAP by N in training and at test time, with its interval: one row per point of a curve.

    Columns: label, trained (N), faces (N at test time), mean, low, high.
    """
    tested = _tested(results)
    return _points(results, tested, lambda label, n: estimate(_ap(results, label, n)))


def beside_most(results: Results) -> pd.DataFrame:
    """As ``by_faces`` for mAP minus mAP with the largest N at test time, paired by seed and person, with the verdict.

    ``verdict`` is by the rule “no difference”. The faces of a smaller N are a subset of those of a larger one.
    """
    *fewer, most = _tested(results)
    table = _points(results, fewer, lambda label, n: difference(_ap(results, label, n), _ap(results, label, most)))
    estimates = (Estimate(p.mean, p.low, p.high, 0, 0) for p in table.itertuples())
    return table.assign(verdict=[SAME.judge(one, MARGIN) for one in estimates], most=most)


def _tested(results: Results) -> list[int]:
    return sorted(results.answers["faces"]["faces"].unique().tolist())


def _ap(results: Results, label: str, n: int) -> np.ndarray:
    return results.answer("faces", label, "ap", faces=n)


def _points(results: Results, tested: Sequence[int], measure: Callable[[str, int], Estimate]) -> pd.DataFrame:
    rows = []
    for label in results.labels:
        for n in tested:
            one = measure(label, n)
            rows.append((label, trained_with(results, label), n, one.mean, one.low, one.high))
    return pd.DataFrame(rows, columns=["label", "trained", "faces", "mean", "low", "high"])


def enough(beside: pd.DataFrame) -> pd.DataFrame:
    """The N at test time from which on more faces make no difference, and the loss with a single face, from a table of
    ``beside_most``: one row per N in training.

    ``from`` is the first N for which “no difference” to the largest N holds, as it does for all N between them; NaN if
    there is none. ``cost`` (low, high) is the loss in mAP with N = 1. ``gain`` (gain low, gain high) is the gain of the
    largest N over the N of training. Both are NaN if that N was not tested or is the largest.
    """
    found = {}
    for trained, curve in beside.groupby("trained"):
        curve = curve.sort_values("faces")
        same = (curve["verdict"] == Verdict.HOLDS)[::-1].cummin()[::-1]  # for this N and all larger ones
        found[trained] = [curve["faces"][same].min(), *_lost(curve, 1), *_lost(curve, trained)]
    columns = ["from", "cost", "low", "high", "gain", "gain low", "gain high"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("trained").astype(float)


def _lost(curve: pd.DataFrame, n: int) -> list[float]:
    """The loss with n faces compared with the largest number: mean, low, high."""
    there = curve[curve["faces"] == n]
    return [-float(there[bound].iloc[0]) if len(there) else np.nan for bound in ("mean", "high", "low")]


def told_enough(found: pd.DataFrame, most: int, chosen: int) -> str:
    """A table of ``enough`` in sentences, starting with the paper's N in training."""
    if found.empty:
        return ""
    first = chosen if chosen in found.index else found.index[0]
    others = found.drop(index=first)
    row = found.loc[first]
    cost = Estimate(row["cost"], row["low"], row["high"], 0, 0)
    least = (
        f"no smaller N at test time is shown to match the mAP with {most}"
        if np.isnan(row["from"])
        else f"more than {row['from']:.0f} faces at test time make no difference (tested up to {most})"
    )
    told = f"Trained with N = {first}, {least}"
    told += "." if np.isnan(cost.mean) else f"; a single face loses {_interval(cost, sign='')} mAP."
    if len(others):
        parts = [f"{'none' if np.isnan(n) else f'{n:.0f}'} (N = {trained})" for trained, n in others["from"].items()]
        told += f" The same number for models trained with other N: {', '.join(parts)}."
    for word, there in (("lower", found["gain high"] < 0), ("higher", found["gain low"] > 0)):
        if there.any():
            parts = [f"N = {n} ({gain:+.4f})" for n, gain in found["gain"][there].items()]
            told += f" With {most} faces, mAP is {word} than with the N of training for {', '.join(parts)}."
    return told


def told_normalisation(results: Results) -> str:
    """Whether tokens grow with the number of faces, over which Eq. (3) sums, in a sentence."""
    kinds = {run.spec.model.aggregation_options["normalisation"] for run in results.runs.values()}
    if kinds == {"none"}:
        return "Tokens are not normalised here, so their length grows about in proportion to N."
    named = ", ".join(sorted(kinds))
    return f"Tokens are normalised here (`normalisation: {named}`), so their length does not depend on N."


def told_lengths(counts: np.ndarray, numbers: Sequence[int]) -> str:
    """The share of clips that have fewer faces than each of these N, in a sentence; ``counts`` are faces per clip."""
    if not len(counts):
        return ""
    shares = [f"{np.mean(counts < n):.0%} have fewer than {n}" for n in numbers]
    return (
        f"Half of the ranked clips have {np.median(counts):.0f} faces or fewer; {' and '.join(shares)}, so "
        "some of their faces are drawn several times."
    )


def _interval(one: Estimate, sign: str = "+") -> str:
    return f"{one.mean:{sign}.4f} [{one.low:{sign}.4f}, {one.high:{sign}.4f}]"


# --- figures ---------------------------------------------------------------------------------------------------------


def clusters(table: pd.DataFrame, seeds: pd.DataFrame, times: pd.DataFrame) -> Figure:
    """mAP and training time against K.

    Args:
        table: ``by_clusters``. Rows with the largest batch form the curve; the others are drawn next to it.
        seeds: mAP of every seed, with the rows of the table; ``times`` are the seconds.
    """
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(WIDTH, 5.6), layout="constrained", height_ratios=(2.3, 1)
    )
    small = table["batch"] < table["batch"].max()
    for part, colour, marker, name, shift in (
        (table[~small], OURS, "o", "ours: mean, 95 % interval", 1.0),
        (table[small], PALETTE[1], "s", "ours, smaller batch", 1.13),
    ):
        part = part.sort_values("clusters")
        x = part["clusters"].to_numpy(dtype=float) * shift  # so that marks of equal K do not overlap
        dots = {"s": 14, "color": colour, "alpha": 0.5, "linewidth": 0}
        for axes, values in ((above, seeds), (below, times)):
            axes.scatter(np.repeat(x * 1.04, values.shape[1]), values.loc[part.index].to_numpy().flatten(), **dots)
        above.vlines(x, part["low"], part["high"], color=colour, linewidth=2.5, zorder=2)
        for axes, y in ((above, part["ours"]), (below, times.loc[part.index].median(axis=1))):
            axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
            axes.scatter(x, y, s=60, color=colour, marker=marker, zorder=3)
        if len(part):
            above.scatter([], [], s=60, color=colour, marker=marker, label=name)
    above.scatter([], [], s=14, color=OURS, alpha=0.5, linewidth=0, label="each seed")
    above.scatter(table["clusters"] / 1.06, table["paper"], **DIAMOND, zorder=3, label="paper (iQIYI-VID-2019)")
    above.set_ylabel("mAP at 100")
    below.set_ylabel("seconds per run")
    below.set_ylim(0, 1.15 * times.max().max() if times.size else 1)
    _doubling(below, table["clusters"].tolist(), "K, the number of clusters")
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def memory(tables: Mapping[str, pd.DataFrame], cards: Sequence[int] = CARDS) -> Figure:
    """Peak memory of a training step against K: one panel per table of ``step_memory``, titled by its key.

    Cards are drawn if they lie within the range of a panel or just above it.
    """
    panels = max(len(tables), 1)
    figure, panels = plt.subplots(1, panels, figsize=(WIDTH, 3.9), layout="constrained", squeeze=False)
    colours = dict(zip(FORMS, (OURS, PALETTE[1]), strict=True))
    for axes, (title, table) in zip(panels[0], tables.items(), strict=False):
        for name, used in table.items():
            axes.plot(table.index, used, color=colours.get(name, MUTED), marker="o", markersize=5, label=name)
        axes.set_title(title, fontsize=10)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: bytes_text(v)))
        axes.minorticks_off()
        _doubling(axes, table.index.tolist(), "K, the number of clusters")
        least, most = (table.min().min(), table.max().max()) if table.size else (1, 0)
        for card in cards:
            if least / 2 <= card * GB <= most * 2.5:
                axes.axhline(card * GB, color="0.35", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
                axes.annotate(
                    f"{card} GB card",
                    (0.01, card * GB),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    fontsize=8,
                    color="0.35",
                )
    panels[0][0].set_ylabel("peak memory of a training step")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def faces(table: pd.DataFrame, ylabel: str = "mAP at 100") -> Figure:
    """mAP against N at test time, from ``by_faces``: one curve with its band per N in training.

    Rings mark where both are equal.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    ends = _curves(axes, table)
    matched = table[table["faces"] == table["trained"]]
    ring = {"s": 110, "facecolor": "none", "edgecolor": "0.25", "linewidth": 1.4, "zorder": 4}
    axes.scatter(matched["faces"], matched["mean"], **ring, label="as many faces as in training")
    axes.set_ylabel(ylabel)
    _name_ends(axes, ends)
    figure.legend(loc="outside upper center", frameon=False)
    return figure


def faces_beside(table: pd.DataFrame, depth: float = 6 * MARGIN) -> Figure:
    """mAP minus mAP with the largest N, from ``beside_most``, within ± ``depth``; the margin is a grey band.

    At filled points “no difference” holds, at hollow ones it does not or we cannot tell.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    axes.axhspan(-MARGIN, MARGIN, color="0.5", alpha=0.15, linewidth=0)
    axes.axhline(0, color="0.35", linewidth=1)
    ends = _curves(axes, table, filled=table["verdict"] == Verdict.HOLDS)
    low, high = (table["low"].min(), table["high"].max()) if len(table) else (0, 0)
    axes.set_ylim(*np.clip([min(1.1 * low, -2 * MARGIN), max(1.1 * high, 2 * MARGIN)], -depth, depth))
    axes.set_ylabel("difference in mAP at 100")
    _name_ends(axes, ends)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, filled: pd.Series | None = None) -> list[tuple]:
    """Draws a curve with its interval as a band for each N in training. Returns the names for ``_name_ends``."""
    trained = sorted(table["trained"].unique())
    colours = sns.color_palette("viridis", len(trained) + 1)  # without the last, pale yellow
    ends = []
    for n, colour in zip(trained, colours, strict=False):
        curve = table[table["trained"] == n].sort_values("faces")
        axes.fill_between(curve["faces"], curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
        axes.plot(curve["faces"], curve["mean"], color=colour, linewidth=1.8)
        full = np.ones(len(curve), dtype=bool) if filled is None else filled[curve.index].to_numpy()
        face = [colour if f else "white" for f in full]
        axes.scatter(curve["faces"], curve["mean"], s=26, color=face, edgecolor=colour, zorder=3)
        last = curve.iloc[-1]
        ends.append((last["faces"], last["mean"], f"trained with {n}", colour))
    _doubling(axes, table["faces"].tolist(), "N, faces per clip at test time")
    return ends


def _doubling(axes: Axes, numbers: Sequence[int], label: str) -> None:
    """A logarithmic axis with ticks at the numbers, as far as there is room."""
    axes.set_xlabel(label)
    axes.set_xscale("log", base=2)
    places = sorted(set(numbers))
    shown = []
    for place in places:
        room = np.log2(places[-1] / places[0]) / 24
        if not shown or np.log2(place / shown[-1]) >= room > 0:
            shown.append(place)
    axes.minorticks_off()
    axes.set_xticks(shown, [f"{n:g}" for n in shown])


def _name_ends(axes: Axes, ends: Sequence[tuple], gap: float = 11.0) -> None:
    """Writes names at the right ends (x, y, name, colour) of curves, at least ``gap`` points apart.

    Call it after the limits of the axes are set.
    """
    axes.figure.draw_without_rendering()  # fixes the layout, which ``transData`` needs
    per_point = axes.figure.dpi / 72
    ends = sorted(ends, key=lambda end: end[1])
    view = axes.get_ylim()
    wanted = [axes.transData.transform((x, np.clip(y, *view)))[1] / per_point for x, y, _, _ in ends]
    placed = []
    for y in wanted:
        placed.append(max(y, placed[-1] + gap) if placed else y)
    if not ends:
        return
    bottom, top = axes.transAxes.transform([(0, 0), (0, 1)])[:, 1] / per_point
    shift = np.mean(np.subtract(placed, wanted))  # centred on the wanted places, within the axes
    shift = max(min(shift, placed[0] - bottom), placed[-1] - top)
    for (x, y, name, colour), here, there in zip(ends, wanted, placed, strict=True):
        axes.annotate(
            name,
            (x, np.clip(y, *view)),
            xytext=(26, there - here - shift),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 4},
            annotation_clip=False,
        )
