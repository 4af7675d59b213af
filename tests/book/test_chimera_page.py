"""The page on chimeric persons is there without the data: it then shows what was recorded, which are numbers only."""

import json
import re

import numpy as np
import pytest

from famf_book import notebooks
from famf_lib.data import datasets
from famf_lib.support.files import ROOT

PAGE = ROOT / "book" / "chimera.ipynb"
RECORDING = ROOT / "results" / "chimera-shape.json"


def test_the_page_without_the_data_shows_the_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    out = tmp_path / "out.ipynb"
    notebooks.execute(PAGE, out)
    page, shape = out.read_text(), json.loads(RECORDING.read_text())
    assert "Recorded, not run here" in page and f"{shape['joining']['clips']} clips" in page
    best = max(np.mean(scores) for scores in shape["correct"].values())
    assert f"identifies {best:.0%} (" in page and page.count('"image/svg+xml":') == 2


def test_the_recording_is_of_the_data_that_are_here():
    source = datasets.get("chimera")
    if reason := source.absence():
        pytest.skip(reason)
    shape = json.loads(RECORDING.read_text())
    clipset = source.load()
    assert (shape["data"], shape["joining"]) == (clipset.fingerprint, clipset.info["joining"])
    assert np.shape(shape["correct"]["face"]) == np.shape(shape["training clips"]) == (5, len(clipset.persons))
    names = {*clipset.persons, *clipset.clips["group"], *clipset.clips["utterance"]}
    assert not names & set(re.findall(r'"([^"]*)"', RECORDING.read_text()))
