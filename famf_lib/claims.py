"""Verdicts. The rules stand here, in code, before any reported run: nobody decides afterwards what a number means."""

from dataclasses import dataclass
from enum import StrEnum

from famf_lib.statistics import LEVEL, Estimate

MARGIN = 0.005
"""A difference in mAP below half a point is none to speak of; the paper's own differences are 0.005 to 0.06."""


class Verdict(StrEnum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"


RULE = (
    f"A claim “A is better than B” *holds* where the {LEVEL:.0%} interval of the paired difference A − B lies above 0; "
    f"it *does not hold* where the interval lies below +{MARGIN}; otherwise we *cannot tell*. "
    "An interval above 0 and below the margin counts as *holds*."
)


def better(difference: Estimate) -> Verdict:
    """The verdict on "A is better than B" from the estimate of A − B."""
    if difference.low > 0:
        return Verdict.HOLDS
    if difference.high < MARGIN:
        return Verdict.DOES_NOT_HOLD
    return Verdict.CANNOT_TELL


@dataclass(frozen=True)
class Comparison:
    """ "A is better than B" as the paper claims it, in one case of the claim, and as it came out here."""

    claim: str
    case: str
    a: str
    b: str
    paper: float | None
    ours: Estimate

    @property
    def name(self) -> str:
        return f"{self.claim}, {self.case}"

    @property
    def verdict(self) -> Verdict:
        return better(self.ours)

    def sentence(self) -> str:
        """The outcome in words, every number from the estimate."""
        ours = self.ours
        paper = f" The paper has {self.paper:+.4f}." if self.paper is not None else ""
        return (
            f"{self.a} over {self.b}: {ours.mean:+.4f} [{ours.low:+.4f}, {ours.high:+.4f}] over {ours.seeds} seeds and "
            f"{ours.persons:,} persons, so “{self.claim}” **{self.verdict}** here.{paper}"
        )
