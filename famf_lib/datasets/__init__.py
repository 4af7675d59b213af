"""The sources of the book: each turns what lies in the user's data folder, or a seed, into a ClipSet.

A dataset is made once and kept in the store under a key of everything that decided it; later it is only opened.
"""

from collections.abc import Callable
from dataclasses import dataclass

from filelock import FileLock

from famf_lib.datasets import chimera, imfdb, synthetic
from famf_lib.features import ClipSet
from famf_lib.files import store
from famf_lib.splits import Protocol


class DatasetAbsent(LookupError):
    """The dataset is not here; the message says how to get it."""


@dataclass(frozen=True)
class Dataset:
    """A source: ``make(profile)`` gives its ClipSet, ``key(profile)`` names everything that decides it.

    ``absence()`` is None where the dataset can be made, otherwise one sentence that says what is missing and how to
    get it. ``protocol`` is the split that the book reports (see ``splits``), ``modalities`` the clip-level ones.
    """

    name: str
    title: str
    protocol: Protocol
    modalities: tuple[str, ...]
    absence: Callable[[], str | None]
    key: Callable[[str], str]
    make: Callable[[str], ClipSet]


DATASETS = {
    "synthetic": Dataset(
        "synthetic", "synthetic persons", "given", synthetic.MODALITIES, lambda: None, synthetic.key, synthetic.make
    ),
    "imfdb": Dataset("imfdb", "IMFDB, real faces from films", "groups", (), imfdb.absence, imfdb.key, imfdb.make),
    "chimera": Dataset(
        "chimera",
        "chimeric persons, faces of IMFDB with voices of MOSI",
        "groups",
        tuple(chimera.SOURCES),
        chimera.absence,
        chimera.key,
        chimera.make,
    ),
}


def get(name: str) -> Dataset:
    """The dataset of that name.

    Raises:
        ValueError: no such dataset.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset: {name!r} is not known, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def load(name: str, profile: str = "standard") -> ClipSet:
    """The ClipSet of a dataset, made on first use and opened from the store afterwards.

    Raises:
        DatasetAbsent: the dataset is not here.
    """
    dataset = get(name)
    if reason := dataset.absence():
        raise DatasetAbsent(reason)
    folder = store() / "clipsets" / f"{name}-{dataset.key(profile)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two processes that ask at once make it once
        if not folder.is_dir():
            dataset.make(profile).save(folder)
    return ClipSet.open(folder)
