"""Face embedders: any ArcFace network as a file, fed as it wants to be fed."""

import numpy as np
import pytest
from onnx_models import embedder, network

from famf_video import registry
from famf_video.embedding import ArcFace, has_own_scaling
from famf_video.onnx import BATCH, OnnxError


@pytest.fixture
def faces():
    return np.random.default_rng(2).integers(0, 256, (2 * BATCH + 3, 112, 112, 3), dtype=np.uint8)


def by_hand(faces, dim=5, seed=0):
    """What ``onnx_models.embedder`` stands for, in numpy: the mean of each field and colour, times a matrix."""
    x = (faces.astype(float) - 127.5) / 127.5
    fields = x.reshape(len(x), 4, 28, 4, 28, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(len(x), 48)
    return fields @ np.random.default_rng(seed).normal(size=(48, dim)).astype(np.float32)


@pytest.mark.parametrize(("scaling", "batch"), [(True, "n"), (False, "n"), (True, 7)])
def test_every_network_gets_the_pixels_that_it_wants(tmp_path, faces, scaling, batch):
    """A fixed batch is filled up."""
    found = ArcFace(embedder(tmp_path / "a.onnx", scaling=scaling, batch=batch))
    assert found.dim == 5 and found.scaled is not scaling
    for some in (faces, faces[:3], faces[:0]):
        np.testing.assert_allclose(found.embed(some), by_hand(some), atol=1e-4)


def scaled_by(folder, first, constants):
    """A network of the right shapes that begins with these nodes, the last of which gives "first"."""
    rest = [("GlobalAveragePool", ["first"], ["mean"]), ("Flatten", ["mean"], ["fc1"])]
    return network(folder / "b.onnx", [*first, *rest], [("data", ["n", 3, 112, 112])], [("fc1", ["n", 3])], constants)


def test_arithmetic_on_the_input_itself_says_that_a_network_scales(tmp_path):
    number = {"c": np.float32([2])}
    through = [("Identity", ["data"], ["d"]), ("Cast", ["d"], ["e"], {"to": 1})]
    assert has_own_scaling(scaled_by(tmp_path, [("Sub", ["data", "c"], ["first"])], number))
    assert has_own_scaling(scaled_by(tmp_path, [*through, ("Div", ["e", "c"], ["first"])], number))
    # Arithmetic further down is the network's own: PReLU written out, say.
    kernel = {"k": np.ones((3, 3, 1, 1), np.float32)} | number
    inner = [("Conv", ["data", "k"], ["z"]), ("Sub", ["z", "c"], ["first"])]
    assert not has_own_scaling(scaled_by(tmp_path, inner, kernel))


def test_another_network_is_refused(tmp_path):
    arrays = [("data", ["n", 3, 48, 48])], [("y", ["n", 6912])]
    path = network(tmp_path / "a.onnx", [("Flatten", ["data"], ["y"])], *arrays)
    with pytest.raises(OnnxError, match="expected any × 3 × 112 × 112"):
        ArcFace(path)


@pytest.mark.skipif(registry.absence("mobilefacenet128") is not None, reason="the model mobilefacenet128 is not here")
def test_the_real_network_wants_raw_pixels_in_rgb(faces):
    """Its card says so. The same network fed scaled pixels, or blue first, gives something else."""
    real = ArcFace(registry.find("mobilefacenet128"))
    assert real.dim == 128 and not real.scaled
    few = faces[:2]
    found = real.embed(few)
    expected = real.model(few.transpose(0, 3, 1, 2).astype(np.float32))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert abs(real.embed(few[..., ::-1]) - found).max() > 0.01
