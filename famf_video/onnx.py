"""ONNX files as functions of arrays, whose inputs and outputs are checked before they run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from famf_video.registry import checksum

BATCH = 8  # items in one call: on a CPU larger batches are no faster and take more memory

Shape = tuple[int | None, ...]
"""Sizes of the dimensions; None where any size will do."""

Pictures = Sequence[np.ndarray] | np.ndarray


class OnnxError(ValueError):
    """A file is no ONNX model, has other inputs or outputs than expected, or a package is missing."""


class OnnxModel:
    """The model in an ONNX file, run on the CPU by ONNX Runtime. Several threads may call it at once.

    Args:
        path: of the file.
        inputs: the shape of every input; all are float32.
        outputs: the shape of every output, in the order of the file; all are float32.
        threads: used by one call; 0 means one per core.

    Raises:
        OnnxError: one sentence that names the file, what was found and what was expected.
    """

    def __init__(self, path: Path | str, inputs: Sequence[Shape], outputs: Sequence[Shape], threads: int = 0):
        self.path = Path(path)
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "no such file"
            raise OnnxError(f"{self.path}: {found} found, expected an ONNX model")
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # each kind of damage raises a class of its own
            raise OnnxError(f"{self.path}: cannot be opened as an ONNX model ({_short(error)})") from error
        self.inputs = [(given.name, _shape(given.shape), given.type) for given in self._session.get_inputs()]
        self.outputs = [(given.name, _shape(given.shape), given.type) for given in self._session.get_outputs()]
        for which, found, expected in (("inputs", self.inputs, inputs), ("outputs", self.outputs, outputs)):
            self._check(which, found, expected)

    def _check(self, which: str, found: list[tuple[str, Shape, str]], expected: Sequence[Shape]) -> None:
        if len(found) != len(expected):
            names = ", ".join(name for name, _, _ in found) or "none"
            raise OnnxError(f"{self.path}: {len(found)} {which} found ({names}), expected {len(expected)}")
        for (name, shape, kind), wanted in zip(found, expected, strict=True):
            if kind != "tensor(float)":
                raise OnnxError(f"{self.path}: {which}: {name} is a {kind}, expected float32, tensor(float)")
            fits = len(shape) == len(wanted) and all(
                a in (None, b) or b is None for a, b in zip(shape, wanted, strict=True)
            )
            # The shape of an output may be empty: the file then does not say how many dimensions it has.
            if not fits and (shape or which == "inputs"):
                told = f"{name} has the shape {_words(shape)}, expected {_words(wanted)}"
                raise OnnxError(f"{self.path}: {which}: {told}")

    @property
    def batch(self) -> int | None:
        """The number of items that each call must have, None if it is free."""
        return self.inputs[0][1][0]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Runs the model; inputs and outputs are in the order of the file.

        Raises:
            OnnxError: the model cannot be run on these arrays.
        """
        given = {name: array for (name, _, _), array in zip(self.inputs, arrays, strict=True)}
        try:
            return self._session.run(None, given)
        except Exception as error:
            raise OnnxError(f"{self.path}: the model fails ({_short(error)})") from error


class OnnxEmbedder(ABC):
    """A network that turns each item of a batch into a vector. A subclass prepares the items.

    Args:
        path: of the file.
        shape: of its input.
        probe: any items; the length of their vectors is ``dim``.
        threads: as of ``OnnxModel``.

    Raises:
        OnnxError: the file is no such network.
    """

    def __init__(self, path: Path | str, shape: Shape, probe: Pictures, threads: int = 0):
        self.model = OnnxModel(path, [shape], [(None, None)], threads)
        self.checksum = checksum(self.model.path)
        self.dim = self._run(probe).shape[1]

    @abstractmethod
    def prepare(self, items: Pictures) -> Float32[np.ndarray, "n 3 _ _"]:
        """Turns RGB pictures into the network's input."""

    def embed(self, items: Pictures) -> Float32[np.ndarray, "n D"]:
        """Computes the vectors of RGB pictures, as the network gives them."""
        size = self.model.batch or BATCH
        found = [self._run(items[start : start + size]) for start in range(0, len(items), size)]
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)

    def _run(self, items: Pictures) -> Float32[np.ndarray, "n D"]:
        given = self.prepare(items)
        missing = (self.model.batch or len(items)) - len(items)  # a fixed batch is filled with zeros
        return self.model(np.pad(given, ((0, missing), (0, 0), (0, 0), (0, 0))))[0][: len(items)]


def require(*packages: str) -> None:
    """Raises: OnnxError, one sentence, if a package of the optional part is not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise OnnxError(
            f"{missing[0]}: not installed, expected it for the extraction: pip install {' '.join(packages)}"
        )


def _shape(told: Sequence[int | str | None]) -> Shape:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in told)


def _words(shape: Shape) -> str:
    return " × ".join("any" if size is None else str(size) for size in shape) or "unknown"


def _short(error: Exception) -> str:
    """The message of ONNX Runtime as one short line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return line if len(line) <= 300 else f"{line[:300]} …"
