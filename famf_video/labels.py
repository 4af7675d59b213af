"""What clips are called, and who is in them: told by a table of the user's, or by the folders of the videos."""

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
"""By these a video is told in a folder: FFmpeg's own lists mix them with those of songs and subtitles. A file that is
named itself may be called anything."""

VIDEOS = f"videos ({', '.join(ENDINGS[:5])} …)"


class LabelsError(ValueError):
    """A table of labels that cannot be used, or a folder without videos."""


@dataclass(frozen=True)
class Label:
    """Who is in a clip, and on which side of the split it is; None where that is not known."""

    person: str | None = None
    split: str | None = None


def videos(given: Sequence[Path], say: Callable[[str], None] = lambda sentence: None) -> list[Path]:
    """The files that are meant: a folder stands for all videos in it, in order of their names.

    ``say`` is told of the other files in a folder.

    Raises:
        LabelsError: a folder without a video, or a file that is named twice.
    """
    found: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside, others = sorted_out(path, ENDINGS)
            if not inside:
                raise LabelsError(f"{path}: no video in it, " + (left_out(others) if others else f"expected {VIDEOS}"))
            if others:
                served = {folder for file in inside for folder in file.parents}
                bare = sorted(
                    {file.parent.relative_to(path).as_posix() for file in others if file.parent not in served}
                )
                say(f"{path}: {left_out(others)}" + (f"; nothing is left of {', '.join(bare)}" if bare else ""))
        found += inside
    twice = [path for path, times in Counter(path.resolve() for path in found).items() if times > 1]
    if twice:
        raise LabelsError(f"{twice[0]}: named twice, expected every video once")
    return found


def sorted_out(folder: Path, endings: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files in a folder, at any depth, that have one of the endings, and the others. Hidden ones are neither."""
    files = sorted(file for file in folder.rglob("[!.]*") if file.is_file())
    good = [file for file in files if file.suffix.lower() in endings]
    return good, [file for file in files if file.suffix.lower() not in endings]


def left_out(files: Sequence[Path], expected: str = VIDEOS) -> str:
    """What there is to say of files that are left out, with how many there are of each ending."""
    times = Counter(file.suffix.lower() or "without" for file in files).most_common()
    told = ", ".join(f"{number:,} {ending}" for ending, number in times[:7]) + " …" * (len(times) > 7)
    return f"{counted(len(files), 'file')} left out by ending ({told}), expected {expected}"


def names(paths: Sequence[Path]) -> list[str]:
    """A clip is called as its file without the ending; with the folders in which the files differ, and with the ending
    where the name is another's already: that of a file, or of a further track, which has # and its number behind it.

    Raises:
        LabelsError: two names cannot be kept apart.
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
    """Which of the names are there twice, or could be that of another's track."""
    times = Counter(names)
    return [
        k
        for k, name in enumerate(names)
        if times[name] > 1 or (re.search(r"#\d+$", name) and name.rpartition("#")[0] in times)
    ]


def of_folders(paths: Sequence[Path]) -> dict[str, Label]:
    """The person in each video is called as the folder that it lies in; by the name of the clip."""
    return {name: Label(path.resolve().parent.name) for path, name in zip(paths, names(paths), strict=True)}


def read(table: Path, say: Callable[[str], None] = warnings.warn) -> dict[str, Label]:
    """The labels in a CSV file with the columns clip, person and, if there are any, split. An empty field is unknown.

    ``say`` is told of names that may not be meant as they stand (see ``doubts``).

    Raises:
        LabelsError: one sentence with the file, the line, what was found and what was expected.
    """
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = reader.fieldnames or [], [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{table}: no table can be read here ({error}), expected a CSV file") from error
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise LabelsError(f"{table}: the column {twice[0]} stands twice, expected once")
    if pair := misspelt(columns, COLUMNS):
        found = f"the column {pair[0]!r} is all but spelt as {pair[1]}"
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
