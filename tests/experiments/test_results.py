import errno
import json
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from famf_book import report
from famf_lib.data import datasets
from famf_lib.experiments import catalogue, results
from famf_lib.experiments.catalogue import TABLE_1, Experiment
from famf_lib.experiments.parameters import SETTINGS


@pytest.fixture
def few(monkeypatch):

    def make(*variants, probes=("answers", "weights")):
        monkeypatch.setitem(catalogue.EXPERIMENTS, "table-1", Experiment("table-1", "Table 1", variants, probes))

    return make


closed = []


def refuse(event, given):
    """Refuses what a read-only file system refuses, in the folders of ``closed``."""
    writing = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if closed and (writing or event in ("os.mkdir", "os.rename", "os.remove")) and str(given[0]).startswith(closed[0]):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(given[0]))


sys.addaudithook(refuse)


@contextmanager
def read_only(folder):
    closed.append(str(folder))
    try:
        yield
    finally:
        closed.clear()


def test_recording_gives_the_numbers_back(results_folder, tiny, few, store):
    few(TABLE_1[-1])
    fresh = results.run_experiment("table-1", "synthetic", "quick", [1, 2], "cpu")
    path = results.record(fresh, "table-1", "synthetic", "famf run table-1")
    assert "person" not in json.dumps(json.loads(path.read_text())["runs"][0]["ap"])
    written = {one.name: one.read_bytes() for one in results_folder.iterdir()}
    assert sorted(written) == [
        f"table-1-synthetic-quick-own{end}" for end in ("-answers.parquet", "-weights.parquet", ".json")
    ]
    names = datasets.load("synthetic", "quick").persons
    assert not any(name.encode() in content for name in names for content in written.values()), "a person's name"
    recorded = results.find_recording("table-1", "synthetic", "quick")
    for key, run in fresh.runs.items():
        assert recorded.runs[key].mean_ap == pytest.approx(run.mean_ap, abs=1e-5)
        assert recorded.runs[key].spec == run.spec
    assert set(recorded.answers) == {"answers", "weights"}
    for probe, table in fresh.answers.items():
        again = recorded.answers[probe]
        pd.testing.assert_frame_equal(again, table, atol=1e-5, check_dtype=False)
        kinds = [dtype.kind for dtype in table.dtypes]
        assert [dtype.kind for dtype in again.dtypes] == kinds, "a seed stays a whole number, a right answer a bool"
        for column in again.select_dtypes("floating"):
            assert all(np.isnan(v) or v == round(v, 5) for v in again[column].tolist())
    with read_only(store):
        again = results.run_experiment("table-1", "synthetic", "quick", [1, 2], "cpu")
    assert [run.mean_ap for run in again.runs.values()] == [run.mean_ap for run in fresh.runs.values()]
    results.record(fresh, "table-1", "synthetic", "famf run table-1")
    assert {one.name: one.read_bytes() for one in results_folder.iterdir()} == written, "the same bytes again"
    assert report.beside_recording(fresh, recorded) == "All 2 runs reproduce the recorded numbers."
    key = next(iter(fresh.runs))
    content = json.loads(path.read_text())
    content["runs"][0]["ap"] = [0.0] * len(content["runs"][0]["ap"])
    path.write_text(json.dumps(content))
    told = report.beside_recording(fresh, results.find_recording("table-1", "synthetic", "quick"))
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))}: no row 'FAM' found, expected one of AttentionVLAD"
    ):
        recorded.ap("FAM")
    path.write_text(json.dumps(content | {"runs": []}))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: a damaged recording found \(runs: none\)"):
        results.find_recording("table-1", "synthetic", "quick")
    assert told.startswith("1 of 2 runs differ") and f"seed {key[1]}" in told
    assert "Recorded" in report.where_from(recorded) and "famf run table-1" in report.where_from(recorded)


def test_absent_dataset_is_shown_from_its_recording_or_named(results_folder, tiny, few, monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetAbsent, match="imfdb"):
        results.run_experiment("table-1", "imfdb", "quick", [1])
    few(TABLE_1[-1], probes=())
    fresh = results.run_experiment("table-1", "synthetic", "quick", [1], "cpu")
    results.record(replace(fresh, profile="standard"), "table-1", "imfdb", "a command")
    shown = results.run_experiment("table-1", "imfdb", "quick", [1])
    assert (shown.profile, shown.setting) == ("standard", "own")
    assert shown.simple == pytest.approx(fresh.simple, abs=1e-5)
    with pytest.raises(datasets.DatasetAbsent):  # under another setting nothing was recorded
        results.run_experiment("table-1", "imfdb", "quick", [1], setting="printed")
    with pytest.raises(ValueError, match="only its numbers were recorded"):
        next(iter(shown.runs.values())).model(datasets.load("synthetic", "quick"))


def test_clips_are_split_by_the_protocol_asked_for(results_folder, tiny, few, monkeypatch, tmp_path):
    few(TABLE_1[0], probes=())
    found = results.run_experiment("table-1", "synthetic", "quick", [1], "cpu", "random")
    (run,) = found.runs.values()
    assert run.spec.protocol == "random" and "a new split" in report.protocol("synthetic", found)
    (usual,) = results.run_experiment("table-1", "synthetic", "quick", [1], "cpu").runs.values()
    assert usual.spec.protocol == "given" and usual.key != run.key
    results.record(replace(found, profile="standard"), "table-1", "imfdb", "a command")
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetAbsent):  # the recording is not under that protocol
        results.run_experiment("table-1", "imfdb", "quick", [1], "cpu", "random")


def test_mean_pooling_under_the_same_setting_says_how_easy_the_data_are(results_folder, tiny, few):
    few(*TABLE_1[:2], probes=())
    found = results.run_experiment("table-1", "synthetic", "quick", [1, 2], "cpu")
    assert found.simple == pytest.approx(found.mean_ap().loc[TABLE_1[0].label].mean())
    few(TABLE_1[1], probes=())
    assert results.run_experiment("table-1", "synthetic", "quick", [1, 2], "cpu").simple == found.simple


def test_datasets_that_are_absent_are_left_out_but_not_the_first_one(results_folder, tiny, few, monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    few(TABLE_1[0], probes=())
    found = results.run_available("table-1", ["synthetic", "imfdb", "synthetic"], "quick", [1], "cpu")
    assert list(found) == ["synthetic"] and list(found["synthetic"]) == list(SETTINGS)
    assert [one.setting for one in found["synthetic"].values()] == list(SETTINGS)
    with pytest.raises(datasets.DatasetAbsent):
        results.run_available("table-1", ["imfdb", "synthetic"], "quick", [1], "cpu")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"setting": "best"}, "setting: 'best' is not known, expected one of printed, own, shared"),
        ({"experiment": "table-9"}, "experiment: 'table-9' is not known, expected one of: table-1, table-2"),
        ({"dataset": "imdb"}, "'imdb' is not known, expected one of synthetic, imfdb"),
        ({"experiment": "table-2", "dataset": "imfdb"}, "table-2: imfdb has faces alone"),
        ({"profile": "huge"}, "profile: 'huge' is not known, expected one of quick, standard, paper"),
        ({"seeds": [-1]}, "seed: -1 found; input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_run_is_one_sentence_before_anything_is_made(changed, sentence, store):
    given = {"experiment": "table-1", "dataset": "synthetic", "profile": "quick", "seeds": [1]} | changed
    with pytest.raises(ValueError, match=sentence):
        results.run_experiment(**given)
    assert not store.exists()


def test_answers_line_up_with_persons_and_seeds(made_results):
    found = made_results({"A": 0.5, "B": 0.6}, seeds=3, persons=5)
    rows = [
        (label, seed, person, n, 100 * seed + 10 * person + n)
        for label, seed, person, n in product("AB", (1, 2, 3), (-1, 0, 3), (1, 2))  # −1: noise clips
    ]
    columns = ["label", "seed", "person", "faces", "ap"]
    found.answers["faces"] = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=1)
    one = found.answer("faces", "B", "ap", faces=2)
    assert one.shape == (3, 5)
    assert one[1, 3] == 232 and one[2, 0] == 302 and np.isnan(one[:, [1, 2, 4]]).all()


def test_full_size_is_shown_beside_a_smaller_profile_with_where_it_comes_from(results_folder, tiny, few, monkeypatch):
    few(TABLE_1[0], TABLE_1[-1], probes=())
    fresh = results.run_experiment("table-1", "synthetic", "quick", [1, 2], "cpu")
    assert results.full_size("table-1", "synthetic", "quick") is None
    hardware = {"processor": "P", "cores": 3, "gpu": "Some GPU"}
    monkeypatch.setattr("famf_lib.support.provenance.hardware", lambda: hardware)
    results.record(replace(fresh, profile="paper"), "table-1", "synthetic", "famf run table-1 --profile paper")
    assert results.full_size("table-1", "synthetic", "paper") is None, "it would stand beside itself"
    full = results.full_size("table-1", "synthetic", "quick")
    assert full.profile == "paper" and full.recorded["device"] == "cpu"
    told = report.made_by(full)
    assert "`famf run table-1 --profile paper`" in told and "profile paper" in told and "P, 3 cores" in told
    assert "Some GPU" not in told, "the GPU of the machine had no part in it"
    full.recorded["device"] = "cuda"
    assert "Some GPU" in report.made_by(full) and "; 2 seeds; data" in report.made_by(full)
    one = replace(full, runs={key: run for key, run in full.runs.items() if key[1] == 1})
    assert "; 1 seed, so that intervals reflect variation over people alone; data" in report.made_by(one)
    shorter = report.rows(fresh, {TABLE_1[-1].label: 0.88}).drop(index=TABLE_1[0].label).assign(ours=0.25)
    beside = report.beside_full_size(shorter, full)
    assert list(beside.index) == [TABLE_1[-1].label] and beside["this page, as printed"].tolist() == [0.25]
    assert beside["paper"].tolist() == [0.88]
    expected = fresh.mean_ap().loc[TABLE_1[-1].label].mean()
    assert beside["full size"].iloc[0] == pytest.approx(expected, abs=1e-5)
    assert beside["low"].iloc[0] <= expected <= beside["high"].iloc[0]
