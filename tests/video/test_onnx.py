"""Models in ONNX files: what they take and give is checked before they run, whatever the file is."""

import sys

import numpy as np
import pytest
from onnx_models import network

from famf_video.onnx import OnnxError, OnnxModel


def doubled(folder):
    """x → 2 x, of n × 3 numbers."""
    arrays = [("x", ["n", 3])], [("y", ["n", 3])]
    return network(folder / "a.onnx", [("Mul", ["x", "two"], ["y"])], *arrays, {"two": np.float32([2])})


def test_a_model_is_a_function_of_arrays(tmp_path):
    model = OnnxModel(doubled(tmp_path), [(None, 3)], [(None, 3)])
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(model(x)[0], 2 * x)
    assert model.batch is None
    with pytest.raises(OnnxError, match=r"a\.onnx: the model fails \([^\n]*\)$"):
        model(np.zeros((5, 4), np.float32))


def test_outputs_come_in_the_order_of_the_file(tmp_path):
    nodes = [("Neg", ["x"], ["z"]), ("Abs", ["x"], ["a"])]
    path = network(tmp_path / "a.onnx", nodes, [("x", [7])], [("z", [7]), ("a", [7])])
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    np.testing.assert_array_equal(OnnxModel(path, [(7,)], [(7,), (7,)])(x), [-x, abs(x)])


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ([(None, 5)], [(None, 3)], "inputs: x has the shape any × 3, expected any × 5"),
        ([(None, 3, None)], [(None, 3)], "inputs: x has the shape any × 3, expected any × 3 × any"),
        ([(None, 3)], [(None, 2)], "outputs: y has the shape any × 3, expected any × 2"),
        ([(None, 3)], [(None, 3), (None, 3)], r"1 outputs found \(y\), expected 2"),
        ([], [(None, 3)], r"1 inputs found \(x\), expected 0"),
    ],
)
def test_another_model_is_refused_when_it_is_opened(tmp_path, inputs, outputs, sentence):
    with pytest.raises(OnnxError, match=rf"a\.onnx: {sentence}$"):
        OnnxModel(doubled(tmp_path), inputs, outputs)


def test_numbers_of_another_kind_are_refused(tmp_path):
    path = network(tmp_path / "a.onnx", [("Neg", ["x"], ["y"])], [("x", [3])], [("y", [3])], kind="DOUBLE")
    with pytest.raises(OnnxError, match=r"inputs: x is a tensor\(double\), expected float32"):
        OnnxModel(path, [(3,)], [(3,)])


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(64), b"import os\n", bytes(1000), None])
def test_a_file_that_is_no_model_is_one_sentence(tmp_path, content):
    path = doubled(tmp_path)
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(OnnxError, match=r"a\.onnx: (cannot be opened as an ONNX model|0 inputs)") as caught:
        OnnxModel(path, [(None, 3)], [(None, 3)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(("name", "found"), [("nowhere.onnx", "no such file"), ("", "a folder")])
def test_no_file(tmp_path, name, found):
    with pytest.raises(OnnxError, match=f"{found} found, expected an ONNX model"):
        OnnxModel(tmp_path / name, [], [])


def test_without_onnx_runtime_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = doubled(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnnxError, match=r"onnxruntime: not installed, .* pip install onnxruntime"):
        OnnxModel(path, [(None, 3)], [(None, 3)])
