"""The metrics of the task: mAP at k over persons (Eq. 7), as the official evaluation computes it, and rank-1.

Each person is a query, for which all clips of the gallery are ranked. Noise clips, which show none of the persons
(class -1), are ranked too, as negatives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor

SPARSE = 1 / 8  # up to this share of a batch's scores is merged one by one; if more are high enough, all are
PERSONS_AT_ONCE = 1024
LAST = 2**31 - 1  # a position after all clips


def average_precision(hits: Bool[Tensor, "C k"], positives: Int64[Tensor, " C"]) -> Float[Tensor, " C"]:
    """AP of each person: the sum of the precision at each hit, divided by the number of *all* positives (m_i of Eq. 7).

    ``hits[c, r]`` is whether the clip at rank r shows person c. The AP of a person without positives is NaN.
    """
    hits = hits.double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = hits.cumsum(dim=1) / ranks
    return (precision * hits).sum(dim=1) / torch.where(positives > 0, positives, torch.nan)


@dataclass(frozen=True)
class Scores:
    """AP of each person and rank-1. ``ap`` is NaN for persons without positives, and the mean excludes them, as the
    official script does."""

    ap: Float[Tensor, " C"]
    rank_1: float

    @property
    def mean_ap(self) -> float:
        """mAP, 0..1."""
        return float(self.ap.nanmean())


class Ranking:
    """The best k clips of each person, updated batch by batch, so that clips × persons is never held in memory.

    Scores are compared in the precision in which they are given. Of equal scores the earlier clip ranks first, whatever
    the batches and the device, because positions are kept with the scores. Once k clips are kept, few clips of a batch
    beat a person's worst kept clip; one comparison finds them, and only they are merged. Beyond the scores of a batch
    of B clips this takes B × C bytes, and a few times C × k pairs of score and position (8 bytes in float32, 12 in
    float64); at worst, if all clips of a batch are better for some person, C × (k + B) pairs.

    Args:
        persons: C.
        k: the number of clips kept per person (Sec. 4.2: 100).
    """

    def __init__(self, persons: int, k: int = 100, device: torch.device | str = "cpu"):
        self.k, self.persons = _cut(k), persons
        self.scores = torch.empty(persons, 0, device=device)
        self.positions = torch.empty(persons, 0, dtype=torch.int32, device=device)
        self.classes = torch.empty(0, dtype=torch.int64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, scores: Shaped[Tensor, "B C"], classes: Int64[Tensor, " B"]) -> None:
        """Ranks B more clips by scores of any real type. ``classes`` holds the person of each clip, or -1.

        Raises:
            ValueError: the shapes do not fit; a score is NaN or complex.
        """
        if scores.shape != (len(classes), self.persons):
            expected = f"{len(classes)} × {self.persons}, as many as clips and persons"
            raise ValueError(f"scores: {' × '.join(map(str, scores.shape))} found, expected {expected}")
        scores = _comparable(scores)
        if scores.numel() == 0:
            self.classes = torch.cat([self.classes, classes])
            return
        best, person = scores.max(dim=1)  # NaN if any score is
        if torch.isnan(best).any():
            raise ValueError("scores: NaN found, expected numbers that can be ranked")
        known = classes >= 0
        self.correct += (person[known] == classes[known]).sum()
        position = len(self.classes) + torch.arange(len(classes), dtype=torch.int32, device=scores.device)
        self.classes = torch.cat([self.classes, classes])
        if self.scores.shape[1] == self.k:
            better = scores > self.scores.amin(dim=1)
            if int(better.count_nonzero()) <= SPARSE * better.numel():
                clip, person = better.nonzero(as_tuple=True)
                self._merge(person, scores[clip, person], position[clip])
                return
        kept = [
            self._best(old, positions, new.T, position.expand(len(old), -1))
            for old, positions, new in zip(
                self.scores.split(PERSONS_AT_ONCE),
                self.positions.split(PERSONS_AT_ONCE),
                scores.split(PERSONS_AT_ONCE, dim=1),
                strict=True,
            )
        ]
        self.scores, self.positions = map(torch.cat, zip(*kept, strict=True))

    def _merge(self, person: Int64[Tensor, " n"], scores: Float[Tensor, " n"], position: Int32[Tensor, " n"]) -> None:
        """Adds n single scores. They are laid out in one row per person, padded where other persons have more."""
        person, order = person.sort()
        found = torch.bincount(person, minlength=self.persons)
        column = torch.arange(len(person), device=person.device) - (found.cumsum(0) - found)[person]
        shape = self.persons, int(found.max())
        new, positions = scores.new_full(shape, -torch.inf), position.new_full(shape, LAST)
        new[person, column], positions[person, column] = scores[order], position[order]
        self.scores, self.positions = self._best(self.scores, self.positions, new, positions)

    def _best(
        self,
        scores: Float[Tensor, "p a"],
        positions: Int32[Tensor, "p a"],
        new: Float[Tensor, "p b"],
        new_positions: Int32[Tensor, "p b"],
    ) -> tuple[Float[Tensor, "p k"], Int32[Tensor, "p k"]]:
        """The best k of each row, in any order; of equal scores the earlier ones."""
        scores, positions = torch.cat([scores, new], dim=1), torch.cat([positions, new_positions], dim=1)
        if scores.shape[1] <= self.k:
            return scores, positions
        best = scores.topk(self.k, dim=1, sorted=False)
        worst, chosen = best.values.amin(dim=1, keepdim=True), best.indices
        tied = (scores >= worst).sum(dim=1) > self.k  # not all clips with the worst score can be kept
        if tied.any():
            better, equal = scores[tied] > worst[tied], scores[tied] == worst[tied]
            priority = torch.where(better, 1, torch.where(equal, -positions[tied], -LAST - 1))
            chosen[tied] = priority.topk(self.k, dim=1, sorted=False).indices
        return scores.gather(1, chosen), positions.gather(1, chosen)

    def clips(self) -> Int64[Tensor, "C k"]:
        """The positions of each person's best clips, best first; positions count all clips in the order of updates."""
        positions, order = self.positions.sort(dim=1)
        ranked = self.scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices
        return positions.gather(1, ranked).long()

    def compute(self) -> Scores:
        """The scores of all clips seen so far.

        Raises:
            ValueError: a class is not one of the C persons.
        """
        persons = torch.arange(self.persons, device=self.scores.device)
        known = self.classes[self.classes >= 0]
        positives = torch.bincount(known, minlength=self.persons)
        if (last := len(positives) - 1) >= self.persons:
            raise ValueError(f"classes: {last} found, expected at most {self.persons - 1} for {self.persons} persons")
        hits = self.classes[self.clips()] == persons[:, None]
        return Scores(average_precision(hits, positives).cpu(), float(self.correct) / max(len(known), 1))


def _comparable(scores: Shaped[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The scores in float32, or in float64 if float32 would round them."""
    if scores.is_complex():
        raise ValueError(f"scores: {scores.dtype} found, expected real numbers that can be ranked")
    if scores.is_floating_point():
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
    wide = scores.double()
    if (wide.abs() >= 2**53).any():
        raise ValueError("scores: integers of 2^53 or more found, expected smaller ones or floats")
    return wide


def log_odds(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """log p / (1 − p), where p is a person's probability under the softmax, in float32 or float64.

    It ranks clips as the probability does, but also separates those whose p is within 6e-8 of 1, where log p in float32
    is 0 for all of them.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    odds = logits.log_softmax(dim=1)
    odds -= odds.exp().neg_().log1p_()
    best, person = logits.max(dim=1, keepdim=True)  # its p may be close to 1: compute the odds from the other logits
    others = logits.scatter(1, person, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.where(logits == best, best - others, odds)  # the same for ties


def mean_average_precision(
    scores: Shaped[Tensor, "V C"], classes: Int64[Tensor, " V"], k: int = 100, chunk: int = 4096
) -> Scores:
    """mAP at k and rank-1 of a whole gallery; ``Ranking`` describes the treatment of ties, noise and NaN."""
    ranking = Ranking(scores.shape[1], k, scores.device)
    for start in range(0, max(len(scores), len(classes)), chunk):
        ranking.update(scores[start : start + chunk], classes[start : start + chunk])
    return ranking.compute()


def score_lists(
    ranked: Mapping[str, Iterable[str]], truth: Mapping[str, Iterable[str]], k: int = 100
) -> dict[str, float]:
    """AP of each person of the ground truth from ranked lists of clip names, as the official evaluation computes it.

    Only the first occurrence of a name counts, and then the list is cut at k. A person without a list has an AP of 0.
    Persons that are not in the ground truth are ignored.
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
