"""Drawn portraits: a face to look at for a synthetic person, who is only a direction in a space of features.

They are illustrations, and no model sees them. The looks come from a hash of the person's name. Blur, darkness,
occlusion, size and yaw come from the generator's own variables of that face, see ``famf_lib.data.synthetic``.

A head is drawn as a round body: a point of the face has a longitude θ (0 in the middle of the face, in radians) and a
height y, and turning the head by a yaw moves it to x = w(y) sin(θ + yaw), where w(y) is half the width of the head.
"""

import hashlib
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.ImageColor import getrgb

WIDTH, HEIGHT = 96, 120  # pixels of a portrait: 4 : 5, as faces are cut out
FINER = 4  # drawn so many times larger and reduced: smooth edges
SMALLEST, LARGEST = 24.0, 480.0  # pixels: the heights that size 0 and size 1 stand for (synthetic.BOX)
Colour = tuple[int, ...]
Points, Numbers = Float[np.ndarray, "_ 2"] | list, Float[np.ndarray, "*n"] | float

SKINS = ("#f6d7c0", "#eec1a0", "#e2a982", "#cf9068", "#b57650", "#94593a", "#74432b", "#533020")
HAIRS = ("#1d1a1c", "#33231d", "#553524", "#7d4b2a", "#a86432", "#c9953f", "#e4c37c", "#a9a6a4", "#e6e2dc", "#8c2f22")
IRISES = ("#3b2618", "#5d3d22", "#4c6b4a", "#4a7397", "#7c8a93")
CLOTHES = ("#27476b", "#8d3b3f", "#3f6b57", "#c28a3a", "#5a4a78", "#d8d3c8", "#33363c", "#b9604a", "#4f8794", "#7b7f4b")
BACKDROPS = ("#dfe6ea", "#e9e2d4", "#dbe5da", "#e8dcdc", "#dcdbe8", "#d3e0e2", "#efe4cb", "#cfd6dd")
STYLES = ("crop", "parted", "curly", "afro", "long", "bob", "bun", "bald", "waves", "fringe")
BEARDS = ("none", "none", "none", "none", "none", "full", "moustache", "stubble")
OBJECTS = ("scarf", "somebody")

# Heights on the canvas, whose own height is 1: the head, and what is on it.
TOP, WIDEST, EYES, CHIN = 0.165, 0.43, 0.475, 0.815
CENTRE = WIDTH / HEIGHT / 2
CANVAS = [(0, 0), (2 * CENTRE, 0), (2 * CENTRE, 1), (0, 1)]
# The height at which short and long hair begin, by |longitude| from the middle of the face to the back of the head.
LONGITUDES = (0, 0.3, 0.7, 1.0, 1.2, 1.4, 1.6, 2.2, 3.2)
SHORT = (0.285, 0.287, 0.295, 0.345, 0.43, 0.49, 0.51, 0.68, 0.71)
LONG = (0.26, 0.285, 0.345, 0.43, 0.59, 0.76, 0.77, 0.79, 0.80)
FRINGE = {"bob": 0.38, "fringe": 0.365}  # how far down hair falls over the forehead
CURTAINS = {"long": 0.97, "waves": 0.87, "bob": 0.745}  # how far down it falls at the sides, over the ears
VOLUME = {"crop": 0.045, "bun": 0.045, "afro": 0.16}  # how far it stands out, as a share of the head; others 0.10


def traits(person: str) -> SimpleNamespace:
    """The looks of a person, from nothing but the name. Lengths are shares of the portrait's height."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(person.encode()).digest()[:8]))
    one_of = rng.choice
    skin, style, beard = rng.integers(len(SKINS)), one_of(STYLES), one_of(BEARDS)
    clothes, accent = one_of(CLOTHES, 2, replace=False)
    return SimpleNamespace(
        skin=getrgb(SKINS[skin]),
        hair=getrgb(one_of(HAIRS if skin < 4 else HAIRS[:4])),
        iris=getrgb(one_of(IRISES if skin < 4 else IRISES[:2])),
        clothes=getrgb(clothes),
        accent=getrgb(accent),  # of the glasses, of the scarf, or of somebody else's coat
        backdrop=getrgb(one_of(BACKDROPS)),
        style=style,
        beard="none" if style in (*CURTAINS, "bun") else beard,
        glasses=one_of(("none", "none", "none", "round", "square")),
        width=rng.uniform(0.205, 0.245),  # half the width of the head
        jaw=rng.uniform(1.9, 3.4),  # from round to square
        eye=rng.uniform(0.036, 0.046),  # half the width of an eye
        eyes_apart=rng.uniform(0.40, 0.50),  # the longitude of an eye
        brow=rng.uniform(0.011, 0.024),  # its thickness
        brow_slant=rng.uniform(-0.012, 0.016),
        nose=rng.uniform(0.595, 0.635),  # how far down it reaches
        mouth=rng.uniform(0.30, 0.44),  # half its width, a longitude
        smile=rng.uniform(-0.008, 0.028),
        object=one_of(OBJECTS),  # what is in the way where something is
    )


def portrait(
    person: str, *, blur: float = 0, darkness: float = 0, occlusion: float = 0, size: float = 1, yaw: float = 0
) -> Image.Image:
    """Draws a person as one face of a clip shows it: an RGB picture of 96 × 120 pixels. It is an illustration.

    The name decides the looks. Blur, darkness and occlusion (by a scarf or the back of somebody's head) go from 0 to 1.
    A size from 0 to 1 is a height from 24 to 480 pixels on a logarithmic scale; below 120 the pixels show. Yaw is in
    degrees from -90 to 90; a positive one looks to the right of the picture. A number out of range is a ValueError.
    """
    _check(0.0, 1.0, blur=blur, darkness=darkness, occlusion=occlusion, size=size)
    _check(-90.0, 90.0, yaw=yaw)
    drawing = _Drawing(traits(person), float(np.radians(yaw)))
    drawing.draw_person()
    picture = drawing.image.reduce(FINER)
    picture.alpha_composite(obstacle(person, float(occlusion)))
    # As light takes its way: the scene is lit, passes the lens, and falls on so many pixels.
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    pixels = pixels.mean() + (1 - 0.3 * darkness) * (pixels - pixels.mean())
    pixels *= (1 - 0.5 * darkness) * (1 - darkness * np.array([0.12, 0.06, 0], dtype=np.float32))  # never black
    picture = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(blur_radius(float(blur))))
    if (height := SMALLEST * (LARGEST / SMALLEST) ** size) < HEIGHT:
        picture = picture.resize((round(WIDTH / HEIGHT * height), round(height)), Image.Resampling.BOX)
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


def blur_radius(blur: float) -> float:
    """The standard deviation of a blur from 0 to 1, in pixels of the portrait."""
    return 0.055 * HEIGHT * blur**1.6


def obstacle(person: str, occlusion: float) -> Image.Image:
    """Draws only what is in the way of a person's face: an RGBA picture of 96 × 120 pixels to lay over a portrait."""
    _check(0.0, 1.0, occlusion=occlusion)
    drawing = _Drawing(traits(person))
    if occlusion:
        getattr(drawing, f"draw_{drawing.looks.object}")(occlusion)
    return drawing.image.reduce(FINER)


def _check(least: float, most: float, **values: float | int) -> None:
    for name, value in values.items():
        if not least <= value <= most:
            raise ValueError(f"{name}: found {value}, expected a number from {least:g} to {most:g}")


def _mixed(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round((1 - share) * x + share * y) for x, y in zip(a, b, strict=True))


def _shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1 nearer to white."""
    return _mixed(colour, (255, 255, 255) if factor > 1 else (0, 0, 0), abs(1 - factor))


def _oval(x: float, y: float, rx: float, ry: float, arc: tuple = (0, 2), power: float = 2) -> Float[np.ndarray, "49 2"]:
    """Points of an ellipse, or of an arc of it in units of π; with a power above 2 it is squarer."""
    angle = np.pi * np.linspace(*arc, 49)
    way = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (x, y) + np.sign(way) * np.abs(way) ** (2 / power) * (rx, ry)


def _pixels(points: Points) -> list[float]:
    return (np.asarray(points) * HEIGHT * FINER).flatten().tolist()


class _Drawing:
    """A transparent picture whose height is the unit of length, and a round head of a person to draw on it."""

    def __init__(self, looks: SimpleNamespace, yaw: float = 0.0):
        self.image = Image.new("RGBA", (WIDTH * FINER, HEIGHT * FINER))
        self.looks, self.yaw, self.turn = looks, yaw, float(np.sin(yaw))
        self.width = looks.width * (1 + 0.16 * abs(self.turn))  # a head is longer than wide
        self.x = CENTRE - 0.035 * self.turn
        self.fold = _mixed(_shade(looks.skin, 0.72), (150, 50, 40), 0.12)  # the colour of folds and shadows
        self.rim = np.linspace(-np.pi / 2, np.pi / 2, 81) - yaw  # the longitudes in view, from left to right

    def area(self, points: Points, colour: Colour, opacity: float = 1.0, radius: float = 0.0, inside: Points = CANVAS):
        """An area; with a radius its edges are soft, and another area cuts it off."""
        if not radius:
            return ImageDraw.Draw(self.image).polygon(_pixels(points), fill=colour)
        mask, cut = (Image.new("L", self.image.size) for _ in range(2))
        ImageDraw.Draw(mask).polygon(_pixels(points), fill=round(255 * opacity))
        ImageDraw.Draw(cut).polygon(_pixels(inside), fill=255)
        mask = mask.reduce(FINER).filter(ImageFilter.GaussianBlur(radius * HEIGHT)).resize(mask.size)  # small is fast
        self.image.paste(colour, mask=ImageChops.multiply(mask, cut))

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """A line with round ends."""
        if len(points) > 2:
            ImageDraw.Draw(self.image).line(_pixels(points), colour, round(width * HEIGHT * FINER), joint="curve")
            for x, y in (points[0], points[-1]):
                self.area(_oval(x, y, width / 2, width / 2), colour)

    def at(self, theta: Numbers, y: Numbers, out: float = 1.0) -> Float[np.ndarray, "*n 2"]:
        """Points of the face on the picture; ``out`` lifts them from the head."""
        low = (np.clip(y, WIDEST, CHIN) - WIDEST) / (CHIN - WIDEST)  # from the widest place to the chin
        high = (WIDEST - np.clip(y, TOP, WIDEST)) / (WIDEST - TOP)
        half = self.width * np.sqrt(1 - high**2) * (1 - low**self.looks.jaw) ** (1 / 1.9)
        # The chin of a turned head lies in front of the neck.
        x = self.x + 0.07 * self.turn * low + out * half * np.sin(np.clip(theta + self.yaw, -np.pi / 2, np.pi / 2))
        return np.stack(np.broadcast_arrays(x, y), axis=-1)

    def in_view(self, theta: Numbers, y: Numbers, out: float = 1.0) -> Float[np.ndarray, "_ 2"]:
        """The points of a line along the face that are in view."""
        return self.at(theta, y, out)[np.abs(theta + self.yaw) < 1.5]

    def seen(self, theta: float) -> float:
        """How much of its width is left of what lies at that longitude: 1 in front, 0 from the rim on."""
        return max(0.0, float(np.cos(np.clip(theta + self.yaw, -np.pi / 2, np.pi / 2))))

    def outline(self, grown: float = 0.0) -> Float[np.ndarray, "120 2"]:
        """The outline of the head, from the chin up its right side and down its left one."""
        y = CHIN - (CHIN - TOP) * (1 - np.cos(np.linspace(0, np.pi, 60))) / 2  # denser where the outline turns
        sides = np.concatenate([self.at(np.pi, y, 1 + grown), self.at(-np.pi, y, 1 + grown)[::-1]])
        sides[:, 1] -= grown * (WIDEST - sides[:, 1]).clip(0)
        return sides

    def draw_person(self) -> None:
        looks, x, wide, t = self.looks, self.x - 0.06 * self.turn, 0.52 * self.looks.width, np.linspace(0, 1, 20)
        middle, rim = (Image.new("RGBA", self.image.size, _shade(looks.backdrop, factor)) for factor in (1.2, 0.84))
        self.image.paste(Image.composite(rim, middle, Image.radial_gradient("L").resize(self.image.size)))
        back = _shade(looks.hair, 0.92)
        if looks.style in CURTAINS:
            side, down = 1.34 * self.width, CURTAINS[looks.style]
            self.area([*_oval(x, 0.40, side, 0.265, (1, 2)), (x + side, down), (x - side, down)], back)
        elif looks.style == "afro":
            self.area(_oval(x, 0.37, 1.62 * self.width, 0.335), back)
        elif looks.style == "bun":
            self.area(_oval(self.x - 0.75 * self.width * self.turn, TOP - 0.035, 0.085, 0.078), back)
        neck = [(CENTRE - wide, 0.62), (CENTRE + wide, 0.62), (CENTRE + 1.15 * wide, 1), (CENTRE - 1.15 * wide, 1)]
        self.area(neck, _shade(looks.skin, 0.93))
        self.area(_oval(self.at(0.0, CHIN)[0], 0.82, 0.15, 0.075), self.fold, 0.75, 0.015, neck)
        left = np.c_[CENTRE - 1.02 * wide - 0.30 * t**0.8, 0.885 + 0.12 * t**2.2][::-1]
        collar, right = _oval(CENTRE, 0.885, 1.02 * wide, 0.075, (1, 0)), (2 * CENTRE, 0) + left[::-1] * (-1, 1)
        self.area([(-0.1, 1.1), *left, *collar, *right, (1, 1.1)], looks.clothes)
        self.line(collar, _shade(looks.clothes, 0.78), 0.014)
        self.draw_ears(behind=True)
        self.area(self.outline(), looks.skin)
        self.area(_oval(self.x - np.copysign(0.3, self.turn), 0.56, 0.2, 0.4), self.fold, 0.42, 0.05, self.outline())
        blush = _mixed(looks.skin, (214, 84, 70), 0.1 + 0.4 * sum(looks.skin) / 765)
        for x, y, seen in ((*self.at(theta, 0.62), self.seen(theta)) for theta in (-0.62, 0.62)):
            self.area(_oval(x, y, 0.055 * seen, 0.04), blush, 0.45, 0.02, self.outline())
        for draw in (self.draw_mouth, self.draw_eyes_and_nose, self.draw_hair, self.draw_ears, self.draw_glasses):
            draw()

    def draw_ears(self, behind: bool = False) -> None:
        """Ears lie at the sides of the head: one comes to the front as the head turns, the other goes out of sight."""
        for side in (-1, 1) if self.looks.style not in CURTAINS else ():
            turned = side * np.pi / 2 + self.yaw
            if (abs(turned) >= np.pi / 2 - 0.12) == behind and abs(turned) < np.pi / 2 + 0.5:
                x, wide = self.at(side * np.pi / 2, 0.52, 1 + 0.03 * behind)[0], 0.030 + 0.016 * max(0, np.cos(turned))
                self.area(_oval(x, 0.52, wide, 0.056), _shade(self.looks.skin, 0.94))
                self.area(_oval(x + 0.2 * wide * side, 0.525, 0.5 * wide, 0.032), self.fold, 0.55, 0.002)

    def draw_mouth(self) -> None:
        looks, t = self.looks, np.linspace(-1, 1, 41)
        colour, full = _mixed(looks.hair, (30, 22, 20), 0.15), looks.beard == "full"
        if looks.beard in ("full", "stubble"):
            theta = self.rim[np.abs(self.rim) < 1.62]  # no beard at the back of the head
            line = np.interp(np.abs(theta), [0.25, 0.45, 0.9, 1.25, 1.6], [0.66, 0.665, 0.64, 0.54, 0.50])
            top = self.at(theta, line, 1.02)
            whole = [*top, (top[-1, 0], 1), (top[0, 0], 1)]
            self.area(whole, colour, 0.36 + 0.64 * full, 0.012 - 0.006 * full, self.outline(0.03 * full))
        if looks.beard in ("full", "moustache"):
            self.line(self.in_view(1.05 * looks.mouth * t, 0.672 + 0.024 * t**2, 1.03), colour, 0.030)
        along, y, thick = looks.mouth * t, 0.705 - looks.smile * t**2, 0.019 * (1 - t**2)
        lip = _mixed(looks.skin, (168, 50, 58), 0.42 if looks.beard == "none" else 0.3)
        self.area([*self.in_view(along, y - 0.55 * thick), *self.in_view(along, y + thick)[::-1]], lip)
        self.line(self.in_view(along, y), _mixed(self.fold, (70, 20, 25), 0.45), 0.0075)

    def draw_eyes_and_nose(self) -> None:
        looks, high, t = self.looks, 0.56 * self.looks.eye, np.linspace(-1, 1, 13)
        brow = _mixed(_shade(looks.hair, 0.85), _shade(looks.skin, 0.35), 0.55)
        for side in (-1, 1):
            theta = side * looks.eyes_apart
            if (seen := self.seen(theta)) > 0.12:
                (x, y), wide = self.at(theta, EYES), looks.eye * seen
                gaze = x + 0.25 * wide * self.turn
                self.area(_oval(x, y, wide * 1.4, high * 1.7), self.fold, 0.45, 0.008)
                self.area(_oval(x, y, wide, high), _mixed((252, 250, 246), looks.skin, 0.20))
                self.area(_oval(gaze, y, min(0.74 * high, wide), 0.95 * high), looks.iris)
                self.area(_oval(gaze, y, min(0.36 * high, wide), 0.5 * high), (15, 12, 12))
                self.area(_oval(gaze - 0.006, y - 0.007, 0.0055 * seen, 0.0055), (255, 255, 255))
                self.line(_oval(x, y, 1.06 * wide, 1.06 * high, (1.02, 1.98)), _shade(brow, 0.6), 0.009)
            slope = EYES - 0.062 - 0.014 * (1 - t**2) - looks.brow_slant * t * side
            self.line(self.in_view(theta + 0.27 * t, slope), brow, looks.brow)
        skin, low, turn = looks.skin, looks.nose, self.turn
        bridge, base, tip = self.at(0.0, EYES + 0.01), self.at(0.0, low + 0.02), self.at(0.0, low) + (0.065 * turn, 0)
        side = np.array([0.030 * (1 - 0.5 * abs(turn)), 0])
        if abs(turn) > 0.15:  # it stands out from a turned head
            shape = [bridge - side * 0.6, bridge + side * 0.6, tip, base + side, base - side]
            self.area(shape, _mixed(skin, self.fold, 0.2 * (abs(turn) < 0.9)))
        if abs(turn) < 0.75:
            under = _oval(0.75 * base[0] + 0.25 * tip[0], low + 0.006, 0.9 * side[0], 0.018, (0.05, 0.95))
            self.line(under, _mixed(skin, self.fold, 0.85), 0.008)
            self.area(_oval((tip[0] + bridge[0]) / 2, low - 0.045, 0.009, 0.035), _shade(skin, 1.4), 0.55, 0.006)

    def draw_hair(self) -> None:
        colour, theta, style = self.looks.hair, self.rim, self.looks.style
        if style == "bald":
            return self.area(_oval(self.x - 0.06, 0.25, 0.06, 0.03), (255, 255, 255), 0.4, 0.02)
        line = np.interp(np.abs(theta), LONGITUDES, LONG if style in CURTAINS else SHORT)
        line += (style == "parted") * 0.04 * np.sin(4 * theta) * (np.abs(theta) < np.pi / 4)
        line = np.maximum(line, FRINGE.get(style, 0) + 0.007 * np.sin(23 * theta) * (np.abs(theta) < 0.9))
        # Over the head from the right end of the line to the left one, along the outline.
        volume = VOLUME.get(style, 0.10)
        front, edge = self.at(theta, line, 1 + 0.6 * volume), self.outline(volume)
        edge = edge[edge[:, 1] < np.repeat([line[-1], line[0]], 60)]
        self.area(cap := np.concatenate([front, edge]), colour)
        for x, y in [*edge[::5], *front[6:76:10][np.abs(theta[6:76:10]) < 1]] if style == "curly" else ():
            self.area(_oval(x, y, 0.043, 0.040), colour)
        y = np.linspace(0.40, CURTAINS.get(style, 0), 30)
        curl = (0.013 if style == "waves" else 0.004) * np.sin(24 * y)
        for side in (-1, 1) if style in CURTAINS else ():  # from the temples down, over neck and ears
            if side * (turned := 1.32 * side + self.yaw) < np.pi / 2 - 0.03:
                inner = self.x + self.width * np.sin(turned) + side * 0.12 * (y - 0.40) ** 2 + curl
                outer = self.x + side * (self.width * (1 + volume) + 0.10 * (y - 0.40)) + curl
                self.area([*np.c_[inner, y], *np.c_[outer, y][::-1]], colour)
                self.line(np.c_[0.45 * inner + 0.55 * outer, y][4:], _shade(colour, 0.84), 0.006)
        gloss = _oval(self.x, 0.40, 0.80 * self.width, 0.185, (1.15, 1.48))
        self.area([*gloss, *(gloss[::-1] + (0.004, 0.022))], _mixed(colour, (255, 240, 220), 0.30), 0.75, 0.010, cap)

    def draw_glasses(self) -> None:
        frame, middle, wide = _shade(self.looks.accent, 0.7), 1.02 * self.looks.eyes_apart, 0.35
        if self.looks.glasses == "none":
            return
        high, power = (0.062, 2.0) if self.looks.glasses == "round" else (0.050, 4.5)
        for side in (-1, 1):
            rim, hinge = _oval(side * middle, EYES + 0.004, wide, high, power=power), side * (middle + wide)
            if self.seen(side * middle) > 0.1:
                self.area(self.at(*rim.T, 1.05), (235, 244, 250), 0.20, 0.002)
                self.line(self.at(*rim.T, 1.05), frame, 0.0105)
            if self.seen(hinge) > 0.05 and self.looks.style not in CURTAINS:
                self.line(self.at(np.linspace(hinge, side * 1.45, 8), EYES - 0.01, 1.03), frame, 0.0095)
        if self.seen(0.0) > 0.1:
            bridge = (middle - wide) * np.array([-1.0, 0.0, 1.0]), EYES - np.array([0.008, 0.016, 0.008])
            self.line(self.at(*bridge, 1.05), frame, 0.0105)

    def draw_scarf(self, occlusion: float) -> None:
        """A scarf, pulled up from the shoulders to the brows."""
        accent, top, wide = self.looks.accent, 1.01 - 0.63 * occlusion, 1.3 * self.looks.width
        body = _oval(CENTRE, top + 0.6, wide, 0.6, power=5.0)
        self.area(body, accent)
        self.line(body[26:47], _shade(accent, 1.18), 0.012)
        for k in range(9):
            fold = _oval(CENTRE + 0.03 * (-1) ** k, top + 0.03 + 0.075 * k, wide, 0.04, (-0.1, 1.1))
            self.area([*fold, *(fold[::-1] + (0, 0.014))], _shade(accent, 0.62), 0.8, 0.007, body)

    def draw_somebody(self, occlusion: float) -> None:
        """The back of somebody's head and shoulder, nearer to the camera and out of focus."""
        hair, x, size = getrgb(HAIRS[len(self.looks.style) % 4]), -0.29 + 0.66 * occlusion, 0.26 + 0.10 * occlusion
        self.area(_oval(x - 0.06, 1.14, 1.35 * size, 0.36), _shade(self.looks.accent, 0.55))
        self.area(_oval(x, 0.60, 0.80 * size, 1.05 * size), hair)
        self.area(_oval(x + 0.36 * size, 0.50, 0.14 * size, 0.5 * size), _shade(hair, 1.3), 0.55, 0.03)
        self.image = self.image.convert("RGBa").filter(ImageFilter.GaussianBlur(1.7 * FINER)).convert("RGBA")
