"""From a video to its clips, in a world of coloured squares where everything is known."""

import numpy as np
import pytest
import video_files
from coloured_faces import BLUE, DIM, GREEN, RED, Embedder, everything, looks, picture, stages
from video_files import tone

from famf_video.clips import StageError, extract_clips
from famf_video.video import Video


def walk(count=50, both=True):
    """Red, large, walks to the right; green, smaller, stands."""
    return [[(RED, 10 + 2 * n, 20, 60), *([(GREEN, 180, 110, 36)] if both else [])] for n in range(count)]


def write(path, scenes, backgrounds=None, **options):
    pictures = map(picture, scenes, backgrounds or [120] * len(scenes))
    return Video(video_files.write(path, pictures, **options))


def colour_of(clip):
    """Whose vectors the faces of a clip have."""
    ways = np.stack([looks(colour) for colour in (RED, GREEN, BLUE)])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    (row,) = set((clip.faces.astype(float) @ ways.T).argmax(axis=1))
    return ("red", "green", "blue")[row]


@pytest.mark.parametrize("workers", [1, 3])
def test_main_person_and_the_others(tmp_path, workers):
    told = []
    video = write(tmp_path / "a.mp4", walk())
    (main,) = extract_clips(video, stages(), workers=workers, report=told.append)
    assert colour_of(main) == "red"
    assert main.frames.tolist() == list(range(0, 50, 5)) and told == main.times.tolist()
    assert main.times == pytest.approx(np.arange(10) / 5)
    expected = [(10 + 2 * n, 20, 70 + 2 * n, 80) for n in range(0, 50, 5)]
    assert abs(main.boxes - expected).max() <= 3
    assert main.faces.dtype == np.float16 and main.faces.shape == (10, DIM)
    np.testing.assert_allclose(main.faces[0], looks(RED), atol=0.5)
    assert (main.scores == np.float32(0.9)).all() and ((0 <= main.quality) & (main.quality <= 1)).all()

    both = extract_clips(video, stages(), everybody=True, workers=workers)
    assert [colour_of(clip) for clip in both] == ["red", "green"]
    np.testing.assert_array_equal(both[0].faces, main.faces)


def test_the_main_person_may_come_late_and_leave_early(tmp_path):
    """Green is there all the time; red fills five times as much for half of it. Blue passes by, in too few pictures."""
    scenes = [[(GREEN, 190, 110, 36)] for _ in range(60)]
    for n in range(15, 45):
        scenes[n].append((RED, 20, 20, 80))
    for n in [*range(10), *range(50, 60)]:
        scenes[n].append((BLUE, 30, 40, 60))
    video = write(tmp_path / "a.mp4", scenes)
    (main,) = extract_clips(video, stages())
    assert colour_of(main) == "red" and main.frames.tolist() == list(range(15, 45, 5))
    assert [colour_of(clip) for clip in extract_clips(video, stages(), everybody=True)] == ["red", "green"]


def test_a_cut_ends_a_clip(tmp_path):
    """The same face in the same place, before another background: two tracks, the longer is the main one."""
    scenes = [[(RED, 90, 40, 60)] for _ in range(50)]
    video = write(tmp_path / "a.mp4", scenes, [60] * 20 + [200] * 30)
    clips = extract_clips(video, stages(), everybody=True)
    assert [clip.frames.tolist() for clip in clips] == [list(range(20, 50, 5)), list(range(0, 20, 5))]


def test_no_face(tmp_path):
    assert everything().dims == {"head": 3, "body": 3, "audio": 2, "text": 1}
    assert stages(reader=everything().reader).dims == {}  # text needs both, reading and encoding
    (clip,) = extract_clips(write(tmp_path / "a.mp4", [[]] * 30, sound=tone(1.2)), everything())
    assert clip.faces.shape == (0, DIM) and clip.points.shape == (0, 5, 2) and clip.table.num_rows == 0
    assert set(clip.vectors) == {"audio", "text"} and clip.text == "grey 2 subtitle"


def test_every_modality(tmp_path):
    """Head and body are looked at around the face, sound is the video's, words are read at three places."""
    scenes = [[(RED, 100, 60, 40), (GREEN, 180, 110, 36)] for _ in range(30)]
    video = write(tmp_path / "a.mp4", scenes, [n // 15 * 15 + 115 for n in range(30)], sound=tone(1.2))
    models = everything()
    main, other = extract_clips(video, models, everybody=True, fps=25)
    x, y, side = 100, 60, 40
    for name, (left, top, right, bottom) in (
        ("head", (x - 0.3 * side, y - 0.45 * side, x + 1.3 * side, y + 1.15 * side)),
        ("body", (x - side, y - 0.45 * side, x + 2 * side, 160)),  # the picture ends there
    ):
        width, height, _ = main.vectors[name]
        assert width == pytest.approx(right - left, abs=4) and height == pytest.approx(bottom - top, abs=4)
        assert name in other.vectors and main.vectors[name].dtype == np.float16
    seconds, loudness = main.vectors["audio"]
    assert seconds == pytest.approx(1.2, abs=0.15) and loudness == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    assert main.text == "grey 2 subtitle grey 3" and models.sentences.given == [main.text]
    assert main.vectors["text"].tolist() == [len(main.text)]
    assert "audio" not in other.vectors and "text" not in other.vectors and other.text == ""


def test_head_and_body_are_looked_at_around_the_best_faces(tmp_path):
    """Ten faces; the two large ones have low scores and are left out, and their size with them."""
    sides = [40, 60, 40, 40, 40, 40, 40, 60, 40, 40]
    scenes = [[(RED, 100, 60, side)] for side in sides for _ in range(5)]
    models = stages(head=everything().head)
    detect = models.detector.detect

    def unsure(picture):
        found = detect(picture)
        found.scores[found.boxes[:, 2] - found.boxes[:, 0] > 50] = 0.1
        return found

    models.detector.detect = unsure
    (clip,) = extract_clips(write(tmp_path / "a.mp4", scenes), models)
    assert len(clip.frames) == 10 and clip.vectors["head"][0] == pytest.approx(1.6 * 40, abs=3)


@pytest.mark.parametrize("value", [np.nan, 1e6, 1e-9])
def test_a_model_that_gives_no_numbers(tmp_path, value):
    class Broken(Embedder):
        def embed(self, faces):
            return np.full((len(faces), DIM), value, np.float32)

    with pytest.raises(StageError, match="embedder: vectors that float16 cannot hold found"):
        extract_clips(write(tmp_path / "a.mp4", walk(20)), stages(embedder=Broken()))


def test_damage_moves_nothing(tmp_path):
    """Pictures that cannot be decoded are missing; the others have the boxes that they had, and are found again."""
    video = write(tmp_path / "a.mp4", walk(45, both=False), codec="mjpeg")
    video_files.damage(video.path, [7, 20])
    (clip,) = extract_clips(video, stages(head=everything().head), fps=25)
    places = [n for n in range(45) if n not in (7, 20)]
    assert clip.times == pytest.approx(np.array(places) / 25) and video.damaged == 2
    assert abs(clip.boxes[:, 0] - (10 + 2 * np.array(places))).max() <= 3
    assert clip.frames.tolist() == list(range(43)) and clip.vectors["head"][0] == pytest.approx(96, abs=9)
