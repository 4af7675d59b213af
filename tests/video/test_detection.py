"""Detectors: MTCNN on pictures whose faces are known, SCRFD on outputs worked out by hand, and what both stand on."""

from itertools import islice

import film_faces
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import network

from famf_video import registry
from famf_video.detection import ENTRIES, MTCNN, NAMES, SCRFD, detector, non_maximum_suppression, overlap
from famf_video.onnx import OnnxError

corner = st.integers(0, 12)
some_boxes = st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=7).map(
    lambda rows: np.array([(x, y, x + w + 1, y + h + 1) for x, y, w, h in rows], float)
)


@given(some_boxes, some_boxes)
def test_overlap_is_that_of_sets_of_pixels(boxes, others):
    def pixels(box):
        x1, y1, x2, y2 = map(int, box)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    pairs = [[(pixels(box), pixels(other)) for other in others] for box in boxes]
    union = [[len(a & b) / len(a | b) for a, b in row] for row in pairs]
    smaller = [[len(a & b) / min(len(a), len(b)) for a, b in row] for row in pairs]
    np.testing.assert_allclose(overlap(boxes, others), union)
    np.testing.assert_allclose(overlap(boxes, others, of_smaller=True), smaller)


@given(some_boxes, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.3, 0.5]))
def test_suppression_keeps_the_best_of_those_that_overlap(boxes, random, limit):
    scores = np.array(random.sample(range(100), len(boxes))) / 100.0
    kept = non_maximum_suppression(boxes, scores, limit)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    between = overlap(boxes, boxes)
    for row in range(len(boxes)):
        better = [k for k in kept if scores[k] > scores[row]]
        assert (row in kept) == all(between[k, row] <= limit for k in better)


@pytest.fixture(scope="module")
def mtcnn():
    film_faces.needed()
    return detector("mtcnn", 30)


@pytest.fixture(scope="module")
def composed():
    """Pictures of 960 × 540 with six faces each, 60 to 200 pixels high, and the boxes of these."""
    film_faces.needed()
    rng, made = np.random.default_rng(1), []
    clear = iter([face for of in film_faces.faces().values() for face in of])
    for seed in range(8):
        canvas, boxes = film_faces.background((960, 540), seed), []
        for place, face in enumerate(islice(clear, 6)):
            height = int(rng.integers(60, 200))
            width = face.width * height / face.height
            x = place % 3 * 320 + int(rng.integers(0, max(320 - width, 1)))
            y = place // 3 * 270 + int(rng.integers(0, 270 - height))
            boxes.append(film_faces.pasted(canvas, face, height, x, y))
        made.append((np.asarray(canvas), np.array(boxes, float)))
    assert sum(len(boxes) for _, boxes in made) == 48
    return made


def test_mtcnn_finds_faces(mtcnn, composed):
    hits = wrong = 0
    for picture, boxes in composed:
        found = mtcnn.detect(picture)
        between = overlap(boxes, found.boxes.astype(float))
        hits += (between.max(axis=1, initial=0) >= 0.5).sum()
        wrong += (between.max(axis=0, initial=0) < 0.5).sum()
        assert (found.scores > 0.8).all() and (np.diff(found.scores) <= 0).all()
        left_eye, right_eye, nose, left, right = found.points.transpose(1, 0, 2)
        assert (left_eye[:, 0] < right_eye[:, 0]).all() and (left[:, 0] < right[:, 0]).all()
        assert (np.maximum(left_eye, right_eye)[:, 1] < np.minimum(left, right)[:, 1]).all()
        inside = (found.points >= found.boxes[:, None, :2] - 5) & (found.points <= found.boxes[:, None, 2:] + 5)
        assert inside.mean() > 0.95
        x1, y1, x2, y2 = boxes[0].astype(int)  # a face of which a part lies outside: its box ends at the edge
        cut = np.ascontiguousarray(picture[y1 + (y2 - y1) // 8 :, x1 + (x2 - x1) // 8 :])
        beyond = mtcnn.detect(cut).boxes
        assert (beyond >= 0).all() and (beyond <= np.tile(cut.shape[1::-1], 2)).all()
    assert hits >= 0.95 * 48 and wrong <= 2


def test_mtcnn_follows_a_shift(mtcnn, composed):
    """Moved by 40 pixels, a picture gives boxes and points moved by as much, but for what a pixel's rounding does."""
    picture, _ = composed[0]
    moved = np.zeros((620, 1040, 3), np.uint8)
    moved[40:580, 40:1000] = picture
    a, b = mtcnn.detect(picture), mtcnn.detect(moved)
    between = overlap(a.boxes + np.float32(40), b.boxes.astype(np.float32))
    assert len(a) >= 4 and (between.max(axis=1) > 0.8).all()
    assert abs(a.points + 40 - b.points[between.argmax(axis=1)]).mean() < 3


def test_mtcnn_smallest_face(composed):
    large = [detector("mtcnn", 120).detect(picture) for picture, _ in composed[:4]]
    heights = np.concatenate([found.boxes[:, 3] - found.boxes[:, 1] for found in large])
    assert 0 < len(heights) < 22 and heights.min() > 80  # of 24


@pytest.mark.parametrize("shape", [(1, 1), (11, 300), (12, 12), (40, 3)])
def test_mtcnn_on_a_picture_without_a_face(mtcnn, shape):
    found = mtcnn.detect(np.full((*shape, 3), 90, np.uint8))
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.points.shape == (0, 5, 2)


def test_mtcnn_from_a_folder(mtcnn, tmp_path):
    for entry, name in zip(ENTRIES, NAMES, strict=True):
        (tmp_path / name).symlink_to(registry.find(entry))
    assert detector(tmp_path, 30).checksum == mtcnn.checksum != detector(tmp_path, 40).checksum
    (tmp_path / NAMES[0]).unlink()
    with pytest.raises(OnnxError, match=r"mtcnn_pnet\.onnx: no such file found"):
        detector(tmp_path)


SIDE = (64, 96)  # height and width of the input
LEVELS = {8: (8, 12), 16: (4, 6), 32: (2, 3)}


def constant(path, outputs, side=SIDE, echo=False):
    """A model with these outputs, whatever it sees; with ``echo`` the mean of its input is added to each."""
    nodes = [("ReduceMean", ["input"], ["mean"], {"keepdims": 0}), ("Mul", ["mean", "nought"], ["nothing"])]
    nodes += [("Add", [f"c{n}", "mean" if echo else "nothing"], [f"o{n}"]) for n in range(len(outputs))]
    constants = {f"c{n}": output.astype(np.float32) for n, output in enumerate(outputs)}
    told = [(f"o{n}", output.shape) for n, output in enumerate(outputs)]
    return network(path, nodes, [("input", (1, 3, *side))], told, constants | {"nought": np.zeros((), np.float32)})


def outputs(batched=False):
    """Scores, boxes and points of every level, nothing found anywhere."""
    made = [np.zeros((height * width * 2, last)) for last in (1, 4, 10) for height, width in LEVELS.values()]
    return [part[None] for part in made] if batched else made


def put(made, level, row, column, anchor, score, sides, points):
    """A face at a cell of a level; sides and points in steps from the middle of the cell."""
    step = 8 << level
    width = LEVELS[step][1]
    place = (row * width + column) * 2 + anchor
    for kind, value in enumerate((score, sides, np.ravel(points))):
        made[3 * kind + level][..., place, :] = value


POINTS = [(-0.5, -0.5), (0.5, -0.5), (0.0, 0.0), (-0.25, 0.5), (0.25, 0.5)]


@pytest.mark.parametrize("batched", [False, True])
def test_scrfd_by_hand(tmp_path, batched):
    """A picture of 192 × 128 is halved; so a box in the input is twice as large in the picture."""
    made = outputs(batched)
    put(made, 0, 2, 5, 1, 0.9, (1, 1.5, 2, 2.5), POINTS)  # middle (40, 16): 32, 4 to 56, 36
    put(made, 2, 1, 2, 0, 0.7, (0.25, 0.5, 0.5, 0.75), POINTS)  # middle (64, 32): 56, 16 to 80, 56
    put(made, 1, 1, 1, 0, 0.4, (1, 1, 1, 1), POINTS)  # too uncertain
    found = detector(constant(tmp_path / "a.onnx", made), 20).detect(np.zeros((128, 192, 3), np.uint8))
    assert found.boxes.tolist() == [[64, 8, 112, 72], [112, 32, 160, 112]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.points[0].tolist() == [[72, 24], [88, 24], [80, 32], [76, 40], [84, 40]]
    assert found.points[1].tolist() == [[96, 32], [160, 32], [128, 64], [112, 96], [144, 96]]


def test_scrfd_keeps_the_better_of_two_and_what_is_large_enough(tmp_path):
    made = outputs()
    put(made, 1, 1, 2, 0, 0.6, (1, 1, 1, 1), POINTS)
    put(made, 1, 1, 2, 1, 0.8, (1, 1, 1, 1.25), POINTS)  # IoU 8 / 9
    put(made, 0, 6, 10, 0, 0.95, (0.5, 0.5, 0.5, 0.5), POINTS)  # 8 pixels
    model = constant(tmp_path / "a.onnx", made)
    picture = np.zeros((64, 96, 3), np.uint8)
    assert SCRFD(model, min_face=20).detect(picture).scores.tolist() == pytest.approx([0.8])
    assert SCRFD(model, min_face=8).detect(picture).scores.tolist() == pytest.approx([0.95, 0.8])
    assert SCRFD(model, min_face=8, threshold=0.9).detect(picture).scores.tolist() == pytest.approx([0.95])


def test_scrfd_sees_rgb_from_minus_one_to_one_with_black_beyond_the_picture(tmp_path):
    """The scores here are the mean of the input: a red picture that fills a half of it."""
    made = outputs()
    put(made, 0, 3, 3, 0, 0.0, (2, 2, 2, 2), POINTS)
    model = SCRFD(constant(tmp_path / "a.onnx", made, echo=True), min_face=1, threshold=-9.0)
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[..., 0] = 255
    expected = (127.5 / 128 * 1 / 6) - (127.5 / 128 * 5 / 6)
    assert model.detect(picture).scores[0] == pytest.approx(expected, abs=1e-5)


def test_other_networks_are_refused(tmp_path):
    with pytest.raises(OnnxError, match=r"a\.onnx: 6 outputs found .*, expected 9"):  # SCRFD without points
        detector(constant(tmp_path / "a.onnx", outputs()[:6]))
    odd = [part[:-1] for part in outputs()]
    with pytest.raises(OnnxError, match="an output of 191 rows found, expected a multiple of 12 × 8 cells of 8 pixels"):
        detector(constant(tmp_path / "b.onnx", odd)).detect(np.zeros((9, 7, 3), np.uint8))
    with pytest.raises(OnnxError, match="expected"):
        MTCNN(*[constant(tmp_path / "c.onnx", outputs())] * 3)
