"""Drawn portraits: the same person looks the same, and each variable changes the picture as it says."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from famf_book import portraits
from famf_book.portraits import HEIGHT, OBJECTS, WIDTH, portrait, traits
from famf_lib.data import synthetic

STEPS = (0.0, 0.3, 0.6, 0.9)
PERSONS = [f"person-{n:04d}" for n in range(10)]


def pixels(*args, **kwargs) -> np.ndarray:
    return np.asarray(portrait(*args, **kwargs), dtype=float)


def falls(values) -> bool:
    return all(b < a for a, b in zip(values, values[1:], strict=False))


def differs(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pixels that are clearly not the same."""
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
        apart = [np.abs(face - other).mean() for other in turned]
        assert np.argmin(apart) == i  # nearest to the person's own other picture
        assert all(differs(face, other) > 0.2 for j, other in enumerate(faces) if j != i)


@pytest.mark.parametrize("person", PERSONS[:4])
def test_darkness_takes_light_and_contrast(person):
    seen = [pixels(person, darkness=v) for v in STEPS]
    assert falls([p.mean() for p in seen]) and falls([p.std() for p in seen])


@pytest.mark.parametrize("person", PERSONS[:4])
def test_blur_takes_the_edges(person):
    assert falls([ndimage.laplace(pixels(person, blur=v).mean(axis=2)).var() for v in STEPS])


@pytest.mark.parametrize("kind", OBJECTS)
def test_occlusion_covers_more_and_more(kind):
    person = next(name for name in (f"person-{n}" for n in range(100)) if traits(name).object == kind)
    clear = pixels(person)
    covered = [differs(clear, pixels(person, occlusion=v)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert covered[0] == 0 and falls([-v for v in covered]) and covered[-1] > 0.25


def test_a_small_face_has_as_few_pixels_as_its_box():
    def rows(size: float) -> int:
        picture = pixels("person-0001", size=size)
        return 1 + int((np.diff(picture, axis=0) != 0).any(axis=(1, 2)).sum())

    low, high = synthetic.BOX
    assert (portraits.SMALLEST, portraits.LARGEST) == (low, high)
    for size in (0.0, 0.1, 0.3):
        height = round(low * (high / low) ** size)
        assert height - 2 <= rows(size) <= height  # neighbouring rows of the backdrop may be the same
    assert rows(1.0) >= HEIGHT - 2


def test_yaw_moves_the_face_to_its_side():
    """The eyes follow the yaw, come closer to each other, and lie mirrored for the opposite yaw."""
    looks = traits("person-0001")

    def eyes(yaw: float) -> np.ndarray:
        head = portraits._Head(looks, np.radians(yaw))
        return np.array([head.at(side * looks.eyes_apart, portraits.EYES)[0] for side in (-1, 1)])

    places = [eyes(yaw) for yaw in (-60, -30, 0, 30, 60)]
    assert falls([-p.mean() for p in places])
    gap = [p[1] - p[0] for p in places]
    assert gap[0] < gap[1] < gap[2] > gap[3] > gap[4]
    np.testing.assert_allclose(places[1] - portraits.CENTRE, -(places[3] - portraits.CENTRE)[::-1], atol=1e-12)
    # And the picture follows the geometry: turning moves much of it, and more the further.
    ahead = pixels("person-0001")
    assert falls([-differs(ahead, pixels("person-0001", yaw=v)) for v in (0.0, 15.0, 60.0)])


@pytest.mark.parametrize("yaw", [-90.0, 35.0])
def test_every_style_is_drawn_from_every_side(yaw):
    left = {"style": set(portraits.STYLES), "beard": set(portraits.BEARDS), "glasses": {"none", "round", "square"}}
    stranger = pixels("a stranger", yaw=yaw)
    for n in range(400):
        looks = traits(f"person-{n}")
        new = [name for name, values in left.items() if getattr(looks, name) in values]
        if new:
            assert differs(pixels(f"person-{n}", yaw=yaw), stranger) > 0.2
            for name in new:
                left[name].discard(getattr(looks, name))
    assert not any(left.values())


@pytest.mark.parametrize(("name", "value"), [("blur", 1.1), ("size", -0.1), ("darkness", float("nan")), ("yaw", 91.0)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: found .*, expected"):
        portrait("person-0001", **{name: value})


@pytest.mark.parametrize("thing", OBJECTS)
@pytest.mark.parametrize("occlusion", [0.0, 0.45, 1.0])
def test_an_obstacle_over_a_portrait_is_the_portrait_with_it(thing, occlusion):
    person = next(name for name in map("person-{}".format, range(99)) if traits(name).object == thing)
    over = Image.alpha_composite(portrait(person).convert("RGBA"), portraits.obstacle(person, occlusion))
    apart = np.abs(np.asarray(over.convert("RGB"), dtype=float) - pixels(person, occlusion=occlusion))
    assert apart.mean() < 0.2 and apart.max() < 48  # where an edge crosses a pixel
    assert (differs(pixels(person), pixels(person, occlusion=occlusion)) > 0.02) == (occlusion > 0)
