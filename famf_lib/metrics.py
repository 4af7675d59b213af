"""The measure of the task: mAP at k over persons (Eq. 7), as the official evaluation computes it, and rank-1.

A person is a query; all clips of the gallery are ranked for it. Clips that show none of the persons (class -1) are
ranked too, as negatives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

FEW = 1 / 8  # of the scores of a batch: from there on all of them get a key
PERSONS = 1024  # whose scores get keys at once


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

    Ties are broken by the order of the clips, the earlier first, whatever the batches and the device: each score
    becomes an integer key with the clip's position below it, and no two keys are equal. Once k clips are kept, few of a
    batch are better than a person's last one: a comparison finds them, and they alone get a key. Memory beyond the
    scores of a batch of B clips is B × C bytes of comparisons, and C × k keys of 8 bytes a few times over; at worst,
    where a batch has nothing but better clips for somebody, C × (k + B) keys.

    Args:
        persons: C.
        k: how many clips are kept a person (Sec. 4.2: 100).
    """

    def __init__(self, persons: int, k: int = 100, device: torch.device | str = "cpu"):
        if k < 1:
            raise ValueError(f"k: {k}, expected 1 or more")
        self.k = k
        self.keys = torch.empty(persons, 0, dtype=torch.int64, device=device)
        self.classes = torch.empty(0, dtype=torch.int64, device=device)
        self.first = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, scores: Float[Tensor, "B C"], classes: Int64[Tensor, " B"]) -> None:
        """Ranks B more clips. ``classes`` holds the person of each clip, -1 for none.

        Raises:
            ValueError: a score is NaN.
        """
        best, person = scores.max(dim=1)  # NaN, if there is one
        if torch.isnan(best).any():
            raise ValueError("scores: NaN found, expected numbers that can be ranked")
        known = classes >= 0
        self.first += (person[known] == classes[known]).sum()
        position = len(self.classes) + torch.arange(len(classes), device=scores.device)
        self.classes = torch.cat([self.classes, classes])
        if self.keys.shape[1] == self.k:
            better = scores.float() > _scores(self.keys.amin(dim=1))
            if int(better.count_nonzero()) <= FEW * better.numel():
                clip, person = better.nonzero(as_tuple=True)
                self._merge(person, _keys(scores[clip, person], position[clip]))
                return
        parts = zip(self.keys.split(PERSONS), scores.split(PERSONS, dim=1), strict=True)
        self.keys = torch.cat([self._best(torch.cat([old, _keys(new.T, position[None])], dim=1)) for old, new in parts])

    def _merge(self, person: Int64[Tensor, " n"], keys: Int64[Tensor, " n"]) -> None:
        """Further keys, some a person: side by side in the person's row, none where others have more."""
        person, order = person.sort()
        found = torch.bincount(person, minlength=len(self.keys))
        place = torch.arange(len(person), device=person.device) - (found.cumsum(0) - found)[person]
        new = self.keys.new_full((len(self.keys), int(found.max())), torch.iinfo(torch.int64).min)
        new[person, place] = keys[order]
        self.keys = self._best(torch.cat([self.keys, new], dim=1))

    def _best(self, keys: Int64[Tensor, "p n"]) -> Int64[Tensor, "p k"]:
        return keys.topk(min(self.k, keys.shape[1]), dim=1, sorted=False).values

    def clips(self) -> Int64[Tensor, "C k"]:
        """Positions of the best clips a person, best first, in the order in which the clips came."""
        return 0x7FFFFFFF - (self.keys.sort(dim=1, descending=True).values & 0x7FFFFFFF)

    def compute(self) -> Scores:
        """The scores of all clips seen so far."""
        persons = torch.arange(len(self.keys), device=self.keys.device)
        hits = self.classes[self.clips()] == persons[:, None]
        known = self.classes[self.classes >= 0]
        positives = torch.bincount(known, minlength=len(self.keys))
        return Scores(average_precision(hits, positives).cpu(), float(self.first) / max(len(known), 1))


def _keys(scores: Float[Tensor, "*n"], position: Int64[Tensor, "*#n"]) -> Int64[Tensor, "*n"]:
    """Integers in the order of the scores, the earlier clip above the later one where scores are equal.

    The bits of a float32 read as int32 are in its order, but for the negative ones, whose order is reversed: flipping
    their lower 31 bits mends that. Adding 0.0 turns -0.0, a tie with 0.0, into it.
    """
    ordered = _flipped((scores.float() + 0.0).view(torch.int32))
    return (ordered.to(torch.int64) << 31) | (0x7FFFFFFF - position)


def _scores(keys: Int64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The scores that keys were made of, in float32."""
    return _flipped((keys >> 31).to(torch.int32)).view(torch.float32)


def _flipped(bits: Int32[Tensor, "*n"]) -> Int32[Tensor, "*n"]:
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def mean_average_precision(
    scores: Float[Tensor, "V C"], classes: Int64[Tensor, " V"], k: int = 100, chunk: int = 4096
) -> Scores:
    """mAP at k and rank-1 of all scores at once; see ``Ranking`` for what happens to ties, noise and NaN."""
    ranking = Ranking(scores.shape[1], k, scores.device)
    for start in range(0, len(scores), chunk):
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
        found = list(dict.fromkeys(ranked.get(person, ())))[:k]
        hits = torch.tensor([[name in positives for name in found]], dtype=torch.bool).view(1, -1)
        result[person] = float(average_precision(hits, torch.tensor([len(positives)])))
    return result
