"""The quality of a face: less where it is blurred, small, turned away or doubtful."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from famf_book import portraits
from famf_video.alignment import SIZE, TEMPLATE
from famf_video.quality import PARTS, quality, quality_parts, sharpness


def portrait(**traits):
    return portraits.portrait("ann", **traits).resize((SIZE, SIZE))


def of(pictures=None, points=None, scores=None):
    """The parts of some faces; what is not given is as good as can be."""
    count = max(len(given) for given in (pictures, points, scores) if given is not None)
    faces = np.stack([np.asarray(p) for p in ([portrait()] * count if pictures is None else pictures)])
    points = np.stack([TEMPLATE] * count) if points is None else np.stack(points)
    scores = np.ones(count) if scores is None else np.array(scores)
    return quality_parts(faces, points, scores) | {"quality": quality(faces, points, scores)}


def falls(values):
    return (np.diff(values) < 0).all()


def test_blur_lowers_it_and_contrast_does_not():
    sharp = portrait()
    found = of([sharp.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 0.5, 1, 2, 4)])
    assert falls(found["sharpness"]) and falls(found["quality"])
    pale = Image.fromarray((128 + (np.asarray(sharp, float) - 128) / 2).round().astype(np.uint8))
    assert of([pale])["sharpness"][0] == pytest.approx(found["sharpness"][0], abs=0.05)
    assert of([Image.new("RGB", (SIZE, SIZE), "grey")])["sharpness"][0] == 0


def test_pixels_that_are_not_there_lower_it():
    found = of(points=[TEMPLATE * scale + 20 for scale in (3, 1, 0.8, 0.5, 0.1)])
    np.testing.assert_allclose(found["size"], [1, 1, 0.8, 0.5, 0.1])
    assert falls(found["quality"][1:])


def turned(degrees):
    """The five points of a round head, as far as it is turned: x = r sin(θ + yaw)."""
    longitude = np.radians([-32, 32, 0, -24, 24])
    height, radius = np.array([52, 52, 72, 92, 92]), np.array([33, 33, 44, 36, 36])
    return np.stack([56 + radius * np.sin(longitude + np.radians(degrees)), height], axis=1)


def test_a_turned_face_is_less_frontal_on_both_sides_and_however_the_camera_is_held():
    angles = (0, 10, 20, 35)
    found = of(points=[turned(a) for a in angles])["frontality"]
    assert found[0] == pytest.approx(1) and falls(found)
    np.testing.assert_allclose(of(points=[turned(-a) for a in angles])["frontality"], found)
    tilt = np.array([[0.8, -0.6], [0.6, 0.8]])
    np.testing.assert_allclose(of(points=[3 * turned(a) @ tilt.T + 70 for a in angles])["frontality"], found)
    assert of(points=[turned(75)])["frontality"][0] == 0


def test_the_detector_counts_and_each_part_can_spoil_the_whole():
    found = of(scores=[1.0, 0.8, 0.3, 0.0])
    assert falls(found["quality"]) and found["quality"][-1] == 0
    mean = np.prod([found[name] for name in PARTS], axis=0) ** 0.25  # the geometric one
    np.testing.assert_allclose(found["quality"], mean)


def test_everything_lies_between_0_and_1():
    draw = np.random.default_rng(1)
    points = draw.normal(0, 40, (13, 5, 2))
    points[0, 1] = points[0, 0]  # eyes in one place
    noise = draw.integers(0, 256, (13, SIZE, SIZE, 3), dtype=np.uint8)
    assert all(((0 <= v) & (v <= 1)).all() for v in of(noise, points, draw.uniform(0, 1, 13)).values())
    assert quality(noise[:0], points[:0], np.empty(0)).shape == (0,)


def test_sharpness_is_the_variance_of_the_laplacian_over_that_of_the_grey_values():
    grey = np.random.default_rng(4).integers(0, 256, (11, 13)).astype(np.uint8)
    padded = np.pad(grey.astype(float), 1, mode="symmetric")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    assert sharpness(Image.fromarray(grey), (13, 11)) == pytest.approx(laplacian.var() / grey.var(dtype=float))
