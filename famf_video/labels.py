"""The names of clips, and who is in them according to a table of the user's or to the folders of the videos."""

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from famf_lib.data.clipset import SPLITS
from famf_lib.data.doubtful_names import doubts, misspelt
from famf_lib.support.wording import counted

COLUMNS = ("clip", "person", "split")
ENDINGS = tuple(
    f".{ending}"
    for ending in "mp4 mkv mov avi webm m4v mpg mpeg ts mts m2ts m2t wmv asf flv f4v 3gp 3g2 ogv ogm vob mod tod qt "
    "mpe m1v m2v mj2 mk3d mxf dv divx rm rmvb wtv mjpg mjpeg ivf h264 264 h265 265 hevc y4m nut".split()
)
"""The endings of the videos in a folder: FFmpeg's own lists include songs and subtitles. A file that the user names
directly may have any ending."""

VIDEOS = f"videos ({', '.join(ENDINGS[:5])} …)"


class LabelsError(ValueError):
    """A table of labels cannot be used, or a folder holds no videos."""


@dataclass(frozen=True)
class Label:
    """The person in a clip and its side of the split; None if unknown."""

    person: str | None = None
    split: str | None = None


def videos(
    given: Sequence[Path], say: Callable[[str], None] = lambda sentence: None, endings: Sequence[str] = ENDINGS
) -> list[Path]:
    """Replaces each folder by all videos (files with one of ``endings``) in it, at any depth, sorted by name.

    ``say`` receives one sentence about the other files of each folder.

    Raises:
        LabelsError: a folder holds no video, or a file is named twice.
    """
    found: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside, others = split_by_ending(path, endings)
            if not inside:
                said = left_out(others) if others else f"expected {VIDEOS}"
                raise LabelsError(f"{path}: no file in it that can be read, {said}")
            if others:
                served = {folder for file in inside for folder in file.parents}
                bare = sorted(
                    {file.parent.relative_to(path).as_posix() for file in others if file.parent not in served}
                )
                say(f"{path}: {left_out(others)}" + (f"; no video remains in {', '.join(bare)}" if bare else ""))
        found += inside
    twice = [path for path, times in Counter(path.resolve() for path in found).items() if times > 1]
    if twice:
        raise LabelsError(f"{twice[0]}: named twice, expected every file once")
    return found


def split_by_ending(folder: Path, endings: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Lists the files in a folder, at any depth, that have one of the endings, and the others; hidden files are
    ignored."""
    files = sorted(file for file in folder.rglob("[!.]*") if file.is_file())
    good = [file for file in files if file.suffix.lower() in endings]
    return good, [file for file in files if file.suffix.lower() not in endings]


def left_out(files: Sequence[Path], expected: str = VIDEOS) -> str:
    """Says which files are left out, with the number of each ending."""
    times = Counter(file.suffix.lower() or "no ending" for file in files).most_common()
    told = ", ".join(f"{number:,} {ending}" for ending, number in times[:7]) + " …" * (len(times) > 7)
    return f"{counted(len(files), 'file')} left out because of their ending ({told}), expected {expected}"


def names(paths: Sequence[Path]) -> list[str]:
    """Names the clip of each file: its name without ending, preceded by the folders in which the files differ.

    The ending stays if the name would also be that of another file, or of another file's further track (``name#2``).

    Raises:
        LabelsError: two clips would have the same name.
    """
    places = [path.resolve() for path in paths]
    top = os.path.commonpath([place.parent for place in places]) if places else ""
    full = [place.relative_to(top).as_posix() for place in places]
    found = [Path(name).with_suffix("").as_posix() for name in full]
    while clashing := _clashing(found):
        if all(found[k] == full[k] for k in clashing):
            raise LabelsError(f"{paths[clashing[0]]}: another video has a track of this name, expected another name")
        found = [full[k] if k in clashing else name for k, name in enumerate(found)]
    return found


def _clashing(names: list[str]) -> list[int]:
    """Which of the names occur twice, or could be that of another clip's track."""
    times = Counter(names)
    track = re.compile(r"(.*)#\d+", re.DOTALL)
    return [k for k, name in enumerate(names) if times[name] > 1 or (m := track.fullmatch(name)) and m[1] in times]


def from_folders(paths: Sequence[Path]) -> dict[str, Label]:
    """Labels each clip with the name of the folder that holds its video."""
    return {name: Label(path.resolve().parent.name) for path, name in zip(paths, names(paths), strict=True)}


def read(table: Path, say: Callable[[str], None] = warnings.warn) -> dict[str, Label]:
    """Reads labels from a CSV file with the columns clip, person and optionally split. An empty field means unknown.

    ``say`` receives one sentence about each doubtful name (see ``doubts``).

    Raises:
        LabelsError: one sentence that names the file, the line, what was found and what was expected.
    """
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = reader.fieldnames or [], [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{table}: cannot be read ({error}), expected a CSV file") from error
    if twice := [column for column, times in Counter(columns).items() if times > 1]:
        raise LabelsError(f"{table}: the column {twice[0]} occurs twice, expected once")
    if pair := misspelt(columns, COLUMNS):
        found = f"the column {pair[0]!r} is almost spelt like {pair[1]}"
        raise LabelsError(f"{table}: {found}, expected {pair[1]} or another name")
    if missing := [column for column in COLUMNS[:2] if column not in columns]:
        found = ", ".join(columns) or "nothing"
        raise LabelsError(f"{table}: the column {missing[0]} is missing, found {found}, expected {', '.join(COLUMNS)}")
    labels: dict[str, Label] = {}
    for line, row in rows:
        if more := row.get(None):  # a comma in a name without quotes, of which a part would be lost
            found = counted(len(columns) + len(more), "field")
            raise LabelsError(f"{table}: line {line} has {found}, expected {len(columns)}; quote a name with a comma")
        clip, person, split = (row.get(column) or None for column in COLUMNS)
        if clip is None:
            raise LabelsError(f"{table}: line {line} has no clip, expected its name")
        if clip in labels:
            raise LabelsError(f"{table}: line {line} has {clip!r} again, expected every clip once")
        if split not in (None, *SPLITS):
            expected = f"one of {', '.join(SPLITS)}, or nothing"
            raise LabelsError(f"{table}: line {line} has the split {split!r}, expected {expected}")
        labels[clip] = Label(person, split)
    for sentence in doubts((label.person for label in labels.values()), f"{table}: person"):
        say(sentence)
    return labels
