import json

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from run_cells import run_cells, texts

from famf_lib.support.files import ROOT

PAGE, RESULTS = ROOT / "book" / "benchmarks.ipynb", ROOT / "results"


@pytest.fixture(scope="module")
def page():
    return run_cells(PAGE)


def recorded(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_tables_have_the_numbers_of_the_records(page):
    tables = BeautifulSoup(texts(page[1]), "html.parser").find_all("table")
    rows = [[cell.text for cell in row.find_all(["th", "td"])] for table in tables for row in table.find_all("tr")]
    for device in ("cpu", "gpu"):
        for row in recorded(f"aggregation-kernels-{device}")["rows"]:
            ms = f"{1e3 * row['seconds'][row['library']]:.2f}"
            case = [row["module"], str(row["K"]), str(row["B"]), str(row["faces given"]), row["library"]]
            (found,) = (cells for cells in rows if cells[:5] == case and float(cells[5]) == pytest.approx(float(ms)))
            assert float(found[7]) == pytest.approx(row["library / floor"], abs=0.006)
        for row in recorded(f"metric-{device}")["beside"]:
            assert any(cells[0] == row["library"] and f"{row['theirs / ours']:.3g}" in cells for cells in rows)
    steps = recorded("import-iqiyi-cpu")["seconds"]
    assert all([step, str(took)] in [cells[:2] for cells in rows] for step, took in steps.items())


def test_the_attempts_are_ratios_of_the_records(page):
    speeds = page[0]["tried"]
    bfloat16 = [row["float32 / bfloat16"] for row in recorded("precision-cpu")["rows"]]
    assert speeds["bfloat16, CPU"] == bfloat16 and "fused, GPU" in speeds
    standard = [row["profile"] == "standard" for row in recorded("batched-seeds-cpu")["rows"]]
    assert len(speeds["seeds in one batch, CPU"]) == sum(standard) < len(standard)


def test_every_record_has_its_origin(page):
    text = texts(page[1][-1:])
    assert text.count("\n") + 1 == len(page[0]["origins"]) == 10
    assert "- **metric, GPU**: `python benchmarks/metric.py --record` at commit `" in text and "NVIDIA H200" in text


def test_without_records_the_page_says_so(tmp_path):
    names, shown = run_cells(PAGE, results=str(tmp_path))
    assert "make bench" in texts(shown) and "<table" not in texts(shown) and not names["tried"]


def test_a_record_may_be_older_or_changed(tmp_path):
    record = recorded("precision-cpu")
    record |= {"versions": {"torch": "3.1"}, "hardware": {"processor": "a processor", "cores": 7}}
    del record["origin"]
    (tmp_path / "precision-cpu.json").write_text(json.dumps(record))
    names, shown = run_cells(PAGE, results=str(tmp_path))
    assert texts(shown).endswith("at commit `unknown`, on a processor, 7 cores, PyTorch 3.1")
    assert list(names["tried"]) == ["bfloat16, CPU"] and np.isfinite(pd.DataFrame(names["tried"])).all(axis=None)
