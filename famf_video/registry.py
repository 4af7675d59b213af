"""Pre-trained models by name: which are known, where their files are, and whether each has the right checksum.

``data/models.yml`` describes them; their files are in the folder ``files.models()``. Only ``fetch`` downloads.
"""

import hashlib
import shutil
import urllib.request
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from famf_lib.support.files import ROOT, models, written_whole
from famf_lib.support.progress import progress

REGISTRY = ROOT / "data" / "models.yml"
PIECE = 1 << 20
TIMEOUT = 30  # seconds without a byte


class RegistryError(LookupError):
    """A model is unknown, missing or a different file; the message says how to get it."""


class Entry(BaseModel):
    """A model of the registry. ``file`` is its name in the folder of models, ``url`` the address to fetch it from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    file: str = Field(pattern=r"^\w[\w.-]*$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    origin: str
    terms: str
    url: str | None

    @property
    def path(self) -> Path:
        """Where the file is, or belongs."""
        return models() / self.file


def entries() -> dict[str, Entry]:
    """Reads the registry: every known model by its name.

    Raises:
        RegistryError: the registry cannot be read.
    """
    try:
        return TypeAdapter(dict[str, Entry]).validate_python(yaml.safe_load(REGISTRY.read_text()) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where, said = ".".join(map(str, first["loc"])), first["msg"]
        raise RegistryError(f"{REGISTRY}: {where}: {first['input']!r} found; {said[0].lower()}{said[1:]}") from None
    except (OSError, yaml.YAMLError) as error:
        raise RegistryError(f"{REGISTRY}: cannot be read as a registry of models ({error})") from error


def find(name: str | Path) -> Path:
    """Returns the file of a model, given the name of an entry or a path.

    Raises:
        RegistryError: there is no such file, or it is not the one that the registry describes.
    """
    entry = entries().get(str(name))
    if entry is None:
        if Path(name).is_file():
            return Path(name)
        raise RegistryError(f"model: {str(name)!r} is unknown, expected a file or one of {', '.join(entries())}")
    if reason := absence(str(name)):
        raise RegistryError(reason)
    return entry.path


def absence(name: str) -> str | None:
    """Returns None if a model is here and has the right checksum, otherwise one sentence that says what to do."""
    entry = _known(name)
    if not entry.path.is_file():
        fetch = f", or famf models fetch {name}" if entry.url else ""
        return (
            f"model {name}: {entry.file} is not in {models()}; if you have it, famf models add FILE copies it there"
            f"{fetch} ({REGISTRY.relative_to(ROOT)} says where it comes from)"
        )
    if (found := checksum(entry.path)) != entry.sha256:
        return f"{entry.path}: the SHA-256 is {found}, expected {entry.sha256}, which is that of {name}"
    return None


def add(file: Path) -> Entry:
    """Copies a model to the folder of models. Its checksum identifies it, whatever the file is called.

    Raises:
        RegistryError: no entry has its checksum.
    """
    if not Path(file).is_file():
        raise RegistryError(f"{file}: no such file found, expected a model")
    found = checksum(file)
    entry = next((entry for entry in entries().values() if entry.sha256 == found), None)
    if entry is None:
        expected = f"that of a model in {REGISTRY.name}; any other file is used by its path"
        raise RegistryError(f"{file}: SHA-256 {found} found, expected {expected}")
    if not _is_right(entry):
        with written_whole(entry.path) as new:
            shutil.copyfile(file, new)
    return entry


def fetch(name: str) -> Path:
    """Downloads a model from the address in the registry, and keeps it only if its checksum is right.

    Raises:
        RegistryError: the entry has no address, the download fails, or the checksum is wrong.
    """
    entry = _known(name)
    if _is_right(entry):
        return entry.path
    if entry.url is None:
        raise RegistryError(f"model {name}: no url in the registry, expected one to fetch it from; {absence(name)}")
    if not entry.url.startswith(("https://", "http://")):
        raise RegistryError(f"model {name}: url {entry.url!r} found, expected https:// or http://")
    digest = hashlib.sha256()
    with written_whole(entry.path) as new:
        try:
            with urllib.request.urlopen(entry.url, timeout=TIMEOUT) as answer, new.open("wb") as file:
                total = int(answer.headers.get("Content-Length") or 0)
                with progress(f"fetching {entry.file}", total) as bar:
                    while piece := answer.read(PIECE):
                        file.write(piece)
                        digest.update(piece)
                        bar.to(file.tell())
        except (OSError, ValueError) as error:  # no network, no such host, no such page, a broken connection
            raise RegistryError(f"{entry.url}: {name} cannot be fetched ({error}), expected a file there") from error
        if digest.hexdigest() != entry.sha256:
            found = f"the SHA-256 is {digest.hexdigest()}"
            raise RegistryError(f"{entry.url}: {found}, expected {entry.sha256}; nothing was kept")
    return entry.path


def checksum(file: Path | str) -> str:
    """Computes the SHA-256 of a file, once as long as the file does not change."""
    path = Path(file).resolve()
    return _checksum(path, path.stat().st_mtime_ns, path.stat().st_size)


def _is_right(entry: Entry) -> bool:
    return entry.path.is_file() and checksum(entry.path) == entry.sha256


@lru_cache(maxsize=64)
def _checksum(file: Path, changed: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _known(name: str) -> Entry:
    known = entries()
    if name not in known:
        raise RegistryError(f"model: {name!r} is not known, expected one of {', '.join(known)}")
    return known[name]
