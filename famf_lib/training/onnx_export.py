"""Exports a saved model as an ONNX graph, and checks it against PyTorch before it is kept.

For B clips of N faces each (B and N are free) the graph has ::

    faces (B, N, D) float32         mask (B, N) bool                masked faces have no effect
    m (B, D_m) float32              m.present (B,) bool             of each modality m
    → logits (B, C)                 probabilities (B, C)            weights (B, N)

It uses all faces that it is given. ``prediction.evenly`` chooses those that ``famf predict`` gives a model; with
the same faces the answers are the same. Its metadata are those of the saved model (see ``checkpoint``).
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

PACKAGES = ("onnxscript", "onnxruntime")  # the first writes the graph, the second runs it
OUTPUTS = ("logits", "probabilities", "weights")
SIZES = ((3, 5), (1, 1), (7, 2), (2, 11))  # B and N of the batches that are compared; the first is used for the export
TOLERANCE = 1e-4  # relative to the largest number; trained models differ by 1e-6, by the order of float32 additions


class ExportError(ValueError):
    """The model cannot be exported, or the export gives other numbers."""


def onnx(opened: SavedModel, path: Path) -> float:
    """Writes the graph atomically; returns the largest difference from PyTorch relative to the largest number.

    Raises:
        ExportError: a package is missing, a name is ambiguous, or the graph gives other numbers.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ExportError(f"{missing[0]}: not installed, expected it for ONNX: pip install {' '.join(PACKAGES)}")
    if taken := {"faces", "mask", *OUTPUTS} & set(opened.card.config.modalities):
        raise ExportError(f"modalities: {min(taken)!r} is the name of another tensor of the graph, expected another")
    _check_file(path)
    with written_whole(path) as new:
        _graph(opened).save(new, external_data=False)
        worst = _difference(opened, new)
        if not worst <= TOLERANCE:  # also catches NaN
            raise ExportError(
                f"{path}: differs from PyTorch by {worst:.1e}, expected at most {TOLERANCE:.0e}; not kept"
            )
    return worst


def description(card: Card) -> str:
    """The inputs and outputs of the graph, and the faces that ``famf predict`` would give it."""
    n, of = card.evaluation.faces, "".join(f", {m} (clips, {card.modality_dims[m]})" for m in card.config.modalities)
    present = "".join(f", {m}.present (clips,)" for m in card.config.modalities)
    return (
        f"inputs: faces (clips, faces, {card.dim}){of} float32; mask (clips, faces){present} bool\n"
        f"outputs: logits and probabilities (clips, {len(card.persons)}), weights (clips, faces) float32\n"
        f"famf predict uses {n} of the F faces of a clip: those at (2 i + 1) F // {2 * n}, i = 0 … {n - 1}"
    )


def copy(source: Path, path: Path) -> Path:
    """Copies a saved model atomically.

    Raises:
        SavedModelError: the source is not a saved model.
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
    """The model with the tensors of a Batch as arguments, modalities in the order of the configuration."""

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
    """Random arguments of ``_Graph``. Some faces, and all faces of one clip, are masked; absent values are NaN."""
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
    arguments = slice(4 if a_clip else 2)  # the exporter rejects empty tuples
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
        node.metadata_props.clear()  # it holds source lines with paths of this machine
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
    """Silences the exporter's own messages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
