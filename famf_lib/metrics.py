"""The measure of the task: mAP at k over persons (Eq. 7), as the official evaluation computes it, and rank-1.

A person is a query; all clips of the gallery are ranked for it. Clips that show none of the persons (class -1) are
ranked too, as negatives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor

FEW = 1 / 8  # of the scores of a batch: from there on all of them are looked at
PERSONS = 1024  # who are ranked at once
LATEST = 2**31 - 1  # a position behind all others


def average_precision(hits: Bool[Tensor, "C k"], positives: Int64[Tensor, " C"]) -> Float[Tensor, " C"]:
    """AP a person: the precision at each hit, summed, divided by *all* its positives (m_i of Eq. 7).

    ``hits[c, r]`` says whether the clip at rank r shows person c. A person without positives has no AP: NaN.
    """
    hits = hits.double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = hits.cumsum(dim=1) / ranks
    return (precision * hits).sum(dim=1) / torch.where(positives > 0, positives, torch.nan)


@dataclass(frozen=True)
class Scores:
    """``ap`` (C,) is NaN for persons without a positive, which the mean leaves out, as the official script does."""

    ap: Float[Tensor, " C"]
    rank_1: float

    @property
    def mean_ap(self) -> float:
        """mAP, 0..1."""
        return float(self.ap.nanmean())


class Ranking:
    """The best k clips a person, kept while batches of clips come by: clips × persons is never held whole.

    Scores are compared in the precision in which they are given. Ties are broken by the order of the clips, the earlier
    first, whatever the batches and the device: their positions are kept beside the scores. Once k clips are kept, few
    of a batch are better than a person's last one: a comparison finds them, and they alone are looked at further.
    Memory beyond the scores of a batch of B clips is B × C bytes of comparisons, and C × k scores and positions of 8
    bytes together in float32, 12 in float64, a few times over; at worst, where a batch has nothing but better clips for
    somebody, C × (k + B) of them.

    Args:
        persons: C.
        k: how many clips are kept a person (Sec. 4.2: 100).
    """

    def __init__(self, persons: int, k: int = 100, device: torch.device | str = "cpu"):
        self.k, self.persons = _cut(k), persons
        self.scores = torch.empty(persons, 0, device=device)
        self.places = torch.empty(persons, 0, dtype=torch.int32, device=device)
        self.classes = torch.empty(0, dtype=torch.int64, device=device)
        self.first = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, scores: Shaped[Tensor, "B C"], classes: Int64[Tensor, " B"]) -> None:
        """Ranks B more clips by real numbers of any type. ``classes`` holds the person of each clip, -1 for none.

        Raises:
            ValueError: the shapes do not fit; a score is NaN, or no real number.
        """
        if scores.shape != (len(classes), self.persons):
            expected = f"{len(classes)} × {self.persons}, as many as clips and persons"
            raise ValueError(f"scores: {' × '.join(map(str, scores.shape))} found, expected {expected}")
        scores = _comparable(scores)
        if scores.numel() == 0:
            self.classes = torch.cat([self.classes, classes])
            return
        best, person = scores.max(dim=1)  # NaN, if there is one
        if torch.isnan(best).any():
            raise ValueError("scores: NaN found, expected numbers that can be ranked")
        known = classes >= 0
        self.first += (person[known] == classes[known]).sum()
        place = len(self.classes) + torch.arange(len(classes), dtype=torch.int32, device=scores.device)
        self.classes = torch.cat([self.classes, classes])
        if self.scores.shape[1] == self.k:
            better = scores > self.scores.amin(dim=1)
            if int(better.count_nonzero()) <= FEW * better.numel():
                clip, person = better.nonzero(as_tuple=True)
                self._merge(person, scores[clip, person], place[clip])
                return
        parts = zip(*(t.split(PERSONS) for t in (self.scores, self.places)), scores.split(PERSONS, dim=1), strict=True)
        kept = [self._best(old, at, new.T, place.expand(len(old), -1)) for old, at, new in parts]
        self.scores, self.places = map(torch.cat, zip(*kept, strict=True))

    def _merge(self, person: Int64[Tensor, " n"], scores: Float[Tensor, " n"], place: Int32[Tensor, " n"]) -> None:
        """Further clips, some a person: side by side in the person's row, none where others have more."""
        person, order = person.sort()
        found = torch.bincount(person, minlength=self.persons)
        column = torch.arange(len(person), device=person.device) - (found.cumsum(0) - found)[person]
        shape = self.persons, int(found.max())
        new, at = scores.new_full(shape, -torch.inf), place.new_full(shape, LATEST)
        new[person, column], at[person, column] = scores[order], place[order]
        self.scores, self.places = self._best(self.scores, self.places, new, at)

    def _best(
        self,
        scores: Float[Tensor, "p a"],
        places: Int32[Tensor, "p a"],
        more: Float[Tensor, "p b"],
        more_places: Int32[Tensor, "p b"],
    ) -> tuple[Float[Tensor, "p k"], Int32[Tensor, "p k"]]:
        """The best k a row, in any order; of equal ones the earlier."""
        scores, places = torch.cat([scores, more], dim=1), torch.cat([places, more_places], dim=1)
        if scores.shape[1] <= self.k:
            return scores, places
        best = scores.topk(self.k, dim=1, sorted=False)
        last, chosen = best.values.amin(dim=1, keepdim=True), best.indices
        tied = (scores >= last).sum(dim=1) > self.k  # more clips than places have the last score
        if tied.any():
            better, equal = scores[tied] > last[tied], scores[tied] == last[tied]
            turn = torch.where(better, 1, torch.where(equal, -places[tied], -LATEST - 1))
            chosen[tied] = turn.topk(self.k, dim=1, sorted=False).indices
        return scores.gather(1, chosen), places.gather(1, chosen)

    def clips(self) -> Int64[Tensor, "C k"]:
        """Positions of the best clips a person, best first, in the order in which the clips came."""
        places, order = self.places.sort(dim=1)
        return places.gather(1, self.scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices).long()

    def compute(self) -> Scores:
        """The scores of all clips seen so far.

        Raises:
            ValueError: a clip shows somebody who is none of the persons.
        """
        persons = torch.arange(self.persons, device=self.scores.device)
        known = self.classes[self.classes >= 0]
        positives = torch.bincount(known, minlength=self.persons)
        if len(positives) > self.persons:
            raise ValueError(f"classes: {len(positives) - 1} found, expected less than {self.persons}, one a person")
        hits = self.classes[self.clips()] == persons[:, None]
        return Scores(average_precision(hits, positives).cpu(), float(self.first) / max(len(known), 1))


def _comparable(scores: Shaped[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The same numbers in float32, or in float64 where that would lose some."""
    if scores.is_complex():
        raise ValueError(f"scores: {scores.dtype} found, expected real numbers that can be ranked")
    if scores.is_floating_point():
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
    wide = scores.double()
    if (wide.abs() >= 2**53).any():
        raise ValueError("scores: whole numbers of 2^53 and more found, expected smaller ones, or floats")
    return wide


def log_odds(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """log p / (1 − p) of each person's probability p under the softmax, in float32 or better.

    They order clips as the probabilities do, and as log p does while it can: that is 0 in float32, for all alike, once
    p is within 6e-8 of 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    odds = logits.log_softmax(dim=1)
    odds -= odds.exp().neg_().log1p_()
    best, person = logits.max(dim=1, keepdim=True)  # the one whose p may be close to 1: its odds from all the others
    others = logits.scatter(1, person, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.where(logits == best, best - others, odds)  # equal logits have equal odds


def mean_average_precision(
    scores: Shaped[Tensor, "V C"], classes: Int64[Tensor, " V"], k: int = 100, chunk: int = 4096
) -> Scores:
    """mAP at k and rank-1 of all scores at once; see ``Ranking`` for what happens to ties, noise and NaN."""
    ranking = Ranking(scores.shape[1], k, scores.device)
    for start in range(0, max(len(scores), len(classes)), chunk):
        ranking.update(scores[start : start + chunk], classes[start : start + chunk])
    return ranking.compute()


def score_lists(
    ranked: Mapping[str, Iterable[str]], truth: Mapping[str, Iterable[str]], k: int = 100
) -> dict[str, float]:
    """AP of each person of the ground truth from ranked lists of clip names, as the official evaluation reads them.

    A name that stands twice in a list counts at its first place only, then the list is cut at k. A person without a
    list has 0. Persons that the ground truth does not hold are not asked for.
    """
    result = {}
    for person, names in truth.items():
        positives = set(names)
        found = list(dict.fromkeys(ranked.get(person, ())))[: _cut(k)]
        hits = torch.tensor([[name in positives for name in found]], dtype=torch.bool).view(1, -1)
        result[person] = float(average_precision(hits, torch.tensor([len(positives)])))
    return result


def _cut(k: int) -> int:
    if k < 1:
        raise ValueError(f"k: {k}, expected 1 or more")
    return k
