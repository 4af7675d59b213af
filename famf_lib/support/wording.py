"""Words for sentences: numbers with their nouns, and text from files in one short printable line."""

from collections.abc import Iterable

LONGEST, LISTED = 1_000, 20


def counted(number: int, noun: str) -> str:
    """Formats a number with its noun: ``1 seed``, ``2 seeds``, ``1,000 seeds``; the first word is inflected."""
    first, *rest = noun.split(" ")
    return " ".join([f"{number:,}", first if number == 1 else f"{first}s", *rest])


def plain(text: object, most: int | None = LONGEST, strip: bool = True) -> str:
    """The text as one printable line of ``most`` characters: a terminal obeys control characters in what a file says.

    Spaces replace line breaks and tabs, ? replaces other characters that are not printable, and … the middle.
    """
    line = str(text).strip() if strip else str(text)
    if most is not None and len(line) > most:
        line = f"{line[: 2 * most // 3]} … {line[len(line) - most // 3 :]}"
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)


def listed(names: Iterable[object], most: int = LISTED) -> str:
    """The names with commas, the first of them where there are many; "nothing" where there is none."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) + more) or "nothing"
