"""The sources of the book: each turns what lies in the user's data folder, or a seed, into a ClipSet.

Most are *made* on first use and kept in the store under a key of everything that decided them. The official files and
a user's own features are *imported* by a command, once, under a name (see ``imported``). Later both are only opened.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from filelock import FileLock

from famf_lib.data import chimera, imfdb, imported, iqiyi, synthetic
from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Protocol
from famf_lib.support.errors import Refusal
from famf_lib.support.files import store


class DatasetAbsent(Refusal, LookupError):
    """The dataset is not here; the message says how to get it."""


class DatasetUnknown(Refusal, ValueError):
    """There is no dataset of that name."""


@dataclass(frozen=True)
class Dataset:
    """A source: ``key(profile)`` names everything that decides its ClipSet, and ``make(profile)`` gives it.

    ``absence()`` is None where the dataset can be had, otherwise one sentence that says what is missing and how to
    get it. ``protocol`` is the split that the book reports (see ``splits``), ``modalities`` the clip-level ones.
    ``make`` is None for what was imported: it is there already.
    """

    name: str
    title: str
    protocol: Protocol = "given"
    modalities: tuple[str, ...] = ()
    absence: Callable[[], str | None] = lambda: None
    key: Callable[[str], str] = lambda profile: ""
    make: Callable[[str], ClipSet] | None = None


DATASETS = {
    "synthetic": Dataset(
        "synthetic",
        "synthetic persons",
        modalities=synthetic.MODALITIES,
        key=synthetic.key,
        make=synthetic.make,
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
"""Those that are made."""


def names() -> list[str]:
    """All that can be asked for: what is made, iQIYI-VID whether it was imported or not, and what was imported."""
    return list(dict.fromkeys([*DATASETS, iqiyi.NAME, *imported.names()]))


def get(name: str) -> Dataset:
    """The dataset of that name.

    Raises:
        DatasetUnknown: no such dataset.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name in imported.names():
        clipset = imported.open(name)
        title = clipset.info.get("title", f"{name}, imported")
        protocol, modalities = imported.protocol(clipset), tuple(clipset.modalities)
        key = hashlib.sha256(f"{clipset.fingerprint}{clipset.checksums}".encode()).hexdigest()[:16]
        return Dataset(name, title, protocol, modalities, key=lambda profile: key)
    if name == iqiyi.NAME:
        return Dataset(name, iqiyi.TITLE, "given", iqiyi.MODALITIES, iqiyi.absence)
    raise DatasetUnknown(f"dataset: {name!r} is not known, expected one of {', '.join(names())}")


def load(name: str, profile: str = "standard") -> ClipSet:
    """The ClipSet of a dataset: imported, or made on first use and opened from the store afterwards.

    Raises:
        DatasetAbsent: the dataset is not here.
    """
    dataset = get(name)
    if reason := dataset.absence():
        raise DatasetAbsent(reason)
    if dataset.make is None:
        return imported.open(name)
    folder = store() / "clipsets" / f"{name}-{dataset.key(profile)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two processes that ask at once make it once
        if not folder.is_dir():
            dataset.make(profile).save(folder)
    return ClipSet.open(folder)
