"""Ranked lists of clips: makes those of a trained model, and scores any as the official evaluation does.

The evaluation (iQIYI-VID-2019): the first 100 different clips of each id's list count. AP is the sum of the precision
at each hit, divided by the number of *all* positives of the id. mAP is the mean over all ids of the ground truth; an id
without a list has AP 0. Clips that the ground truth does not name are noise: they may be listed but are never hits.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from famf_lib.data import datasets, iqiyi_text
from famf_lib.data.clipset import ClipSet, ClipSetError
from famf_lib.data.opening import opened
from famf_lib.data.splits import Split
from famf_lib.experiments.run_store import threads
from famf_lib.metrics import Scores, score_lists
from famf_lib.support.files import store
from famf_lib.support.progress import progress
from famf_lib.training import evaluation
from famf_lib.training.checkpoint import Card, SavedModel

CUT = 100  # clips per person, Sec. 4.2


@dataclass(frozen=True, eq=False)
class Ranked:
    """The ranked clips of each person of a model, best first, and their scores.

    ``scores`` are those that a run records: they leave out persons without a training clip (whose clips count as
    noise) and persons without a clip in the gallery. ``truth`` holds the clips of every person in the gallery: scored
    against it, a person without a training clip has AP 0, as in the official evaluation. In iQIYI-VID every id has
    clips of both kinds, so the two scores are equal.
    """

    lists: dict[str, list[str]]
    scores: Scores
    truth: dict[str, list[str]]
    clips: int


def rank(opened: SavedModel, clipset: ClipSet, split: Split) -> Ranked:
    """Ranks the split's gallery, noise included, for every person of the model, on the device of ``clipset``."""
    device, card = clipset.faces.device, opened.card
    settings = card.evaluation.model_copy(update={"k": CUT})
    # One thread on a CPU, as in training, so that the numbers do not depend on the number of cores.
    with threads(1 if device.type == "cpu" else None), progress("ranking", len(split.gallery)) as bar:
        ranking = evaluation.rank(opened.model.to(device), settings, clipset, split, card.seed, bar.to)
    gallery = clipset.clips.iloc[split.gallery.numpy()]
    names = gallery["name"].to_numpy()[ranking.clips().cpu().numpy()]
    lists = {person: row.tolist() for person, row in zip(split.persons, names, strict=True)}
    truth = {person: own.tolist() for person, own in gallery.groupby("person")["name"]}  # noise has no person
    return Ranked(lists, ranking.compute(), truth, len(gallery))


@dataclass(frozen=True, eq=False)
class Report:
    """The evaluation of ranked lists.

    Args:
        persons: one row per id of the ground truth, in its order: person, positives, listed (number of different clips
            that count), hits, ap.
        strangers: number of listed ids that are not in the ground truth and so are not scored.
        clips: number of different clips in the scored lists; ``noise`` of them are not in the ground truth.
        repeated: number of lists that name a clip more than once; its first place counts.
        cut: number of lists with more than 100 different clips; only the first 100 count.
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
        """The number of ids in the ground truth that have a list with at least one clip."""
        return int((self.persons["listed"] > 0).sum())


def score(ranked: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]]) -> Report:
    """Scores ranked lists as the official evaluation does. ``truth`` has at least one clip for each id."""
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
    """Scores a submission file against a ground truth file (see ``score_against``)."""
    return score_against(iqiyi_text.read_submission(submitted), str(submitted), ground_truth)


def score_against(ranked: Mapping[str, Sequence[str]], submitted: str, ground_truth: Path) -> Report:
    """Scores ranked lists, called ``submitted`` in error messages, against a ground truth file.

    Raises:
        OfficialFileError: the file cannot be read.
        ValueError: they have no id or no clip in common, so names are spelt differently or the data are others.
    """
    truth = iqiyi_text.read_val(ground_truth)
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


def data_of(card: Card, dataset: str = "", say: Callable[[str], None] = warnings.warn) -> ClipSet:
    """The ClipSet that a model was trained on, found in a dataset, in a folder, or by default in the whole store.

    ``say`` gets a sentence for each damaged ClipSet, which is left out.

    Raises:
        ValueError: it was not found, or what was named holds other data.
        DatasetAbsent: the dataset is not available.
    """
    if dataset and dataset not in datasets.names() and Path(dataset).is_dir():
        where, candidates = Path(dataset), [opened(Path(dataset))]
    else:
        if dataset and (absence := datasets.get(dataset).absence()):
            raise datasets.DatasetAbsent(absence)
        where, candidates = dataset or store(), _in_store(dataset, say)
    seen = []
    for clipset in candidates:
        if clipset.fingerprint == card.data:
            return clipset
        seen.append(clipset.fingerprint)
    found = f"the fingerprint {', '.join(seen)}" if seen else "no data"
    raise ValueError(f"{where}: {found} found, expected {card.data}, the data of run {card.run}")


def _in_store(dataset: str, say: Callable[[str], None]) -> Iterator[ClipSet]:
    """The ClipSets of a dataset in any profile, or of all datasets."""
    made = f"{dataset}-*" if dataset else "*"
    for pattern in (f"imported/{dataset or '*'}", f"clipsets/{made}"):
        for arrays in sorted(store().glob(f"{pattern}/arrays.safetensors")):
            try:
                yield opened(arrays.parent)
            except ClipSetError as error:
                say(f"{error}; left out")
