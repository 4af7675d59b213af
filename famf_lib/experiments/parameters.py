"""The values that a parameter may have, by its name: one rule for papermill, the build of the book and ``famf``.

A notebook declares the type of each parameter (see ``notebooks``); this module limits its values further. It imports
nothing heavy, so that a notebook refuses a bad value before it loads anything, and tab completion is immediate.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

Profile = Literal["quick", "standard", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
DEVICES = ("auto", "cpu", "cuda")
PROTOCOLS = ("given", "groups", "random")
SettingName = Literal["printed", "own", "shared"]
SETTINGS: tuple[SettingName, ...] = get_args(SettingName)
SEEDS = range(2**32)  # what NumPy and PyTorch both take


ALLOWED: dict[str, tuple[str, ...] | range] = {
    "profile": PROFILES,
    "device": DEVICES,
    "protocol": (*PROTOCOLS, ""),
    "setting": SETTINGS,
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


_PLAIN = {kind.__name__: kind for kind in (bool, int, float, str, dict, list)}
KINDS = {"": Any} | _PLAIN | {f"list[{name}]": list[kind] for name, kind in _PLAIN.items()}
"""The annotations that a parameter may have, as written; ``""`` where there is none."""


def validated(given: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """The given values in the declared types. Text becomes what it says: "1,2", "1-2" and "[1, 2]" a list, "true" True.

    Args:
        types: the annotation of each parameter, one of ``KINDS``.

    Raises:
        ValueError: an unknown name, or a value that does not fit its type or its limits in ``ALLOWED``.
    """
    from pydantic import BeforeValidator, ConfigDict, ValidationError, create_model

    fields = {}
    for name in given:
        if (annotation := types.get(name, "")) not in KINDS:
            raise ValueError(f"{name}: it is declared as {annotation}, expected one of {', '.join(KINDS).strip(', ')}")
        if name in types:
            kind = KINDS[annotation]
            fields[name] = (Annotated[kind, BeforeValidator(partial(_read, kind))], ...)
    model = create_model("Parameters", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    try:
        values = dict(model.model_validate(given))
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        if name not in types:
            raise ValueError(unknown(str(name), types, "this notebook")) from None
        hint = " (values separated by commas)" if types[name].startswith("list") else ""
        raise ValueError(f"{name}: found {given[name]!r}, expected {types[name]}{hint}") from None
    for name, value in values.items():
        check(name, value)
    return values


LONGEST = 1000  # numbers that a span may have


def _spans(text: str) -> list[int] | None:
    """The numbers of a text such as "1-3,7"; None if it says anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part)
        if not ends or not 0 <= (more := int(ends[2] or ends[1]) - int(ends[1])) < LONGEST:
            return None
        numbers += range(int(ends[1]), int(ends[1]) + more + 1)
    return numbers


def _read(kind: Any, value: Any) -> Any:
    """What a text says where it should not stay a text, and one value as a list where a list is expected."""
    if isinstance(value, str) and kind == list[int] and (numbers := _spans(value)) is not None:
        return numbers
    if isinstance(value, str) and kind not in (str, Any):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # not a Python literal
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
    if list in (kind, get_origin(kind)):
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        value = list(value) if isinstance(value, list | tuple) else [value]
    return value
