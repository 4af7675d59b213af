import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imfdb_files import GOOD, World, line, vector

from famf_lib.data import imfdb
from famf_lib.data.imfdb import ImfdbError
from famf_lib.data.splits import split


def contents(clipset) -> dict[str, list[str]]:
    paths = clipset.face_columns()["path"].tolist()
    bounds = clipset.offsets.tolist()
    return {name: paths[a:b] for name, a, b in zip(clipset.clips["name"], bounds, bounds[1:], strict=False)}


@pytest.fixture(scope="module")
def faulty() -> tuple[World, dict[str, str]]:
    """A made-up IMFDB with every known fault, and the paths that the tests speak of."""
    world, path = World(), {}

    # One film in two folders, its video spelt in two ways; a gap of 100 frames stays, one of 101 cuts.
    world.film("Asha", "Habba_1", [10, 20, 30], "Habba_1999__Full_Movie")
    world.film("Asha", "Habba_2", [40, 140, 241], "Habba_1999_FullMovie")
    # Two names of one film, told by a picture that lies in both. Misc mixes films.
    world.film("Asha", "Narasimham", [1, 2, 3], "N")
    world.film("Asha", "Padayottam", [1, 4, 5], "N")
    path["original"], path["copy"] = (
        f"IMFDB_final/Asha/{film}/images/Asha_1.jpg" for film in ("Narasimham", "Padayottam")
    )
    world.files[path["copy"]] = world.files[path["original"]]
    world.film("Asha", "Misc", [1, 2, 3], "Misc")

    # A list of the short form: no tabs, no labels, blanks in the video, another name. A folder named after the person.
    names = [f"Birju_{n}.jpg" for n in (1, 2, 3)]
    world.tell("Birju", "Dil", *(f"Dil - CD1 0{7 + n} {x}" for n, x in enumerate(names)), name="other")
    world.tell("Birju", "Dil", *(f"Dil - CD1 00{7 + n}.jpg {x} 2 3 13 17" for n, x in enumerate(names)), name="Birju")
    for name in names:
        world.show("Birju", "Dil", name)
    world.film("Birju", "birju", [1, 2, 3])
    world.film("Asha", "Dil", [501, 502, 503])  # the folder of another person, its numbers and sizes the same
    # A folder with the list of another one: its boxes have other sizes than its pictures.
    for n in (1, 2, 3):
        world.show("Birju", "Barood", f"Birju_{n}.jpg")
    for_others = zip([(11, 17), (13, 19), (19, 11)], (1, 2, 3), strict=True)
    world.tell("Birju", "Barood", *(line("GaramMasala", n, f"Birju_{n}.jpg", size=size) for size, n in for_others))

    # Frames that stand in the name of the video, or in one field with it.
    rest = "2\t3\t13\t17\tFilm\t2009\tChandra\t" + GOOD.replace(" ", "\t")
    world.tell(
        "Chandra",
        "3Idiots",
        f"3Idiots_frame_100120\t246386.jpg\tChandra_1.jpg\t{rest}",
        f"3Idiots 100150.jpg\tChandra_2.jpg\t{rest}",
        f"3Idiots _frame_100130.jpg\tChandra_3.jpg\t{rest}",
    )
    world.tell("Chandra", "kella", *(f"image_{n}0_of\t999.png\tChandra_{n}.jpg\t{rest}" for n in (1, 2, 3)))
    for film in ("3Idiots", "kella"):
        for n in (1, 2, 3):
            world.show("Chandra", film, f"Chandra_{n}.jpg")

    # Lines and labels in every kind of disorder.
    lines = {
        1: line("v", 1, "Devi_1.jpg", "FEMALE ANGER GLASSES MEDIUM OLD RIGHT PARTIAL"),
        2: line("v", 2, "Devi_2.jpg", "FEMALE").replace("FEMALE", "FEMALE\tANGER NONE\tMEDIUM\tYOUNG FRONTAL\tOVER"),
        3: line("v", 3, "Devi_3.jpg", "FEMALE FEAR HAIR HIGH MIDDDLE UP PARTIA"),
        4: line("v", 4, "Devi_4.jpg", "MALE ANGER GLASSES BAD CHILD FRONTAL PARTIAL", middle="Phool\t19-02-2013\tB"),
        5: line("v", 5, "Devi_5.jpg", "FEMALE FEAR HAIR BAD OLD UP OVER") + "\t",
        6: line("v", 6, "Devi_6.jpg", "FEMALE FEAR HAIR BAD OLD UP OVER"),
        7: line("v", 7, "Devi_7.jpg", "FEMALE FEAR HAIR BAD OLD UP OVER"),
        8: line("v", 8, "Devi_8.jpg"),
    }
    others = [
        line("v", 5, "Devi_5.jpg", "FEMALE FEAR HAND BAD OLD DOWN OVER"),  # agrees on the place, not on every label
        line("v", 60, "Devi_6.jpg", "FEMALE FEAR HAIR BAD OLD UP OVER"),  # disagrees on the place
        line("v", 9, "Devi_99.jpg"),  # no such picture
        "null\tnull\tnull\tnull\tnull\tnull\tnull\tFilm\t1999\tDevi\t" + GOOD.replace(" ", "\t"),
        "92\t89\t13\t17\tv\t00023.jpg\tDevi_8.jpg\tFilm\t1999\tDevi\t" + GOOD.replace(" ", "\t"),
    ]
    head, tail = "\ufeff".encode(), b"\0" * 20 + b"\tPARTIAL\t\r\n"
    world.tell("Devi", "Nayak", *lines.values(), *others, head=head, tail=tail)
    for n in (1, 2, 3, 4, 5, 6):
        path[f"devi {n}"] = world.show("Devi", "Nayak", f"Devi_{n}.jpg")
    path["misspelt"] = world.show("Devi", "Nayak", "Devy_7.jpeg")
    path["broken"] = world.show("Devi", "Nayak", "Devi_8.jpg", content=b"no picture")
    path["no line"] = world.show("Devi", "Nayak", "Devi_55.jpg")
    path["no embedding"] = world.film("Devi", "extras_Malla", [1, 2, 3, 4])[3]
    path["unaligned"] = "IMFDB_final/Devi/extras_Malla/images/Devi_1.jpg"
    world.files["IMFDB_final/.DS_Store"] = world.files["IMFDB_final/Asha/Misc/images/.DS_Store"] = b"\0\1"
    return world, path


@pytest.fixture(scope="module")
def faulty_files(faulty, tmp_path_factory):
    """The archive and its embeddings: one missing, one of no picture, one not aligned."""
    world, path = faulty
    folder = tmp_path_factory.mktemp("faulty")
    lost, more = [path["no embedding"]], ["IMFDB_final/Nobody/Nothing/images/N_1.jpg"]
    embeddings = world.embeddings(folder, leave_out=lost, add=more, scores={path["unaligned"]: 0.3})
    return world.archive(folder), embeddings


@pytest.fixture(scope="module")
def cleaned(faulty_files):
    return imfdb.build(*faulty_files)


def numbers(paths: list[str]) -> list[str]:
    """Folder and number, enough to tell a picture of one person."""
    return [f"{p.split('/')[2]} {p.rsplit('_', 1)[1].split('.')[0]}" for p in paths]


def test_clips_films_and_order(cleaned):
    found = {name: numbers(paths) for name, paths in contents(cleaned).items()}
    assert found == {
        "Asha/dil/video/000501": ["Dil 1", "Dil 2", "Dil 3"],
        "Asha/habba/habba1999fullmovie/000010": ["Habba_1 1", "Habba_1 2", "Habba_1 3", "Habba_2 1", "Habba_2 2"],
        "Asha/misc/misc/000001": ["Misc 1", "Misc 2", "Misc 3"],
        "Asha/narasimham/n/000001": [f"Narasimham {n}" for n in (1, 2, 3)] + ["Padayottam 2", "Padayottam 3"],
        "Birju/birju/video/000001": ["birju 1", "birju 2", "birju 3"],
        "Birju/dil/dilcd1/000007": ["Dil 1", "Dil 2", "Dil 3"],
        "Chandra/3idiots/3idiots/100120": ["3Idiots 1", "3Idiots 3", "3Idiots 2"],
        "Chandra/kella/kella/000010": ["kella 1", "kella 2", "kella 3"],
        "Devi/malla/video/000001": [f"extras_Malla {n}" for n in (1, 2, 3)],
        "Devi/nayak/v/000001": [f"Nayak {n}" for n in (1, 2, 3, 4, 5, 7)],
    }
    groups = cleaned.clips.set_index("name")["group"]
    assert groups[groups.isna()].index.tolist() == ["Asha/misc/misc/000001", "Birju/birju/video/000001"]
    assert groups["Asha/narasimham/n/000001"] == "narasimham" and groups["Devi/malla/video/000001"] == "malla"
    assert cleaned.clips["split"].isna().all()
    genders = cleaned.clips.groupby("person")["gender"].first()
    assert genders.to_dict() == dict.fromkeys(["Asha", "Birju", "Chandra"], "MALE") | {"Devi": "FEMALE"}


def test_every_face_has_its_own_vector_and_place(faulty, cleaned):
    path, faces = faulty[1], cleaned.face_columns()
    expected = np.stack([vector(p) for p in faces["path"]])
    np.testing.assert_array_equal(cleaned.faces.numpy(), expected)
    np.testing.assert_allclose(faces["quality"], np.linalg.norm(expected.astype(float), axis=1), rtol=1e-6)
    assert (faces[["x1", "y1", "x2", "y2", "width", "height"]].to_numpy() == [2, 3, 15, 20, 13, 17]).all()
    assert faces.set_index("path")["aligned"].to_dict() == {p: p != path["unaligned"] for p in faces["path"]}
    assert faces["det_score"].between(0.29, 0.91).all()
    frames = faces.set_index("path")["frame"]
    assert frames["IMFDB_final/Chandra/3Idiots/images/Chandra_2.jpg"] == 100150
    assert frames["IMFDB_final/Chandra/kella/images/Chandra_2.jpg"] == 20


def test_labels_are_kept_only_where_they_can_be_trusted(faulty, cleaned):
    path = faulty[1]
    columns = ["expression", "occlusion", "illumination", "age", "pose", "makeup"]
    faces = cleaned.face_columns().set_index("path")[columns]
    told = {p: [None if pd.isna(v) else v for v in row] for p, row in zip(faces.index, faces.to_numpy(), strict=True)}
    assert told[path["devi 1"]] == ["ANGER", "GLASSES", "MEDIUM", "OLD", "RIGHT", "PARTIAL"]
    assert told[path["devi 2"]] == ["ANGER", "NONE", "MEDIUM", "YOUNG", "FRONTAL", "OVER"]  # shifted: told by the words
    assert told[path["devi 3"]] == ["FEAR", "HAIR", "HIGH", None, "UP", None]  # misspelt
    assert told[path["devi 4"]] == [None] * 6  # never chosen
    assert told[path["devi 5"]] == ["FEAR", None, "BAD", "OLD", None, "OVER"]  # two lines contradict each other
    assert told[path["misspelt"]] == ["FEAR", "HAIR", "BAD", "OLD", "UP", "OVER"]
    assert told["IMFDB_final/Birju/Dil/images/Birju_1.jpg"] == [None] * 6  # the short form has none
    for column in columns:
        assert set(faces[column].dropna()) <= set(imfdb.LABELS[column])


def test_what_was_done_is_counted(cleaned):
    cleaning = cleaned.info["cleaning"]
    assert cleaning == {
        "pictures": 46,
        "persons": 4,
        "folders (a person in a film)": 13,
        "pictures that cannot be opened": 1,
        "pictures that are an exact copy of another": 1,
        "lines": 54,
        "lines ignored: no picture, frame and box in them": 6,
        "lines whose labels were never chosen": 1,
        "labels that are no word of their vocabulary": 2,
        "folders joined with another of the same film": 1,
        "films joined with another because they share pictures": 1,
        "lines ignored: their picture is not there": 1,
        "lines refused: the box is not of the picture's size": 4,
        "pictures dropped: no line tells their place": 5,
        "pictures dropped: their lines name different places": 1,
        "labels dropped: the lines of a picture contradict each other": 2,
        "pictures dropped: no embedding": 1,
        "embeddings without a picture": 1,
        "pictures dropped: exact copy of another": 1,
        "faces in no clip: too few near them": 1,
        "faces kept although embedded without alignment (O-Net 0.3 or less)": 1,
        "clips without a known film (in no films-disjoint split)": 2,
    }
    lost = sum(n for text, n in cleaning.items() if text.startswith(("pictures dropped", "faces in no clip")))
    assert cleaning["pictures"] == len(cleaned.faces) + lost


def test_archive_and_folder_give_the_same(faulty, faulty_files, cleaned, tmp_path):
    from_folder = imfdb.build(faulty[0].folder(tmp_path), faulty_files[1])
    assert cleaned.fingerprint == from_folder.fingerprint
    pd.testing.assert_frame_equal(cleaned.face_columns(), from_folder.face_columns())
    assert cleaned.info == from_folder.info
    opened = imfdb.ClipSet.open(cleaned.save(tmp_path / "clipset"))
    assert opened.info == cleaned.info and opened.clips["group"].isna().sum() == 2


@given(
    frames=st.lists(st.integers(0, 60), min_size=1, max_size=25),
    videos=st.lists(st.integers(0, 2), min_size=25, max_size=25),
    max_gap=st.integers(0, 9),
    min_faces=st.integers(1, 4),
)
def test_clips_are_cut_as_a_plain_loop_does_it(frames, videos, max_gap, min_faces):
    rows = [("p", "f", str(v), f, f"{i:03d}") for i, (f, v) in enumerate(zip(frames, videos, strict=False))]
    faces = pd.DataFrame(rows, columns=["person", "film", "video", "frame", "path"])
    cut = imfdb._clips(faces, max_gap, min_faces, counts := {})

    expected, running = [], []
    for row in sorted(rows):
        if running and (row[2] != running[-1][2] or row[3] - running[-1][3] > max_gap):
            expected.append(running)
            running = []
        running.append(row)
    expected = [[row[4] for row in clip] for clip in [*expected, running] if len(clip) >= min_faces]
    assert [group["path"].tolist() for _, group in cut.groupby("clip")] == expected
    assert sum(counts.values()) == len(rows) - sum(map(len, expected))


def test_pictures_are_read_in_one_pass(faulty, faulty_files, tmp_path):
    world, path = faulty
    wanted = {path["original"], path["misspelt"]}
    for source in (faulty_files[0], world.folder(tmp_path)):
        assert imfdb.pictures(source, wanted) == {p: world.files[p] for p in wanted}
        with pytest.raises(ImfdbError, match="Devi_0.jpg is not in it, one of 1 pictures missing of 3"):
            imfdb.pictures(source, wanted | {"IMFDB_final/Devi/Nayak/images/Devi_0.jpg"})


def test_nothing_is_written_wherever_a_path_points(tmp_path):
    world = World()
    world.film("Asha", "Dil", [1, 2, 3])
    world.files["IMFDB_final/../../escaped.txt"] = world.files["/tmp/../escaped.jpg"] = b"out"
    source, embeddings = world.archive(tmp_path), world.embeddings(tmp_path)
    before = sorted(p.name for p in tmp_path.parent.rglob("*"))
    assert len(imfdb.build(source, embeddings)) == 1
    assert sorted(p.name for p in tmp_path.parent.rglob("*")) == before


@pytest.fixture
def small(tmp_path) -> tuple[World, Path, Path]:
    world = World()
    world.film("Asha", "Dil", [1, 2, 3, 4])
    return world, world.archive(tmp_path), world.embeddings(tmp_path)


def refused(source: Path, embeddings: Path) -> str:
    with pytest.raises(ImfdbError) as error:
        imfdb.build(source, embeddings)
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: None, "there is no such file"),
        (lambda content: b"plain text, no archive", "cannot be read as a .tar.gz archive"),
        (lambda content: content[: len(content) // 100], "too early"),
        (lambda content: content[: len(content) * 3 // 5], "too early"),
        (lambda content: content[:-1], "too early"),
        (lambda content: content[:-6] + bytes(6), "cannot be read"),  # the checksum
    ],
)
def test_an_archive_that_cannot_be_read(small, change, sentence):
    _, source, embeddings = small
    content = change(source.read_bytes())
    source.unlink() if content is None else source.write_bytes(content)
    assert sentence in refused(source, embeddings)


def test_an_archive_of_something_else(small, tmp_path):
    world, source, embeddings = small
    assert "no clip of 3 faces" in refused(source, world.embeddings(tmp_path, leave_out=world.pictures[:2]))
    world.files = {path: content for path, content in world.files.items() if not path.endswith(".txt")}
    assert "no list describes the pictures" in refused(world.archive(tmp_path), embeddings)
    world.files = {"photos/me.jpg": b"x", "IMFDB_final/readme.txt": b"x"}
    assert "there is no picture at IMFDB_final/" in refused(world.archive(tmp_path), embeddings)
    assert "there is no picture at IMFDB_final/" in refused(tmp_path, embeddings)


PATHS = [f"IMFDB_final/Asha/Dil/images/Asha_{n}.jpg" for n in (1, 2, 3, 4)]
FINE = {"path": np.array(PATHS), "embedding": np.ones((4, 7), np.float16), "onet_probability": np.full(4, 0.9, "f4")}


def scaled(*factors):
    return {"embedding": np.ones((4, 7)) * np.array(factors)[:, None]}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"onet_probability": None}, "onet_probability is missing, found path, embedding, expected"),
        ({"embedding": np.ones((3, 7))}, r"the shape of embedding is \(3, 7\), expected \(4, D\)"),
        ({"embedding": np.ones((4, 7), int)}, "embedding is int64, expected floats"),
        ({"path": np.array([*PATHS[:3], PATHS[0]])}, "path holds .*Asha_1.jpg twice"),
        ({"path": np.char.lower(PATHS)}, "path holds no picture of .*, expected paths such as IMFDB_final/Asha"),
        (scaled(1, 1, np.nan, 1), "Asha_3.jpg has nan as its largest"),
        (scaled(1, 1, 1e-9, 1), r"Asha_3.jpg has 1e-09 .*, expected numbers within"),
        (scaled(1, 1, 1, 7e4), r"Asha_4.jpg has 7e\+04 .*, expected numbers within"),
        ({"onet_probability": np.array([1, 1, 1, np.inf])}, "onet_probability of .*Asha_4.jpg is not finite"),
    ],
)
def test_bad_embeddings(small, changed, sentence):
    _, source, embeddings = small
    np.savez(embeddings, **FINE)
    imfdb.build(source, embeddings)  # so that only the change is at fault
    np.savez(embeddings, **{k: v for k, v in (FINE | changed).items() if v is not None})
    with pytest.raises(ImfdbError, match=sentence) as error:
        imfdb.build(source, embeddings)
    assert str(embeddings) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "imfdb"


def test_absence_says_what_is_missing_and_where_it_was_looked_for(small, home):
    world, source, embeddings = small
    both = imfdb.absence()
    assert "IMFDB_final.tar.gz" in both and "mobilefacenet128.npz" in both and str(home) in both and "README" in both
    home.mkdir(parents=True)
    source.rename(home / source.name)
    assert "IMFDB_final.tar.gz" not in imfdb.absence()
    with pytest.raises(ImfdbError, match="mobilefacenet128.npz"):
        imfdb.make("quick")
    embeddings.rename(home / "mine.npz")  # a file of another name will do, while it is the only one
    assert imfdb.absence() is None and len(imfdb.make("quick")) == 1
    (home / "yours.npz").write_bytes((home / "mine.npz").read_bytes())
    assert imfdb.absence() is not None
    (home / "yours.npz").rename(home / imfdb.EMBEDDINGS)
    assert imfdb.absence() is None


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_key_changes_with_the_files_and_not_with_the_profile(small, home, kind):
    world, *_ = small
    home.mkdir(parents=True)
    getattr(world, kind)(home)
    embeddings = world.embeddings(home)
    key = imfdb.key("quick")
    assert key == imfdb.key("paper") and len(key) == 16
    os.utime(embeddings, (0, 0))
    assert imfdb.key("quick") == key
    world.embeddings(home, scores={world.pictures[0]: 0.1})
    other = imfdb.key("quick")
    assert other != key
    world.film("Asha", "Nayak", [1, 2, 3])
    getattr(world, kind)(home)
    assert imfdb.key("quick") not in (key, other)


def test_published_counts_and_disjoint_films(real_imfdb):
    cleaning = real_imfdb.info["cleaning"]
    assert cleaning["pictures"] == 34390 and cleaning["persons"] == 100
    assert cleaning["folders (a person in a film)"] == 406
    assert cleaning["pictures that are an exact copy of another"] == 271
    assert cleaning["pictures dropped: no embedding"] == cleaning["embeddings without a picture"] == 0
    # As data/README.md says: what the cleaning makes of it.
    assert (len(real_imfdb), len(real_imfdb.persons), len(real_imfdb.faces)) == (2412, 100, 28235)
    assert (int(real_imfdb.counts.min()), int(real_imfdb.counts.median()), int(real_imfdb.counts.max())) == (3, 7, 184)
    lost = sum(n for text, n in cleaning.items() if text.startswith(("pictures dropped", "faces in no clip")))
    assert len(real_imfdb.faces) + lost == cleaning["pictures"]
    films = (real_imfdb.clips["person"] + "/" + real_imfdb.clips["group"]).to_numpy(dtype=object)
    for seed, part in [(0, "tune"), *((seed, "report") for seed in range(3))]:
        dealt = split(real_imfdb, "groups", seed, part)
        assert len(dealt.persons) == 90
        assert not set(films[dealt.train.numpy()]) & set(films[dealt.gallery.numpy()])


def test_nearest_neighbours_know_the_person(real_imfdb):
    """Vectors, clips and persons belong together: 5 nearest clips of others films or not, as published (.897, .67)."""
    owner = np.repeat(np.arange(len(real_imfdb)), real_imfdb.counts.numpy())
    sums = np.zeros((len(real_imfdb), real_imfdb.dim), np.float32)
    np.add.at(sums, owner, real_imfdb.faces.numpy().astype(np.float32))
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    labels, film = real_imfdb.labels.numpy(), real_imfdb.clips["group"].to_numpy(dtype=object)
    person_film = pd.factorize(real_imfdb.clips["person"] + real_imfdb.clips["group"].fillna("?"))[0]

    def right(excluded: np.ndarray, asked: np.ndarray) -> float:
        nearest = np.argsort(np.where(excluded, -2, sums @ sums.T), axis=1)[:, -1:-6:-1]
        votes = [pd.Series(labels[row]).value_counts(sort=False) for row in nearest[asked]]
        return float(np.mean([v.idxmax() == own for v, own in zip(votes, labels[asked], strict=True)]))

    everybody = np.ones(len(real_imfdb), bool)
    assert right(np.eye(len(real_imfdb), dtype=bool), everybody) == pytest.approx(0.893, abs=0.005)
    films = real_imfdb.clips.groupby("person")["group"].transform("nunique").to_numpy()
    unknown = pd.isna(film)
    same = (person_film[:, None] == person_film) | ((labels[:, None] == labels) & unknown[None])
    assert right(same, (films > 1) & ~unknown) == pytest.approx(0.662, abs=0.005)
