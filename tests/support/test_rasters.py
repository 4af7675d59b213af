import struct
import subprocess
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from famf_lib.support import rasters
from famf_lib.support.rasters import RasterError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 11\n%%EndComments\nshowpage\n%%EOF\n"
RAMP = np.linspace(0, 65535, 7 * 11).round().astype(np.uint16).reshape(7, 11)


def stored(array, kind):
    file = BytesIO()
    Image.fromarray(array).save(file, kind)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("array", "kind", "white"),
    [
        *((RAMP, kind, 65535) for kind in ("PNG", "TIFF", "PPM")),
        (RAMP.astype(">u2"), "TIFF", 65535),
        (RAMP.astype(np.int32), "TIFF", 65535),
        ((RAMP // 257).astype(np.int32), "TIFF", 255),
        ((RAMP / 65535).astype(np.float32), "TIFF", 1),
        ((RAMP / 257).astype(np.float32), "TIFF", 255),
    ],
)
def test_deep_grey_keeps_its_tones(array, kind, white):
    expected = np.round(array.astype(np.float64) * 255 / white)
    found = rasters.rgb(stored(array, kind))
    assert found.dtype == np.uint8 and found.shape == (7, 11, 3)
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, axis=2), atol=1)


def test_deep_colours_keep_their_tones():
    """PNG with 16 bits a channel, written by hand, as Pillow writes none."""
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T.reshape(7, 11)], axis=2)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in colours)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 11, 7, 16, 2, 0, 0, 0))
    file = BytesIO(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    np.testing.assert_allclose(rasters.rgb(file), colours / 257, atol=1)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (RAMP.astype(np.int32) * 13, "whole numbers from 0 to 851955"),
        (RAMP.astype(np.int32) - 17, "whole numbers from -17 to 65518"),
        (RAMP.astype(np.float32), "fractions from 0 to 65535"),
        (np.full((7, 11), np.nan, np.float32), "fractions with NaN or infinity"),
    ],
)
def test_tones_of_an_unknown_scale_are_refused(array, found):
    with pytest.raises(RasterError, match=f"^{found}"):
        rasters.rgb(stored(array, "TIFF"))


def test_a_picture_is_turned_as_its_camera_says():
    pixels = np.random.default_rng(3).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(file := BytesIO(), "PNG", exif=exif)
    np.testing.assert_array_equal(rasters.rgb(file), np.rot90(pixels, -1))


def test_what_would_start_another_program_is_not_opened(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(RasterError, match="cannot identify"):
        rasters.rgb(BytesIO(EPS))


def test_a_large_picture_is_read_and_a_bomb_refused(monkeypatch):
    """Pillow warns beyond its limit, where cameras already are, and refuses beyond the double."""
    warnings.simplefilter("error")  # pytest puts the filters back
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert rasters.rgb(stored(RAMP, "PNG")).shape == (7, 11, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(RasterError, match="exceeds limit"):
        rasters.rgb(stored(RAMP, "PNG"))


def test_whatever_is_damaged_is_one_sentence():
    whole = stored(np.random.default_rng(5).integers(0, 256, (17, 19, 3), dtype=np.uint8), "TIFF").getvalue()
    draw = np.random.default_rng(7)
    for _ in range(101):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 13):
            damaged[place] = draw.integers(256)
        try:
            assert rasters.rgb(BytesIO(bytes(damaged))).dtype == np.uint8
        except RasterError as error:
            assert "\n" not in str(error)


def test_the_endings_are_those_of_the_formats():
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm"} <= set(rasters.ENDINGS)
    assert not {".eps", ".ps", ".mpg", ".mpeg", ".heic"} & set(rasters.ENDINGS)
