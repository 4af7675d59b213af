"""Reads and writes the text files of iQIYI-VID-2019: the two ground-truth lists and the submission.

::

    train_gt.txt   NAME.mp4 ID                   one line per clip
    val_gt.txt     ID NAME.mp4 NAME.mp4 …        one line per person
    submission     ID NAME.mp4 NAME.mp4 …        one line per person, best first, 100 clips at most

Everywhere else clips are named without ``.mp4``, as in the pickles. Names are never rebuilt from the number in them,
because some have seven digits and others eight.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from famf_lib.paper import IQIYI
from famf_lib.support.files import written_whole

Faults = Literal["stop", "skip"]
SUFFIX = ".mp4"
END = re.escape(SUFFIX)
CLIPS, LISTED = 1 << 20, 1 << 22  # names in a ground truth and in a submission: five times the official numbers
LONGEST_LINE = 1 << 20  # bytes. A person has at most 100 clips, 3 kB; a longer line means another kind of file
BOM = b"\xef\xbb\xbf"
TRAIN_LINE, VAL_LINE = "NAME.mp4 ID", "ID NAME.mp4 NAME.mp4 …"


class OfficialFileError(ValueError):
    """A faulty file: one sentence with the file, the line, what was found and what was expected."""


def read_train(path: Path, faults: Faults = "stop", notes: Counter[str] | None = None) -> dict[str, str]:
    """Reads the person of each training clip from ``train_gt.txt``.

    Args:
        faults: stop at the first faulty line, or skip and count faulty lines.
        notes: counts skipped faults by kind, and oddities that are no faults (Windows line ends, a byte-order mark).

    Raises:
        OfficialFileError: the file cannot be read, has a fault, or has no valid line.
    """
    lines = _Lines(Path(path), TRAIN_LINE, faults, notes)
    persons: dict[str, str] = {}
    for words in lines:
        if len(words) != 2:
            lines.fault("lines with too few or too many fields", f"{len(words)} fields found, expected {TRAIN_LINE}")
        elif (name := lines.clip(words[0])) is None or (person := lines.person(words[1])) is None:
            pass
        elif len(persons) >= CLIPS:
            lines.too_long(CLIPS)
        elif name in persons:
            lines.fault("clips named again", f"clip {_short(name)} found a second time, expected one line per clip")
        else:
            persons[name] = person
    return lines.checked(persons)


def read_val(path: Path, faults: Faults = "stop", notes: Counter[str] | None = None) -> dict[str, list[str]]:
    """Reads the clips of each person from ``val_gt.txt``. No clip occurs twice; clips that are not listed are noise.

    With ``faults="skip"`` only faulty names are left out; the rest of their line is kept. See ``read_train``.

    Raises:
        OfficialFileError: the file cannot be read, has a fault, or has no valid line.
    """
    lines = _Lines(Path(path), VAL_LINE, faults, notes)
    clips: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for words in lines:
        if (person := lines.person(words[0])) is None:
            continue
        if person in clips:
            lines.fault("ids with a second line", f"a second line for the id {person} found, expected one line per id")
            continue
        names = []
        if len(owner) + len(words) > CLIPS:
            lines.too_long(CLIPS)
        for name in filter(None, map(lines.clip, words[1:])):
            if name in owner:
                found = f"clip {_short(name)} found again after the id {owner[name]}"
                lines.fault("clips named again", f"{found}, expected every clip once")
            else:
                owner[name] = person
                names.append(name)
        if names:
            clips[person] = names
        elif len(words) == 1:
            lines.fault("ids without a clip", f"the id {person} without a clip found, expected {VAL_LINE}")
    return lines.checked(clips)


def read_submission(path: Path) -> dict[str, list[str]]:
    """Reads the ranked clips of each person, best first, with repetitions; the evaluation removes them and cuts.

    An id can be any word, since other datasets have names for persons. It may have no clips.

    Raises:
        OfficialFileError: the file cannot be read or has a fault; faults are never skipped in a submission.
    """
    lines = _Lines(Path(path), VAL_LINE, encoding="utf-8")
    ranked: dict[str, list[str]] = {}
    number = 0
    for person, *names in lines:
        if (number := number + len(names)) > LISTED:
            lines.too_long(LISTED)
        # A name may contain a comma, but a comma before or after ".mp4" is in the place of a space.
        joined = [word for word in (person, *names) if re.search(rf"{END}[,;|]", word)]
        if joined or re.search(rf"[,;|].*{END}", person):
            lines.fault("", f"{_short((joined or [person])[0])} without a space found, expected {VAL_LINE}")
        if person in ranked:
            lines.fault("", f"a second line for the id {_short(person)} found, expected one line per id")
        ranked[person] = [name for word in names if (name := lines.clip(word)) is not None]
    return lines.checked(ranked)


def write_submission(path: Path, ranked: Mapping[str, Iterable[str]]) -> Path:
    """Writes ranked clips, best first, as a submission, whole or not at all.

    Raises:
        OfficialFileError: as ``check_writable``, or the file cannot be written.
    """
    path, ranked = Path(path), {person: list(names) for person, names in ranked.items()}
    check_writable(path, chain(ranked, *ranked.values()))
    try:
        with written_whole(path) as new, new.open("w", encoding="utf-8", newline="\n") as file:
            for person, names in ranked.items():
                file.write(" ".join([person, *(name + SUFFIX for name in names)]) + "\n")
    except OSError as error:
        raise OfficialFileError(f"{path}: it cannot be written ({error.strerror}), expected a place for it") from error
    return path


def check_writable(path: Path, names: Iterable[str]) -> None:
    """Checks before the long work of ranking that ``write_submission`` can write these names to the path.

    Raises:
        OfficialFileError: the path is a folder, or a name has spaces or unprintable characters.
    """
    if Path(path).is_dir():
        raise OfficialFileError(f"{path}: a folder found, expected the name of a file to write")
    for name in names:
        if not name or " " in name or not name.isprintable():
            found = f"the name {_short(name)} cannot be written"
            raise OfficialFileError(f"{path}: {found}, expected printable characters and no space")


@dataclass
class _Lines:
    """The lines of a file as lists of words, read one at a time; stops at faults or counts them."""

    path: Path
    form: str
    faults: Faults = "stop"
    notes: Counter[str] | None = None
    encoding: str = "ascii"
    number: int = 0

    def __iter__(self) -> Iterator[list[str]]:
        try:
            with self.path.open("rb") as file:
                while line := file.readline(LONGEST_LINE + 1):
                    self.number += 1
                    if len(line) > LONGEST_LINE:
                        found = f"more than {LONGEST_LINE:,} bytes without a line end found"
                        raise OfficialFileError(f"{self.path}, line {self.number}: {found}, expected {self.form}")
                    if words := self._words(line):
                        yield words
        except OSError as error:
            raise OfficialFileError(f"{self.path}: it cannot be read ({error.strerror}), expected a file") from error

    def _words(self, line: bytes) -> list[str]:
        """The words of a line, none if it is faulty."""
        if self.number == 1 and line.startswith(BOM):
            self.note("byte-order marks")
            line = line[len(BOM) :]
        if line.endswith(b"\r\n"):
            self.note("lines that end as on Windows")
        # Bytes outside the encoding become surrogates, which are unprintable, as control characters are.
        words = [word.decode(self.encoding, "surrogateescape") for word in line.split()]
        if not words:
            self.fault("blank lines", f"a blank line found, expected {self.form}")
        for word in words:
            if not word.isprintable():
                expected = f"printable {self.encoding.upper()} ({self.form})"
                self.fault("lines that are no plain text", f"{_short(word)} found, expected {expected}")
                return []
        return words

    def person(self, word: str) -> str | None:
        """The id, or None after a fault."""
        if re.fullmatch("[1-9][0-9]{0,9}", word) and int(word) <= IQIYI["persons"]:
            return word
        expected = f"a whole number from 1 to {IQIYI['persons']} ({self.form})"
        self.fault("ids that are none", f"the id {_short(word)} found, expected {expected}")
        return None

    def clip(self, word: str) -> str | None:
        """The name of the clip without ``.mp4``, or None after a fault."""
        if word.endswith(SUFFIX) and word != SUFFIX:
            return word.removesuffix(SUFFIX)
        self.fault(f"names without {SUFFIX}", f"the name {_short(word)} found, expected one that ends with {SUFFIX}")
        return None

    def fault(self, kind: str, sentence: str) -> None:
        """Raises the sentence, or counts the fault."""
        if self.faults == "stop":
            raise OfficialFileError(f"{self.path}, line {self.number}: {sentence}")
        self.note(kind)

    def too_long(self, most: int) -> None:
        raise OfficialFileError(f"{self.path}, line {self.number}: more than {most:,} clips found, expected fewer")

    def note(self, kind: str) -> None:
        if self.notes is not None:
            self.notes[kind] += 1

    def checked(self, read: dict) -> dict:
        """Returns what was read; refuses a file with no valid line."""
        if not read:
            found = f"{self.number} lines and none valid" if self.number else "an empty file"
            raise OfficialFileError(f"{self.path}: {found} found, expected lines of the form {self.form}")
        return read


def _short(text: str) -> str:
    quoted = repr(text if len(text) <= 40 else text[:37] + "…")
    return quoted.replace("\\udc", "\\x")  # a surrogate stands for a byte
