"""Picture files: which formats are opened, and how their pixels become RGB of 8 bits."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

Image.init()
# Those of cameras and of the web. Pillow knows more, of which some start other programs, as EPS does Ghostscript.
FORMATS = tuple({"JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM"} & set(Image.OPEN))
ENDINGS = tuple(sorted(ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")))
"""The endings of their files, in lower case. MPO is JPEG with several pictures, of which the first counts."""

DEEP = ("I", "F")  # modes of pixels, besides those of 16 bits, that Pillow only cuts off at 255


class RasterError(ValueError):
    """A file that is no picture, or one whose pixels have no known scale."""


def open(file: Path | BytesIO) -> Image.Image:
    """A picture as Pillow opens it: its head is read, its pixels not yet.

    Raises:
        RasterError: it is none of ``FORMATS``, damaged, or of so many pixels that it may be an attack.
    """
    with _pillow():
        return Image.open(file, formats=FORMATS)


def rgb(file: Path | BytesIO) -> UInt8[np.ndarray, "H W 3"]:
    """A picture in RGB, turned as its camera says; deeper pixels are scaled to 8 bits.

    Raises:
        RasterError: it cannot be opened or decoded, or nothing says which of its values is white.
    """
    with open(file) as picture, _pillow():
        kind, turned = picture.format, ImageOps.exif_transpose(picture)
        if turned.mode not in DEEP and not turned.mode.startswith("I;16"):
            return np.asarray(turned.convert("RGB"))
        values = np.asarray(turned).astype(np.float64)
    grey = np.round(values * (255 / _white(values, turned.mode, kind))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _white(values: np.ndarray, mode: str, kind: str | None) -> int:
    """The value of white: of 16 bits the largest, else the smallest usual one that none exceeds."""
    if mode.startswith("I;16") or kind == "PPM" and mode == "I":
        return 65535
    usual, name = ((255, 65535), "whole numbers") if mode == "I" else ((1, 255), "fractions")
    low, high = values.min(), values.max()
    if low >= 0 and high <= usual[-1]:
        return next(white for white in usual if high <= white)
    told = f"from {low:.10g} to {high:.10g}" if np.isfinite(values).all() else "that are not all numbers"
    raise RasterError(f"{name} {told} found as pixels, expected 0 to {' or 0 to '.join(map(str, usual))}")


@contextmanager
def _pillow() -> Iterator[None]:
    """Whatever damaged files lead Pillow to is one sentence, in its own words."""
    try:
        with warnings.catch_warnings():  # also of the size that cameras have reached; Pillow refuses the double of it
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise RasterError(next(iter(str(error).splitlines()), "") or type(error).__name__) from error
