"""Clear faces of IMFDB, and pictures and videos composed of them, where the user has the data."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import video_files
from PIL import Image, ImageFilter

from famf_lib.data import imfdb
from famf_lib.support.files import sources
from famf_video import registry

MODELS = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet", "mobilefacenet128")


def needed() -> None:
    """Skips the test, with the reason, where data or models are not here."""
    reasons = [imfdb.absence(), *map(registry.absence, MODELS)]
    if reason := next(filter(None, reasons), None):
        pytest.skip(reason)
    if not (sources() / "imfdb" / imfdb.EMBEDDINGS).is_file():
        pytest.skip(f"the clear faces are chosen by {imfdb.EMBEDDINGS}")


@cache
def faces(each: int = 4) -> dict[str, list[Image.Image]]:
    """Some pictures of some persons: 80 to 250 pixels high, of long vectors (10.5) that O-Net was sure of (.99)."""
    with np.load(sources() / "imfdb" / imfdb.EMBEDDINGS) as file:
        lengths = np.linalg.norm(file["embedding"].astype(np.float32), axis=1)
        paths = file["path"][(file["onet_probability"] > 0.99) & (lengths > 10.5)]
    chosen = np.random.default_rng(0).permutation(paths)[:1200]
    found: dict[str, list[Image.Image]] = {}
    for path, content in sorted(imfdb.pictures(imfdb.archive(), set(chosen)).items()):
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        if 80 <= picture.height <= 250:
            found.setdefault(path.split("/")[1], []).append(picture)
    return {person: of[:each] for person, of in found.items() if len(of) >= each}


def background(size: tuple[int, int], seed: int) -> Image.Image:
    """Soft coloured clutter."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def pasted(canvas: Image.Image, face: Image.Image, height: int, x: int, y: int) -> tuple[int, int, int, int]:
    """Puts a face onto a picture with soft edges; its box."""
    width = max(round(face.width * height / face.height), 1)
    edge = max(height // 16, 2)
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (edge, edge, width - edge, height - edge))
    mask = mask.filter(ImageFilter.GaussianBlur(edge / 2))
    canvas.paste(face.resize((width, height), Image.Resampling.BICUBIC), (x, y), mask)
    return x, y, x + width, y + height


def video(
    path: Path,
    persons: list[str],
    seconds: float = 2.0,
    *,
    seed: int = 0,
    sound: bool = True,
    pictures: slice = slice(None),
    **options,
) -> Path:
    """Persons side by side, the first one larger, each swaying and changing between these of their pictures; 25 a
    second."""
    shown, base = [], background((640, 360), seed)
    for number in range(round(25 * seconds)):
        canvas = base.copy()
        for place, person in enumerate(persons):
            own = faces()[person][pictures]
            x, y = 40 + 280 * place + 20 * np.sin(number / 10 + place), 60 + 15 * np.cos(number / 9 + place)
            pasted(canvas, own[number // 9 % len(own)], 170 - 50 * place, round(x), round(y))
        shown.append(np.asarray(canvas))
    return video_files.write(path, shown, sound=video_files.tone(seconds) if sound else None, **options)
