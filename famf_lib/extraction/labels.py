"""What clips are called, and who is in them: told by a table of the user's, or by the folders of the videos."""

import csv
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from famf_lib.features import SPLITS

COLUMNS = ("clip", "person", "split")
ENDINGS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv")
"""By these a video is told in a folder. A file that is named itself may be called anything."""

MISSING = {"nan", "none", "null", "nat", "n/a", "<na>", "-1"}
"""What programs write as text for a missing value. Somebody may have one of these names, so none is refused."""
NAMED = 6  # names that a sentence names


class LabelsError(ValueError):
    """A table of labels that cannot be used, or a folder without videos."""


@dataclass(frozen=True)
class Label:
    """Who is in a clip, and on which side of the split it is; None where that is not known."""

    person: str | None = None
    split: str | None = None


def videos(given: Sequence[Path]) -> list[Path]:
    """The files that are meant: a folder stands for all videos in it, in order of their names.

    Raises:
        LabelsError: a folder without a video, or a file that is named twice.
    """
    found: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.rglob("[!.]*") if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise LabelsError(f"{path}: no video in it, expected files that end in {', '.join(ENDINGS[:5])} …")
        found += inside
    twice = [path for path, times in Counter(path.resolve() for path in found).items() if times > 1]
    if twice:
        raise LabelsError(f"{twice[0]}: named twice, expected every video once")
    return found


def names(paths: Sequence[Path]) -> list[str]:
    """A clip is called as its file without the ending; with the folders in which the files differ, and with the ending
    where two differ in nothing else."""
    places = [path.resolve() for path in paths]
    top = os.path.commonpath([place.parent for place in places]) if places else ""
    full = [place.relative_to(top) for place in places]
    short = [path.with_suffix("").as_posix() for path in full]
    times = Counter(short)
    return [path.as_posix() if times[name] > 1 else name for path, name in zip(full, short, strict=True)]


def of_folders(paths: Sequence[Path]) -> dict[str, Label]:
    """The person in each video is called as the folder that it lies in; by the name of the clip."""
    return {name: Label(path.resolve().parent.name) for path, name in zip(paths, names(paths), strict=True)}


def plain(name: str) -> str:
    """A name without what the eye does not see: case, blanks around it, more than one between, forms of letters."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def doubts(names: Iterable[str | None], where: str) -> list[str]:
    """Sentences on names that may not be meant as they stand: they read as a missing value, or look like another."""
    times = Counter(name for name in names if name is not None)
    forms = Counter(map(plain, times))
    missing = [name for name in sorted(times) if plain(name) in MISSING]
    alike = [name for name in sorted(times, key=lambda name: (plain(name), name)) if forms[plain(name)] > 1]
    alike = [name for name in alike if name not in missing]

    def listed(few: list[str]) -> str:
        return ", ".join(f"{name!r} ({times[name]:,} times)" for name in few[:NAMED]) + " …" * (len(few) > NAMED)

    said = []
    if missing:
        found = f"{listed(missing)} found, which reads as a missing value and is taken as a name"
        said.append(f"{where}: {found}; expected nothing where it is not known")
    if alike:
        found = f"{len(alike):,} names differ from another in nothing but case, blanks or the form of letters"
        said.append(f"{where}: {found}, and are taken as different names: {listed(alike)}")
    return said


def misspelt(columns: Iterable[str], known: Sequence[str]) -> tuple[str, str] | None:
    """The first column that is spelt as a known one but for case and blanks, and that one: it would count as absent."""
    pairs = ((column, name) for column in columns for name in known if column != name)
    return next(((column, name) for column, name in pairs if plain(column) == plain(name)), None)


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
            found = f"{len(columns) + len(more)} fields"
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
