"""The answer to "who is in this video?" as a contact sheet (like the paper's Fig. 3) or an HTML page.

Both show the user's pictures. They are written only where the user says.
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
COLUMNS, LINES = 6, 2  # of the faces shown for a clip
MARGIN = 0.25  # shown around a face, as a fraction of its box
CLOSED = (
    "The model knows only its own persons and names one of them, whoever is in the video. "
    "A probability compares these persons; it does not say how certain an identification is."
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
    """Selects up to ``number`` faces, evenly spaced by rank of weight, with the smallest and the largest."""
    order = np.argsort(weights, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(int))]


def crops(video: Video, answers: Sequence[Answer], number: int = COLUMNS * LINES) -> list[list[Image.Image]]:
    """Cuts the ``chosen`` faces of each answer out of the video, with a margin."""
    faces = [chosen(answer.weights, number).tolist() for answer in answers]
    found: dict[tuple[int, int], Image.Image] = {}
    for frame in video.numbered({int(a.clip.frames[f]) for a, of in zip(answers, faces, strict=True) for f in of}):
        whole = Image.fromarray(frame.picture)
        for n, answer in enumerate(answers):
            for face in (face for face in faces[n] if answer.clip.frames[face] == frame.number):
                box = answer.clip.boxes[face]
                margin = MARGIN * (box[2:] - box[:2])
                corners = (*(box[:2] - margin), *(box[2:] + margin))
                found[n, face] = pictures.fitted(whole.crop([round(v) for v in corners]))
    return [[found[n, face] for face in of] for n, of in enumerate(faces)]


def sheet(found: Identified) -> Figure:
    """Draws the faces of each clip by rising weight, with the answer on the left."""
    strips = []
    for answer, faces in zip(found.answers, crops(found.video, found.answers), strict=True):
        weights = [f"{weight:.2f}" for weight in answer.weights[chosen(answer.weights, COLUMNS * LINES)]]
        total = len(answer.weights)
        note = f"{answer.probabilities[0]:.0%}, from\n{counted(total, 'face')}"
        strips.append(pictures.Strip(answer.persons[0], faces, weights, note=note, total=total))
    return pictures.sheet(strips, COLUMNS, LINES)


def check_writable(out: Path) -> None:
    """Checks the name before any work is done. Raises: IdentificationError, for another ending or a folder."""
    if out.suffix.lower() not in ENDINGS:
        raise IdentificationError(f"{out}: ends in {out.suffix!r}, expected {' or '.join(ENDINGS)}")
    if out.is_dir():
        raise IdentificationError(f"{out}: a folder found, expected a file")


def write(found: Identified, out: Path) -> Path:
    """Writes the answer, whole or not at all: a self-contained page that needs no network, or the sheet alone.

    Raises:
        IdentificationError: the name has another ending, or is a folder.
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
    """Renders the answer as an HTML page that contains its pictures."""
    drawn = base64.b64encode(pictures.light(figure).data.encode()).decode()
    name = html.escape(found.video.path.name)
    parts = [f"<h1>Who is in {name}?</h1>"]
    for answer in found.answers:
        rows = "".join(
            f'<tr><td>{html.escape(person)}</td><td class="p">{p:.1%}</td>'
            f'<td class="b"><div class="bar" style="width: {100 * p:.1f}%"></div></td></tr>'
            for person, p in zip(answer.persons, answer.probabilities, strict=True)
        )
        title = html.escape(answer.name) if len(found.answers) > 1 else "Most probable persons"
        parts.append(f"<h2>{title}</h2><table>{rows}</table>")
    parts.append(
        f'<h2>Which faces decided</h2><figure><img alt="faces with their weights" '
        f'src="data:image/svg+xml;base64,{drawn}"></figure>'
        '<p class="said">The number above a face is its weight in the model, by rising weight. The faces shown are '
        "evenly spaced between the smallest and the largest weight.</p>"
    )
    if found.lacking:
        lacking = html.escape(", ".join(found.lacking))
        parts.append(f'<p class="said">The model also uses {lacking}, for which this video has no vector.</p>')
    parts.append(f'<p class="said">{CLOSED}</p>')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Who is in {name}?</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
