"""A drawing of the answers of FAMF and of a second model to an explored clip.

It shows the faces with their weights, both rankings, φ and the attention matrix. It is HTML, because it is drawn again
whenever a slider moves and Matplotlib would be too slow. Thin marks show the answer to the unchanged clip.
"""

import base64
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from io import BytesIO

import numpy as np
from jaxtyping import Int
from PIL import Image

from famf_book import pictures, portraits
from famf_book.explore import FAMF_ROW, KINDS, ORIGINAL, Answer, Corruption, Explored, Explorer
from famf_lib.support.wording import counted

PERSONS = 6  # persons shown in the ranking
LEVELS = 10  # levels of occlusion, for each of which an obstacle is drawn once
SMALL, WIDE, NARROW = 12, 76, 58  # pixels: up to SMALL faces are WIDE, more are NARROW

# The two colours are from seaborn's colorblind palette. The background is that of the page, light or dark.
STYLE = """<style>
.famf-x {--x-ours: #0173b2; --x-other: #949494; --x-corrupted: #de8f05;
 font-size: 13px; line-height: 1.35; font-variant-numeric: tabular-nums;
 margin-bottom: 1rem}
.famf-x p.x-title {margin: 0 0 .4rem; font-weight: 600} .famf-x .x-note {font-weight: 400; opacity: .75}
.famf-x .x-faces {display: flex; flex-wrap: wrap; gap: 8px; padding: 0 4px; margin-bottom: 1rem}
.famf-x .x-picture {position: relative; aspect-ratio: 4/5; overflow: hidden; border-radius: 5px; margin-bottom: 4px;
  background: rgba(128,128,128,.18); outline: 2px solid transparent; outline-offset: 1px}
.famf-x .x-corrupted .x-picture {outline: 2px dashed var(--x-corrupted)}
.famf-x .x-picture img {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 0 !important;
  background: none !important; border-radius: 0; filter: none}
.famf-x .x-picture i {position: absolute; inset: 0; background-size: 100% 100%}
.famf-x .x-picture span {position: absolute; inset: 0; padding: 4px; font-size: 10px; white-space: pre-line}
.famf-x .x-bar {position: relative; height: 9px; background: rgba(128,128,128,.16); border-radius: 2px}
.famf-x .x-bar i {position: absolute; inset: 0 auto 0 0; background: var(--x-ours); border-radius: 2px}
.famf-x .x-other .x-bar i {background: var(--x-other)}
.famf-x .x-bar b {position: absolute; top: -2px; bottom: -2px; width: 2px; margin-left: -1px; background: currentColor}
.famf-x .x-below {display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start}
.famf-x .x-ranking {flex: 1 1 240px; max-width: 430px}
.famf-x .x-person {display: grid; grid-template-columns: 2.2em minmax(6em, 9.5em) 1fr 3em; gap: 6px;
  align-items: center; padding: 2px 0}
.famf-x .x-person > :last-child, .famf-x .x-person > :first-child {text-align: right}
.famf-x .x-person span {overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
.famf-x .x-true {font-weight: 600} .famf-x .x-ranking.x-other {opacity: .9}
.famf-x .x-cluster {display: grid; grid-template-columns: 4.2em 7em 2.6em 1fr; gap: 6px; align-items: center;
  white-space: nowrap}
.famf-x .x-cluster > :last-child {opacity: .75}
.famf-x .x-between {opacity: .8; padding-left: 1.2em; line-height: 1}
.famf-x svg {display: block; height: auto; max-width: 100%} .famf-x svg text {fill: currentColor; font-size: 11px}
</style>"""


Models = dict[str, tuple[Answer, Answer]]
"""By the name of a model, its answers to the corrupted and to the unchanged clip."""


class Album:
    """Caches the pictures of faces as data URLs; a face without a picture has the text of its card instead."""

    def __init__(self, explorer: Explorer):
        self.explorer, self._made = explorer, {}

    def pictures(self, rows: Int[np.ndarray, " n"]) -> list[str]:
        """The picture of each face; ``rows`` are positions among all faces."""
        missing = [row for row in dict.fromkeys(rows.tolist()) if row not in self._made]
        if missing:
            made = pictures.faces_of(self.explorer.dataset, self.explorer.clipset, missing)
            texts = (one if isinstance(one, str) else _address(one, "JPEG", quality=85) for one in made)
            self._made |= dict(zip(missing, texts, strict=True))
        return [self._made[row] for row in rows.tolist()]

    def looks(self, clip: Explored) -> list[str]:
        """The names that determine the looks of the faces of a synthetic clip."""
        if (key := ("looks", clip.clip)) not in self._made:
            own = clip.retake.table["own"].to_numpy()[clip.rows - int(clip.clipset.offsets[clip.clip])]
            self._made[key] = pictures.looks_of(clip.clipset, own.tolist(), clip.rows)
        return self._made[key]


@lru_cache(maxsize=1024)
def _obstacle(person: str, level: int) -> str:
    return _address(portraits.obstacle(person, level / LEVELS), "PNG")


def _address(picture: Image.Image, form: str, **options: int) -> str:
    file = BytesIO()
    picture.save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def drawing(
    album: Album,
    clip: Explored,
    how: Corruption = ORIGINAL,
    without: Sequence[str] = (),
    row: str = FAMF_ROW,
    other: str = "",
    parts: Sequence[str] = ("faces", "ranking", "clusters", "attention"),
) -> str:
    """The ``parts`` of the drawing as HTML; the background is transparent.

    ``row`` is FAMF with any number of clusters, and ``other`` the row of a second model, if there is to be one.
    """
    explorer = album.explorer
    models = {f"FAMF, {row}": (explorer.ask(clip, how, without, row), explorer.original(clip, row))}
    if other:
        models[other] = explorer.ask(clip, how, without, other), explorer.original(clip, other)
    now = next(iter(models.values()))[0]
    off = [m for m in now.tokens if m in without or not clip.modalities.get(m, ("", True))[1]]
    below = "".join(ranking(clip.person, name, *answers, name == other) for name, answers in models.items())
    below *= "ranking" in parts
    below += clusters(now) * ("clusters" in parts) + matrix(now, off) * ("attention" in parts)
    shown = faces(album, clip, how, models) * ("faces" in parts)
    whole = f'{STYLE}{shown}<div class="x-below">{below}</div>'
    return f'<div class="famf-x" role="group" aria-label="{_in_words(models)}">{whole}</div>'


def _in_words(models: Models) -> str:
    told = []
    for name, (now, _) in models.items():
        (_, first, p), *_ = now.ranking(1)
        lightest, heaviest = now.weights.min(), now.weights.max()
        told.append(
            f"{escape(name)}: {counted(len(now.weights), 'face')} with weights from {lightest:.2f} to {heaviest:.2f}; "
            f"the most probable person is {escape(first)}, with {p:.2f}"
        )
    return ". ".join(told)


def faces(album: Album, clip: Explored, how: Corruption, models: Models) -> str:
    """The faces in the order of their frames, each with a bar for its weight in each model.

    Corrupted ones have a dashed frame. The longest bar of a model is its largest weight.
    """
    corrupted = clip.corrupted(how)
    wide = WIDE if len(corrupted) <= SMALL else NARROW
    layers = _layers(album, clip, how, corrupted, wide)
    bars = [""] * len(corrupted)
    for number, (now, before) in enumerate(models.values()):
        most = max(float(now.weights.max()), float(before.weights.max()), 1e-9)
        for face, (weight, earlier) in enumerate(zip(now.weights.tolist(), before.weights.tolist(), strict=True)):
            bar = f"{_bar(weight / most, earlier / most)}{weight:.2f}"
            bars[face] += f'<div class="x-other">{bar}</div>' if number else f'<div class="x-weight">{bar}</div>'
    cells = [
        f'<div class="x-face{" x-corrupted" * bool(bad)}" style="width:{wide}px"><div class="x-picture">{layer}</div>'
        f"{bar}</div>"
        for bad, layer, bar in zip(corrupted, layers, bars, strict=True)
    ]
    colours = [f"{colour}: {escape(name)}" for colour, name in zip(("blue", "grey"), models, strict=False)]
    return (
        f'<p class="x-title">Weights of the faces <span class="x-note">{"; ".join(colours)}. {clip.rows.size} of the '
        f"{counted(int(clip.clipset.counts[clip.clip]), 'face')} of {escape(clip.name)}, as sampled by the model"
        "</span></p>"
        f'<div class="x-faces">{"".join(cells)}</div>'
    )


def _layers(album: Album, clip: Explored, how: Corruption, corrupted: np.ndarray, wide: int) -> list[str]:
    """The pictures in each cell: the face, blurred by CSS if need be, and the obstacle that occludes it."""
    shown = album.pictures(clip.face_rows(how))
    words = [
        f"Face {n} of {len(shown)}{f', {KINDS[how.kind]}' * bool(bad)}" for n, bad in enumerate(corrupted, start=1)
    ]
    if (degrees := clip.degrees(how)) is None:
        return [_picture(one, text) for one, text in zip(shown, words, strict=True)]
    own, looks = clip.degrees(Corruption(how.kind)), album.looks(clip)
    layers = []
    for n, (picture, who, degree, was) in enumerate(zip(shown, looks, degrees.tolist(), own.tolist(), strict=True)):
        worse = corrupted[n] and degree > was
        if how.kind == "blur":  # the squared radii of successive blurs add up
            more = (portraits.blur_radius(degree) ** 2 - portraits.blur_radius(was) ** 2) ** 0.5 if worse else 0
            layers.append(_picture(picture, words[n], more * wide / portraits.WIDTH))
        else:
            over = f'<i style="background-image:url({_obstacle(who, round(LEVELS * degree))})"></i>' if worse else ""
            layers.append(_picture(picture, words[n]) + over)
    return layers


def _picture(of: str, text: str, blur: float = 0.0) -> str:
    if not of.startswith("data:"):
        return f"<span>{escape(of)}</span>"
    style = f' style="filter:blur({blur:.1f}px) !important"' if blur else ""
    # The book inverts pictures of other classes when dark.
    return f'<img class="dark-light" alt="{text}" decoding="sync" src="{of}"{style}>'


def _bar(share: float, earlier: float | None = None) -> str:
    mark = "" if earlier is None else f'<b style="left:{earlier:.1%}"></b>'
    return f'<div class="x-bar"><i style="width:{share:.1%}"></i>{mark}</div>'


def ranking(person: str, name: str, now: Answer, before: Answer, other: bool = False) -> str:
    """The most probable persons according to one model; the clip's person is always among them."""
    told = []
    for place, who, probability in now.ranking(PERSONS, person):
        true = who == person
        told.append(
            ('<div class="x-between">⋮</div>' if place > PERSONS else "")
            + f'<div class="x-person{" x-true" * true}"><span>{place}</span>'
            f'<span title="{escape(who)}">{escape(who)}{" ✓" * true}</span>'
            f"{_bar(probability, before.probability(who))}<span>{probability:.2f}</span></div>"
        )
    note = '<span class="x-note">probability; ✓ marks the person of the clip</span>'
    title = f'<p class="x-title">{escape(name)} {note}</p>'
    return f'<div class="x-ranking{" x-other" * other}">{title}{"".join(told)}</div>'


def clusters(now: Answer) -> str:
    """φ of each cluster as a bar, and the share of the faces that it has; nothing for a model without φ."""
    if not len(now.phi):
        return ""
    most = max(float(now.phi.max()), 1e-9)
    lines = "".join(
        f'<div class="x-cluster"><span>face {k}</span>{_bar(phi / most)}<span>{phi:.2f}</span>'
        f"<span>{100 * load:.0f} % of faces</span></div>"
        for k, (phi, load) in enumerate(zip(now.phi.tolist(), now.load.tolist(), strict=True), start=1)
    )
    note = '<span class="x-note">a face\'s weight is the mean over its clusters</span>'
    return f'<div class="x-clusters"><p class="x-title">φ per cluster {note}</p>{lines}</div>'


def matrix(now: Answer, off: Sequence[str] = ()) -> str:
    """The attention matrix: each row is a token and its attention to the columns; a cell shows its value on hover."""
    names, size = list(now.tokens), 24 if len(now.tokens) <= SMALL else 16
    left, top, most = 62, 20, max(float(now.attention.max()), 1e-9)
    labels = [name.removeprefix("face ") for name in names]
    clusters = sum(name.startswith("face ") for name in names)
    cells = [
        f'<rect x="{left + c * size}" y="{top + r * size}" width="{size - 1}" height="{size - 1}" rx="2" '
        f'fill="#0173b2" fill-opacity="{value / most:.2f}"><title>attention of {names[r]} to {names[c]}: {value:.2f}'
        "</title></rect>"
        for (r, c), value in np.ndenumerate(now.attention)
    ]
    texts = []
    for n, name in enumerate(labels):
        middle, style = (n + 0.5) * size, ' opacity=".75" text-decoration="line-through"' if name in off else ""
        row = name if n >= clusters or n else f"face {name}"
        texts.append(f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end"{style}>{escape(row)}</text>')
        column = name if n < clusters else name[:1]
        texts.append(f'<text x="{left + middle}" y="{top - 6}" text-anchor="middle"{style}>{escape(column)}</text>')
    wide, high = left + len(names) * size, top + len(names) * size
    told = f"Attention matrix of {counted(clusters, 'cluster')} of the face and {len(names) - clusters} other tokens"
    note = f'<span class="x-note">each row attends to the columns; darkest: {most:.2f}</span>'
    return (
        f'<div style="width:{max(wide, 210)}px"><p class="x-title">Attention {note}</p>'
        f'<svg viewBox="0 0 {wide} {high}" width="{wide}" role="img" aria-label="{told}">'
        f'<rect x="{left}" y="{top}" width="{wide - left}" height="{high - top}" fill="currentColor" '
        f'fill-opacity=".05"/>{"".join(cells)}{"".join(texts)}</svg></div>'
    )
