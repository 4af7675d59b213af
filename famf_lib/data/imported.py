"""What a user imported: ClipSets that lie in the store under a name of their own, made once by ``famf data import``."""

import re
from functools import lru_cache
from pathlib import Path

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Protocol
from famf_lib.support.files import store


class ImportedError(ValueError):
    """A name that cannot be one."""


def place(name: str) -> Path:
    """The folder of an import of that name, whether it is there or not.

    Raises:
        ImportedError: the name would not do for a folder, a page of the book and a command alike.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise ImportedError(f"name: {name!r} found, expected small letters, digits and hyphens, 40 at most")
    return store() / "imported" / name


def names() -> list[str]:
    """Every import that is here."""
    return sorted(path.parent.name for path in (store() / "imported").glob("[a-z]*/arrays.safetensors"))


def free(name: str, replacing: bool = False) -> Path:
    """The folder for a new import of that name.

    Raises:
        ImportedError: a dataset of the book has the name, or another import that is not to give way.
    """
    from famf_lib.data import datasets  # it imports the modules of this package

    folder = place(name)
    if name in (*datasets.DATASETS, datasets.iqiyi.NAME):
        raise ImportedError(f"name: {name!r} is a dataset of the book, expected another name")
    if name in names() and not replacing:
        raise ImportedError(f"name: there is an import {name!r} already, expected another name, or --replace")
    return folder


def open(name: str) -> ClipSet:
    """The ClipSet of an import; asked for again it is the same object, unless the import was made again.

    Raises:
        ClipSetError: there is none of that name, or it is damaged.
    """
    folder = place(name)
    arrays = folder / "arrays.safetensors"
    return _opened(folder, arrays.stat().st_mtime_ns if arrays.exists() else 0)


@lru_cache(maxsize=4)
def _opened(folder: Path, changed: int) -> ClipSet:
    return ClipSet.open(folder)


def protocol(clipset: ClipSet) -> Protocol:
    """How results on it are reported: by its own split if it has one, else by its groups, else by drawing clips."""
    clips = clipset.clips
    if {"train", "val"} <= set(clips["split"].dropna().unique()):
        return "given"
    grouped = clips[clips["person"].notna() & clips["group"].notna()]
    return "groups" if (grouped.groupby("person")["group"].nunique() >= 2).any() else "random"
