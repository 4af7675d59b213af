"""Picture files: which formats are opened, and how their pixels are converted to 8-bit RGB."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from famf_lib.support.wording import first_line

Image.init()
# The formats of cameras and the web. Some others that Pillow knows start programs, as EPS starts Ghostscript.
FORMATS = tuple({"JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM"} & set(Image.OPEN))
ENDINGS = tuple(sorted(ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")))
"""The endings of their files, in lower case. MPO is JPEG with several pictures, of which the first is used."""

DEEP = ("I", "F")  # pixel modes, besides the 16-bit ones, whose values Pillow would clip at 255 instead of scaling


class RasterError(ValueError):
    """A file is no picture, or the scale of its pixels is unknown."""


def open(file: Path | BytesIO) -> Image.Image:
    """Opens a picture with Pillow, which reads its header but not yet its pixels.

    Raises:
        RasterError: it is none of ``FORMATS``, is damaged, or has so many pixels that it may be an attack.
    """
    with _pillow():
        return Image.open(file, formats=FORMATS)


def rgb(file: Path | BytesIO) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as 8-bit RGB, rotated as its camera says; deeper pixels are scaled.

    Raises:
        RasterError: it cannot be opened or decoded, or its white value is unknown.
    """
    with open(file) as picture, _pillow():
        kind, turned = picture.format, ImageOps.exif_transpose(picture)
        if turned.mode not in DEEP and not turned.mode.startswith("I;16"):
            return np.asarray(turned.convert("RGB"))
        values = np.asarray(turned).astype(np.float64)
    grey = np.round(values * (255 / _white(values, turned.mode, kind))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _white(values: np.ndarray, mode: str, kind: str | None) -> int:
    """The value of white: 65,535 for 16 bits, otherwise the smallest usual white that no pixel exceeds."""
    if mode.startswith("I;16") or kind == "PPM" and mode == "I":
        return 65535
    usual, name = ((255, 65535), "whole numbers") if mode == "I" else ((1, 255), "fractions")
    low, high = values.min(), values.max()
    if low >= 0 and high <= usual[-1]:
        return next(white for white in usual if high <= white)
    extent = f"from {low:.10g} to {high:.10g}" if np.isfinite(values).all() else "with NaN or infinity"
    raise RasterError(f"{name} {extent} found as pixels, expected 0 to {' or 0 to '.join(map(str, usual))}")


@contextmanager
def _pillow() -> Iterator[None]:
    """Turns any error that a damaged file causes in Pillow into one sentence, with Pillow's message."""
    try:
        with warnings.catch_warnings():  # Pillow warns from a size that cameras have reached, and refuses twice that
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise RasterError(first_line(error)) from error
