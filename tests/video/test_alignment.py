"""Alignment by five points: the transform of least squares, and pictures that land where it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.optimize import least_squares

from famf_video.alignment import SIZE, TEMPLATE, AlignmentError, align, resized, sampled, similarity

rng = np.random.default_rng(7)


def moved(points, scale, degrees, x, y):
    """Points turned, scaled and shifted, by the matrix of the textbook."""
    turn = np.radians(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + [x, y]


def picture_of(height, width, seed=3):
    """A smooth coloured picture: sampled between its pixels it has a value that hardly depends on how."""
    y, x = np.mgrid[:height, :width]
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([127 + 100 * np.sin(x / 17 + p) * np.cos(y / 13 + p) for p in phases], axis=-1).astype(np.uint8)


@given(
    st.floats(0.05, 20), st.floats(-180, 180), st.floats(-500, 500), st.floats(-500, 500)
)  # fmt: skip
def test_a_known_transform_is_found_again(scale, degrees, x, y):
    source = moved(TEMPLATE, scale, degrees, x, y)
    a, b = similarity(source[None], TEMPLATE)
    assert a[0] == pytest.approx(np.exp(-1j * np.radians(degrees)) / scale, rel=1e-6)
    back = a[0] * (source[:, 0] + 1j * source[:, 1]) + b[0]
    np.testing.assert_allclose(np.stack([back.real, back.imag], 1), TEMPLATE, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_similarity_is_nearer(seed):
    """Against scipy's optimiser over scale, angle and shift, on points that fit no similarity exactly."""
    draw = np.random.default_rng(seed)
    source = moved(TEMPLATE, 2.3, 31, 40, -17) + draw.normal(0, 9, (5, 2))

    def distances(parameters):
        log_scale, angle, x, y = parameters
        return (moved(source, np.exp(log_scale), angle, x, y) - TEMPLATE).ravel()

    best = least_squares(distances, (-0.8, -31, 0, 0))
    a, b = similarity(source[None], TEMPLATE)
    found = a[0] * (source[:, 0] + 1j * source[:, 1]) + b[0]
    apart = ((np.stack([found.real, found.imag], 1) - TEMPLATE) ** 2).sum()
    assert apart == pytest.approx(2 * best.cost, rel=1e-6)


def test_a_picture_whose_points_are_the_template_stays_as_it_is():
    picture = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(picture, TEMPLATE[None]), picture[None])


def test_each_pixel_is_interpolated_where_the_transform_says():
    """Against scipy's interpolation along the inverse matrix, for faces that are turned and at most halved."""
    picture = rng.integers(0, 256, (151, 173, 3), dtype=np.uint8)
    points = np.stack([moved(TEMPLATE, 0.7, 20, 60, 10), moved(TEMPLATE, 1.3, -35, -20, 90)])
    found = align(picture, points)
    for face, (scale, degrees, x, y) in zip(found, [(0.7, 20, 60, 10), (1.3, -35, -20, 90)], strict=True):
        goal = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).reshape(-1, 2).astype(float)
        at = moved(goal, scale, degrees, x, y)
        for colour in range(3):
            band = np.pad(
                picture[..., colour].astype(float), 1
            )  # a frame of black, between which and the edge it fades
            expected = map_coordinates(band, [at[:, 1] + 1, at[:, 0] + 1], order=1, mode="constant")
            assert abs(face[..., colour].ravel() - expected).max() <= 0.51


def test_beyond_the_edge_lies_black_or_the_edge_again():
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    points = (TEMPLATE + [30, 0])[None]  # the right 30 columns of the face lie beyond
    np.testing.assert_array_equal(align(picture, points)[0, :, -29:], 0)
    np.testing.assert_array_equal(align(picture, points, beyond="edge"), 200)
    np.testing.assert_array_equal(align(picture, (TEMPLATE + 5000)[None], beyond="edge"), 200)


def test_a_large_face_is_averaged_and_not_skipped_through():
    """A fine chequerboard is grey from afar. Between neighbours only it would be a pattern of black and white."""
    fine = np.indices((1200, 1200)).sum(axis=0) % 2 * 255
    picture = np.repeat(fine[..., None], 3, axis=2).astype(np.uint8)
    faces = align(picture, np.stack([moved(TEMPLATE, s, 11, 300, 20) for s in (2.1, 4.3, 7.9)]), beyond="edge")
    assert abs(faces.astype(float) - 127.5).max() < 16
    unreduced = sampled(picture, *np.meshgrid(np.arange(SIZE) * 2.1, np.arange(SIZE) * 2.1), "edge")
    assert np.ptp(unreduced) > 200


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0, 3.7, 4.0, 9.1])
def test_reducing_first_moves_nothing(scale):
    """A ramp is the same however it is averaged, so that a shift of a part of a pixel shows.

    One colour rises and one falls: halves are rounded up in both, so that their difference does not know of it.
    """
    size = int(SIZE * scale) + 41
    ramp = np.round(np.arange(size) / size * 250).astype(np.uint8)
    picture = np.broadcast_to(np.stack([ramp, 250 - ramp, ramp], axis=-1), (size, size, 3)).copy()
    face = align(picture, moved(TEMPLATE, scale, 0, 20, 20)[None])[0].astype(float)
    found = (face[40, :, 0] - face[40, :, 1] + 250) / 2
    slope = 250 / size
    expected = (np.arange(SIZE) * scale + 20) * slope
    assert abs(found - expected).max() < 1.01
    assert abs((found - expected).mean()) < 0.15 * slope * scale  # in pixels of the face


def test_resizing_is_bilinear_within_the_box():
    """Against the formula with pixel middles, worked out pixel by pixel."""
    picture = rng.integers(0, 256, (31, 23, 3), dtype=np.uint8)
    x1, y1, x2, y2 = 3, 5, 21, 29
    found = resized(picture, 13, (x1, y1, x2, y2))
    box = picture[y1:y2, x1:x2].astype(float)
    for i in range(13):
        for j in range(13):
            y = min(max((i + 0.5) * 24 / 13 - 0.5, 0), 23)
            x = min(max((j + 0.5) * 18 / 13 - 0.5, 0), 17)
            top, left = min(int(y), 22), min(int(x), 16)
            p, q = y - top, x - left
            upper = (1 - q) * box[top, left] + q * box[top, left + 1]
            lower = (1 - q) * box[top + 1, left] + q * box[top + 1, left + 1]
            assert abs(found[i, j] - ((1 - p) * upper + p * lower)).max() <= 0.51


def test_made_larger_it_is_what_pillow_makes():
    """Where nothing gets smaller Pillow interpolates between four pixels as well."""
    picture = picture_of(29, 37)
    expected = np.asarray(Image.fromarray(picture).resize((112, 112), Image.Resampling.BILINEAR)).astype(int)
    assert abs(resized(picture, 112) - expected).max() <= 1


@pytest.mark.parametrize("points", [np.full((1, 5, 2), 17.0), np.full((1, 5, 2), np.nan)])
def test_points_in_one_place_are_one_sentence(points):
    good = TEMPLATE[None].repeat(2, axis=0)
    with pytest.raises(AlignmentError, match=r"points: face 2 has \[\[.*\], expected five places apart"):
        align(picture_of(50, 50), np.concatenate([good, points]))


def test_no_faces_and_a_picture_of_one_pixel():
    assert align(picture_of(31, 37), np.empty((0, 5, 2))).shape == (0, SIZE, SIZE, 3)
    assert align(picture_of(1, 1), moved(TEMPLATE, 50, 0, 0, 0)[None]).shape == (1, SIZE, SIZE, 3)
