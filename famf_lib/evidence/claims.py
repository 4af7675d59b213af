"""The rules that turn an estimate into a verdict. They were fixed before any reported run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from famf_lib.evidence.bootstrap import LEVEL, Estimate
from famf_lib.support.wording import counted

MARGIN = 0.005
"""A difference in mAP below half a point is negligible; the paper's own differences are 0.005 to 0.06."""

SHARE_MARGIN = 0.05
"""The same for a rank correlation and for a share of attention or weight."""


class Verdict(StrEnum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Rule:
    """Turns an effect with its interval into a verdict, given the margin below which an effect is negligible."""

    name: str
    text: str
    judge: Callable[[Estimate, float], Verdict]
    ends: tuple[int, int]

    def band(self, margin: float) -> tuple[float, float]:
        """The range of effects that are negligible, as (smallest, largest)."""
        return self.ends[0] * margin, self.ends[1] * margin


def _verdict(holds: bool, fails: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.DOES_NOT_HOLD if fails else Verdict.CANNOT_TELL


BETTER = Rule(
    "better",
    f"“A is better than B” *holds* if the {LEVEL:.0%} interval of the paired difference A − B lies above 0, *does "
    "not hold* if it lies below +margin, and otherwise we *cannot tell*. Between 0 and the margin it *holds*.",
    lambda effect, margin: _verdict(effect.low > 0, effect.high < margin),
    (0, 1),
)
SAME = Rule(
    "no difference",
    f"“A and B make no difference” is a claim of equivalence: it *holds* if the {LEVEL:.0%} interval of A − B lies "
    "within ±margin (two one-sided tests), *does not hold* if it lies wholly outside, and otherwise we *cannot "
    "tell*. Failing to find a difference is not enough.",
    lambda effect, margin: _verdict(
        -margin < effect.low and effect.high < margin, effect.low > margin or effect.high < -margin
    ),
    (-1, 1),
)
NOT_WORSE = Rule(
    "no worse",
    f"“A is no worse than B” *holds* if the {LEVEL:.0%} interval of A − B lies above −margin, *does not hold* if "
    "it lies below −margin, and otherwise we *cannot tell*.",
    lambda effect, margin: _verdict(effect.low > -margin, effect.high < -margin),
    (-1, 0),
)
RULES = (BETTER, SAME, NOT_WORSE)

COMBINED = (
    "A claim of several parts *holds* if every part holds, *does not hold* if one part does not hold, and otherwise "
    "we *cannot tell*, for example if the data cannot test a part. “Holds” needs no correction for the number of "
    "parts, as all of them have to hold; “does not hold” becomes more likely with every part."
)


def combined(verdicts: Sequence[Verdict], untested: Sequence[str] = ()) -> Verdict:
    """The verdict on a claim from the verdicts on its parts. ``untested`` names parts that the data cannot test.

    Raises:
        ValueError: there is no verdict.
    """
    if not verdicts:
        raise ValueError("verdicts: none, expected one or more parts of a claim")
    return _verdict(not untested and all(v == Verdict.HOLDS for v in verdicts), Verdict.DOES_NOT_HOLD in verdicts)


@dataclass(frozen=True)
class Comparison:
    """One part of a claim: an effect, the paper's value of it, and our estimate.

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
        """Whether it holds, but by a negligible effect."""
        return self.verdict == Verdict.HOLDS and self.rule is BETTER and self.ours.mean < self.margin

    @property
    def outcome(self) -> str:
        """The verdict in words, and whether the effect is negligible."""
        return f"{self.verdict}{', below the margin' if self.small else ''}"

    def sentence(self) -> str:
        """The outcome in one or two sentences, with every number from the estimate."""
        ours = self.ours
        paper = f" The paper has {self.paper:+.4f}." if self.paper is not None else ""
        over = f"{counted(ours.seeds, 'seed')} and {counted(ours.persons, 'person')}"
        number = f"{ours.mean:+.4f} [{ours.low:+.4f}, {ours.high:+.4f}] over {over}"
        if not ours.persons:  # computed, not measured on runs
            number = f"{ours.mean:+.4f}"
        return f"{self.effect}: {number}. “{self.claim}”: **{self.outcome}**.{paper}"
