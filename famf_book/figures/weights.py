"""The weights of faces, Fig. 3: which clips are looked at, and how the weight goes with what makes a face easy.

All traits are turned so that more of them is an easier face (``traits.SIGNS``): a rising line, or a positive
correlation, says that easier faces weigh more, as the paper has it.
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
    "norm": "longer in vector",
    "quality": "better in quality",
    "size": "larger",
    "blur": "less blurred",
    "darkness": "better lit",
    "occlusion": "less occluded",
    "turned": "less turned",
}
"""Every trait in words, in the direction that makes a face easier."""

SPREADS = (0.5, 0.7, 0.9, 1.0)  # quantiles of the spread of quality: an ordinary clip, and ever more varied ones
LEAST = 6  # faces of a clip that is shown

# A training whose steps are too small to move a float32: what it leaves behind is the start.
NO_STEP = {"epochs": 1, "lr": 1e-30, "lr_aggregation": 1e-30}

MEANING = {
    "none": "The tokens are the sums of Eq. (3): a face of weight 0.5 enters them with half of what a face of weight 1 "
    "brings, and one close to 0 hardly at all. A common factor of all weights means nothing, since the layers behind "
    "can undo it.",
    "cluster": "Here each cluster's sum is scaled to unit length before φ, so a face counts against the other faces of "
    "its cluster: the weight says how loud its clusters are, not how much of the face gets through. Only ratios of "
    "weights mean something: the layers behind can undo a common factor.",
    "whole": "Here the K tokens are scaled together to unit length behind φ: a common factor of all weights cancels "
    "exactly, and only ratios of weights mean something. “Close to 1” has no meaning of its own.",
    "cluster+whole": "Here each cluster's sum is scaled to unit length before φ and all tokens together behind it. A "
    "face counts against the other faces of its cluster; a common factor of all weights cancels exactly. Only ratios "
    "of weights mean something, and “close to 1” has no meaning of its own.",
}
"""What a weight can mean, by the normalisation of the aggregation."""


# --- a few clips, face by face ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """A clip and the weights of its faces. ``rows`` are their positions among all faces, the lightest first."""

    clip: int
    rows: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    quality: Float[np.ndarray, " n"]

    @property
    def rho(self) -> float:
        """Rank correlation of weight and quality in the clip; NaN where either is constant."""
        known = ~np.isnan(self.quality)
        return _spearman(self.quality[known], self.weights[known])

    def note(self) -> str:
        """How weight and quality go together in the clip, in two short lines."""
        return "no correlation" if np.isnan(self.rho) else f"with quality\n{self.rho:+.2f}"

    def spaced(self, number: int) -> Int[np.ndarray, " m"]:
        """The places in ``rows`` of at most ``number`` faces, evenly spaced in the order of weight, both ends in."""
        return np.unique(np.linspace(0, len(self.rows) - 1, min(number, len(self.rows))).round().astype(int))


def rule(seed: int) -> str:
    """How ``clips`` chooses, and what is shown of a clip, in words."""
    quantiles = ", ".join(f"{100 * q:.0f}" for q in SPREADS)
    return (
        f"From the run of seed {seed}. The rule, so that nobody picks: the ranked clips of known persons with {LEAST} "
        "faces or more are sorted by how much the quality of their faces differs (its standard deviation); those at "
        f"the percentiles {quantiles} are shown, each of another person. Of a clip the lightest and the heaviest face "
        "stand at the ends, the others evenly between them in the order of weight. At the left is the rank correlation "
        "of weight and quality over all faces of the clip: positive where easier faces weigh more."
    )


def clips(run: Run, clipset: ClipSet, spreads: Sequence[float] = SPREADS, least: int = LEAST) -> list[Clip]:
    """Ranked clips chosen by a rule, with the weights that the model of a run gives their faces.

    The ranked clips of known persons with ``least`` faces or more stand in the order of how much the quality of their
    faces differs (its standard deviation). Those at the quantiles ``spreads`` are taken; where that person was taken
    before, the next less varied clip of another.

    Raises:
        ValueError: the run was recorded elsewhere: its weights are not here.
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
    """The clips at the quantiles of (spread, clip, person), each of another person where there is one."""
    ordered = sorted(candidates)
    taken: dict[int, int] = {}  # clip by person
    for quantile in quantiles:
        at = round(quantile * (len(ordered) - 1))
        there = next(((clip, person) for _, clip, person in ordered[at::-1] if person not in taken), None)
        if ordered and there:
            taken[there[1]] = there[0]
    return list(taken.values())


def _spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


# --- all faces -------------------------------------------------------------------------------------------------------


def untrained(results: Results, clipset: ClipSet, device: torch.device) -> Results:
    """The same models as they are before the first step of training, asked for their weights: what chance gives."""
    specs = {}
    for key, run in results.runs.items():
        training = type(run.spec.training)(**(run.spec.training.model_dump() | NO_STEP))
        specs[key] = run.spec.model_copy(update={"training": training})
    runs = sources.run(specs, clipset, device, "untrained models")
    tables = ask_all(list(runs.values()), ("weights",), clipset, device, "untrained models, weights")["weights"]
    labelled = [t.assign(label=label, seed=seed) for (label, seed), t in zip(runs, tables, strict=True)]
    return Results(runs, results.data, results.profile, {"weights": pd.concat(labelled, ignore_index=True)})


def told(results: Results) -> list[str]:
    """The traits that the data tell, in the order of ``EASIER``. Quality is left out where it is the norm."""
    table = results.answers["weights"]
    there = {trait: of.drop(columns="trait").reset_index(drop=True) for trait, of in table.groupby("trait")}
    if "quality" in there and "norm" in there and there["quality"].equals(there["norm"]):
        del there["quality"]
    return [trait for trait in EASIER if trait in there]


def correlations(results: Results) -> pd.DataFrame:
    """How the weight goes with each trait: Spearman's correlation within a person, averaged over persons and seeds.

    A row a label and trait. Columns: label, trait, mean, low, high, and seeds, the mean of each seed. Positive where
    easier faces weigh more; missing where the weight or the trait is constant in all persons.
    """
    rows = []
    for label in results.labels:
        for trait in told(results):
            rho = SIGNS[trait] * results.answer("weights", label, "rho", trait=trait)
            rows.append({"label": label, "trait": trait} | _told(_sure(rho)) | {"seeds": _by_seed(rho)})
    table = pd.DataFrame(rows, columns=["label", "trait", "mean", "low", "high", "seeds"])
    table[["low", "high"]] = table[["low", "high"]].clip(-1, 1)  # with two seeds Student's t reaches farther
    return table


def by_fifths(results: Results, label: str) -> pd.DataFrame:
    """The mean weight of a person's faces by fifths of each trait, from the hardest fifth of all faces to the easiest.

    A row a trait and fifth (1 the hardest). Columns: trait, fifth, mean, low, high, seeds (the mean of each seed).
    """
    rows = []
    for trait in told(results):
        for fifth in range(1, FIFTHS + 1):
            column = f"fifth {fifth if SIGNS[trait] > 0 else FIFTHS + 1 - fifth}"
            weight = results.answer("weights", label, column, trait=trait)
            rows.append({"trait": trait, "fifth": fifth} | _told(_sure(weight)) | {"seeds": _by_seed(weight)})
    return pd.DataFrame(rows, columns=["trait", "fifth", "mean", "low", "high", "seeds"])


def _sure(values: Float[np.ndarray, "S P"]) -> Estimate | None:
    """The estimate over the seeds that have a value: ties may leave a fifth empty, a constant weight no correlation."""
    there = values[~np.isnan(values).all(axis=1)]
    return estimate(there) if len(there) else None


def _told(one: Estimate | None) -> dict[str, float]:
    names = ("mean", "low", "high")
    return {name: getattr(one, name) if one else float("nan") for name in names}


def _by_seed(values: Float[np.ndarray, "S P"]) -> list[float]:
    return [float(np.nanmean(row)) if not np.isnan(row).all() else float("nan") for row in values]


def shown(table: pd.DataFrame, blind: pd.DataFrame | None = None) -> pd.DataFrame:
    """``correlations`` for a page: a row a trait, a column a method, and the first method's models untrained."""

    def words(one: pd.Series) -> str:
        return "" if np.isnan(one["mean"]) else f"{one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"

    columns = {label: list(of.apply(words, axis=1)) for label, of in table.groupby("label", sort=False)}
    if blind is not None and len(table):
        first = blind[blind["label"] == table["label"].iloc[0]]
        columns[f"{table['label'].iloc[0]}, untrained"] = list(first.apply(words, axis=1))
    index = pd.Index([EASIER[t] for t in table["trait"].unique()], name="weighs more if")
    return pd.DataFrame(columns, index=index)


def answer(table: pd.DataFrame, label: str, blind: pd.DataFrame | None = None) -> str:
    """What the correlations say of a method in two or three sentences; seeds may contradict each other."""
    ours = table[(table["label"] == label) & table["mean"].notna()].set_index("trait")
    if ours.empty:
        return f"{label} gives all faces of a person the same weight."
    more, less = ours["low"] > 0, ours["high"] < 0
    found = [
        f"faces weigh {way} that are {', '.join(EASIER[trait] for trait in ours.index[which])}"
        for way, which in (("more", more), ("less", less))
        if which.any()
    ]
    if open_ := int((~more & ~less).sum()):
        which = f"{open_} of {len(ours)} traits" if found else f"all {len(ours)} traits"
        which = which if len(ours) > 1 else "the one trait"
        found.append(f"for {which} the interval contains 0")
    text = f"With {label} {'; '.join(found)}."
    main = "quality" if "quality" in ours.index else ours.index[0]
    seeds = np.array(ours["seeds"][main])
    one = ours.loc[main]
    text += (
        f" The rank correlation of weight and {'quality' if main == 'quality' else 'length of the vector'} within a "
        f"person is {one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}], and positive in {(seeds > 0).sum()} of "
        f"{counted(len(seeds), 'seed')}"
    )
    if blind is not None:
        before = blind[(blind["label"] == label) & (blind["trait"] == main)].iloc[0]
        text += (
            f"; before training it is {before['mean']:+.2f} [{before['low']:+.2f}, {before['high']:+.2f}], and "
            f"positive in {(np.array(before['seeds']) > 0).sum()}"
        )
    return text + "."


# --- figures ---------------------------------------------------------------------------------------------------------

ACROSS = 4  # panels side by side


def fifths_figure(table: pd.DataFrame) -> Figure:
    """``by_fifths`` as small multiples: the mean with its interval, and a thin line a seed."""
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
        # Where ties leave a fifth empty there is nothing to draw.
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
        # The seeds give the range: the interval of two or three seeds may be far longer, and is cut off.
        low, high = np.nanmin(seeds), np.nanmax(seeds)
        room = max(0.25 * (high - low), 0.02)
        grid.flat[0].set_ylim(low - room, high + room)
    figure.supxlabel(f"fifth of all faces, from the hardest (1) to the easiest ({FIFTHS})", fontsize=9.5)
    figure.supylabel("mean weight", fontsize=9.5)
    return figure


def correlations_figure(table: pd.DataFrame, blind: pd.DataFrame | None = None) -> Figure:
    """``correlations``, a panel a method: the mean with its interval, every seed, and untrained models as squares."""
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
