"""Enrolling persons and finding them in videos: with a detector and an embedder that see colours, and real ones."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

pytest.importorskip("av", reason="the extra extract is not installed")

import coloured_faces
import film_faces
import video_files
from coloured_faces import BLUE, DIM, GREEN, RED, Detector, Embedder, stages
from famf_command import famf
from onnx_models import network
from untrained_models import made as untrained

from famf_book import answer_page
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments import run_store, settings
from famf_lib.models.config import ModelConfig
from famf_lib.training import checkpoint, prediction
from famf_lib.training.prediction import PredictionError
from famf_lib.training.train import TrainingConfig
from famf_video import enrolment, identification, registry, similarity, stills
from famf_video.alignment import TEMPLATE
from famf_video.detection import Detections
from famf_video.enrolment import EnrolmentError, enroll, gather
from famf_video.identification import IdentificationError, identify

COLOURS = {"Ann": RED, "Božena": GREEN, "<陳>": BLUE}
ORANGE = (230, 110, 20)  # somebody else
SIDE = 60


def picture(person, light=1.0, x=30, y=20):
    return coloured_faces.picture([(np.array(COLOURS[person]) * light, x, y, SIDE)], 0)


def film(path, person, seconds=2.0, seed=0):
    """A person whose light changes, moving through the picture."""
    draw = np.random.default_rng(seed)
    shown = [picture(person, draw.uniform(0.7, 1), 10 + n // 2, 20 + n // 5) for n in range(int(25 * seconds))]
    path.parent.mkdir(parents=True, exist_ok=True)
    return video_files.write(path, shown)


@pytest.fixture
def folder(tmp_path):
    """Two persons with two videos each, and one with pictures; the first video is a camcorder's."""
    for person in list(COLOURS)[:2]:
        for n in range(2):
            film(tmp_path / "known" / person / f"{n}.mp4", person, seed=n)
    last = tmp_path / "known" / list(COLOURS)[2]
    last.mkdir()
    for n in range(17):
        Image.fromarray(picture(last.name, 0.7 + n / 60)).save(last / f"{n:02d}.png")
    return tmp_path / "known"


@pytest.fixture
def quick(monkeypatch):
    """A small classifier."""
    base = settings.BASE["standard"].model_copy(update={"hidden": 16})
    monkeypatch.setitem(settings.BASE, "standard", base)
    monkeypatch.setattr(enrolment, "STEPS", 60)


def test_a_folder_of_folders_becomes_clips_of_persons(folder):
    """Files that cannot be used stop none of the others."""
    (folder / "Ann" / "broken.mp4").write_bytes(b"no video at all")
    (folder / "Ann" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (90, 90)).save(folder / "Ann" / "dark.png")
    (folder / "Nobody").mkdir()
    Image.new("RGB", (90, 90)).save(folder / "Nobody" / "dark.jpg")
    said = []
    clipset = gather(folder, stages(), fps=10.0, say=said.append)
    for sentence, expected in zip(sorted(said), (
        f"{folder}/Ann/broken.mp4: cannot be opened as a video",
        f"{folder}/Ann/broken.png: cannot be read as a picture",
        f"{folder}/Ann/dark.png: no face found",
        f"{folder}/Nobody/dark.jpg: no face found",
        f"{folder}: no face of Nobody found, so the model will not know them",
    ), strict=True):  # fmt: skip
        assert sentence.startswith(expected)
    assert clipset.persons == sorted(COLOURS)
    counts = clipset.counts.numpy()
    assert counts.max() <= enrolment.PIECE and counts.sum() == 2 * 2 * 20 + 17
    table = clipset.clips.assign(faces=counts)
    by_group = table.groupby("group")["faces"].sum()
    assert by_group["Ann/0.mp4"] == 20  # two pieces of one video stay in one group
    assert sorted(table["faces"][table["person"] == "<陳>"]) == [8, 9] and table["group"].nunique() == 2 * 2 + 2
    assert clipset.info["embedder"] == "colours"
    faces = clipset.face_columns()
    assert {"frame", "det_score", "quality", "x1"} <= set(faces) and faces["quality"].between(0, 1).all()


def test_what_is_left_out_by_its_ending_is_said_and_whose_all_is(folder, tmp_path):
    for name in ("Ann/1.HEIC", "Ann/2.heic", "Dee/1.heic", "Dee/notes.txt", "group.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "Ann" / "0.mp4").rename(folder / "Ann" / "0.MTS")  # as camcorders write it
    said = []
    files = enrolment.files_of(folder, said.append)
    assert [len(of) for of in files.values()] == [17, 2, 2] and folder / "Ann" / "0.MTS" in files["Ann"]
    assert len(said) == 3
    assert said[0].startswith(f"{folder}: 4 files left out because of their ending (3 .heic, 1 .txt), expected")
    nothing = f"{folder}: no file of Dee has the ending of a readable video or picture"
    assert said[1] == f"{nothing}, so the model will not know them"
    assert said[2] == f"{folder}: 1 file outside the persons' folders left out, for example group.jpg"
    for person in list(COLOURS)[1:]:
        (folder / person).rename(tmp_path / person)
    with pytest.raises(EnrolmentError, match=r"pictures of Ann found, .*; 4 files left out because .* \(3 \.heic"):
        gather(folder, stages())


def test_a_deep_picture_shows_its_face_and_what_is_none_is_left_out(tmp_path):
    class Grey(Detector):
        def detect(self, picture):
            return super().detect(picture * np.uint8([1, 0, 0]))

    deep = picture("Ann").max(axis=2).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 11\n%%EndComments\n")
    files, said = [tmp_path / "eps.jpg", tmp_path / "deep.png"], []
    clip = stills.clip_from_pictures(files, stages(detector=Grey()), said.append)
    assert clip.frames.tolist() == [1]
    np.testing.assert_allclose(clip.boxes, [[30, 20, 30 + SIDE, 20 + SIDE]])
    assert len(said) == 1 and said[0].startswith(f"{files[0]}: cannot be read as a picture (cannot identify")


@pytest.mark.parametrize(
    ("dark", "sentence"),
    [
        (None, "no such folder found"),
        ((), "readable videos or pictures of nobody found, expected a folder for each of two"),
        (("Ann", "Bob"), "faces of nobody found, expected faces of two or more persons"),
    ],
)
def test_a_folder_that_will_not_do_is_one_sentence(tmp_path, dark, sentence):
    for person in dark or ():
        (tmp_path / "a" / person).mkdir(parents=True)
        Image.new("RGB", (90, 90)).save(tmp_path / "a" / person / "1.png")
    if dark is not None:
        (tmp_path / "a" / "Cy").mkdir(parents=True)
    with pytest.raises(EnrolmentError, match=sentence):
        gather(tmp_path / "a", stages())


def test_the_largest_face_of_a_picture_counts_and_a_tight_crop_is_given_room(tmp_path):
    class Two(Detector):
        """Sees nothing that touches the edge, and two faces in any other picture, the larger one second."""

        def detect(self, picture):
            found = super().detect(picture)
            if not len(found) or found.boxes.min() <= 0:
                return super().detect(np.zeros_like(picture))
            points = np.concatenate([found.points[:, :, :] / 2, found.points])
            return Detections(np.concatenate([found.boxes / 2, found.boxes]), np.float32([0.99, 0.8]), points)

    Image.fromarray(picture("Ann", x=31, y=17)).save(tmp_path / "a.png")
    clip = stills.clip_from_pictures([tmp_path / "a.png"], stages(detector=Two()))
    np.testing.assert_allclose(clip.boxes, [[31, 17, 31 + SIDE, 17 + SIDE]])
    assert clip.scores == pytest.approx(0.8)

    class Roomy(Detector):
        """Sees a face only if there is room around it. The room is the edge repeated, which is bright as well."""

        def detect(self, picture):
            height, width, _ = picture.shape
            if width < 100:
                return super().detect(np.zeros_like(picture))
            box = np.float32([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])
            points = box[:, None, :2] + np.float32(TEMPLATE / 112) * (width / 2)
            return Detections(box, np.float32([0.9]), points)

    Image.new("RGB", (SIDE, SIDE), COLOURS["Ann"]).save(tmp_path / "tight.png")
    clip = stills.clip_from_pictures([tmp_path / "tight.png"], stages(detector=Roomy()))
    np.testing.assert_allclose(clip.boxes, [[0, 0, SIDE, SIDE]])  # in pixels of the picture as it is


@pytest.mark.parametrize("classifier", ["famf", "margin"])
def test_enrolled_persons_are_found_again_in_videos_that_were_not_seen(folder, tmp_path, quick, classifier):
    made = enroll(gather(folder, stages(), fps=10.0), tmp_path / "model.safetensors", classifier=classifier)
    assert made.persons == 3 and made.tried >= 3 and made.right == made.tried
    opened = checkpoint.open(made.file)
    assert opened.card.config.fusion == {"famf": "mlma", "margin": "concat"}[classifier]
    assert opened.card.embedder == "colours" and list(opened.card.persons) == sorted(COLOURS)
    for seed, person in enumerate(COLOURS):
        found = identify(film(tmp_path / f"{seed}.mp4", person, seed=7 + seed), opened, stages(), fps=10.0)
        (answer,) = found.answers
        assert answer.person == answer.persons[0] == person and len(answer.persons) == 3
        assert len(answer.weights) == len(answer.clip.faces) == 20


def test_a_threshold_is_chosen_on_persons_left_out():
    draw = np.random.default_rng(3)
    looks, labels = draw.normal(size=(5, 11)), np.repeat(np.arange(5), 12)
    vectors = looks[labels] + 0.9 * draw.normal(size=(60, 11))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    videos = [f"{person}/{n // 4 % 3}" for n, person in enumerate(labels)]

    def similar(vector, persons):
        mean = persons.mean(axis=0)
        return (
            ((vector - mean) @ (persons - mean).T)
            / np.linalg.norm(vector - mean)
            / np.linalg.norm(persons - mean, axis=1)
        )

    means = np.stack([vectors[labels == person].mean(axis=0) for person in range(5)])
    strangers, known = [], []
    for n, person in enumerate(labels):
        strangers.append(similar(vectors[n], np.delete(means, person, axis=0)).max())
        other = means.copy()
        other[person] = vectors[[m for m in range(60) if labels[m] == person and videos[m] != videos[n]]].mean(axis=0)
        known.append(similar(vectors[n], other)[person])
    found = similarity.calibrate(torch.tensor(vectors).float(), torch.tensor(labels), videos)
    bound = np.mean(strangers) + 2.1318 * np.sqrt(6 / 5) * np.std(strangers, ddof=1)  # 95 % of Student's t, 4 degrees
    assert found.threshold == pytest.approx(bound, abs=1e-4) and found.strangers == found.known == 60
    assert found.named == (np.array(strangers) >= bound).sum()
    assert 0 < found.missed == (np.array(known) < found.threshold).sum() < 60
    two = torch.tensor(vectors[labels < 2]).float(), torch.tensor(labels[labels < 2]), videos[:24]
    assert similarity.calibrate(*two) is None


@pytest.fixture
def coloured(monkeypatch):
    """The commands use the detector and embedder of colours."""
    monkeypatch.setattr("famf_video.detection.detector", lambda *_: Detector())
    monkeypatch.setattr("famf_video.embedding.ArcFace", lambda *_, **__: Embedder())
    monkeypatch.setattr(registry, "find", Path)


def test_strangers_are_unknown_and_can_be_added_without_a_training(folder, tmp_path, quick, coloured, monkeypatch):
    model, more = tmp_path / "model.safetensors", tmp_path / "more.safetensors"
    done = famf("enroll", folder, "--out", model, "--fps", 10)
    known = checkpoint.open(model).card.known
    assert f"threshold {known.threshold:.3f}: 0 of 10 clips get a name with their person left out, " in done.stdout
    asked = tmp_path / "asked"
    for name, colour in (("Dee", ORANGE), ("Ann", RED)):
        (asked / name).mkdir(parents=True)
        Image.fromarray(coloured_faces.picture([(0.85 * np.array(colour), 30, 20, SIDE)], 0)).save(
            asked / name / f"{name}.png"
        )
    (asked / "broken.mp4").write_bytes(b"no video at all")
    done = famf("identify", asked, film(tmp_path / "v.mp4", "Božena", seed=9), "--model", model, "--json")
    assert done.exit_code == 1 and "broken.mp4: cannot be opened" in done.stderr and "1 of 4 files" in done.stderr
    ann, dee, film_of = json.loads(done.stdout)
    assert ann["person"] == "Ann" and film_of["person"] == "Božena" and film_of["clip"] == "v.mp4"
    assert ann["score"] > dee["score"] and len(film_of["faces"]) == 10 and ann["threshold"] == known.threshold
    between = (ann["score"] + dee["score"]) / 2
    done = famf("identify", asked / "Dee", asked / "Ann" / "Ann.png", "--model", model, "--threshold", between)
    first, second = done.stdout.splitlines()
    assert first == f"Dee.png: unknown (closest to Ann, score {dee['score']:.3f}, below {between:.3f}); 1 face"
    assert second.startswith(f"Ann.png: Ann, score {ann['score']:.3f} (at least {between:.3f}); classifier: ")

    monkeypatch.setattr(enrolment, "_train", lambda *_: pytest.fail("trained"))
    said = famf("enroll", asked, "--to", model, "--out", more).exception
    assert str(said) == "--to: it knows Ann already, expected other persons"
    (asked / "Ann" / "Ann.png").rename(tmp_path / "Ann.png")
    assert famf("enroll", asked, "--to", model, "--out", more).exit_code == 0
    done = famf("identify", asked / "Dee", tmp_path / "Ann.png", "--model", more)
    assert [line.split(", score")[0] for line in done.stdout.splitlines()] == ["Dee.png: Dee", "Ann.png: Ann"]


def test_few_faces_are_enrolled_without_a_warning(tmp_path, quick):
    for person in list(COLOURS)[:2]:
        (tmp_path / person).mkdir()
        for n in range(5):  # the same picture, so that there are fewer distinct faces than clusters
            Image.fromarray(picture(person)).save(tmp_path / person / f"{n}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = enroll(gather(tmp_path, stages()), tmp_path / "m.safetensors")
    assert made.persons == 2 and made.faces == 10


def test_a_network_for_heads_is_learnt_with_and_asked_with(folder, tmp_path, quick, coloured):
    pytest.importorskip("onnx", reason="the extra extract is not installed")
    pytest.importorskip("onnxruntime", reason="the extra extract is not installed")
    mean = ("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})
    head = network(tmp_path / "head.onnx", [mean], [("x", ["n", 3, 13, 11])], [("y", ["n", 3])])
    model, video = str(tmp_path / "model.safetensors"), str(film(tmp_path / "v.mp4", "Ann", seed=9))
    done = famf("enroll", str(folder), "--out", model, "--head", str(head))
    assert done.exit_code == 0, done.output
    assert checkpoint.open(model).card.modality_dims == {"head": 3}
    done = famf("identify", video, "--model", model, "--head", str(head))
    assert done.stdout.startswith("v.mp4: ") and "Ann" in done.stdout and "gets zeros" not in done.output, done.output
    done = famf("identify", video, "--run", model)
    assert done.exit_code == 0 and "v.mp4: head: no vector of it, so the model gets zeros" in done.output


@pytest.fixture
def model(tmp_path, made_up):
    """A saved model that knows the three, whoever is asked about."""
    card = {"persons": sorted(COLOURS), "embedder": "colours", "evaluation": {"faces": 4}}
    saved = untrained(SimpleNamespace(dim=DIM, modalities={}), modalities=(), **card)
    return checkpoint.open(checkpoint.save(tmp_path / "m.safetensors", saved.model, saved.card))


def test_the_answer_is_that_of_famf_predict(model, tmp_path):
    """The weights and probabilities are those of the same clips asked about as a ClipSet."""
    found = identify(film(tmp_path / "v.mp4", "Ann", seed=9), model, stages(), fps=10.0)
    clip = found.answers[0].clip
    table = pd.DataFrame({"name": ["v"], "person": [None], "split": [None], "group": [None]}).astype({"person": "str"})
    faces = pd.DataFrame(index=range(len(clip.faces)))
    alone = ClipSet.build(clip.faces, np.array([len(clip.faces)]), table, face_table=faces)
    (expected,) = next(iter(prediction.predict(model, alone))).to_pylist()
    assert tuple(expected["persons"][:2]) == found.answers[0].persons[:2]
    np.testing.assert_allclose(found.answers[0].weights, expected["weights"], rtol=1e-6)
    matrix = identification.attention(model, found)
    tokens = len(model.model.token_names)
    assert matrix.shape == (tokens, tokens) and np.isfinite(matrix).all()


def test_another_embedder_is_refused_before_the_video_is_looked_at(model, tmp_path):
    with pytest.raises(IdentificationError, match="embedder: SHA-256 other… found, expected colours…"):
        identify(tmp_path / "nowhere.mp4", model, stages(embedder=Embedder(checksum="other")))
    with pytest.raises(IdentificationError, match="embedder: vectors of length 5 found, expected 7"):
        identify(tmp_path / "nowhere.mp4", model, stages(embedder=Embedder(dim=5)))


def test_predict_refuses_vectors_of_another_network_too(model, made_up):
    clipset = made_up(dim=DIM, info={"embedder": "other"})
    with pytest.raises(PredictionError, match=r"faces: those of the network other… found, expected .* colours…"):
        prediction.fitting(clipset, model.card)
    assert prediction.fitting(replace(clipset, info={}), model.card)[1] == []
    assert prediction.fitting(clipset, model.card.model_copy(update={"embedder": None}))[1] == []


def test_a_run_knows_the_network_of_its_clips(made_up):
    training = TrainingConfig(epochs=1, batch_size=64)
    spec = run_store.RunSpec(model=ModelConfig(modalities=(), hidden=8), training=training, protocol="given")
    for info in ({"embedder": "sha"}, {}):
        clips = made_up(info=info, seed=len(info))
        run = run_store.get_or_train(spec, clips, torch.device("cpu"))
        assert checkpoint.open(run.file).card.embedder == info.get("embedder")


def test_a_video_without_a_face_and_no_video(model, tmp_path):
    dark = video_files.write(tmp_path / "dark.mp4", [np.zeros((64, 96, 3), np.uint8)] * 20)
    Image.new("RGB", (90, 90)).save(tmp_path / "dark.png")
    for path in (dark, tmp_path / "dark.png"):
        (answer,) = identify(path, model, stages()).answers
        assert answer.person is None and answer.persons == answer.probabilities == () and not len(answer.weights)
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
        identify(tmp_path / "m.safetensors", model, stages())


def test_the_faces_of_the_sheet_are_those_of_the_video(model, tmp_path):
    """Each picture shown is cut from the frame of its face: the colour tells the person, the light the frame."""
    lights = np.linspace(0.7, 1, 75)
    path = video_files.write(tmp_path / "v.mp4", [picture("Ann", light, 10 + n) for n, light in enumerate(lights)])
    found = identify(path, model, stages(), fps=25.0)
    answer = found.answers[0]
    faces = answer_page.chosen(answer, 7)
    assert 3 <= len(faces) <= 6 and answer.weights[faces[0]] == answer.weights.min()
    assert np.diff(np.sort(answer.clip.times[faces])).min() >= 0.5
    assert answer.weights[faces[-1]] == answer.weights.max() and (np.diff(answer.weights[faces]) >= 0).all()
    (shown,) = answer_page.crops(found.video, found.answers, 7)
    for face, cut in zip(faces, shown, strict=True):
        red = np.asarray(cut)[50:70, 40:56, 0].mean()
        assert red == pytest.approx(RED[0] * lights[answer.clip.frames[face]], abs=6)


def test_a_page_needs_nothing_else_and_escapes_names(model, tmp_path):
    path = film(tmp_path / "<b>&.mp4", "<陳>")
    found = identify(path, model, stages(), fps=5.0)
    picture_of = tmp_path / "Ann.png"
    Image.fromarray(picture("Ann")).save(picture_of)
    found = [found, identify(picture_of, model, stages())]
    page = answer_page.write(found, tmp_path / "page.html").read_text()
    assert "<陳>" not in page and "&lt;陳&gt;" in page and "<b>&.mp4" not in page
    outside = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", page)
    assert "http" not in outside and 'src=""' in outside and "a stranger can get one" in page
    assert all(f"{p:.1%}" in page for one in found for p in one.answers[0].probabilities) and "Ann.png?" in page
    one, both = (Image.open(answer_page.write(found[:n], tmp_path / f"{n}.png")) for n in (1, 2))
    assert one.width > 800 and both.height > one.height + 100


def test_where_the_answer_cannot_be_written_is_said_first(model, tmp_path):
    command = ["identify", str(tmp_path / "v.mp4"), "--model", str(tmp_path / "m.safetensors"), "--out"]
    for out, said in (("a.pdf", r"a\.pdf: ends in '\.pdf', expected \.html or \.png"), ("x.html", "a folder found")):
        (tmp_path / "x.html").mkdir(exist_ok=True)
        done = famf(*command, str(tmp_path / out))
        assert isinstance(done.exception, IdentificationError) and re.search(said, str(done.exception))


def test_actors_are_enrolled_by_pictures_and_found_in_a_video(tmp_path, monkeypatch):
    """From crops of IMFDB: six persons by three pictures each, and a video made of a fourth one of two of them."""
    film_faces.needed()
    monkeypatch.setattr(enrolment, "STEPS", 120)
    persons = list(film_faces.faces())[:6]
    for person in persons:
        (tmp_path / "known" / person).mkdir(parents=True)
        for n, face in enumerate(film_faces.faces()[person][:3]):
            face.save(tmp_path / "known" / person / f"{n}.png")
    model = tmp_path / "model.safetensors"
    done = famf("enroll", str(tmp_path / "known"), "--out", str(model))
    assert done.exit_code == 0 and "6 persons" in done.output, done.output
    card = checkpoint.open(model).card
    assert card.embedder == registry.checksum(registry.find("mobilefacenet128"))
    last = {person: of[3:4] for person, of in film_faces.faces().items()}
    monkeypatch.setattr(film_faces, "faces", lambda: last)
    video = film_faces.video(tmp_path / "v.mp4", persons[2:4], seconds=1.2)
    page = tmp_path / "page.html"
    command = ["identify", str(video), "--run", str(model), "--tracks", "all", "--fps", "4", "--out", str(page)]
    done = famf(*command)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith(f"v.mp4: {persons[2]}, ") and second.startswith(f"v.mp4#2: {persons[3]}, ")
    assert "data:image/svg+xml" in page.read_text()
