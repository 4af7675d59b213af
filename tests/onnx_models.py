"""Small ONNX files, written node by node, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra extract is not installed")
pytest.importorskip("onnxruntime", reason="the extra extract is not installed")

from onnx import TensorProto, helper, numpy_helper, save

Array = tuple[str, Sequence[int | str]]


def network(
    path: Path,
    nodes: Sequence[tuple],
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    constants: dict[str, np.ndarray] | None = None,
    kind: str = "FLOAT",
) -> Path:
    """Writes a graph of nodes (operator, inputs, outputs, attributes), with arrays of (name, shape)."""

    def arrays(told):
        return [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, shape in told]

    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **(more[0] if more else {})) for kind, given, made, *more in nodes],
        "made for a test",
        arrays(inputs),
        arrays(outputs),
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def embedder(path: Path, dim: int = 5, *, scaling: bool = True, batch: int | str = "n", seed: int = 0) -> Path:
    """A network with the shapes of ArcFace: the mean colour of sixteen fields of a face, times a random matrix.

    With ``scaling`` its first nodes take 127.5 away and divide, as InsightFace's older files do.
    """
    matrix = np.random.default_rng(seed).normal(size=(48, dim)).astype(np.float32)
    constants = {"middle": np.float32([127.5]), "part": np.float32([1 / 127.5]), "matrix": matrix}
    first = [("Sub", ["data", "middle"], ["moved"]), ("Mul", ["moved", "part"], ["scaled"])] if scaling else []
    nodes = [
        *first,
        ("AveragePool", ["scaled" if scaling else "data"], ["fields"], {"kernel_shape": [28, 28], "strides": [28, 28]}),
        ("Flatten", ["fields"], ["flat"]),
        ("MatMul", ["flat", "matrix"], ["fc1"]),
    ]
    shapes = [("data", [batch, 3, 112, 112])], [("fc1", [batch, dim])]
    return network(path, nodes, *shapes, {k: v for k, v in constants.items() if scaling or k == "matrix"})
