"""The ledger of claims on a page: verdicts by claim and dataset, and every part of each claim."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from famf_book.plots import VERDICT_COLOURS, WIDTH
from famf_book.report import is_the_papers
from famf_lib.evidence.claims import Verdict
from famf_lib.evidence.ledger import Entry
from famf_lib.support.wording import counted

NOT_TESTED = "—"


def matrix(entries: Sequence[Entry]) -> pd.DataFrame:
    """The verdicts in words: one row per claim ("1. FAMF over the others"), one column per dataset."""
    table: dict[str, dict[str, str]] = {}
    for entry in entries:
        name = f"{entry.claim.number}. {entry.claim.short}"
        table.setdefault(name, {})[entry.dataset] = str(entry.verdict or NOT_TESTED)
    return pd.DataFrame.from_dict(table, orient="index").fillna(NOT_TESTED).rename_axis("claim")


def parts(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row per part of a claim on a dataset: what was measured, the effect with its interval, rule and verdict."""
    columns = [
        "claim", "dataset", "part", "effect", "paper", "ours", "low", "high", "seeds", "persons", "margin", "rule",
        "verdict", "small", "command",
    ]  # fmt: skip
    rows = [
        [
            entry.claim.number,
            entry.dataset,
            part.case,
            part.effect,
            part.paper,
            part.ours.mean,
            part.ours.low,
            part.ours.high,
            part.ours.seeds,
            part.ours.persons,
            part.margin,
            part.rule.name,
            str(part.verdict),
            part.small,
            entry.command,
        ]
        for entry in entries
        for part in entry.parts
    ]
    return pd.DataFrame(rows, columns=columns).astype({"paper": float})


def counts(entries: Sequence[Entry]) -> str:
    """One sentence per dataset: how many claims hold (and which), do not hold, or are inconclusive."""
    sentences = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        tested = [entry for entry in entries if entry.dataset == dataset and entry.verdict]
        found = [entry.verdict for entry in tested]
        if found:
            held, failed, unclear = (found.count(verdict) for verdict in Verdict)
            which = "; ".join(
                f"no. {entry.claim.number}{', below the margin' if entry.small else ''}"
                for entry in tested
                if entry.verdict == Verdict.HOLDS
            )
            sentences.append(
                f"On {dataset}, {held} of {counted(len(found), 'claim')} {'holds' if held == 1 else 'hold'}"
                f"{f' ({which})' if which else ''}, {failed} {'does' if failed == 1 else 'do'} not hold, and {unclear} "
                f"{'is' if unclear == 1 else 'are'} inconclusive."
            )
    if {"8a", "8b"} <= {entry.claim.number for entry in entries if entry.verdict}:
        sentences.append("Claim 8 counts as two, 8a and 8b.")
    return " ".join(sentences)


def reach(names: Sequence[str]) -> str:
    """What verdicts on these datasets say about the paper's data, in a sentence or two."""
    own = [name for name in names if is_the_papers(name)]
    if not own:
        return (
            "The paper's own data are not among the datasets. A claim that does not hold here may still be right for "
            "the paper's data: what we show is that it does not carry over to these data with these settings."
        )
    said = (
        f"On {', '.join(own)} the claims are tested on the paper's own data. The settings are the "
        "paper's in the profile `paper`; the other profiles are smaller."
    )
    if len(own) < len(names):
        said += (
            " A claim that does not hold on other data may still be right for the paper's: what we show is that it "
            "does not carry over to them with these settings."
        )
    return said


def draw(table: pd.DataFrame) -> Figure:
    """``matrix`` as coloured cells. Each names its verdict, so the figure can be read without colour."""
    rows, columns = table.shape
    figure, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.42 * max(rows, 1)), layout="constrained")
    colours = {str(verdict): colour for verdict, colour in VERDICT_COLOURS.items()}
    for y in range(rows):
        for x in range(columns):
            word = table.iloc[y, x]
            if word in colours:
                field = Rectangle((x + 0.03, y + 0.08), 0.94, 0.84, color=colours[word], alpha=0.28, linewidth=0)
                axes.add_patch(field)
            axes.text(x + 0.5, y + 0.5, word, ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, max(columns, 1)), ylim=(max(rows, 1), 0))
    axes.set_xticks([x + 0.5 for x in range(columns)], list(table.columns))
    axes.set_yticks([y + 0.5 for y in range(rows)], list(table.index))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
