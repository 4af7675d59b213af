import re

import pytest

from famf_book import notebooks
from famf_lib.support.files import ROOT

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
VISIBLE = 0.7  # of the lines of code, the least
HIDDEN_CELLS = 3  # the most: set-up, a text that is computed, the footer
WITHOUT_CODE = {"intro", "ledger"}  # the front page and the ledger are read, not changed


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def hidden(cell):
    return any(tag.startswith(("hide", "remove")) for tag in cell.metadata.get("tags", []))


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem not in WITHOUT_CODE], ids=lambda path: path.stem)
def test_most_of_the_code_is_visible(path):
    cells = [c for c in notebooks.read(path).cells if c.cell_type == "code"]
    cells = [c for c in cells if "parameters" not in c.metadata.get("tags", [])]
    seen = sum(len(lines(cell)) for cell in cells if not hidden(cell))
    every = sum(len(lines(cell)) for cell in cells)
    assert seen >= VISIBLE * every, f"{seen} of {every} lines are visible"
    assert sum(map(hidden, cells)) <= HIDDEN_CELLS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_title_and_has_no_label_above_it(path):
    first = notebooks.read(path).cells[0]
    assert first.cell_type == "markdown" and re.match(r"# \S", first.source), first.source[:60]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_figure_with_a_caption_has_an_alternative_text(path):
    for cell in notebooks.read(path).cells:
        shown = cell.metadata.get("mystnb", {})
        if "figure" in shown:
            assert shown["figure"].get("caption") and shown.get("image", {}).get("alt"), cell.source[:60]
