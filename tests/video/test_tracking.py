"""Tracks: of boxes that cross, pause, come in any order and are cut, with faces whose owners are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from famf_video.tracking import Tracker, colour_histogram, is_cut

DIM = 23
STEP = 0.2  # seconds between pictures


def looks(count, seed=0):
    """Unit vectors of persons, nearly at right angles to each other."""
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))[0]
    return vectors[:count]


def box(x, y=50.0, side=40.0):
    return np.array([x, y, x + side, y + side])


def run(tracker, pictures):
    """Track numbers of pictures, each (time, boxes, vectors) with perhaps a cut."""
    return [tracker.add(time, np.reshape(b, (-1, 4)), np.reshape(v, (-1, DIM)), *cut) for time, b, v, *cut in pictures]


def noisy(vector, rng, spread):
    return vector * rng.uniform(3, 20) + spread * rng.normal(size=DIM)


@given(seed=st.integers(0, 10_000), persons=st.integers(1, 5), missed=st.floats(0, 0.4), pace=st.floats(0, 25))
def test_a_track_is_of_one_person_and_a_person_of_one_track(seed, persons, missed, pace):
    """They walk through each other at any pace and are missed now and then, up to three times in a row (0.8 s)."""
    rng = np.random.default_rng(seed)
    who, start = looks(persons, seed), rng.uniform(0, 300, persons)
    speed = pace * rng.choice([-1, 1], persons)
    absent, pictures, owners = np.zeros(persons, int), [], []
    for number in range(20):
        there = [p for p in rng.permutation(persons) if number == 0 or absent[p] == 3 or rng.random() > missed]
        absent += 1
        absent[there] = 0
        boxes = [box(start[p] + speed[p] * number) for p in there]
        pictures.append((number * STEP, boxes, [noisy(who[p], rng, 0.1) for p in there]))
        owners.append(there)
    found = run(Tracker(), pictures)
    pairs = {(p, t) for there, tracks in zip(owners, found, strict=True) for p, t in zip(there, tracks, strict=True)}
    assert len(pairs) == persons


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_the_faces_of_a_picture_does_not_matter(seed, random):
    rng = np.random.default_rng(seed)
    pictures, mixed, orders = [], [], []
    for number in range(6):
        count = int(rng.integers(0, 6))
        boxes = [box(*rng.uniform(0, 90, 2), rng.uniform(20, 60)) for _ in range(count)]
        vectors = [rng.normal(size=DIM) for _ in range(count)]
        order = random.sample(range(count), count)
        pictures.append((number * STEP, boxes, vectors))
        mixed.append((number * STEP, [boxes[k] for k in order], [vectors[k] for k in order]))
        orders.append(order)
    straight, crooked = run(Tracker(), pictures), run(Tracker(), mixed)
    called = {}  # numbers are given in the order of coming; which faces share one is what counts
    for order, a, b in zip(orders, straight, crooked, strict=True):
        for place, k in enumerate(order):
            assert called.setdefault(b[place], a[k]) == a[k]
    assert len(set(called.values())) == len(called)


def test_where_the_vectors_fail_the_boxes_tell_persons_apart():
    a, b = looks(2)
    blurred = (a + b) / 2
    apart = [(0.0, [box(0), box(100)], [a, b]), (STEP, [box(110), box(8)], [blurred, blurred])]
    assert run(Tracker(), apart)[1].tolist() == [1, 0]


def test_the_best_pairing_of_all_is_taken_not_the_best_pair():
    """A face between two tracks is nearer to the first; but then the other face, near the first only, had none."""
    a = looks(1)[0]
    first = (0.0, [box(100), box(130)], [a, a])
    second = (STEP, [box(114), box(88)], [a, a])
    assert run(Tracker(), [first, second])[1].tolist() == [1, 0]


@pytest.mark.parametrize(("pause", "same"), [(0.9, True), (1.0, True), (1.1, False)])
def test_a_pause(pause, same):
    tracker, a = Tracker(), looks(1)
    found = run(tracker, [(0.0, [box(0)], a), (pause / 2, [], []), (pause, [box(5)], a)])
    assert (found[0] == found[2]).all() == same
    assert len(tracker.over()) == (not same) and len(tracker.over(ended=True)) == 1


def test_a_cut_ends_all_tracks():
    a = looks(2)
    tracker = Tracker()
    found = run(tracker, [(0.0, [box(0), box(90)], a), (STEP, [box(0), box(90)], a, True)])
    assert [row.tolist() for row in found] == [[0, 1], [2, 3]]
    assert [track.number for track in tracker.over()] == [0, 1] and tracker.over() == []
    assert [track.number for track in tracker.over(ended=True)] == [2, 3] and not tracker.running


def test_a_stranger_who_is_far_away_begins_a_track_and_one_who_comes_nearer_does_not():
    a, b = looks(2)
    assert run(Tracker(), [(0.0, [box(0)], [a]), (STEP, [box(200)], [b])])[1] == [1]
    assert run(Tracker(), [(0.0, [box(0)], [a]), (STEP, [box(200)], [a])])[1] == [0]
    assert run(Tracker(), [(0.0, [box(0)], [a]), (STEP, [box(2)], [b])])[1] == [0]  # a blurred face in the same place


def test_the_main_person_has_the_most_face_over_time():
    """A large face for a short time, a small one for a long time: area times seconds decides, worked out by hand."""
    a, b, c = looks(3)
    pictures = [(k * STEP, [box(0, side=20)], [a]) for k in range(11)]  # 400 pixels² for 2 s
    for place, x, side, who in ((2, 200, 60, b), (3, 200, 60, b), (9, 400, 90, c)):  # 3600 for 0.2 s, and one seen once
        pictures[place][1].append(box(x, side=side))
        pictures[place][2].append(who)
    tracker = Tracker()
    run(tracker, pictures)
    ranked = sorted(tracker.over(ended=True), key=lambda track: track.rank, reverse=True)
    assert [track.number for track in ranked] == [0, 1, 2]
    assert [track.presence for track in ranked] == pytest.approx([800, 720, 0])
    assert [track.faces for track in ranked] == [11, 2, 1]
    assert ranked[2].largest == 8100
    run(short := Tracker(), [(0.0, [box(0), box(90, side=50), box(180, side=50)], looks(3))])
    assert max(short.over(ended=True), key=lambda track: track.rank).number == 1  # nobody lasts: the largest, the first


def picture(seed, shift=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.roll(coarse.repeat(20, axis=0).repeat(20, axis=1), shift, axis=1)


def test_another_picture_is_a_cut_and_movement_is_none():
    assert is_cut(colour_histogram(picture(1)), colour_histogram(picture(2)))
    assert not is_cut(colour_histogram(picture(1)), colour_histogram(picture(1, shift=37)))
    assert not is_cut(colour_histogram(picture(1)), colour_histogram((picture(1) * 0.95).astype(np.uint8)))
    assert colour_histogram(picture(1)).sum() == pytest.approx(1)


@given(st.integers(0, 245), st.integers(0, 245), st.integers(0, 245))
def test_a_little_more_light_on_an_even_wall_is_no_cut(red, green, blue):
    """Whatever its colour: none lies at the edge of a step."""
    wall = np.full((48, 64, 3), (red, green, blue), np.uint8)
    assert not is_cut(colour_histogram(wall), colour_histogram(wall + np.uint8(10)))
    assert is_cut(colour_histogram(wall), colour_histogram(wall + np.uint8(110)))
