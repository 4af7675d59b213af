"""The predictions of a saved model for clips: the most probable persons, and the weight of each face.

They are computed as in an evaluation: N faces per clip (the model's own N), drawn with the model's own seed. As there,
the draw depends on which clips are predicted together. The weights are of all faces of a clip, drawn or not.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from famf_lib.data.clipset import ClipSet, Modality
from famf_lib.data.sampling import Batch
from famf_lib.models.famf import FAMF
from famf_lib.support.files import written_whole
from famf_lib.training.checkpoint import Card, SavedModel
from famf_lib.training.evaluation import logits_of

ENDINGS = (".parquet", ".jsonl")
FACES_AT_ONCE = 16_384  # faces whose weights are computed together, or those of one longer clip
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("persons", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
        ("first_face", pa.int64()),
        ("weights", pa.list_(pa.float32())),
    ]
)
"""One row per clip. ``persons`` and ``probabilities``: the most probable first; over all persons they sum to 1.
``weights``: those of the clip's faces in their order, which are the rows of faces.parquet from ``first_face`` on."""


class PredictionError(ValueError):
    """The clips do not fit the model, or the predictions cannot be written."""


def fitting(clipset: ClipSet, card: Card) -> tuple[ClipSet, list[str]]:
    """The ClipSet with all modalities of the model, and the names of those that it lacked.

    A missing modality is marked as absent in every clip; the model then uses zero vectors (Sec. 4.3).

    Raises:
        PredictionError: the vectors have another length than in training, or come from another network.
    """
    made = clipset.info.get("embedder")
    if made and card.embedder and made != card.embedder:
        found, expected = (f"those of the network {sha[:16]}…" for sha in (made, card.embedder))
        raise PredictionError(f"faces: {found} found, expected {expected} (by its SHA-256), as in training")
    lengths = {"faces": (clipset.dim, card.dim)}
    lacking = [name for name in card.modality_dims if name not in clipset.modalities]
    for name in set(card.modality_dims) - set(lacking):
        lengths[name] = clipset.modalities[name].vectors.shape[1], card.modality_dims[name]
    for name, (found, expected) in lengths.items():
        if found != expected:
            raise PredictionError(f"{name}: vectors of {found} numbers found, expected {expected}, as in training")
    absent = {}
    for name in lacking:
        nothing = torch.zeros(1, card.modality_dims[name], dtype=torch.float16).expand(len(clipset), -1)
        absent[name] = Modality(nothing, torch.zeros(len(clipset), dtype=torch.bool))
    return replace(clipset, modalities=clipset.modalities | absent), lacking


def predict(opened: SavedModel, clipset: ClipSet, top: int = 5) -> Iterator[pa.Table]:
    """Yields the ``top`` persons of every clip and the weights of its faces, one table of ``SCHEMA`` per batch.

    The model and the ClipSet are on the same device; the ClipSet comes from ``fitting``.

    Raises:
        PredictionError: the model is damaged and its probabilities are not finite.
    """
    clips, card = torch.arange(len(clipset)), opened.card
    if len(clips) == 0:
        return
    for rows, logits in logits_of(opened.model, card.evaluation.faces, clipset, clips, card.seed):
        yield _table(opened, clipset, rows, logits, top)


@torch.inference_mode()
def _table(
    opened: SavedModel, clipset: ClipSet, rows: Int64[Tensor, " B"], logits: Float[Tensor, "B C"], top: int
) -> pa.Table:
    """The table of consecutive clips."""
    probability = logits.softmax(dim=1)
    if not probability.isfinite().all():
        raise PredictionError(
            f"model: run {opened.card.run!r} gives NaN or infinity, expected probabilities; it is damaged"
        )
    best = logits.topk(min(top, logits.shape[1]), dim=1).indices
    ends = np.arange(len(rows) + 1, dtype=np.int32) * best.shape[1]
    persons = pa.array(opened.card.persons, pa.string()).take(pa.array(best.flatten().cpu().numpy()))
    offsets = clipset.offsets[torch.cat([rows, rows[-1:] + 1])]
    within = (offsets - offsets[0]).cpu().numpy().astype(np.int32)
    columns = [
        pa.array(clipset.clips["name"].iloc[rows.cpu().numpy()].astype(str).tolist(), pa.string()),
        pa.ListArray.from_arrays(ends, persons),
        pa.ListArray.from_arrays(ends, pa.array(probability.gather(1, best).flatten().cpu().numpy())),
        pa.array(offsets[:-1].cpu().numpy()),
        pa.ListArray.from_arrays(within, pa.array(face_weights(opened.model, clipset, offsets).cpu().numpy())),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


@torch.inference_mode()
def face_weights(model: FAMF, clipset: ClipSet, offsets: Int64[Tensor, " B_plus_1"]) -> Float32[Tensor, " F"]:
    """The weights of all faces of consecutive clips; ``offsets`` gives the first face of each clip and the end."""
    counts = offsets.diff()
    order, start = counts.argsort(descending=True), 0  # clips of similar length together, to keep padding small
    weights = torch.empty(int(counts.sum()), device=offsets.device)
    while start < len(order) and (longest := int(counts[order[start]])):
        clips = order[start : start + max(FACES_AT_ONCE // longest, 1)]
        place = torch.arange(longest, device=offsets.device)
        mask = place < counts[clips][:, None]
        rows = (offsets[clips][:, None] + place).where(mask, offsets[0])
        found = model.face_weights(Batch(clipset.faces[rows].float(), mask, {}, {}))
        weights[rows[mask] - offsets[0]] = found[mask]
        start += len(clips)
    return weights


def write(tables: Iterable[pa.Table], path: Path, report: Callable[[int], None] = lambda clips: None) -> Path:
    """Writes the tables atomically, as they arrive: to Parquet or JSON lines, by the ending of the name.

    ``report`` is called after every table with the number of clips written.

    Raises:
        PredictionError: the name has another ending, or is a folder; raised before anything is computed.
    """
    if path.suffix not in ENDINGS:
        raise PredictionError(f"{path}: ends in {path.suffix!r}, expected {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise PredictionError(f"{path}: a folder found, expected the name of a file")
    done = 0
    with written_whole(path) as new, _writer(new, path.suffix) as add:
        for table in tables:
            add(table)
            done += len(table)
            report(done)
    return path


@contextmanager
def _writer(path: Path, ending: str) -> Iterator[Callable[[pa.Table], None]]:
    if ending == ".parquet":
        with pq.ParquetWriter(path, SCHEMA) as file:
            yield file.write_table
    else:
        with path.open("w", encoding="utf-8") as file:
            yield lambda table: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
