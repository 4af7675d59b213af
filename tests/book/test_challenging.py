import ast
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from run_cells import run_cells, texts

from famf_book import notebooks, portraits
from famf_lib.data import datasets, imfdb
from famf_lib.data.clipset import ClipSet
from famf_lib.support.files import ROOT
from famf_video.quality import sharpness

PAGE = ROOT / "book" / "challenging-cases.ipynb"
GOOD = {"occlusion": 0.1, "darkness": 0.2, "blur": 0.2, "yaw": -20.0, "height": 100.0}


@pytest.fixture
def page():
    names = {"columns": 3}
    for cell in notebooks.read(PAGE).cells:
        if cell.cell_type == "code":
            body = ast.parse(cell.source).body
            kept = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef) or constant(n)]
            exec(compile(ast.Module(kept, []), str(PAGE), "exec"), names)
    return names


def constant(node):
    return isinstance(node, ast.Assign) and all(ast.unparse(target).isupper() for target in node.targets)


def generated(faces):
    table = pd.DataFrame([GOOD | face for face in faces], dtype=float)
    return table.assign(y1=10.0, y2=10.0 + table.pop("height"), own=True)


def of(kinds, row):
    return {kind for kind in kinds if kinds[kind].fillna(False)[row]}


def test_kinds_of_generated_faces(page):
    faces = [
        ({}, {"clear"}),
        ({"occlusion": 0.36}, {"occluded"}),
        ({"occlusion": 0.3}, set()),  # neither occluded nor clear
        ({"darkness": 0.51, "blur": 0.51}, {"in weak light", "blurred"}),
        ({"yaw": -46.0}, {"turned away"}),
        ({"yaw": 46.0, "height": 39.0}, {"turned away", "small"}),
        ({"height": 79.0}, set()),
    ]
    kinds = page["kinds_of"](generated([face for face, _ in faces]))
    assert [of(kinds, row) for row in range(len(faces))] == [expected for _, expected in faces]
    assert not kinds.isna().any().any()


def labelled(faces, heights):
    table = pd.DataFrame(faces, columns=["occlusion", "illumination", "pose"])
    return table.assign(path=[f"{n}.jpg" for n in range(len(faces))], y1=0.0, y2=heights)


def test_kinds_of_labelled_faces(page):
    good = ("NONE", "MEDIUM", "FRONTAL")
    faces = [good, ("GLASSES", "HIGH", "FRONTAL"), ("NONE", "BAD", "LEFT"), (None, "HIGH", "UP"), good, good, good]
    page["sharpness_of"] = lambda *_: pd.Series([0.5, 0.6, 0.7, 0.8, np.nan, np.nan, 0.1])
    kinds = page["kinds_of"](labelled(faces, [100, 100, 100, 100, 39, 60, 80]))
    expected = [{"clear"}, {"occluded"}, {"in weak light", "turned away"}, {"turned away"}, {"small"}, set()]
    assert [of(kinds, row) for row in range(7)] == [*expected, {"blurred"}]
    unknown = kinds.isna()
    assert unknown["occluded"].tolist() == [False] * 3 + [True] + [False] * 3
    assert unknown["blurred"].tolist() == [False] * 4 + [True, True, False]
    assert not unknown[["in weak light", "small", "turned away", "clear"]].any().any()


def test_kinds_of_faces_with_boxes_and_scores(page):
    heights = [39.5, 40, 79, 80, 200, 200, np.nan, 200, 200, 30, 200]
    scores = [50, 51, 52, 90, 53, -10, 91, np.nan, 92, 93, 94]
    kinds = page["kinds_of"](pd.DataFrame({"y1": 7.0, "y2": 7 + np.array(heights), "quality": scores, "path": "a"}))
    assert list(kinds) == ["small", "rated poor", "clear"]
    # Of the ten scores a tenth is -10 alone, and 71 is the median.
    expected = [{"small"}, set(), set(), {"clear"}, set(), {"rated poor"}, set(), set(), {"clear"}, {"small"}]
    assert [of(kinds, row) for row in range(11)] == [*expected, {"clear"}]
    assert kinds.isna().to_numpy().nonzero()[0].tolist() == [6, 6, 7, 7]  # small and clear, poor and clear


@pytest.mark.parametrize(
    ("scores", "poor"),
    [(range(11), [0, 1]), ([5, 5, 5, 6, 7, 8], [0, 1, 2]), ([5, 5, 5], [])],  # in the first the quantile equals a score
)
def test_equal_scores_are_rated_alike(scores, poor, page):
    kinds = page["kinds_of"](pd.DataFrame({"quality": list(scores)}))
    assert np.flatnonzero(kinds["rated poor"]).tolist() == poor
    assert not (kinds["rated poor"] & kinds["clear"]).any() and kinds["clear"].any()


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"y1": [0.0, 0.0], "y2": [30.0, 90.0]}, ["small", "clear"]),
        ({"quality": [1.0, 2.0]}, ["rated poor", "clear"]),
        ({"quality": [np.nan, np.nan]}, []),
        ({"frame": [1, 2]}, []),
    ],
)
def test_unknown_kinds_are_left_out(columns, names, page):
    kinds = page["kinds_of"](pd.DataFrame(columns))
    assert list(kinds) == names
    assert not names or [of(kinds, row) for row in (0, 1)] == [{names[0]}, {"clear"}]


def test_sharpness_is_measured_in_large_enough_pictures(monkeypatch, tmp_path, page):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    faces = labelled([("NONE", "HIGH", "FRONTAL")] * 3, [120, 79, 120])
    heights = faces["y2"] - faces["y1"]
    drawn, asked = [portraits.portrait("person-0001", blur=blur) for blur in (0.0, 0.0, 0.7)], []

    def read(source, paths):
        asked.append((source, paths))
        contents = {path: BytesIO() for path in paths}
        for path, file in contents.items():
            drawn[int(path[0])].save(file, "JPEG", quality=95)
        return {path: file.getvalue() for path, file in contents.items()}

    assert page["sharpness_of"](faces, heights).isna().all()  # the pictures are not on this machine
    monkeypatch.setattr(imfdb, "absence", lambda: None)
    monkeypatch.setattr(imfdb, "archive", lambda: "the archive")
    monkeypatch.setattr(imfdb, "pictures", read)
    found = page["sharpness_of"](faces, heights)
    assert asked == [("the archive", {"0.jpg", "2.jpg"})]  # one pass, and only the pictures needed
    assert np.isnan(found[1]) and found[0] == pytest.approx(sharpness(drawn[0]), rel=0.1)
    assert found[2] < 0.3 * found[0]


def test_faces_are_drawn_at_random_one_per_person(page):
    dark = {"darkness": 0.9}
    kinds = page["kinds_of"](generated([dark] * 40 + [dark | {"blur": 0.9}] * 4 + [dark] * 6))
    person = np.repeat([-1, -1, 1, 1, 2, 2, 3, 3, 4, 4, -1], [4] * 10 + [10])  # others' faces first, a noise clip last

    def draw(kind, seed):
        return page["draw"](kinds, person, kind, np.random.default_rng(seed))

    assert not len(draw("clear", 1)) and not len(draw("blurred", 1))  # those are dark as well
    drawn = draw("in weak light", 1)
    assert len({*person[drawn]}) == 3 and (drawn == draw("in weak light", 1)).all()
    page["columns"] = 99
    assert sorted(person[draw("in weak light", 1)]) == [1, 2, 3, 4]
    drawn = {int(row) for seed in range(60) for row in draw("in weak light", seed)}
    assert drawn == set(range(8, 40))  # every face can be drawn


def test_the_comparison_is_within_persons(page):
    """The vectors of one person are ten times as long; dark faces are shorter by a fifth and by two fifths."""
    dark = {"darkness": 0.9}
    faces = [*[dark] * 3, *[{}] * 5] * 2 + [dark] * 2 + [{}] * 9  # the third person has too few dark faces
    norms = [7.0, 8.0, 64.0, 1.0, 10.0, 10.0, 11.0, 12.0] + [60.0, 55.0, 70.0, *[100.0] * 5] + [1.0] * 11
    clips = pd.DataFrame({"name": ["x", "y", "z"], "person": ["a", "b", "c"], "split": "train", "group": None})
    vectors = np.array(norms)[:, None] * [0.0, -1.0, 0.0]
    clipset = ClipSet.build(vectors, np.array([8, 8, 11]), clips, face_table=generated(faces))
    found = page["compare"](clipset, page["kinds_of"](generated(faces)), np.repeat([0, 1, 2], [8, 8, 11]))
    weak = found.loc["in weak light"]
    assert weak["all"].mean == pytest.approx((-0.2 - 0.4) / 2, abs=1e-3) and weak["all"].persons == 2
    assert weak["alone"] == weak["all"] and weak["all"].low <= weak["all"].mean <= weak["all"].high
    assert weak["faces"] == 8 and weak["share"] == pytest.approx(8 / 27)
    assert pd.isna(found.loc["blurred", "all"])


def test_the_page_on_synthetic_persons():
    _, shown = run_cells(PAGE, profile="quick", columns=2, beside=[])
    text = texts(shown)
    assert "shorter for 5 of 5 kinds" in text and "These portraits are illustrations" in text
    assert text.count("image/jpeg;base64") == 12  # two faces of five kinds, and clear ones
    clipset = datasets.load("synthetic", "quick")
    faces, known = clipset.face_columns(), np.repeat(clipset.labels.numpy() >= 0, clipset.counts.numpy())
    assert f"{(faces['blur'][faces['own'] & known] > 0.5).mean():.1%}" in text
