"""How much each detail that the paper leaves open matters: other readings compared with the book's."""

from collections.abc import Sequence
from enum import StrEnum

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from famf_book.plots import MUTED, OURS, PALETTE, WIDTH
from famf_lib.evidence.bootstrap import LEVEL, Estimate, difference, estimate
from famf_lib.evidence.claims import BETTER, MARGIN, SAME, Verdict
from famf_lib.experiments.catalogue import READINGS, Reading
from famf_lib.experiments.results import Results
from famf_lib.support.wording import counted

COLUMNS = ["question", "reading", "instead of", "mAP", "difference", "low", "high", "outcome"]
SHOWN = 3  # questions that the answer names with their numbers


class Outcome(StrEnum):
    """The effect of another reading on mAP."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference"
    UNKNOWN = "cannot tell"


RULE = (
    f"A reading makes *no difference* if the {LEVEL:.0%} interval of its paired difference from the book's reading "
    f"lies within ±{MARGIN} mAP. Otherwise it is *better* if the interval lies above 0, *worse* if it lies below 0, "
    "and in all other cases we *cannot tell*. A question *matters* if at least one of its readings is better or worse; "
    "it makes *no difference* if none of its readings makes one."
)
MARKS = {
    Outcome.BETTER: {"color": PALETTE[2], "marker": "o"},
    Outcome.WORSE: {"color": PALETTE[3], "marker": "o"},
    Outcome.SAME: {"color": OURS, "marker": "s"},
    Outcome.UNKNOWN: {"color": MUTED, "marker": "o"},
}


def outcome(effect: Estimate, margin: float = MARGIN) -> Outcome:
    """``RULE`` applied to the difference between a reading and the book's."""
    if SAME.judge(effect, margin) == Verdict.HOLDS:
        return Outcome.SAME
    if BETTER.judge(effect, margin) == Verdict.HOLDS:
        return Outcome.BETTER
    return Outcome.WORSE if effect.high < 0 else Outcome.UNKNOWN


def of_the_book(results: Results, readings: Sequence[Reading] = READINGS) -> dict[str, str]:
    """The book's reading of each question: the one whose runs equal those of its base row."""
    seed = results.seeds[0]
    return {
        r.question: r.name
        for r in readings
        if results.runs[r.variant.label, seed].spec == results.runs[r.base.label, seed].spec
    }


def differences(results: Results, readings: Sequence[Reading] = READINGS) -> pd.DataFrame:
    """One row per reading that is not the book's: its mAP, its paired difference with the interval, the outcome.

    Questions are sorted by their largest difference, and readings within a question likewise.
    """
    book = of_the_book(results, readings)
    rows = []
    for r in readings:
        if book[r.question] != r.name:
            ap = results.ap(r.variant.label)
            effect = difference(ap, results.ap(r.base.label))
            rows.append(
                (r.question, r.name, book[r.question], estimate(ap).mean)
                + (effect.mean, effect.low, effect.high, str(outcome(effect)))
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    size = table["difference"].abs()
    largest = size.groupby(table["question"]).transform("max")
    order = pd.DataFrame({"largest": largest, "question": table["question"], "size": size})
    order = order.sort_values(["largest", "question", "size"], ascending=[False, True, False])
    return table.loc[order.index].reset_index(drop=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """``differences`` in the form that the page prints."""
    named = table.assign(reading=table["question"] + ": " + table["reading"]).drop(columns="question")
    return named.set_index("reading")


def sorted_out(table: pd.DataFrame) -> dict[str, list[str]]:
    """The questions that "matter", make the "same", or are "unknown", each in the order of the table."""
    found: dict[str, list[str]] = {"matter": [], "same": [], "unknown": []}
    for question, part in table.groupby("question", sort=False):
        outcomes = set(part["outcome"])
        decided = outcomes & {Outcome.BETTER, Outcome.WORSE}
        found["matter" if decided else "same" if outcomes == {Outcome.SAME} else "unknown"].append(question)
    return found


def answer(table: pd.DataFrame) -> str:
    """Which questions matter and which make no difference, in a few sentences."""
    kinds = sorted_out(table)
    questions = f"{counted(sum(map(len, kinds.values())), 'question')} that the paper leaves open"
    parts = []
    if matter := kinds["matter"]:
        decided = table[table["outcome"].isin([Outcome.BETTER, Outcome.WORSE])].drop_duplicates("question")
        named = [
            f"{r['question']} ({r['reading']} instead of {r['instead of']}: {r['difference']:+.4f} "
            f"[{r['low']:+.4f}, {r['high']:+.4f}])"
            for _, r in decided.head(SHOWN).iterrows()
        ]
        rest = f"; then {', '.join(matter[SHOWN:])}" if matter[SHOWN:] else ""
        verb = "matters" if len(matter) == 1 else "matter"
        parts.append(f"{len(matter)} of {questions} {verb}: {'; '.join(named)}{rest}.")
    else:
        parts.append(f"None of {questions} was shown to matter.")
    if kinds["same"]:
        parts.append(f"No reading makes a difference for {', '.join(kinds['same'])}.")
    if kinds["unknown"]:
        parts.append(f"With these seeds and persons we cannot tell for {', '.join(kinds['unknown'])}.")
    return " ".join(parts)


def forest(table: pd.DataFrame) -> Figure:
    """``differences`` as a forest plot: one group per question, headed by the book's reading."""
    groups = list(table.groupby("question", sort=False))
    lines = len(table) + 1.4 * len(groups)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.3 + 0.27 * max(lines, 2)), layout="constrained")
    axes.axvspan(-MARGIN, MARGIN, color="0.5", alpha=0.15, linewidth=0)
    axes.axvline(0, color="0.35", linewidth=1)
    y, ticks, headings = 0.0, [], []
    for question, part in groups:
        headings.append((y, f"{question}, instead of {part['instead of'].iloc[0]}:"))
        for _, row in part.iterrows():
            y += 1
            mark = MARKS[Outcome(row["outcome"])]
            axes.plot([row["low"], row["high"]], [y, y], color=mark["color"], linewidth=2.5, solid_capstyle="round")
            axes.scatter(row["difference"], y, s=50, zorder=3, **mark)
            ticks.append((y, row["reading"]))
        y += 1.4
    places = [*headings, *ticks]
    axes.set_yticks([at for at, _ in places], [text for _, text in places])
    for number, label in enumerate(axes.get_yticklabels()):
        label.set(fontsize=8.5, fontweight="bold" if number < len(headings) else "normal")
    axes.set_ylim(max(y, 1) - 0.6, -0.8)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mAP at 100 minus that of the book's reading")
    for kind, mark in MARKS.items():
        axes.plot([], [], linewidth=2.5, label=str(kind), **mark)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure
