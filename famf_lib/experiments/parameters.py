"""The values that a parameter may have, by its name: one rule for papermill, the build of the book and ``famf``.

A notebook declares the type of each parameter (see ``notebooks``); this module limits its values further. It imports
nothing heavy, so that a notebook refuses a bad value before it loads anything, and tab completion is immediate.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args

Profile = Literal["quick", "standard", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
DEVICES = ("auto", "cpu", "cuda")
PROTOCOLS = ("given", "groups", "random")
SEEDS = range(2**32)  # what NumPy and PyTorch both take


ALLOWED: dict[str, tuple[str, ...] | range] = {
    "profile": PROFILES,
    "device": DEVICES,
    "protocol": (*PROTOCOLS, ""),
    "seeds": SEEDS,
    "seed": SEEDS,
    "show": SEEDS,
    "columns": range(1, 25),
    "persons": range(2, 1001),
    "batch": range(1, 65537),
}
"""The words or whole numbers that a parameter may have, alone or in a list. A name that is missing here may have any
value of its type: which ``dataset`` there is depends on what was imported."""


def check(name: str, value: Any) -> None:
    """Refuses a value, or a list that holds one, which a parameter of this name may not have.

    Raises:
        ValueError: names the value and what was expected.
    """
    if (allowed := ALLOWED.get(name)) is None:
        return
    for one in value if isinstance(value, list | tuple) else [value]:
        if one not in allowed:
            raise ValueError(f"{name}: {one!r} is not known, expected {expected(allowed)}")


def expected(allowed: tuple[str, ...] | range) -> str:
    """The allowed values in words."""
    if isinstance(allowed, range):
        return f"a whole number from {allowed.start} to {allowed.stop - 1}"
    return f"one of {', '.join(word or 'nothing' for word in allowed)}"


def unknown(name: str, known: Iterable[str], place: str) -> str:
    """The error message for a parameter name that is not among the ``known`` ones of ``place``."""
    known = sorted(known)
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    hint = f"the closest is {closest[0]!r}, and all are: {', '.join(known)}" if closest else "it has none"
    return f"there is no parameter {name!r} in {place}; {hint}"
