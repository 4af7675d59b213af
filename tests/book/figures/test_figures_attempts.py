"""The table of attempts, from made-up records."""

import json

import pytest

from famf_book.figures.attempts import attempts


def test_every_record_gives_its_numbers(tmp_path):
    ratios = [("quick", 2.5), ("standard", 0.81), ("standard", 0.93)]
    precise = [(1.25, 0.7, 0.69), (1.75, 0.6, 0.58)]
    grid = [("none", 0.5), ("none", 0.55), ("cluster", 0.6), ("cluster+whole", 0.65)]
    kernels = [{"form": "chunks", "products / form": ratio} for ratio in (0.97, 1.02)]
    names = ("float32 / bfloat16", "mAP, float32", "mAP, bfloat16")
    records = {
        "batched-seeds-cpu": {"rows": [{"profile": p, "one after the other / batched": r} for p, r in ratios]},
        "precision-cpu": {"rows": [dict(zip(names, row, strict=True)) for row in precise]},
        "aggregation-kernels-cpu": {"training": kernels},
        "tuning-films-standard": {"table": [{"normalisation": n, "mean_ap": m, "rows": {}} for n, m in grid]},
    }
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record | {"command": f"python {name}"}))
    found = attempts(tmp_path)
    assert found["command"].tolist() == [f"python {name}" for name in records]
    seeds, precision, chunks, tuning = found["result"]
    assert "0.81 to 0.93" in seeds and "2.5" not in seeds
    assert "0.97 to 1.02" in chunks
    assert "1.2 to 1.8" in precision and "-0.0150 mAP" in precision
    assert "-0.1000" in tuning and "(films)" in found.index[3]


def test_without_records_the_table_is_empty(tmp_path):
    assert attempts(tmp_path).empty
    (tmp_path / "precision-cpu.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        attempts(tmp_path)
