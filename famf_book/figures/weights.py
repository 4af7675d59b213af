"""Face weights (paper's Figure 3): the clips that are shown, and how weights depend on traits of the faces.

The sign of each trait is set so that larger means an easier face (``traits.SIGNS``): a rising line or a positive
correlation means that easier faces get more weight, as the paper says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from famf_book.plots import MUTED, OURS, WIDTH
from famf_lib.data.clipset import ClipSet
from famf_lib.data.traits import SIGNS, traits
from famf_lib.evidence.bootstrap import Estimate, estimate
from famf_lib.experiments import results as sources
from famf_lib.experiments.probes import FIFTHS, ask_all, face_weights
from famf_lib.experiments.results import Results
from famf_lib.experiments.run_store import Run
from famf_lib.support.wording import counted

EASIER = {
    "norm": "longer vectors",
    "quality": "higher quality",
    "size": "larger size",
    "blur": "less blur",
    "darkness": "better light",
    "occlusion": "less occlusion",
    "turned": "more frontal pose",
}
"""Every trait in words, in the direction of easier faces."""

SPREADS = (0.5, 0.7, 0.9, 1.0)  # quantiles of the spread of quality within a clip
LEAST = 6  # fewest faces of a clip that is shown

# The steps of this training are too small to change a float32, so the model keeps its initial weights.
NO_STEP = {"epochs": 1, "lr": 1e-30, "lr_aggregation": 1e-30}

MEANING = {
    "none": "The tokens are the sums of Eq. (3): a face of weight 0.5 contributes half as much as a face of weight 1, "
    "and a face of weight close to 0 hardly anything. A common factor of all weights has no meaning, because the next "
    "layer can undo it.",
    "cluster": "Here the sum of each cluster is normalised to unit length before φ, so a face competes with the other "
    "faces of its cluster: its weight is that of its clusters, not its own contribution. Only ratios of weights have a "
    "meaning, because the next layer can undo a common factor.",
    "whole": "Here all K tokens together are normalised to unit length after φ, so a common factor of all weights "
    "cancels. Only ratios of weights have a meaning; that a weight is close to 1 has none.",
    "cluster+whole": "Here the sum of each cluster is normalised to unit length before φ, and all tokens together "
    "after it. A face competes with the other faces of its cluster, and a common factor of all weights cancels. Only "
    "ratios of weights have a meaning; that a weight is close to 1 has none.",
}
"""How to read the weights, by the normalisation of the aggregation."""


# --- a few clips, face by face ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """A clip and the weights of its faces. ``rows`` are their positions among all faces, in ascending weight."""

    clip: int
    rows: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    quality: Float[np.ndarray, " n"]

    @property
    def rho(self) -> float:
        """The rank correlation of weight and quality in the clip; NaN if either is constant."""
        known = ~np.isnan(self.quality)
        return _spearman(self.quality[known], self.weights[known])

    def note(self) -> str:
        """``rho`` as a note below the name of the clip."""
        return "no correlation" if np.isnan(self.rho) else f"weight, quality:\nρ = {self.rho:+.2f}"

    def spaced(self, number: int) -> Int[np.ndarray, " m"]:
        """The positions in ``rows`` of at most ``number`` faces, evenly spaced by rank of weight, with both ends."""
        return np.unique(np.linspace(0, len(self.rows) - 1, min(number, len(self.rows))).round().astype(int))


def rule(seed: int) -> str:
    """How ``clips`` selects, and what is shown of each clip, in sentences."""
    quantiles = ", ".join(f"{100 * q:.0f}" for q in SPREADS)
    return (
        f"The weights are from the run with seed {seed}. The clips are selected by a rule: the ranked clips of known "
        f"persons with {LEAST} faces or more are sorted by the standard deviation of the quality of their faces, and "
        f"the clips at percentiles {quantiles} are shown, each of a different person. In each clip, the faces with the "
        "lowest and the highest weight are at the ends, the others evenly spaced by rank of weight between them. The "
        "note on the left is the rank correlation of weight and quality over all faces of the clip; it is positive if "
        "easier faces get more weight."
    )


def clips(run: Run, clipset: ClipSet, spreads: Sequence[float] = SPREADS, least: int = LEAST) -> list[Clip]:
    """Ranked clips selected by a rule, with the weights that the model of a run gives to their faces.

    The ranked clips of known persons with ``least`` faces or more are sorted by the standard deviation of the quality
    of their faces. Those at the quantiles ``spreads`` are selected, or the next less varied clip if that person was
    selected before.

    Raises:
        ValueError: the run is recorded, so its model is not here.
    """
    model, parts = run.model(clipset), run.split(clipset)
    quality = traits(clipset)["quality"].to_numpy()
    offsets = clipset.offsets.cpu().numpy()
    candidates = []
    for clip, person in zip(parts.gallery.tolist(), parts.gallery_classes.tolist(), strict=True):
        of_clip = quality[offsets[clip] : offsets[clip + 1]]
        if person >= 0 and len(of_clip) >= least and not np.isnan(of_clip).all():
            candidates.append((float(np.nanstd(of_clip)), clip, person))
    chosen = []
    for clip in _at_quantiles(candidates, spreads):
        rows = np.arange(offsets[clip], offsets[clip + 1])
        weights = face_weights(model, clipset, rows)
        order = np.argsort(weights, kind="stable")
        chosen.append(Clip(clip, rows[order], weights[order], quality[rows[order]]))
    return chosen


def _at_quantiles(candidates: Sequence[tuple[float, int, int]], quantiles: Sequence[float]) -> list[int]:
    """The clips at the quantiles of (spread, clip, person), each of a different person if there is one."""
    ordered = sorted(candidates)
    taken: dict[int, int] = {}  # clip by person
    for quantile in quantiles:
        at = round(quantile * (len(ordered) - 1))
        found = next(((clip, person) for _, clip, person in ordered[at::-1] if person not in taken), None)
        if ordered and found:
            taken[found[1]] = found[0]
    return list(taken.values())


def _spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


# --- all faces -------------------------------------------------------------------------------------------------------


def untrained(results: Results, clipset: ClipSet, device: torch.device) -> Results:
    """The weights of the same models before training, as a baseline."""
    specs = {}
    for key, run in results.runs.items():
        training = type(run.spec.training)(**(run.spec.training.model_dump() | NO_STEP))
        specs[key] = run.spec.model_copy(update={"training": training})
    runs = sources.run(specs, clipset, device, "untrained models")
    tables = ask_all(list(runs.values()), ("weights",), clipset, device, "untrained models, weights")["weights"]
    labelled = [t.assign(label=label, seed=seed) for (label, seed), t in zip(runs, tables, strict=True)]
    return Results(runs, results.data, results.profile, {"weights": pd.concat(labelled, ignore_index=True)})


def told(results: Results) -> list[str]:
    """The traits in the results, in the order of ``EASIER``, without quality if it equals the norm."""
    table = results.answers["weights"]
    there = {trait: of.drop(columns="trait").reset_index(drop=True) for trait, of in table.groupby("trait")}
    if "quality" in there and "norm" in there and there["quality"].equals(there["norm"]):
        del there["quality"]
    return [trait for trait in EASIER if trait in there]


def correlations(results: Results) -> pd.DataFrame:
    """Spearman's correlation of weight and trait within a person, averaged over persons and seeds.

    One row per label and trait. Columns: label, trait, mean, low, high, and seeds, the mean of each seed. Positive if
    easier faces get more weight; NaN if the weight or the trait is constant within all persons.
    """
    rows = []
    for label in results.labels:
        for trait in told(results):
            rho = SIGNS[trait] * results.answer("weights", label, "rho", trait=trait)
            rows.append({"label": label, "trait": trait} | _told(_sure(rho)) | {"seeds": _by_seed(rho)})
    table = pd.DataFrame(rows, columns=["label", "trait", "mean", "low", "high", "seeds"])
    table[["low", "high"]] = table[["low", "high"]].clip(-1, 1)  # Student's t can exceed these limits with two seeds
    return table


def by_fifths(results: Results, label: str) -> pd.DataFrame:
    """The mean weight of a person's faces in each fifth of all faces by trait, from the hardest to the easiest.

    One row per trait and fifth (1 is the hardest). Columns: trait, fifth, mean, low, high, seeds (mean of each seed).
    """
    rows = []
    for trait in told(results):
        for fifth in range(1, FIFTHS + 1):
            column = f"fifth {fifth if SIGNS[trait] > 0 else FIFTHS + 1 - fifth}"
            weight = results.answer("weights", label, column, trait=trait)
            rows.append({"trait": trait, "fifth": fifth} | _told(_sure(weight)) | {"seeds": _by_seed(weight)})
    return pd.DataFrame(rows, columns=["trait", "fifth", "mean", "low", "high", "seeds"])


def _sure(values: Float[np.ndarray, "S P"]) -> Estimate | None:
    """The estimate over the seeds that have a value; a fifth may be empty, or a correlation undefined."""
    known = values[~np.isnan(values).all(axis=1)]
    return estimate(known) if len(known) else None


def _told(one: Estimate | None) -> dict[str, float]:
    names = ("mean", "low", "high")
    return {name: getattr(one, name) if one else float("nan") for name in names}


def _by_seed(values: Float[np.ndarray, "S P"]) -> list[float]:
    return [float(np.nanmean(row)) if not np.isnan(row).all() else float("nan") for row in values]


def shown(table: pd.DataFrame, blind: pd.DataFrame | None = None) -> pd.DataFrame:
    """``correlations`` as text: one row per trait, one column per method, and the first method before training."""

    def text(one: pd.Series) -> str:
        return "" if np.isnan(one["mean"]) else f"{one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"

    columns = {label: list(of.apply(text, axis=1)) for label, of in table.groupby("label", sort=False)}
    if blind is not None and len(table):
        first = blind[blind["label"] == table["label"].iloc[0]]
        columns[f"{table['label'].iloc[0]}, untrained"] = list(first.apply(text, axis=1))
    index = pd.Index([EASIER[t] for t in table["trait"].unique()], name="correlation with")
    return pd.DataFrame(columns, index=index)


def answer(table: pd.DataFrame, label: str, blind: pd.DataFrame | None = None) -> str:
    """The correlations of a method, and in how many seeds the main one is positive, in sentences."""
    ours = table[(table["label"] == label) & table["mean"].notna()].set_index("trait")
    if ours.empty:
        return f"{label} gives the same weight to all faces of a person."
    more, less = ours["low"] > 0, ours["high"] < 0
    found = []
    for way, which in (("more", more), ("less", less)):
        if which.any():
            *names, last = (EASIER[trait] for trait in ours.index[which])
            found.append(f"faces with {', '.join(names)}{' and ' * bool(names)}{last} get {way} weight")
    if open_ := int((~more & ~less).sum()):
        which = f"{open_} of {len(ours)} traits" if found else f"all {len(ours)} traits"
        which = which if len(ours) > 1 else "the one trait"
        found.append(f"for {which} the interval contains 0")
    text = f"With {label}, {'; '.join(found)}."
    main = "quality" if "quality" in ours.index else ours.index[0]
    seeds = np.array(ours["seeds"][main])
    one = ours.loc[main]
    text += (
        f" Within a person, the rank correlation of weight and {'quality' if main == 'quality' else 'vector length'} "
        f"is {one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}], and it is positive in {(seeds > 0).sum()} of "
        f"{counted(len(seeds), 'seed')}"
    )
    if blind is not None:
        before = blind[(blind["label"] == label) & (blind["trait"] == main)].iloc[0]
        text += (
            f"; before training, it is {before['mean']:+.2f} [{before['low']:+.2f}, {before['high']:+.2f}], and "
            f"positive in {(np.array(before['seeds']) > 0).sum()}"
        )
    return text + "."


# --- figures ---------------------------------------------------------------------------------------------------------

ACROSS = 4  # panels per line


def fifths_figure(table: pd.DataFrame) -> Figure:
    """The mean weight by fifth, from ``by_fifths``: one panel per trait, with intervals and a thin line per seed."""
    names = list(table["trait"].unique())
    lines = max(1, -(-len(names) // ACROSS))
    figure, grid = plt.subplots(
        lines,
        ACROSS,
        figsize=(WIDTH, 0.7 + 1.75 * lines),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for n, axes in enumerate(grid.flat):
        if n >= len(names):
            axes.axis("off")
            continue
        # Ties may leave a fifth empty.
        of = table[(table["trait"] == names[n]) & table["mean"].notna()]
        for seed in np.array(list(of["seeds"])).T:
            axes.plot(of["fifth"], seed, color=OURS, alpha=0.35, linewidth=0.9, zorder=2)
        axes.vlines(of["fifth"], of["low"], of["high"], color=OURS, linewidth=2.2, zorder=3)
        axes.plot(of["fifth"], of["mean"], color=OURS, marker="o", markersize=5, linewidth=1.8, zorder=4)
        axes.set_title(EASIER.get(names[n], names[n]), fontsize=9.5)
        axes.set_xticks(range(1, FIFTHS + 1))
        axes.grid(axis="x", visible=False)
        if n + ACROSS >= len(names):  # the lowest panel of its column
            axes.tick_params(labelbottom=True)
    grid.flat[0].set_xlim(0.6, FIFTHS + 0.4)
    seeds = np.ravel(list(table["seeds"])).astype(float)
    if np.isfinite(seeds).any():
        # The range is that of the seeds: intervals of two or three seeds may be far longer and are cut off.
        low, high = np.nanmin(seeds), np.nanmax(seeds)
        room = max(0.25 * (high - low), 0.02)
        grid.flat[0].set_ylim(low - room, high + room)
    figure.supxlabel(f"fifth of all faces, from the hardest (1) to the easiest ({FIFTHS})", fontsize=9.5)
    figure.supylabel("mean weight", fontsize=9.5)
    return figure


def correlations_figure(table: pd.DataFrame, blind: pd.DataFrame | None = None) -> Figure:
    """``correlations``, one panel per method: mean with interval, every seed, and untrained models as squares."""
    labels, names = list(table["label"].unique()), list(table["trait"].unique())
    figure, grid = plt.subplots(
        max(1, -(-len(labels) // ACROSS)),
        min(max(len(labels), 1), ACROSS),
        figsize=(WIDTH, (1.25 + 0.42 * max(len(names), 1)) * max(1, -(-len(labels) // ACROSS))),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for n, axes in enumerate(grid.flat):
        if n >= len(labels):
            axes.axis("off")
            continue
        axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
        for given, colour, marker, up in ((blind, MUTED, "s", 0.22), (table, OURS, "o", -0.1)):
            if given is None:
                continue
            of = given[given["label"] == labels[n]].set_index("trait").reindex(names)
            for y, (_, one) in enumerate(of.iterrows()):
                if pd.isna(one["mean"]):
                    continue
                face = "none" if given is blind else colour
                axes.plot([one["low"], one["high"]], [y + up] * 2, color=colour, linewidth=2.2, zorder=3)
                axes.scatter(one["mean"], y + up, s=34, marker=marker, facecolor=face, edgecolor=colour, zorder=4)
                if given is table:
                    dots = {"s": 9, "color": colour, "alpha": 0.5, "linewidth": 0, "zorder": 2}
                    axes.scatter(one["seeds"], [y + up - 0.24] * len(one["seeds"]), **dots)
        axes.set_title(labels[n].replace(" + ", "\n+ "), fontsize=9.5)
        axes.grid(axis="y", visible=False)
    first = grid.flat[0]
    first.set_yticks(range(len(names)), [EASIER.get(name, name) for name in names])
    first.set_ylim(len(names) - 0.45, -0.6)
    first.set_xlim(-1, 1)
    first.set_xticks([-0.5, 0, 0.5])
    for axes in grid.flat:
        axes.tick_params(axis="y", length=0)
    figure.supxlabel("rank correlation with the weight, within a person", fontsize=9.5)
    handles = [
        first.plot([], [], color=OURS, marker="o", linewidth=2.2, label="trained: mean, 95 % interval")[0],
        first.scatter([], [], s=9, color=OURS, alpha=0.5, linewidth=0, label="each seed"),
    ]
    if blind is not None:
        untrained = {"color": MUTED, "marker": "s", "markerfacecolor": "none", "linewidth": 2.2, "label": "untrained"}
        handles.append(first.plot([], [], **untrained)[0])
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
