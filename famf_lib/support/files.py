"""Where things lie, and how a file or a folder comes into being: whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: ``book/``, ``results/`` and ``data/`` lie in it."""


def sources() -> Path:
    """The folder in which the user keeps data that are not ours: ``$FAMF_DATA``, or ``data/`` of the checkout."""
    return Path(os.environ.get("FAMF_DATA") or ROOT / "data").expanduser().resolve()


def store() -> Path:
    """The folder for what is imported, generated and trained: ``$FAMF_STORE``, or ``data/`` of the checkout."""
    return Path(os.environ.get("FAMF_STORE") or ROOT / "data").expanduser().resolve()


def models() -> Path:
    """The folder with the weights of pre-trained models: ``$FAMF_MODELS``, or ``data/models/`` of the checkout."""
    return Path(os.environ.get("FAMF_MODELS") or ROOT / "data" / "models").expanduser().resolve()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``target``; a clean exit renames it to ``target``, an error removes it.

    The caller creates a file or a folder at the path given. What stood at ``target`` stays until the rename.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = workplace / "new", workplace / "old"
    try:
        yield new
        if target.is_dir():
            target.rename(old)  # a folder cannot be replaced by a rename while it holds files
        os.replace(new, target)
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, OSError) and error.errno and _names_nothing_of_the_user(error, workplace):
            error.filename = str(target)
        raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _names_nothing_of_the_user(error: OSError, workplace: Path) -> bool:
    """Of a full disk the system names no file, and of other troubles perhaps the temporary one."""
    return error.filename is None or str(error.filename).startswith(str(workplace))


def clear_unfinished(target: Path) -> None:
    """Removes what killed processes left of ``written_whole(target)``. The caller knows that none is under way."""
    for left in target.parent.glob(f".{target.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
