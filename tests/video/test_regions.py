"""Heads and bodies: where they are told by the face, and the pictures that a network gets to see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import network

from famf_video.onnx import OnnxError
from famf_video.regions import DEVIATION, MEAN, OnnxImages, cut_out, region


def test_by_hand():
    """A face of 20 × 40 pixels at (100, 50) in a picture of 400 × 300."""
    face = np.array([[100.0, 50.0, 120.0, 90.0]])
    assert region(face, "head", (400, 300)).tolist() == [[94, 32, 126, 96]]
    assert region(face, "body", (400, 300)).tolist() == [[80, 32, 140, 300]]
    assert region(face, "body", (130, 600)).tolist() == [[80, 32, 130, 330]]


side = st.integers(1, 60)


@given(x=st.integers(0, 99), y=st.integers(0, 79), width=side, height=side, which=st.sampled_from(["head", "body"]))
def test_a_part_of_the_picture_that_holds_the_face(x, y, width, height, which):
    size = (101, 83)
    face = np.array([[x, y, min(x + width, size[0]), min(y + height, size[1])]], float)
    (box,) = region(face, which, size)
    assert (box[:2] <= face[0, :2]).all() and (box[2:] >= face[0, 2:]).all()
    assert (box[:2] >= 0).all() and (box[2:] <= size).all()
    picture = np.arange(83 * 101 * 3, dtype=np.uint32).astype(np.uint8).reshape(83, 101, 3)
    inside = cut_out(picture, box)
    assert inside.shape[0] and inside.shape[1]
    top, left = box[:2].round().astype(int)[::-1]
    assert np.array_equal(inside, picture[top : top + inside.shape[0], left : left + inside.shape[1]])
    assert cut_out(picture, np.array([101.0, 83.0, 101.0, 83.0])).shape == (1, 1, 3)


def averages(folder, batch="n", height=13, width=11):
    """A network that gives the mean of each channel."""
    nodes = [("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})]
    return network(folder / "a.onnx", nodes, [("x", [batch, 3, height, width])], [("y", [batch, 3])])


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_a_network_sees_rgb_as_imagenet_has_it(tmp_path, batch):
    model = OnnxImages(averages(tmp_path, batch))
    pictures = [np.full((k + 2, 17, 3), (10 * k, 50, 200), np.uint8) for k in range(11)]
    expected = [(np.array([10 * k, 50, 200]) / 255 - MEAN) / DEVIATION for k in range(11)]
    assert model.dim == 3 and model.size == (11, 13)
    np.testing.assert_allclose(model.embed(pictures), expected, atol=1e-5)
    assert model.embed([]).shape == (0, 3)


def test_a_side_that_is_left_open_is_224_and_another_network_is_refused(tmp_path):
    assert OnnxImages(averages(tmp_path, height="h", width="w")).size == (224, 224)
    path = network(tmp_path / "b.onnx", [("Neg", ["x"], ["y"])], [("x", ["n", 5])], [("y", ["n", 5])])
    with pytest.raises(OnnxError, match=r"b\.onnx: inputs: x has the shape any × 5, expected any × 3"):
        OnnxImages(path)
