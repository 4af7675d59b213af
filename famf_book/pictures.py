"""Pictures of faces, and a figure of them: real pictures, drawn portraits of synthetic persons, or cards.

A card is a text with what is known of a face without a picture. Real pictures are read from the user's own files when a
page is executed, and are stored only in that page.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import SVG
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image, ImageOps

from famf_book import portraits
from famf_book.plots import WIDTH
from famf_lib.data import datasets, imfdb
from famf_lib.data.clipset import ClipSet
from famf_lib.support import rasters

PIXELS = (portraits.WIDTH, portraits.HEIGHT)
LATENTS = ["blur", "darkness", "occlusion", "size", "yaw"]
OF_IMFDB = ("imfdb", "chimera")


def absence(dataset: str) -> str | None:
    """None if the faces of a dataset can be shown, otherwise one sentence that says why not.

    Raises:
        ValueError: there is no such dataset.
    """
    return datasets.get(dataset).absence()


def faces_of(
    dataset: str, clipset: ClipSet, rows: Int[np.ndarray, " n"] | Sequence
) -> list[Image.Image] | list[str] | None:
    """A picture of 96 × 120 pixels for each of the faces ``rows`` (positions among all F faces), in their order.

    A face of IMFDB has a real picture, cropped to that shape; smaller ones are enlarged without smoothing. A synthetic
    face is drawn (see ``portraits``) with its own blur, darkness, occlusion, size and yaw. Any other face has a card, a
    text with its frame, height and quality. None if the faces cannot be shown (see ``absence``).

    Raises:
        ImfdbError: a picture is missing in the user's files.
    """
    if absence(dataset):
        return None
    rows = np.asarray(rows, dtype=int)
    columns = clipset.face_columns()
    kind = _kind(dataset, clipset)
    if kind == "cards":
        return [_card(face) for face in columns.iloc[rows].to_dict("records")]
    if kind == "portraits":
        return _drawn(clipset, columns.iloc[rows], rows)
    paths = columns["path"].iloc[rows]
    contents = imfdb.pictures(imfdb.archive(), set(paths)) if len(paths) else {}
    return [fitted(rasters.open(BytesIO(contents[path]))) for path in paths]


def origin(dataset: str, clipset: ClipSet, clips: Sequence[int] = ()) -> str:
    """What the pictures are, in a few sentences for the page that shows them; for cards also the names of ``clips``."""
    names = ", ".join(f"`{clipset.clips['name'][clip]}`" for clip in clips)
    return {
        "pictures": "The pictures are from IMFDB and were read from the files of the person who executed this page. "
        "They may be used for research and are not distributed with the book.",
        "portraits": "*These portraits are illustrations.* Synthetic persons have no faces: the looks derive from the "
        "person's name, and the blur, darkness, occlusion, size and yaw from the generator's variables.",
        "cards": "*These data have no pictures.* The card of each face shows what the data contain: the frame in the "
        "video, the height of the box in pixels, and the quality score."
        + (f" The clips are, from top to bottom, {names}." if names else ""),
    }[_kind(dataset, clipset)]


def _kind(dataset: str, clipset: ClipSet) -> Literal["pictures", "portraits", "cards"]:
    # The vectors of an import of IMFDB can be on a machine without its pictures.
    if dataset in OF_IMFDB or (clipset.info.get("pictures") == "imfdb" and not imfdb.absence()):
        return "pictures"
    return "portraits" if {*LATENTS, "own"} <= set(clipset.face_columns()) else "cards"


def _card(face: dict[str, Any]) -> str:
    face = {name: value for name, value in face.items() if pd.notna(value)}
    lines = [f"frame {face['frame']:.0f}"] if "frame" in face else []
    lines += [f"{face['y2'] - face['y1']:.0f} px high"] if {"y1", "y2"} <= face.keys() else []
    lines += [f"quality {face['quality']:.3g}"] if "quality" in face else []
    return "\n".join(lines).replace("-", "−")


def fitted(picture: Image.Image) -> Image.Image:
    """A picture cropped to 4 : 5 around its centre and resized to 96 × 120 pixels."""
    small = picture.height < PIXELS[1]
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return ImageOps.fit(picture.convert("RGB"), PIXELS, method)


def _drawn(clipset: ClipSet, faces, rows: Int[np.ndarray, " n"]) -> list[Image.Image]:
    looks, seen = looks_of(clipset, faces["own"].tolist(), rows), faces[LATENTS].to_dict("records")
    return [portraits.portrait(who, **face) for who, face in zip(looks, seen, strict=True)]


def looks_of(clipset: ClipSet, own: Sequence[bool], rows: Int[np.ndarray, " n"]) -> list[str]:
    """The names that determine the looks of synthetic faces; ``own`` says whether each shows the clip's person."""
    clips = clipset.clips.iloc[np.searchsorted(clipset.offsets.numpy(), rows, side="right") - 1]
    return [_looks(*of) for of in zip(rows.tolist(), clips["name"], clips["person"], own, strict=True)]


def _looks(row: int, clip: str, person: object, own: bool) -> str:
    known = isinstance(person, str)
    if own:
        return str(person) if known else clip  # a noise clip shows one stranger
    # The other faces of a clip are one other person; without a person, each is somebody else.
    return f"{clip}, somebody else" if known else f"{clip}, face {row}"


# --- a figure of faces -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """A row of faces that belong together: those of a kind, or of a clip.

    ``text`` is printed above each picture; the bar below it takes the share ``bars`` of its width. ``total`` is the
    number of all faces if only some are given. A picture that is a text becomes a card.
    """

    label: str
    pictures: Sequence[Image.Image | str]
    text: Sequence[str] = ()
    bars: Sequence[float] = ()
    note: str = ""  # small, below the label
    total: int | None = None


MARGIN, LABEL, MORE, GAP, LEAST = 0.04, 1.18, 0.6, 0.07, 0.45  # inches; LEAST is the height of a label


def sheet(strips: Sequence[Strip], columns: int = 6, lines: int = 1) -> Figure:
    """A figure with one row of faces per strip, its label on the left, and the number of further faces on the right.

    A strip has up to ``lines`` lines of ``columns`` faces. Use ``light`` to show the figure on a page.

    Raises:
        ValueError: columns or lines are below 1, or a strip has not one text per picture.
    """
    if columns < 1 or lines < 1:
        raise ValueError(f"columns and lines: found {columns} and {lines}, expected 1 or more")
    for strip in strips:
        if len(strip.text) not in (0, len(strip.pictures)):
            found = f"{len(strip.text)} texts for {len(strip.pictures)} pictures"
            raise ValueError(f"text of the strip {strip.label!r}: found {found}, expected one per picture, or none")
    wide = min((WIDTH - 2 * MARGIN - LABEL - MORE) / columns, 1.35)
    high = (wide - GAP) * PIXELS[1] / PIXELS[0]
    shown = [min(len(strip.pictures), columns * lines) for strip in strips]
    above = [0.2 if strip.text else 0.0 for strip in strips]
    heights = [
        max(max(1, -(-n // columns)) * (high + GAP + up), LEAST) + 0.06 for n, up in zip(shown, above, strict=True)
    ]
    height = sum(heights) + 2 * MARGIN if strips else 0.6
    figure = plt.figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    if not strips:
        axes.text(WIDTH / 2, height / 2, "no faces to show", ha="center", va="center", color="0.45")
    top = MARGIN
    for strip, n, up, step in zip(strips, shown, above, heights, strict=True):
        middle = top + max(up + high / 2, LEAST / 2)
        axes.text(MARGIN, middle - 0.02 * bool(strip.note), strip.label, va="bottom" if strip.note else "center",
                  fontsize=10.5, fontweight="bold", color="0.15")  # fmt: skip
        axes.text(MARGIN, middle + 0.04, strip.note, va="top", fontsize=8.5, color="0.4", linespacing=1.3)
        if not n:
            axes.text(MARGIN + LABEL, middle, "no such face", va="center", fontsize=9, color="0.45", style="italic")
        for i in range(n):
            x = MARGIN + LABEL + i % columns * wide
            y = top + up + i // columns * (high + GAP + up)
            _place(axes, strip.pictures[i], x, y, wide - GAP, high)
            if strip.text:
                axes.text(x + (wide - GAP) / 2, y - 0.05, strip.text[i], ha="center", va="bottom", fontsize=9)
            if strip.bars:
                axes.add_patch(Rectangle((x, y + high), strip.bars[i] * (wide - GAP), 0.05, color="C0", linewidth=0))
        if more := max(strip.total or 0, len(strip.pictures)) - n:
            last = top + up + (max(n, 1) - 1) // columns * (high + GAP + up) + high / 2
            at = MARGIN + LABEL + ((n - 1) % columns + 1) * wide + 0.03 if n else WIDTH - MARGIN - MORE
            axes.text(at, last, f"+ {more:,}", va="center", fontsize=8.5, color="0.4")
        top += step
    axes.set(xlim=(0, WIDTH), ylim=(height, 0), aspect="auto")
    return figure


def _place(axes: plt.Axes, picture: Image.Image | str, x: float, y: float, wide: float, high: float) -> None:
    """Draws a picture with round corners, at its own resolution in a vector file."""
    corner = FancyBboxPatch((x, y), wide, high, boxstyle="round,pad=0,rounding_size=0.06", transform=axes.transData)
    if isinstance(picture, str):
        axes.add_patch(corner).set(facecolor="0.5", alpha=0.15, linewidth=0)
        axes.text(x + wide / 2, y + high / 2, picture, ha="center", va="center", fontsize=7.5, linespacing=1.5)
    else:
        shown = axes.imshow(picture, extent=(x, x + wide, y + high, y), interpolation="none")
        shown.set_clip_path(corner)


def light(figure: Figure, quality: int = 85) -> SVG:
    """The figure as SVG with its pictures as JPEG: about a fifth of the size of Matplotlib's PNG."""
    file = BytesIO()
    # By default Matplotlib merges all pictures into one as large as the figure.
    with plt.rc_context({"image.composite_image": False}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)

    def smaller(match: re.Match) -> str:
        again = BytesIO()
        picture = rasters.open(BytesIO(base64.b64decode(match[1]))).convert("RGB")
        picture.save(again, "JPEG", quality=quality, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(again.getvalue()).decode()}"

    return SVG(re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", smaller, file.getvalue().decode()))
