"""Where files are kept, and how a file or folder is written completely or not at all."""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WORKPLACE = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.famf", re.DOTALL)
"""The name of the folder in which a file or folder of that name is written; the file ``lock`` in it tells whose."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

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
    """Yields a temporary path next to ``target``; a clean exit moves it to ``target``, an error removes it.

    The caller creates a file or folder at the temporary path. A reader, a kill or a power cut meets the old one or the
    new one, whole: an exit syncs the new one and then exchanges the two in one step (see ``_place``). What killed
    processes left behind of the same target is removed first.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_unfinished(target)
    try:
        with _workplace(target) as workplace:
            try:
                yield workplace / "new"
                _sync(workplace / "new")
                _place(workplace / "new", target, workplace / "old")
            except RuntimeError as error:  # of PyTorch, which does not pass on the system's reason
                _write_again(workplace, error)
                raise
            with suppress(OSError):  # some network file systems cannot sync a folder
                _fsync(target.parent)
    except OSError as error:
        named = str(error.filename)
        if error.errno and (error.filename is None or named.startswith(str(target.parent / f".{target.name}."))):
            error.filename = str(target)  # a full disk names no file, or the temporary one
        raise


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A new folder next to ``target`` that is locked as long as this process needs it, and removed afterwards."""
    while True:
        place, lock = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".famf", dir=target.parent)), None
        try:
            lock = _lock(place)
        except (BlockingIOError, FileNotFoundError):  # another process was just clearing up, and took it away
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                shutil.rmtree(place, ignore_errors=True)
                raise
        break
    try:
        yield place
    except BaseException:
        _restore(place, target)
        raise
    finally:
        _remove(place)
        if lock is not None:
            os.close(lock)


def _lock(workplace: Path) -> int:
    """Locks a workplace until the descriptor is closed, which the system does for a killed process.

    Raises:
        BlockingIOError: its owner lives. FileNotFoundError: it is gone. OSError: it cannot be locked.
    """
    lock = os.open(workplace / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(workplace / "lock")
    except OSError:
        os.close(lock)
        raise
    return lock


def _place(new: Path, target: Path, old: Path) -> None:
    """Puts ``new`` in the place of ``target``: a file by a rename, a folder by an exchange.

    Where the system has no exchange, the old folder is moved to ``old`` first, and ``clear_unfinished`` brings it back
    after a kill between the two renames.
    """
    if target.is_dir():
        if exchange(new, target):
            return
        os.rename(target, old)
    try:
        os.replace(new, target)
    except OSError:  # another process has put a folder there since
        if not (target.is_dir() and exchange(new, target)):
            raise


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; False where the system cannot (Linux can, on most file systems)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)  # as Python's own renames announce themselves
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call(here, os.fsencode(one), here, os.fsencode(other), exchanging) == 0


def _restore(workplace: Path, target: Path) -> None:
    if (workplace / "old").exists() and not target.exists():
        os.rename(workplace / "old", target)


def _sync(path: Path) -> None:
    """Writes a file, or a folder and all in it, from the system's memory to the disk."""
    for folder, _, names in os.walk(path):
        for file in (Path(folder, name) for name in names):
            if not file.is_symlink():
                _fsync(file)
        with suppress(OSError):
            _fsync(Path(folder))
    if path.is_file():
        _fsync(path)


def _fsync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _write_again(workplace: Path, error: RuntimeError) -> None:
    """Raises the system's error if nothing more can be written."""
    try:
        (workplace / "attempt").write_bytes(bytes(1 << 20))
    except OSError as reason:
        raise OSError(reason.errno, reason.strerror) from error


def clear_unfinished(target: Path) -> int:
    """Removes what killed processes left behind in ``written_whole(target)``; returns the number of bytes.

    A process that still writes there keeps its own. The old folder is put back if it was all that was left.
    """
    target = Path(target)
    return sum(_clear(left, target) for left, of in _unfinished(target.parent) if of == target.name)


def clear_all(folder: Path) -> int:
    """``clear_unfinished`` for everything in a folder."""
    return sum(_clear(left, Path(folder, of)) for left, of in _unfinished(Path(folder)))


def _unfinished(folder: Path) -> list[tuple[Path, str]]:
    """The workplaces in a folder, each with the name of its target."""
    names = os.listdir(folder) if folder.is_dir() else ()
    return [(folder / name, match[1]) for name in names if (match := WORKPLACE.fullmatch(name))]


def _clear(left: Path, target: Path) -> int:
    try:
        lock = _lock(left)
    except OSError:  # its owner lives, or the folder is read-only
        return 0
    try:
        _restore(left, target)
        size = size_of(left)
        _remove(left)
    finally:
        os.close(lock)
    return size


def _remove(workplace: Path) -> None:
    """Removes a workplace, its lock last: without it another process would take the rest for a leftover."""
    for name in os.listdir(workplace) if workplace.is_dir() else ():
        if name != "lock":
            shutil.rmtree(workplace / name, ignore_errors=True)
            with suppress(OSError):  # a file
                os.unlink(workplace / name)
    shutil.rmtree(workplace, ignore_errors=True)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; another process may be removing some."""
    files = [path] if path.is_file() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    size = 0
    for file in files:
        with suppress(FileNotFoundError):
            size += file.lstat().st_size
    return size
