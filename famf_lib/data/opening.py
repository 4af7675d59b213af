"""Opens a ClipSet whose files may be damaged or come from elsewhere: every contradiction is one sentence.

``ClipSet.open`` trusts its files, and decides the keys of stored runs.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from famf_lib.data.clipset import CHECKSUMS, CLIP_COLUMNS, FILES, FORMAT, SPLITS, ClipSet, ClipSetError
from famf_lib.support.untrusted import check_parquet, check_size, parse_json, read_header
from famf_lib.support.wording import plain

MODALITIES = 100  # the paper has 3


class Checked(ClipSet):
    """A ClipSet whose table of faces, which is read later, may be damaged as well."""

    def face_columns(self, columns: list[str] | None = None) -> pd.DataFrame:
        try:
            if isinstance(self.face_table, Path):
                check_parquet(self.face_table)
            return super().face_columns(columns)
        except Exception as error:  # of many kinds
            found = f"{self.face_table}: it cannot be read ({plain(error, 300)})"
            raise ClipSetError(f"{found}, expected one row per face") from error


def opened(folder: Path, device: torch.device | str = "cpu") -> ClipSet:
    """Opens the folder of a ClipSet (see ``checked``); the same object is returned again unless its files have changed.

    Raises:
        ClipSetError: there is no ClipSet in the folder, or it is damaged.
    """
    files = (Path(folder) / name for name in FILES)
    at = Path(folder), tuple(file.stat().st_mtime_ns for file in files if file.exists())
    return _opened(*at) if torch.device(device).type == "cpu" else _moved(*at, torch.device(device))


@lru_cache(maxsize=4)
def _opened(folder: Path, changed: tuple[int, ...]) -> ClipSet:
    try:
        return checked(folder)
    except ClipSetError as error:
        raise ClipSetError(f"{error}; famf data verify tells what is damaged") from error


@lru_cache(maxsize=1)  # at full size it is 4 GB
def _moved(folder: Path, changed: tuple[int, ...], device: torch.device) -> ClipSet:
    return _opened(folder, changed).to(device)


def checked(folder: Path) -> ClipSet:
    """Opens the folder of a ClipSet by memory map, and checks everything but the numbers in it.

    Raises:
        ClipSetError: one sentence with the file, the field, what was found and what was expected.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        expected = f"expected {', '.join(FILES)}"
        raise ClipSetError(f"{folder}: no ClipSet can be opened here ({missing[0]} is not there), {expected}")
    checks = (_check_arrays, _check_faces, check_parquet, _check_sums)
    for name, check in zip((*FILES, CHECKSUMS), checks, strict=True):
        try:
            check(folder / name)
        except ClipSetError as error:
            raise ClipSetError(plain(error)) from None
        except Exception as error:  # each reader raises errors of its own for a damaged file
            found = f"{folder / name}: it cannot be read ({plain(error, 300)})"
            raise ClipSetError(f"{found}, expected that of a ClipSet as it was saved") from error
    try:
        clipset = Checked.open(folder)
        _check_clips(clipset)
    except ClipSetError as error:
        if error.__cause__:  # what is left to read is the table of clips
            found = f"{folder / FILES[2]}: it cannot be read ({plain(error.__cause__, 300)})"
            raise ClipSetError(f"{found}, expected that of a ClipSet as it was saved") from error
        raise ClipSetError(plain(error)) from None
    except Exception as error:
        found = f"{folder}: no ClipSet can be opened here ({plain(error, 300)})"
        raise ClipSetError(f"{found}, expected its files as they were saved") from error
    return clipset


def _check_faces(path: Path) -> None:
    pq.ParquetFile(path).close()


def _check_sums(path: Path) -> None:
    if path.exists():
        check_size(path.stat().st_size, 0)
        path.read_text()


def _check_arrays(path: Path) -> None:
    """Refuses metadata and tensors that are missing or of another kind."""
    metadata, tensors = read_header(path)
    with safe_open(path, framework="np"):  # which compares the sizes of the tensors with the file
        pass
    if metadata.get("format") != FORMAT:
        return  # ClipSet.open says so

    def fault(field: str, found: object, expected: str) -> ClipSetError:
        return ClipSetError(f"{path}: {field}: {plain(found, 200)} found, expected {expected}")

    values = {}
    for field, kind in (("modalities", list), ("info", dict)):
        values[field] = parse_json(metadata[field]) if field in metadata else None
        if not isinstance(values[field], kind):
            raise fault(field, repr(values[field]), f"a {kind.__name__} in JSON")
    if "fingerprint" not in metadata:
        raise fault("fingerprint", "nothing", "16 hexadecimal digits")
    names = values["modalities"]
    if len(names) > MODALITIES or not all(isinstance(name, str) for name in names):
        raise fault("modalities", repr(names), f"{MODALITIES} names at most")
    (_, shape), clips = tensors.get("offsets", ("", [])), "V + 1"
    if len(shape) == 1 and isinstance(shape[0], int):
        clips = shape[0] - 1
    expected = {"faces": ("F16", ["F", "D"]), "offsets": ("I64", ["V + 1"])}
    for name in names:
        expected |= {name: ("F16", [clips, "D"]), f"{name}.present": ("BOOL", [clips])}
    for name, (kind, sizes) in expected.items():
        wanted = f"{kind} of shape ({', '.join(map(str, sizes))})"
        if name not in tensors:
            raise fault(f"tensor {name!r}", "nothing", wanted)
        dtype, found = tensors[name]
        fits = isinstance(found, list) and len(found) == len(sizes)
        fits = fits and all(
            type(a) is int and (b == a or isinstance(b, str)) for a, b in zip(found, sizes, strict=True)
        )
        if dtype != kind or not fits:
            raise fault(f"tensor {name!r}", f"{dtype} of shape {found}", wanted)


def _check_clips(clipset: ClipSet) -> None:
    """Refuses offsets that are none, and clips whose columns contradict each other."""
    offsets, clips = clipset.offsets, clipset.clips
    arrays, table = (clipset.folder / FILES[n] for n in (0, 2))
    if len(offsets) == 0 or offsets[0] != 0 or (offsets.diff() < 0).any() or offsets[-1] != len(clipset.faces):
        expected = f"numbers that rise from 0 to {len(clipset.faces)}, the number of faces"
        raise ClipSetError(f"{arrays}: offsets: {offsets.tolist()[:9]} … found, expected {expected}")
    if missing := [column for column in CLIP_COLUMNS if column not in clips]:
        raise ClipSetError(f"{table}: column {missing[0]!r} is missing, expected {', '.join(CLIP_COLUMNS)}")
    for column in CLIP_COLUMNS:
        if not pd.api.types.is_string_dtype(clips[column].dropna()) and clips[column].notna().any():
            raise ClipSetError(f"{table}: {column}: {clips[column].dtype} found, expected texts")
    if (twice := clips["name"].duplicated()).any() or clips["name"].isna().any():
        found = repr(clips["name"][twice.argmax()]) + " twice" if twice.any() else "a clip without a name"
        raise ClipSetError(f"{table}: name: {found} found, expected one for every clip")
    if wrong := sorted(map(str, set(clips["split"].dropna()) - set(SPLITS))):
        raise ClipSetError(f"{table}: split: {wrong[0]!r} found, expected one of {', '.join(SPLITS)}")
