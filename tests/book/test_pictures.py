import base64
import re
from io import BytesIO
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from imfdb_files import World, picture
from PIL import Image

from famf_book import pictures, portraits
from famf_book.pictures import PIXELS, Strip, faces_of, fitted, light, sheet
from famf_lib.data import imfdb, synthetic
from famf_lib.data.clipset import ClipSet


def as_bytes(images) -> list[bytes]:
    return [image.tobytes() for image in images]


def small(person: list, counts: list[int], own: list[bool]) -> ClipSet:
    """Clips of these persons; their faces differ in the generator's variables."""
    total, rng = sum(counts), np.random.default_rng(5)
    faces = pd.DataFrame(rng.random((total, 4)), columns=["blur", "darkness", "occlusion", "size"])
    clips = pd.DataFrame({"name": [f"clip {i}" for i in range(len(counts))], "person": person})
    faces = faces.assign(yaw=rng.uniform(-90, 90, total), own=own)
    clips = clips.assign(split="train", group="programme")
    return ClipSet.build(rng.normal(size=(total, 3)), np.array(counts), clips, face_table=faces)


def test_a_synthetic_face_is_drawn_with_its_own_numbers():
    clipset = small(["ann", None, "bob", None], [2, 1, 3, 2], [True, False, True, True, True, False, False, False])
    faces = clipset.face_columns()

    def expected(row: int, who: str) -> bytes:
        return portraits.portrait(who, **faces.loc[row, pictures.LATENTS]).tobytes()

    rows = [7, 0, 4, 3, 2]  # in any order
    found = as_bytes(faces_of("synthetic", clipset, rows))
    assert found[1] == expected(0, "ann") and found[2] == expected(4, "bob") and found[3] == expected(3, "bob")
    assert found[4] == expected(2, "clip 1")  # a stranger, who is the same in all of the noise clip
    # Somebody else: not the person, and in a noise clip somebody else each time.
    beside, nobody = faces_of("synthetic", clipset, [1, 5]), faces_of("synthetic", clipset, [6, 7])
    assert as_bytes(beside)[0] != expected(1, "ann") and as_bytes(beside)[1] != expected(5, "bob")
    assert as_bytes(nobody) == [expected(6, "clip 3, face 6"), expected(7, "clip 3, face 7")]


def test_no_rows_no_pictures_and_every_face_of_the_generator_can_be_drawn():
    clipset = synthetic.make("quick")
    assert faces_of("synthetic", clipset, []) == []
    extremes = clipset.face_columns()[pictures.LATENTS].agg(["idxmin", "idxmax"]).to_numpy().ravel()
    assert {image.size for image in faces_of("synthetic", clipset, extremes)} == {PIXELS}


@pytest.fixture
def made_up_films(tmp_path, monkeypatch) -> tuple[World, ClipSet]:
    world = World()
    world.film("Asha", "Dil", [1, 2, 3])
    world.film("Birju", "Nayak", [4, 5, 6])
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    (tmp_path / "imfdb").mkdir()
    return world, imfdb.build(world.archive(tmp_path / "imfdb"), world.embeddings(tmp_path / "imfdb"))


def test_a_real_face_has_its_own_picture_or_a_sentence_says_why_there_is_none(made_up_films, tmp_path):
    world, clipset = made_up_films
    paths = clipset.face_columns()["path"]
    rows = [4, 0, 2, 0]
    expected = [fitted(Image.open(BytesIO(world.files[paths[row]]))) for row in rows]
    assert as_bytes(faces_of("imfdb", clipset, rows)) == as_bytes(expected)
    assert faces_of("imfdb", clipset, []) == []
    _, clipset = made_up_films
    assert pictures.absence("imfdb") is None and pictures.absence("synthetic") is None
    (tmp_path / "imfdb" / imfdb.ARCHIVE).unlink()
    assert faces_of("imfdb", clipset, [0]) is None
    assert "not found" in pictures.absence("imfdb")


@pytest.mark.parametrize("size", [(8, 11), (96, 120), (300, 90), (50, 400)])
def test_a_picture_is_cropped_around_its_centre(size):
    """A small one is enlarged without new values."""
    whole = Image.open(BytesIO(picture(3, size)))
    cut = fitted(whole)
    assert cut.size == PIXELS and cut.mode == "RGB"
    if size[1] < PIXELS[1]:
        colours = {c for _, c in whole.convert("RGB").getcolors(1 << 20)}
        assert {c for _, c in cut.getcolors(1 << 20)} <= colours
    half = Image.new("RGB", (400, 200), "red")
    half.paste("blue", (200, 0, 400, 200))
    middle = np.asarray(fitted(half))
    assert (middle[:, 10] == [255, 0, 0]).all() and (middle[:, -10] == [0, 0, 255]).all()


def bare(**columns) -> ClipSet:
    clips = pd.DataFrame({"name": ["one", "two"], "person": ["ann", "bob"], "split": None, "group": None})
    return ClipSet.build(np.ones((3, 5)), np.array([2, 1]), clips, face_table=pd.DataFrame(columns, index=range(3)))


def test_a_face_without_a_picture_has_a_card(monkeypatch):
    monkeypatch.setattr(pictures, "absence", lambda dataset: None)
    frames = {"frame": [7, 11, 13], "y1": [1.0, 2.5, 3.0], "y2": [48.0, np.nan, 20.0], "quality": [-10.25, 90, np.nan]}
    clipset = bare(**frames, x1=0.0, x2=1.0, path="a.jpg")  # a path that is not of IMFDB
    cards = ["frame 13\n17 px high", "frame 7\n47 px high\nquality −10.2", "frame 11\nquality 90"]
    assert faces_of("mine", clipset, [2, 0, 1]) == cards
    assert faces_of("mine", bare(), [0]) == [""] and faces_of("mine", clipset, []) == []
    told = pictures.origin("mine", clipset, [1, 0])
    assert "no pictures" in told and told.endswith("from top to bottom, `two`, `one`.")
    assert "IMFDB" in pictures.origin("imfdb", clipset) and "clips" not in pictures.origin("mine", clipset)


def test_cards_are_placed_like_pictures():
    figure = sheet([Strip("a", ["frame 7\nquality 90"] * 3, ["1", "2", "3"])])
    assert words(figure) == ["a", *("frame 7\nquality 90", "1", "frame 7\nquality 90", "2", "frame 7\nquality 90", "3")]
    cards = figure.axes[0].patches
    assert not figure.axes[0].images and len(cards) == 3
    beside = sheet([Strip("a", FACES[:3], ["1", "2", "3"])]).axes[0].images
    assert [card.get_x() for card in cards] == pytest.approx([image.get_extent()[0] for image in beside])
    assert "<image" not in light(figure).data


FACES = [Image.new("RGB", PIXELS, (7 * n, 90, 130)) for n in range(31)]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_a_sheet_shows_what_fits_and_counts_the_rest():
    figure = sheet([Strip("a", FACES, [f"{n}" for n in range(31)]), Strip("b", FACES[:5])], columns=3, lines=2)
    assert words(figure) == ["a", *"012345", "+ 25", "b"]
    images = figure.axes[0].images
    assert len(images) == 6 + 5
    places = np.array([image.get_extent() for image in images])  # left, right, bottom, top; y runs down
    lefts, tops = places[:, 0], places[:, 3]
    assert len(set(lefts.round(6))) == 3 and len(set(tops.round(6))) == 4
    wide, high = figure.get_size_inches()
    assert (places[:, :2] >= 0).all() and (places[:, 1] <= wide).all() and (places[:, 2] <= high).all()
    for a, b in combinations(places, 2):  # no pictures overlap
        assert a[0] >= b[1] or b[0] >= a[1] or a[3] >= b[2] or b[3] >= a[2]
    assert "+ 99,994" in words(sheet([Strip("many", FACES, total=100_000)]))


@pytest.mark.parametrize(("count", "columns"), [(0, 8), (1, 1), (1, 40), (31, 1), (31, 8), (31, 40)])
def test_nothing_is_cut_off(count, columns):
    strips = [Strip("in weak light", FACES[:count], ["0.50"] * count, note="19.8% of the faces", total=16_341)] * 2
    figure = sheet(strips, columns)
    figure.canvas.draw()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1


def test_bad_arguments_are_an_error():
    with pytest.raises(ValueError, match="'imdb' is not known"):
        faces_of("imdb", small(["ann"], [1], [True]), [0])
    for options in ({"columns": 0}, {"lines": 0}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            sheet([Strip("a", FACES)], **options)
    with pytest.raises(ValueError, match="'a': found 2 texts for 3 pictures"):
        sheet([Strip("a", FACES[:3], ["1", "2"])])


def test_the_page_gets_small_jpegs_of_the_same_pictures():
    drawn = [portraits.portrait(f"person {n}") for n in range(5)]
    svg = light(sheet([Strip("faces", drawn)], columns=5)).data
    embedded = re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", svg)
    assert [kind for kind, _ in embedded] == ["jpeg"] * 5 and len(svg) < 60_000
    for original, (_, data) in zip(drawn, embedded, strict=True):
        again = np.asarray(Image.open(BytesIO(base64.b64decode(data))), dtype=float)
        assert again.shape == (PIXELS[1], PIXELS[0], 3)
        upright = min(np.abs(again - original).mean(), np.abs(again[::-1] - original).mean())
        assert upright < 8
    assert not plt.get_fignums()
