"""Names of persons, groups and columns that may not be meant as they stand."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

MISSING = {"nan", "none", "null", "nat", "n/a", "<na>", "-1"}
"""What programs write as text for a missing value. Somebody may have one of these names, so none is refused."""
NAMED = 6  # names that a sentence names


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
