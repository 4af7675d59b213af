"""A video on which the decoder crashes, and what becomes of the others."""

import sys

import numpy as np
import pytest
import video_files
from coloured_faces import RED, everything, picture, stages
from video_files import marked, tone

from famf_lib.data.clipset import ClipSet
from famf_video import contained
from famf_video.contained import ContainedVideo
from famf_video.pipeline import extract
from famf_video.video import Video, VideoError

CRASHING = """
import os, signal
from famf_video import contained, video

def crash(*_):
    os.kill(os.getpid(), signal.SIGSEGV)

class Video(video.Video):
    def __init__(self, path):
        super().__init__(path)
        if path.stem == "broken":
            self.frames = lambda fps: 1 // 0
        if path.stem == "crash":
            self.frames = crash
        if path.stem == "mute":
            self.sound = crash

contained.Video = Video
contained.serve()
"""


@pytest.fixture
def crashing(monkeypatch):
    """FFmpeg crashes on the pictures of crash.mp4 and on the sound of mute.mp4, and does not like broken.mp4."""
    contained._stop_all()
    monkeypatch.setattr(contained, "COMMAND", [sys.executable, "-c", CRASHING])
    yield
    contained._stop_all()


def test_it_is_the_same_video(tmp_path, monkeypatch):
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(45)), codec="mjpeg", sound=tone(1.8))
    video_files.damage(path, [7])
    monkeypatch.chdir(tmp_path)
    here, there = Video(path), ContainedVideo("a.mp4")
    for mine, its in ((here.frames(5), there.frames(5)), (here.numbered({3, 31}), there.numbered({3, 31}))):
        mine, its = list(mine), list(its)
        assert [(f.number, f.time) for f in mine] == [(f.number, f.time) for f in its] and mine
        assert all(np.array_equal(a.picture, b.picture) for a, b in zip(mine, its, strict=True))
    assert np.array_equal(np.concatenate(list(here.sound())), np.concatenate(list(there.sound())))
    assert all(getattr(here, name) == getattr(there, name) for name in contained.STATE)
    assert there.damaged == 1 and there.has_sound


def test_walks_side_by_side_and_given_up(tmp_path):
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(45)))
    one, other = ContainedVideo(path).frames(25), ContainedVideo(path).frames(5)
    assert [(next(one).number, next(other).number) for _ in range(3)] == [(0, 0), (1, 5), (2, 10)]
    one.close()
    assert [frame.number for frame in other] == [15, 20, 25, 30, 35, 40]


def test_a_crash_costs_one_video(tmp_path, crashing):
    files = [tmp_path / f"{name}.mp4" for name in ("first", "crash", "broken", "last")]
    for file in files:
        video_files.write(file, [picture([(RED, 20, 20, 50)])] * 20)
    for bad in (tmp_path / "absent.mp4", tmp_path):  # what is no crash is one of Video's sentences
        with pytest.raises(VideoError) as expected:
            Video(bad)
        with pytest.raises(VideoError, match=f"^{expected.value}$"):
            ContainedVideo(bad)
    said = []
    found = extract(files, tmp_path / "out", stages(), say=said.append)
    assert said == [
        f"{files[1]}: FFmpeg crashed on it (SIGSEGV), expected a video that it can decode",
        f"{files[2]}: it cannot be decoded (ZeroDivisionError: integer division or modulo by zero), expected a video",
    ]
    assert list(found.failed) == files[1:3]
    assert ClipSet.open(tmp_path / "out").clips["name"].tolist() == ["first", "last"]


def test_sound_that_crashes_costs_no_face(tmp_path, crashing):
    file = video_files.write(tmp_path / "mute.mp4", [picture([(RED, 20, 20, 50)])] * 20, sound=tone(0.8))
    said = []
    extract([file], tmp_path / "out", everything(), say=said.append)
    assert said == [f"{file}: no audible sound can be decoded, so its clip has no audio"]
    assert ClipSet.open(tmp_path / "out").counts.tolist() == [4]
