import json
import sys
from pathlib import Path

import numpy as np
import pytest

from famf_book import notebooks
from famf_lib.experiments.settings import RESULTS
from famf_lib.support.files import ROOT
from famf_video import registry

MODELS = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet", "mobilefacenet128")
RECORDED = json.loads((RESULTS / "from-video.json").read_text())


@pytest.fixture
def executed(monkeypatch):
    """Executes the page in this process; returns its variables and outputs."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell replaces it
    shell = InteractiveShell.instance()
    shell.reset()

    def execute(given=""):
        outputs = []
        for cell in notebooks.read(ROOT / "book" / "from-video.ipynb").cells:
            if cell.cell_type == "code":
                tail = given if "parameters" in cell.metadata.get("tags", []) else ""
                with capture_output() as captured:
                    done = shell.run_cell(f"{cell.source}\n{tail}")
                done.raise_error()
                outputs += [output.data for output in captured.outputs]
                outputs += [shell.display_formatter.format(done.result)[0]] if done.result is not None else []
        return shell.user_ns, outputs

    yield execute
    InteractiveShell.clear_instance()


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_MODELS", str(tmp_path))
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))


def test_without_models_the_page_shows_what_was_recorded(no_models, executed):
    page, outputs = executed()
    told = next(output["text/markdown"] for output in outputs if "text/markdown" in output)
    assert told.startswith("*Recorded:* the model mtcnn-pnet, ")
    assert sum("image/svg+xml" in output for output in outputs) == 3  # pictures: frames, aligned faces, weights
    table = page["table"]
    assert table["faces found"].sum() == len(RECORDED["frames"]) and list(table.index) == list(page["STATES"])
    for state, row in table.iterrows():
        of_state = [page["states"][number] == state for number in RECORDED["frames"]]
        assert row["weight"] == pytest.approx(np.array(RECORDED["weights"][0])[of_state].mean())
    # Quality is computed from the pictures drawn here and the landmarks recorded elsewhere: they belong together.
    assert page["quality"].to_numpy() == pytest.approx(np.array(RECORDED["quality"])[page["rows"]], abs=0.02)


def test_a_video_needs_the_models(no_models, executed):
    with pytest.raises(FileNotFoundError, match="^video, model: the model mtcnn-pnet, .* not found, expected"):
        executed('video = "mine.mp4"')


def test_with_models_the_page_finds_what_was_recorded(executed, monkeypatch):
    if reason := next(filter(None, map(registry.absence, MODELS)), None):
        pytest.skip(reason)
    page, _ = executed()
    seen = page["seen"]
    assert not page["missing"] and seen["frames"].tolist() == RECORDED["frames"]
    for key, error in (("boxes", 1), ("points", 1), ("scores", 0.02), ("lengths", 0.2)):  # pixels, and shares
        np.testing.assert_allclose(seen[key], RECORDED[key], atol=error)
    assert page["names"]["persons"][0] == RECORDED["persons"][0] == "Uma"
    assert np.corrcoef(seen["weights"][0], RECORDED["weights"][0])[0, 1] > 0.9
    assert not Path(page["place"].name).exists()


def test_the_recording_holds_nothing_but_a_few_numbers_of_a_drawn_film():
    sizes = {key: np.shape(value) for key, value in RECORDED.items() if key != "origin"}
    faces, tokens = len(RECORDED["frames"]), len(RECORDED["tokens"])
    flat = dict.fromkeys(("frames", "scores", "quality", "lengths"), (faces,))
    assert sizes == flat | {
        "weights": (3, faces),
        "boxes": (faces, 4),
        "points": (faces, 5, 2),
        "phi": (tokens,),
        "attention": (tokens, tokens),
        "tokens": (tokens,),
        "persons": (5,),
        "probabilities": (5,),
    }


def test_the_measured_agreement_is_not_about_single_persons():
    text = (RESULTS / "imfdb-embedding-cpu.json").read_text()
    assert "/images/" not in text and ".jpg" not in text
    told = json.loads(text)
    assert told["faces"] >= 1000 and told["cosine with the recorded vectors"]["median"] > 0.999
    assert told["share above 0.99"] < told["share above 0.99 then"]  # as the page says of the two alignments
