"""Verdicts. The rules stand here, in code, before any reported run: nobody decides afterwards what a number means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from famf_lib.evidence.bootstrap import LEVEL, Estimate
from famf_lib.support.wording import counted

MARGIN = 0.005
"""A difference in mAP below half a point is none to speak of; the paper's own differences are 0.005 to 0.06."""

SHARE_MARGIN = 0.05
"""The same for a rank correlation, and for a share of attention or weight: a twentieth is none to speak of."""


class Verdict(StrEnum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Rule:
    """How an effect with its interval becomes a verdict, given a margin below which an effect is none to speak of."""

    name: str
    text: str
    judge: Callable[[Estimate, float], Verdict]
    ends: tuple[int, int]

    def band(self, margin: float) -> tuple[float, float]:
        """The effects that are too small to speak of, from the least to the largest."""
        return self.ends[0] * margin, self.ends[1] * margin


def _verdict(holds: bool, fails: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.DOES_NOT_HOLD if fails else Verdict.CANNOT_TELL


BETTER = Rule(
    "better",
    f"“A is better than B” *holds* where the {LEVEL:.0%} interval of the paired difference A − B lies above 0, *does "
    "not hold* where it lies below +margin, and otherwise we *cannot tell*. Above 0 and below the margin it *holds*.",
    lambda effect, margin: _verdict(effect.low > 0, effect.high < margin),
    (0, 1),
)
SAME = Rule(
    "no difference",
    f"“A and B make no difference” is a claim of equivalence: it *holds* where the {LEVEL:.0%} interval of A − B lies "
    "within ±margin (two one-sided tests), *does not hold* where it lies wholly outside, and otherwise we *cannot "
    "tell*. Not to find a difference is not enough.",
    lambda effect, margin: _verdict(
        -margin < effect.low and effect.high < margin, effect.low > margin or effect.high < -margin
    ),
    (-1, 1),
)
NOT_WORSE = Rule(
    "no worse",
    f"“A is no worse than B” *holds* where the {LEVEL:.0%} interval of A − B lies above −margin, *does not hold* where "
    "it lies below −margin, and otherwise we *cannot tell*.",
    lambda effect, margin: _verdict(effect.low > -margin, effect.high < -margin),
    (-1, 0),
)
RULES = (BETTER, SAME, NOT_WORSE)

COMBINED = (
    "A claim of several parts *holds* where every part holds, *does not hold* where one part does not hold, and "
    "otherwise we *cannot tell*, as where the data cannot test a part. All parts have to hold, so their number needs "
    "no correction for the first of these; “does not hold” becomes likelier with every part."
)


def combined(verdicts: Sequence[Verdict], untested: Sequence[str] = ()) -> Verdict:
    """The verdict on a claim from those on its parts. ``untested`` are parts that the data cannot test.

    Raises:
        ValueError: no part.
    """
    if not verdicts:
        raise ValueError("verdicts: none, expected one or more parts of a claim")
    return _verdict(not untested and all(v == Verdict.HOLDS for v in verdicts), Verdict.DOES_NOT_HOLD in verdicts)


@dataclass(frozen=True)
class Comparison:
    """An effect that the paper claims, in one case of the claim, and as it came out here.

    ``effect`` says in words what the estimate measures, such as "A over B".
    """

    claim: str
    case: str
    effect: str
    paper: float | None
    ours: Estimate
    rule: Rule = BETTER
    margin: float = MARGIN

    @property
    def name(self) -> str:
        return f"{self.claim}: {self.case}"

    @property
    def verdict(self) -> Verdict:
        return self.rule.judge(self.ours, self.margin)

    @property
    def small(self) -> bool:
        """It holds, by an effect that is too small to speak of."""
        return self.verdict == Verdict.HOLDS and self.rule is BETTER and self.ours.mean < self.margin

    @property
    def outcome(self) -> str:
        """The verdict in words, and whether the effect is too small to speak of."""
        return f"{self.verdict}{', below the margin' if self.small else ''}"

    def sentence(self) -> str:
        """The outcome in words, every number from the estimate."""
        ours = self.ours
        paper = f" The paper has {self.paper:+.4f}." if self.paper is not None else ""
        over = f"{counted(ours.seeds, 'seed')} and {counted(ours.persons, 'person')}"
        number = f"{ours.mean:+.4f} [{ours.low:+.4f}, {ours.high:+.4f}] over {over}"
        if not ours.persons:  # worked out, and not from runs
            number = f"{ours.mean:+.4f}"
        return f"{self.effect}: {number}. “{self.claim}”: **{self.outcome}**.{paper}"
