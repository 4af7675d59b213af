"""Imports: ClipSets that a user brought into the store under a name of their own, with ``famf data import``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.data.splits import Protocol
from famf_lib.support.files import clear_unfinished, store


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


@contextmanager
def importing(name: str, wait: bool = False) -> Iterator[Path]:
    """The folder for an import of that name, which no other process imports meanwhile.

    Args:
        wait: for another process that is importing it, instead of an error.

    Raises:
        ImportedError: the name is none, or another process is importing it.
    """
    folder = place(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        found = f"another process is importing {name!r} now"
        raise ImportedError(f"name: {found}, expected it to have ended, or another name") from None
    try:
        clear_unfinished(folder)
        yield folder
    finally:
        lock.release()


def names() -> list[str]:
    """The names of all imports."""
    return sorted(path.parent.name for path in (store() / "imported").glob("[a-z]*/arrays.safetensors"))


def open(name: str) -> ClipSet:
    """Opens an import.

    Raises:
        ClipSetError: there is no import of that name, or it is damaged.
    """
    return opened(place(name))


def protocol(clipset: ClipSet) -> Protocol:
    """The protocol that results are reported under: the ClipSet's own split, else by groups, else random clips."""
    clips = clipset.clips
    if {"train", "val"} <= set(clips["split"].dropna().unique()):
        return "given"
    grouped = clips[clips["person"].notna() & clips["group"].notna()]
    return "groups" if (grouped.groupby("person")["group"].nunique() >= 2).any() else "random"
