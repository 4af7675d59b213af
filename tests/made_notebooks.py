"""Notebooks made for a test."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def tagged(code: str):
    """The cell of the parameters."""
    return new_code_cell(code, metadata={"tags": ["parameters"]})


def write(path: Path, *cells) -> Path:
    """Writes a notebook of these cells; text is code."""
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path
