"""Face embedders: an aligned face becomes a vector. The default is any network of the ArcFace kind, as an ONNX file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from famf_lib.support.provenance import cores
from famf_video.alignment import SIZE
from famf_video.onnx import OnnxModel, needed
from famf_video.registry import checksum

BATCH = 8  # faces of a call: more are no faster on a CPU, and take memory
FIRST = ("Sub", "Add", "Mul", "Div")
THROUGH = ("Identity", "Cast", "Transpose", "Dropout")


@runtime_checkable
class FaceEmbedder(Protocol):
    """What turns aligned faces into vectors. ``checksum`` tells one embedder from another: their vectors do not mix."""

    dim: int
    checksum: str

    def embed(self, faces: UInt8[np.ndarray, "F 112 112 3"]) -> Float32[np.ndarray, "F D"]:
        """The vectors of aligned RGB faces, as the network gives them: not of unit length."""
        ...


class ArcFace:
    """A network of the ArcFace kind in an ONNX file: N × 3 × 112 × 112 in RGB → N × D. InsightFace's files are such.

    Args:
        path: of the file.
        workers: batches that are worked on at once, a thread each; one a core unless told.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str, workers: int | None = None):
        # One thread a batch and several batches at once: faster than several threads a batch.
        self.model = OnnxModel(path, [(None, 3, SIZE, SIZE)], [(None, None)], threads=1)
        self.checksum = checksum(self.model.path)
        self.workers = cores() if workers is None else workers
        self.scaled = not scales_itself(self.model.path)
        self.dim = self._run(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape[1]

    def embed(self, faces: UInt8[np.ndarray, "F 112 112 3"]) -> Float32[np.ndarray, "F D"]:
        size = self.model.batch or BATCH
        pieces = [faces[start : start + size] for start in range(0, len(faces), size)]
        if min(self.workers, len(pieces)) <= 1:
            found = [self._run(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                found = list(pool.map(self._run, pieces))
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)

    def _run(self, faces: UInt8[np.ndarray, "F 112 112 3"]) -> Float32[np.ndarray, "F D"]:
        numbers = np.zeros((self.model.batch or len(faces), 3, SIZE, SIZE), np.float32)  # a fixed batch is filled up
        numbers[: len(faces)] = faces.transpose(0, 3, 1, 2)
        if self.scaled:
            numbers = (numbers - 127.5) / 127.5
        return self.model(numbers)[0][: len(faces)]


def scales_itself(path: Path | str) -> bool:
    """Whether a network wants the pixels as they are, 0 to 255, and scales them in its own graph.

    It does if the first thing that happens to its input is arithmetic. Otherwise it wants (x − 127.5) / 127.5. Of
    InsightFace's files this says what its own rule says, which looks for the names that its converter gives to such
    nodes (``_minusscalar0``, ``_mulscalar0``).
    """
    needed("onnx")
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    name = next(given.name for given in graph.input if given.name not in constants)
    for node in graph.node:  # in the order in which they are worked out
        if name in node.input:
            if node.op_type not in THROUGH:
                return node.op_type in FIRST
            name = node.output[0]
    return False
