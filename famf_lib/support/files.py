"""Where files are kept, and how a file or folder is written completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout, with ``book/``, ``results/`` and ``data/``."""


def sources() -> Path:
    """The folder with the user's own copies of external data: ``$FAMF_DATA``, or ``data/`` of the checkout."""
    return Path(os.environ.get("FAMF_DATA") or ROOT / "data").expanduser().resolve()


def store() -> Path:
    """The folder for imported and generated data and trained models: ``$FAMF_STORE``, or ``data/`` of the checkout."""
    return Path(os.environ.get("FAMF_STORE") or ROOT / "data").expanduser().resolve()


def models() -> Path:
    """The folder with the weights of pre-trained models: ``$FAMF_MODELS``, or ``data/models/`` of the checkout."""
    return Path(os.environ.get("FAMF_MODELS") or ROOT / "data" / "models").expanduser().resolve()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yields a temporary path next to ``target``; a clean exit renames it to ``target``, an error removes it.

    The caller creates a file or folder at the temporary path. What was at ``target`` stays until the rename.
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
        if isinstance(error, OSError) and error.errno and _without_user_path(error, workplace):
            error.filename = str(target)
        raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _without_user_path(error: OSError, workplace: Path) -> bool:
    """Whether an error names no file, as for a full disk, or only the temporary one."""
    return error.filename is None or str(error.filename).startswith(str(workplace))


def clear_unfinished(target: Path) -> None:
    """Removes what killed processes left behind in ``written_whole(target)``; no other process may be writing it."""
    for left in target.parent.glob(f".{target.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
