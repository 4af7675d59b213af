"""How similar a clip's faces are to those of known persons, and from which similarity on it may show one of them.

A classifier names somebody, whoever is in the clip. Here a clip is one vector, the sum of its faces, in which long
vectors, those of clear pictures, count more. A person is the mean of their clips, the *centroid*. Similarity is the
cosine of the two after the mean of all centroids is subtracted. Nothing is trained, so a person can be added to a
model, and a threshold can be chosen on persons who are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy.stats import t
from torch import Tensor

from famf_lib.data.clipset import ClipSet
from famf_today.recipe import Faces

ALLOWED = 0.05  # the probability that a clip of one more person reaches the threshold
LEAST = 3  # persons: with one left out, two remain whose mean can be subtracted


@dataclass(frozen=True)
class Calibration:
    """A threshold, and how often it errs on the clips that it was chosen on.

    Of ``strangers`` clips, each compared with all persons but its own, ``named`` reach the threshold. Of ``known``
    clips, each compared with its person's other videos, ``missed`` do not.
    """

    threshold: float
    named: int
    strangers: int
    missed: int
    known: int


def descriptors(clipset: ClipSet) -> Float[Tensor, "V D"]:
    """The vector of each clip, of unit norm: the sum of x |x| over its faces x; zeros without a face."""
    faces = Faces.of(clipset, torch.arange(len(clipset)))
    return faces.means(faces.quality.square())


def centroids(vectors: Float[Tensor, "V D"], labels: Int64[Tensor, " V"]) -> Float[Tensor, "P D"]:
    """The mean vector of each of the persons 0 … P − 1."""
    return torch.stack([vectors[labels == person].mean(dim=0) for person in range(int(labels.max()) + 1)])


def similarities(vectors: Float[Tensor, "V D"], persons: Float[Tensor, "P D"]) -> Float[Tensor, "V P"]:
    """The similarity of each clip to each person, from −1 to 1, given the centroids."""
    mean = persons.mean(dim=0)
    return F.normalize(vectors - mean, dim=1) @ F.normalize(persons - mean, dim=1).T


def calibrate(vectors: Float[Tensor, "V D"], labels: Int64[Tensor, " V"], videos: Sequence[str]) -> Calibration | None:
    """Chooses a threshold by the scores of clips whose persons are left out; None for fewer than ``LEAST`` persons.

    It is the bound of a one-sided prediction interval for the score of a stranger. Clips of one person are not
    independent, so Student's t is that of P persons: the fewer, the higher. ``videos`` says which video a clip is from.
    """
    persons = centroids(vectors, labels)
    if len(persons) < LEAST:
        return None
    strangers, known = [], []
    for person in range(len(persons)):
        own = labels == person
        strangers.append(similarities(vectors[own], persons[torch.arange(len(persons)) != person]).amax(dim=1))
        for video in {name for name, its in zip(videos, own.tolist(), strict=True) if its}:
            asked = own & torch.tensor([name == video for name in videos])
            if (rest := own & ~asked).any():
                others = persons.clone()
                others[person] = vectors[rest].mean(dim=0)
                known.append(similarities(vectors[asked], others)[:, person])
    scores, count = torch.cat(strangers), len(persons)
    limit = float(scores.mean() + t.ppf(1 - ALLOWED, count - 1) * (1 + 1 / count) ** 0.5 * scores.std())
    found = torch.cat(known) if known else scores[:0]
    counts = int((scores >= limit).sum()), len(scores), int((found < limit).sum()), len(found)
    return Calibration(limit, *counts)
