"""The page on speed shows what made-up records contain, for either device or none."""

import json

import pytest

from famf_book.figures import benchmarks

ORIGIN = {
    "commit": "0123456789abcdef-dirty",
    "versions": {"torch": "3.1"},
    "hardware": {"processor": "a processor", "cores": 7},
    "load average": {"before": 0.5, "after": 11.25},
}


def row(module, k, b, times, given=False, library="chunks", unit=0.002):
    """A case; ``times`` are relative to the library's form."""
    case = {"module": module, "K": k, "B": b, "faces given": given, "library": library, "library / floor": 5.0}
    memory = {form: 3 * 2**20 * ratio**2 for form, ratio in times.items()}
    floor = {"bytes": unit / 5, "operations": unit / 7}
    seconds = {form: unit * ratio for form, ratio in times.items()}
    return case | {"seconds": seconds, "memory (bytes)": memory, "times the library's": times, "floor (s)": floor}


def tokens(form, stored, k):
    """A row on the memory for K clusters."""
    line = {"form": form, "residuals": stored, "K": k, "counted (bytes)": (1 + 6 * stored) * k * 2**28}
    return line | ({"real (bytes)": 2.25 * 2**30} if k == 8 and not stored else {})


def step(number):
    """A row on the speed of one step of the extraction."""
    return {"a second": 2 * number, "a processor second": number, "peak memory (MiB)": number + 100}


TIMES = {"residuals": 19.0, "loop": 13.0, "products": 2.5, "chunks": 1.0}
KERNELS = {
    "rows": [
        row("attentionvlad", 8, 1024, TIMES),
        row("attentionvlad", 8, 4096, {"products": 1.5, "chunks": 1.0}, unit=1.5),
        row("attentionvlad", 16, 1024, TIMES),
        row("attentionvlad", 8, 256, {"products": 1.0, "chunks": 0.9}, given=True, library="products"),
        row("nextvlad", 8, 1024, {"products": 1.0}, library="products"),
    ],
    "memory kept": [{"products / chunks": ratio} for ratio in (1.1, 1.6)],
    "training": [{"form": "chunks", "products / form": 0.97}],
}
SPEEDS = (
    "pictures decoded",
    "pictures looked at for faces, one thread",
    "faces aligned and embedded, one thread",
    "faces through the network alone, one thread",
    "seconds of video, 5 pictures a second, one picture at a time",
)
FULL = {"persons": 101, "clips": 2003, "seconds": 3.25, "memory, tensors (bytes)": 150 * 2**20}
OTHER = {"library": "scikit-learn", "k": 499, "persons": 31, "clips": 499, "largest difference of an AP": 2e-16}
OTHER |= {"seconds": {"ours": 0.125, "scikit-learn": 0.5}, "theirs / ours": 4.0}
SEEDS = (("quick", 2.5), ("standard", 0.81), ("standard", 0.93))
RECORDS = {
    "aggregation-kernels": KERNELS,
    "cluster-memory": {"rows": [tokens(*form, k) for form in (("ours", False), ("theirs", True)) for k in (8, 16, 64)]},
    "metric": {"full": FULL, "beside": [OTHER]},
    "batched-seeds": {"rows": [{"profile": p, "one after the other / batched": r} for p, r in SEEDS]},
    "precision": {"rows": [{"float32 / bfloat16": 1.5, "mAP, float32": 0.7, "mAP, bfloat16": 0.6875}]},
    "import-iqiyi": {
        "faces": 1_700,
        "seconds": {"import": 12.0, "pickle.load": 10.0},
        "peak memory, MiB": {"import": 717, "pickle.load": 3469},
        "import / pickle.load, seconds": 1.2,
    },
    "extraction": {
        "speed": {name: step(number) for number, name in enumerate(SPEEDS, start=1_003)},
        "length": {f"{minutes} minutes, sampled": step(minutes) for minutes in (1, 61)},
    },
    "imfdb-embedding": {"faces a second": {"whole": 31.4, "network alone": 43.2}},
}


@pytest.fixture
def found(tmp_path):
    for name, record in RECORDS.items():
        record = {"command": f"python {name}", "origin": ORIGIN} | record
        (tmp_path / f"{name}-cpu.json").write_text(json.dumps(record))
    gpu = KERNELS | {"origin": ORIGIN | {"hardware": {"gpu": "a card", "processor": "p", "cores": 3}}}
    rows = [r | {"library": "products", "seconds": r["seconds"] | {"compiled": 1e-4}} for r in KERNELS["rows"]]
    (tmp_path / "aggregation-kernels-gpu.json").write_text(json.dumps(gpu | {"command": "c", "rows": rows}))
    return benchmarks.records(tmp_path)


def test_the_answer_says_if_no_gpu_has_been_measured(found, tmp_path):
    assert "No GPU" not in benchmarks.answer(found)
    (tmp_path / "aggregation-kernels-gpu.json").unlink()
    assert benchmarks.answer(benchmarks.records(tmp_path)).splitlines()[-1].startswith("- No GPU has been measured")


def test_the_answer_has_the_numbers_of_the_records(found):
    expected = [
        [
            "- On the CPU",
            "2 ms as products in chunks",
            "stored residuals need 19.0 times the time and 361 times the memory",
            "two matrix products need 2.5 times the time",
            "two matrix products take 1.10 to 1.60 times as long as chunks",
            "0.97 times the speed",
        ],
        ["- On the GPU", "as two matrix products"],
        ["takes 16 GB with K = 64, 112 GB if every residual is stored, and 2 GB with K = 8"],
        ["2,003 clips for 101 persons takes 3.2 s and 150 MB", "scikit-learn takes 4.0 times as long"],
        ["0.81 to 0.93", "no gain"],
        ["1.5 to 1.5 times as fast", "loses 0.0125 mAP"],
        ["12 s, 1.2 times", "717 MiB of memory instead of 3,469"],
        [
            "1007.0 seconds of video",
            "faces in 1004 pictures",
            "embeds 1005 faces per second; the network alone reaches 1006",
            "A video of 61 minutes takes 161 MiB of memory, one of 1 takes 101.",
        ],
        ["embed 31 faces of IMFDB per second; the network alone reaches 43"],
    ]
    for line, parts in zip(benchmarks.answer(found).splitlines(), expected, strict=True):
        for part in parts:
            assert part in line
    assert "2.50" not in benchmarks.answer(found)  # the quick profile is left out


def test_tables_have_one_row_per_case(found):
    table = benchmarks.kernels_table(found["aggregation-kernels"]["cpu"])
    assert len(table) == 5 and table.loc["NeXtVLAD, K = 8, B = 1,024", "residuals"] == ""
    first = table.loc["AttentionVLAD, K = 8, B = 1,024"]
    assert (first["ms"], first["MB"], first["products"], first["chunks"]) == ("2.0", "3.0", "2.50", "1.00")
    assert table.loc["AttentionVLAD, K = 8, B = 4,096", "ms"] == "1,500"
    clusters = benchmarks.clusters_table(found["cluster-memory"])
    assert clusters.loc["ours, K = 8"].tolist() == ["2.00 GB", "2.25 GB"]
    assert clusters.loc["theirs, K = 64"].tolist() == ["112.00 GB", ""]
    assert benchmarks.metric_table(found["metric"]).iloc[0]["theirs / ours"] == "4.0"
    steps = benchmarks.extraction_table(found["extraction"]["cpu"])
    assert steps.loc["pictures decoded"].tolist() == ["1,003.0", "2,006.0", "1,103"] and len(steps) == 5 + 2


def test_every_record_has_its_origin(found, tmp_path):
    lines = {line.split("**")[1]: line for line in benchmarks.origins(found).splitlines()}
    assert len(lines) == len(RECORDS) + 1 and "on a card, PyTorch 3.1" in lines["aggregation-kernels, GPU"]
    assert lines["metric, CPU"] == (
        "- **metric, CPU**: `python metric` at commit `0123456789ab` with uncommitted changes, on a processor, "
        "7 cores, PyTorch 3.1, load 0.5 … 11.2."
    )
    older = {"command": "c", "versions": {"torch": "3"}, "hardware": ORIGIN["hardware"]}
    line = benchmarks.origins({"precision": {"cpu": RECORDS["precision"] | older}})
    assert line == "- **precision, CPU**: `c` at commit `unknown`, on a processor, 7 cores, PyTorch 3."


def test_without_records_the_page_says_so(tmp_path):
    found = benchmarks.records(tmp_path)
    assert "make bench" in benchmarks.answer(found)
    for draw, name in ((benchmarks.kernels, "aggregation-kernels"), (benchmarks.clusters, "cluster-memory")):
        draw(found[name])
    benchmarks.attempts(found)
    assert benchmarks.clusters_table({}).empty and benchmarks.metric_table({}).empty and benchmarks.origins(found) == ""


def test_figures_show_the_records(found, rows_of):
    axes = benchmarks.kernels(found["aggregation-kernels"]).axes[0]
    chunks = next(line for line in axes.lines if line.get_color() == benchmarks.COLOURS["chunks"])
    assert list(chunks.get_ydata()) == pytest.approx([1e6 * 0.002 / 1024, 1e6 * 1.5 / 4096])  # µs per clip
    benchmarks.clusters(found["cluster-memory"]).canvas.draw()
    figure = benchmarks.attempts(found)
    assert [row[:20] for row in rows_of(figure)] == 2 * ["aggregation as produ"] + [
        "several seeds in one",
        "bfloat16, CPU",
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.97", "0.97", "0.87", "1.50"]
