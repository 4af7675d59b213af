"""The answer to "who is in this video?" as a contact sheet (the paper's Fig. 3 for one's own clip) or a page of HTML.

Both hold the user's pictures. They are written where the user says, and nowhere else.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from PIL import Image

from famf_book import pictures
from famf_lib.support.files import written_whole
from famf_lib.support.wording import counted
from famf_video.identification import Answer, IdentificationError, Identified
from famf_video.video import Video

ENDINGS = (".html", ".png")
COLUMNS, LINES = 6, 2  # faces of a clip that are shown
ROOM = 0.25  # of a box's sides, shown around the face
CLOSED = (
    "The model knows these persons and nobody else: it names one of them whoever is in the video. "
    "A probability says how it decides among them, not how sure one may be of a person."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td { padding: .2rem .5rem }
td.p { text-align: right; font-variant-numeric: tabular-nums; width: 4rem } td.b { width: 50% }
.bar { background: #2f6f9f; height: .8rem; border-radius: .2rem }
figure { margin: 1.5rem 0 } svg, img { max-width: 100%; height: auto } .said { color: #555 }
"""  # noqa: E501


def chosen(weights: Float[np.ndarray, " F"], number: int) -> Int[np.ndarray, " n"]:
    """At most ``number`` faces, evenly spaced in the order of weight from the lightest to the heaviest, both in."""
    order = np.argsort(weights, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(int))]


def crops(video: Video, answers: Sequence[Answer], number: int = COLUMNS * LINES) -> list[list[Image.Image]]:
    """Pictures of the ``chosen`` faces of each answer, cut out of the video with some room around."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    shown: list[list] = []
    for n, answer in enumerate(answers):
        faces = chosen(answer.weights, number)
        shown.append([None] * len(faces))
        for place, face in enumerate(faces):
            wanted.setdefault(int(answer.clip.frames[face]), []).append((n, place))
    for frame in video.numbered(wanted):
        whole = Image.fromarray(frame.picture)
        for n, place in wanted[frame.number]:
            answer = answers[n]
            box = answer.clip.boxes[chosen(answer.weights, number)[place]]
            room = ROOM * (box[2:] - box[:2])
            shown[n][place] = pictures.fitted(whole.crop([round(v) for v in (*(box[:2] - room), *(box[2:] + room))]))
    return shown


def sheet(found: Identified) -> Figure:
    """The faces of each clip with their weights, from the lightest to the heaviest; the answer stands at the left."""
    strips = []
    for answer, faces in zip(found.answers, crops(found.video, found.answers), strict=True):
        weights = answer.weights[chosen(answer.weights, COLUMNS * LINES)]
        strips.append(
            pictures.Strip(
                answer.persons[0],
                faces,
                [f"{weight:.2f}" for weight in weights],
                note=f"{answer.probabilities[0]:.0%}, by\n{counted(len(answer.weights), 'face')}",
                total=len(answer.weights),
            )
        )
    return pictures.sheet(strips, COLUMNS, LINES)


def check_writable(out: Path) -> None:
    """Raises: IdentificationError, for a name of another ending, or a folder; before anything is worked out."""
    if out.suffix.lower() not in ENDINGS:
        raise IdentificationError(f"{out}: ends in {out.suffix!r}, expected {' or '.join(ENDINGS)}")
    if out.is_dir():
        raise IdentificationError(f"{out}: a folder found, expected the name of a file")


def write(found: Identified, out: Path) -> Path:
    """Writes the answer, whole or not at all: a page that needs no other file and no network, or the sheet alone.

    Raises:
        IdentificationError: a name of another ending, or a folder.
    """
    check_writable(out)
    figure = sheet(found)
    with written_whole(out) as new:
        if out.suffix.lower() == ".png":
            figure.savefig(new, format="png", dpi=144, facecolor="white")
            plt.close(figure)
        else:
            new.write_text(page(found, figure), encoding="utf-8")
    return out


def page(found: Identified, figure: Figure) -> str:
    """The answer as a page of HTML with its pictures inside."""
    drawn = base64.b64encode(pictures.light(figure).data.encode()).decode()
    name = html.escape(found.video.path.name)
    parts = [f"<h1>Who is in {name}?</h1>"]
    for answer in found.answers:
        rows = "".join(
            f'<tr><td>{html.escape(person)}</td><td class="p">{p:.1%}</td>'
            f'<td class="b"><div class="bar" style="width: {100 * p:.1f}%"></div></td></tr>'
            for person, p in zip(answer.persons, answer.probabilities, strict=True)
        )
        title = html.escape(answer.name) if len(found.answers) > 1 else "The most probable"
        parts.append(f"<h2>{title}</h2><table>{rows}</table>")
    parts.append(
        f'<h2>Which faces said so</h2><figure><img alt="faces with their weights" '
        f'src="data:image/svg+xml;base64,{drawn}"></figure>'
        '<p class="said">The number above a face is its weight in the model, the lightest first. Faces are chosen '
        "evenly between the lightest and the heaviest.</p>"
    )
    if found.lacking:
        lacking = html.escape(", ".join(found.lacking))
        parts.append(f'<p class="said">The model also knows {lacking}, of which this video was not asked.</p>')
    parts.append(f'<p class="said">{CLOSED}</p>')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Who is in {name}?</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
