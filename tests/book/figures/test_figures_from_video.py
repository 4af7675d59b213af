"""The page on one video: the video made of pictures, and what the page says without models and data."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from famf_book import notebooks
from famf_book.figures import from_video
from famf_lib.support.files import ROOT
from famf_video import registry


def test_one_sentence_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_MODELS", str(tmp_path))
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    said = from_video.absence("", "")
    assert "the model mobilefacenet128" in said and "IMFDB not found" in said
    assert "IMFDB" not in from_video.absence("mine.mp4", "mine.safetensors")  # the user's own video and model
    monkeypatch.setattr(registry, "absence", lambda name: None)
    monkeypatch.setattr(from_video, "find_spec", lambda name: None if name == "av" else name)
    assert from_video.absence("mine.mp4", "mine.safetensors").startswith("Not shown here: the package av not found")


def test_the_record_is_not_about_single_persons():
    text = from_video.RECORDED.read_text()
    assert "/images/" not in text and ".jpg" not in text
    told = json.loads(text)
    assert told["faces"] >= 1000 and told["cosine with the recorded vectors"]["median"] > 0.999
    assert told["share above 0.99"] < told["share above 0.99 then"]  # as the page says of the two alignments
    assert len(from_video.recorded()) == 8


def test_a_video_of_pictures_shows_each_in_turn_and_has_sound(tmp_path):
    pytest.importorskip("av", reason="the extra extract is not installed")
    from famf_video.video import Video

    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
    faces = [Image.new("RGB", (70, 90), colour) for colour in colours]
    video = Video(from_video.compose(faces, tmp_path / "v.mp4", seed=3))
    assert video.has_sound and video.size == from_video.SIZE
    shown = list(video.frames(5.0))
    assert len(shown) == 15
    for frame in shown:
        middle = frame.picture[90:180, 200:320].reshape(-1, 3).astype(int)
        place = min(int(frame.time / from_video.SECONDS * 3), 2)
        others = [c for c in range(3) if c != place]
        assert np.quantile(middle[:, place], 0.9) > (40 if place == 2 else 150)  # the third is dark
        assert np.median(middle[:, others]) < np.median(middle[:, place])
    loud = from_video.loudness(video, 10)
    assert loud[0] < loud[4] > loud[9] and 0.1 < loud[4] < 0.3


def test_every_cell_runs_without_models_and_data(monkeypatch, tmp_path):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.setenv("FAMF_MODELS", str(tmp_path))
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell replaces it
    shell = InteractiveShell.instance()
    shell.reset()
    said = []
    for cell in notebooks.read(ROOT / "book" / "from-video.ipynb").cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                shell.run_cell(cell.source).raise_error()
            said += [output.data.get("text/markdown", "") for output in captured.outputs]
    assert any(text.startswith("Not shown here: ") for text in said)
    InteractiveShell.clear_instance()
