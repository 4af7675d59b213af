"""Numbers with their nouns, for sentences."""


def counted(number: int, noun: str) -> str:
    """Formats a number with its noun: ``1 seed``, ``2 seeds``, ``1,000 seeds``; the first word is inflected."""
    first, *rest = noun.split(" ")
    return " ".join([f"{number:,}", first if number == 1 else f"{first}s", *rest])
