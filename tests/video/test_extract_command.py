"""``famf extract``, on videos composed of films' faces, with the real detector and recogniser."""

from itertools import product

import film_faces
import numpy as np
import pytest
from famf_command import famf

from famf_lib.data.clipset import ClipSet


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Two videos each of three persons, beside whom a fourth is seen, and one that is none."""
    film_faces.needed()
    folder = tmp_path_factory.mktemp("films")
    *persons, other = sorted(film_faces.faces())[:4]
    for person in persons:
        for take in range(2):
            place = folder / "films" / person / f"{take}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            film_faces.video(place, [person, other], seconds=0.6, seed=take, pictures=slice(take, None, 2))
    (folder / "films" / "bad.mp4").write_bytes(b"no video")
    options = ["--fps", "4", "--tracks", "all", "--person-folders"]
    return folder, persons, famf("extract", folder / "films", "--out", folder / "out", *options)


def test_what_it_says(extracted):
    folder, persons, done = extracted
    assert done.exit_code == 1 and done.exception is None or isinstance(done.exception, SystemExit)
    said = done.stderr.splitlines()
    assert said[0].startswith("famf: head, body, audio, text: no model given (--head, --body, --speaker, --text)")
    assert said[1].startswith(f"famf: {folder}/films/bad.mp4: cannot be opened as a video") and "expected" in said[1]
    assert said[-1] == "famf: 1 of 7 videos could not be used"
    assert f"{folder}/out: {len(ClipSet.open(folder / 'out')):,} clips" in done.stdout


def test_the_main_person_of_each_video_is_the_one_in_front(extracted):
    folder, persons, _ = extracted
    clips = ClipSet.open(folder / "out")
    main = clips.clips["person"].notna().to_numpy(copy=True)
    assert clips.clips["person"][main].tolist() == np.repeat(persons, 2).tolist()
    table = clips.face_columns()
    owner = np.repeat(np.arange(len(clips)), clips.counts)
    assert table["x2"][main[owner]].max() < 290 < table["x1"][~main[owner]].min()
    assert clips.counts[main].min() >= 2 and table["det_score"].min() > 0.8
    assert table["quality"].between(0, 1).all()


def test_faces_of_a_person_are_alike_across_videos(extracted):
    """Other pictures of the same persons, through a codec: the mean vectors still belong together."""
    folder, persons, _ = extracted
    clips = ClipSet.open(folder / "out")
    main = np.flatnonzero(clips.clips["person"].notna())
    bounds = clips.offsets.tolist()
    means = np.stack([clips.faces[bounds[row] : bounds[row + 1]].float().numpy().mean(axis=0) for row in main])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    alike = means @ means.T
    np.fill_diagonal(alike, -1)
    assert alike.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    assert clips.dim == 128 and 5 < float(clips.faces.float().norm(dim=1).median()) < 20


def test_asked_again_it_only_puts_together(extracted, monkeypatch):
    folder, _, _ = extracted
    monkeypatch.setattr("famf_video.detection.MTCNN.detect", lambda *_: pytest.fail("looked at again"))
    before = ClipSet.open(folder / "out").fingerprint
    options = ["--fps", "4", "--tracks", "all", "--person-folders", "--replace"]
    assert famf("extract", folder / "films", "--out", folder / "out", *options).exit_code == 1
    assert ClipSet.open(folder / "out").fingerprint == before


@pytest.mark.parametrize(
    ("option", "values", "commands"),
    [
        ("--fps", ["inf", "-inf", "nan", "0", "-5", "1e308", "x"], ["extract", "enroll", "identify --run=x"]),
        ("--min-face", ["0", "-40", "nan", "1e9", "9" * 99], ["extract", "enroll", "identify --run=x"]),
        ("--seed", ["-1", str(2**32), "inf"], ["enroll"]),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_opened(tmp_path, option, values, commands):
    for command, value in product(commands, values):
        done = famf(*command.split(), "none.mp4", "--out", tmp_path / "out", option, value)
        assert done.exit_code == 2 and f"Invalid value for '{option}'" in done.output, done.output
        assert not list(tmp_path.iterdir())


def test_bad_options_are_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for options, sentence in (
        (["--tracks", "some"], "--tracks: 'some' found, expected main or all"),
        (["--labels", "x.csv", "--person-folders"], "--labels: found with --person-folders, expected one of them"),
        (
            ["--detector", "none.onnx"],
            "model: 'none.onnx' is unknown, expected a file or one of",
        ),
        (["--detector", str(tmp_path)], "mtcnn_pnet.onnx: no such file found, expected an ONNX model"),
    ):
        done = famf("extract", tmp_path / "a.mp4", "--out", tmp_path / "out", *options)
        assert done.exit_code == 1 and isinstance(done.exception, (ValueError, LookupError))
        assert sentence in str(done.exception) and not (tmp_path / "out").exists()
