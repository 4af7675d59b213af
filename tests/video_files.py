"""Makes videos: of pictures that tell their number in black and white bars, or of any, at any times, with a tone."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="the extra extract is not installed")

SIZE = (96, 64)  # width and height
BARS = 6
TONE, LOUDNESS = 440, 0.5


def marked(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture whose bars are the binary digits of its number, below 64."""
    digits = np.array([number >> bar & 1 for bar in range(BARS)], np.uint8)
    return np.tile((20 + 210 * digits).repeat(size[0] // BARS)[None, :, None], (size[1], 1, 3))


def number_of(picture: np.ndarray) -> int:
    bars = np.array_split(picture.mean(axis=(0, 2)), BARS)
    return sum(int(np.median(bar) > 125) << place for place, bar in enumerate(bars))


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    times: Iterable[int] | None = None,
    base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    sound: np.ndarray | None = None,
    rate: int = 16_000,
    layout: str = "mono",
    sound_codec: str = "aac",
    turned: int = 0,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encodes pictures, shown at ``times`` in steps of ``base`` seconds, and sound of one channel or of all."""
    pictures = list(pictures)
    with av.open(path, "w") as out:
        fast = {"preset": "ultrafast"} if codec == "libx264" else {}
        track = out.add_stream(codec, rate=1 / base, options=fast | (options or {}))
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt, track.codec_context.time_base = "yuvj420p" if codec == "mjpeg" else "yuv420p", base
        if turned:
            track.set_display_rotation(turned)
        if aspect:
            track.codec_context.sample_aspect_ratio = aspect
        if sound is not None:
            voice = out.add_stream(sound_codec, rate=rate)
            voice.layout = layout
            sound = np.broadcast_to(sound, (voice.layout.nb_channels, sound.shape[-1])).astype(np.float32)
        for time, picture in zip(times or range(len(pictures)), pictures, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = time, base
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
        for start in range(0, 0 if sound is None else sound.shape[1], 1024):
            piece = sound[:, start : start + 1024].T.reshape(1, -1)  # in one plane: PyAV cannot fill more than seven
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="flt", layout=voice.layout.name)
            frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(voice.encode(frame))
        if sound is not None:
            out.mux(voice.encode(None))
    return path


def tone(seconds: float, rate: int = 16_000, hertz: float = TONE) -> np.ndarray:
    return LOUDNESS * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def damage(path: Path, numbers=slice(None), *, sparing: float = 0.0, kind: str = "video") -> int:
    """Overwrites some packets, in the order of the file, with noise, ``sparing`` a part of each; how many these are."""
    with av.open(path) as file:
        track = getattr(file.streams, kind)[0]
        packets = np.array([(packet.pos, packet.size) for packet in file.demux(track) if packet.size])[numbers]
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for start, size in packets:
        spared = int(sparing * size)
        content[start + spared : start + size] = rng.bytes(size - spared)
    path.write_bytes(content)
    return len(packets)
