"""``make gpu`` and what it runs, without a GPU."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from famf_lib.experiments.catalogue import FAMF, SIMPLE
from famf_lib.experiments.settings import row_settings
from famf_lib.support.files import ROOT

AT = 20 * "c7"


@pytest.fixture
def gpu(script, tmp_path, monkeypatch, capsys):
    """Runs ``benchmarks/gpu.py`` with other steps at a made-up commit; returns its exit status and its summary."""
    module = script("gpu")
    monkeypatch.setattr(module, "commit", lambda: AT)

    def run(*steps, minutes=1.0):
        monkeypatch.setattr(module, "steps", lambda *given: list(steps))
        words = ["gpu.py", "--device", "cpu", "--out", str(tmp_path), "--minutes", str(minutes)]
        monkeypatch.setattr(sys, "argv", words)
        status = 0
        try:
            module.main()
        except SystemExit as ended:
            status = ended.code
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        return status, {name: rest for name, rest in lines if not name.startswith("—")}

    module.go = run
    return module


def writes(place, **origin):
    return "-c", f"open({str(place)!r}, 'w').write({json.dumps({'origin': origin})!r})"


def test_steps_are_run_left_out_or_ended_and_each_says_so(gpu, tmp_path):
    made = gpu.Step("made", writes(tmp_path / "made.json", commit=AT, hardware={}), 0.1, "made.json")
    dirty = gpu.Step("dirty", writes(tmp_path / "dirty.json", commit=f"{AT}-dirty", hardware={}), 9, "dirty.json")
    wrong = gpu.Step("wrong", ("-c", "raise SystemExit(3)"), 1)
    slow = gpu.Step("slow", ("-c", "import time; time.sleep(60)"), 0.2)
    lacking = gpu.Step("lacking", ("-c", "raise SystemExit(5)"), 1, packages=("famf_nowhere",))
    partly = gpu.Step("partly", ("-c", ""), 5, optional={"famf_nowhere": "half of it", "json": "nothing"})
    late = gpu.Step("late", ("-c", "raise SystemExit(5)"), 61)
    steps = (made, dirty, wrong, slow, lacking, partly, late)
    status, summary = gpu.go(*steps)
    assert status == 1 and list(summary) == [step.name for step in steps]
    assert summary["made"].endswith("s  done") and summary["wrong"].endswith("failed with exit status 3")
    assert summary["slow"].endswith("ended at its limit")
    assert summary["lacking"] == "left out: needs famf_nowhere"
    assert summary["partly"].endswith("done; left out without famf_nowhere, half of it")
    assert summary["late"].startswith("left out: takes about 61 s, and ")
    status, summary = gpu.go(made, dirty)
    assert status == 0 and summary["made"] == "recorded before" and summary["dirty"].endswith("done")


def test_a_record_of_another_commit_or_gpu_is_made_again(gpu, tmp_path):
    step = gpu.Step("made", (), 0.1, "made.json")
    assert not gpu.is_done(step, tmp_path, AT, None)
    record = {"origin": {"commit": AT, "hardware": {"gpu": "NVIDIA H200"}}}
    (tmp_path / "made.json").write_text(json.dumps(record))
    assert gpu.is_done(step, tmp_path, AT, "NVIDIA H200")
    for at, card in ((AT, "NVIDIA H100"), (AT, None), (20 * "d7", "NVIDIA H200"), (None, "NVIDIA H200")):
        assert not gpu.is_done(step, tmp_path, at, card)
    record["command"] = "python benchmarks/made.py --quick --record"
    (tmp_path / "made.json").write_text(json.dumps(record))
    assert not gpu.is_done(step, tmp_path, AT, "NVIDIA H200"), "small sizes"


def test_a_trial_leaves_the_records_of_the_repository_alone(gpu, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "steps", lambda device, quick, out: seen.append(out) or [])
    for words in (["--quick"], [], ["--quick", "--out", "mine"]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", *words])
        gpu.main()
    trial, usual, named = seen
    assert trial.name.startswith("famf-gpu-")
    trial.rmdir()  # it is there and empty
    assert usual == ROOT / "results" and named == Path("mine").resolve()


def test_an_interruption_ends_the_step_and_keeps_what_was_done(gpu, tmp_path, monkeypatch):
    run = gpu.run

    def interrupted(step, limit):
        if step.name == "second":
            raise KeyboardInterrupt
        return run(step, limit)

    monkeypatch.setattr(gpu, "run", interrupted)
    first = gpu.Step("first", writes(tmp_path / "made.json", commit=AT, hardware={}), 5, "made.json")
    status, summary = gpu.go(first, gpu.Step("second", (), 5), gpu.Step("third", (), 5))
    assert status == 130 and list(summary) == ["first", "second"] and summary["second"] == "interrupted"
    assert gpu.is_done(first, tmp_path, AT, None)


def test_a_step_that_is_ended_leaves_no_process_behind(gpu, tmp_path):
    place = tmp_path / "pid"
    code = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    code += f"open({str(place)!r}, 'w').write(str(child.pid)); child.wait()"
    assert gpu.run(gpu.Step("parent", ("-c", code), 1), 3) == "ended at its limit"
    child, waited = int(place.read_text()), time.monotonic()
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < waited + 30
        time.sleep(0.05)


def test_a_machine_without_a_gpu_is_refused(gpu):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="sees no GPU, expected a build for CUDA: say make gpu PYTHON="):
        gpu.look("cuda")


def test_every_package_that_the_steps_import_is_named(gpu):
    """In the script and in CONTRIBUTING.md; what is imported only when it is needed counts too."""
    scripts = ("common", "metric", "full_size", "aggregation_kernels", "table_1")
    code = f"import sys, {', '.join(scripts)}; print([m.__file__ for n, m in sys.modules.items() if n[:5] == 'famf_'])"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    files = [Path(file) for file in ast.literal_eval(found.stdout)]
    files += [ROOT / "benchmarks" / f"{name}.py" for name in scripts]
    imported = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    own = {"famf_lib", "peak", "common", "fused_residual_sums", "IPython"}  # the last in a notebook
    named = {gpu.IMPORTED.get(name, name) for name in gpu.LIBRARY} | {"torch", "torchmetrics"}
    assert imported - own - set(sys.stdlib_module_names) == named
    text = (ROOT / "CONTRIBUTING.md").read_text()
    optional = {
        name for step in gpu.steps("cuda", False, ROOT / "results") for name in (*step.packages, *step.optional)
    }
    assert all(name in text for name in {*gpu.LIBRARY, *optional})


def test_table_1_grows_by_a_seed_at_a_time_and_repeats_nothing(script, tiny, results_folder, tmp_path, monkeypatch):
    table, order = script("table_1"), []
    monkeypatch.setattr(table, "TABLE_1", (SIMPLE, FAMF))
    real = table.results.record

    def record(found, *given):
        order.append((found.setting, found.seeds, len(found.runs)))
        return real(found, *given)

    monkeypatch.setattr(table.results, "record", record)
    words = ["table_1.py", "--quick", "--seeds", "2", "--device", "cpu", "--record", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, "--minutes", "0"])
    table.main()
    assert not order, "no time was left"
    monkeypatch.setattr(sys, "argv", words)
    table.main()
    assert order == [("printed", [1], 2), ("own", [1], 2), ("printed", [1, 2], 4), ("own", [1, 2], 4)]
    monkeypatch.setattr(table.results, "run", lambda *given: pytest.fail("trained again"))
    table.main()
    assert not results_folder.exists() and len(order) == 4
    places = sorted(place.name for place in (tmp_path / "out").iterdir())
    assert places == [f"table-1-synthetic-quick-{setting}.json" for setting in ("own", "printed")]


def test_the_own_best_at_full_size_is_the_point_of_the_standard_size(script):
    table = script("table_1")
    points = row_settings("synthetic", "standard", "own")
    (run,) = (spec for (label, _), spec in table.wanted("own", "paper", range(1, 2)).items() if label == FAMF.label)
    assert (run.model.hidden, run.training.epochs, run.training.batch_size) == (4096, 80, 4096)
    chosen = points.choice(FAMF.label)
    assert (run.training.lr, run.model.features) == (chosen.lr, chosen.features)
    assert run.model.aggregation_options["normalisation"] == chosen.normalisation
    printed = table.wanted("printed", "paper", range(1, 2))[FAMF.label, 1]
    assert (printed.training.lr, printed.model.features) == (0.004, "raw") and printed != run


def test_its_steps_are_processes_that_write_their_records(gpu, tmp_path):
    """The first two: ``test_benchmarks.py`` makes the records of the others, at small sizes as well."""
    tests, metric, *_ = gpu.steps("cpu", True, tmp_path)
    status, summary = gpu.go(tests, metric, minutes=60)
    assert status == 0 and all(line.partition("  ")[2].startswith("done") for line in summary.values()), summary
    assert json.loads((tmp_path / "metric-cpu.json").read_text())["command"].startswith("python benchmarks/metric.py")
