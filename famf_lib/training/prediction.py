"""The predictions of a saved model for clips: the most probable persons, and the weight of each face.

The model gets N faces of each clip, evenly spaced over the clip (``evenly``), or all of them. A clip has the same
answer whatever clips are asked about with it. (An evaluation draws faces at random, from all clips together.) A clip
with neither a face nor one of the model's modalities has an empty answer. The weights are of all faces of a clip.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from famf_lib.data.clipset import ClipSet, Modality
from famf_lib.data.sampling import Batch
from famf_lib.models.famf import FAMF
from famf_lib.support.files import written_whole
from famf_lib.training.checkpoint import Card, SavedModel

ENDINGS = (".parquet", ".jsonl", ".csv")
CLIPS_AT_ONCE = 1_024
FACES_AT_ONCE = 16_384  # faces of padded clips that are computed together, or those of one longer clip
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("persons", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
        ("first_face", pa.int64()),
        ("weights", pa.list_(pa.float32())),
    ]
)
"""One row per clip. ``persons`` and ``probabilities``: the most probable first; over all persons they sum to 1. Both
are empty for a clip without evidence.
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


def evenly(counts: Int64[Tensor, " B"], n: int) -> Int64[Tensor, "B {n}"]:
    """Chooses n faces of each clip: those at the positions (2 i + 1) F // 2 n of its F faces, for i = 0 … n − 1.

    A clip with n faces or more gives n different ones; a shorter one gives each face floor(n / F) or ceil(n / F) times.
    """
    return (2 * torch.arange(n, device=counts.device) + 1) * counts[:, None] // (2 * n)


def has_evidence(opened: SavedModel, clipset: ClipSet) -> Bool[Tensor, " V"]:
    """Whether a clip has a face or one of the model's modalities."""
    present = [clipset.modalities[name].present for name in opened.card.config.modalities]
    return torch.stack([clipset.offsets.diff() > 0, *present]).any(dim=0)


def predict(
    opened: SavedModel, clipset: ClipSet, top: int = 5, faces: int | Literal["all"] | None = None
) -> Iterator[pa.Table]:
    """Yields the ``top`` persons of every clip and the weights of its faces, one table of ``SCHEMA`` per batch.

    The model and the ClipSet are on the same device; the ClipSet comes from ``fitting``.

    Args:
        faces: N, or all faces of each clip; by default the model's own N.

    Raises:
        PredictionError: the model is damaged and its probabilities are not finite.
    """
    evident = has_evidence(opened, clipset)
    for rows in torch.arange(len(clipset), device=evident.device).split(CLIPS_AT_ONCE):
        if len(rows):
            probability = _probabilities(opened, clipset, rows, faces or opened.card.evaluation.faces)
            yield _table(opened, clipset, rows, probability, evident[rows], top)


@torch.inference_mode()
def _probabilities(
    opened: SavedModel, clipset: ClipSet, rows: Int64[Tensor, " B"], faces: int | Literal["all"]
) -> Float[Tensor, "B C"]:
    """The probabilities of consecutive clips."""
    offsets = clipset.offsets[torch.cat([rows, rows[-1:] + 1])]
    counts = offsets.diff()
    if faces == "all":
        batches = _padded(offsets)
    else:
        mask = (counts > 0)[:, None].expand(-1, faces)
        batches = [(torch.arange(len(rows), device=rows.device), offsets[:-1, None] + evenly(counts, faces), mask)]
    modalities = {name: clipset.modalities[name] for name in opened.card.config.modalities}
    logits = torch.empty(len(rows), len(opened.card.persons), device=rows.device)
    for clips, places, mask in batches:
        of = rows[clips]
        vectors = {name: modality.vectors[of].float() for name, modality in modalities.items()}
        present = {name: modality.present[of] for name, modality in modalities.items()}
        if not len(clipset.faces):  # nothing to index, not even for the mask to hide
            places, mask = places[:, :0], mask[:, :0]
        given = clipset.faces[places.where(mask, 0)].float()
        logits[clips] = opened.model(Batch(given, mask, vectors, present))
    probability = logits.softmax(dim=1)
    if not probability.isfinite().all():
        raise PredictionError(
            f"model: run {opened.card.run!r} gives NaN or infinity, expected probabilities; it is damaged"
        )
    return probability


def _padded(
    offsets: Int64[Tensor, " B_plus_1"],
) -> Iterator[tuple[Int64[Tensor, " b"], Int64[Tensor, "b N"], Bool[Tensor, "b N"]]]:
    """All faces of consecutive clips, in batches of clips of similar length, which keeps padding small.

    Yields positions of clips, positions of their faces in the ClipSet, and which of these are faces of the clip.
    """
    counts = offsets.diff()
    order, start = counts.argsort(descending=True), 0
    while start < len(order):
        longest = max(int(counts[order[start]]), 1)
        clips = order[start : start + max(FACES_AT_ONCE // longest, 1)]
        place = torch.arange(longest, device=offsets.device)
        yield clips, offsets[clips][:, None] + place, place < counts[clips][:, None]
        start += len(clips)


def _table(
    opened: SavedModel,
    clipset: ClipSet,
    rows: Int64[Tensor, " B"],
    probability: Float[Tensor, "B C"],
    evident: Bool[Tensor, " B"],
    top: int,
) -> pa.Table:
    """The table of consecutive clips; ``evident`` says which have an answer."""
    likely, best = (found[evident].cpu() for found in probability.topk(min(top, probability.shape[1]), dim=1))
    ends = np.concatenate([[0], evident.cumsum(0).cpu() * best.shape[1]]).astype(np.int32)
    persons = pa.array(opened.card.persons, pa.string()).take(pa.array(best.flatten().numpy()))
    offsets = clipset.offsets[torch.cat([rows, rows[-1:] + 1])]
    within = (offsets - offsets[0]).cpu().numpy().astype(np.int32)
    columns = [
        pa.array(clipset.clips["name"].iloc[rows.cpu().numpy()].astype(str).tolist(), pa.string()),
        pa.ListArray.from_arrays(ends, persons),
        pa.ListArray.from_arrays(ends, pa.array(likely.flatten().numpy())),
        pa.array(offsets[:-1].cpu().numpy()),
        pa.ListArray.from_arrays(within, pa.array(face_weights(opened.model, clipset, offsets).cpu().numpy())),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


@torch.inference_mode()
def face_weights(model: FAMF, clipset: ClipSet, offsets: Int64[Tensor, " B_plus_1"]) -> Float32[Tensor, " F"]:
    """The weights of all faces of consecutive clips; ``offsets`` gives the first face of each clip and the end."""
    weights = torch.empty(int(offsets[-1] - offsets[0]), device=offsets.device)
    if len(weights):
        for _, places, mask in _padded(offsets):
            batch = Batch(clipset.faces[places.where(mask, offsets[0])].float(), mask, {}, {})
            weights[places[mask] - offsets[0]] = model.face_weights(batch)[mask]
    return weights


def write(tables: Iterable[pa.Table], path: Path, report: Callable[[int], None] = lambda clips: None) -> Path:
    """Writes the tables atomically, as they arrive: to Parquet, JSON lines or CSV, by the ending of the name.

    CSV has one row per clip and person, the most probable first, and no weights; a clip without an answer has one row.

    ``report`` is called after every table with the number of clips written.

    Raises:
        PredictionError: the name has another ending, or is a folder; raised before anything is computed.
    """
    if path.suffix not in ENDINGS:
        raise PredictionError(f"{path}: ends in {path.suffix!r}, expected one of {', '.join(ENDINGS)}")
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
    elif ending == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("name", "rank", "person", "probability"))
            yield lambda table: rows.writerows(_ranked(table))
    else:
        with path.open("w", encoding="utf-8") as file:
            yield lambda table: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


def _ranked(table: pa.Table) -> Iterator[tuple]:
    """The rows of CSV."""
    for row in table.to_pylist():
        if not row["persons"]:
            yield row["name"], "", "", ""
        for rank, (person, value) in enumerate(zip(row["persons"], row["probabilities"], strict=True), 1):
            yield row["name"], rank, person, f"{value:.6g}"
