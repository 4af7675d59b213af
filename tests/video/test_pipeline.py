"""From many videos to a ClipSet: whatever is wrong with some, however often it is interrupted."""

import numpy as np
import pytest
import video_files
from coloured_faces import BLUE, DIM, GREEN, RED, everything, picture, stages
from video_files import tone

from famf_lib.data import inspection
from famf_lib.data.clipset import ClipSet
from famf_video.labels import Label
from famf_video.pipeline import ExtractionError, extract


def video(path, *colours, count=30, sound=0.0):
    """Each colour beside the other, the first the largest."""
    faces = [(colour, 10 + 80 * place, 30, 60 - 15 * place) for place, colour in enumerate(colours)]
    path.parent.mkdir(parents=True, exist_ok=True)
    sounds = tone(sound) if sound else None
    return video_files.write(path, [picture(faces)] * count, sound=sounds)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [
        video(folder / "ann" / "1.mp4", RED, GREEN, sound=1.2),
        video(folder / "bo" / "1.mp4", GREEN, count=45),
        video(folder / "bo" / "2.mkv", BLUE, RED),
    ]


def told_by(function, *arguments, **options):
    said = []
    return function(*arguments, say=said.append, **options), said


def test_a_clipset(videos, tmp_path):
    found, said = told_by(extract, videos, tmp_path / "out", everything(), everybody=True)
    clips = ClipSet.open(tmp_path / "out")
    assert clips.clips["name"].tolist() == ["ann/1", "ann/1#2", "bo/1", "bo/2", "bo/2#2"]
    assert clips.clips["group"].tolist() == ["ann/1", "ann/1", "bo/1", "bo/2", "bo/2"]
    assert clips.counts.tolist() == [6, 6, 9, 6, 6] and found.faces == 33 and found.clips == 5 and not found.failed
    assert clips.clips[["person", "split"]].isna().all(axis=None) and clips.persons == []
    table = clips.face_columns()
    assert table["frame"][:6].tolist() == list(range(0, 30, 5)) and (table["det_score"] == np.float32(0.9)).all()
    assert table["x1"].between(7, 93).all() and (table["x2"] > table["x1"]).all() and (table["quality"] > 0).all()
    present = {name: modality.present.tolist() for name, modality in clips.modalities.items()}
    assert present["head"] == present["body"] == [True] * 5
    assert present["audio"] == [True] + [False] * 4 and present["text"] == [True, False, True, True, False]
    assert inspection.faults(tmp_path / "out") == [] and clips.dim == DIM
    unit = clips.faces.float().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    owner = np.repeat([0, 1, 1, 2, 0], clips.counts)  # red, green, green, blue, red
    assert np.array_equal(unit @ unit.T > 0.9, owner[:, None] == owner)
    lacking = [f"{videos[k]}: no sound track, so its clip has no audio" for k in (1, 2)]
    assert said == lacking


def test_labels(videos, tmp_path):
    labels = {"ann/1": Label("Ann", "train"), "2.mkv": Label("Bo", "val"), "ann/1#2": Label("Green"), "cy": Label("Cy")}
    _, said = told_by(extract, videos, tmp_path / "out", stages(), labels=labels, everybody=True)
    clips = ClipSet.open(tmp_path / "out").clips.set_index("name")
    assert clips["person"].dropna().to_dict() == {"ann/1": "Ann", "bo/2": "Bo", "ann/1#2": "Green"}
    assert clips["split"].dropna().to_dict() == {"ann/1": "train", "bo/2": "val"}
    assert said == [
        "labels: no person given for 2 clips, for example 'bo/1'",
        "labels: 1 label without a clip, for example 'cy'",
    ]


def test_a_bad_video_stops_no_other(videos, tmp_path):
    bad, faceless, damaged = tmp_path / "bad.mp4", tmp_path / "none.mp4", tmp_path / "damaged.mp4"
    bad.write_bytes(b"no video")
    video(faceless)
    video_files.write(damaged, [picture([(RED, 20, 20, 50)])] * 20, codec="mjpeg")
    video_files.damage(damaged, [7])
    hopeless = video_files.write(tmp_path / "hopeless.mp4", [picture([])] * 3, codec="mjpeg")
    video_files.damage(hopeless, range(3))
    files = [bad, videos[1], faceless, tmp_path / "absent.mp4", damaged, hopeless]
    found, said = told_by(extract, files, tmp_path / "out", stages())
    assert list(found.failed) == [bad, tmp_path / "absent.mp4", hopeless]
    assert said[:3] == list(found.failed.values()) and all("expected" in sentence for sentence in said[:3])
    assert said[3:] == [
        f"{faceless}: no face found, so its clip has none",
        f"{damaged}: 1 part of the pictures left out as damaged",
    ]
    clips = ClipSet.open(tmp_path / "out")
    assert clips.counts.tolist() == [9, 0, 4] and inspection.faults(tmp_path / "out") == []
    with pytest.raises(ExtractionError, match="not written, because none of the videos can be used"):
        extract([bad], tmp_path / "nothing", stages())
    assert not (tmp_path / "nothing").exists()


def test_interrupted_it_goes_on(videos, tmp_path):
    """Stopped in the second of three videos: the first is not looked at again, and the result is the same."""
    whole = stages()
    extract(videos, tmp_path / "whole", whole)

    def stopping(seen):
        if broken.detector.seen == 9:
            raise KeyboardInterrupt
        return detect(seen)

    broken = stages()
    detect = broken.detector.detect
    broken.detector.detect = stopping
    with pytest.raises(KeyboardInterrupt):
        extract(videos, tmp_path / "out", broken)
    assert not (tmp_path / "out").exists() and len(list((tmp_path / "out.parts").glob("*.safetensors"))) == 1
    again = stages()
    extract(videos, tmp_path / "out", again)
    assert again.detector.seen == whole.detector.seen - 6
    assert ClipSet.open(tmp_path / "out").fingerprint == ClipSet.open(tmp_path / "whole").fingerprint


def test_what_was_extracted_is_read_as_long_as_nothing_changes(videos, tmp_path):
    own = video(tmp_path / "a.mp4", RED)
    files = [own, videos[1]]

    def seen(out="out", **options):
        models = stages(**options.pop("models", {}))
        extract(files, tmp_path / out, models, replacing=True, **options)
        return models.detector.seen

    assert seen() == 15 and seen() == 0
    assert seen(fps=2.5) == 8 and seen(everybody=True) == 15
    assert seen(models={"head": everything().head}) == 15
    video(own, BLUE, count=35)
    assert seen() == 7
    assert ClipSet.open(tmp_path / "out").counts.tolist() == [7, 9]


def test_what_lies_at_the_place_stays(videos, tmp_path):
    out = tmp_path / "out"
    extract(videos[:1], out, stages())
    before = ClipSet.open(out).fingerprint
    with pytest.raises(ExtractionError, match="out: a ClipSet found, expected a new folder, or --replace"):
        extract(videos, out, stages())
    assert ClipSet.open(out).fingerprint == before
    extract(videos, out, stages(), replacing=True)
    assert len(ClipSet.open(out)) == 3

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for place in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(ExtractionError, match="something other than a ClipSet found, expected a new folder"):
            extract(videos, place, stages(), replacing=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
