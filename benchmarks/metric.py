"""mAP at 100 of a full-size gallery: its time and memory; and torchmetrics and scikit-learn on a size that they can do.

    python benchmarks/metric.py [--device cpu] [--record]

The gallery comes in batches, as from ``training.rank``; scores are made up between them and are not timed. Memory is
counted tensor by tensor, scores of the batch included, and as the peak of the process.

All three agree on the precision at each hit. They differ in what its sum is divided by: here, and in the official
script, by all positives of the person (m_i of Eq. 7); in torchmetrics by the hits within the top k. So its AP times
hits within the top k, over m_i, is ours. scikit-learn knows no cut: it is compared at k = V. No two scores of a person
are equal, for the three break ties in three ways. torchmetrics comes with the extra ``bench``, and is left out if it is
not there.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import common
import torch
from torch import Tensor

from famf_lib.metrics import Ranking, mean_average_precision
from famf_lib.paper import IQIYI
from famf_lib.training.evaluation import EVALUATION_BATCH
from famf_lib.training.memory import Allocations

K = 100
CLIPS = 73_000  # ranked at full size: validation clips and noise
BESIDE = (1_003, 7_300)  # persons and clips of the comparison
ROUNDS = 5


def gallery(persons: int, clips: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores (V, C) and classes (V,): the person's own clips score higher, one clip in eight shows nobody."""
    classes = torch.randint(persons, (clips,), generator=generator, device=device)
    scores = torch.randn(clips, persons, generator=generator, device=device)
    scores[torch.arange(clips, device=device), classes] += 4.0
    return scores, torch.where(torch.arange(clips, device=device) % 8 == 0, -1, classes)


def full(persons: int, clips: int, device: str) -> tuple[float, float, int]:
    """Seconds, mAP, and the bytes of tensors at the peak."""
    place = torch.device(device)
    if place.type == "cpu":
        torch.set_num_threads(1)
    generator, taken = torch.Generator(place).manual_seed(0), 0.0
    ranking = Ranking(persons, K, place)
    with Allocations() as held:
        for begin in range(0, clips, EVALUATION_BATCH):
            batch = gallery(persons, min(EVALUATION_BATCH, clips - begin), generator, place)
            taken += common.seconds(lambda batch=batch: ranking.update(*batch), place)
        found = {}
        taken += common.seconds(lambda: found.update(scores=ranking.compute()), place)
    return taken, found["scores"].mean_ap, held.peak


def beside(persons: int, clips: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A row a library: seconds beside ours in turn, and the largest difference of a person's AP."""
    scores, classes = gallery(persons, clips, torch.Generator(device).manual_seed(0), device)
    scores = scores.argsort(dim=0).argsort(dim=0).float()  # ranks: no ties
    others: dict[str, tuple[int, Callable[[], Tensor]]] = {"scikit-learn": (clips, lambda: of_sklearn(scores, classes))}
    if find_spec("torchmetrics"):
        others["torchmetrics"] = (K, lambda: of_torchmetrics(scores, classes))
    rows = []
    for name, (k, other) in others.items():
        works = {"ours": lambda k=k: mean_average_precision(scores, classes, k), name: other}
        ours, theirs = works["ours"]().ap, other()
        if k == K:
            theirs = theirs * hits(scores, classes, k) / torch.bincount(classes[classes >= 0], minlength=persons).cpu()
        apart = float((ours - theirs).nan_to_num().abs().max())  # a person without positives has no AP
        assert apart < 1e-5, f"{name}: a person's AP is {apart} apart"
        assert torch.equal(ours.isnan(), theirs.isnan()), f"{name}: another person has no AP"
        taken = common.in_turn(works, device, rounds)
        rows.append(
            {
                "library": name,
                "k": k,
                "persons": persons,
                "clips": clips,
                "seconds": common.medians(taken),
                "theirs / ours": common.ratio(taken[name], taken["ours"]),
                "mAP": float(ours.nanmean()),
                "largest difference of an AP": apart,
            }
        )
        common.say(rows[-1])
    return rows


def hits(scores: Tensor, classes: Tensor, k: int) -> Tensor:
    """How many of a person's clips are within the top k (C,)."""
    best = scores.topk(min(k, len(scores)), dim=0).indices
    return (classes[best] == torch.arange(scores.shape[1], device=scores.device)).sum(dim=0).cpu()


def of_torchmetrics(scores: Tensor, classes: Tensor) -> Tensor:
    """AP at k of each person, over the hits within the top k; NaN for who has no positive."""
    from torchmetrics.retrieval import RetrievalMAP

    persons = torch.arange(scores.shape[1], device=scores.device)
    positive = classes[:, None] == persons
    asked = positive.any(dim=0)  # it has no value for "there is none"
    metric = RetrievalMAP(top_k=K, aggregation=lambda values, dim=None: values).to(scores.device)
    indexes = persons[asked].expand(len(scores), -1)
    metric.update(scores[:, asked].flatten(), positive[:, asked].flatten(), indexes.flatten())
    found = torch.full((len(persons),), torch.nan, dtype=torch.float64)
    found[asked.cpu()] = metric.compute().double().cpu()
    return found


def of_sklearn(scores: Tensor, classes: Tensor) -> Tensor:
    """AP of each person, person by person; NaN for who has no positive."""
    from sklearn.metrics import average_precision_score

    scores, classes = scores.cpu().numpy(), classes.cpu().numpy()
    found = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for person in set(classes[classes >= 0].tolist()):
        found[person] = average_precision_score(classes == person, scores[:, person])
    return found


def measure(device: torch.device, quick: bool) -> dict[str, Any]:
    persons, clips = (101, 1_499) if quick else (IQIYI["persons"], CLIPS)
    if quick:
        (taken, mean_ap, held), process, libraries = full(persons, clips, str(device)), None, None
        every = [taken]
    else:
        (taken, mean_ap, held), process = common.apart(full, persons, clips, str(device))
        every = [taken, *(full(persons, clips, str(device))[0] for _ in range(2))]
        libraries = common.apart(common.nothing)[1]
    row = {
        "persons": persons,
        "clips": clips,
        "k": K,
        "batch": EVALUATION_BATCH,
        "seconds": sorted(every)[len(every) // 2],
        "memory, tensors (bytes)": held,
        "memory, process (bytes)": process,
        "memory, libraries alone (bytes)": libraries,
        "memory of all scores (bytes)": 4 * persons * clips,
        "mAP": mean_ap,
    }
    common.say(row)
    return {"full": row, "beside": beside(*((31, 499) if quick else BESIDE), device, 2 if quick else ROUNDS)}


if __name__ == "__main__":
    common.main(measure)
