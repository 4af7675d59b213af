"""An ONNX file as a function of arrays, checked for what it takes and gives before it runs."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Shape = tuple[int | None, ...]
"""Sizes of the dimensions; None where any size will do."""


class OnnxError(ValueError):
    """A file that is no ONNX model, one that takes or gives other arrays, or a missing package."""


class OnnxModel:
    """The model in a file, run on the CPU by ONNX Runtime. It may be called from several threads at once.

    Args:
        path: of the file.
        inputs: the shape of every input, all of which are float32.
        outputs: likewise; they are asked for in the order of the file.
        threads: that one call uses; 0 is a thread a core.

    Raises:
        OnnxError: one sentence with the file, what was found and what was expected.
    """

    def __init__(self, path: Path | str, inputs: Sequence[Shape], outputs: Sequence[Shape], threads: int = 0):
        self.path = Path(path)
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "no such file"
            raise OnnxError(f"{self.path}: {found} found, expected an ONNX model")
        needed("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # every kind of damage has a class of its own
            raise OnnxError(f"{self.path}: no ONNX model can be opened here ({_short(error)})") from error
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
                raise OnnxError(f"{self.path}: {name} of the {which} is a {kind}, expected float32, tensor(float)")
            # A model that does not tell the number of dimensions of a result gives an empty shape.
            fits = len(shape) == len(wanted) and all(
                a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
            )
            if not fits and (shape or which == "inputs"):
                raise OnnxError(
                    f"{self.path}: {name} of the {which} has the shape {_words(shape)}, expected {_words(wanted)}"
                )

    @property
    def batch(self) -> int | None:
        """How many items a call must have, None where any number will do."""
        return self.inputs[0][1][0]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs for the inputs, in their orders.

        Raises:
            OnnxError: the model cannot be run on them.
        """
        given = {name: array for (name, _, _), array in zip(self.inputs, arrays, strict=True)}
        try:
            return self._session.run(None, given)
        except Exception as error:
            raise OnnxError(f"{self.path}: the model fails ({_short(error)})") from error


def needed(*packages: str) -> None:
    """One sentence where a package of the optional part is not installed.

    Raises:
        OnnxError: that sentence.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise OnnxError(
            f"{missing[0]}: not installed, expected it for the extraction: pip install {' '.join(packages)}"
        )


def _shape(told: Sequence[int | str | None]) -> Shape:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in told)


def _words(shape: Shape) -> str:
    return " × ".join("any" if size is None else str(size) for size in shape) or "unknown"


def _short(error: Exception) -> str:
    """The complaint of ONNX Runtime as one short line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return line if len(line) <= 300 else f"{line[:300]} …"
