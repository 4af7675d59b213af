"""The datasets of the book: each makes a ClipSet from a seed or from files in the user's data folder.

Most are *made* on first use and kept in the store under a key of everything that decides them. The official files and a
user's own features are *imported* once by a command, under a name (see ``imported``). Afterwards both are only opened.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from famf_lib.data import chimera, imfdb, imported, iqiyi, synthetic
from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.data.splits import Protocol
from famf_lib.support.errors import Refusal
from famf_lib.support.files import store


class DatasetAbsent(Refusal, LookupError):
    """The dataset is not here; the message says how to get it."""


class DatasetUnknown(Refusal, ValueError):
    """There is no dataset of that name."""


@dataclass(frozen=True)
class Dataset:
    """A dataset, whether it is here or not.

    ``protocol`` is the split that the book reports (see ``splits``), ``modalities`` the clip-level ones. ``absence()``
    is None if the dataset can be loaded, otherwise one sentence that says what is missing and how to get it.
    ``key(profile)`` identifies everything that decides the ClipSet, and ``make(profile)`` makes it; ``make`` is None
    for imports, which are only opened.
    """

    name: str
    title: str
    protocol: Protocol = "given"
    modalities: tuple[str, ...] = ()
    absence: Callable[[], str | None] = lambda: None
    key: Callable[[str], str] = lambda profile: ""
    make: Callable[[str], ClipSet] | None = None

    def folder(self, profile: str) -> Path:
        """Where the ClipSet lies once it was made."""
        return store() / "clipsets" / f"{self.name}-{self.key(profile)}"

    def load(self, profile: str = "standard") -> ClipSet:
        """Opens the ClipSet, after making it on first use.

        Raises:
            DatasetAbsent: the dataset is not here.
        """
        if reason := self.absence():
            raise DatasetAbsent(reason)
        if self.make is None:
            return imported.open(self.name)
        folder = self.folder(profile)
        if not folder.is_dir():  # a complete store can be read-only
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # if two processes ask at once, one of them makes it
                if not folder.is_dir():
                    self.make(profile).save(folder)
        return opened(folder)


_MADE = (
    Dataset("synthetic", "synthetic persons", "given", synthetic.MODALITIES, key=synthetic.key, make=synthetic.make),
    Dataset("imfdb", "IMFDB, real faces from films", "groups", (), imfdb.absence, imfdb.key, imfdb.make),
    Dataset("chimera", chimera.TITLE, "groups", tuple(chimera.SOURCES), chimera.absence, chimera.key, chimera.make),
)
DATASETS = {dataset.name: dataset for dataset in _MADE}
"""The datasets that are made on first use."""


def names() -> list[str]:
    """All known names: the datasets that are made, iQIYI-VID (imported or not) and the other imports."""
    return list(dict.fromkeys([*DATASETS, iqiyi.NAME, *imported.names()]))


def get(name: str) -> Dataset:
    """Looks up a dataset by name.

    Raises:
        DatasetUnknown: there is no such dataset.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name in imported.names():
        clipset = imported.open(name)
        title = clipset.info.get("title", f"{name}, imported")
        key = hashlib.sha256(f"{clipset.fingerprint}{clipset.checksums}".encode()).hexdigest()[:16]
        protocol, modalities = imported.protocol(clipset), tuple(clipset.modalities)
        return Dataset(name, title, protocol, modalities, key=lambda profile: key)
    if name == iqiyi.NAME:
        return Dataset(name, iqiyi.TITLE, "given", iqiyi.MODALITIES, iqiyi.absence)
    raise DatasetUnknown(f"dataset: {name!r} is not known, expected one of {', '.join(names())}")


def load(name: str, profile: str = "standard") -> ClipSet:
    """Loads a dataset by name: ``get(name).load(profile)``."""
    return get(name).load(profile)


def check_free(name: str, replacing: bool = False) -> None:
    """Refuses a name that a new import cannot have.

    Raises:
        ImportedError: a dataset of the book has the name, or another import has it and is not to be replaced.
    """
    if name in (*DATASETS, iqiyi.NAME):
        raise imported.ImportedError(f"name: {name!r} is a dataset of the book, expected another name")
    if name in imported.names() and not replacing:
        expected = "expected another name, or --replace"
        raise imported.ImportedError(f"name: there is an import {name!r} already, {expected}")


@contextmanager
def importing(name: str, replacing: bool = False) -> Iterator[Path]:
    """The folder for a new import of that name, which no other process imports meanwhile.

    Raises:
        ImportedError: as ``check_free``, or another process is importing it.
    """
    check_free(name, replacing)
    with imported.importing(name) as folder:
        check_free(name, replacing)  # another process may have made it
        yield folder
