"""The notebooks of the book themselves: their form, and one of them run as a user runs it."""

import json
import os
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup
from short_training import SETUP

from famf_book import notebooks
from famf_book.pages import pages, table_of_contents
from famf_lib.support.files import ROOT

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# These show how something is done, or have other commands; the front page has links.
OTHERS = "explore from-video own-features own-model benchmarks framework full-size intro trust".split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean_and_strict(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert "parameters" in code[0]["metadata"]["tags"]
    assert "refuse_unknown_parameters()" in "".join(code[1]["source"])
    assert all(parameter.help for parameter in notebooks.parameters(path))


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in OTHERS], ids=lambda path: path.stem)
def test_a_page_of_results_ends_with_the_command_that_repeats_it(path):
    """With the value of every parameter, the same for all: the words of the command are tested with ``report``."""
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    last = "".join(code[-1]["source"])
    assert f'report.again("{path.stem}"' in last or f'report.footer("{path.stem}"' in last
    for parameter in notebooks.parameters(path):
        assert f"{parameter.name}=" in last, f"the command leaves out {parameter.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_and_a_text_for_those_who_cannot_see_it(path):
    for cell in json.loads(path.read_text())["cells"]:
        options = cell["metadata"].get("mystnb", {})
        if "figure" in options or cell["cell_type"] == "code" and "".join(cell["source"]).rstrip().endswith(";"):
            assert options["figure"]["caption"] and options["image"]["alt"]


def test_the_pages_of_the_book_are_in_order():
    every = pages(ROOT, {"profile": "quick"})
    assert every[0].name == "synthetic"
    assert table_of_contents(ROOT, every)["root"] == "book/intro"


def run(tmp_path, store, *arguments):
    """Executes a notebook with only two rows to train; the kernel has a startup file, as users may have."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "short.py"
    startup.parent.mkdir(parents=True, exist_ok=True)
    startup.write_text(SETUP)
    given = ["-k", "python3", "-p", "profile", "quick", "-p", "device", "cpu", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "confidence.ipynb", str(tmp_path / "out.ipynb"), *given],
        capture_output=True,
        text=True,
        cwd=ROOT / "book",
        env=os.environ | {"FAMF_STORE": str(tmp_path / store), "IPYTHONDIR": str(tmp_path / "ipython")},
    )
    assert done.returncode == 0, done.stderr


def tables(path):
    """The tables of an executed notebook, but for how long a run took, and when."""
    outputs = [o["data"] for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", []) if "data" in o]
    found = []
    for html in ("".join(data["text/html"]) for data in outputs if "text/html" in data):
        for table in BeautifulSoup(html, "html.parser").find_all("table"):
            rows = [[cell.text for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
            keep = [place for place, name in enumerate(rows[0]) if name not in ("seconds", "trained")]
            found.append([[row[place] for place in keep] for row in rows])
    return found


def test_papermill_gives_the_same_numbers_twice_with_seeds_as_text_or_list(tmp_path):
    run(tmp_path, "one", "-p", "seeds", "1,2")
    found = tables(tmp_path / "out.ipynb")
    run(tmp_path, "two", "-y", "seeds: [1, 2]")
    assert len(found) >= 4 and [row[2] for row in found[-1][1:]] == ["1", "2", "1", "2"]  # two rows, two seeds
    outputs = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    assert not any(output["output_type"] in ("stream", "error") for output in outputs)  # progress left nothing behind
    last = "".join([o["data"] for o in outputs if "text/markdown" in o["data"]][-1]["text/markdown"])
    assert last.count("-p seeds 1,2") == 2 and "This page was executed on" in last and "PyTorch" in last
    assert tables(tmp_path / "out.ipynb") == found
