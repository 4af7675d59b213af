"""Face embedders: from aligned faces to vectors. The default is any network of the ArcFace kind in an ONNX file."""

from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from famf_video.alignment import SIZE
from famf_video.onnx import OnnxEmbedder, require

ARITHMETIC = ("Sub", "Add", "Mul", "Div")
TRANSPARENT = ("Identity", "Cast", "Transpose", "Dropout")


@runtime_checkable
class FaceEmbedder(Protocol):
    """Turns aligned faces into vectors. ``checksum`` identifies the embedder: vectors of two embedders do not mix."""

    dim: int
    checksum: str

    def embed(self, faces: UInt8[np.ndarray, "F 112 112 3"]) -> Float32[np.ndarray, "F D"]:
        """Computes the vectors of aligned RGB faces, as the network gives them: not of unit length."""
        ...


class ArcFace(OnnxEmbedder):
    """A network of the ArcFace kind in an ONNX file, such as InsightFace's: N × 3 × 112 × 112 in RGB → N × D.

    One call uses one thread; call it from several threads to use several cores.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str):
        super().__init__(path, (None, 3, SIZE, SIZE), np.zeros((1, SIZE, SIZE, 3), np.uint8), threads=1)

    @cached_property
    def scaled(self) -> bool:
        """Whether the network expects pixels of −1 to 1."""
        return not has_own_scaling(self.model.path)

    def prepare(self, faces: UInt8[np.ndarray, "F 112 112 3"]) -> Float32[np.ndarray, "F 3 112 112"]:
        pixels = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), np.float32)
        return (pixels - 127.5) / 127.5 if self.scaled else pixels


def has_own_scaling(path: Path | str) -> bool:
    """Returns whether a network expects pixels of 0 to 255 and scales them in its own graph.

    It does if the first operation on its input is arithmetic. Otherwise it expects (x − 127.5) / 127.5. For
    InsightFace's files this agrees with InsightFace's own rule, which looks for the names that its converter gives to
    such nodes (``_minusscalar0``, ``_mulscalar0``).
    """
    require("onnx")
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    name = next(given.name for given in graph.input if given.name not in constants)
    for node in graph.node:  # in the order of computation
        if name in node.input:
            if node.op_type not in TRANSPARENT:
                return node.op_type in ARITHMETIC
            name = node.output[0]
    return False
