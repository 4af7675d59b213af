"""Fig. 4: who attends to whom, of one training and over all, and what the fusion leaves of the tokens."""

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

CLIPS = 512  # of a gallery, to look into the tokens


# --- the matrix ------------------------------------------------------------------------------------------------------


def matrix(results: Results, label: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The attention matrix (T, T) of one training, row by row a token's weights: mean and spread over the persons.

    The spread is the standard deviation of the persons' means. A person counts once, however many clips they have.
    """
    table = results.answers["attention"]
    table = table[(table["label"] == label) & (table["seed"] == seed) & (table["person"] >= 0)]
    names = list(table["row"].unique())  # as the model has them: the clusters of the face, then the modalities
    over_persons = table.groupby(["row", "column"])["weight"]
    mean, spread = (t.unstack().reindex(index=names, columns=names) for t in (over_persons.mean(), over_persons.std()))
    return mean, spread


def blocks(results: Results, label: str) -> pd.DataFrame:
    """The matrix by modality, over all seeds and persons: row, column, share, low, high, even.

    The face's clusters are pooled, as a row by their mean and as a column by their sum, since their numbers mean
    nothing from one seed to another. ``even`` is the share of a column if all tokens weighed the same. An interval ends
    where a share does, at 0 and 1.
    """
    lines = []
    for row in (kinds := _kinds(results, label)):
        for column in kinds:
            share, even = attention_share(results, label, row, column)
            one = estimate(share)
            lines.append((row, column, one.mean, *np.clip([one.low, one.high], 0, 1), even))
    return pd.DataFrame(lines, columns=["row", "column", "share", "low", "high", "even"])


def sources(results: Results, label: str) -> pd.DataFrame:
    """How many tokens a token draws on: exp of the entropy of its weights, 1 for a single one, T for all alike.

    A row a modality: row, number, low, high. Taken of the persons' mean matrices, which are more even than those of
    single clips: an upper bound. An interval ends at 1 and at T.
    """
    table = results.answers["attention"]
    table = table[(table["label"] == label) & (table["person"] >= 0)]
    surprise = -table["weight"] * np.log(table["weight"].where(table["weight"] > 0, 1.0))
    entropy = surprise.groupby([table["seed"], table["person"], table["row"]]).sum()
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
    """The modalities of the tokens, "face 3" being of the face."""
    table = results.answers["attention"]
    return list(dict.fromkeys(name.split()[0] for name in table["row"][table["label"] == label].unique()))


# --- the tokens ------------------------------------------------------------------------------------------------------


def tokens(
    model: FAMF, run: Run, clipset: ClipSet, clips: int = CLIPS
) -> tuple[np.ndarray, Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
    """The tokens of ranked clips before and behind the fusion, and ahead of them the person of each clip (its class).

    Clips of known persons that have a face and every modality; where there are more than ``clips``, some of them at
    equal distances in the gallery.
    """
    split, device = run.split(clipset), clipset.faces.device
    sampler = Sampler(clipset, split.gallery, run.spec.evaluation.faces, model.config.modalities)
    whole = sampler.has_face.cpu() & (split.gallery_classes.cpu() >= 0)
    for modality in sampler.modalities.values():
        whole &= modality.present[sampler.clips].cpu()
    rows = torch.nonzero(whole).flatten()
    rows = rows[torch.linspace(0, max(len(rows) - 1, 0), min(clips, len(rows))).long()]
    with torch.inference_mode(), threads(1 if device.type == "cpu" else None):
        drawn = sampler.draw(generator(device, run.spec.seed, EVALUATION))
        before = model.tokens(sampler.batch(drawn, rows.to(device)))
        return split.gallery_classes.cpu()[rows].numpy(), before.cpu(), model.fusion(before).cpu()


def cosines(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T T"]:
    """The cosine of every two tokens of a clip; 0 with a token of zeros."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def similarity(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """The mean cosine of two different tokens of a clip."""
    pairs = len(tokens[0]) * (len(tokens[0]) - 1) if len(tokens) else 1
    cosine = cosines(tokens)
    return (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)) / pairs


def kept(before: Float[Tensor, "B T D"], behind: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """The cosine of a token with what the fusion made of it, on average over the tokens of a clip."""
    return F.cosine_similarity(before, behind, dim=-1).mean(dim=1)


def effective_rank(tokens: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
    """In how many directions the tokens of a clip point, 1 to T, their lengths aside.

    exp of the entropy of the singular values, scaled to add up to 1 (Roy and Vetterli 2007), of the unit tokens.
    """
    values = torch.linalg.svdvals(F.normalize(tokens, dim=-1))
    shares = values / values.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1).exp()


def alike(results: Results, clipset: ClipSet, seed: int) -> dict[str, pd.DataFrame]:
    """The cosines of the tokens (T, T) in one training of each row, before and behind the fusion: means over clips.

    Raises:
        ValueError: the runs were recorded elsewhere, so there are no models.
    """
    frames = {}
    for label in results.labels:
        model = (run := results.runs[label, seed]).model(clipset)
        _, *both = tokens(model, run, clipset)
        for when, some in zip(("before", "behind"), both, strict=True):
            names = model.token_names
            frames[f"{label}: {when}"] = pd.DataFrame(cosines(some).mean(dim=0).numpy(), names, names)
    return frames


MEASURES = {
    "directions of the tokens, before": lambda before, behind: effective_rank(before),
    "directions of the tokens, behind": lambda before, behind: effective_rank(behind),
    "cosine of two tokens, before": lambda before, behind: similarity(before),
    "cosine of two tokens, behind": lambda before, behind: similarity(behind),
    "cosine of a token before with itself behind": lambda before, behind: kept(before, behind),
}


def left(results: Results, clipset: ClipSet) -> pd.DataFrame:
    """What the fusion leaves of the tokens: label, seed, person, γ (NaN without a residual), and ``MEASURES``.

    A row a training and person: the mean over the person's clips.

    Raises:
        ValueError: the runs were recorded elsewhere, so there are no models.
    """
    tables = []
    for (label, seed), run in results.runs.items():
        model = run.model(clipset)
        person, before, behind = tokens(model, run, clipset)
        measured = {name: measure(before, behind).numpy() for name, measure in MEASURES.items()}
        scale = getattr(model.fusion, "scale", None)
        table = pd.DataFrame({"person": person} | measured).groupby("person").mean().reset_index()
        tables.append(table.assign(label=label, seed=seed, γ=float("nan") if scale is None else scale.item()))
    return pd.concat(tables, ignore_index=True)


def side_by_side(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """``left`` of two rows of the experiment: each measure of a and b, and a − b with its interval."""
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
    """Matrices side by side on one scale of colours, each under its title; ``meaning`` says what a colour stands for.

    The scale ends at ``high``, or at the largest value. From below zero it has two hues, with white at zero.
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
    """``blocks`` side by side: each share with its interval, and below what an even attention would give."""
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
