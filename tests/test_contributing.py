import os
import re
import shutil
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from made_notebooks import tagged, write
from nbformat.v4 import new_markdown_cell

from famf_book import notebooks, report
from famf_book.pages import pages, table_of_contents
from famf_lib.data import datasets
from famf_lib.experiments import plugins, results, run_store
from famf_lib.experiments.catalogue import FAMF, Experiment
from famf_lib.experiments.run_table import run_table
from famf_lib.models import AGGREGATIONS, FUSIONS
from famf_lib.support.files import ROOT

PAGE = (ROOT / "book" / "contributing.md").read_text()
LINES = 20


def blocks(label):
    """The code blocks of the section behind a label, by their order."""
    section = re.split(r"\n##+ ", PAGE.partition(f"({label})=\n")[2])[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize("label", ["add-an-aggregation", "add-a-fusion", "add-a-dataset", "add-a-page"])
def test_each_is_less_than_twenty_lines(label):
    lines = [line for block in blocks(label) for line in block.splitlines() if line.strip()]
    assert 0 < len(lines) < LINES


def run(source):
    """Runs a block as a cell of a notebook runs: what it defines lies in no module that a worker could import."""
    space = {"__name__": "__main__"}
    exec(source, space)
    return space


@pytest.fixture
def added():
    """What the examples add goes afterwards."""
    with patch.dict(AGGREGATIONS), patch.dict(FUSIONS), patch.dict(datasets.DATASETS):
        yield


def test_an_aggregation_from_outside_gets_its_row(added, tiny, results_folder, monkeypatch):
    (source,) = blocks("add-an-aggregation")
    space = run(source)
    found = space["found"]
    table = report.rows(found, {})
    assert list(table.index) == [FAMF.label, "By norm + MLMA"] and found.seeds == [1, 2]
    assert table["ours"].between(0, 1).all() and table["ours"].nunique() == 2
    # It is the class of the page that was trained: one token, and no weights of its own.
    clipset = datasets.load("synthetic", "quick")
    first = found.runs["By norm + MLMA", 1]
    model = first.model(clipset)
    assert type(model.aggregation) is space["ByNorm"] and model.aggregation.tokens == 1

    # The same again is read; once its code is another, it is trained anew, and FAMF is not.
    monkeypatch.setattr(run_store, "_make", lambda *_: pytest.fail("trained again"))
    same = run(source.replace("def face_weights", "# by its length\n    def face_weights"))["found"]
    assert same.runs["By norm + MLMA", 1].key == first.key
    device = run_store.torch.device("cpu")
    run(source.replace("1e-6", "1e-5").partition("mine =")[0])
    assert run_store.find(first.spec, clipset, device) is None
    assert run_store.find(found.runs[FAMF.label, 1].spec, clipset, device) is not None

    # Where nobody has added it, it is listed, and cannot be opened.
    del AGGREGATIONS["by-norm"]
    listed = run_table().drop_duplicates("key")
    assert len(listed) == 6  # mean pooling is trained beside them
    assert list(listed["row"]).count("by-norm + mlma (face, audio, body)") == 2
    with pytest.raises(ValueError, match="by-norm and mlma found, expected modules in AGGREGATIONS"):
        run_store.open_run(first.key)


def test_a_fusion_from_outside_gets_its_row(added, tiny, results_folder):
    (source,) = blocks("add-a-fusion")
    space = run(source)
    assert list(report.rows(space["found"], {}).index) == [FAMF.label, "AttentionVLAD + mean"]
    clipset = datasets.load("synthetic", "quick")
    model = space["found"].runs["AttentionVLAD + mean", 1].model(clipset)
    tokens = torch.randn(3, 5, model.dim, generator=torch.Generator().manual_seed(0))
    assert type(model.fusion) is space["Mean"]
    torch.testing.assert_close(model.fusion(tokens), tokens.mean(dim=1, keepdim=True).expand(3, 5, -1))


def test_a_dataset_from_outside_is_one_like_the_others(added, tiny, results_folder):
    (source,) = blocks("add-a-dataset")
    run(source)
    clipset = datasets.load("eleven", "quick")
    assert "eleven" in datasets.names() and len(clipset.persons) == 11 and clipset.counts.unique().tolist() == [5]
    one = Experiment("one", "one row", (FAMF,))
    found = results.run_experiment(one, "eleven", "quick", seeds=[3])
    assert found.data == clipset.fingerprint and list(report.rows(found, {}).index) == [FAMF.label]


@pytest.fixture
def outside(added, tmp_path, monkeypatch):
    """The fusion and the dataset of the page as a module of the user's, and a function that gives it entry points."""
    (fusion,), (dataset,) = blocks("add-a-fusion"), blocks("add-a-dataset")
    (tmp_path / "mine.py").write_text(fusion.partition("row =")[0].partition("FUSIONS[")[0] + dataset)
    monkeypatch.syspath_prepend(tmp_path)

    def install(points):
        (tmp_path / "mine-1.dist-info").mkdir(exist_ok=True)
        (tmp_path / "mine-1.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1\n")
        (tmp_path / "mine-1.dist-info" / "entry_points.txt").write_text(points)
        plugins._load.cache_clear()
        plugins.load()

    yield install
    plugins._load.cache_clear()
    sys.modules.pop("mine", None)


def test_an_installed_package_adds_its_modules(outside):
    (points,) = blocks("add-from-outside")
    named = re.sub(r'"|project.entry-points.', "", points)
    outside(named)
    assert FUSIONS["mean-of-tokens"].__module__ == "mine" and "eleven" in datasets.names()
    for old, new, said in (
        ("mine:Mean", "mine:eleven", "famf.fusions: mean-of-tokens = 'mine:eleven' found, expected a Fusion"),
        ("mine:Mean", "mine:Median", "famf.fusions: mean-of-tokens = 'mine:Median' found (AttributeError: "),
        ("mean-of-tokens", "mlma", "expected another name, because there is a 'mlma' already"),
    ):
        with pytest.raises(plugins.PluginError, match=re.escape(said)):
            outside(named.replace(old, new))


def test_a_module_of_the_user_is_known_to_every_command(outside, tiny, results_folder, tmp_path):
    run(blocks("add-a-fusion")[0])
    (tmp_path / "mine.py").write_text(blocks("add-a-fusion")[0].partition("row =")[0])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name, said in (("mine", "mean-of-tokens"), ("yours", "famf: --plugin: 'yours' found (ModuleNotFoundError: ")):
        command = [sys.executable, "-m", "famf_book.cli", "--plugin", name, "runs"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "1 / t)",
            "1 / t)[:, 1:]",
            r"Mean.forward: shape \(2, 4, 32\) found for an .* \(2, 5, 32\), expected \(2, 5, 32\)",
        ),
        ("(b, t, t), 1", "(b, t), 1", r"Mean.forward: RuntimeError: .* for an input .*, expected shape \(2, 5, 32\)"),
    ],
)
def test_a_fusion_of_another_shape_is_named_before_anything_is_trained(added, tiny, old, new, sentence, monkeypatch):
    monkeypatch.setattr(run_store, "_make", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=sentence):
        run(blocks("add-a-fusion")[0].replace(old, new))


def test_a_page_stands_in_the_book_and_shows_something(tmp_path, capsys):
    heading, declared, shows, entry, line, _ = blocks("add-a-page")
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_static", "figures"))
    for name in ("_toc.yml", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    write(tmp_path / "book" / "about.ipynb", new_markdown_cell(heading), tagged(declared), shows)
    with (tmp_path / "book" / "pages.yml").open("a") as listed:
        listed.write(entry)
    with (tmp_path / "_toc.yml").open("a") as contents:
        contents.write(line)
    every = pages(tmp_path, {"profile": "quick"})
    page = next(page for page in every if page.name == "about")
    assert page.values == {"dataset": "synthetic", "profile": "quick"}
    assert table_of_contents(tmp_path, every)["parts"][-1]["chapters"][-1] == {"file": "book/about"}
    assert all(one.help for one in notebooks.parameters(page.notebook))

    run("\n".join([declared, 'profile = "quick"', shows]))
    assert "persons" in capsys.readouterr().out
