"""Models in ONNX files: what they take and give is checked before they run, whatever the file is."""

import sys

import numpy as np
import pytest
from onnx_models import network

from famf_video.onnx import OnnxError, OnnxModel

pytest.importorskip("onnx", reason="the extra extract is not installed")
pytest.importorskip("onnxruntime", reason="the extra extract is not installed")


def doubled(folder, **options):
    """x → 2 x, of n × 3 numbers."""
    return network(folder / "a.onnx", [("Mul", ["x", "two"], ["y"])], [("x", ["n", 3])], [("y", ["n", 3])],
                   {"two": np.float32([2])}, **options)  # fmt: skip


def test_a_model_is_a_function_of_arrays(tmp_path):
    model = OnnxModel(doubled(tmp_path), [(None, 3)], [(None, 3)])
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_array_equal(model(x)[0], 2 * x)
    assert model.batch is None


def test_outputs_come_in_the_order_of_the_file(tmp_path):
    nodes = [("Neg", ["x"], ["z"]), ("Abs", ["x"], ["a"])]
    path = network(tmp_path / "a.onnx", nodes, [("x", [7])], [("z", [7]), ("a", [7])])
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    negative, absolute = OnnxModel(path, [(7,)], [(7,), (7,)])(x)
    np.testing.assert_array_equal(negative, -x)
    np.testing.assert_array_equal(absolute, abs(x))


def test_what_a_model_takes_and_gives_is_checked_when_it_is_opened(tmp_path):
    path = doubled(tmp_path)
    with pytest.raises(OnnxError, match=r"a\.onnx: x of the inputs has the shape any × 3, expected any × 5$"):
        OnnxModel(path, [(None, 5)], [(None, 3)])
    with pytest.raises(OnnxError, match=r"x of the inputs has the shape any × 3, expected any × 3 × any$"):
        OnnxModel(path, [(None, 3, None)], [(None, 3)])
    with pytest.raises(OnnxError, match=r"y of the outputs has the shape any × 3, expected any × 2$"):
        OnnxModel(path, [(None, 3)], [(None, 2)])
    with pytest.raises(OnnxError, match=r"1 outputs found \(y\), expected 2$"):
        OnnxModel(path, [(None, 3)], [(None, 3), (None, 3)])
    with pytest.raises(OnnxError, match=r"1 inputs found \(x\), expected 0$"):
        OnnxModel(path, [], [(None, 3)])


def test_numbers_of_another_kind_are_refused(tmp_path):
    path = network(tmp_path / "a.onnx", [("Neg", ["x"], ["y"])], [("x", [3])], [("y", [3])], kind="DOUBLE")
    with pytest.raises(OnnxError, match=r"x of the inputs is a tensor\(double\), expected float32"):
        OnnxModel(path, [(3,)], [(3,)])


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(64), b"import os\n", bytes(1000)])
def test_a_file_that_is_no_model_is_one_sentence(tmp_path, content):
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(OnnxError, match=r"no\.onnx: no ONNX model can be opened here|no\.onnx: 0 inputs") as caught:
        OnnxModel(tmp_path / "no.onnx", [(None, 3)], [(None, 3)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_model_cut_short_is_one_sentence(tmp_path):
    path = doubled(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(OnnxError, match=r"a\.onnx: "):
        OnnxModel(path, [(None, 3)], [(None, 3)])


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(OnnxError, match=r"nowhere\.onnx: no such file found, expected an ONNX model"):
        OnnxModel(tmp_path / "nowhere.onnx", [], [])
    with pytest.raises(OnnxError, match="a folder found, expected an ONNX model"):
        OnnxModel(tmp_path, [], [])


def test_a_call_that_fails_is_one_sentence(tmp_path):
    model = OnnxModel(doubled(tmp_path), [(None, 3)], [(None, 3)])
    with pytest.raises(OnnxError, match=r"a\.onnx: the model fails \(.*\)$") as caught:
        model(np.zeros((5, 4), np.float32))
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = doubled(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnnxError, match=r"onnxruntime: not installed, .* pip install onnxruntime"):
        OnnxModel(path, [(None, 3)], [(None, 3)])
