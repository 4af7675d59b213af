"""The values of parameters: one rule for papermill, the build and the command, applied before any training."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
from typer.testing import CliRunner

from famf_book import cli, notebooks
from famf_lib.data import datasets
from famf_lib.data.splits import Protocol
from famf_lib.experiments import parameters, results
from famf_lib.experiments.catalogue import EXPERIMENTS
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import BASE
from famf_lib.support.files import ROOT
from famf_lib.training.train import pick_device

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# Names, prose and numbers that the notebook checks itself.
FREE = {"beside", "clip", "dataset", "datasets", "model", "note", "results", "row", "scale", "video"}


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("profile", "huge", "profile: 'huge' is not known, expected one of quick, standard, paper"),
        ("protocol", "film", "protocol: 'film' is not known, expected one of given, groups, random, nothing"),
        ("columns", 25, "columns: 25 is not known, expected a whole number from 1 to 24"),
        ("persons", 1, "persons: 1 is not known, expected a whole number from 2 to 1000"),
        ("seeds", [7, -1], "seeds: -1 is not known, expected a whole number from 0 to 4294967295"),
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
            allowed = {str(allowed[0])} | ({str(allowed[-1])} if allowed != parameters.SEEDS else set())
        missing = {word for word in allowed or () if word} - words
        assert not missing, f"{one.name}: the comment does not say {missing}"


def test_in_jupyterlab_a_value_that_was_edited_is_checked(monkeypatch):
    cells = ["", 'profile: str = "huge"  # the size', "refuse_unknown_parameters()"]
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    with pytest.raises(notebooks.NotebookError, match="'huge' is not known"):
        notebooks.refuse_unknown_parameters()
    cells.insert(2, 'profile: str = "quick"  # the size')  # corrected, and run again
    notebooks.refuse_unknown_parameters()
    cells[2:2] = ["seeds: list[int] = [1]  # each 0 or more", '# Parameters\nseeds = "[1, -7]"']
    with pytest.raises(notebooks.NotebookError, match="seeds: -7 is not known, expected a whole number from 0"):
        notebooks.refuse_unknown_parameters()


def test_the_build_refuses_before_a_kernel_starts():
    path = ROOT / "book" / "table-1.ipynb"
    with pytest.raises(notebooks.NotebookError, match=r"table-1\.ipynb: seeds: -7 is not known, expected"):
        notebooks.check(path, {"seeds": "[1, -7]"})


@pytest.fixture
def asked(monkeypatch):
    """The arguments with which the command calls ``results.run_settings``, which does nothing."""
    found = []
    monkeypatch.setattr(results, "run_settings", lambda *arguments: found.append(arguments) or 1 / 0)
    return found


def famf(*arguments):
    return CliRunner().invoke(cli.app, arguments).exception


def test_the_command_takes_parameters_as_papermill_does(asked):
    given = ("-p", "dataset", "imfdb", "-p", "seeds", "1,2", "--parameter", "profile", "quick")
    options = ("-d", "imfdb", "--seeds", "1,2", "--profile", "quick")
    for arguments in (("table-1", *given), (*given, "table-1"), ("table-1", *options)):
        famf("run", *arguments)
    assert asked == [(EXPERIMENTS["table-1"], "imfdb", "quick", [1, 2], "auto", "")] * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-p sedes 1", "-p: there is no parameter 'sedes' in an experiment; the closest is 'seeds'"),
        ("-p dataset", "-p dataset: no value found, expected -p dataset VALUE"),
        ("-p seeds one", "seeds: found 'one', expected list[int] (values separated by commas)"),
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


COMPLETING = """
import json, os, sys
from famf_book import cli
for words in json.loads(sys.argv[1]):
    os.environ |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    sys.argv = ["famf"]
    try:
        cli.app(prog_name="famf")
    except SystemExit:
        print("---", flush=True)
print({"torch", "pandas", "papermill"} & set(sys.modules), file=sys.stderr)
"""


def offered(*lines):
    """What bash offers for each line when tab is pressed at its end; the last word may be incomplete."""
    command = [sys.executable, "-c", COMPLETING, json.dumps(lines)]
    asked = os.environ | {"_FAMF_COMPLETE": "complete_bash"}
    done = subprocess.run(command, capture_output=True, text=True, env=asked, cwd=ROOT)
    assert done.stderr.strip() == "set()", done.stderr
    return [each.split() for each in done.stdout.split("---\n")[:-1]]


def test_tab_completes_names_and_values(store):
    declared = [one.name for one in notebooks.parameters(ROOT / "book" / "table-2.ipynb") if one.name != "beside"]
    for file in ("imported/mine/arrays.safetensors", "runs/c0ffee/run.json"):
        (store / file).parent.mkdir(parents=True)
        (store / file).touch()
    expected = {
        "famf run ": list(EXPERIMENTS),
        "famf run table-1 -p ": [*declared, "protocol", "modalities"],
        "famf run table-1 -p dataset ": datasets.names(),
        "famf run table-1 -p seeds 1,2 -p profile s": ["standard"],
        "famf tune m": ["mine"],
        "famf predict c": ["c0ffee"],
    }
    *found, options = offered(*expected, "famf run table-1 --")
    assert dict(zip(expected, found, strict=True)) == expected and "--protocol" in options
