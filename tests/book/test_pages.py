import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import pytest
import typer
from run_cells import tables
from short_training import SETUP

from famf_book import notebooks
from famf_book.commands import book
from famf_book.pages import BookError, pages, table_of_contents
from famf_lib.experiments import plugins
from famf_lib.experiments.catalogue import EXPERIMENTS, READINGS
from famf_lib.models import AGGREGATIONS, FUSIONS
from famf_lib.support.files import ROOT

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
of_every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
VISIBLE = 0.7  # of the lines of code, the least
HIDDEN_CELLS = 3  # the most: set-up, a text that is computed, the footer
WITHOUT_CODE = {"ledger"}  # it is read, not changed
# These show how something is done, or have other commands.
OTHERS = "explore from-video own-features own-model benchmarks framework full-size trust".split()


@of_every_notebook
def test_a_notebook_is_clean_and_strict_and_opens_with_its_title(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert "parameters" in code[0]["metadata"]["tags"]
    assert "refuse_unknown_parameters()" in "".join(code[1]["source"])
    assert cells[0]["cell_type"] == "markdown" and re.match(r"# \S", "".join(cells[0]["source"]))
    for cell in cells:
        options = cell["metadata"].get("mystnb", {})
        if "figure" in options or cell["cell_type"] == "code" and "".join(cell["source"]).rstrip().endswith(";"):
            assert options["figure"]["caption"] and options["image"]["alt"]
        if "other_datasets(" in "".join(cell["source"]):
            assert options["image"]["alt"]


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


def test_every_question_is_linked_to_where_it_is_explained():
    cells = notebooks.read(ROOT / "book" / "readings.ipynb").cells
    rows = [line for c in cells if c.cell_type == "markdown" for line in c.source.splitlines()]
    for question in dict.fromkeys(r.question for r in READINGS):
        (line,) = [line for line in rows if line.startswith(f"| {question} |")]
        label = line.split("(#")[1].split(")")[0]
        assert f"({label})=" in (ROOT / "book" / "unclear.md").read_text()


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in OTHERS], ids=lambda path: path.stem)
def test_a_page_of_results_ends_with_the_command_that_repeats_it(path):
    """With the value of every parameter, the same for all: the words of the command are tested with ``report``."""
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    last = "".join(code[-1]["source"])
    assert f'report.again("{path.stem}"' in last or f'report.footer("{path.stem}"' in last
    for parameter in notebooks.parameters(path):
        assert f"{parameter.name}=" in last, f"the command leaves out {parameter.name}"


def test_the_pages_of_the_book_are_in_order():
    every = pages(ROOT, {"profile": "quick"})
    assert every[0].name == "when"
    assert table_of_contents(ROOT, every)["root"] == "book/intro"


def test_the_runs_of_plug_ins_and_of_pages_that_train_their_own_are_prepared(
    capsys, monkeypatch, results_folder, tmp_path
):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))  # no other data are here
    monkeypatch.delitem(sys.modules, "famf_today.plugin", raising=False)
    every = {page.name: page for page in pages(ROOT, {"profile": "quick", "seeds": [1]})}

    def planned(*names):
        plugins._load.cache_clear()
        with pytest.raises(typer.Exit):
            book._prepare([every[name] for name in names], "cpu", yes=False, dry_run=True)
        return int(
            re.match(rf"{', '.join(names)}: ([\d,]+) runs to train", capsys.readouterr().out)[1].replace(",", "")
        )

    with patch.dict(AGGREGATIONS), patch.dict(FUSIONS), patch.dict(EXPERIMENTS):
        assert planned("since") == 12 and planned("when") > 12
        assert planned("since", "when") == 12 + planned("when")


@pytest.mark.parametrize("module", ["no_such_module", "famf_lib.paper"])
def test_a_module_without_runs_for_a_page_is_refused_by_name(module):
    page = replace(next(page for page in pages(ROOT, {"profile": "quick"}) if page.runs), runs=module)
    with pytest.raises(BookError, match=rf"pages\.yml, page 'when': runs: '{module}' found \(.+\), expected a module"):
        book._prepare([page], "cpu", yes=False, dry_run=True)


def run(tmp_path, store, *arguments):
    """Executes a notebook with only two rows to train; the kernel has a startup file, as users may have."""
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "short.py"
    startup.parent.mkdir(parents=True, exist_ok=True)
    startup.write_text(SETUP)
    command = [sys.executable, "-m", "papermill", "confidence.ipynb", str(tmp_path / "out.ipynb"), "-k", "python3"]
    command += ["-p", "profile", "quick", "-p", "device", "cpu", *arguments]
    own = os.environ | {"FAMF_STORE": str(tmp_path / store), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "book", env=own)
    assert done.returncode == 0, done.stderr


def numbers(path):
    """The tables of an executed notebook, but for how long a run took, and when."""
    outputs = [o["data"] for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", []) if "data" in o]
    found = tables("".join("".join(data.get("text/html", "")) for data in outputs))
    kept = [[n for n, name in enumerate(rows[0]) if name not in ("seconds", "trained")] for rows in found]
    return [[[row[n] for n in keep] for row in rows] for keep, rows in zip(kept, found, strict=True)]


def test_papermill_gives_the_same_numbers_twice_with_seeds_as_text_or_list(tmp_path):
    run(tmp_path, "one", "-p", "seeds", "1,2")
    found = numbers(tmp_path / "out.ipynb")
    run(tmp_path, "two", "-y", "seeds: [1, 2]")
    assert len(found) >= 4 and [row[2] for row in found[-1][1:]] == ["1", "2", "1", "2"]  # two rows, two seeds
    outputs = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    assert not any(output["output_type"] in ("stream", "error") for output in outputs)  # progress left nothing behind
    last = "".join([o["data"] for o in outputs if "text/markdown" in o["data"]][-1]["text/markdown"])
    assert last.count("-p seeds 1,2") == 2 and "This page was executed on" in last and "PyTorch" in last
    assert numbers(tmp_path / "out.ipynb") == found
