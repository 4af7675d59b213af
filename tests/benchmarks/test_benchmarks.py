"""Every benchmark runs at small sizes and returns a complete record."""

import importlib
import json
import sys
import time

import pytest
import torch

from famf_lib.experiments.catalogue import EXPERIMENTS, TABLE_1, Experiment
from famf_lib.support.files import ROOT

BENCHMARKS, RECORDS = ROOT / "benchmarks", ROOT / "results"
FORMS = {"residuals", "loop", "products", "chunks"}
CPU = torch.device("cpu")


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark with its folder on the path, as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("FAMF_PROGRESS", "silent")
    return lambda name: importlib.import_module(name)


@pytest.fixture
def record(script):
    """What a benchmark would write, converted to JSON and back."""

    def make(name, **options):
        content = script("common").recorded(script(name).measure, CPU, True, **options)
        assert content["seconds in all"] >= 0
        assert set(content["origin"]) >= {"commit", "versions", "hardware", "load average"}
        return json.loads(json.dumps(content))

    return make


def test_kernels(record):
    content = record("aggregation_kernels")
    wanted, given, nextvlad = content["rows"]
    assert (wanted["faces given"], given["faces given"]) == (False, True)
    for row, forms in ((wanted, FORMS), (given, FORMS), (nextvlad, FORMS - {"chunks"})):
        assert set(row["seconds"]) == set(row["times the library's"]) == set(row["memory (bytes)"]) == forms
        assert min(row["seconds"].values()) > 0 and row["times the library's"][row["library"]] == 1
        held = row["memory (bytes)"]
        assert held["residuals"] > held["loop"] > held["products"]
    assert wanted["memory (bytes)"]["chunks"] < wanted["memory (bytes)"]["products"]
    (keeping,) = content["memory kept"]
    assert (keeping["K"], keeping["B"], set(keeping["seconds"])) == (3, 13, {"products", "chunks"})
    assert content["training"][0]["form"] == "chunks" and content["training"][0]["products / form"] > 0


@pytest.mark.parametrize(("triton", "fused"), [(True, {"fused"}), (None, set())], ids=["Triton", "no Triton"])
def test_a_gpu_has_forms_of_its_own(script, monkeypatch, triton, fused):
    kernels = script("aggregation_kernels")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    monkeypatch.setattr(kernels, "find_spec", lambda name: triton)
    for name, more in (("ghostvlad", {"chunks"} | fused), ("nextvlad", set())):
        module = kernels.AGGREGATIONS[name](11, clusters=3)
        for clips, compiled in ((kernels.COMPILED - 1, set()), (kernels.COMPILED, {"compiled"})):
            found = kernels.forms(module, clips, 3, torch.device("cuda"))
            assert set(found) == {"residuals", "loop", "products"} | more | compiled


def test_a_form_with_other_numbers_is_refused(script, monkeypatch):
    kernels = script("aggregation_kernels")
    monkeypatch.setattr(kernels, "loop", lambda module, x: 1.01 * kernels.products(module, x))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        kernels.case("attentionvlad", 3, 13, False, CPU, {}, 2)


def test_metric(record):
    content = record("metric")
    full = content["full"]
    assert full["memory, tensors (bytes)"] > 4 * full["batch"] * full["persons"] and 0 < full["mAP"] < 1
    found = {row["library"]: row for row in content["beside"]}
    assert "scikit-learn" in found and max(row["largest difference of an AP"] for row in found.values()) < 1e-6


def test_torchmetrics_divides_by_the_hits_within_the_cut(script):
    """The conversion between the two definitions, on a ranking that is counted by hand."""
    pytest.importorskip("torchmetrics", reason="the extra bench is not installed")
    metric = script("metric")
    scores = torch.arange(200.0, 0, -1)[:, None].repeat(1, 2)
    classes = torch.full((200,), -1)
    classes[[0, 3, 120]] = 0  # hits at ranks 1 and 4, and one below the cutoff of 100
    theirs = metric.of_torchmetrics(scores, classes)
    assert theirs[0] == pytest.approx((1 + 2 / 4) / 2) and theirs[1].isnan()
    assert metric.hits(scores, classes, 100).tolist() == [2, 0]
    ours = metric.mean_average_precision(scores, classes, 100).ap
    assert ours[0] == pytest.approx((1 + 2 / 4) / 3)


def test_memory_of_clusters(record):
    ours, stored = record("cluster_memory")["rows"]
    assert (ours["residuals"], stored["residuals"]) == (False, True)
    assert stored["counted (bytes)"] > 2 * ours["counted (bytes)"] and ours["seconds"] > 0


def test_batched_seeds(record):
    (row,) = record("batched_seeds", steps=1)["rows"]
    assert row["one after the other / batched"] > 0 and row["seconds, batched"] > 0


def test_precision(record):
    (row,) = record("precision")["rows"]
    assert row["float32 / bfloat16"] > 0 and 0 <= row["mAP, bfloat16"] <= 1


def test_import(record):
    content = record("import_iqiyi")
    assert content["seconds"]["import"] > 0 and content["peak memory, MiB"]["import"] > 50


def test_unknown_persons(script, record, made_up, monkeypatch):
    """At a small size it writes what its page reads, and every clip has one of three answers."""
    unknown = script("unknown_persons")
    monkeypatch.setattr(unknown.datasets, "load", lambda name: made_up(persons=9, clips=9, noise=0))
    monkeypatch.setattr(unknown.enrolment, "STEPS", 20)
    (row,) = record("unknown_persons")["rows"]
    assert row.keys() == json.loads((RECORDS / "unknown-persons-cpu.json").read_text())["rows"][0].keys()
    for kind in ("without a threshold", "calibrated", "added, calibrated"):
        found = [row[kind][f"known, {answer}"] for answer in ("named right", "named wrong", "missed")]
        assert sum(found) == pytest.approx(1, abs=1e-3) and min(found) >= 0
    assert row["without a threshold"]["strangers named"] == 1 > row["calibrated"]["strangers named"]


def test_saturation_trains_as_the_library_does(script):
    """The printed variant gives the losses of ``train.train``; the others differ from it in what they change."""
    saturation = script("saturation")
    torch.set_num_threads(1)
    run = saturation.QUICK[0]
    clipset, parts = saturation.persons_of(run.persons, run.dim)
    config = saturation.ModelConfig(aggregation="attentionvlad", fusion="mma", hidden=run.hidden)
    schedule = saturation.schedule_of(run, len(parts.train))
    trained = saturation.train.train(config, schedule, clipset, parts, run.seed)
    found = saturation.follow(run)
    assert [one["loss"] for one in found["epochs"]] == pytest.approx(trained.losses, rel=1e-3)
    assert found["epochs"][-1]["phi"] == pytest.approx(trained.model.aggregation.cluster_attention().tolist(), rel=1e-3)
    still = saturation.follow(saturation.replace(run, variant="φ = 0 (no faces)"))
    assert {one["length"] for one in still["epochs"]} == {0.0} and still["epochs"][-1]["phi"] == [0.0] * 8


def test_saturation_repeats_no_run_of_its_record(script, tmp_path, monkeypatch):
    saturation = script("saturation")
    monkeypatch.setattr(saturation, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(saturation, "STUDY", saturation.QUICK)
    monkeypatch.setattr(sys, "argv", ["saturation.py"])
    done = []
    monkeypatch.setattr(saturation, "follow", lambda run: done.append(run) or {"run": saturation.asdict(run)})
    saturation.main()
    saturation.main()
    assert done == saturation.QUICK
    assert len(json.loads((tmp_path / "record.json").read_text())["runs"]) == len(done)


def test_functions_run_in_turn_after_a_round_that_does_not_count(script):
    common, order = script("common"), []

    def work(name, seconds):
        order.append(name)
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass

    taken = common.in_turn({"a": lambda: work("a", 0.006), "b": lambda: work("b", 0.012)}, CPU, 3)
    assert "".join(order) == "ab" * 4
    assert {name: len(each) for name, each in taken.items()} == {"a": 3, "b": 3}
    assert common.ratio([3.0, 8.0, 5.0], [1.0, 2.0, 5.0]) == 3.0


def test_a_record_names_its_command_and_a_failure_keeps_the_earlier_one(script, tmp_path, monkeypatch):
    common, metric = script("common"), script("metric")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["metric.py", "--device", "cpu", "--quick", "--record"])
    common.main(metric.measure)
    place = tmp_path / "results" / "metric-cpu.json"
    assert json.loads(place.read_text())["command"] == "python benchmarks/metric.py --device cpu --quick --record"
    monkeypatch.setattr(metric, "full", lambda *sizes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        common.main(metric.measure)
    assert [path.name for path in place.parent.iterdir()] == ["metric-cpu.json"] and "full" in place.read_text()


def keys(content, path=""):
    """The paths of all values in nested dicts."""
    if not isinstance(content, dict):
        return {path}
    return {key for name, value in content.items() for key in keys(value, f"{path}/{name}")}


def test_the_full_size_benchmark_writes_what_its_page_reads(script, tiny, monkeypatch, results_folder, capsys):
    """With all steps that it does on a GPU, at the size of the quick profile."""
    monkeypatch.setattr(sys, "argv", ["full_size.py", "--quick", "--device", "cpu"])
    monkeypatch.setitem(EXPERIMENTS, "table-1", Experiment("table-1", "Table 1", TABLE_1[-1:]))
    script("full_size").main()
    content, recorded = json.loads(capsys.readouterr().out), json.loads((RECORDS / "full-size-gpu.json").read_text())
    of_a_gpu = {
        f"/training/{name}" for name in ("peak memory", "compiled/seconds", "compiled/an epoch", "compiled/before")
    }
    assert keys(recorded) - keys(content) == of_a_gpu | {"/origin/hardware/gpu"} and not results_folder.exists()
    assert [part["part"] for part in content["parts"]] == [part["part"] for part in recorded["parts"]]
    assert all(min(part["floor here"], part["measured"]) > 0 for part in content["parts"])
    assert content["training"]["launched"]["seconds"] > 0 and 0 < content["training"]["mean_ap"] < 1
    assert content["table 1"]["runs"] == 1 and content["table 1"]["read"] == 0


def test_make_runs_every_benchmark():
    others = {"common", "peak", "fused_residual_sums"}  # used by benchmarks
    others |= {"calibrate_synthetic", "calibrate_chimera", "imfdb_shape", "full_size", "saturation"}  # run on their own
    others |= {"extraction", "imfdb_embedding", "unknown_persons"}  # need data and models
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS ="))
    assert set(line.split()[2:]) | others == {path.stem for path in BENCHMARKS.glob("*.py")} | {"full_size"}
