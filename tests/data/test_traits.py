import numpy as np
import pandas as pd

from famf_lib.data.clipset import ClipSet
from famf_lib.data.traits import SIGNS, traits


def made(**columns):
    n = len(next(iter(columns.values())))
    faces = np.zeros((n, 7))
    faces[:, 0], faces[:, 1] = 3 * np.arange(n), 4 * np.arange(n)
    clips = pd.DataFrame({"name": ["a"], "person": ["p"], "split": [None], "group": [None]})
    return ClipSet.build(faces, np.array([n]), clips, face_table=pd.DataFrame(columns))


def test_numbers_of_a_generator_stay():
    faces = made(quality=[80.0, 20.0], blur=[0.1, 0.7], occlusion=[0.2, 0.3], size=[0.5, 0.6], yaw=[-40.0, 10.0])
    found = traits(faces)
    assert list(found) == ["norm", "quality", "size", "blur", "occlusion", "turned"] and set(found) <= set(SIGNS)
    assert found["norm"].tolist() == [0, 5] and found["turned"].tolist() == [40, 10]
    assert found["occlusion"].tolist() == [0.2, 0.3]


def test_what_the_dataset_measured_goes_before_what_is_worked_out():
    boxes = {"x1": [0, 0], "y1": [0, 0], "x2": [4, 9], "y2": [9, 4]}
    found = traits(made(quality=[None, 70.0], size=[2.0, None], yaw=[None, -30.0], pose=["LEFT", "FRONTAL"], **boxes))
    expected = {"quality": [np.nan, 70], "size": [2, np.nan], "turned": [np.nan, 30]}
    for trait, values in expected.items():
        np.testing.assert_array_equal(found[trait], values)


def test_labels_become_numbers_and_no_label_none():
    boxes = {"x1": [3, 3, 3, 3], "y1": [5, 5, 5, 5], "x2": [7, 12, 4, 1], "y2": [14, 9, 6, 10]}  # the last is no box
    light, pose = ["BAD", "MEDIUM", "HIGH", None], ["FRONTAL", "LEFT", "UP", None]
    found = traits(made(illumination=light, occlusion=["NONE", "GLASSES", None, "BEARD"], pose=pose, **boxes))
    expected = {"darkness": [2, 1, 0, np.nan], "occlusion": [0, 1, np.nan, 1], "turned": [0, 1, 1, np.nan]}
    for trait, values in expected.items():
        np.testing.assert_array_equal(found[trait], values)
    assert found["size"].tolist() == [6, 6, 1, 0]
    assert traits(made(x1=[3], y1=[5], x2=[7], y2=[14]))["size"].tolist() == [6]


def test_what_is_told_of_no_face_is_no_trait():
    nothing = [None, None, None]
    found = traits(made(quality=nothing, illumination=["odd", None, ""], occlusion=nothing, blur=[None, 0.5, None]))
    assert list(found) == ["norm", "quality", "blur"] and found["quality"].tolist() == [0, 5, 10]
