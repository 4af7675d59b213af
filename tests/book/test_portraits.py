import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from famf_book import portraits
from famf_book.portraits import HEIGHT, OBJECTS, WIDTH, obstacle, portrait, traits
from famf_lib.data import synthetic

STEPS = (0.0, 0.3, 0.6, 0.9)
PERSONS = [f"person-{n:04d}" for n in range(10)]


def pixels(*args, **kwargs) -> np.ndarray:
    return np.asarray(portrait(*args, **kwargs), dtype=float)


def falls(values) -> bool:
    return all(b < a for a, b in zip(values, values[1:], strict=False))


def differs(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.abs(a - b).max(axis=2) > 24).mean())


def test_a_portrait_is_a_function_of_its_numbers():
    seen = {"blur": 0.2, "darkness": 0.3, "occlusion": 0.4, "size": 0.5, "yaw": -33.0}
    first, again = portrait("person-0003", **seen), portrait("person-0003", **seen)
    assert first.size == (WIDTH, HEIGHT) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() and traits("person-0003") == traits("person-0003")


def test_persons_are_told_apart_and_known_again():
    faces = [pixels(name) for name in PERSONS]
    turned = [pixels(name, yaw=15.0, darkness=0.1, blur=0.1) for name in PERSONS]
    for i, face in enumerate(faces):
        assert np.argmin([np.abs(face - other).mean() for other in turned]) == i  # the same person's other picture
        assert all(differs(face, other) > 0.2 for j, other in enumerate(faces) if j != i)


@pytest.mark.parametrize("person", PERSONS[:4])
def test_each_sign_takes_more_the_higher_it_is(person):
    dark = [pixels(person, darkness=v) for v in STEPS]
    assert falls([p.mean() for p in dark]) and falls([p.std() for p in dark])
    assert falls([ndimage.laplace(pixels(person, blur=v).mean(axis=2)).var() for v in STEPS])
    ahead = pixels(person)
    assert falls([-differs(ahead, pixels(person, yaw=v)) for v in (0.0, 15.0, 60.0)])


def test_in_the_poorest_light_a_face_can_still_be_seen():
    for name in map("person-{}".format, range(40)):
        grey = pixels(name, darkness=1.0).mean(axis=2)
        assert grey.mean() > 40 and grey.std() > 5
        face = grey[HEIGHT // 3 : HEIGHT * 3 // 4, WIDTH // 3 : WIDTH * 2 // 3]
        assert face.mean() > 30 and np.ptp(face) > 25, f"{name}: eyes and mouth stand out from the skin"


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_obstacle_covers_more_and_more_and_lies_over_the_portrait(kind):
    person = next(name for name in map("person-{}".format, range(99)) if traits(name).object == kind)
    clear = pixels(person)
    covered = [differs(clear, pixels(person, occlusion=v)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert covered[0] == 0 and falls([-v for v in covered]) and covered[-1] > 0.25
    for occlusion in (0.0, 0.45, 1.0):
        over = Image.alpha_composite(portrait(person).convert("RGBA"), obstacle(person, occlusion))
        np.testing.assert_allclose(np.asarray(over.convert("RGB")), pixels(person, occlusion=occlusion), atol=1)


def test_a_small_face_has_as_few_pixels_as_its_box():
    def rows(size: float) -> int:
        return 1 + int((np.diff(pixels("person-0001", size=size), axis=0) != 0).any(axis=(1, 2)).sum())

    low, high = synthetic.BOX
    assert (portraits.SMALLEST, portraits.LARGEST) == (low, high)
    for size in (0.0, 0.1, 0.3):
        height = round(low * (high / low) ** size)
        assert height - 2 <= rows(size) <= height  # neighbouring rows of the backdrop may be the same
    assert rows(1.0) >= HEIGHT - 2


def test_yaw_moves_the_eyes_to_its_side_and_closer_together():
    def eyes(yaw: float) -> np.ndarray:
        head = portraits._Drawing(traits("person-0001"), float(np.radians(yaw)))
        return np.array([head.at(side * head.looks.eyes_apart, portraits.EYES)[0] for side in (-1, 1)])

    places = [eyes(yaw) for yaw in (-60, -30, 0, 30, 60)]
    assert falls([-p.mean() for p in places])
    gap = [p[1] - p[0] for p in places]
    assert gap[0] < gap[1] < gap[2] > gap[3] > gap[4]
    np.testing.assert_allclose(places[1] - portraits.CENTRE, -(places[3] - portraits.CENTRE)[::-1], atol=1e-12)


@pytest.mark.parametrize("yaw", [-90.0, 35.0])
def test_every_style_is_drawn_from_every_side(yaw):
    left, stranger = {*portraits.STYLES, *portraits.BEARDS, "none", "round", "square"}, pixels("a stranger", yaw=yaw)
    for name in map("person-{}".format, range(400)):
        if new := left & {traits(name).style, traits(name).beard, traits(name).glasses}:
            assert differs(pixels(name, yaw=yaw), stranger) > 0.2
            left -= new
    assert not left


@pytest.mark.parametrize(("name", "value"), [("blur", 1.1), ("size", -0.1), ("darkness", float("nan")), ("yaw", 91.0)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: found .*, expected"):
        portrait("person-0001", **{name: value})
    with pytest.raises(ValueError, match=r"^occlusion: found 1.1, expected"):
        obstacle("person-0001", 1.1)
