"""Alignment by landmarks: the least-squares transform, and pictures that are sampled where it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares

from famf_video.alignment import SIZE, TEMPLATE, AlignmentError, align, resize, similarity

rng = np.random.default_rng(7)


def moved(points, scale, degrees, x, y):
    """Points rotated, scaled and shifted, by the textbook matrix."""
    turn = np.radians(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + [x, y]


def bilinear(picture, x, y):
    """Bilinear interpolation, from the weights of the four neighbours; black beyond the picture."""
    framed = np.pad(picture.astype(float), ((2, 2), (2, 2), (0, 0)))
    x, y = np.clip(x, -2, picture.shape[1]) + 2, np.clip(y, -2, picture.shape[0]) + 2
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    p, q = (x - left)[..., None], (y - top)[..., None]
    upper = (1 - p) * framed[top, left] + p * framed[top, left + 1]
    return (1 - q) * upper + q * ((1 - p) * framed[top + 1, left] + p * framed[top + 1, left + 1])


def mapped(source):
    """The factor of the similarity to the template, and where it puts the points."""
    a, b = similarity(source[None], TEMPLATE)
    found = a[0] * (source[:, 0] + 1j * source[:, 1]) + b[0]
    return a[0], np.stack([found.real, found.imag], 1)


shift = st.floats(-500, 500)


@given(st.floats(0.05, 20), st.floats(-180, 180), shift, shift)
def test_a_known_transform_is_found_again(scale, degrees, x, y):
    source = moved(TEMPLATE, scale, degrees, x, y)
    a, back = mapped(source)
    assert a == pytest.approx(np.exp(-1j * np.radians(degrees)) / scale, rel=1e-6)
    np.testing.assert_allclose(back, TEMPLATE, atol=1e-6)


@pytest.mark.parametrize("seed", [2, 3])
def test_no_other_similarity_is_nearer(seed):
    """Against scipy's optimiser over scale, angle and shift, on points that fit no similarity exactly."""
    source = moved(TEMPLATE, 2.3, 31, 40, -17) + np.random.default_rng(seed).normal(0, 9, (5, 2))

    def distances(parameters):
        log_scale, angle, x, y = parameters
        return (moved(source, np.exp(log_scale), angle, x, y) - TEMPLATE).ravel()

    best = least_squares(distances, (-0.8, -31, 0, 0))
    assert ((mapped(source)[1] - TEMPLATE) ** 2).sum() == pytest.approx(2 * best.cost, rel=1e-6)


def test_each_pixel_is_interpolated_where_the_transform_says():
    """For faces that are rotated and at most halved, and reach beyond the edge."""
    picture = rng.integers(0, 256, (151, 173, 3), dtype=np.uint8)
    ways = [(0.7, 20, 60, 10), (1.3, -35, -20, 90)]
    goal = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(float)
    for face, way in zip(align(picture, np.stack([moved(TEMPLATE, *way) for way in ways])), ways, strict=True):
        x, y = np.moveaxis(moved(goal, *way), -1, 0)
        assert abs(face - bilinear(picture, x, y)).max() <= 0.51
    np.testing.assert_array_equal(align(picture[:SIZE, :SIZE], TEMPLATE[None])[0], picture[:SIZE, :SIZE])


def test_beyond_the_edge_is_black_or_the_edge_again():
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    points = (TEMPLATE + [30, 0])[None]  # the right 30 columns of the face lie beyond
    np.testing.assert_array_equal(align(picture, points)[0, :, -29:], 0)
    np.testing.assert_array_equal(align(picture, points, border="edge"), 200)
    np.testing.assert_array_equal(align(picture, (TEMPLATE + 5000)[None], border="edge"), 200)


def test_a_large_face_is_averaged():
    """From afar a fine chequerboard is grey; interpolation alone would make a pattern of black and white."""
    fine = np.indices((1200, 1200)).sum(axis=0) % 2 * 255
    picture = np.repeat(fine[..., None], 3, axis=2).astype(np.uint8)
    faces = align(picture, np.stack([moved(TEMPLATE, s, 11, 300, 20) for s in (2.1, 4.3, 7.9)]), border="edge")
    assert abs(faces.astype(float) - 127.5).max() < 16


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.7, 9.1])
def test_halving_first_moves_nothing(scale):
    """A ramp is the same however it is averaged, so that a shift of a fraction of a pixel shows.

    One colour rises and one falls: halves are rounded up in both, so that their difference is free of it.
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


@pytest.mark.parametrize("size", [13, 97])
def test_resizing_is_bilinear_within_the_box(size):
    picture = rng.integers(0, 256, (31, 23, 3), dtype=np.uint8)
    y, x = (((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1) for side in (24, 18))
    expected = bilinear(picture[5:29, 3:21], *np.meshgrid(x, y))
    assert abs(resize(picture, size, (3, 5, 21, 29)) - expected).max() <= 0.51


@pytest.mark.parametrize("points", [np.full((1, 5, 2), 17.0), np.full((1, 5, 2), np.nan)])
def test_points_in_one_place_are_one_sentence(points):
    good = TEMPLATE[None].repeat(2, axis=0)
    with pytest.raises(AlignmentError, match=r"points: face 2 has \[\[.*\], expected five distinct places"):
        align(np.zeros((50, 50, 3), np.uint8), np.concatenate([good, points]))


@pytest.mark.parametrize(("shape", "faces"), [((31, 37, 3), 0), ((1, 1, 3), 1)])
def test_no_faces_and_a_picture_of_one_pixel(shape, faces):
    points = np.repeat(moved(TEMPLATE, 50, 0, 0, 0)[None], faces, axis=0)
    assert align(np.zeros(shape, np.uint8), points).shape == (faces, SIZE, SIZE, 3)
