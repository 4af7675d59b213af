"""What a dataset consists of, in numbers that name nobody: measured where the data are, and recorded for elsewhere.

The page about a dataset calls ``datasheet(name)``. ``famf data info NAME --record`` writes what it shows on machines
without the data, ``results/NAME-datasheet.json``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from famf_lib.data import datasets, imfdb, quality
from famf_lib.data.clipset import ClipSet
from famf_lib.data.inspection import norms
from famf_lib.experiments import settings
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole

DIGITS = 4


def datasheet(name: str) -> dict[str, Any]:
    """The numbers of ``measure``; ``recorded`` is None, or the origin of the recording that they come from.

    Raises:
        DatasetAbsent: neither the dataset nor a recording of it is here.
    """
    dataset, place = datasets.get(name), recording(name)
    if (absence := dataset.absence()) is None:
        return measure(dataset.load()) | {"recorded": None}
    if not place.is_file():
        raise datasets.DatasetAbsent(absence)
    return json.loads(place.read_text())


def where_from(sheet: dict[str, Any]) -> str:
    """Whether the numbers were measured on this machine or recorded elsewhere, in a sentence."""
    if (origin := sheet["recorded"]) is None:
        return f"Measured on this machine; data fingerprint `{sheet['fingerprint']}`."
    commit = (origin["commit"] or "unknown")[:12]
    return (
        "**Recorded, not measured here**: the dataset is not on this machine. The numbers name nobody. Recorded at "
        f"commit `{commit}`; data fingerprint `{sheet['fingerprint']}`."
    )


def record(name: str, **more: Any) -> Path:
    """Measures a dataset that is here and writes the recording, with what a page adds as JSON can hold it.

    Added entries stay in later recordings of the same data.
    """
    found, place = measure(datasets.load(name)), recording(name)
    before = json.loads(place.read_text()) if place.is_file() else {}
    kept = before if before.get("fingerprint") == found["fingerprint"] else {}
    found = kept | found | more | {"recorded": provenance.origin(ROOT, but="results")}
    with written_whole(place) as new:
        new.write_text(json.dumps(found, ensure_ascii=False) + "\n")
    return place


def recording(name: str) -> Path:
    """Where the numbers of a dataset are recorded."""
    return settings.RESULTS / f"{name}-datasheet.json"


def measure(clipset: ClipSet) -> dict[str, Any]:
    """Sizes of a dataset, labels of its faces, and how their quality shows in the vectors, as JSON can hold them.

    ``clips per person`` and ``groups per person`` are sorted, so that their order tells nobody. ``faces per clip`` are
    those of each clip, sorted. A label has, for each of its words, the number of faces and their median norm divided by
    that of all faces. ``by fifth``, ``who is it`` and ``within clip`` are those of ``quality``. ``counts`` is what the
    importer counted.
    """
    clips, faces, norm = clipset.clips, clipset.face_columns(), norms(clipset)
    of_person = clips[clips["person"].notna()].groupby("person")
    norm = pd.Series(norm / np.median(norm))
    labels = {}
    for label in (label for label in imfdb.LABELS if label in faces):
        of_word = norm.groupby(faces[label].to_numpy()).agg(["size", "median"])
        rows = of_word.sort_values("size", ascending=False).itertuples()
        labels[label] = {word: {"faces": int(n), "norm": round(float(median), DIGITS)} for word, n, median in rows}
    return {
        "fingerprint": clipset.fingerprint,
        "persons": len(clipset.persons),
        "clips": len(clipset),
        "faces": len(clipset.faces),
        "numbers per face": clipset.dim,
        "clips per person": sorted(of_person.size().tolist(), reverse=True),
        "groups per person": sorted(of_person["group"].nunique().tolist(), reverse=True),
        "faces per clip": sorted(clipset.counts.tolist(), reverse=True),
        "modalities": {
            name: {"numbers": m.vectors.shape[1], "present": round(m.present.float().mean().item(), DIGITS)}
            for name, m in clipset.modalities.items()
        },
        "labels": labels,
        "by fifth": quality.by_fifth(clipset).astype(float).round(DIGITS).to_dict("list"),
        "who is it": quality.who_is_it(clipset).round(DIGITS).tolist(),
        "within clip": {name: round(value, DIGITS) for name, value in quality.within_clip(clipset).items()},
        "counts": clipset.info.get("cleaning") or clipset.info.get("joining") or {},
    }
