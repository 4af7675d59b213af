"""Voices: features against a slow transcription of their definition, and what a network gets to hear."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import network

from famf_video.onnx import OnnxError
from famf_video.speech import OnnxSpeaker, log_mel, segments
from famf_video.video import RATE


def naive_log_mel(sound, bins):
    """Kaldi's compute-fbank-feats, from its documentation, number by number."""

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    rows = []
    for start in range(0, len(sound) - 400 + 1, 160):
        frame = [float(value) * 32768 for value in sound[start : start + 400]]
        mean = sum(frame) / 400
        frame = [value - mean for value in frame]
        frame = [frame[k] - 0.97 * frame[max(k - 1, 0)] for k in range(400)]
        frame = [frame[k] * (0.54 - 0.46 * math.cos(2 * math.pi * k / 399)) for k in range(400)]
        turn = -2j * math.pi / 512
        power = [abs(sum(v * cmath.exp(turn * f * k) for k, v in enumerate(frame))) ** 2 for f in range(256)]
        step = (mel(8000) - mel(20)) / (bins + 1)
        row = []
        for b in range(bins):
            left, middle, right = (mel(20) + (b + k) * step for k in range(3))
            energy = 0.0
            for f in range(256):
                place = mel(f * 16000 / 512)
                rising, falling = (place - left) / (middle - left), (right - place) / (right - middle)
                energy += power[f] * max(min(rising, falling), 0)
            row.append(math.log(max(energy, 2**-23)))
        rows.append(row)
    rows = np.array(rows)
    return rows - rows.mean(axis=0)


def test_features_are_those_of_the_definition():
    sound = np.random.default_rng(0).normal(0, 0.1, 400 + 2 * 160 + 7).astype(np.float32)
    np.testing.assert_allclose(log_mel(sound, 23), naive_log_mel(sound, 23), atol=1e-3)


@given(st.lists(st.integers(0, 3000), max_size=9), st.sampled_from([8000, 9973]))
def test_pieces_are_the_sound_in_order(lengths, length):
    whole = np.arange(sum(lengths), dtype=np.float32)
    parts = np.split(whole, np.cumsum(lengths)[:-1]) if lengths else []
    found = list(segments(parts, length))
    rest = len(whole) % length
    assert len(found) == len(whole) // length + (rest >= RATE / 2)
    heard = np.concatenate([*found, []])
    full = len(whole) - rest
    assert np.array_equal(heard[:full], whole[:full])
    if rest >= RATE / 2:
        assert np.array_equal(heard[full:], np.tile(whole[full:], 9)[:length])


def waveform(folder, samples=800, batch="n"):
    """Gives the mean of a piece, and the mean of its squares."""
    nodes = [
        ("ReduceMean", ["x"], ["mean"], {"axes": [1]}),
        ("Mul", ["x", "x"], ["squares"]),
        ("ReduceMean", ["squares"], ["power"], {"axes": [1]}),
        ("Concat", ["mean", "power"], ["y"], {"axis": 1}),
    ]
    return network(folder / "a.onnx", nodes, [("x", [batch, samples])], [("y", [batch, 2])])


def test_silence_is_left_out_and_every_piece_counts_alike(tmp_path):
    encoder = OnnxSpeaker(waveform(tmp_path, 8000))
    assert encoder.dim == 2 and encoder.samples == 8000
    loud, soft = np.full(8000, 0.5, np.float32), np.full(8000, -0.25, np.float32)
    nothing = np.full(8000, 1e-4, np.float32)
    expected = sum(np.array(v) / np.hypot(*v) for v in ((0.5, 0.25), (-0.25, 0.0625)))
    found = encoder.embed([loud[:999], loud[999:], nothing, soft])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(1)


def test_nothing_to_hear(tmp_path):
    encoder = OnnxSpeaker(waveform(tmp_path, 8000))
    for sound in ([], [np.zeros(50_000, np.float32)], [np.ones(7_999, np.float32)]):  # the last below half a second
        assert encoder.embed(sound) is None


def largest(path, shape):
    """A network that gives the largest of each bin."""
    nodes = [("ReduceMax", ["x"], ["y"], {"axes": [1], "keepdims": 0})]
    return network(path, nodes, [("x", shape)], [("y", [shape[0], shape[2]])])


@pytest.mark.parametrize(("frames", "samples"), [("t", 3 * RATE), (57, 400 + 56 * 160)])
@pytest.mark.parametrize("batch", ["n", 1])
def test_a_network_that_takes_features(tmp_path, frames, samples, batch):
    encoder = OnnxSpeaker(largest(tmp_path / "b.onnx", [batch, frames, 23]))
    assert encoder.dim == 23 and encoder.samples == samples
    sound = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    expected = log_mel(sound, 23).max(axis=0)
    np.testing.assert_allclose(encoder.embed([sound]), expected / np.linalg.norm(expected), rtol=1e-4)


def test_another_network_is_refused(tmp_path):
    with pytest.raises(OnnxError, match=r"b\.onnx: no number of mel bins found in its input, expected one"):
        OnnxSpeaker(largest(tmp_path / "b.onnx", ["n", "t", "bins"]))
    path = network(tmp_path / "c.onnx", [("Neg", ["x"], ["y"])], [("x", [5])], [("y", [5])])
    with pytest.raises(OnnxError, match=r"c\.onnx: inputs: x has the shape 5, expected any × any × any"):
        OnnxSpeaker(path)
