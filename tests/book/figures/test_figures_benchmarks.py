"""The page about speed: what it says and draws is what made-up records hold, on either device or none."""

import json

import pytest

from famf_book import notebooks, plots
from famf_book.figures import benchmarks
from famf_lib.support.files import ROOT

ORIGIN = {
    "commit": "0123456789abcdef-dirty",
    "versions": {"torch": "3.1"},
    "hardware": {"processor": "a processor", "cores": 7},
    "load average": {"before": 0.5, "after": 11.25},
}


def row(module, k, b, times, given=False, library="chunks", unit=0.002):
    """A case whose forms take so many times as long as the library's."""
    return {
        "module": module,
        "K": k,
        "B": b,
        "faces given": given,
        "library": library,
        "seconds": {form: unit * ratio for form, ratio in times.items()},
        "memory (bytes)": {form: 3 * 2**20 * ratio**2 for form, ratio in times.items()},
        "times the library's": times,
        "floor (s)": {"bytes": unit / 5, "operations": unit / 7},
        "library / floor": 5.0,
    }


def kernels(**changed):
    times = {"residuals": 19.0, "loop": 13.0, "products": 2.5, "chunks": 1.0}
    rows = [
        row("attentionvlad", 8, 1024, times),
        row("attentionvlad", 8, 4096, {"products": 1.5, "chunks": 1.0}, unit=1.5),
        row("attentionvlad", 16, 1024, times),
        row("attentionvlad", 8, 256, {"products": 1.0, "chunks": 0.9}, given=True, library="products"),
        row("nextvlad", 8, 1024, {"products": 1.0}, library="products"),
    ]
    told = {
        "rows": rows,
        "memory kept": [{"products / chunks": ratio} for ratio in (1.1, 1.6)],
        "training": [{"form": "chunks", "products / form": 0.97}],
        "command": "python kernels",
        "origin": ORIGIN,
    }
    return told | changed


RECORDS = {
    "aggregation-kernels": kernels(),
    "cluster-memory": {
        "rows": [
            {"form": form, "residuals": stored, "K": k, "counted (bytes)": (1 + 6 * stored) * k * 2**28}
            | ({"real (bytes)": 2.25 * 2**30} if k == 8 and not stored else {})
            for form, stored in (("ours", False), ("theirs", True))
            for k in (8, 16, 64)
        ]
    },
    "metric": {
        "full": {"persons": 101, "clips": 2003, "seconds": 3.25, "memory, tensors (bytes)": 150 * 2**20},
        "beside": [
            {
                "library": "scikit-learn",
                "k": 499,
                "persons": 31,
                "clips": 499,
                "seconds": {"ours": 0.125, "scikit-learn": 0.5},
                "theirs / ours": 4.0,
                "largest difference of an AP": 2e-16,
            }
        ],
    },
    "batched-seeds": {
        "rows": [
            {"profile": p, "one after the other / batched": r}
            for p, r in (("quick", 2.5), ("standard", 0.81), ("standard", 0.93))
        ]
    },
    "precision": {"rows": [{"float32 / bfloat16": 1.5, "mAP, float32": 0.7, "mAP, bfloat16": 0.6875}]},
    "import-iqiyi": {
        "faces": 1_700,
        "seconds": {"import": 12.0, "pickle.load": 10.0},
        "peak memory, MiB": {"import": 717, "pickle.load": 3469},
        "import / pickle.load, seconds": 1.2,
    },
    "extraction": {
        "speed": {
            name: {"a second": 2 * number, "a processor second": number, "peak memory (MiB)": 1_201}
            for number, name in enumerate(
                (
                    "pictures decoded",
                    "pictures looked at for faces, one thread",
                    "faces aligned and embedded, one thread",
                    "faces through the network alone, one thread",
                    "seconds of video, 5 pictures a second, one picture at a time",
                ),
                start=1_003,
            )
        },
        "length": {
            f"{minutes} minutes, a picture every two seconds": {
                "a second": 3.0,
                "a processor second": 4.0,
                "peak memory (MiB)": 100 + minutes,
            }
            for minutes in (1, 61)
        },
    },
    "imfdb-embedding": {"faces a second": {"whole": 31.4, "network alone": 43.2}},
}


@pytest.fixture
def found(tmp_path):
    for name, told in RECORDS.items():
        told = {"command": f"python {name}", "origin": ORIGIN} | told
        (tmp_path / f"{name}-cpu.json").write_text(json.dumps(told))
    gpu = kernels(origin=ORIGIN | {"hardware": {"gpu": "a card", "processor": "p", "cores": 3}})
    for case in gpu["rows"]:
        case["library"], case["seconds"] = "products", case["seconds"] | {"compiled": 1e-4}
    (tmp_path / "aggregation-kernels-gpu.json").write_text(json.dumps(gpu))
    return benchmarks.records(tmp_path)


def test_the_answer_says_where_no_gpu_has_been_measured(found, tmp_path):
    assert "No GPU" not in benchmarks.answer(found)
    (tmp_path / "aggregation-kernels-gpu.json").unlink()
    assert benchmarks.answer(benchmarks.records(tmp_path)).splitlines()[-1].startswith("- No GPU has been measured")


def test_the_answer_tells_the_numbers_of_the_records(found):
    kernels_cpu, kernels_gpu, clusters, metric, seeds, precision, imported, video, pictures = benchmarks.answer(
        found
    ).splitlines()
    assert kernels_cpu.startswith("- On the CPU") and "2 ms as products in chunks" in kernels_cpu
    assert "stored residuals 19.0 times as long and 361 times the memory" in kernels_cpu
    assert "two matrix products take 1.10 to 1.60 times as long as chunks" in kernels_cpu
    assert "two matrix products 2.5 times as long" in kernels_cpu and "0.97 times the speed" in kernels_cpu
    assert kernels_gpu.startswith("- On the GPU") and "as two matrix products" in kernels_gpu
    assert "K = 64 takes 16 GB, with every residual stored 112 GB; with K = 8 it is 2 GB" in clusters
    assert "2,003 clips for 101 persons takes 3.2 s" in metric and "150 MB" in metric
    assert "scikit-learn takes 4.0 times as long" in metric
    assert "0.81 to 0.93" in seeds and "no gain" in seeds and "2.5" not in seeds
    assert "1.5 to 1.5 times as fast" in precision and "loses 0.0125 mAP" in precision
    assert "12 s, 1.2 times" in imported and "717 MiB where that takes 3,469" in imported
    assert "1007.0 seconds of video" in video and "faces of 1004 pictures" in video
    assert "embeds 1005 faces, where the network alone has 1006" in video
    assert "A file of 61 minutes takes 161 MiB, one of 1 takes 101." in video
    assert "31 faces a second" in pictures and "alone has 43" in pictures


def test_tables_have_a_row_a_case(found):
    table = benchmarks.kernels_table(found["aggregation-kernels"]["cpu"])
    assert len(table) == 5 and table.loc["NeXtVLAD, K = 8, B = 1,024", "residuals"] == ""
    first = table.loc["AttentionVLAD, K = 8, B = 1,024"]
    assert (first["ms"], first["MB"], first["products"], first["chunks"]) == ("2.0", "3.0", "2.50", "1.00")
    assert table.loc["AttentionVLAD, K = 8, B = 4,096", "ms"] == "1,500"
    assert "AttentionVLAD, K = 8, B = 256, faces given" in table.index
    clusters = benchmarks.clusters_table(found["cluster-memory"])
    assert clusters.loc["ours, K = 8"].tolist() == ["2.00 GB", "2.25 GB"]
    assert clusters.loc["theirs, K = 64"].tolist() == ["112.00 GB", ""]
    assert benchmarks.metric_table(found["metric"]).iloc[0]["theirs / ours"] == "4.0"
    steps = benchmarks.extraction_table(found["extraction"]["cpu"])
    assert steps.loc["pictures decoded"].tolist() == ["1,003.0", "2,006.0", "1,201"] and len(steps) == 5 + 2


def test_every_record_says_where_it_was_made(found):
    told = {line.split("**")[1]: line for line in benchmarks.origins(found).splitlines()}
    assert len(told) == len(RECORDS) + 1 and "on a card, PyTorch 3.1" in told["aggregation-kernels, GPU"]
    assert told["metric, CPU"] == (
        "- **metric, CPU**: `python metric` at commit `0123456789ab` with changes, on a processor, 7 cores, "
        "PyTorch 3.1, load 0.5 … 11.2."
    )


def test_older_records_have_their_origin_at_the_top(tmp_path):
    (tmp_path / "precision-cpu.json").write_text(
        json.dumps(RECORDS["precision"] | {"command": "c", "versions": {"torch": "3"}, "hardware": ORIGIN["hardware"]})
    )
    told = benchmarks.origins(benchmarks.records(tmp_path))
    assert told == "- **precision, CPU**: `c` at commit `unknown`, on a processor, 7 cores, PyTorch 3."


def test_curves_and_dots_are_the_records(found):
    plots.theme()
    figure = benchmarks.kernels(found["aggregation-kernels"])
    lines = {line.get_color() for axes in figure.axes for line in axes.lines}
    assert benchmarks.COLOURS["compiled"] in lines
    first = figure.axes[0]
    chunks = next(line for line in first.lines if line.get_color() == benchmarks.COLOURS["chunks"])
    assert list(chunks.get_xdata()) == [1024, 4096]
    assert list(chunks.get_ydata()) == pytest.approx([1e6 * 0.002 / 1024, 1e6 * 1.5 / 4096])
    axes = benchmarks.clusters(found["cluster-memory"]).axes[0]
    assert list(axes.lines[0].get_ydata()) == [8 * 2**28, 16 * 2**28, 64 * 2**28]
    assert axes.collections[0].get_offsets().tolist() == [[8, 2.25 * 2**30]]
    axes = benchmarks.attempts(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "aggregation as products in chunks, CPU",
        "aggregation as products in chunks, GPU",
        "seeds in one batch, CPU",
        "bfloat16, CPU",
    ]
    assert [text.get_text() for text in axes.texts] == ["0.97", "0.97", "0.87", "1.50"]


def test_without_records_the_page_says_so(tmp_path):
    found = benchmarks.records(tmp_path)
    assert "make bench" in benchmarks.answer(found)
    benchmarks.kernels(found["aggregation-kernels"])
    benchmarks.clusters(found["cluster-memory"])
    benchmarks.attempts(found)
    assert benchmarks.clusters_table({}).empty and benchmarks.metric_table({}).empty and benchmarks.origins(found) == ""


def test_every_figure_of_the_page_has_words_for_who_cannot_see_it():
    cells = notebooks.read(ROOT / "book" / "benchmarks.ipynb").cells
    drawn = [cell for cell in cells if cell.source.rstrip().endswith(";")]
    assert len(drawn) == 3
    assert all(
        cell.metadata["mystnb"]["image"]["alt"] and cell.metadata["mystnb"]["figure"]["caption"] for cell in drawn
    )
