"""Numbers with their nouns, for sentences."""


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``, ``1,000 seeds``; of several words the first is the noun."""
    first, *rest = noun.split(" ")
    return " ".join([f"{number:,}", first if number == 1 else f"{first}s", *rest])
