"""Runs the code of a notebook in this process, without a kernel, which takes seconds to start."""

import ast
from pathlib import Path
from unittest import mock

import IPython.display
import matplotlib
from bs4 import BeautifulSoup

from famf_book import notebooks


def run_cells(path: Path, **given) -> tuple[dict, list]:
    """The variables of the notebook in the end, and all objects that it shows in its last lines or with display()."""
    names, shown = {}, []
    matplotlib.use("agg")

    def display(*objects):
        shown.extend(objects)

    with mock.patch.object(IPython.display, "display", display):
        for cell in (cell for cell in notebooks.read(path).cells if cell.cell_type == "code"):
            body = ast.parse(cell.source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), str(path), "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= given
            if last is not None:
                shown.append(eval(compile(ast.Expression(last.value), str(path), "eval"), names))
    return names, [one for one in shown if one is not None]


def texts(shown: list) -> str:
    """All Markdown and HTML among what a notebook shows."""
    return "\n".join(one.data for one in shown if isinstance(getattr(one, "data", None), str))


def tables(html: str) -> list[list[list[str]]]:
    """The tables of a page, as rows of the texts of their cells."""
    found = BeautifulSoup(html, "html.parser").find_all("table")
    return [[[cell.text for cell in row.find_all(["th", "td"])] for row in each.find_all("tr")] for each in found]
