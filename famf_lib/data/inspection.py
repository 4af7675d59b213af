"""Inspects a ClipSet: a summary for one screen, and a check that its files are still what was saved."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32

from famf_lib.data import clipset as features
from famf_lib.data.clipset import CHECKSUMS, FILES, PIECE, ClipSet, sha256
from famf_lib.data.opening import checked
from famf_lib.support.wording import counted, first_line, plain

WIDTH, LABEL = 80, 13  # characters of a line, and of its label
MODALITIES = 6  # modalities with a line of their own
CHECKSUM = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")  # a line of sha256sum about a file in this folder


def summary(clipset: ClipSet, title: str = "") -> str:
    """Summarises a ClipSet as text for a screen of 80 × 24 characters."""
    clips, counts, groups = clipset.clips, clipset.counts.numpy(), clipset.clips["group"].nunique()
    splits = clips["split"].value_counts()
    parts = [f"{splits[name]:,} {name}" for name in features.SPLITS if name in splits]
    parts += [f"{n:,} without a split" for n in [clips["split"].isna().sum()] if n]
    parts.append(f"{clips['person'].isna().sum():,} of no known person")
    lines = _line("persons", f"{len(clipset.persons):,}" + f", in {groups:,} groups" * bool(groups))
    lines += _line("clips", f"{len(clips):,}: {', '.join(parts)}", 2)
    per_clip = (
        f"{counts.min():,} to {counts.max():,} per clip, median {np.median(counts):,g}, mean {counts.mean():,.1f}"
    )
    without = int((counts == 0).sum())
    lines += _line(
        "faces", f"{counts.sum():,} of {clipset.dim} numbers; {per_clip}; {counted(without, 'clip')} without a face", 2
    )
    if len(clipset.faces):
        low, median, high = np.quantile(norms(clipset), [0.05, 0.5, 0.95])
        lines += _line("face norms", f"median {median:.4g}; 5 to 95 %: {low:.4g} to {high:.4g}")
    for name, modality in list(clipset.modalities.items())[:MODALITIES]:
        share = f"{modality.present.float().mean():.1%} of the clips"
        lines += _line(_short(name, LABEL - 2), f"{modality.vectors.shape[1]} numbers, {share} have it")
    if (more := len(clipset.modalities) - MODALITIES) > 0:
        lines += _line("", f"and {more} more modalities")
    table = clipset.face_table
    columns = table.columns if isinstance(table, pd.DataFrame) else pq.read_schema(table).names
    lines += _line("of a face", ", ".join(columns), 2)
    lines += _line("of a clip", ", ".join(clips.columns), 2)
    info = {
        k: f"{len(v)} entries" if isinstance(v, dict | list) else _short(str(v), 40) for k, v in clipset.info.items()
    }
    lines += _line("source", "; ".join(f"{name}: {value}" for name, value in info.items()), 3)
    size = ""
    if clipset.folder:
        size = f"; {sum(path.stat().st_size for path in clipset.folder.iterdir()) / 1e6:,.1f} MB on disk"
    lines += _line("fingerprint", clipset.fingerprint + size)
    return "\n".join([_short(title, WIDTH)] * bool(title) + lines + [str(clipset.folder)] * bool(clipset.folder))


def norms(clipset: ClipSet) -> Float32[np.ndarray, " F"]:
    """The lengths of the face vectors."""
    pieces = [piece.float().norm(dim=1) for piece in clipset.faces.split(PIECE)]
    return torch.cat(pieces).cpu().numpy() if pieces else np.empty(0, dtype=np.float32)


def _line(label: str, text: str, most: int = 1) -> list[str]:
    """A labelled text on at most ``most`` lines; … marks a cut."""
    lines = textwrap.wrap(text, WIDTH - LABEL, max_lines=most, placeholder=" …", break_on_hyphens=False)
    return [f"{label if number == 0 else '':{LABEL}}{line}" for number, line in enumerate(lines)]


def _short(text: str, width: int) -> str:
    text = plain(text, None, strip=False)
    return text if len(text) <= width else text[: width - 1] + "…"


def faults(folder: Path) -> list[str]:
    """Returns one sentence for each way in which a saved ClipSet differs from what was saved.

    The files are compared with their checksums, if there are any, and the contents with each other and with the
    fingerprint. Only the checksums cover face columns and additional clip columns.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder}: there is no such folder, expected that of a ClipSet"]
    missing = [f"{folder / name}: there is no such file" for name in FILES if not (folder / name).is_file()]
    found = missing + _compare_checksums(folder)
    if missing:
        return found
    try:
        clipset = checked(folder)
        clipset.face_columns()
        ClipSet.build(  # raises an error if the contents contradict each other
            clipset.faces,
            clipset.counts.numpy(),
            clipset.clips,
            face_table=pd.DataFrame(index=pd.RangeIndex(len(clipset.faces))),
            modalities={name: (m.vectors.numpy(), m.present.numpy()) for name, m in clipset.modalities.items()},
        )
        fingerprint = features.content_fingerprint(clipset)
    except Exception as error:  # anything that a reader may raise on a damaged file
        first = first_line(error)
        return [*found, first if first.startswith(str(folder)) else f"{folder}: {first}"]
    if fingerprint != clipset.fingerprint:
        expected = f"{clipset.fingerprint} as saved"
        found.append(f"{folder}: the contents have the fingerprint {fingerprint}, expected {expected}")
    return found


def _compare_checksums(folder: Path) -> list[str]:
    sums = folder / CHECKSUMS
    if not sums.exists():
        return []
    found, listed = [], set()
    for number, line in enumerate(sums.read_bytes().decode(errors="replace").splitlines(), start=1):
        if not (match := CHECKSUM.fullmatch(line)):
            found.append(f"{sums}: line {number} is {_short(line, 80)!r}, expected a checksum and the name of a file")
            continue
        expected, name = match.groups()
        listed.add(name)
        if not (folder / name).is_file():
            found += [f"{folder / name}: there is no such file"] * (name not in FILES)
        elif (digest := sha256(folder / name)) != expected:
            found.append(
                f"{folder / name}: it has the SHA-256 {digest[:16]}…, expected {expected[:16]}… as in {CHECKSUMS}"
            )
    return found + [f"{sums}: {name} is missing from it" for name in FILES if name not in listed]
