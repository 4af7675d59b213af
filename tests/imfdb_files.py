"""A made-up IMFDB: pictures, lists and embeddings in the official layout, with any fault a test asks for."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from famf_lib.data import imfdb

SIZE = (13, 17)
GOOD = "MALE NEUTRAL NONE BAD MIDDLE LEFT PARTIAL"


def picture(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG of that size; another seed is another picture."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def line(
    video: str, frame: int, name: str, labels: str = GOOD, size=SIZE, x=2, y=3, middle="Film\t1999\tSomebody"
) -> str:
    place = [video, f"{frame:05d}.jpg", name, x, y, *size]
    return "\t".join([*map(str, place), middle, *labels.split(" ")])


class World:
    """Files of a made-up IMFDB, by their path."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.seed = 0

    def show(self, person: str, film: str, name: str, content: bytes | None = None, size=SIZE) -> str:
        self.seed += 1
        path = f"IMFDB_final/{person}/{film}/images/{name}"
        self.files[path] = picture(self.seed, size) if content is None else content
        return path

    def tell(self, person: str, film: str, *lines: str, name: str | None = None, head: bytes = b"", tail: bytes = b""):
        text = "\r\n".join([*lines, ""]).encode()
        self.files[f"IMFDB_final/{person}/{film}/{name or film}.txt"] = head + text + tail

    def film(self, person: str, film: str, frames: list[int], video: str = "video", first: int = 1) -> list[str]:
        """A folder without a fault: pictures from the number ``first`` on, at these frames."""
        names = [f"{person}_{first + i}.jpg" for i in range(len(frames))]
        self.tell(person, film, *(line(video, f, n) for f, n in zip(frames, names, strict=True)))
        return [self.show(person, film, name) for name in names]

    @property
    def pictures(self) -> list[str]:
        return [path for path in self.files if "/images/" in path and not path.endswith(".DS_Store")]

    def archive(self, folder: Path) -> Path:
        target = folder / imfdb.ARCHIVE
        with tarfile.open(target, "w:gz") as archive:
            for path, content in self.files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return target

    def folder(self, folder: Path) -> Path:
        for path, content in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder / "IMFDB_final"

    def embeddings(self, folder: Path, leave_out=(), add=(), scores: dict[str, float] | None = None) -> Path:
        paths = [path for path in reversed(self.pictures) if path not in leave_out] + list(add)
        vectors = np.stack([vector(path) for path in paths])
        probability = np.array([(scores or {}).get(path, 0.9) for path in paths], dtype=np.float32)
        target = folder / imfdb.EMBEDDINGS
        np.savez(target, path=np.array(paths), embedding=vectors, onet_probability=probability)
        return target


def vector(path: str) -> np.ndarray:
    """The made-up embedding of a picture (7,), so that a face can be told by its vector."""
    return np.random.default_rng(list(path.encode())).normal(size=7).astype(np.float16)
