"""What the API pages take from the docstrings: an extension of Sphinx, which its autodoc then reads.

The docstrings are written to be read in an editor. A few things in them mean something else to Sphinx, and some types
are longer there than they are of use.
"""

import re
from typing import Any

# Imported here first: autodoc imports what it does not find as a type checker would, and pydantic's classes break.
from famf_lib.training import prediction  # noqa: F401

ANNOTATED = re.compile(r"[~\w.]*Annotated\[(\w+), (?:FieldInfo\(.*?\[)?Ge\(ge=\d+\)(?:\]\))?\]")  # an int with a bound


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon, which has 500
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        line = line.replace("|", r"\|")  # a norm, and no substitution
        line = re.sub(r"^(\s+\w+: \w)\.$", r"\1", line)  # "dim: D." would begin a list that is counted by letters
        if what in ("attribute", "property", "data"):
            line = line.replace(": ", " – ")  # what stands before a colon would be a type
        lines[number] = line


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    # What a dataclass makes by itself has no value to print, and what is not Python is not broken into lines.
    return signature and ANNOTATED.sub(r"\1", signature).replace("<factory>", "..."), returned
