import json

import numpy as np
import pytest
from run_cells import run_cells, texts

from famf_lib.support.files import ROOT

PAGE, RESULTS = ROOT / "book" / "full-size.ipynb", ROOT / "results"


def test_the_page_shows_the_record_of_the_gpu():
    _, shown = run_cells(PAGE, batch=1024)
    text = texts(shown)
    recorded = json.loads((RESULTS / "table-1-synthetic-paper-printed.json").read_text())
    for run in recorded["runs"]:
        assert f">{np.mean(run['ap']):.4f}<" in text, run["label"]
    took = json.loads((RESULTS / "full-size-gpu.json").read_text())["training"]["captured"]["seconds"]
    assert f"takes {took:.0f} s" in text


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match=r"^row: 'Luck' is not known, expected one of Mean pooling \+ Concat, NetVLAD"):
        run_cells(PAGE, row="Luck")
