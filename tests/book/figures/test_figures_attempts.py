"""What was tried and did not help, from made-up records."""

import json

import pytest

from famf_book.figures.attempts import attempts


def test_every_record_is_told_in_numbers_of_its_own(tmp_path):
    rows = [("quick", 2.5), ("standard", 0.81), ("standard", 0.93)]
    batched = [{"profile": profile, "one after the other / batched": ratio} for profile, ratio in rows]
    precise = [
        {"float32 / bfloat16": 1.25, "mAP, float32": 0.7, "mAP, bfloat16": 0.69},
        {"float32 / bfloat16": 1.75, "mAP, float32": 0.6, "mAP, bfloat16": 0.58},
    ]
    grid = [("none", 0.5), ("none", 0.55), ("cluster", 0.6), ("cluster+whole", 0.65)]
    tuned = [{"normalisation": n, "mean_ap": m, "rows": {}} for n, m in grid]
    for name, told in (
        ("batched-seeds-cpu", {"rows": batched}),
        ("precision-cpu", {"rows": precise}),
        ("aggregation-kernels-cpu", {"training": [{"form": "chunks", "products / form": r} for r in (0.97, 1.02)]}),
        ("tuning-films-standard", {"table": tuned}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(told | {"command": f"python {name}"}))
    found = attempts(tmp_path)
    assert found["command"].tolist() == [
        f"python {n}"
        for n in ("batched-seeds-cpu", "precision-cpu", "aggregation-kernels-cpu", "tuning-films-standard")
    ]
    seeds, precision, chunks, tuning = found["found"]
    assert "0.81 to 0.93" in seeds and "2.5" not in seeds
    assert "0.97 to 1.02" in chunks
    assert "1.2 to 1.8" in precision and "-0.0150 mAP" in precision
    assert "-0.1000" in tuning and "(films)" in found.index[3]


def test_without_records_there_is_nothing_to_tell(tmp_path):
    assert attempts(tmp_path).empty
    (tmp_path / "precision-cpu.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        attempts(tmp_path)
