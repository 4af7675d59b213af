"""Journeys of users: the commands of a page as they stand there, one after another, in a store of their own."""

import json
import re
import shlex

import pytest
import torch
from famf_command import famf

from famf_lib.data import datasets, imported, table_export
from famf_lib.experiments import plan
from famf_lib.experiments.catalogue import FAMF
from famf_lib.experiments.settings import row_settings
from famf_lib.support.files import ROOT
from famf_lib.training.memory import peak_of_step

EXPORT = ("onnx", "onnxscript", "onnxruntime")
JOURNEYS = {  # page, heading: what each command of the first block after it prints
    ("data/README.md", "## Your own features"): [
        "mine, imported",
        "5 persons|persons +5",
        "AttentionVLAD",
        "clip 000:",
    ],
    ("README.md", "## Use a trained model"): [
        "“FAMF over the simplest”",
        "14 runs in",
        "predictions.parquet",
        "model.onnx",
    ],
    ("book/cluster.md", "# Several GPUs and machines"): [r"^table-1 on synthetic: 35 runs to train: about .* days"],
}


def commands(page, heading):
    section = (ROOT / page).read_text().partition(f"{heading}\n")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
def test_a_page_is_followed_to_its_end(journey, tiny, results_folder, made_up, tmp_path, monkeypatch):
    if any("model.onnx" in words for words in commands(*journey)):
        for name in EXPORT:
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    table_export.export(made_up(), tmp_path / "FOLDER")
    for (program, *words), printed in zip(commands(*journey), JOURNEYS[journey], strict=True):
        done = famf(*words)
        assert program == "famf" and done.exit_code == 0, (words, done.output, done.exception)
        assert re.search(printed, done.stdout, re.MULTILINE), (words, done.stdout)


def test_what_was_asked_for_is_trained_and_nothing_else(tiny, results_folder, store):
    """A dry run trains nothing; at the paper's size on a CPU nobody who is not asked trains for days."""
    quick = ["run", "table-1", "--profile", "quick", "--seeds", "1,2", "--device", "cpu"]
    dry = famf(*quick, "--dry-run").stdout
    assert dry.startswith("table-1 on synthetic: 14 runs to train: about ") and not (store / "runs").exists()
    done = famf(*quick)
    assert done.stderr.startswith("famf: table-1 on synthetic: 14 runs to train: about ")
    keys = [path.parent.name for path in (store / "runs").glob("*/run.json")]
    assert len(keys) == 14 and all(key[:8] in done.stdout for key in keys)
    assert famf(*quick, "--dry-run").stdout == "table-1 on synthetic: nothing to train: 14 runs in the store already\n"
    paper = famf("run", "table-1", "--profile", "paper", "--device", "cpu")
    assert "--yes: not given, and nobody is here to answer" in str(paper.exception)
    tune = famf("tune", "synthetic", "--profile", "quick", "--dry-run").stdout
    assert re.match(r"tuning on synthetic: [\d,]+ runs to train: about ", tune)
    sweep = famf("sweep", "table-1", "--profile", "quick", "--seeds", "1-3", "--dry-run").stdout
    assert sweep.startswith("1 experiment on synthetic: 7 runs to train, 14 of 21 are stored: about ")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_estimates_are_near_what_was_measured(device, results_folder, monkeypatch):
    """One training of the paper's size, as the recordings of the page on the full size say."""
    recorded = json.loads((ROOT / "results" / f"full-size-{device.replace('cuda', 'gpu')}.json").read_text())
    measured = sum(part["measured"] for part in recorded["parts"])
    monkeypatch.setattr(plan, "precision_of", lambda training, device: torch.bfloat16)
    synthetic = datasets.get("synthetic")
    spec = FAMF.spec(synthetic, row_settings("synthetic", "paper").of(FAMF.label), 1)
    found = plan.plan([(synthetic, "paper", [spec])], torch.device(device))
    assert measured / 1.5 < found.seconds < 1.5 * measured
    size = {"dim": 512, "modality_dims": {"audio": 512, "body": 512}, "persons": 10_034}
    assert found.memory - plan.PROCESS == pytest.approx(peak_of_step(spec.model, spec.training, **size).peak, rel=0.5)
    assert found.disk - 4e9 == pytest.approx(0.32e9, abs=1e9)  # 316 MB of weights, and 133,000 clips of 30 faces


def test_an_import_is_removed_if_the_user_says_so(made_up):
    made_up().save(imported.place("mine"))
    no = famf("data", "remove", "mine")
    assert "--yes: not given" in str(no.exception) and imported.names() == ["mine"]
    assert famf("data", "remove", "mine", "--yes").exit_code == 0 and not imported.names()
    again = famf("data", "remove", "mine", "--yes")
    assert str(again.exception) == "name: there is no import 'mine', expected one of none"


def test_tables_and_damaged_imports_are_named(made_up, tmp_path, store):
    table_export.export(made_up(), tmp_path / "tables")
    told = famf("data", "info", tmp_path / "tables")
    assert "tables found, expected a ClipSet: import it first (famf data import table" in str(told.exception)
    folder = made_up().save(imported.place("mine"))
    content = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(content.replace(b'"info": "{', b'"info": "x', 1))
    for words in (["data", "info", "mine"], ["run", "table-1", "-d", "mine", "--profile", "quick"]):
        error = famf(*words).exception
        assert str(folder) in str(error) and "famf data verify" in str(error) and "\n" not in str(error)
    assert "mine       damaged  " in famf("data", "list").stdout
