"""Imports: ClipSets that a user brought into the store under a name of their own, with ``famf data import``."""

import re
from functools import lru_cache
from pathlib import Path

from famf_lib.data.clipset import ClipSet, ClipSetError
from famf_lib.data.splits import Protocol
from famf_lib.support.files import store


class ImportedError(ValueError):
    """A name that an import cannot have."""


def place(name: str) -> Path:
    """The folder of the import of that name, whether it exists or not.

    Raises:
        ImportedError: the name cannot serve as a folder, a page of the book and an argument of commands.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise ImportedError(f"name: {name!r} found, expected small letters, digits and hyphens, 40 at most")
    return store() / "imported" / name


def names() -> list[str]:
    """The names of all imports."""
    return sorted(path.parent.name for path in (store() / "imported").glob("[a-z]*/arrays.safetensors"))


def open(name: str) -> ClipSet:
    """Opens an import; the same object is returned again unless the import has changed.

    Raises:
        ClipSetError: there is no import of that name, or it is damaged.
    """
    folder = place(name)
    arrays = folder / "arrays.safetensors"
    return _opened(folder, arrays.stat().st_mtime_ns if arrays.exists() else 0)


@lru_cache(maxsize=4)
def _opened(folder: Path, changed: int) -> ClipSet:
    return open_folder(folder)


def open_folder(folder: Path) -> ClipSet:
    """Opens a ClipSet in the store.

    Raises:
        ClipSetError: one sentence that names the folder, whatever is damaged.
    """
    try:
        return ClipSet.open(folder)
    except ClipSetError as error:
        raise ClipSetError(f"{error}; famf data verify tells what is damaged") from error
    except Exception as error:  # such as JSON of its header that was cut off
        found = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClipSetError(f"{folder}: damaged ({found}); famf data verify tells more") from error


def protocol(clipset: ClipSet) -> Protocol:
    """The protocol that results are reported under: the ClipSet's own split, else by groups, else random clips."""
    clips = clipset.clips
    if {"train", "val"} <= set(clips["split"].dropna().unique()):
        return "given"
    grouped = clips[clips["person"].notna() & clips["group"].notna()]
    return "groups" if (grouped.groupby("person")["group"].nunique() >= 2).any() else "random"
