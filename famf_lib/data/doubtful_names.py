"""Warns about names of persons, groups and columns that are probably mistakes."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from famf_lib.support.wording import counted

MISSING = {"", "-", "nan", "none", "null", "nat", "n/a", "<na>", "-1"}
"""What programs write as text for a missing value. A person may have such a name, so none is refused."""
LISTED = 6  # names that one sentence lists


def simplified(name: str) -> str:
    """A name without differences that the eye misses: case, spaces, Unicode forms, characters without width."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.casefold().split())


def doubts(names: Iterable[str | None], where: str) -> list[str]:
    """Returns sentences about names that read as a missing value or that look like another name."""
    times = Counter(name for name in names if name is not None)
    forms = Counter(map(simplified, times))
    missing = sorted(name for name in times if simplified(name) in MISSING)
    alike = sorted(
        (n for n in times if forms[simplified(n)] > 1 and n not in missing), key=lambda n: (simplified(n), n)
    )

    def listed(few: list[str]) -> str:
        return ", ".join(f"{name!r} ({counted(times[name], 'time')})" for name in few[:LISTED]) + " …" * (
            len(few) > LISTED
        )

    found = []
    if missing:
        text = f"{listed(missing)} found, which reads as a missing value and is taken as a name"
        found.append(f"{where}: {text}; expected an empty field if the name is unknown")
    if alike:
        text = f"{len(alike):,} names differ from another only in case, spaces or the form of letters"
        found.append(f"{where}: {text}, and are taken as different names: {listed(alike)}")
    return found


def misspelt(columns: Iterable[str], known: Sequence[str]) -> tuple[str, str] | None:
    """The first column that differs from a known one only in case and spaces, and the known one."""
    pairs = ((column, name) for column in columns for name in known if column != name)
    return next(((column, name) for column, name in pairs if simplified(column) == simplified(name)), None)
