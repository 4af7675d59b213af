"""Pre-trained models by name: which there are, where each one lies, and whether it is the one that it should be.

``data/models.yml`` of the checkout says what is known of each; the files lie in the folder that ``files.models`` names.
A file is told by its checksum, and nothing is downloaded unless ``fetch`` is called.
"""

import hashlib
import shutil
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from famf_lib.support.files import ROOT, models, written_whole
from famf_lib.support.progress import progress

REGISTRY = ROOT / "data" / "models.yml"
PIECE = 1 << 20
TIMEOUT = 30  # seconds without a byte
SCHEMES = ("https", "http")


class RegistryError(LookupError):
    """A model that is not known, not here or not the right one; the message says how to get it."""


class Entry(BaseModel):
    """What is known of a model. ``file`` is its name in the folder of models, ``url`` where it may be fetched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    file: str = Field(pattern=r"^\w[\w.-]*$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    origin: str
    terms: str
    url: str | None

    @property
    def path(self) -> Path:
        """Where the file lies, or would."""
        return models() / self.file


def entries(registry: Path | None = None) -> dict[str, Entry]:
    """Every model that is known, by its name.

    Raises:
        RegistryError: the registry cannot be read.
    """
    registry = registry or REGISTRY
    try:
        return TypeAdapter(dict[str, Entry]).validate_python(yaml.safe_load(registry.read_text()) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where, said = ".".join(map(str, first["loc"])), first["msg"]
        raise RegistryError(f"{registry}: {where}: {first['input']!r} found; {said[0].lower()}{said[1:]}") from None
    except (OSError, yaml.YAMLError) as error:
        raise RegistryError(f"{registry}: no registry of models can be read here ({error})") from error


def find(name: str | Path) -> Path:
    """The file that a user means by the name of an entry, or by a path.

    Raises:
        RegistryError: it is not here, or is another file than the registry says.
    """
    entry = entries().get(str(name))
    if entry is None:
        if Path(name).is_file():
            return Path(name)
        raise RegistryError(f"model: {str(name)!r} found, expected a file or one of {', '.join(entries())}")
    if reason := absence(str(name)):
        raise RegistryError(reason)
    return entry.path


def absence(name: str) -> str | None:
    """None where a model is here and the right one, otherwise one sentence that says what to do."""
    entry = _known(name)
    if not entry.path.is_file():
        fetch = f", or famf models fetch {name}" if entry.url else ""
        return (
            f"model {name}: {entry.file} is not in {models()}; famf models add FILE copies it there, "
            f"if you have it{fetch} ({REGISTRY.relative_to(ROOT)} says where it is from)"
        )
    if (found := checksum(entry.path)) != entry.sha256:
        return f"{entry.path}: the SHA-256 is {found}, expected {entry.sha256}, which is that of {name}"
    return None


def add(file: Path) -> Entry:
    """Copies a model to the folder of models; which one it is, its checksum tells, whatever it is called.

    Raises:
        RegistryError: there is no entry with its checksum.
    """
    if not Path(file).is_file():
        raise RegistryError(f"{file}: no such file found, expected a model")
    found = checksum(file)
    for entry in entries().values():
        if entry.sha256 == found:
            if not (entry.path.is_file() and checksum(entry.path) == found):
                with written_whole(entry.path) as new:
                    shutil.copyfile(file, new)
            return entry
    raise RegistryError(
        f"{file}: SHA-256 {found} found, expected that of a model in {REGISTRY.name}; use it by its path"
    )


def fetch(name: str) -> Path:
    """Downloads a model from the address in the registry, and keeps it if it is the right one.

    Raises:
        RegistryError: there is no address, no answer, or another file comes from there.
    """
    entry = _known(name)
    if entry.path.is_file() and checksum(entry.path) == entry.sha256:
        return entry.path
    if entry.url is None:
        raise RegistryError(f"model {name}: url: none found, expected one to fetch it from; {absence(name)}")
    if urlsplit(entry.url).scheme not in SCHEMES:
        raise RegistryError(
            f"model {name}: url: {entry.url!r} found, expected one that begins with https:// or http://"
        )
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
            raise RegistryError(
                f"{entry.url}: the SHA-256 is {digest.hexdigest()}, expected {entry.sha256}; nothing was kept"
            )
    return entry.path


def checksum(file: Path | str) -> str:
    """The SHA-256 of a file."""
    told = Path(file).resolve().stat()
    return _checksum(Path(file).resolve(), told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=64)
def _checksum(file: Path, changed: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _known(name: str) -> Entry:
    known = entries()
    if name not in known:
        raise RegistryError(f"model: {name!r} is not known, expected one of {', '.join(known)}")
    return known[name]
