"""iQIYI-VID-2019: imports the official files (``data/README.md``) as a ClipSet.

iQIYI hands out the files under an agreement. ``famf data import iqiyi FOLDER`` reads them once. ::

    train_gt.txt  val_gt.txt                      in FOLDER, or in FOLDER/feat
    {face,head,body,audio}_{train,val,test}.pickle    in FOLDER/feat, or in FOLDER; also with _v2 before the dot

The pickles are read without running any code that they name (``famf_lib.data.pickles``). A child process holds one file
at a time; this process writes the faces to disk as they arrive, and its memory does not grow with their number.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float16, Float32, Int64

from famf_lib.data import imported, iqiyi_text, pickles
from famf_lib.data.clipset import HELD, SPLITS, ClipSet, Modality, Writer, held, writing
from famf_lib.data.iqiyi_text import Faults
from famf_lib.data.pickles import brief
from famf_lib.paper import IQIYI
from famf_lib.support.progress import progress
from famf_lib.support.untrusted import check_size

NAME = "iqiyi"
TITLE = "iQIYI-VID-2019"
DIM = 512
FIELDS = {
    "face": ("frame", "box", "detection score", "quality score", "vector"),
    "head": ("frame", "box", "detection score", "vector"),
    "body": ("frame", "box", "vector"),
}
MODALITIES = ("head", "body", "audio")
OWN = "text"
"""Not among the official files. If a user adds such files, in the form of the audio files, they are read too."""
NUMBERS, LISTS = {int, float}, {list, tuple}
UNHELD = "vectors that float16 does not hold"
BATCH = 8192  # faces that are checked together
COLUMNS = pa.schema(
    [
        ("frame", pa.int32()),
        *((side, pa.float32()) for side in ("x1", "y1", "x2", "y2")),
        ("det_score", pa.float32()),
        ("quality", pa.float32()),
    ]
)


class IqiyiError(ValueError):
    """A fault in an official file: the file, the clip, what was found and what was expected."""


def absence() -> str | None:
    """None where the files were imported, otherwise what to do."""
    if NAME in imported.names():
        return None
    return f"{NAME}: not imported; famf data import {NAME} FOLDER does it, and data/README.md says how to get the files"


PUBLISHED = {
    "persons": IQIYI["persons"],
    "train: clips in the ground truth": IQIYI["train_clips"],
    "train: clips of them with a face": IQIYI["train_clips_with_face"],
    "train: faces": IQIYI["train_faces"],
    "train: faces a clip with one": IQIYI["faces_a_clip_mean"],
    "val: clips in the ground truth": IQIYI["val_clips"],
    "val: noise clips": IQIYI["val_noise_clips"],
    "val: clips": IQIYI["val_gallery"],
}


@dataclass
class Found:
    """What an import found: ``counts`` to compare with the published ones, and ``notes`` on skipped or odd content."""

    counts: dict[str, int | float] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def table(self) -> pd.DataFrame:
        """One row per count: published (if it is), found, and whether the two differ by more than 1 %."""
        rows = pd.DataFrame({"published": PUBLISHED, "found": self.counts}).reindex(self.counts)
        known = rows["published"].notna()
        rows["differs"] = known & ((rows["found"] - rows["published"]).abs() > 0.01 * rows["published"])
        return rows

    def report(self) -> str:
        """The table and the notes, for a terminal."""
        rows = self.table()
        shown = rows[["found", "published"]].map(lambda v: "" if np.isnan(v) else f"{v:,.2f}".removesuffix(".00"))
        shown[""] = rows["differs"].map({True: "differs", False: ""})
        lines = [shown.to_string(), *(f"{note}: {count:,}" for note, count in sorted(self.notes.items()))]
        differ = int(rows["differs"].sum())
        lines.append(
            f"{differ} of {int(rows['published'].notna().sum())} numbers differ from the published ones"
            if differ
            else "as published"
        )
        return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())


def import_folder(folder: Path, name: str = NAME, faults: Faults = "stop") -> tuple[ClipSet, Found]:
    """Reads the official files of a folder into an import of that name, whole or not at all.

    Clips come in the order of the face pickles, then those without faces. Training clips that the ground truth does not
    name are noise and take no part in training; those of the validation set stay in the gallery (Sec. 4.1). A clip has
    one vector per modality: the mean over its heads, and the mean over its bodies.

    Args:
        faults: stop at the first fault of a line, a clip or a face, or skip it and count it. A pickle that is damaged
            or asks for anything but arrays stops the import in any case, and so does a file that is missing.

    Raises:
        IqiyiError, PickleError, OfficialFileError: one sentence with the file, what was found and what was expected.
    """
    with imported.importing(name, wait=True) as target:
        found = _Import(Path(folder), faults).into(target)
        return imported.open(name), found


class _Import:
    """One import: the files in the folder, and the clips read so far."""

    def __init__(self, folder: Path, faults: Faults):
        if not folder.is_dir():
            raise IqiyiError(f"{folder}: not a folder, expected the one with the official files")
        self.folder, self.faults, self.found = folder, faults, Found()
        truth = {split: self._needed(f"{split}_gt.txt") for split in ("train", "val")}
        train = iqiyi_text.read_train(truth["train"], faults, self.found.notes)
        val = iqiyi_text.read_val(truth["val"], faults, self.found.notes)
        self.persons = {"train": train, "val": {clip: person for person, clips in val.items() for clip in clips}}
        if both := train.keys() & self.persons["val"].keys():
            found = f"clip {min(both)} found, which {truth['train'].name} has too"
            raise IqiyiError(f"{truth['val']}: {found}, expected it in one of them")
        self.pickles = {
            (kind, split): path
            for kind in ("face", *MODALITIES, OWN)
            for split in SPLITS
            if (path := self._pickle(kind, split))
        }
        self.size, self.read = sum(path.stat().st_size for path in self.pickles.values()), 0
        kinds, clips = len({kind for kind, _ in self.pickles} - {"face"}), sum(map(len, self.persons.values()))
        try:
            check_size(2 * DIM * kinds * clips, self.size + sum(path.stat().st_size for path in truth.values()))
        except ValueError as error:
            found = f"{clips:,} clips named, which the pickles do not have ({error})"
            raise IqiyiError(
                f"{truth['train']} and {truth['val'].name}: {found}, expected the official files"
            ) from None
        self.rows: dict[str, int] = {}  # of the clips, by their names
        self.names: list[str] = []
        self.splits: list[str] = []
        self.counts: list[int] = []  # faces of each clip

    def into(self, target: Path) -> Found:
        """Writes the ClipSet."""
        with progress(f"importing {TITLE}, MB", max(self.size >> 20, 1)) as self.bar:
            with writing(target, DIM, COLUMNS) as out:
                for split in SPLITS:
                    if ("face", split) in self.pickles:
                        self._faces(out, split)
                        self._check_faces(split)
                for split, persons in self.persons.items():
                    for name in persons:
                        self._row(name, split)
                vectors = {
                    kind: [self._vectors(kind, split) for split in SPLITS if (kind, split) in self.pickles]
                    for kind in (*MODALITIES, OWN)
                }
                modalities = {kind: self._modality(parts) for kind, parts in vectors.items() if parts}
                clips = pd.DataFrame(
                    {
                        "name": self.names,
                        "person": [self._person(name) for name in self.names],
                        "split": self.splits,
                        "group": None,
                    }
                )
                self._count(clips, modalities)
                info = {"dataset": NAME, "title": TITLE}
                info |= {"counts": self.found.counts, "notes": dict(self.found.notes)}
                out.finish(np.array(self.counts), clips, modalities, info)
        return self.found

    def _check_faces(self, split: str) -> None:
        """Refuses faces without one in a clip of the ground truth: nothing could be trained or ranked."""
        known = self.persons.get(split, {})
        if known and not any(self.counts[row] for name, row in self.rows.items() if name in known):
            skipped = [f"{note}, {count:,} times" for note, count in self.found.notes.items() if "skipped" in note]
            found = f"no face of a clip of {split}_gt.txt found" + f" ({'; '.join(skipped)})" * bool(skipped)
            raise IqiyiError(f"{self.pickles['face', split]}: {found}, expected faces of them")

    # --- files and clips ---

    def _there(self, *names: str) -> Path | None:
        places = (folder / name for name in names for folder in (self.folder, self.folder / "feat"))
        return next((place for place in places if place.is_file()), None)

    def _needed(self, name: str, *others: str) -> Path:
        path = self._there(name, *others)
        if path is None:
            raise IqiyiError(f"{self.folder}: {name} not found, neither there nor in feat/, expected the official file")
        return path

    def _pickle(self, kind: str, split: str) -> Path | None:
        names = f"{kind}_{split}.pickle", f"{kind}_{split}_v2.pickle"
        if kind == "face" and split in self.persons:
            path = self._needed(*names)
        elif (path := self._there(*names)) is None:
            if kind != OWN:
                self.found.notes[f"file not there: {names[0]}"] += 1
            return None
        if path.stat().st_size == 0:
            raise IqiyiError(f"{path}: the file is empty, expected a pickle of clips")
        return path

    def _row(self, name: str, split: str) -> int:
        """The row of a clip; a new clip gets a new row."""
        row = self.rows.setdefault(name, len(self.names))
        if row == len(self.names):
            self.names.append(name)
            self.splits.append(split)
            self.counts.append(0)
        return row

    def _person(self, name: str) -> str | None:
        return self.persons["train"].get(name) or self.persons["val"].get(name)

    def _fault(self, path: Path, kind: str, found: str, expected: str) -> None:
        """Raises an error, or counts the fault as skipped."""
        if self.faults == "stop":
            raise IqiyiError(f"{path}: {found}, expected {expected}")
        self.found.notes[f"skipped: {kind}"] += 1

    def _items(self, kind: str, split: str) -> Iterator[tuple[int, Any]]:
        """The clips of a pickle, each with its row."""
        path, seen = self.pickles[kind, split], set()

        def report(done: int) -> None:
            self.bar.to((self.read + done) >> 20, f"{kind} of {split}")

        for key, value in pickles.items(path, report):
            name = key.decode("latin-1") if type(key) is bytes else key
            if type(name) is not str or not name.isascii() or not name.isprintable() or not name.strip():
                self._fault(path, "clips without a name", f"the name {brief(name)} found", "text in ASCII")
                continue
            name = name.removesuffix(iqiyi_text.SUFFIX)
            its = next((other for other in self.persons if name in self.persons[other]), split)
            its = self.splits[self.rows[name]] if name in self.rows else its
            if name in seen:
                self._fault(path, "clips met again", f"clip {name} found a second time", "it once")
            elif its != split:
                self._fault(path, "clips of another split", f"clip {name} of {its} found", f"clips of {split}")
            else:
                seen.add(name)
                yield self._row(name, split), value
        self.read += path.stat().st_size

    # --- faces, heads and bodies ---

    def _faces(self, out: Writer, split: str) -> None:
        for rows, columns, vectors in self._records("face", split):
            order = np.lexsort((columns["frame"], rows))  # rows ascend already: a clip's faces by their frames
            if (moved := order != np.arange(len(order))).any():
                clips = len(np.unique(rows[moved]))
                self.found.notes["clips with frames out of order (they were sorted)"] += clips
                columns, vectors = {name: column[order] for name, column in columns.items()}, vectors[order]
            for row, count in zip(*np.unique(rows, return_counts=True), strict=True):
                self.counts[row] += int(count)
            x1, y1, x2, y2 = columns["box"].T
            table = [columns["frame"], x1, y1, x2, y2, columns["detection score"], columns["quality score"]]
            arrays = [pa.array(column, kind) for column, kind in zip(table, COLUMNS.types, strict=True)]
            out.add(vectors, pa.Table.from_arrays(arrays, schema=COLUMNS))

    def _records(self, kind: str, split: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
        """Yields the records of whole clips, some thousands at a time: rows (n,), columns and vectors (n, D)."""
        path, fields = self.pickles[kind, split], FIELDS[kind]
        rows: list[int] = []
        counts: list[int] = []
        records: list[Any] = []
        for row, value in self._items(kind, split):
            sound = self._sound(path, self.names[row], value, fields)
            rows.append(row)
            counts.append(len(sound))
            records += sound
            if len(records) >= BATCH:
                yield self._checked(path, np.repeat(rows, counts), records, fields)
                rows, counts, records = [], [], []
        if records:
            yield self._checked(path, np.repeat(rows, counts), records, fields)

    def _sound(self, path: Path, name: str, records: Any, fields: tuple[str, ...]) -> list[Any]:
        """The records of a clip that have the right form. Their values are checked for many clips at once."""
        if type(records) not in (list, tuple):
            self._fault(path, "clips without a list", f"clip {name}: {brief(records)} found", "a list of records")
            return []
        sound: list[Any] = []
        for n, record in enumerate(records):
            if type(record) not in (list, tuple) or len(record) != len(fields):
                found, kind = record, "records of another form"
                expected = f"{len(fields)} fields: {', '.join(fields)}"
            elif not _is_vector(vector := record[-1]):
                found, kind, expected = vector, "vectors of another length", f"a vector of {DIM} floats"
            else:
                sound.append(record)
                continue
            self._fault(path, kind, f"record {n} of clip {name}: {brief(found)} found", expected)
        return sound

    def _checked(
        self, path: Path, rows: np.ndarray, records: list[Any], fields: tuple[str, ...]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """The records whose values are sound, as columns."""
        columns = _columns(records, fields)
        vectors, box = columns.pop("vector"), columns["box"]
        low, high = box[:, :2], box[:, 2:]
        ordered = ((low >= 0) & (low <= high) & (high < np.inf)).all(axis=1)  # NaN is in no order
        checks = [
            (
                UNHELD,
                "vector",
                held(torch.from_numpy(vectors)).numpy(),
                HELD,
            ),
            ("frames that are no number", "frame", columns["frame"] >= 0, "up to nine digits"),
            ("boxes out of order", "box", ordered, "0 <= x1 <= x2 and 0 <= y1 <= y2"),
        ]
        for score in fields[2:-1]:
            checks.append((f"{score}s that are no number", score, np.isfinite(columns[score]), "a finite number"))
        kept = np.ones(len(rows), dtype=bool)
        for kind, name, sound, expected in checks:
            for n in np.flatnonzero(kept & ~sound).tolist():
                found = brief(records[n][fields.index(name)])
                found = "numbers too large, too small or not finite" if name == "vector" else found
                self._fault(path, kind, f"{name} of a record of clip {self.names[rows[n]]}: {found} found", expected)
            kept &= sound
        if kept.all():
            return rows, columns, vectors
        return rows[kept], {name: column[kept] for name, column in columns.items()}, vectors[kept]

    # --- one vector per clip ---

    def _vectors(self, kind: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) and vectors (n, D) of the clips of a pickle that have the modality."""
        if kind in FIELDS:
            rows, means = [np.empty(0, dtype=np.int64)], [np.empty((0, DIM), dtype=np.float16)]
            for of_record, _, vectors in self._records(kind, split):
                clips, first, number = np.unique(of_record, return_index=True, return_counts=True)
                sums = np.add.reduceat(vectors, first, axis=0, dtype=np.float32) if len(clips) else vectors
                rows.append(clips)
                means.append((sums / number[:, None]).astype(np.float16))
            return np.concatenate(rows), np.concatenate(means)
        path, rows, vectors = self.pickles[kind, split], [], []
        for row, vector in self._items(kind, split):
            if vector is None or (type(vector) is list and not vector):  # a clip without it
                continue
            if _is_vector(vector):
                rows.append(row)
                vectors.append(vector)
            else:
                found = f"clip {self.names[row]}: {brief(vector)} found"
                self._fault(path, "vectors of another length", found, f"a vector of {DIM} floats")
        stacked = _vectors(vectors)
        sound = held(torch.from_numpy(stacked)).numpy()
        for n in np.flatnonzero(~sound).tolist():
            found = f"vector of clip {self.names[rows[n]]}: numbers too large, too small or not finite found"
            self._fault(path, UNHELD, found, HELD)
        return np.array(rows, dtype=np.int64)[sound], stacked[sound]

    def _modality(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> Modality:
        vectors = torch.zeros(len(self.names), DIM, dtype=torch.float16)
        present = torch.zeros(len(self.names), dtype=torch.bool)
        while parts:
            rows, given = parts.pop()  # frees each part after its copy
            vectors[torch.from_numpy(rows)] = torch.from_numpy(given)
            present[torch.from_numpy(rows)] = True
        return Modality(vectors, present)

    # --- what was found ---

    def _count(self, clips: pd.DataFrame, modalities: dict[str, Modality]) -> None:
        counts, faces = self.found.counts, np.array(self.counts)
        counts["persons"] = int(clips["person"].nunique())
        for split in SPLITS:
            its = (clips["split"] == split).to_numpy()
            if not its.any():
                continue
            known = its & clips["person"].notna().to_numpy()
            if split in self.persons:
                counts[f"{split}: clips in the ground truth"] = int(known.sum())
                counts[f"{split}: clips of them with a face"] = int((known & (faces > 0)).sum())
                counts[f"{split}: noise clips"] = int((its & ~known).sum())
            counts[f"{split}: clips"] = int(its.sum())
            counts[f"{split}: faces"] = int(faces[its].sum())
            counts[f"{split}: faces a clip with one"] = round(
                float(faces[its].sum() / max((faces[its] > 0).sum(), 1)), 2
            )
            for kind, modality in modalities.items():
                counts[f"{split}: clips without {kind}"] = int((~modality.present.numpy()[its]).sum())


def _is_vector(value: Any) -> bool:
    return type(value) is np.ndarray and value.shape == (DIM,) and value.dtype.kind == "f"


def _columns(records: list[Any], fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The values of records of the right form, by field; -1 or NaN for a value of the wrong type."""
    frames, boxes, *scores, vectors = zip(*records, strict=True)
    found = {"frame": _integers(frames), "box": _floats(boxes, 4), "vector": _vectors(vectors)}
    return found | {name: _floats(score, 1)[:, 0] for name, score in zip(fields[2:-1], scores, strict=True)}


def _integers(values: Sequence[Any]) -> Int64[np.ndarray, " n"]:
    """Whole numbers of up to nine digits, as int or text in the file; -1 for anything else."""
    digits = np.array([v[:10] if type(v) is bytes else _ascii(v)[:10] for v in values])
    sound = np.char.isdigit(digits) & (np.char.str_len(digits) < 10)
    return np.where(sound, digits, b"-1").astype(np.int64)


def _ascii(value: Any) -> bytes:
    return str(value).encode("ascii", "replace") if type(value) in (int, str) else b"?"


def _floats(values: Sequence[Any], width: int) -> Float32[np.ndarray, "n {width}"]:
    """``width`` numbers per value; NaN for a value that is something else."""
    parts = [v.tolist() if type(v) is np.ndarray else v for v in values] if width > 1 else values
    if width > 1 and LISTS.issuperset(map(type, parts)) and {width}.issuperset(map(len, parts)):
        parts = list(chain.from_iterable(parts))
    if len(parts) != width * len(values) or not NUMBERS.issuperset(
        map(type, parts)
    ):  # one by one, to find the faulty ones
        parts = list(chain.from_iterable(_numbers(value, width) for value in values))
    try:
        found = np.array(parts, dtype=np.float64)
    except OverflowError:  # a whole number that no float can hold
        found = np.array([v if abs(v) < 1e300 else math.inf for v in parts], dtype=np.float64)
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is refused
        return found.astype(np.float32).reshape(len(values), width)


def _numbers(value: Any, width: int) -> list[int | float]:
    given = value if width > 1 else [value]
    given = given.tolist() if type(given) is np.ndarray else given
    sound = type(given) in LISTS and len(given) == width and NUMBERS.issuperset(map(type, given))
    return list(given) if sound else [math.nan] * width


def _vectors(arrays: Sequence[np.ndarray]) -> Float16[np.ndarray, "n D"]:
    """Vectors of ``DIM`` floats as one array; infinite where float16 cannot hold one."""
    full = np.array(arrays).reshape(len(arrays), DIM)
    with np.errstate(over="ignore"):
        half = full.astype(np.float16)
    half[~held(torch.from_numpy(half), full).numpy()] = np.inf
    return half
