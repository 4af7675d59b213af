"""The rules that turn an estimate into a verdict. They were fixed before the runs under each row's own
best setting, and after those under the shared one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from famf_lib.evidence.bootstrap import LEVEL, Estimate
from famf_lib.support.wording import counted

MARGIN = 0.005
"""A difference in mAP below half a point is negligible; the paper's own differences are 0.005 to 0.06."""

SHARE_MARGIN = 0.05
"""The same for a rank correlation and for a share of attention or weight."""


HEADROOM = 4 * MARGIN
"""Where mean pooling leaves less than this to a perfect mAP, the data are too easy to tell models apart."""


class Verdict(StrEnum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"
    TOO_EASY = "too easy to tell"
    DEPENDS = "depends on the setting"


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
    f"“A is better than B” *holds* if the {LEVEL:.0%} interval of the paired difference A − B lies above 0. Otherwise "
    "it *does not hold* if the interval ends below +margin, and we *cannot tell* if it does not.",
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
BY_MARGIN = Rule(
    "more than negligible",
    f"“A share is larger than an even one” *holds* if the {LEVEL:.0%} interval of the difference lies above +margin, "
    "*does not hold* if it lies below +margin, and otherwise we *cannot tell*. A difference within ±margin is no "
    "practical difference, however certain it is.",
    lambda effect, margin: _verdict(effect.low > margin, effect.high < margin),
    (-1, 1),
)
RULES = (BETTER, SAME, NOT_WORSE, BY_MARGIN)

EASY = (
    f"If mean pooling has an mAP above {1 - HEADROOM:.2f}, so that less than four margins are left, a comparison of "
    "mAPs is *too easy to tell*."
)
COMBINED = (
    "A claim of several parts *holds* if every part holds, and *does not hold* if one part does not hold. Otherwise it "
    "is *too easy to tell* if a part is, and we *cannot tell* in all other cases, for example if the data cannot test "
    "a part. “Holds” needs no correction for the number of parts, as all of them have to hold; “does not hold” becomes "
    "more likely with every part, so we always say how many parts hold."
)
ACROSS = (
    "The verdict on a claim is that of the setting in which each row is at its own best. If the claim holds under one "
    "setting and does not hold under another, the verdict is *depends on the setting*."
)


def combined(verdicts: Sequence[Verdict], untested: Sequence[str] = ()) -> Verdict:
    """The verdict on a claim from the verdicts on its parts. ``untested`` names parts that the data cannot test.

    Raises:
        ValueError: there is no verdict.
    """
    if not verdicts:
        raise ValueError("verdicts: none, expected one or more parts of a claim")
    if Verdict.DOES_NOT_HOLD not in verdicts and Verdict.TOO_EASY in verdicts:
        return Verdict.TOO_EASY
    return _verdict(not untested and all(v == Verdict.HOLDS for v in verdicts), Verdict.DOES_NOT_HOLD in verdicts)


def across(deciding: Verdict, others: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim from that of the deciding setting and those of the other settings."""
    every = {deciding, *others}
    return Verdict.DEPENDS if {Verdict.HOLDS, Verdict.DOES_NOT_HOLD} <= every else deciding


def parts_held(verdicts: Sequence[Verdict]) -> str:
    """How many parts of a claim hold, in words: "3 of 5 parts hold"; empty for a single part."""
    held, count = list(verdicts).count(Verdict.HOLDS), len(verdicts)
    return "" if count < 2 else f"{held} of {count} parts {'holds' if held == 1 else 'hold'}"


@dataclass(frozen=True)
class Comparison:
    """One part of a claim: an effect, the paper's value of it, and our estimate.

    ``effect`` says in words what the estimate measures, such as "A over B". ``headroom`` is what mean pooling leaves to
    a perfect mAP; None if the effect is not a difference of mAPs.
    """

    claim: str
    case: str
    effect: str
    paper: float | None
    ours: Estimate
    rule: Rule = BETTER
    margin: float = MARGIN
    headroom: float | None = None

    @property
    def name(self) -> str:
        return f"{self.claim}: {self.case}"

    @property
    def verdict(self) -> Verdict:
        if self.headroom is not None and self.headroom < HEADROOM:
            return Verdict.TOO_EASY
        return self.rule.judge(self.ours, self.margin)

    @property
    def negligible(self) -> bool:
        """Whether the interval shows that the effect is negligible, in either direction."""
        return -self.margin < self.ours.low and self.ours.high < self.margin

    @property
    def small(self) -> bool:
        """Whether it holds, but by a negligible effect."""
        return self.verdict == Verdict.HOLDS and self.rule is BETTER and self.ours.mean < self.margin

    @property
    def outcome(self) -> str:
        """The verdict in words, and whether the effect is negligible."""
        if self.verdict == Verdict.DOES_NOT_HOLD and self.negligible:
            return f"{self.verdict}: no practical difference"
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
