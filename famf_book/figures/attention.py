"""Paper's Figure 4: which tokens attend to which, and how much the fusion changes the tokens."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from famf_book.plots import OURS, WIDTH
from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import EVALUATION, Sampler, generator
from famf_lib.evidence.bootstrap import difference, estimate
from famf_lib.experiments.results import Results, attention_share
from famf_lib.experiments.run_store import Run, threads
from famf_lib.models.famf import FAMF

CLIPS = 512  # most clips of a gallery whose tokens are analysed


# --- the matrix ------------------------------------------------------------------------------------------------------


def matrix(results: Results, label: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The attention matrix (T, T) of one run, in each row the weights of a token: mean and spread over persons.

    The spread is the standard deviation of the persons' means. Each person counts once, whatever the number of clips.
    """
    table = results.answers["attention"]
    table = table[(table["label"] == label) & (table["seed"] == seed) & (table["person"] >= 0)]
    names = list(table["row"].unique())  # in the order of the model: the clusters of the face, then the modalities
    over_persons = table.groupby(["row", "column"])["weight"]
    mean, spread = (t.unstack().reindex(index=names, columns=names) for t in (over_persons.mean(), over_persons.std()))
    return mean, spread


def blocks(results: Results, label: str) -> pd.DataFrame:
    """The attention matrix by modality over all seeds and persons. Columns: row, column, share, low, high, even.

    The clusters of the face are pooled, rows by their mean and columns by their sum, because the order of clusters is
    arbitrary in each seed. ``even`` is the share of a column if all tokens had equal weight. Intervals are clipped to
    0..1.
    """
    lines = []
    for row in (kinds := _kinds(results, label)):
        for column in kinds:
            share, even = attention_share(results, label, row, column)
            one = estimate(share)
            lines.append((row, column, one.mean, *np.clip([one.low, one.high], 0, 1), even))
    return pd.DataFrame(lines, columns=["row", "column", "share", "low", "high", "even"])


def sources(results: Results, label: str) -> pd.DataFrame:
    """The effective number of tokens that a token attends to: exp of the entropy of its weights, from 1 to T.

    One row per modality: row, number, low, high. It is computed on each person's mean matrix, which is more even than
    that of a single clip, so it is an upper bound. Intervals are clipped to 1..T.
    """
    table = results.answers["attention"]
    table = table[(table["label"] == label) & (table["person"] >= 0)]
    terms = -table["weight"] * np.log(table["weight"].where(table["weight"] > 0, 1.0))
    entropy = terms.groupby([table["seed"], table["person"], table["row"]]).sum()
    number = np.exp(entropy).rename("number").reset_index()
    number["row"] = number["row"].str.split().str[0]
    persons = max(len(run.ap) for run in results.runs.values())
    lines = []
    for kind in _kinds(results, label):
        wide = number[number["row"] == kind].groupby(["seed", "person"])["number"].mean().unstack()
        one = estimate(wide.reindex(index=results.seeds, columns=range(persons)).to_numpy(dtype=float))
        lines.append((kind, one.mean, *np.clip([one.low, one.high], 1, table["row"].nunique())))
    return pd.DataFrame(lines, columns=["row", "number", "low", "high"])


def _kinds(results: Results, label: str) -> list[str]:
    """The modalities of the tokens; "face 3" belongs to "face"."""
    table = results.answers["attention"]
    return list(dict.fromkeys(name.split()[0] for name in table["row"][table["label"] == label].unique()))


# --- the tokens ------------------------------------------------------------------------------------------------------


def tokens(
    model: FAMF, run: Run, clipset: ClipSet, clips: int = CLIPS
) -> tuple[np.ndarray, Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
    """The person (class) of ranked clips, and their tokens before and after the fusion.

    Only clips of known persons that have a face and every modality; at most ``clips`` of them, evenly spaced in the
    gallery.
    """
    split, device = run.split(clipset), clipset.faces.device
    sampler = Sampler(clipset, split.gallery, run.spec.evaluation.faces, model.config.modalities)
    complete = sampler.has_face.cpu() & (split.gallery_classes.cpu() >= 0)
    for modality in sampler.modalities.values():
        complete &= modality.present[sampler.clips].cpu()
    rows = torch.nonzero(complete).flatten()
    rows = rows[torch.linspace(0, max(len(rows) - 1, 0), min(clips, len(rows))).long()]
    with torch.inference_mode(), threads(1 if device.type == "cpu" else None):
        drawn = sampler.draw(generator(device, run.spec.seed, EVALUATION))
        before = model.tokens(sampler.batch(drawn, rows.to(device)))
        return split.gallery_classes.cpu()[rows].numpy(), before.cpu(), model.fusion(before).cpu()


def cosines(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
    """The cosine of each pair of tokens of a clip; 0 for a token of zeros."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def similarity(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """The mean cosine over pairs of different tokens of a clip."""
    pairs = len(tokens[0]) * (len(tokens[0]) - 1) if len(tokens) else 1
    cosine = cosines(tokens)
    return (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)) / pairs


def kept(before: Float[Tensor, "B T D"], after: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """The cosine between a token before and after the fusion, averaged over the tokens of a clip."""
    return F.cosine_similarity(before, after, dim=-1).mean(dim=1)


def effective_rank(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """The effective rank of the tokens of a clip, scaled to unit length: 1 to T.

    exp of the entropy of the normalised singular values (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(F.normalize(tokens, dim=-1))
    shares = values / values.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1).exp()


def alike(results: Results, clipset: ClipSet, seed: int) -> dict[str, pd.DataFrame]:
    """The mean cosines between tokens (T, T) in one run of each row, before and after the fusion.

    Raises:
        ValueError: the runs are recorded, so their models are not here.
    """
    frames = {}
    for label in results.labels:
        model = (run := results.runs[label, seed]).model(clipset)
        _, *both = tokens(model, run, clipset)
        for when, some in zip(("before", "after"), both, strict=True):
            names = model.token_names
            frames[f"{label}: {when}"] = pd.DataFrame(cosines(some).mean(dim=0).numpy(), names, names)
    return frames


MEASURES = {
    "effective rank before": lambda before, after: effective_rank(before),
    "effective rank after": lambda before, after: effective_rank(after),
    "cosine between tokens before": lambda before, after: similarity(before),
    "cosine between tokens after": lambda before, after: similarity(after),
    "cosine of a token before and after": kept,
}


def left(results: Results, clipset: ClipSet) -> pd.DataFrame:
    """How much the fusion changes the tokens: label, seed, person, γ (NaN without a residual), and ``MEASURES``.

    One row per run and person: the mean over the person's clips.

    Raises:
        ValueError: the runs are recorded, so their models are not here.
    """
    tables = []
    for (label, seed), run in results.runs.items():
        model = run.model(clipset)
        person, before, after = tokens(model, run, clipset)
        measured = {name: measure(before, after).numpy() for name, measure in MEASURES.items()}
        scale = getattr(model.fusion, "scale", None)
        table = pd.DataFrame({"person": person} | measured).groupby("person").mean().reset_index()
        tables.append(table.assign(label=label, seed=seed, γ=float("nan") if scale is None else scale.item()))
    return pd.concat(tables, ignore_index=True)


def side_by_side(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The measures of ``left`` for two rows a and b of the experiment, and a − b with its interval."""
    lines = {}
    for name in MEASURES:
        persons = range(int(table["person"].max()) + 1)
        wide = (
            table[table["label"] == label].pivot(index="seed", columns="person", values=name).reindex(columns=persons)
            for label in (a, b)
        )
        of_a, of_b = (w.to_numpy(dtype=float) for w in wide)
        apart = difference(of_a, of_b)
        ours = {a: estimate(of_a).mean, b: estimate(of_b).mean, "difference": apart.mean}
        lines[name] = ours | {"low": apart.low, "high": apart.high}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("measure")


# --- figures ---------------------------------------------------------------------------------------------------------


def heatmaps(
    frames: Mapping[str, pd.DataFrame], meaning: str, low: float = 0.0, high: float | None = None, columns: int = 2
) -> Figure:
    """Matrices side by side on one colour scale, each with its title; ``meaning`` is the label of the scale.

    The scale ends at ``high``, or at the largest value. If ``low`` is negative, it has two hues.
    """
    if high is None:
        high = max((float(frame.max(axis=None)) for frame in frames.values() if not frame.empty), default=1.0)
    colours = sns.light_palette(OURS, as_cmap=True) if low >= 0 else sns.color_palette("vlag", as_cmap=True)
    lines = max(-(-len(frames) // columns), 1)
    size = (WIDTH, 0.3 + 3.25 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat[len(frames) :]:
        axes.set_axis_off()
    for axes, (title, frame) in zip(grid.flat, frames.items(), strict=False):
        axes.set_title(title, fontsize=10)
        if not frame.empty:
            sns.heatmap(frame, ax=axes, vmin=low, vmax=high, cmap=colours, square=True, cbar=False, linewidths=0.4)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(labelsize=8, length=0)
    scale = plt.cm.ScalarMappable(plt.Normalize(low, high), colours)
    figure.colorbar(scale, ax=grid, shrink=0.5, aspect=30, label=meaning)
    return figure


def block_heatmaps(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Tables of ``blocks`` side by side: each share with its interval, and below them the shares of even attention."""
    figure, grid = plt.subplots(
        1, max(len(tables), 1), figsize=(WIDTH, 3.4), layout="constrained", squeeze=False, sharey=True
    )
    colours = sns.light_palette(OURS, as_cmap=True)
    for axes, (title, table) in zip(grid.flat, tables.items(), strict=False):
        axes.set_title(title, fontsize=10)
        if table.empty:
            continue
        kinds = list(dict.fromkeys(table["row"]))
        interval = [f"{low:.2f} … {high:.2f}" for low, high in zip(table["low"], table["high"], strict=True)]
        cells = table.assign(words=table["share"].map("{:.2f}\n".format) + interval)
        wide = cells.pivot(index="row", columns="column")
        shares, words = wide["share"].loc[kinds, kinds], wide["words"].loc[kinds, kinds]
        even = table.drop_duplicates("column").set_index("column")["even"].loc[kinds]
        shares.loc["if even"], words.loc["if even"] = even, even.map("{:.2f}".format)
        look = {"cmap": colours, "linewidths": 1, "annot_kws": {"fontsize": 9}}
        sns.heatmap(shares, ax=axes, vmin=0, vmax=1, annot=words, fmt="", cbar=False, **look)
        axes.axhline(len(kinds), color="white", linewidth=6)
        axes.set(xlabel="attends to", ylabel="")
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
    return figure
