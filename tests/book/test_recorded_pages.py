import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_cells import run_cells, tables, texts

from famf_lib.data import datasets
from famf_lib.support.files import ROOT
from famf_video import registry

BOOK, RESULTS = ROOT / "book", ROOT / "results"


def recorded(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_full_size_page_shows_the_record_of_the_gpu_and_refuses_an_unknown_row():
    _, shown = run_cells(BOOK / "full-size.ipynb", batch=1024)
    text = texts(shown)
    for run in recorded("table-1-synthetic-paper-printed")["runs"]:
        assert f">{np.mean(run['ap']):.4f}<" in text, run["label"]
    took = recorded("full-size-gpu")["training"]["captured"]["seconds"]
    assert f"takes {took:.0f} s" in text
    with pytest.raises(ValueError, match=r"^row: 'Luck' is not known, expected one of Mean pooling \+ Concat, NetVLAD"):
        run_cells(BOOK / "full-size.ipynb", row="Luck")


def test_the_page_on_chimeras_without_the_data_shows_the_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    _, shown = run_cells(BOOK / "chimera.ipynb")
    text, shape = texts(shown), recorded("chimera-shape")
    assert "Recorded, not run here" in text and f"{shape['joining']['clips']} clips" in text
    best = max(np.mean(scores) for scores in shape["correct"].values())
    assert f"identifies {best:.0%} (" in text


def test_the_recording_of_chimeras_is_of_the_data_that_are_here():
    source = datasets.get("chimera")
    if reason := source.absence():
        pytest.skip(reason)
    shape, clipset = recorded("chimera-shape"), source.load()
    assert (shape["data"], shape["joining"]) == (clipset.fingerprint, clipset.info["joining"])
    assert np.shape(shape["correct"]["face"]) == np.shape(shape["training clips"]) == (5, len(clipset.persons))
    names = {*clipset.persons, *clipset.clips["group"], *clipset.clips["utterance"]}
    assert not names & set(re.findall(r'"([^"]*)"', (RESULTS / "chimera-shape.json").read_text()))


BENCHMARKS = BOOK / "benchmarks.ipynb"


@pytest.fixture(scope="module")
def page():
    return run_cells(BENCHMARKS)


def test_the_tables_have_the_numbers_of_the_records(page):
    rows = [row for table in tables(texts(page[1])) for row in table]

    def near(cell, number):  # two digits, or none after the point
        return float(cell.replace(",", "")) == pytest.approx(number, rel=0.051)

    for device in ("cpu", "gpu"):
        for row in recorded(f"aggregation-kernels-{device}")["rows"]:
            case = [
                row["module"],
                str(row["K"]),
                f"{row['B']:,}",
                "yes" if row["faces given"] else "no",
                row["library"],
            ]
            took = 1e3 * row["seconds"][row["library"]]
            (found,) = (cells for cells in rows if cells[:5] == case and near(cells[5], took))
            assert near(found[7], row["library / floor"])
        for row in recorded(f"metric-{device}")["beside"]:
            assert any(cells[0] == row["library"] and f"{row['theirs / ours']:.3g}" in cells for cells in rows)
    for row in recorded("aggregation-kernels-cpu")["normalised"]:
        case = [str(row["K"]), f"{row['B']:,}", "yes" if row["faces given"] else "no", row["library"]]
        (found,) = (cells for cells in rows if cells[:4] == case)
        assert near(found[4], 1e3 * row["seconds"]["one pass"]) and near(found[6], row["public / one pass"])
    steps = recorded("import-iqiyi-cpu")["seconds"]
    assert all([step, str(took)] in [cells[:2] for cells in rows] for step, took in steps.items())


def test_the_attempts_are_ratios_of_the_records_and_every_record_has_its_origin(page):
    speeds = page[0]["tried"]
    bfloat16 = [row["float32 / bfloat16"] for row in recorded("precision-cpu")["rows"]]
    assert speeds["bfloat16, CPU"] == bfloat16 and "fused, GPU" in speeds
    standard = [row["profile"] == "standard" for row in recorded("batched-seeds-cpu")["rows"]]
    assert len(speeds["seeds in one batch, CPU"]) == sum(standard) < len(standard)
    text = texts(page[1][-1:])
    assert text.count("\n") + 1 == len(page[0]["origins"]) == 10
    assert "- **metric, GPU**: `python benchmarks/metric.py --record` at commit `" in text and "NVIDIA H200" in text


def test_records_may_be_absent_older_or_changed(tmp_path):
    names, shown = run_cells(BENCHMARKS, results=str(tmp_path))
    assert "make bench" in texts(shown) and "<table" not in texts(shown) and not names["tried"]
    record = recorded("precision-cpu")
    record |= {"versions": {"torch": "3.1"}, "hardware": {"processor": "a processor", "cores": 7}}
    del record["origin"]
    (tmp_path / "precision-cpu.json").write_text(json.dumps(record))
    names, shown = run_cells(BENCHMARKS, results=str(tmp_path))
    assert texts(shown).endswith("at commit `unknown`, on a processor, 7 cores, PyTorch 3.1")
    assert list(names["tried"]) == ["bfloat16, CPU"] and np.isfinite(pd.DataFrame(names["tried"])).all(axis=None)


VIDEO, MODELS = BOOK / "from-video.ipynb", ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet", "mobilefacenet128")
RECORDED = recorded("from-video")


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_MODELS", str(tmp_path))
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))


def test_without_models_the_page_on_a_video_shows_what_was_recorded(no_models):
    page, shown = run_cells(VIDEO)
    assert texts(shown).startswith("*Recorded:* the model mtcnn-pnet, ")
    assert texts(shown).count("</svg>") == 3  # pictures: frames, aligned faces, weights
    table = page["table"]
    assert table["faces found"].sum() == len(RECORDED["frames"]) and list(table.index) == list(page["STATES"])
    for state, row in table.iterrows():
        of_state = [page["states"][number] == state for number in RECORDED["frames"]]
        assert row["weight"] == pytest.approx(np.array(RECORDED["weights"][0])[of_state].mean())
    # Quality is computed from the pictures drawn here and the landmarks recorded elsewhere: they belong together.
    assert page["quality"].to_numpy() == pytest.approx(np.array(RECORDED["quality"])[page["rows"]], abs=0.02)
    with pytest.raises(FileNotFoundError, match="^video, model: the model mtcnn-pnet, .* not found, expected"):
        run_cells(VIDEO, video="mine.mp4")


def test_with_models_the_page_finds_what_was_recorded():
    if reason := next(filter(None, map(registry.absence, MODELS)), None):
        pytest.skip(reason)
    page, _ = run_cells(VIDEO)
    seen = page["seen"]
    assert not page["missing"] and seen["frames"].tolist() == RECORDED["frames"]
    for key, error in (("boxes", 1), ("points", 1), ("scores", 0.02), ("lengths", 0.2)):  # pixels, and shares
        np.testing.assert_allclose(seen[key], RECORDED[key], atol=error)
    assert page["names"]["persons"][0] == RECORDED["persons"][0] == "Uma"
    assert np.corrcoef(seen["weights"][0], RECORDED["weights"][0])[0, 1] > 0.9
    assert not Path(page["place"].name).exists()


def test_the_recording_holds_nothing_but_a_few_numbers_of_a_drawn_film():
    sizes = {key: np.shape(value) for key, value in RECORDED.items() if key != "origin"}
    faces, tokens = sizes["frames"], sizes["tokens"]
    expected = dict.fromkeys(("frames", "scores", "quality", "lengths"), faces) | dict.fromkeys(
        ("phi", "tokens"), tokens
    )
    expected |= {"weights": (3, *faces), "boxes": (*faces, 4), "points": (*faces, 5, 2), "attention": 2 * tokens}
    assert sizes == expected | {"persons": (5,), "probabilities": (5,)}


def test_the_measured_agreement_is_not_about_single_persons():
    text, told = (RESULTS / "imfdb-embedding-cpu.json").read_text(), recorded("imfdb-embedding-cpu")
    assert "/images/" not in text and ".jpg" not in text
    assert told["faces"] >= 1000 and told["cosine with the recorded vectors"]["median"] > 0.999
    assert told["share above 0.99"] < told["share above 0.99 then"]  # as the page says of the two alignments
