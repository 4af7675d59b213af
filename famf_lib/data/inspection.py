"""A ClipSet looked at: what is in it, on one screen, and whether its files are still what was saved."""

import hashlib
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32

from famf_lib.data import clipset as features
from famf_lib.data.clipset import CHECKSUMS, FILES, PIECE, ClipSet
from famf_lib.support.wording import counted

WIDTH, LABEL = 80, 13  # characters of a line, and of what stands before the colon of it
MODALITIES = 6  # that have a line of their own
CHECKSUM = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")  # a line as sha256sum writes it, about a file in this folder


# --- what is in it ---------------------------------------------------------------------------------------------------


def summary(clipset: ClipSet, title: str = "") -> str:
    """What is in a ClipSet, as text for a screen of 80 × 24 characters."""
    clips, counts = clipset.clips, clipset.counts.numpy()
    splits = clips["split"].value_counts()
    dealt = ", ".join(f"{splits[name]:,} {name}" for name in ("train", "val", "test") if name in splits)
    unsplit, nobody = int(clips["split"].isna().sum()), int(clips["person"].isna().sum())
    parts = [dealt] * bool(dealt) + [f"{unsplit:,} without a split"] * bool(unsplit) + [f"{nobody:,} of nobody known"]
    groups = clips["group"].nunique()
    lines = _line("persons", f"{len(clipset.persons):,}" + f", in {groups:,} groups" * bool(groups))
    lines += _line("clips", f"{len(clips):,}: {', '.join(parts)}", 2)
    a_clip = f"{counts.min():,} to {counts.max():,} a clip, median {np.median(counts):,g}, mean {counts.mean():,.1f}"
    without = int((counts == 0).sum())
    lines += _line(
        "faces", f"{counts.sum():,} of {clipset.dim} numbers; {a_clip}; {counted(without, 'clip')} without a face", 2
    )
    if len(clipset.faces):
        low, median, high = np.quantile(norms(clipset), [0.05, 0.5, 0.95])
        lines += _line("face norms", f"median {median:.4g}; 5 to 95 %: {low:.4g} to {high:.4g}")
    for name, modality in list(clipset.modalities.items())[:MODALITIES]:
        share = f"{modality.present.float().mean():.1%} of the clips"
        lines += _line(_short(name, LABEL - 2), f"{modality.vectors.shape[1]} numbers, {share} have it")
    if (more := len(clipset.modalities) - MODALITIES) > 0:
        lines += _line("", f"and {more} more modalities")
    lines += _line("of a face", ", ".join(_face_columns(clipset)), 2)
    lines += _line("of a clip", ", ".join(clips.columns), 2)
    lines += _line("source", "; ".join(f"{name}: {_condensed(value)}" for name, value in clipset.info.items()), 3)
    size = sum(path.stat().st_size for path in clipset.folder.iterdir()) if clipset.folder else None
    lines += _line("fingerprint", clipset.fingerprint + (f"; {_bytes(size)} on disk" if size is not None else ""))
    return "\n".join([_short(title, WIDTH)] * bool(title) + lines + [str(clipset.folder)] * bool(clipset.folder))


def norms(clipset: ClipSet) -> Float32[np.ndarray, " F"]:
    """The lengths of the face vectors."""
    pieces = [piece.float().norm(dim=1) for piece in clipset.faces.split(PIECE)]
    return torch.cat(pieces).cpu().numpy() if pieces else np.empty(0, dtype=np.float32)


def _face_columns(clipset: ClipSet) -> list[str]:
    table = clipset.face_table
    return list(table.columns) if isinstance(table, pd.DataFrame) else pq.read_schema(table).names


def _line(label: str, text: str, most: int = 1) -> list[str]:
    """``most`` lines at the most; what does not fit is cut off, and the cut shows."""
    if not text:
        return []
    options = {"width": WIDTH - LABEL, "max_lines": most, "placeholder": " …", "break_on_hyphens": False}
    first, *rest = textwrap.wrap(text, **options)
    return [f"{label:{LABEL}}{first}", *(" " * LABEL + line for line in rest)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _condensed(value: Any) -> str:
    """A value of ``info``; of one that holds others, how many."""
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    return _short(str(value), 40)


def _bytes(size: int | float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"


# --- whether it is still what was saved ------------------------------------------------------------------------------


def faults(folder: Path) -> list[str]:
    """Everything in which a saved ClipSet differs from what was saved, a sentence each; none where it is whole.

    The files are compared with their checksums, where there are any; then the contents with each other and with the
    fingerprint, which is worked out anew. Columns of faces and further columns of clips are guarded by checksums alone.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder}: there is no such folder, expected that of a ClipSet"]
    missing = [f"{folder / name}: there is no such file" for name in FILES if not (folder / name).is_file()]
    found = missing + _unlike_checksums(folder)
    if missing:
        return found
    try:
        clipset = ClipSet.open(folder)
        clipset.face_columns()
        _check(clipset)
        fingerprint = features.content_fingerprint(clipset)
    except Exception as error:  # whatever a damaged file makes its reader say
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return [*found, first if first.startswith(str(folder)) else f"{folder}: {first}"]
    if fingerprint != clipset.fingerprint:
        expected = f"{clipset.fingerprint}, with which they were saved"
        found.append(f"{folder}: the contents have the fingerprint {fingerprint}, expected {expected}")
    return found


def _unlike_checksums(folder: Path) -> list[str]:
    """What the file of checksums contradicts."""
    sums = folder / CHECKSUMS
    if not sums.exists():
        return []
    found, listed = [], set()
    for number, line in enumerate(sums.read_bytes().decode(errors="replace").splitlines(), start=1):
        if not (match := CHECKSUM.fullmatch(line)):
            found.append(f"{sums}: line {number} is {_short(line, 80)!r}, expected a checksum and the name of a file")
            continue
        listed.add(match[2])
        path = folder / match[2]
        if not path.is_file():
            found += [f"{path}: there is no such file"] * (match[2] not in FILES)
            continue
        with path.open("rb") as file:
            if (digest := hashlib.file_digest(file, "sha256").hexdigest()) != match[1]:
                found.append(f"{path}: it has the SHA-256 {digest[:16]}…, expected {match[1][:16]}… as in {CHECKSUMS}")
    return found + [f"{sums}: {name} is missing from it" for name in FILES if name not in listed]


def _check(clipset: ClipSet) -> None:
    """Raises: ClipSetError, for contents that contradict each other."""
    ClipSet.build(
        clipset.faces,
        clipset.counts.numpy(),
        clipset.clips,
        face_table=pd.DataFrame(index=pd.RangeIndex(len(clipset.faces))),
        modalities={name: (m.vectors.numpy(), m.present.numpy()) for name, m in clipset.modalities.items()},
    )
