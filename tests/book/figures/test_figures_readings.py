"""The page on the readings: which reading is the book's, signs of differences, and outcomes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from famf_book.figures import readings
from famf_book.figures.readings import COLUMNS, Outcome
from famf_book.notebooks import read
from famf_lib.data.datasets import DATASETS
from famf_lib.evidence.bootstrap import Estimate, estimate
from famf_lib.evidence.claims import MARGIN
from famf_lib.experiments.catalogue import FAMF, FAMF_WITH_MMA, READINGS
from famf_lib.experiments.results import Results
from famf_lib.experiments.settings import BASE
from famf_lib.support.files import ROOT

ROWS = [FAMF, FAMF_WITH_MMA, *(r.variant for r in READINGS)]


@pytest.fixture
def read_as(made_results):
    """Makes results of the readings with a given mAP per row (default 0.5) and normalisation of the setting."""

    def make(levels, normalisation="cluster", seeds=5):
        used = BASE["standard"].model_copy(update={"normalisation": normalisation})
        made = made_results({row.label: levels.get(row.label, 0.5) for row in ROWS}, seeds=seeds)
        spec = {row.label: row for row in ROWS}
        runs = {
            (label, seed): replace(run, spec=spec[label].spec(DATASETS["synthetic"], used, seed))
            for (label, seed), run in made.runs.items()
        }
        return Results(runs, "data", "standard")

    return make


@pytest.mark.parametrize(
    ("normalisation", "name"),
    [("none", "none"), ("cluster", "each cluster, before φ")],
)
def test_the_books_reading_follows_the_setting(read_as, normalisation, name):
    book = readings.of_the_book(read_as({}, normalisation))
    assert book["normalisation"] == name
    assert (book["φ"], book["MMA"], book["classifier"]) == ("sigmoid", "residual and L2", "ReLU")
    assert set(book) == {r.question for r in READINGS}
    variant = next(r.variant for r in READINGS if r.name == "each cluster, behind φ")
    used = BASE["standard"].model_copy(update={"normalisation": normalisation})
    model = variant.spec(DATASETS["synthetic"], used, 1).model
    assert (model.aggregation, model.aggregation_options["normalisation"]) == ("netvlad", "cluster")


def test_every_other_reading_is_compared_with_its_base(read_as):
    levels = {FAMF.label: 0.5, "φ: sigmoid": 0.5, FAMF_WITH_MMA.label: 0.6, "MMA: residual and L2": 0.6}
    results = read_as(levels | {"φ: softmax": 0.53, "MMA: no L2": 0.58})
    table = readings.differences(results).set_index(["question", "reading"])
    assert len(table) == len(READINGS) - len({r.question for r in READINGS})
    assert table.loc[("φ", "softmax"), "difference"] == pytest.approx(0.03)
    assert table.loc[("φ", "softmax"), "mAP"] == pytest.approx(0.53)
    assert table.loc[("MMA", "no L2"), "difference"] == pytest.approx(-0.02)
    assert table.loc[("MMA", "no L2"), "instead of"] == "residual and L2"
    assert ("φ", "sigmoid") not in table.index


def test_interval_is_that_of_the_paired_difference(read_as):
    results = read_as({})
    rng = np.random.default_rng(3)
    for seed in results.seeds:
        run = results.runs["features: unit length", seed]
        results.runs["features: unit length", seed] = replace(run, ap=run.ap + rng.normal(0.02, 0.01, len(run.ap)))
    row = readings.differences(results).set_index("reading").loc["unit length"]
    expected = estimate(results.ap("features: unit length") - results.ap(FAMF.label))
    assert (row["difference"], row["low"], row["high"]) == (expected.mean, expected.low, expected.high)


def test_questions_and_readings_are_sorted_by_size(read_as):
    levels = {"φ: softmax": 0.51, "φ: no activation": 0.3, "classifier: linear": 0.6, "centres: random": 0.49}
    table = readings.differences(read_as(levels))
    assert list(table["question"][:4]) == ["φ", "φ", "classifier", "centres"]
    assert list(table["reading"][:2]) == ["no activation", "softmax"]
    assert list(dict.fromkeys(table["question"])) == list(table.groupby("question", sort=False).groups)  # not split


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.9, 0.9, Outcome.SAME),
        (0.2, 0.9, Outcome.SAME),  # above 0, but negligible
        (0.2, 1.1, Outcome.BETTER),
        (-1.1, -0.2, Outcome.WORSE),
        *[(*ends, Outcome.UNKNOWN) for ends in ((-0.2, 2), (-2, 0.2), (0.0, 2), (-2, 0.0))],
    ],
)
def test_outcome(low, high, expected):
    low, high = low * MARGIN, high * MARGIN
    assert readings.outcome(Estimate((low + high) / 2, low, high, 5, 13)) == expected
    assert str(expected) in readings.RULE.replace("*", "")


def made(*rows):
    """A table of (question, outcome, difference)."""
    lines = [(q, f"other {n}", "ours", 0.5, d, d - 0.01, d + 0.01, str(o)) for n, (q, o, d) in enumerate(rows)]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_a_question_follows_from_its_readings():
    same = [("b", Outcome.SAME, 0.0), ("b", Outcome.SAME, 0.0), ("c", Outcome.SAME, 0.0)]
    rest = [("c", Outcome.UNKNOWN, 0.0), ("d", Outcome.WORSE, -0.02)]
    table = made(("a", Outcome.UNKNOWN, 0.1), ("a", Outcome.BETTER, 0.05), *same, *rest)
    assert readings.sorted_out(table) == {"matter": ["a", "d"], "same": ["b"], "unknown": ["c"]}
    text = readings.answer(table)
    assert text.startswith(
        "2 of 4 questions that the paper leaves open matter: a (other 1 instead of ours: +0.0500 [+0.04"
    )
    assert "d (other 6 instead of ours: -0.0200" in text and "0.1000" not in text
    assert "a difference for b." in text and "cannot tell for c." in text


def test_answer_without_a_question_that_matters():
    for rows in ([], [("a", Outcome.SAME, 0.0)]):
        assert f"None of {len(rows)} question" in readings.answer(made(*rows))


def test_the_page_links_every_question_to_where_it_is_explained():
    cells = "\n".join(c.source for c in read(ROOT / "book" / "readings.ipynb").cells if c.cell_type == "markdown")
    explained = (ROOT / "book" / "readings.md").read_text()
    for question in dict.fromkeys(r.question for r in READINGS):
        (line,) = [line for line in cells.splitlines() if line.startswith(f"| {question} |")]
        label = line.split("(#")[1].split(")")[0]
        assert f"({label})=" in explained
