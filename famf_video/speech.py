"""From speech to a vector. The network is an ONNX file of the user's; the book comes with none."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from famf_video import registry
from famf_video.onnx import OnnxError, OnnxModel
from famf_video.video import RATE

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the next power of two
LOWEST = 20.0  # Hz
SECONDS = 3.0  # of sound that the network gets at once, if the file leaves it open
SHORTEST = 0.5  # seconds of sound from which a vector is computed
SILENCE = 1e-3  # root mean square


@runtime_checkable
class SpeakerEncoder(Protocol):
    """Turns speech into a vector. ``checksum`` identifies the encoder: vectors of two encoders do not mix."""

    dim: int
    checksum: str

    def embed(self, sound: Iterable[Float32[np.ndarray, " _"]]) -> Float32[np.ndarray, " D"] | None:
        """Computes the vector of sound given in pieces (one channel, 16 kHz, −1 to 1); None if nothing is audible."""
        ...


class OnnxSpeaker:
    """A network in an ONNX file that takes sound, N × samples → N × D, or log-mel features, N × frames × bins → N × D.

    The features are Kaldi's, as the files of WeSpeaker and 3D-Speaker expect: 25 ms every 10 ms, a Hamming window,
    minus their mean over the frames. Segments of 3 s, or of the length in the file, are used;
    silent ones are left out, and the vector is the mean of the others' unit vectors, scaled to length 1.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str):
        try:
            self.model = OnnxModel(path, [(None, None)], [(None, None)])
            self.bins, samples = None, self.model.inputs[0][1][1]
        except OnnxError as fault:
            self.model = OnnxModel(path, [(None, None, None)], [(None, None)])
            _, frames, self.bins = self.model.inputs[0][1]
            if self.bins is None:
                raise OnnxError(f"{path}: no number of mel bins found in its input, expected one") from fault
            samples = frames and WINDOW + (frames - 1) * HOP
        self.samples = samples or int(SECONDS * RATE)
        self.checksum = registry.checksum(self.model.path)
        self.dim = len(self._run(np.zeros(self.samples, np.float32)))

    def embed(self, sound: Iterable[Float32[np.ndarray, " _"]]) -> Float32[np.ndarray, " D"] | None:
        total = np.zeros(self.dim)
        for segment in segments(sound, self.samples):
            if np.sqrt(np.mean(segment**2)) > SILENCE:
                vector = self._run(segment)
                total += vector / max(np.linalg.norm(vector), 1e-9)
        length = np.linalg.norm(total)
        return (total / length).astype(np.float32) if length > 0 else None

    def _run(self, segment: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " D"]:
        given = segment if self.bins is None else log_mel(segment, self.bins)
        return self.model(np.repeat(given[None], self.model.batch or 1, axis=0))[0][0]


def segments(sound: Iterable[Float32[np.ndarray, " _"]], length: int) -> Iterator[Float32[np.ndarray, " length"]]:
    """Divides sound into segments of one length. The rest is repeated up to that length, or dropped if below 0.5 s."""
    pending: list[np.ndarray] = []
    for piece in sound:
        pending.append(piece)
        if (total := sum(map(len, pending))) >= length:
            joined = np.concatenate(pending)
            whole = total // length * length
            yield from joined[:whole].reshape(-1, length)
            pending = [joined[whole:]]
    if sum(map(len, pending)) >= SHORTEST * RATE:
        yield np.resize(np.concatenate(pending), length)


def log_mel(sound: Float[np.ndarray, " n"], bins: int) -> Float32[np.ndarray, "frames bins"]:
    """Computes Kaldi's log-mel features without dither, minus the mean of each bin over the frames."""
    frames = np.lib.stride_tricks.sliding_window_view(sound * 32768.0, WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.abs(np.fft.rfft((frames - 0.97 * before) * np.hamming(WINDOW), FFT)) ** 2
    logs = np.log(np.maximum(spectrum[:, : FFT // 2] @ _filters(bins).T, np.finfo(np.float32).eps))
    return (logs - logs.mean(axis=0)).astype(np.float32)


@cache
def _filters(bins: int) -> Float[np.ndarray, "bins half"]:
    """Triangular filters of equal width in mel, 1127 ln(1 + f / 700), from 20 Hz to half the sampling rate."""
    place = 1127 * np.log1p(np.arange(FFT // 2) * RATE / FFT / 700)
    edges = np.linspace(*(1127 * np.log1p(np.array([LOWEST, RATE / 2]) / 700)), bins + 2)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((place - left) / (middle - left), (right - place) / (right - middle)), 0, None)
