import re

import pytest

from famf_book.notebooks import read
from famf_lib.support.files import ROOT

THINGS = "rows?|runs?|folders?|files?|columns?|lines?|vectors?|seeds?|values?|pictures?|clips?|faces?|frames?"
AVOIDED = {
    rf"\b({THINGS}) an? (clip|person|row|seed|video|film|frame|page|second)\b": "per: one row per clip",
    r"\btold\b(?! apart)": "reported, said",
    r"\bbeside\b": "compared with, next to",
    r"\bby lot\b": "at random",
    r"\bto speak of\b": "negligible",
    r"\b(comes?|came) out (as )?(number|first|last)\b": "ranks 6th of 7",
}
PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "book").glob("*.ipynb"))]
PAGES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "lab/start.md")]


def stumbles(text):
    """The turns to avoid in a text, outside code, each with what is said instead."""
    prose = re.sub(r"^```\w+\n.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [(m[0], say) for turn, say in AVOIDED.items() for m in re.finditer(turn, prose.replace("\n", " "), re.I)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_says_it_plainly(path):
    if path.suffix == ".md":
        text = path.read_text()
    else:
        text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert not stumbles(text)
