import json
import re

import numpy as np
import pytest
from run_cells import run_cells, texts

from famf_lib.data import datasets
from famf_lib.support.files import ROOT

PAGE = ROOT / "book" / "chimera.ipynb"
RECORDING = ROOT / "results" / "chimera-shape.json"


def test_the_page_without_the_data_shows_the_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    _, shown = run_cells(PAGE)
    text, shape = texts(shown), json.loads(RECORDING.read_text())
    assert "Recorded, not run here" in text and f"{shape['joining']['clips']} clips" in text
    best = max(np.mean(scores) for scores in shape["correct"].values())
    assert f"identifies {best:.0%} (" in text


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
