"""Words for sentences: numbers with their nouns, and text from files in one short printable line."""

from collections.abc import Iterable

LONGEST, LISTED = 1_000, 20
READ = 10_000  # characters of an error, which may quote a whole file


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


def first_line(error: BaseException, most: int | None = LONGEST) -> str:
    """The first line of an error's message that says something, or the name of its class, as ``plain`` makes it."""
    lines = str(error)[:READ].splitlines()
    return plain(next(filter(str.strip, lines), type(error).__name__), most)


def named(error: BaseException, most: int = 300) -> str:
    """The class of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error, most)}"


def listed(names: Iterable[object], most: int = LISTED) -> str:
    """The names with commas, the first of them where there are many; "nothing" where there is none."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) + more) or "nothing"


def lasting(seconds: int | float) -> str:
    """A length of time in one unit, with two digits at most: ``20 s``, ``7 minutes``, ``4.3 hours``, ``12 days``."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 0.95 * length:
            number = seconds / length
            text = f"{number:.0f}" if number >= 9.5 or unit == "minute" else f"{number:.1f}".removesuffix(".0")
            return f"{text} {unit}" + "s" * (text != "1")
    return f"{seconds:.0f} s"


def sized(size: int | float) -> str:
    """A number of bytes: ``2.4 GB``, ``13 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{size / 1e6:.0f} MB"
