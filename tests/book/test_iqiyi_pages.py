import re
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import official_files
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from short_training import SETUP
from traitlets.config import Config

from famf_book import notebooks
from famf_lib.data import iqiyi
from famf_lib.support.files import ROOT

GIVEN = {"profile": "quick", "device": "cpu", "seeds": [1], "beside": []}
SEVERAL = {"ledger": ["iqiyi"]}
AGAIN = "%reset -f"  # a notebook finds no variables of the one before


def declared(path):
    return {parameter.name for parameter in notebooks.parameters(path)}


def wanted():
    """The notebooks that have the parameter, with what they are given."""
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        own = {"dataset": "iqiyi"} if path.stem not in SEVERAL else {"datasets": SEVERAL[path.stem]}
        names = declared(path)
        if own.keys() <= names:
            yield path, own | {name: value for name, value in GIVEN.items() if name in names}


NAMES = [path.stem for path, _ in wanted()]
RESULTS = [name for name in NAMES if name != "explore"]  # which shows one clip


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The executed cells of each notebook. Two kernels take turns at them, so that the library is loaded twice only."""
    place = tmp_path_factory.mktemp("iqiyi")
    official_files.write(place / "files")
    made = {}
    for path, given in wanted():
        made[path.stem] = parameterize_notebook(load_notebook_node(str(path)), given).cells
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAMF_STORE", str(place / "store"))
        patch.setenv("FAMF_DATA", str(place))  # no other data are here
        patch.setenv("FAMF_PROGRESS", "silent")
        for library in ("OMP", "OPENBLAS", "MKL"):  # two kernels share the cores
            patch.setenv(f"{library}_NUM_THREADS", "1")
        iqiyi.import_folder(place / "files")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run_in_one_kernel, [list(made.values())[half::2] for half in (0, 1)]))
    return made


def run_in_one_kernel(several):
    cells = [new_code_cell(SETUP)]
    for of_notebook in several:
        cells += [new_code_cell(AGAIN), *of_notebook]
    for cell in cells:
        cell.id = new_code_cell().id  # once in the whole
    whole = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "", "language": ""}})
    config = Config({"KernelManager": {"transport_encryption": "auto"}})
    place = {"metadata": {"path": str(ROOT / "book")}}
    NotebookClient(whole, timeout=300, allow_errors=True, resources=place, config=config).execute()


def outputs(cells):
    return [(cell, output) for cell in cells for output in cell.get("outputs", [])]


def shown(cells, kind):
    return ["".join(o["data"][kind]) for _, o in outputs(cells) if kind in o.get("data", {})]


NO_MARKS = re.compile("matplotlib.axis|legend|patch")
SVG = "{http://www.w3.org/2000/svg}"


def marks(svg):
    """How many things Matplotlib drew into the axes, neither scales and backgrounds nor what came out empty."""
    groups = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("id", "").startswith("axes_")]
    own = [g for axes in groups for g in axes if not NO_MARKS.match(g.get("id", ""))]
    drawn = f"{SVG}use", f"{SVG}image", f"{SVG}text"
    return sum(any(e.get("d", "").strip() or e.tag in drawn for e in g.iter()) for g in own)


def test_none_is_forgotten():
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} - set(NAMES) == {
        "chimera", "imfdb", "synthetic", "own-features", "own-model", "from-video", "benchmarks", "framework",
        "full-size", "saturation", "trust", "when",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_to_its_end_without_a_word_beside_its_page(name, executed):
    for cell, output in outputs(executed[name]):
        printed = output.output_type == "stream" and output.name == "stdout"  # by a visible cell
        assert printed or output.output_type in ("display_data", "execute_result"), f"{cell.source}\n{output}"
    assert all(cell.execution_count for cell in executed[name] if cell.cell_type == "code" and cell.source)


@pytest.mark.parametrize("name", RESULTS)
def test_every_figure_and_every_table_has_something_to_show(name, executed):
    for cell in executed[name]:
        if "figure" in cell.metadata.get("mystnb", {}):
            drawn = shown([cell], "image/svg+xml")
            assert len(drawn) == 1 and marks(drawn[0]) > 2, cell.source
    tables = [BeautifulSoup(html, "html.parser") for html in shown(executed[name], "text/html")]
    assert tables or name == "challenging-cases"
    for table in tables:
        rows = [[cell.text for cell in row.find_all(["td"])] for row in table.find_all("tr")]
        assert len(rows) > 1 and any(text for row in rows[1:] for text in row), table
        assert not re.search(r"\b(nan|NaN|None|inf)\b", table.text), table


@pytest.mark.parametrize("name", RESULTS)
def test_the_page_is_of_these_data_and_speaks_of_no_others(name, executed):
    cells = executed[name]
    told = shown(cells, "text/markdown")
    assert name == "ledger" or any(text.startswith("**In short.**") for text in told)
    command = re.search(r"papermill book/\S+\.ipynb (?:.|\n)*iqiyi", told[-1])
    assert command, told[-1]
    text = "\n".join(told)  # what is computed; the text around it explains the datasets of the book
    assert not re.search(r"\b(nan|NaN)\b", text)
    if name not in (*SEVERAL, "today"):  # which says what was known before, on other data
        assert iqiyi.TITLE in "\n".join(told)
        assert not re.search("synthetic|chimer|imfdb|not the dataset of this page", text, re.IGNORECASE)


def test_levels_are_compared_where_the_data_are_the_papers(executed):
    for name in ("table-1", "table-2", "clusters"):
        assert "values are those of the same data" in shown(executed[name], "text/markdown")[0]
    assert "on the paper's own data" in "\n".join(shown(executed["ledger"], "text/markdown"))


def test_sets_with_text_are_said_to_be_absent(executed):
    told = "\n".join(shown(executed["table-2"], "text/markdown"))
    assert "4 of the 8 sets can be trained here; there is no text." in told
    rows = BeautifulSoup(shown(executed["table-2"], "text/html")[0], "html.parser").find_all("th", scope=None)
    labels = [row.text for row in rows]
    assert [row for row in labels if row.startswith("Face")] == ["Face", "Face+Head", "Face+Audio", "Face+Audio+Body"]
