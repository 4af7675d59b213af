"""Numbers with their nouns, for sentences."""


def counted(number: int, noun: str) -> str:
    """Formats a number with its noun: ``1 seed``, ``2 seeds``, ``1,000 seeds``; the first word is inflected."""
    first, *rest = noun.split(" ")
    return " ".join([f"{number:,}", first if number == 1 else f"{first}s", *rest])


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
