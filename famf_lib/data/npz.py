"""A user's ``.npz`` file read with care: what is wrong with it is one sentence, and reading it runs no code."""

import zipfile
import zlib
from pathlib import Path

import numpy as np


def arrays(path: Path, names: tuple[str, ...], error: type[ValueError]) -> list[np.ndarray]:
    """The arrays of those names.

    Raises:
        error: the file cannot be read, holds objects, or has one of the names not once.
    """
    try:
        # Object arrays would run code when read: numpy refuses them.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise error(f"{path}: it holds a single array, expected an .npz file with {', '.join(names)}")
        with loaded as file:
            if missing := [name for name in names if name not in file.files]:
                found = ", ".join(file.files) or "nothing"
                raise error(f"{path}: {missing[0]} is missing, found {found}, expected {', '.join(names)}")
            if twice := [name for name in names if file.files.count(name) > 1]:
                raise error(f"{path}: {twice[0]} stands twice, expected once")
            return [file[name] for name in names]
    except error:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as why:
        raise error(f"{path}: it cannot be read as an .npz file ({why}), expected plain arrays in it") from why
