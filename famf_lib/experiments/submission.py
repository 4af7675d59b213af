"""Ranked lists of clips: those of a trained model, as the official evaluation wants them, and the score of any such.

The evaluation (iQIYI-VID-2019): for every id of the ground truth the first 100 different clips of its list count; AP is
the precision at each hit, summed, over *all* positives of the id; mAP is the mean over all ids of the ground truth, and
an id without a list has 0. Clips that the ground truth does not name are noise: they may be listed, and hit nobody.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from famf_lib.data import datasets, iqiyi_text
from famf_lib.data.clipset import ClipSet, ClipSetError
from famf_lib.data.splits import Split
from famf_lib.experiments.run_store import threads
from famf_lib.metrics import Scores, score_lists
from famf_lib.support.files import store
from famf_lib.support.progress import progress
from famf_lib.training import evaluation
from famf_lib.training.checkpoint import Card, SavedModel

CUT = 100  # clips a person, Sec. 4.2


@dataclass(frozen=True, eq=False)
class Ranked:
    """The ranked clips of each person of a model, best first, and their scores.

    ``scores`` are those that a run records. They leave out persons whom no training clip shows (their clips count as
    noise) and persons without a clip in the gallery. ``truth`` holds the clips of every person of the gallery: scored
    against it, the former count 0, as in the official evaluation. In iQIYI-VID every id has clips of both kinds, and
    the two are equal.
    """

    lists: dict[str, list[str]]
    scores: Scores
    truth: dict[str, list[str]]
    clips: int


def rank(opened: SavedModel, clipset: ClipSet, split: Split) -> Ranked:
    """Ranks the gallery of the split, noise included, for every person of the model; on the device of the clips."""
    device, card = clipset.faces.device, opened.card
    settings = card.evaluation.model_copy(update={"k": CUT})
    # One thread on a CPU, as in the training of a run: its numbers do not depend on how many cores there are.
    with threads(1 if device.type == "cpu" else None), progress("ranking", len(split.gallery)) as bar:
        ranking = evaluation.rank(opened.model.to(device), settings, clipset, split, card.seed, bar.to)
    gallery = clipset.clips.iloc[split.gallery.numpy()]
    names = gallery["name"].to_numpy()[ranking.clips().cpu().numpy()]
    lists = {person: row.tolist() for person, row in zip(split.persons, names, strict=True)}
    truth = {person: own.tolist() for person, own in gallery.groupby("person")["name"]}  # noise has no person
    return Ranked(lists, ranking.compute(), truth, len(gallery))


@dataclass(frozen=True, eq=False)
class Report:
    """What the evaluation says of ranked lists.

    Args:
        persons: a row an id of the ground truth, in its order: person, positives, listed (different clips that count),
            hits, ap.
        strangers: ids with a list that the ground truth does not hold; they are not scored.
        clips: different clips that the lists of the ground truth's ids name; ``noise`` of them it does not name.
        repeated: lists in which a clip stands again; it counts at its first place.
        cut: lists of more than 100 different clips; the others do not count.
    """

    persons: pd.DataFrame
    strangers: int
    clips: int
    noise: int
    repeated: int
    cut: int

    @property
    def mean_ap(self) -> float:
        """mAP at 100, 0..1."""
        return float(self.persons["ap"].mean())

    @property
    def answered(self) -> int:
        """Ids of the ground truth that have a list of one clip or more."""
        return int((self.persons["listed"] > 0).sum())


def score(ranked: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]]) -> Report:
    """Scores ranked lists as the official evaluation does. The truth has a clip or more for each of its ids."""
    ap = score_lists(ranked, truth, CUT)
    different = {person: list(dict.fromkeys(ranked.get(person, ()))) for person in truth}
    rows = []
    for person, positives in truth.items():
        listed, positives = different[person][:CUT], set(positives)
        hits = len(positives.intersection(listed))
        rows.append((person, len(positives), len(listed), hits, ap[person]))
    named = set().union(*different.values())
    return Report(
        pd.DataFrame(rows, columns=["person", "positives", "listed", "hits", "ap"]),
        strangers=len(ranked.keys() - truth.keys()),
        clips=len(named),
        noise=len(named.difference(*truth.values())),
        repeated=sum(len(different[person]) < len(ranked.get(person, ())) for person in truth),
        cut=sum(len(own) > CUT for own in different.values()),
    )


def score_files(submitted: Path, ground_truth: Path) -> Report:
    """Scores a file of ranked lists by a file of the ground truth, if they have anything to do with each other.

    Raises:
        OfficialFileError: one of them cannot be read.
        ValueError: the submission names no id, or no clip, of the ground truth: another spelling, or other data.
    """
    ranked, truth = iqiyi_text.read_submission(submitted), iqiyi_text.read_val(ground_truth)
    report = score(ranked, truth)
    if report.strangers == len(ranked):
        found = f"ids such as {min(ranked)!r} found, none of {len(ranked):,} in {ground_truth}"
        raise ValueError(f"{submitted}: {found}, expected ids such as {min(truth)!r}")
    if not report.answered:
        raise ValueError(f"{submitted}: no clip for any id of {ground_truth} found, expected {iqiyi_text.VAL_LINE}")
    if report.noise == report.clips:
        listed = min(name for person in truth for name in ranked.get(person, ()))
        found = f"clips such as {listed!r} found, none of {report.clips:,} in {ground_truth}"
        raise ValueError(f"{submitted}: {found}, expected clips such as {min(min(truth.values()))!r}")
    return report


def data_of(card: Card, dataset: str = "") -> ClipSet:
    """The ClipSet that a model was trained on: that of a dataset or a folder, or else whichever of the store it is.

    Raises:
        ValueError: it is not there, or the one that was named holds other data.
        DatasetAbsent: the dataset is not here.
    """
    if dataset and dataset not in datasets.names() and Path(dataset).is_dir():
        where, there = Path(dataset), [ClipSet.open(Path(dataset))]
    else:
        if dataset and (absence := datasets.get(dataset).absence()):
            raise datasets.DatasetAbsent(absence)
        where, there = dataset or store(), _in_store(dataset)
    seen = []
    for clipset in there:
        if clipset.fingerprint == card.data:
            return clipset
        seen.append(clipset.fingerprint)
    found = f"the fingerprint {', '.join(seen)}" if seen else "no data"
    raise ValueError(f"{where}: {found} found, expected {card.data}, the data of run {card.run}")


def _in_store(dataset: str) -> Iterator[ClipSet]:
    """Those of a dataset, in whatever profile, or all."""
    made = f"{dataset}-*" if dataset else "*"
    for pattern in (f"imported/{dataset or '*'}", f"clipsets/{made}"):
        for arrays in sorted(store().glob(f"{pattern}/arrays.safetensors")):
            try:
                yield ClipSet.open(arrays.parent)
            except ClipSetError:  # a damaged one is not what is looked for
                continue
