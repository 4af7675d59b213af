"""Time and memory of mAP at 100 of a full-size gallery; torchmetrics and scikit-learn at a size that they can handle.

    python benchmarks/metric.py [--device cpu] [--record]

The gallery arrives in batches, as in ``evaluation.rank``; generating their random scores is not timed. Memory is
counted tensor by tensor, including the scores of the batch, and also measured as the peak of the process.

All three libraries agree on the precision at each hit, and divide its sum by different numbers: this library and the
official script by all positives of the person (m_i of Eq. 7), torchmetrics by the hits within the top k. Its AP times
the hits within the top k, divided by m_i, is therefore ours. scikit-learn has no cutoff and is compared at k = V. The
scores of a person have no ties, which the three libraries break differently. torchmetrics is in the extra ``bench``,
and is left out if it is not installed.
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
CLIPS = 73_000  # of the gallery at full size: validation clips and noise
COMPARISON = (1_003, 7_300)  # persons and clips
ROUNDS = 5


def gallery(persons: int, clips: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores (V, C) and classes (V,): a person's own clips score higher, and one clip in eight is noise."""
    classes = torch.randint(persons, (clips,), generator=generator, device=device)
    scores = torch.randn(clips, persons, generator=generator, device=device)
    scores[torch.arange(clips, device=device), classes] += 4.0
    return scores, torch.where(torch.arange(clips, device=device) % 8 == 0, -1, classes)


def full(persons: int, clips: int, device: str) -> tuple[float, float, int]:
    """Seconds, mAP, and the peak memory of tensors in bytes."""
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


def compare(persons: int, clips: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """One row per library: its seconds and ours, timed in turn, and the largest difference of a person's AP."""
    scores, classes = gallery(persons, clips, torch.Generator(device).manual_seed(0), device)
    scores = scores.argsort(dim=0).argsort(dim=0).float()  # ranks, which have no ties
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
        assert apart < 1e-5, f"{name}: the AP of a person differs by {apart}"
        assert torch.equal(ours.isnan(), theirs.isnan()), f"{name}: the AP of other persons is NaN"
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
    """The number of each person's clips within the top k (C,)."""
    best = scores.topk(min(k, len(scores)), dim=0).indices
    return (classes[best] == torch.arange(scores.shape[1], device=scores.device)).sum(dim=0).cpu()


def of_torchmetrics(scores: Tensor, classes: Tensor) -> Tensor:
    """AP at k of each person, divided by the hits within the top k; NaN for a person without positives."""
    from torchmetrics.retrieval import RetrievalMAP

    persons = torch.arange(scores.shape[1], device=scores.device)
    positive = classes[:, None] == persons
    asked = positive.any(dim=0)  # torchmetrics cannot return NaN
    metric = RetrievalMAP(top_k=K, aggregation=lambda values, dim=None: values).to(scores.device)
    indexes = persons[asked].expand(len(scores), -1)
    metric.update(scores[:, asked].flatten(), positive[:, asked].flatten(), indexes.flatten())
    found = torch.full((len(persons),), torch.nan, dtype=torch.float64)
    found[asked.cpu()] = metric.compute().double().cpu()
    return found


def of_sklearn(scores: Tensor, classes: Tensor) -> Tensor:
    """AP of each person, one by one; NaN for a person without positives."""
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
    return {"full": row, "beside": compare(*((31, 499) if quick else COMPARISON), device, 2 if quick else ROUNDS)}


if __name__ == "__main__":
    common.main(measure)
