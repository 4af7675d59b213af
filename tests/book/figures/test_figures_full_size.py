"""The page on the paper's full size shows the roofline and the records, with or without that of a GPU."""

import importlib.util
import json

import pytest

from famf_book.figures import full_size
from famf_lib.experiments.catalogue import EXPERIMENTS, TABLE_1, Experiment
from famf_lib.support.files import ROOT
from famf_lib.training.roofline import H200

NAMES = list(full_size.SPOKEN)


@pytest.fixture(scope="module")
def parts():
    return full_size.work()


def record(device="cpu", **changed):
    """A record as the benchmark writes it: part n takes at least n + 1 s and was measured at twice that."""
    parts = [{"part": name, "floor here": n + 1.0, "measured": 2.0 * (n + 1)} for n, name in enumerate(NAMES)]
    origin = {"commit": "0123456789abcdef", "versions": {"torch": "2.13.0"}}
    hardware = {"processor": "Some CPU", "cores": 2, "gpu": "Some GPU"}
    return {
        "command": "python benchmarks/full_size.py",
        "device": device,
        "threads": 2,
        "precision": "bfloat16",
        "size": {"batch": 4096, "steps": 1200},
        "machine": {"training": 5e14, "float32": 4e13, "memory": 3e12},
        "parts": parts,
        "step": {"batch": 512, "seconds": 3.0, "host": 0.0123, "a training of these": 90_000.0},
        "training": None,
        "table 1": None,
        "origin": origin | {"hardware": hardware},
    } | changed


def of_gpu():
    way = {"seconds": 61.0, "an epoch": 0.7, "before": 5.0}
    training = {"captured": way, "launched": way | {"seconds": 83.0}, "evaluation": 11.0}
    return record("cuda", training=training, **{"table 1": {"seconds": 540.0, "runs": 35}})


def test_roofline_is_that_computed_by_hand(parts):
    """2.2 PFLOP, 2.5 TB of the optimiser at 1,130 steps, about 4 s in total."""
    table = full_size.floor_table(parts)
    assert table["TFLOP"].sum() == pytest.approx(2200, rel=0.05)
    assert table.loc["optimiser", "GB"] == pytest.approx(2500 * 1200 / 1130, rel=0.05)
    assert table["least"].sum() == pytest.approx(4, abs=0.5) and table["share"].sum() == pytest.approx(1)
    assert table["share"].idxmax() == "classifier" and table.loc["classifier", "limited by"] == "compute"
    assert table.loc["optimiser", "limited by"] == "memory"
    assert full_size.total(table, "least") == pytest.approx(sum(one.seconds(H200) for one in parts.values()))


def test_larger_batches_update_the_weights_less_often(parts):
    smaller = full_size.work(batch=1024)
    assert smaller["optimiser"].bytes == pytest.approx(57 / 15 * parts["optimiser"].bytes)
    assert smaller["classifier"].flops == pytest.approx(parts["classifier"].flops, rel=1e-3)


def test_an_unknown_row_is_an_error():
    with pytest.raises(ValueError, match=r"^row: 'Luck' is not known, expected one of Mean pooling \+ Concat, NetVLAD"):
        full_size.work("Luck")


def test_the_answer_with_and_without_a_gpu(parts):
    text = full_size.answer(parts, record(), None)
    assert "No GPU was available" in text and "2 cores of Some CPU would take 25.0 h" in text
    assert "No GPU" in full_size.answer(parts, None, None)
    text = full_size.answer(parts, None, of_gpu())
    assert "Recorded on Some GPU: 72.0 s, 2.0 times the roofline there. All 35 runs of Table 1: 9.0 min." in text
    ways = full_size.ways(of_gpu())
    assert list(ways.index) == ["captured", "kernel by kernel"] and ways.loc["kernel by kernel", "training"] == "83.0 s"


def test_a_record_has_its_origin_and_parts():
    text = full_size.where_from(record())
    origin = ["`python benchmarks/full_size.py`", "`0123456789ab`", "2 cores of Some CPU", "500 TFLOP/s", "3,000 GB/s"]
    assert all(part in text for part in origin)
    assert "Some GPU" in full_size.where_from(record("cuda"))
    table = full_size.measured(record())
    assert list(table.index) == list(full_size.SPOKEN.values()) and (table["ratio"] == 2).all()
    shown = full_size.shown(table)
    assert shown.loc["gathering of batches"].tolist() == ["2.0 s", "4.0 s", "2.0 ×"]


def test_time_to_launch_and_to_compute_a_step(parts):
    text = full_size.launching(parts, record(), 4096)
    assert "1,200 steps" in text and "12.3 ms" in text
    step = sum(parts[name].seconds(H200) for name in NAMES if name not in ("draw", "evaluation")) / 1200
    assert f"needs at least {1000 * step:.1f} ms for each" in text
    assert "host" not in full_size.launching(parts, None, 4096)
    small = sum(parts[name].seconds(H200) for name in ("sampling", "aggregation", "fusion", "loss"))
    assert f"softmax and loss, need at least {small:.2f} s together" in text


def test_the_benchmark_writes_what_the_page_reads(tiny, monkeypatch, results_folder, capsys):
    """With all steps that it does on a GPU, at the size of the quick profile."""
    place = importlib.util.spec_from_file_location("full_size_benchmark", ROOT / "benchmarks" / "full_size.py")
    benchmark = importlib.util.module_from_spec(place)
    place.loader.exec_module(benchmark)
    monkeypatch.setattr("sys.argv", ["full_size.py", "--quick", "--device", "cpu"])
    monkeypatch.setitem(EXPERIMENTS, "table-1", Experiment("table-1", "Table 1", TABLE_1[-1:]))
    benchmark.main()
    content = json.loads(capsys.readouterr().out)
    assert not results_folder.exists()
    assert full_size.measured(content).shape == (len(NAMES), 3)
    assert (full_size.measured(content) > 0).all().all()
    assert content["training"]["launched"]["seconds"] > 0 and 0 < content["training"]["mean_ap"] < 1
    assert list(full_size.ways(content).index) == ["captured", "kernel by kernel"]
    assert content["table 1"]["runs"] == 1 and content["table 1"]["read"] == 0
    assert "Launching" in full_size.launching(full_size.work(), content, 4096)
    assert content["command"] in full_size.where_from(content)


def test_figure_has_a_panel_for_each_measured_machine(parts, rows_of):
    for records, panels in (([], 1), ([record()], 2), ([record(), of_gpu()], 2)):
        figure = full_size.figure(parts, records)
        assert rows_of(figure) == list(full_size.SPOKEN.values()) and len(figure.axes) == panels
