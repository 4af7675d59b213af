import ast
import re

import pytest
from run_cells import run_cells, tables

from famf_book import notebooks
from famf_lib.evidence import ledger
from famf_lib.evidence.bootstrap import estimate
from famf_lib.experiments import catalogue, results
from famf_lib.experiments.settings import BASE, SHORT
from famf_lib.support.files import ROOT

SEEDS = [1, 2]
NOTEBOOKS = [path for path in sorted((ROOT / "book").glob("*.ipynb")) if path.stem in catalogue.EXPERIMENTS]
RESULT = re.compile(r"(?<![\w.])[+−-]?\d*\.\d{3,}(?!\w)")  # what no page may type: a number as exact as a result


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store for all pages, since they share runs, and a training of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        training = BASE["quick"].training.model_copy(update={"epochs": 2, "decay_after": 1})
        patch.setitem(BASE, "quick", BASE["quick"].model_copy(update={"training": training, "hidden": 32}))
        patch.setenv("FAMF_PROGRESS", "silent")
        patch.chdir(ROOT / "book")
        yield tmp_path_factory.mktemp("shared")


@pytest.fixture
def found(store, shared, monkeypatch):
    """The results of an experiment under every setting, from the shared store."""
    monkeypatch.setenv("FAMF_STORE", str(shared))
    return lambda name: results.run_settings(name, "synthetic", "quick", SEEDS, "cpu")


def shown_on(path):
    """The tables of the page."""
    given = {"dataset": "synthetic", "profile": "quick", "seeds": SEEDS, "device": "cpu"}
    given |= {p.name: [] for p in notebooks.parameters(path) if p.name == "beside"}
    _, shown = run_cells(path, **notebooks.check(path, given))
    return tables("".join(one._repr_html_() or "" for one in shown if hasattr(one, "_repr_html_")))


def digits(value):
    return "" if value is None else f"{value:.4f}".replace("-", "−")


def interval(e):
    return f"{e.low:.4f} … {e.high:.4f}".replace("-", "−")


def called(one, comparisons):
    """A comparison by its case alone if all are of one claim."""
    return one.name if len({c.claim for c in comparisons}) > 1 else one.case


def check(shown, name, every):
    """Compares what a page shows with the store, row by row. Returns the names of all that was found on the page."""
    found = every["own"]
    printed = catalogue.EXPERIMENTS[name].paper()
    rows = {}
    for label in found.labels:
        runs = [found.runs[label, seed] for seed in found.seeds]
        rows[label] = {
            "paper": digits(printed[label]),
            "ours": digits(sum(run.ap.mean() for run in runs) / len(runs)),  # NaN is left out
            "95% interval": interval(estimate(found.ap(label))),
            "rank-1": digits(sum(run.rank_1 for run in runs) / len(runs)),
        }
    rows |= {str(s): {label: digits(found.runs[label, s].mean_ap) for label in found.labels} for s in found.seeds}
    compared = {SHORT[setting]: ledger.comparisons(name, results) for setting, results in every.items()}
    claims = {}
    for n, one in enumerate(compared[SHORT["own"]]):
        row = claims[called(one, compared[SHORT["own"]])] = {"paper": digits(one.paper), "ours": digits(one.ours.mean)}
        row |= {"95% interval": interval(one.ours)}
        row |= {setting: comparisons[n].outcome for setting, comparisons in compared.items()}
    seen = set()
    for head, *lines in shown:
        of_rows = head[0] == "row" and {"ours", "95% interval"} <= set(head)
        of_seeds = head[0] == "seed" and set(head[1:]) <= set(found.labels)
        expected = rows if of_rows or of_seeds else claims if head[0] == "comparison" else {}
        if not expected:
            continue
        assert not of_rows or {line[0] for line in lines} <= set(found.labels), "a row that is not in the store"
        for label, *cells in lines:
            for column, text in zip(head[1:], cells, strict=True):
                if column in expected.get(label, ()):
                    assert text == expected[label][column], f"{label}, {column}: not what the store has"
                    seen.add(label)
    return seen


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_shows_the_numbers_of_the_store(path, found):
    every = found(path.stem)
    seen = check(shown_on(path), path.stem, every)
    # Every part of a claim that rests on runs is on the page of its experiment; GhostVLAD's identity rests on none.
    comparisons = ledger.comparisons(path.stem, every["own"])
    told = {called(one, comparisons) for one in comparisons if one.ours.persons}
    assert told <= seen, f"not on the page: {sorted(told - seen)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_number_as_exact_as_a_result_is_typed_in(path):
    """The paper's values stand in ``paper``, margins in ``claims``: a notebook has nothing to type."""
    typed = []
    for cell in notebooks.read(path).cells:
        texts = [cell.source]
        if cell.cell_type == "code":
            constants = [node.value for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Constant)]
            texts = [str(value) for value in constants if isinstance(value, str | float)]
        typed += [match.group() for text in texts for match in RESULT.finditer(text)]
    assert not typed
