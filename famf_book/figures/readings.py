"""Which detail carries the result: every other reading of what the paper leaves open, against the one the book took."""

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

COLUMNS = ["question", "reading", "in place of", "mAP", "difference", "low", "high", "outcome"]
SHOWN = 3  # how many questions the answer names with their numbers


class Outcome(StrEnum):
    """What another reading does."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference"
    UNKNOWN = "cannot tell"


RULE = (
    f"Another reading makes *no difference* where the {LEVEL:.0%} interval of its paired difference from the book's "
    f"reading lies within ±{MARGIN} mAP. Otherwise it is *better* where the interval lies above 0, *worse* where it "
    "lies below 0, and we *cannot tell* where it does neither. A question *carries the result* where one of its other "
    "readings is better or worse, and *makes no difference* where none of them makes one."
)
MARKS = {
    Outcome.BETTER: {"color": PALETTE[2], "marker": "o"},
    Outcome.WORSE: {"color": PALETTE[3], "marker": "o"},
    Outcome.SAME: {"color": OURS, "marker": "s"},
    Outcome.UNKNOWN: {"color": MUTED, "marker": "o"},
}


def outcome(effect: Estimate, margin: float = MARGIN) -> Outcome:
    """``RULE``, of the difference of another reading from the book's."""
    if SAME.judge(effect, margin) == Verdict.HOLDS:
        return Outcome.SAME
    if BETTER.judge(effect, margin) == Verdict.HOLDS:
        return Outcome.BETTER
    return Outcome.WORSE if effect.high < 0 else Outcome.UNKNOWN


def of_the_book(results: Results, readings: Sequence[Reading] = READINGS) -> dict[str, str]:
    """The reading that the book took of each question: the one whose runs are those of the row it is compared with."""
    seed = results.seeds[0]
    return {
        r.question: r.name
        for r in readings
        if results.runs[r.variant.label, seed].spec == results.runs[r.base.label, seed].spec
    }


def differences(results: Results, readings: Sequence[Reading] = READINGS) -> pd.DataFrame:
    """A row for each reading that is not the book's: its mAP, its paired difference with the interval, the outcome.

    The question with the largest difference comes first, and within a question the reading with the largest.
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
    """``differences`` as the page prints it."""
    named = table.assign(reading=table["question"] + ": " + table["reading"]).drop(columns="question")
    return named.set_index("reading")


def sorted_out(table: pd.DataFrame) -> dict[str, list[str]]:
    """The questions by what they do: "carries", "same" and "unknown", each in the order of the table."""
    found: dict[str, list[str]] = {"carries": [], "same": [], "unknown": []}
    for question, part in table.groupby("question", sort=False):
        outcomes = set(part["outcome"])
        decided = outcomes & {Outcome.BETTER, Outcome.WORSE}
        found["carries" if decided else "same" if outcomes == {Outcome.SAME} else "unknown"].append(question)
    return found


def answer(table: pd.DataFrame) -> str:
    """Which questions carry the result, and which make no difference, in a few sentences."""
    kinds = sorted_out(table)
    total = sum(map(len, kinds.values()))
    parts = []
    if carries := kinds["carries"]:
        decided = table[table["outcome"].isin([Outcome.BETTER, Outcome.WORSE])].drop_duplicates("question")
        named = [
            f"{r['question']} ({r['reading']} in place of {r['in place of']}: {r['difference']:+.4f} "
            f"[{r['low']:+.4f}, {r['high']:+.4f}])"
            for _, r in decided.head(SHOWN).iterrows()
        ]
        rest = f"; then {_listed(carries[SHOWN:])}" if carries[SHOWN:] else ""
        count = "all" if len(carries) == total else str(len(carries))
        verb = "carries" if len(carries) == 1 else "carry"
        parts.append(f"Of {total} questions that the paper leaves open, {count} {verb} the result: {'; '.join(named)}")
        parts[-1] += f"{rest}."
    else:
        parts.append(f"Of {total} questions that the paper leaves open, none is seen to carry the result.")
    if kinds["same"]:
        parts.append(f"No difference, whichever way they are read: {_listed(kinds['same'])}.")
    if kinds["unknown"]:
        parts.append(f"These seeds and persons cannot tell: {_listed(kinds['unknown'])}.")
    return " ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def forest(table: pd.DataFrame) -> Figure:
    """``differences`` as a forest plot, a group a question, each headed by the book's reading."""
    groups = list(table.groupby("question", sort=False))
    lines = len(table) + 1.4 * len(groups)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.3 + 0.27 * max(lines, 2)), layout="constrained")
    axes.axvspan(-MARGIN, MARGIN, color="0.5", alpha=0.15, linewidth=0)
    axes.axvline(0, color="0.35", linewidth=1)
    y, ticks, headings = 0.0, [], []
    for question, part in groups:
        headings.append((y, f"{question}, instead of {part['in place of'].iloc[0]}:"))
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
    axes.set_xlabel("difference in mAP at 100 from the book's reading")
    for kind, mark in MARKS.items():
        axes.plot([], [], linewidth=2.5, label=str(kind), **mark)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure
