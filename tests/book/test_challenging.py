"""The challenging cases: kinds by hand, the comparison for known norms, and the executed page."""

import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from scipy import signal

from famf_book import challenging, notebooks, portraits
from famf_book.challenging import CLEAR, KINDS
from famf_lib.data import datasets, imfdb
from famf_lib.data.clipset import ClipSet
from famf_lib.support.files import ROOT

PAGE = ROOT / "book" / "challenging-cases.ipynb"
GOOD = {"occlusion": 0.1, "darkness": 0.2, "blur": 0.2, "yaw": -20.0, "height": 100.0}


def made(faces: list[dict], person=None, counts=None, norms=None, own=True) -> ClipSet:
    """Synthetic faces with these variables, in one clip or in several."""
    table = pd.DataFrame([GOOD | face for face in faces], columns=list(GOOD), dtype=float)
    table = table.assign(x1=0.0, x2=80.0, y1=10.0, y2=10.0 + table.pop("height"), size=0.5, own=own)
    counts = [len(faces)] if counts is None else counts
    person = ["ann"] * len(counts) if person is None else person
    clips = pd.DataFrame({"name": [f"clip {i}" for i in range(len(counts))], "person": person})
    vectors = np.zeros((len(faces), 3))
    vectors[:, 1] = -np.array(norms if norms is not None else [1.0] * len(faces))
    return ClipSet.build(vectors, np.array(counts), clips.assign(split="train", group=None), face_table=table)


def real(faces: list[tuple], heights: list[float]) -> ClipSet:
    """Faces with labels of the dataset: occlusion, illumination, pose."""
    table = pd.DataFrame(faces, columns=["occlusion", "illumination", "pose"])
    table = table.assign(path=[f"{n}.jpg" for n in range(len(faces))], y1=0.0, y2=heights)
    clips = pd.DataFrame({"name": ["clip"], "person": ["ann"], "split": None, "group": None})
    return ClipSet.build(np.ones((len(faces), 3)), np.array([len(faces)]), clips, face_table=table)


def of(table: pd.DataFrame, row: int) -> set[str]:
    return {kind for kind in table if table[kind].fillna(False)[row]}


def test_kinds_of_synthetic_faces():
    faces = [
        ({}, {CLEAR}),
        ({"occlusion": 0.36}, {"occlusion"}),
        ({"occlusion": 0.3}, set()),  # neither occluded nor clear
        ({"darkness": 0.51, "blur": 0.51}, {"light", "blur"}),
        ({"yaw": -46.0}, {"pose"}),
        ({"yaw": 46.0, "height": 39.0}, {"pose", "small"}),
        ({"height": 79.0}, set()),
    ]
    table = challenging.kinds(made([face for face, _ in faces]))
    assert [of(table, row) for row in range(len(faces))] == [expected for _, expected in faces]
    assert not table.isna().any().any() and list(table) == [*KINDS, CLEAR]
    only = challenging.alone(table)
    assert [of(only, row) for row in range(len(faces))] == [
        expected if len(expected) == 1 else set() for _, expected in faces
    ]


def test_kinds_of_labelled_faces():
    good = ("NONE", "MEDIUM", "FRONTAL")
    faces = [good, ("GLASSES", "HIGH", "FRONTAL"), ("NONE", "BAD", "LEFT"), (None, "HIGH", "UP"), good, good, good]
    heights = [100, 100, 100, 100, 39, 60, 80]
    sharpness = np.array([0.5, 0.6, 0.7, 0.8, np.nan, np.nan, 0.1])
    table = challenging.kinds(real(faces, heights), sharpness)
    expected = [{CLEAR}, {"occlusion"}, {"light", "pose"}, {"pose"}, {"small"}, set(), {"blur"}]
    assert [of(table, row) for row in range(7)] == expected
    unknown = table.isna()
    assert unknown["occlusion"].tolist() == [False] * 3 + [True] + [False] * 3
    assert unknown["blur"].tolist() == [False] * 4 + [True, True, False]
    assert not unknown[["light", "small", "pose", CLEAR]].any().any()
    with pytest.raises(ValueError, match="^sharpness: "):
        challenging.kinds(real(faces, heights))


def unlabelled(**columns) -> ClipSet:
    faces = len(next(iter(columns.values())))
    clips = pd.DataFrame({"name": ["clip"], "person": ["ann"], "split": None, "group": None})
    return ClipSet.build(np.ones((faces, 3)), np.array([faces]), clips, face_table=pd.DataFrame(columns))


def test_kinds_of_faces_with_boxes_and_scores():
    heights = [39.5, 40, 79, 80, 200, 200, np.nan, 200, 200, 30, 200]
    scores = [50, 51, 52, 90, 53, -10, 91, np.nan, 92, 93, 94]
    clipset = unlabelled(y1=np.full(11, 7.0), y2=7 + np.array(heights), quality=scores, path="a")
    assert challenging.told_by(clipset.face_columns()) == "scores"
    table = challenging.kinds(clipset)
    assert list(table) == ["small", "poor", CLEAR]
    # Of the ten scores a tenth is -10 alone, and 71 is the median.
    assert [of(table, row) for row in range(11)] == [
        {"small"}, set(), set(), {CLEAR}, set(), {"poor"}, set(), set(), {CLEAR}, {"small"}, {CLEAR},
    ]  # fmt: skip
    assert table.isna().to_numpy().nonzero()[0].tolist() == [6, 6, 7, 7]  # small and clear, poor and clear
    rules = challenging.rules(clipset, table)
    assert rules.count("\n- ") == 2 and "quality score" in rules
    assert np.isnan(challenging.sharpness_of(clipset)).all()
    lots = challenging.chosen(clipset, table, 3, seed=2)
    assert list(lots) == [CLEAR, "small", "poor"] and lots["poor"].tolist() == [5]
    assert "no labels of occlusion" in challenging.caveat(clipset)
    assert "scores" in challenging.method(clipset, table)


@pytest.mark.parametrize(
    ("scores", "poor"),
    [(range(11), [0, 1]), ([5, 5, 5, 6, 7, 8], [0, 1, 2]), ([5, 5, 5], [])],  # in the first the quantile equals a score
)
def test_equal_scores_are_rated_alike(scores, poor):
    table = challenging.kinds(unlabelled(quality=list(scores)))
    assert np.flatnonzero(table["poor"]).tolist() == poor
    assert not (table["poor"] & table[CLEAR]).any() and table[CLEAR].any()


@pytest.mark.parametrize(
    ("columns", "kinds"),
    [
        ({"y1": [0.0, 0.0], "y2": [30.0, 90.0]}, ["small", CLEAR]),
        ({"quality": [1.0, 2.0]}, ["poor", CLEAR]),
        ({"quality": [np.nan, np.nan]}, [CLEAR]),
        ({"frame": [1, 2]}, [CLEAR]),
    ],
)
def test_undefined_kinds_are_left_out(columns, kinds):
    clipset = unlabelled(**columns)
    table = challenging.kinds(clipset)
    assert list(table) == kinds
    found = challenging.summary(clipset, table)
    if kinds == [CLEAR]:
        assert table[CLEAR].isna().all() and "neither boxes nor scores" in challenging.answer(found)
    else:
        assert [of(table, row) for row in (0, 1)] == [{kinds[0]}, {CLEAR}]
    assert len(challenging.shown(found)) == len(kinds)


def test_sharpness_is_the_variance_of_the_laplacian():
    picture = portraits.portrait("person-0001")
    grey = np.asarray(picture.convert("L").resize((64, 80), Image.Resampling.LANCZOS), dtype=float)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    expected = signal.convolve2d(grey, kernel, mode="same", boundary="symm").var() / grey.var()
    assert challenging.sharpness(picture) == pytest.approx(expected)
    blurred = [challenging.sharpness(picture.filter(ImageFilter.GaussianBlur(r))) for r in (0.5, 2)]
    assert np.all(np.diff([expected, *blurred]) < 0)
    pale = picture.point(lambda v: 90 + v // 4)
    assert challenging.sharpness(pale) == pytest.approx(expected, rel=0.1)  # contrast is not sharpness
    assert challenging.sharpness(Image.new("RGB", (90, 90), "grey")) == 0


def test_sharpness_is_measured_in_large_enough_pictures(monkeypatch, tmp_path):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    clipset = real([("NONE", "HIGH", "FRONTAL")] * 3, [120, 79, 120])
    drawn = [portraits.portrait("person-0001", blur=blur) for blur in (0.0, 0.0, 0.7)]
    asked = []

    def read(source, paths):
        asked.append((source, paths))
        contents = {}
        for path in paths:
            file = BytesIO()
            drawn[int(path[0])].save(file, "JPEG", quality=95)
            contents[path] = file.getvalue()
        return contents

    assert np.isnan(challenging.sharpness_of(clipset)).all()  # the pictures are not on this machine
    monkeypatch.setattr(imfdb, "absence", lambda: None)
    monkeypatch.setattr(imfdb, "archive", lambda: "the archive")
    monkeypatch.setattr(imfdb, "pictures", read)
    found = challenging.sharpness_of(clipset)
    assert asked == [("the archive", {"0.jpg", "2.jpg"})]  # one pass, and only the pictures needed
    assert np.isnan(found[1]) and found[0] == pytest.approx(challenging.sharpness(drawn[0]), rel=0.1)
    assert found[2] < 0.3 * found[0]
    assert np.isnan(challenging.sharpness_of(made([{}] * 3))).all()


def test_faces_are_drawn_at_random_one_per_person():
    dark = {"darkness": 0.9}
    faces = [dark] * 40 + [dark | {"blur": 0.9}] * 4 + [dark] * 6
    person = [f"p{n // 2}" for n in range(10)] + [None]
    own = np.ones(50, bool)
    own[:8] = False  # the faces of p0 show somebody else
    clipset = made(faces, person=person, counts=[4] * 10 + [10], own=own)
    table = challenging.kinds(clipset)
    lots = challenging.chosen(clipset, table, 3, seed=1)
    assert list(lots) == [CLEAR, *KINDS] and not len(lots[CLEAR]) and not len(lots["blur"])
    who = challenging.persons_of_faces(clipset)[lots["light"]]
    assert len(set(who)) == 3 and who.min() >= 1
    everybody = challenging.chosen(clipset, table, 99, 1)["light"]
    assert sorted(challenging.persons_of_faces(clipset)[everybody]) == [1, 2, 3, 4]
    again = challenging.chosen(clipset, table, 3, seed=1)["light"]
    assert (again == lots["light"]).all()
    drawn = {int(row) for seed in range(60) for row in challenging.chosen(clipset, table, 3, seed)["light"]}
    assert drawn == set(range(8, 40))  # every face can be drawn


def test_the_comparison_is_within_persons():
    """The vectors of one person are ten times as long; dark faces are shorter by a fifth and by two fifths."""
    dark = {"darkness": 0.9}
    faces = [*[dark] * 3, *[{}] * 5] * 2 + [dark] * 2 + [{}] * 9  # the third person has too few dark faces
    norms = [7.0, 8.0, 64.0, 1.0, 10.0, 10.0, 11.0, 12.0] + [60.0, 55.0, 70.0, *[100.0] * 5] + [1.0] * 11
    clipset = made(faces, person=["a", "b", "c"], counts=[8, 8, 11], norms=norms)
    table = challenging.kinds(clipset)
    found = challenging.against_clear(clipset, table["light"].to_numpy(bool), table[CLEAR].to_numpy(bool))
    assert found.mean == pytest.approx((-0.2 - 0.4) / 2, abs=1e-3) and found.persons == 2
    assert found.low <= found.mean <= found.high
    summary = challenging.summary(clipset, table)
    assert summary.loc["light", "faces"] == 8 and summary.loc["light", "share"] == pytest.approx(8 / 27)
    assert summary.loc[CLEAR, "median norm"] == pytest.approx(
        np.median(np.array(norms)[table[CLEAR].to_numpy(bool)]), rel=1e-3
    )
    assert summary.loc["light", "all"] == summary.loc["light", "alone"] == found.mean
    assert np.isnan(summary.loc["blur", "all"])


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({"light": (-0.3, -0.2), "blur": (-0.2, -0.1)}, r"^Faces of every kind .*weak light −25.0% .*, blurred −15.0%"),
        ({"light": (-0.3, -0.2), "pose": (-0.1, 0.2)}, r"^Faces of 1 of 2 kinds .*contains 0 for .* turned away"),
        ({"light": (0.1, 0.2)}, r"^No kind .*longer for faces that are in weak light \+15.0% \[\+10.0%"),
        ({"small": (np.nan, np.nan)}, "^Too few persons"),
    ],
)
def test_the_answer_follows_the_intervals(ends, said):
    rows = {kind: {"all": (a + b) / 2, "all low": a, "all high": b} for kind, (a, b) in ends.items()}
    table = pd.DataFrame.from_dict(rows | {CLEAR: {}}, orient="index", columns=["all", "all low", "all high"])
    assert re.search(said, challenging.answer(table))


@pytest.mark.parametrize("count", [1, 400])
def test_tables_and_figure_of_any_size(count):
    rng = np.random.default_rng(2)
    faces = [{"darkness": d, "blur": b} for d, b in rng.random((count, 2))]
    clipset = made(faces, person=["a", "b"], counts=[count // 2, count - count // 2], norms=rng.random(count) + 1)
    found = challenging.summary(clipset, challenging.kinds(clipset))
    assert len(challenging.shown(found)) == 6 and "nan" not in challenging.shown(found).to_string()
    for table in (found, found.iloc[:0]):  # the second has no kind at all
        challenging.kinds_figure(table).canvas.draw()
    assert challenging.answer(found)


def test_the_page_on_synthetic_persons(tmp_path):
    out = tmp_path / "out.ipynb"
    notebooks.execute(PAGE, out, {"dataset": "synthetic", "profile": "quick", "columns": 2})
    page = out.read_text()
    clipset = datasets.load("synthetic", "quick")
    found = challenging.summary(clipset, challenging.kinds(clipset))
    assert challenging.answer(found)[:60] in page and "These portraits are illustrations" in page
    assert page.count('"image/svg+xml":') == 2 and "image/jpeg;base64" in page


def test_hard_faces_of_real_films():
    """The drawn faces have the right labels, and the smallest faces have the shortest vectors."""
    if reason := imfdb.absence():
        pytest.skip(reason)
    clipset = datasets.load("imfdb")
    faces = clipset.face_columns()
    table = challenging.kinds(clipset, np.ones(len(faces)))  # equally sharp: measuring takes too long here
    lots = challenging.chosen(clipset, table, 20, seed=3)
    assert (faces["illumination"].iloc[lots["light"]] == "BAD").all() and len(lots["light"]) == 20
    assert faces["pose"].iloc[lots["pose"]].isin(["LEFT", "RIGHT", "UP", "DOWN"]).all()
    assert (faces["height"].iloc[lots["small"]] < 40).all()
    found = challenging.summary(clipset, table).drop(index=["blur", CLEAR])
    assert found["all"].idxmin() == "small" and (found["all high"] < 0).all()
