"""Drawn portraits: a face to look at for a synthetic person, who is only a direction in a space of features.

They are illustrations and data of nothing: no model sees them. A person's looks come from a hash of the name, so that
a person is known again and two persons are told apart. How well a face is seen (blurred, dark, occluded, small, turned
away) comes from the generator's own variables of that face, see ``datasets.synthetic``.

A head is drawn as a round body: a point of the face has a longitude θ (0 in the middle of the face, in radians) and a
height y, and turning the head by a yaw moves it to x = w(y) sin(θ + yaw), where w(y) is half the width of the head.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter

WIDTH, HEIGHT = 96, 120  # pixels of a portrait: 4 : 5, as faces are cut out
FINER = 4  # drawn so many times larger and reduced: smooth edges
SMALLEST, LARGEST = 24.0, 480.0  # pixels: the heights that size 0 and size 1 stand for (datasets.synthetic.BOX)

Colour = tuple[int, int, int]
Points = Float[np.ndarray, "_ 2"] | list
Heights = Float[np.ndarray, "*n"] | float

SKINS = ("#f6d7c0", "#eec1a0", "#e2a982", "#cf9068", "#b57650", "#94593a", "#74432b", "#533020")
HAIRS = ("#1d1a1c", "#33231d", "#553524", "#7d4b2a", "#a86432", "#c9953f", "#e4c37c", "#a9a6a4", "#e6e2dc", "#8c2f22")
IRISES = ("#3b2618", "#5d3d22", "#4c6b4a", "#4a7397", "#7c8a93")
CLOTHES = ("#27476b", "#8d3b3f", "#3f6b57", "#c28a3a", "#5a4a78", "#d8d3c8", "#33363c", "#b9604a", "#4f8794", "#7b7f4b")
BACKDROPS = ("#dfe6ea", "#e9e2d4", "#dbe5da", "#e8dcdc", "#dcdbe8", "#d3e0e2", "#efe4cb", "#cfd6dd")
FRAMES = ("#22201f", "#6b3f22", "#8f1f2b", "#2f4a6d")
STYLES = ("crop", "parted", "curly", "afro", "long", "bob", "bun", "bald", "waves", "fringe")
BEARDS = ("none", "none", "none", "none", "none", "full", "moustache", "stubble", "goatee")
OBJECTS = ("scarf", "hand", "somebody")

# Heights on the canvas, whose own height is 1: the head, and what is on it.
TOP, WIDEST, EYES, CHIN = 0.165, 0.43, 0.475, 0.815
CENTRE = WIDTH / HEIGHT / 2


@dataclass(frozen=True)
class Traits:
    """How a person looks. Lengths are shares of the portrait's height."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    accent: Colour  # of the scarf, or of somebody else's coat
    backdrop: Colour
    style: str  # of STYLES
    beard: str  # of BEARDS
    glasses: str  # none, round, square
    frame: Colour
    earrings: bool
    width: float  # half the width of the head
    jaw: float  # 2 is round, 3.4 square
    eye: float  # half the width of an eye
    eyes_apart: float  # longitude of an eye
    brow: float  # thickness
    brow_slant: float
    nose: float  # how far down it reaches
    mouth: float  # half its width, a longitude
    smile: float
    object: str  # of OBJECTS: what is in the way where something is


def traits(person: str) -> Traits:
    """The looks of a person, from nothing but the name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(person.encode()).digest()[:8]))

    def one_of(values: Iterable[str]) -> str:
        values = tuple(values)
        return values[rng.integers(len(values))]

    def two_of(values: tuple[str, ...]) -> tuple[str, str]:
        first, second = rng.choice(len(values), 2, replace=False)
        return values[first], values[second]

    skin, style, beard = rng.integers(len(SKINS)), one_of(STYLES), one_of(BEARDS)
    light_hair = skin < 4  # fair hair goes with fair skin more often than not
    hair = one_of(HAIRS if light_hair else (*HAIRS[:4], *HAIRS[:3], HAIRS[7]))
    clothes, accent = two_of(CLOTHES)
    if style in ("long", "bob", "bun"):
        beard = "none"
    return Traits(
        skin=_rgb(SKINS[skin]),
        hair=_rgb(hair),
        iris=_rgb(one_of(IRISES if light_hair else IRISES[:2])),
        clothes=_rgb(clothes),
        accent=_rgb(accent),
        backdrop=_rgb(one_of(BACKDROPS)),
        style=style,
        beard=beard,
        glasses=one_of(("none", "none", "none", "round", "square")),
        frame=_rgb(one_of(FRAMES)),
        earrings=bool(rng.random() < 0.6) and beard == "none" and style in ("bun", "afro", "bald"),
        width=rng.uniform(0.205, 0.245),
        jaw=rng.uniform(1.9, 3.4),
        eye=rng.uniform(0.036, 0.046),
        eyes_apart=rng.uniform(0.40, 0.50),
        brow=rng.uniform(0.011, 0.024),
        brow_slant=rng.uniform(-0.012, 0.016),
        nose=rng.uniform(0.595, 0.635),
        mouth=rng.uniform(0.30, 0.44),
        smile=rng.uniform(-0.008, 0.028),
        object=one_of(OBJECTS),
    )


def portrait(
    person: str,
    *,
    blur: float = 0.0,
    darkness: float = 0.0,
    occlusion: float = 0.0,
    size: float = 1.0,
    yaw: float = 0.0,
) -> Image.Image:
    """The portrait of a person as one face of a clip shows it, an RGB picture of 96 × 120 pixels. An illustration.

    Args:
        person: the name; it decides the looks.
        blur: 0 to 1, out of focus.
        darkness: 0 to 1, less light and less contrast.
        occlusion: 0 to 1, how far something is in the way: a scarf, a hand, or the back of somebody's head.
        size: 0 to 1, a face of 24 to 480 pixels height on a logarithmic scale; with fewer than 120 the pixels show.
        yaw: degrees, -90 to 90; positive looks to the right of the picture.

    Raises:
        ValueError: a number outside of its range.
    """
    blur, darkness, occlusion, size, yaw = map(float, (blur, darkness, occlusion, size, yaw))  # Pillow takes no NumPy
    for name, value in (("blur", blur), ("darkness", darkness), ("occlusion", occlusion), ("size", size)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: found {value}, expected a number from 0 to 1")
    if not -90 <= yaw <= 90:
        raise ValueError(f"yaw: found {yaw}, expected degrees from -90 to 90")
    looks = traits(person)
    canvas = _Canvas(looks.backdrop)
    _draw_person(canvas, looks, np.radians(yaw))
    if occlusion > 0:
        _draw_object(canvas, looks, occlusion)
    picture = canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    # As light takes its way: the scene is lit, passes the lens, and falls on so many pixels.
    if darkness:
        picture = _darkened(picture, darkness)
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_radius(blur)))
    height = SMALLEST * (LARGEST / SMALLEST) ** size
    if height < HEIGHT:
        few = (max(2, round(WIDTH / HEIGHT * height)), max(2, round(height)))
        picture = picture.resize(few, Image.Resampling.BOX).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    return picture


def blur_radius(blur: float) -> float:
    """The standard deviation of a blur from 0 to 1, in pixels of the portrait."""
    return 0.055 * HEIGHT * blur**1.6


def obstacle(person: str, occlusion: float) -> Image.Image:
    """What is in the way of a person's face, alone: an RGBA picture of 96 × 120 pixels to lay over a portrait.

    Raises:
        ValueError: an occlusion that is not a number from 0 to 1.
    """
    if not 0 <= occlusion <= 1:
        raise ValueError(f"occlusion: found {occlusion}, expected a number from 0 to 1")
    looks, seen = traits(person), []
    for ground in ((0, 0, 0), (255, 255, 255)):  # what shows through makes the difference between the two
        canvas = _Canvas(looks.backdrop)
        canvas.image.paste(ground, (0, 0, *canvas.image.size))
        if occlusion > 0:
            _draw_object(canvas, looks, float(occlusion))
        seen.append(np.asarray(canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.float32))
    alpha = 255 - (seen[1] - seen[0]).mean(axis=2, keepdims=True)
    colour = seen[0] * 255 / np.maximum(alpha, 1)
    return Image.fromarray(np.rint(np.concatenate([colour, alpha], axis=2)).clip(0, 255).astype(np.uint8), "RGBA")


# --- canvas and colours ----------------------------------------------------------------------------------------------


class _Canvas:
    """A picture with the unit of length that its height is 1."""

    def __init__(self, backdrop: Colour):
        self.scale = HEIGHT * FINER
        shape = (WIDTH * FINER, HEIGHT * FINER)
        middle, rim = (Image.new("RGB", shape, _shade(backdrop, factor)) for factor in (1.2, 0.84))
        self.image = Image.composite(rim, middle, Image.radial_gradient("L").resize(shape))

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def area(self, points: Points, colour: Colour) -> None:
        self.draw.polygon([tuple(p) for p in np.asarray(points) * self.scale], fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """A line with round ends."""
        scaled, wide = np.asarray(points) * self.scale, max(1, width * self.scale)
        self.draw.line([tuple(p) for p in scaled], fill=colour, width=round(wide), joint="curve")
        for x, y in scaled[[0, -1]]:
            self.draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        box = np.array([x - rx, y - ry, x + rx, y + ry]) * self.scale
        self.draw.ellipse(tuple(box), fill=colour)

    def soft(self, points: Points, colour: Colour, opacity: float, radius: float, inside=None) -> None:
        """An area with soft edges, cut off by the area ``inside`` where one is given."""
        mask = self._mask(points).filter(ImageFilter.GaussianBlur(radius * self.scale))
        mask = mask.point(lambda v: round(v * opacity))
        if inside is not None:
            mask = ImageChops.multiply(mask, self._mask(inside))
        self.image.paste(Image.new("RGB", self.image.size, colour), mask=mask)

    def _mask(self, points: Points) -> Image.Image:
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([tuple(p) for p in np.asarray(points) * self.scale], fill=255)
        return mask


def _rgb(code: str) -> Colour:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def _shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1 nearer to white."""
    if factor <= 1:
        return tuple(round(v * factor) for v in colour)
    return tuple(round(255 - (255 - v) * (2 - factor)) for v in colour)


def _mixed(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round((1 - share) * x + share * y) for x, y in zip(a, b, strict=True))


def _ellipse(x: float, y: float, rx: float, ry: float, n: int = 60) -> Float[np.ndarray, "n 2"]:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _darkened(picture: Image.Image, darkness: float) -> Image.Image:
    """Less light, and what is left lies closer together and a little bluer."""
    pixels = np.asarray(picture, dtype=np.float32)
    grey = pixels.mean()
    pixels = grey + (1 - 0.5 * darkness) * (pixels - grey)
    pixels = pixels * (1 - 0.88 * darkness**1.25) * (1 - darkness * np.array([0.12, 0.06, 0.0], dtype=np.float32))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


# --- the head --------------------------------------------------------------------------------------------------------


class _Head:
    """The round body on which a face is drawn."""

    def __init__(self, looks: Traits, yaw: float):
        self.looks, self.yaw = looks, yaw
        self.width = looks.width * (1 + 0.16 * abs(np.sin(yaw)))  # a head is longer than wide
        self.x = CENTRE - 0.035 * np.sin(yaw)

    def half(self, y: Heights) -> Heights:
        """Half the width of the head at a height."""
        y = np.clip(np.asarray(y, dtype=float), TOP, CHIN)
        above = np.sqrt(np.clip(1 - ((WIDEST - y) / (WIDEST - TOP)) ** 2, 0, 1))
        below = np.clip(1 - ((y - WIDEST) / (CHIN - WIDEST)).clip(0) ** self.looks.jaw, 0, 1) ** (1 / 1.9)
        return self.width * np.where(y < WIDEST, above, below)

    def middle(self, y: Heights) -> Heights:
        """The axis of the head at a height: the chin of a turned head lies in front of the neck."""
        return self.x + 0.07 * np.sin(self.yaw) * np.clip((np.asarray(y) - WIDEST) / (CHIN - WIDEST), 0, 1)

    def at(self, theta, y, out: float = 1.0) -> Float[np.ndarray, "*n 2"]:
        """Points of the face on the canvas; ``out`` lifts them from the head."""
        theta, y = np.broadcast_arrays(np.asarray(theta, dtype=float), np.asarray(y, dtype=float))
        return np.stack(
            [self.middle(y) + out * self.half(y) * np.sin(np.clip(theta + self.yaw, -np.pi / 2, np.pi / 2)), y], axis=-1
        )

    def seen(self, theta: float) -> float:
        """How much of its width is left of what lies at that longitude: 1 in front, 0 from the rim on."""
        return float(np.clip(np.cos(np.clip(theta + self.yaw, -np.pi / 2, np.pi / 2)), 0, 1))

    def outline(self, grown: float = 0.0, low: float = TOP, high: float = CHIN) -> Float[np.ndarray, "n 2"]:
        # denser towards the ends, where the outline turns
        y = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 60))) / 2
        half = self.half(y) * (1 + grown)
        y = np.where(y < WIDEST, WIDEST - (WIDEST - y) * (1 + grown), y)
        left, right = np.stack([self.middle(y) - half, y], 1), np.stack([self.middle(y) + half, y], 1)
        return np.concatenate([left, right[::-1]])


def _draw_person(canvas: _Canvas, looks: Traits, yaw: float) -> None:
    head = _Head(looks, yaw)
    dark = _mixed(_shade(looks.skin, 0.72), (150, 50, 40), 0.12)  # the colour of folds and shadows
    _draw_hair_behind(canvas, head)
    _draw_shoulders(canvas, head, dark)
    _draw_ears(canvas, head, dark, behind=True)
    canvas.area(head.outline(), looks.skin)
    away = head.x - np.sign(yaw or 1) * 0.30
    canvas.soft(_ellipse(away, 0.56, 0.20, 0.40), dark, 0.42, 0.05, inside=head.outline())
    for side in (-1, 1):  # cheeks
        theta = 0.62 * side
        if head.seen(theta) > 0.15:
            x, y = head.at(theta, 0.62)
            blush = _mixed(looks.skin, (214, 84, 70), 0.1 + 0.4 * sum(looks.skin) / 765)
            canvas.soft(_ellipse(x, y, 0.055 * head.seen(theta), 0.04), blush, 0.45, 0.02, inside=head.outline())
    _draw_beard(canvas, head)
    _draw_mouth(canvas, head, dark)
    _draw_eyes(canvas, head, dark)
    _draw_nose(canvas, head, dark)
    _draw_hair(canvas, head)
    _draw_ears(canvas, head, dark, behind=False)
    _draw_glasses(canvas, head)


def _draw_shoulders(canvas: _Canvas, head: _Head, dark: Colour) -> None:
    looks = head.looks
    neck = 0.52 * looks.width
    canvas.area(
        [(CENTRE - neck, 0.62), (CENTRE + neck, 0.62), (CENTRE + 1.15 * neck, 1), (CENTRE - 1.15 * neck, 1)],
        _shade(looks.skin, 0.93),
    )
    shade = head.at(0, CHIN)[0]
    canvas.soft(
        _ellipse(shade, 0.82, 0.15, 0.075),
        dark,
        0.75,
        0.015,
        inside=[(CENTRE - neck, 0.62), (CENTRE + neck, 0.62), (CENTRE + neck, 1), (CENTRE - neck, 1)],
    )
    t = np.linspace(0, 1, 20)
    left = np.stack([CENTRE - 1.02 * neck - 0.30 * t**0.8, 0.885 + 0.12 * t**2.2], 1)
    right = left[::-1] * [-1, 1] + [2 * CENTRE, 0]
    collar = np.stack(
        [CENTRE + 1.02 * neck * np.cos(np.linspace(np.pi, 0, 20)), 0.885 + 0.075 * np.sin(np.linspace(np.pi, 0, 20))], 1
    )
    canvas.area(np.concatenate([[(-0.1, 1.1)], left[::-1], collar, right[::-1], [(1, 1.1)]]), looks.clothes)
    canvas.line(collar, _shade(looks.clothes, 0.78), 0.014)


def _draw_ears(canvas: _Canvas, head: _Head, dark: Colour, behind: bool) -> None:
    """Ears lie at the sides of the head: one comes to the front as the head turns, the other goes out of sight."""
    looks = head.looks
    if looks.style in CURTAINS:
        return
    for side in (-1, 1):
        turned = side * np.pi / 2 + head.yaw
        if (abs(turned) >= np.pi / 2 - 0.12) != behind or abs(turned) > np.pi / 2 + 0.5:
            continue
        x = head.middle(0.52) + head.half(0.52) * np.sin(turned) * (1.03 if behind else 1)
        wide = 0.030 + 0.016 * max(0.0, np.cos(turned))
        canvas.oval(x, 0.52, wide, 0.056, _shade(looks.skin, 0.94))
        canvas.oval(x + 0.2 * wide * side, 0.525, 0.5 * wide, 0.032, _mixed(looks.skin, dark, 0.55))
        if looks.earrings:
            canvas.oval(x, 0.594, 0.013, 0.013, (226, 184, 84))


def _draw_eyes(canvas: _Canvas, head: _Head, dark: Colour) -> None:
    looks = head.looks
    brow_colour = _mixed(_shade(looks.hair, 0.85), _shade(looks.skin, 0.35), 0.55)
    for side in (-1, 1):
        theta = side * looks.eyes_apart
        seen = head.seen(theta)
        if seen > 0.12:
            (x, y), wide, high = head.at(theta, EYES), looks.eye * seen, 0.56 * looks.eye
            canvas.soft(_ellipse(x, y, wide * 1.4, high * 1.7), dark, 0.45, 0.008)
            canvas.oval(x, y, wide, high, _mixed((252, 250, 246), looks.skin, 0.20))
            look = 0.25 * wide * np.sin(head.yaw)
            canvas.oval(x + look, y, min(0.74 * high, wide), 0.95 * high, looks.iris)
            canvas.oval(x + look, y, min(0.36 * high, wide), 0.5 * high, (15, 12, 12))
            canvas.oval(x + look - 0.006, y - 0.007, 0.0055 * seen, 0.0055, (255, 255, 255))
            angle = np.linspace(np.pi * 1.02, np.pi * 1.98, 16)
            lid = np.stack([x + 1.06 * wide * np.cos(angle), y + 1.06 * high * np.sin(angle)], 1)
            canvas.line(lid, _shade(brow_colour, 0.6), 0.009)
        t = np.linspace(-1, 1, 13)
        along = theta + 0.27 * t
        brow = head.at(along, EYES - 0.062 - 0.014 * (1 - t**2) - looks.brow_slant * t * side)
        brow = brow[np.abs(along + head.yaw) < 1.5]
        if len(brow) > 2:
            canvas.line(brow, brow_colour, looks.brow)


def _draw_nose(canvas: _Canvas, head: _Head, dark: Colour) -> None:
    looks, turn = head.looks, np.sin(head.yaw)
    tip_y = looks.nose
    bridge, base = head.at(0, EYES + 0.01), head.at(0, tip_y + 0.02)
    tip = head.at(0, tip_y) + [0.065 * turn, 0]
    wide = 0.030
    side = np.array([wide * (1 - 0.5 * abs(turn)), 0])
    if abs(turn) > 0.15:  # it stands out from a turned head
        canvas.area([bridge - side * 0.6, bridge + side * 0.6, tip, base + side, base - side], looks.skin)
    toward = np.sign(turn) or 1
    t = np.linspace(0, 1, 12)[:, None]
    ridge = (
        (1 - t) ** 2 * (bridge + side * 0.5 * toward)
        + 2 * t * (1 - t) * (bridge * 0.4 + tip * 0.6 + side * 0.2 * toward)
        + t**2 * tip
    )
    if 0.15 < abs(turn) < 0.9:
        canvas.line(ridge, _mixed(looks.skin, dark, 0.55), 0.007)
    angle = np.linspace(0.05 * np.pi, 0.95 * np.pi, 14)
    under = np.stack(
        [
            base[0] + 0.25 * (tip[0] - base[0]) + wide * (1 - 0.3 * abs(turn)) * np.cos(angle),
            tip_y + 0.006 + 0.018 * np.sin(angle),
        ],
        1,
    )
    if abs(turn) < 0.75:
        canvas.line(under, _mixed(looks.skin, dark, 0.85), 0.008)
        light = _ellipse(0.5 * (tip[0] + bridge[0]), tip_y - 0.045, 0.009, 0.035)
        canvas.soft(light, _shade(looks.skin, 1.4), 0.55, 0.006)


def _draw_mouth(canvas: _Canvas, head: _Head, dark: Colour) -> None:
    looks = head.looks
    t = np.linspace(-1, 1, 21)
    along = looks.mouth * t
    here = np.abs(along + head.yaw) < 1.52
    if here.sum() < 3:
        return
    lip = _mixed(looks.skin, (168, 50, 58), 0.42 if looks.beard == "none" else 0.3)
    upper = head.at(along, 0.705 - looks.smile * t**2)[here]
    full = 0.019 * (1 - t**2)[here]
    canvas.area(
        np.concatenate([upper - np.stack([0 * full, 0.55 * full], 1), (upper + np.stack([0 * full, full], 1))[::-1]]),
        lip,
    )
    canvas.line(upper, _mixed(dark, (70, 20, 25), 0.45), 0.0075)


def _draw_beard(canvas: _Canvas, head: _Head) -> None:
    looks = head.looks
    colour = _mixed(looks.hair, (30, 22, 20), 0.15)
    theta = np.linspace(-np.pi / 2, np.pi / 2, 61) - head.yaw  # what is seen, from rim to rim
    if looks.beard in ("full", "stubble"):
        line = np.interp(np.abs(theta), [0, 0.25, 0.45, 0.9, 1.25, 1.6], [0.66, 0.66, 0.665, 0.64, 0.54, 0.50])
        rim = head.outline(0.012, low=0.52)
        jaw = rim[np.argsort(rim[:, 0])]
        jaw = jaw[jaw[:, 1] > 0.53]
        area = np.concatenate([head.at(theta, line), jaw[::-1]])
        behind = np.abs(theta) > 1.62  # no beard at the back of the head
        if behind.any():
            area = np.concatenate([head.at(theta[~behind], line[~behind]), jaw[::-1]])
        if looks.beard == "full":
            canvas.soft(area, colour, 1.0, 0.006, inside=head.outline(0.03))
        else:
            canvas.soft(area, colour, 0.36, 0.012, inside=head.outline())
    if looks.beard in ("full", "moustache", "goatee"):
        t = np.linspace(-1, 1, 17)
        along = 1.05 * looks.mouth * t
        here = np.abs(along + head.yaw) < 1.5
        if here.sum() > 2:
            canvas.line(head.at(along, 0.672 + 0.024 * t**2, 1.03)[here], colour, 0.030)
    if looks.beard == "goatee" and head.seen(0.0) > 0.1:
        x, y = head.at(0, 0.775)
        canvas.oval(x, y, 0.055 * max(head.seen(0.0), 0.35), 0.048, colour)


def _draw_hair_behind(canvas: _Canvas, head: _Head) -> None:
    looks = head.looks
    colour = _shade(looks.hair, 0.86)
    back = head.x - 0.06 * np.sin(head.yaw)
    if looks.style in ("long", "waves"):
        down = CURTAINS[looks.style]
        wide = 1.32 * head.width
        y = np.linspace(0.30, down, 24)
        wave = 0.016 * np.sin(26 * y) if looks.style == "waves" else 0 * y
        left = np.stack([back - wide - 0.02 * (y > 0.8) + wave, y], 1)
        right = np.stack([back + wide - wave, y], 1)
        dome = np.stack(
            [back - wide * np.cos(np.linspace(0, np.pi, 30)), 0.30 - 0.17 * np.sin(np.linspace(0, np.pi, 30))], 1
        )
        canvas.area(np.concatenate([dome, right, left[::-1]]), colour)
    elif looks.style == "bob":
        wide, down = 1.28 * head.width, CURTAINS["bob"]
        canvas.oval(back, 0.44, wide, 0.30, colour)
        corners = [(back - wide, 0.44), (back + wide, 0.44), (back + 1.06 * wide, down), (back - 1.06 * wide, down)]
        canvas.area(corners, colour)
    elif looks.style == "afro":
        canvas.oval(back, 0.37, 1.62 * head.width, 0.335, colour)
    elif looks.style == "bun":
        x = head.x - 0.75 * head.width * np.sin(head.yaw)
        canvas.oval(x, TOP - 0.035, 0.085, 0.078, colour)
        canvas.oval(x - 0.02, TOP - 0.055, 0.04, 0.03, _shade(looks.hair, 1.12))


# The line where hair begins, by style: height over |longitude|, from the middle of the face to the back of the head.
HAIRLINES = {
    "crop": ([0, 0.7, 1.05, 1.25, 1.45, 1.6, 2.2, 3.2], [0.290, 0.295, 0.36, 0.45, 0.50, 0.50, 0.68, 0.70]),
    "parted": ([0, 0.7, 1.05, 1.25, 1.45, 1.6, 2.2, 3.2], [0.285, 0.30, 0.37, 0.46, 0.52, 0.52, 0.70, 0.72]),
    "curly": ([0, 0.7, 1.05, 1.25, 1.45, 1.6, 2.2, 3.2], [0.285, 0.30, 0.36, 0.45, 0.50, 0.50, 0.70, 0.72]),
    "afro": ([0, 0.7, 1.0, 1.3, 1.6, 2.2, 3.2], [0.285, 0.30, 0.36, 0.46, 0.52, 0.70, 0.72]),
    "long": ([0, 0.3, 0.7, 1.0, 1.2, 1.4, 3.2], [0.255, 0.285, 0.35, 0.44, 0.60, 0.78, 0.80]),
    "waves": ([0, 0.3, 0.7, 1.0, 1.2, 1.4, 3.2], [0.265, 0.285, 0.34, 0.42, 0.58, 0.74, 0.80]),
    "bob": ([0, 0.8, 1.0, 1.15, 1.3, 3.2], [0.375, 0.385, 0.44, 0.60, 0.72, 0.76]),
    "bun": ([0, 0.7, 1.05, 1.3, 1.6, 2.2, 3.2], [0.265, 0.285, 0.34, 0.44, 0.50, 0.62, 0.66]),
    "fringe": ([0, 0.8, 1.05, 1.25, 1.45, 1.6, 2.2, 3.2], [0.365, 0.37, 0.41, 0.48, 0.53, 0.52, 0.70, 0.72]),
}
CURTAINS = {"long": 0.97, "waves": 0.87, "bob": 0.745}  # how far down the hair falls that hides the ears
VOLUME = {"parted": 0.10, "curly": 0.10, "afro": 0.16, "long": 0.09, "waves": 0.11, "bob": 0.10, "fringe": 0.10}


def _draw_hair(canvas: _Canvas, head: _Head) -> None:
    looks = head.looks
    if looks.style == "bald":
        canvas.soft(_ellipse(head.x - 0.06, 0.25, 0.06, 0.03), (255, 255, 255), 0.4, 0.02)
        return
    theta = np.linspace(-np.pi / 2, np.pi / 2, 81) - head.yaw
    line = np.interp(np.abs(theta), *HAIRLINES[looks.style])
    if looks.style == "parted":  # higher on the side of the parting
        line = line - 0.045 * np.exp(-(((theta + 0.35) / 0.28) ** 2)) + 0.03 * np.exp(-(((theta - 0.4) / 0.4) ** 2))
    if looks.style in ("bob", "fringe"):
        line = line + 0.007 * np.sin(23 * theta) * (np.abs(theta) < 0.9)
    grown = VOLUME.get(looks.style, 0.045)
    front = head.at(theta, line, 1 + 0.6 * grown)
    # Over the head from the right end of the line to the left one, along the outline.
    rim = head.outline(grown, high=0.80)
    left, right = rim[: len(rim) // 2], rim[len(rim) // 2 :][::-1]  # each from the top down
    left, right = left[left[:, 1] < line[0]], right[right[:, 1] < line[-1]]
    cap = np.concatenate([front, right[::-1], left])
    canvas.area(cap, looks.hair)
    if looks.style in CURTAINS:
        _draw_curtains(canvas, head, grown)
    if looks.style == "curly":
        edge = np.concatenate([left[::-1], right])
        step = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(edge, axis=0), axis=1))])
        for at in np.linspace(0, step[-1], 15):
            x, y = (np.interp(at, step, edge[:, i]) for i in (0, 1))
            canvas.oval(x, y, 0.045, 0.043, looks.hair)
        for k in range(6, 76, 10):
            x, y = front[k]
            if abs(theta[k]) < 1:
                canvas.oval(x, y - 0.008, 0.028, 0.026, looks.hair)
    shine = _mixed(looks.hair, (255, 240, 220), 0.30)
    arc = np.linspace(1.15 * np.pi, 1.48 * np.pi, 14)
    gloss = np.stack([head.x + 0.80 * head.width * np.cos(arc), 0.40 + 0.185 * np.sin(arc)], 1)
    gloss = np.concatenate([gloss, gloss[::-1] + [0.004, 0.022]])
    canvas.soft(gloss, shine, 0.75, 0.010, inside=cap)


def _draw_curtains(canvas: _Canvas, head: _Head, grown: float) -> None:
    """The long hair at both sides, from the temples down: over neck and ears, as far as it is on this side."""
    looks = head.looks
    y = np.linspace(0.40, CURTAINS[looks.style], 30)
    curl = (0.013 if looks.style == "waves" else 0.004) * np.sin(24 * y)
    for side in (-1, 1):
        turned = 1.32 * side + head.yaw
        if side * turned >= np.pi / 2 - 0.03:
            continue
        inner = head.x + head.width * np.sin(turned) + side * 0.12 * (y - 0.40) ** 2 + curl
        rim = head.x + side * head.width * (1 + grown) + side * 0.10 * (y - 0.40) + curl
        lock = np.concatenate([np.stack([inner, y], 1), np.stack([rim, y], 1)[::-1]])
        canvas.area(lock, looks.hair)
        middle = np.stack([0.45 * inner + 0.55 * rim, y], 1)
        canvas.line(middle[4:], _shade(looks.hair, 0.84), 0.006)


def _draw_glasses(canvas: _Canvas, head: _Head) -> None:
    looks = head.looks
    if looks.glasses == "none":
        return
    power = 2.0 if looks.glasses == "round" else 4.5
    angle = np.linspace(0, 2 * np.pi, 49)
    wide, high = 0.35, 0.062 if looks.glasses == "round" else 0.050
    inner = {}
    for side in (-1, 1):
        theta = side * looks.eyes_apart * 1.02
        cos, sin = np.cos(angle), np.sin(angle)
        x = theta + wide * np.sign(cos) * np.abs(cos) ** (2 / power)
        y = EYES + 0.004 + high * np.sign(sin) * np.abs(sin) ** (2 / power)
        rim = head.at(x, y, 1.05)
        inner[side] = head.at(theta - side * wide, EYES - 0.008, 1.05)
        if head.seen(theta) > 0.1:
            canvas.soft(rim, (235, 244, 250), 0.20, 0.002)
            canvas.line(rim, looks.frame, 0.0105)
        hinge, ear = theta + side * wide, side * 1.45
        if min(head.seen(hinge), 1) > 0.05 and looks.style not in CURTAINS:
            canvas.line(head.at(np.linspace(hinge, ear, 8), EYES - 0.01, 1.03), looks.frame, 0.0095)
    if head.seen(0.0) > 0.1:
        canvas.line(np.stack([inner[-1], (inner[-1] + inner[1]) / 2 - [0, 0.008], inner[1]]), looks.frame, 0.0105)


# --- what is in the way ----------------------------------------------------------------------------------------------


def _draw_object(canvas: _Canvas, looks: Traits, occlusion: float) -> None:
    {"scarf": _draw_scarf, "hand": _draw_hand, "somebody": _draw_somebody}[looks.object](canvas, looks, occlusion)


def _draw_scarf(canvas: _Canvas, looks: Traits, occlusion: float) -> None:
    """A scarf, pulled up from the shoulders to the brows."""
    top = 1.01 - 0.63 * occlusion
    wide = 1.26 * looks.width
    x = np.linspace(CENTRE - wide, CENTRE + wide, 40)
    upper = np.stack([x, top - 0.035 * ((x - CENTRE) / wide) ** 2 + 0.006 * np.sin(22 * x)], 1)
    down = np.linspace(0, 1, 20)
    flare = wide + 0.03 * np.sin(np.pi * down) + 0.10 * down**4
    right = np.stack([CENTRE + flare, upper[-1, 1] + (1.05 - upper[-1, 1]) * down], 1)
    left = right * [-1, 1] + [2 * CENTRE, 0]
    body = np.concatenate([upper, right, left[::-1]])
    canvas.area(body, looks.accent)
    canvas.line(upper, _shade(looks.accent, 1.18), 0.012)
    for k in range(1, 9):
        fold = np.stack([x, upper[:, 1] + 0.075 * k + 0.025 * np.sin(9 * x + 1.7 * k)], 1)
        fold = np.concatenate([fold, fold[::-1] + [0, 0.014]])
        canvas.soft(fold, _shade(looks.accent, 0.62), 0.8, 0.007, inside=body)


def _draw_hand(canvas: _Canvas, looks: Traits, occlusion: float) -> None:
    """A hand that comes up from a lower corner, nearer the more it covers."""
    skin, line = _shade(looks.skin, 0.97), _mixed(_shade(looks.skin, 0.66), (130, 40, 30), 0.15)
    size = 0.24 + 0.38 * occlusion
    start, end = np.array([0.80, 1.28]), np.array([0.44, 0.62])
    palm = start + (end - start) * (0.03 + 0.97 * occlusion)
    arm = np.array([0.86, 1.35])
    along = (palm - arm) / np.linalg.norm(palm - arm)
    across = np.array([-along[1], along[0]])
    canvas.line(np.stack([palm - 0.1 * size * along, arm]), looks.clothes, 0.52 * size)
    canvas.line(np.stack([palm, palm - 0.42 * size * along]), skin, 0.46 * size)
    fingers = ((-0.30, 0.58, -0.30), (-0.10, 0.76, -0.08), (0.11, 0.74, 0.10), (0.31, 0.60, 0.28))
    for shift, length, lean in fingers:
        root = palm + shift * size * across + 0.05 * size * along
        tip = root + length * size * (along + lean * across) / np.hypot(1, lean)
        canvas.line(np.stack([root, tip]), line, 0.205 * size)
        canvas.line(np.stack([root, tip]), skin, 0.180 * size)
        canvas.oval(*(tip + 0.01 * size * along), 0.048 * size, 0.055 * size, _shade(skin, 1.35))
    thumb = palm - 0.30 * size * across - 0.22 * size * along
    reach = thumb + 0.50 * size * (0.55 * along - 0.83 * across)
    canvas.line(np.stack([thumb, reach]), line, 0.215 * size)
    canvas.line(np.stack([thumb, reach]), skin, 0.190 * size)
    canvas.oval(*palm, 0.34 * size, 0.34 * size, skin)
    canvas.soft(_ellipse(*(palm + 0.12 * size * across), 0.16 * size, 0.22 * size), line, 0.28, 0.05 * size)


def _draw_somebody(canvas: _Canvas, looks: Traits, occlusion: float) -> None:
    """The back of somebody's head and shoulder, nearer to the camera and out of focus."""
    hair, coat = _rgb(HAIRS[len(looks.style) % 4]), _shade(looks.accent, 0.55)
    x, size = -0.29 + 0.66 * occlusion, 0.26 + 0.10 * occlusion
    canvas.soft(_ellipse(x - 0.06, 1.14, 1.35 * size, 0.36), coat, 1.0, 0.014)
    canvas.soft(_ellipse(x, 0.60, 0.80 * size, 1.05 * size), hair, 1.0, 0.014)
    canvas.soft(_ellipse(x + 0.36 * size, 0.50, 0.14 * size, 0.5 * size), _shade(hair, 1.3), 0.55, 0.03)
