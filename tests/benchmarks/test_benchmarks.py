import importlib
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from famf_lib.data.synthetic import SIZES
from famf_lib.models.config import ModelConfig
from famf_lib.support.files import ROOT

BENCHMARKS, RECORDS = ROOT / "benchmarks", ROOT / "results"
FORMS = {"residuals", "loop", "products", "chunks"}
CPU = torch.device("cpu")


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
    for row, of_faces in zip(content["normalised"], (False, True), strict=True):
        assert row["faces given"] == of_faces and row["public / one pass"] > 0 and row["one pass / floor"] > 0
        held = row["memory (bytes)"]
        assert held["one pass"] < held["after"] <= held["public"]
    (keeping,) = content["memory kept"]
    assert (keeping["K"], keeping["B"], set(keeping["seconds"])) == (3, 13, {"products", "chunks"})
    assert content["training"][0]["form"] == "chunks" and content["training"][0]["products / form"] > 0


@pytest.mark.parametrize("triton", [True, None], ids=["Triton", "no Triton"])
def test_a_gpu_has_forms_of_its_own(script, monkeypatch, triton):
    kernels = script("aggregation_kernels")
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    monkeypatch.setattr(kernels.common, "find_spec", lambda name: triton)
    for name, more in (("ghostvlad", {"compiled", "fused"}), ("nextvlad", {"compiled"})):
        module = kernels.AGGREGATIONS[name](11, clusters=3)
        found = kernels.forms(module, 7, 3, torch.device("cuda"))
        assert set(found) == {"products"} | (more if triton else set())


def test_the_rule_for_fused_kernels_compares_them_with_the_bytes(script, monkeypatch):
    kernels = script("aggregation_kernels")
    both = {"products": kernels.products, "fused": kernels.products}
    monkeypatch.setattr(kernels, "forms", lambda *given: both)
    for bytes_a_second, within in ((1e15, False), (1.0, True)):
        speed = {"bytes a second": bytes_a_second, "operations a second": 1.0}  # the operations do not count
        assert kernels.case("attentionvlad", 3, 13, False, CPU, speed, 2)["within"] is within
        assert "within" not in kernels.case("attentionvlad", 3, 13, True, CPU, speed, 2)


def test_a_form_with_other_numbers_is_refused(script, monkeypatch):
    kernels = script("aggregation_kernels")
    monkeypatch.setattr(kernels, "loop", lambda module, x: 1.01 * kernels.products(module, x))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        kernels.case("attentionvlad", 3, 13, False, CPU, {}, 2)


def test_the_public_normalised_form_must_give_the_same_numbers(script, monkeypatch):
    kernels = script("aggregation_kernels")
    speed = {"bytes a second": 1.0, "operations a second": 1.0}
    assert kernels.normalised(3, 13, False, speed, 2)["library"] == "after"
    assert kernels.normalised(3, 29, False, speed, 2)["library"] == "one pass"
    forward = kernels.Public.forward
    monkeypatch.setattr(kernels.Public, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        kernels.normalised(3, 13, True, speed, 2)


def test_metric(record):
    content = record("metric")
    full = content["full"]
    assert full["memory, tensors (bytes)"] > 4 * full["batch"] * full["persons"] and 0 < full["mAP"] < 1
    found = {row["library"]: row for row in content["beside"]}
    assert "scikit-learn" in found and max(row["largest difference of an AP"] for row in found.values()) < 1e-6


def test_torchmetrics_divides_by_the_hits_within_the_cut(script):
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


@pytest.mark.parametrize(
    ("name", "options", "works"),
    [
        ("batched_seeds", {"steps": 1}, lambda c: c["rows"][0]["one after the other / batched"] > 0),
        ("precision", {}, lambda c: c["rows"][0]["float32 / bfloat16"] > 0 and 0 <= c["rows"][0]["mAP, bfloat16"] <= 1),
        ("import_iqiyi", {}, lambda c: c["seconds"]["import"] > 0 and c["peak memory, MiB"]["import"] > 50),
    ],
)
def test_small_ones(name, options, works, record):
    assert works(record(name, **options))


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
    assert found["loss"] == pytest.approx(trained.losses, rel=1e-3)
    assert found["end"]["phi"] == pytest.approx(trained.model.aggregation.cluster_attention().tolist(), rel=1e-3)
    blind = saturation.follow(saturation.replace(run, variant="φ = 0 (no faces)"))
    assert blind["face weight"] == [0.0] * run.epochs and blind["end"]["phi"] == [0.0] * 8
    start = saturation.train.build(config, clipset, len(parts.persons), run.seed).aggregation.score.bias.item()
    first = {
        name: next(saturation.training(saturation.VARIANTS[name], config, schedule, clipset, parts, run.seed))[0]
        for name in ("as printed", "warm-up of 5 epochs", "φ's layer at 0.004")
    }
    moved = {name: abs(model.aggregation.score.bias.item() - start) for name, model in first.items()}
    assert moved == pytest.approx(dict(zip(first, (0.04, 0.04 / 75, 0.004), strict=True)), rel=1e-2)


def test_a_model_cannot_fit_what_it_does_not_see(script):
    """The least loss is an entropy; the persons are those of whom no ranked clip shows the rest."""
    saturation = script("saturation")
    clipset = saturation.generate(replace(SIZES["quick"], persons=29, presence=0.6))
    parts = saturation.split(clipset, "given")
    least, lost = saturation.least_losses(clipset, parts)
    hearing = (clipset.modalities["audio"].present | clipset.modalities["body"].present).numpy()
    for ignored, seen in (("faces", hearing), ("audio and body", (clipset.counts > 0).numpy())):
        blind = [int(c) for c, clip in zip(parts.train_classes, parts.train, strict=True) if not seen[clip]]
        cost = sum(n * np.log(len(blind) / n) for n in Counter(blind).values()) / len(parts.train)
        assert least[ignored] == pytest.approx(cost, rel=1e-3)
        ranked = zip(parts.gallery_classes.tolist(), parts.gallery.tolist(), strict=True)
        clips = pd.DataFrame([(c, seen[clip]) for c, clip in ranked if c >= 0], columns=["person", "seen"])
        assert lost[ignored] == clips.groupby("person")["seen"].any().loc[lambda any_: ~any_].index.tolist()
    assert 0 <= least["nothing"] < min(least["faces"], least["audio and body"]) and lost["faces"]
    ap = saturation.ranked_by_centroids(clipset, parts, ("faces",)).ap
    assert not ap[lost["audio and body"]].gt(0.2).any() and ap.nanmean() > 0.3


def test_saturation_repeats_no_run_of_its_record(script, tmp_path, monkeypatch):
    saturation = script("saturation")
    monkeypatch.setattr(saturation, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(saturation, "STUDY", saturation.QUICK)
    monkeypatch.setattr(sys, "argv", ["saturation.py"])
    done = []
    monkeypatch.setattr(saturation, "at_full_size", lambda: done.append("full size") or {})
    ran = {"mAP": 0.5}
    monkeypatch.setattr(saturation, "follow", lambda run: done.append(run) or ran | {"run": saturation.asdict(run)})
    saturation.main()
    saturation.main()
    assert done == ["full size", *saturation.QUICK]
    assert len(json.loads((tmp_path / "record.json").read_text())["runs"]) == len(saturation.QUICK)


def test_the_record_of_saturation_holds_the_study_that_its_page_shows(script):
    saturation = script("saturation")
    record = json.loads(saturation.RECORD.read_text())
    assert {saturation.Run(**one["run"]) for one in record["runs"]} == set(saturation.STUDY)


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


class FakeGpu:
    """A GPU that takes ``n`` milliseconds for the work ``n`` when a graph is replayed, with one stream at a time."""

    def __init__(self, monkeypatch, common, cache):
        self.seconds, self.stream, self.calls, self.waits = 0.0, "main", [], []
        monkeypatch.setattr(common, "recorder", lambda device: self.record)
        replaced = {
            "Event": lambda enable_timing: FakeEvent(self),
            "Stream": lambda device: FakeStream(self, "side"),
            "current_stream": lambda device: FakeStream(self, self.stream),
            "stream": lambda stream: stream,
            "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=cache),
        }
        for name, fake in replaced.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def work(self, n):
        self.calls.append((self.stream, n))

    def record(self, function):
        before = len(self.calls)
        function()
        recorded = sum(n for _, n in self.calls[before:])

        def replay():
            self.seconds += recorded / 1e3

        return replay


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.done = gpu, False

    def record(self):
        self.at = self.gpu.seconds

    def synchronize(self):
        self.done = True

    def elapsed_time(self, end):
        assert end.done, "the GPU may still be at work"
        return 1e3 * (end.at - self.at)


class FakeStream:
    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def wait_stream(self, other):
        self.gpu.waits.append((self.name, other.name))

    def __enter__(self):
        self.gpu.stream = self.name

    def __exit__(self, *error):
        self.gpu.stream = "main"


def test_a_gpu_is_timed_by_replays_with_every_input_in_turn(script, monkeypatch):
    common = script("common")
    gpu = FakeGpu(monkeypatch, common, cache=0)
    works = {"a": gpu.work, "b": lambda n: gpu.work(2 * n)}
    taken = common.replays(works, [(3,), (5,), (11,)], torch.device("cuda"), 4)
    assert taken == {"a": pytest.approx([19e-3 / 3] * 4), "b": pytest.approx([38e-3 / 3] * 4)}
    assert gpu.calls[:6] == [("side", 3)] * 3 + [("main", n) for n in (3, 5, 11)], "warm-up, then the recording"
    assert len(gpu.calls) == 12 and gpu.waits == [("side", "main"), ("main", "side")] * 2


def test_a_cpu_is_timed_with_the_first_input(script):
    common, seen = script("common"), []
    taken = common.replays({"a": seen.append}, [(3,), (5,)], CPU, 2)
    assert len(taken["a"]) == 2 and set(seen) == {3}


def test_inputs_in_turn_are_larger_than_the_cache_of_a_gpu(script, monkeypatch):
    common = script("common")
    FakeGpu(monkeypatch, common, cache=1000)
    for numbers, inputs in ((7, 34), (1009, 2)):  # 4 bytes each, and 92 more
        found = common.cold_inputs(lambda n=numbers: (torch.rand(n), {"more": torch.rand(23)}), torch.device("cuda"))
        assert len(found) == inputs and len({given[0].data_ptr() for given in found}) == inputs
        assert len(common.cold_inputs(lambda n=numbers: (torch.rand(n),), CPU)) == 1


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
    if not isinstance(content, dict):
        return {path}
    return {key for name, value in content.items() for key in keys(value, f"{path}/{name}")}


def test_the_full_size_benchmark_writes_what_its_page_reads(record, tiny, results_folder):
    content, recorded = record("full_size"), json.loads((RECORDS / "full-size-gpu.json").read_text())
    earlier = ("/table 1/", "/command")  # Table 1 has a script of its own, and ``main`` adds the command
    of_a_gpu = ("/training/peak memory", "/training/compiled", "/training/regions", "/origin/hardware/gpu")
    missing = keys(recorded) - keys(content)
    assert not {key for key in missing if not key.startswith(earlier + of_a_gpu)} and not results_folder.exists()
    assert [part["part"] for part in content["parts"]] == [part["part"] for part in recorded["parts"]]
    assert all(min(part["floor here"], part["measured"]) > 0 for part in content["parts"])
    assert content["training"]["launched"]["seconds"] > 0 and 0 < content["training"]["mean_ap"] < 1
    step = content["step"]
    assert step["parts / step"] == pytest.approx(step["parts"] / step["seconds"]) and min(step.values()) > 0
    changes = content["changes"]
    assert [one["change"] for one in changes["changes"]] == ["last layer padded"]
    assert min(changes["none"], changes["all"]) > 0
    assert all(one["kept"] == (one["gain"] >= 0.03) for one in changes["changes"])


def test_what_is_replayed_can_be_recorded(script, tiny, monkeypatch):
    """Every part of a step, and every rate of the machine, runs without the host waiting for the GPU."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "training"))
    watch, full_size, seen = importlib.import_module("test_cuda_graphs").Watch, script("full_size"), []

    def watched(works, inputs, device, rounds, budget):
        for name, work in works.items():
            with watch():
                work(*inputs[0])
            seen.append(name)
        return {name: [1.0] for name in works}

    monkeypatch.setattr(full_size.common, "replays", watched)
    for name in ("changes", "whole"):
        monkeypatch.setattr(full_size, name, lambda *given: None)
    step = full_size.measure(CPU, True)["step"]
    in_step = ["sampling", "aggregation", "fusion", "classifier", "loss", "optimiser"]
    assert seen == ["training", "float32", "unaligned", "copy", "change", *in_step] and step["parts"] == len(in_step)


@pytest.mark.parametrize("compiles", [True, False])
def test_changes_are_timed_with_none_of_them_each_alone_and_all(script, monkeypatch, compiles):
    """A change counts as kept from a gain of 3 % on."""
    full_size = script("full_size")
    padded, compiled = full_size.PADDED, full_size.COMPILED
    monkeypatch.setattr(full_size.roofline, "savings", lambda *given: {padded: 0.5, compiled: 0.3, "not built": 0.2})
    monkeypatch.setattr(full_size.common, "can_compile", lambda device: compiles)

    def step(spec, clipset, clips, batch, processes):
        return 0.9 ** (full_size.famf.ALIGNED > 1) * 0.98 ** (processes is not None)

    monkeypatch.setattr(full_size, "step_seconds", step)
    spec = full_size.RunSpec()
    clipset, clips = full_size.random_clips(full_size.Size(8, {}, 3, 8, 32, 8), 4, (), faces=4)
    found = full_size.changes(spec, None, clipset, clips, 4, None, False)
    assert found["none"] == 1 and found["all"] == pytest.approx(0.9 * 0.98**compiles)
    gains = [(one["change"], one["predicted"], one["saved"], one["kept"]) for one in found["changes"]]
    expected = [(padded, 0.5, pytest.approx(0.1), True), (compiled, 0.3, pytest.approx(0.02), False)]
    assert gains == expected[: 1 + compiles]
    assert full_size.famf.ALIGNED == 64, "it stays switched on"


def test_regions_round_batch_normalisation_give_the_same_logits(script, monkeypatch):
    full_size, compiled = script("full_size"), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda region: compiled.append(region))
    dims = {"audio": 7, "body": 11}
    for activation, kinds in (("relu", ["BatchNorm1d", "ReLU"]), ("none", ["BatchNorm1d"])):
        config = ModelConfig(hidden=13, activation=activation, modalities=tuple(dims))
        model = full_size.FAMF(config, 11, dims, 5)
        given = script("common").random_batch(5, 3, 11, dims)
        expected = model.eval()(given)
        compiled.clear()
        assert torch.equal(full_size.Regions().wrap(model)(given), expected)
        assert [[type(layer).__name__ for layer in region] for region in compiled] == [kinds] * 2


def test_make_runs_every_benchmark():
    others = {"common", "peak", "fused_residual_sums"}  # used by benchmarks
    others |= {"calibrate_synthetic", "calibrate_chimera", "imfdb_shape", "full_size", "saturation"}  # run on their own
    others |= {"gpu", "table_1"}  # make gpu
    others |= {"extraction", "imfdb_embedding", "unknown_persons"}  # need data and models
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS ="))
    assert set(line.split()[2:]) | others == {path.stem for path in BENCHMARKS.glob("*.py")} | {"full_size"}
