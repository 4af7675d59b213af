"""Sphinx extension: prepares docstrings and signatures for the API pages.

The docstrings are written for an editor. Sphinx would misread a few things in them, and it prints some types at a
length that helps nobody.
"""

import re
from typing import Any

# Imported first: autodoc imports missing modules with TYPE_CHECKING set, which breaks pydantic's classes.
from famf_lib.training import prediction  # noqa: F401

ANNOTATED = re.compile(r"[~\w.]*Annotated\[(\w+), (?:FieldInfo\(.*?\[)?Ge\(ge=\d+\)(?:\]\))?\]")  # int with a bound


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        line = line.replace("|", r"\|")  # a norm, not a substitution
        line = re.sub(r"^(\s+\w+: \w)\.$", r"\1", line)  # "dim: D." would start a lettered list
        if what in ("attribute", "property", "data"):
            line = line.replace(": ", " – ")  # text before a colon would become the type
        lines[number] = line


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    # A default factory has no value to print, and Sphinx only wraps signatures that are valid Python.
    return signature and ANNOTATED.sub(r"\1", signature).replace("<factory>", "..."), returned
