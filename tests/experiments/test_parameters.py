"""The values of parameters: one rule for papermill, the build and the command, applied before any training."""

import os
import re
import subprocess
import sys
from typing import get_args

import pytest
from typer.testing import CliRunner

from famf_book import notebooks
from famf_lib.experiments import parameters
from famf_lib.support.files import ROOT

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
FREE = {
    "clip",
    "dataset",
    "datasets",
    "model",
    "note",
    "results",
    "row",
    "video",
}  # names and prose, which the notebook looks up itself


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("profile", "huge", "profile: 'huge' is not known, expected one of quick, standard, paper"),
        ("protocol", "film", "protocol: 'film' is not known, expected one of given, groups, random, nothing"),
        ("columns", 25, "columns: 25 is not known, expected a whole number from 1 to 24"),
        ("persons", 1, "persons: 1 is not known, expected a whole number from 2 to 1000"),
        ("seeds", [7, -1], "seeds: -1 is not known, expected a whole number from 0 to 4294967295"),
        ("seeds", [2**32], "seeds: 4294967296 is not known"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_sentence(name, value, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        parameters.check(name, value)


def test_the_ends_of_what_is_allowed_are_allowed():
    for name, allowed in parameters.ALLOWED.items():
        for value in (allowed[0], allowed[-1]):
            parameters.check(name, value)
            parameters.check(name, [value, value])
    parameters.check("dataset", "whatever")


def test_the_rules_are_those_of_what_is_configured():
    from famf_lib.data.splits import Protocol
    from famf_lib.experiments.run_store import RunSpec
    from famf_lib.experiments.settings import BASE
    from famf_lib.training.train import pick_device

    assert list(parameters.PROFILES) == list(BASE)
    assert parameters.PROTOCOLS == get_args(Protocol)
    for seed in (parameters.SEEDS[0], parameters.SEEDS[-1]):
        assert RunSpec(seed=seed).seed == seed
    for seed in (parameters.SEEDS[0] - 1, parameters.SEEDS[-1] + 1):
        with pytest.raises(ValueError, match="seed"):
            RunSpec(seed=seed)
    assert pick_device(parameters.DEVICES[1]).type == "cpu"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_says_its_type_and_what_may_stand_there(path):
    for one in notebooks.parameters(path):
        allowed = parameters.ALLOWED.get(one.name)
        assert one.type and one.help, one.name
        assert allowed is not None or one.name in FREE or one.type == "bool", f"{one.name}: give it a rule"
        words = set(re.findall(r"[\w,]+", one.help.replace(",", " ")))
        if isinstance(allowed, range):
            missing = {str(allowed.start)} - words if allowed == parameters.SEEDS else _ends(allowed) - words
        else:
            missing = {word for word in allowed or () if word} - words
        assert not missing, f"{one.name}: the comment does not say {missing}"


def _ends(allowed):
    return {str(allowed[0]), str(allowed[-1])}


def test_in_jupyterlab_a_value_that_was_edited_is_checked(monkeypatch):
    from types import SimpleNamespace

    cells = ["", 'profile: str = "huge"  # the size', "refuse_unknown_parameters()"]
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    with pytest.raises(notebooks.NotebookError, match="'huge' is not known"):
        notebooks.refuse_unknown_parameters()
    cells.insert(2, 'profile: str = "quick"  # the size')  # corrected, and run again
    notebooks.refuse_unknown_parameters()
    cells[2:2] = [
        "seeds: list[int] = [1]  # each 0 or more",
        '# Parameters\nseeds = "[1, -7]"',
    ]
    with pytest.raises(notebooks.NotebookError, match="seeds: -7 is not known, expected a whole number from 0"):
        notebooks.refuse_unknown_parameters()


def test_the_build_refuses_before_a_kernel_starts():
    path = ROOT / "book" / "table-1.ipynb"
    with pytest.raises(notebooks.NotebookError, match=r"table-1\.ipynb: seeds: -7 is not known, expected"):
        notebooks.check(path, {"seeds": "[1, -7]"})


@pytest.fixture
def asked(monkeypatch):
    """The arguments with which the command calls ``results.run_experiment``, which does nothing."""
    from famf_lib.experiments import results

    found = []

    def run_experiment(*arguments):
        found.append(arguments)
        raise LookupError("asked")

    monkeypatch.setattr(results, "run_experiment", run_experiment)
    return found


def famf(*arguments):
    from famf_book import cli

    return CliRunner().invoke(cli.app, arguments).exception


def test_the_command_takes_parameters_as_papermill_does(asked):
    given = ("-p", "dataset", "imfdb", "-p", "seeds", "1,2", "--parameter", "profile", "quick")
    assert str(famf("run", "table-1", *given)) == "asked"
    assert str(famf("run", *given, "table-1")) == "asked"
    assert str(famf("run", "table-1", "-d", "imfdb", "--seeds", "1,2", "--profile", "quick")) == "asked"
    assert asked == [("table-1", "imfdb", "quick", [1, 2], "auto", "")] * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-p sedes 1", "-p: there is no parameter 'sedes' in an experiment; the closest is 'seeds'"),
        ("-p dataset", "-p dataset: no value found, expected -p dataset VALUE"),
        ("-p seeds one", "seeds: found 'one', expected list[int] (values separated by commas)"),
        ("-p seeds 1,-2", "seeds: -2 is not known"),
        ("--seeds 4294967296", "seeds: 4294967296 is not known"),
        ("-p device tpu", "device: 'tpu' is not known, expected one of auto, cpu, cuda"),
        ("--protocol film", "protocol: 'film' is not known, expected one of given, groups, random"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_and_nothing_is_made(asked, arguments, sentence):
    error = famf("run", "table-1", *arguments.split())
    assert isinstance(error, ValueError), error
    assert str(error).startswith(sentence) and "\n" not in str(error)
    assert not asked


def offered(*words):
    """What bash offers when tab is pressed after these words, the last of which may be incomplete."""
    asked = {"_FAMF_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; from famf_book import cli; sys.argv = ['famf']\ntry:\n    cli.app(prog_name='famf')\nfinally:\n"
    code += "    print({'torch', 'pandas', 'papermill'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked, cwd=ROOT
    )
    assert done.stderr.strip() == "set()", done.stderr
    return done.stdout.split()


def test_tab_completes_names_and_values(store):
    from famf_lib.data import datasets
    from famf_lib.experiments.catalogue import EXPERIMENTS

    declared = [one.name for one in notebooks.parameters(ROOT / "book" / "table-2.ipynb")]
    (store / "imported" / "mine").mkdir(parents=True)
    (store / "imported" / "mine" / "arrays.safetensors").touch()
    (store / "runs" / "c0ffee").mkdir(parents=True)
    (store / "runs" / "c0ffee" / "run.json").touch()
    assert offered("famf", "run", "") == list(EXPERIMENTS)
    assert offered("famf", "run", "table-1", "-p", "") == [*declared, "protocol"]
    assert offered("famf", "run", "table-1", "-p", "dataset", "") == datasets.names()
    assert offered("famf", "run", "table-1", "-p", "seeds", "1,2", "-p", "profile", "s") == ["standard"]
    assert offered("famf", "tune", "m") == ["mine"]
    assert offered("famf", "predict", "c") == ["c0ffee"]
    assert "--protocol" in offered("famf", "run", "table-1", "--")
