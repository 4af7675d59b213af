"""The ledger as a page shows it: verdicts by claim and dataset, every part, and what did not come out as claimed."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from famf_book.plots import VERDICT_COLOURS, WIDTH
from famf_book.report import is_the_papers
from famf_lib.evidence.claims import Verdict
from famf_lib.evidence.ledger import Entry

NOT_TESTED = "—"


def matrix(entries: Sequence[Entry]) -> pd.DataFrame:
    """The verdict in words, a row a claim ("1. FAMF over the others"), a column a dataset."""
    table: dict[str, dict[str, str]] = {}
    for entry in entries:
        name = f"{entry.claim.number}. {entry.claim.short}"
        table.setdefault(name, {})[entry.dataset] = str(entry.verdict or NOT_TESTED)
    return pd.DataFrame.from_dict(table, orient="index").fillna(NOT_TESTED).rename_axis("claim")


def parts(entries: Sequence[Entry]) -> pd.DataFrame:
    """A row a part of a claim on a dataset: what was measured, the effect with its interval, rule and verdict."""
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
    """How many claims hold (and which), do not hold, or cannot be told, dataset by dataset, in a sentence each."""
    sentences = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        tested = [entry for entry in entries if entry.dataset == dataset and entry.verdict]
        found = [entry.verdict for entry in tested]
        if found:
            told = {v: f"{found.count(v)} {_plural(v, found.count(v))}" for v in Verdict}
            held = [entry for entry in tested if entry.verdict == Verdict.HOLDS]
            if numbers := [f"no. {e.claim.number}{', below the margin' if e.small else ''}" for e in held]:
                told[Verdict.HOLDS] += f" ({'; '.join(numbers)})"
            sentences.append(f"On {dataset}, of {len(found)} claims, {', '.join(told.values())}.")
    if {"8a", "8b"} <= {entry.claim.number for entry in entries if entry.verdict}:
        sentences.append("Claim 8 counts as two.")
    return " ".join(sentences)


def reach(names: Sequence[str]) -> str:
    """How far verdicts on these datasets reach, in a sentence or two."""
    own = [name for name in names if is_the_papers(name)]
    if not own:
        return (
            "The paper's own data are not among the datasets. A claim that does not hold here was not shown to be "
            "wrong there; it was shown not to carry over to these data with these settings."
        )
    said = (
        f"On {', '.join(own)} the claims are tested on the paper's own data. The settings are the "
        "paper's in the profile `paper`; the other profiles are smaller."
    )
    if len(own) < len(names):
        said += (
            " A claim that does not hold on other data was not shown to be wrong on the paper's; it was shown not to "
            "carry over to them with these settings."
        )
    return said


def _plural(verdict: Verdict, number: int) -> str:
    one = {Verdict.HOLDS: "holds", Verdict.DOES_NOT_HOLD: "does not hold", Verdict.CANNOT_TELL: "cannot be told"}
    many = {Verdict.HOLDS: "hold", Verdict.DOES_NOT_HOLD: "do not hold", Verdict.CANNOT_TELL: "cannot be told"}
    return (one if number == 1 else many)[verdict]


def draw(table: pd.DataFrame) -> Figure:
    """``matrix`` as coloured fields; the verdict stands in each, so that no colour has to be told apart."""
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
