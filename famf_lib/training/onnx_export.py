"""A saved model as an ONNX graph, for programs that know no PyTorch; checked against PyTorch before it is left behind.

The graph has, for B clips of N faces each, B and N being free ::

    faces (B, N, D) float32         mask (B, N) bool                what lies under a mask that is off changes nothing
    m (B, D_m) float32              m.present (B,) bool             of each modality m
    → logits (B, C)                 probabilities (B, C)            weights (B, N)

Its metadata are those of the saved model (see ``saved``).
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from famf_lib.data.sampling import Batch
from famf_lib.models.famf import FAMF
from famf_lib.support.files import written_whole
from famf_lib.training import checkpoint
from famf_lib.training.checkpoint import Card, SavedModel

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

PACKAGES = ("onnxscript", "onnxruntime")  # the first writes a graph, the second runs it
OUTPUTS = ("logits", "probabilities", "weights")
SIZES = ((3, 5), (1, 1), (7, 2), (2, 11))  # B and N of the batches that are compared; the graph is made with the first
TOLERANCE = 1e-4  # of the largest number; trained models are 1e-6 apart: both are float32, and add in another order


class ExportError(ValueError):
    """A model that cannot be written in the other format, or comes out with other numbers."""


def onnx(opened: SavedModel, path: Path) -> float:
    """Writes the graph, whole or not at all; the largest difference from PyTorch, as a share of the largest number.

    Raises:
        ExportError: a package is missing, a name stands for two things, or the graph gives other numbers.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ExportError(f"{missing[0]}: not installed, expected it for ONNX: pip install {' '.join(PACKAGES)}")
    if taken := {"faces", "mask", *OUTPUTS} & set(opened.card.config.modalities):
        raise ExportError(f"modalities: {min(taken)!r} is the name of another tensor of the graph, expected another")
    _check_file(path)
    with written_whole(path) as new:
        _graph(opened).save(new, external_data=False)
        worst = _difference(opened, new)
        if not worst <= TOLERANCE:  # NaN is none either
            raise ExportError(f"{path}: {worst:.1e} apart from PyTorch, expected {TOLERANCE:.0e} at most; not kept")
    return worst


def copy(source: Path, path: Path) -> Path:
    """Writes a copy of a saved model, whole or not at all.

    Raises:
        SavedModelError: the source is none.
    """
    checkpoint.open(source)
    _check_file(path)
    with written_whole(path) as new:
        shutil.copyfile(source, new)
    return path


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ExportError(f"{path}: a folder found, expected the name of a file")


class _Graph(nn.Module):
    """The model with tensors for arguments: those of a Batch, the modalities in the order of the configuration."""

    def __init__(self, model: FAMF):
        super().__init__()
        self.model = model

    def forward(
        self, faces: Tensor, mask: Tensor, vectors: tuple[Tensor, ...] = (), present: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        names = self.model.config.modalities
        batch = Batch(faces, mask, dict(zip(names, vectors, strict=True)), dict(zip(names, present, strict=True)))
        logits = self.model(batch)
        return logits, logits.softmax(dim=1), self.model.face_weights(batch)


def _inputs(card: Card, clips: int, faces: int, seed: int = 0) -> tuple[Tensor, Tensor, tuple, tuple]:
    """Random arguments of ``_Graph``. Some faces are masked, all of one clip; nothing but NaN lies under an absence."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(clips, faces, generator=draw) < 0.8
    mask[clips // 2] = clips == 1
    vectors, present = [], []
    for name in card.config.modalities:
        present.append(torch.rand(clips, generator=draw) < 0.7)
        random = torch.randn(clips, card.modality_dims[name], generator=draw)
        vectors.append(random.masked_fill(~present[-1][:, None], torch.nan))
    random = torch.randn(clips, faces, card.dim, generator=draw)
    return random.masked_fill(~mask[..., None], torch.nan), mask, tuple(vectors), tuple(present)


def _names(card: Card) -> list[str]:
    modalities = card.config.modalities
    return ["faces", "mask", *modalities, *(f"{name}.present" for name in modalities)]


def _graph(opened: SavedModel) -> "ONNXProgram":
    card = opened.card
    free, a_clip = {0: "clips", 1: "faces"}, tuple({0: "clips"} for _ in card.config.modalities)
    arguments = slice(4 if a_clip else 2)  # the exporter cannot take empty ones
    with _quiet():
        program = torch.onnx.export(
            _Graph(opened.model).eval(),
            _inputs(card, *SIZES[0])[arguments],
            input_names=_names(card),
            output_names=list(OUTPUTS),
            dynamic_shapes=(free, free, a_clip, a_clip)[arguments],
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of code with the folders of this machine
    program.model.metadata_props.update(card.metadata())
    return program


def _difference(opened: SavedModel, file: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    worst = torch.zeros(())
    for seed, (clips, faces) in enumerate(SIZES):
        arguments = _inputs(opened.card, clips, faces, seed)
        with torch.inference_mode():
            expected = _Graph(opened.model)(*arguments)
        flat = [*arguments[:2], *arguments[2], *arguments[3]]
        given = {name: tensor.numpy() for name, tensor in zip(_names(opened.card), flat, strict=True)}
        for tensor, found in zip(expected, session.run(OUTPUTS, given), strict=True):
            apart = (torch.from_numpy(found) - tensor).abs().max() / tensor.abs().max()
            worst = torch.maximum(worst, apart)  # keeps a NaN
    return float(worst)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter has to say of itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
