"""The answer to "who is in this video?" as a contact sheet (like the paper's Fig. 3) or an HTML page.

Both show the user's pictures. They are written only where the user says.
"""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from PIL import Image

from famf_book import pictures
from famf_lib.support.files import written_whole
from famf_lib.support.wording import counted
from famf_video.identification import Answer, IdentificationError, Identified, Still
from famf_video.video import Video

ENDINGS = (".html", ".png")
COLUMNS, LINES = 6, 2  # of the faces shown for a clip
APART = 0.5  # seconds
MARGIN = 0.25  # shown around a face, as a fraction of its box
SAID = (
    '<p class="said">Above each face are its time in the video and its weight in the model; the bar below it compares '
    "this weight with the largest one. The faces have the largest and the smallest weights, by rising weight, and no "
    "two are close in time.</p>"
    '<p class="said">The model has to name one of its persons; a score says how similar the faces are to those of this '
    "person, not how certain an identification is. Names can be wrong, and a stranger can get one.</p>"
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td { padding: .2rem .5rem }
td.p { text-align: right; font-variant-numeric: tabular-nums; width: 4rem } td.b { width: 50% }
.bar { background: #2f6f9f; height: .8rem; border-radius: .2rem }
figure { margin: 1.5rem 0 } svg, img { max-width: 100%; height: auto } .said { color: #555 }
"""  # noqa: E501


def chosen(answer: Answer, number: int) -> Int[np.ndarray, " n"]:
    """Selects up to ``number`` faces, by rising weight: the largest and the smallest weights in turn.

    Faces that are close in time look alike, so two of them are ``APART`` seconds apart, more in a long clip.
    """
    times, rising = answer.clip.times, np.argsort(answer.weights, kind="stable")
    apart = max(np.ptp(times) / (2 * number), APART) if len(times) and np.ptp(times) else 0.0
    kept: list[int] = []
    for face in np.stack([rising[::-1], rising], axis=1).flatten()[: len(rising)].tolist():
        if len(kept) < number and all(abs(times[face] - times[other]) >= apart for other in kept):
            kept.append(face)
    return np.array(sorted(kept, key=lambda face: answer.weights[face]), dtype=int)


def crops(video: Video, answers: Sequence[Answer], number: int = COLUMNS * LINES) -> list[list[Image.Image]]:
    """Cuts the ``chosen`` faces of each answer out of the video, with a margin."""
    faces = [chosen(answer, number).tolist() for answer in answers]
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
    """Draws the faces of each clip by rising weight, with time and weight of each, and the answer on the left."""
    strips = []
    for answer, faces in zip(found.answers, crops(found.video, found.answers), strict=True):
        shown = chosen(answer, COLUMNS * LINES)
        weights, times = answer.weights[shown], answer.clip.times[shown]
        video = not isinstance(found.video, Still)
        text = [
            f"{_clock(time)} · {weight:.2f}" if video else f"{weight:.2f}"
            for time, weight in zip(times, weights, strict=True)
        ]
        total = len(answer.weights)
        note = f"score {answer.score:.2f}\n{counted(total, 'face')}" if total else ""
        bars = weights / max(weights.max(initial=0), 1e-12)
        strips.append(pictures.Strip(_title(answer), faces, text, bars.tolist(), note=note, total=total))
    return pictures.sheet(strips, COLUMNS, LINES)


def _title(answer: Answer) -> str:
    return answer.person or ("unknown" if answer.likely else "no answer")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def check_writable(out: Path) -> None:
    """Checks the name before any work is done. Raises: IdentificationError, for another ending or a folder."""
    if out.suffix.lower() not in ENDINGS:
        raise IdentificationError(f"{out}: ends in {out.suffix!r}, expected {' or '.join(ENDINGS)}")
    if out.is_dir():
        raise IdentificationError(f"{out}: a folder found, expected a file")


def write(found: Sequence[Identified], out: Path) -> Path:
    """Writes the answers, whole or not at all: a self-contained page that needs no network, or the sheets alone.

    Raises:
        IdentificationError: the name has another ending, or is a folder.
    """
    check_writable(out)
    figures = [sheet(one) for one in found]
    with written_whole(out) as new:
        if out.suffix.lower() == ".png":
            _below_each_other(figures).save(new, format="png")
        else:
            new.write_text(page(found, figures), encoding="utf-8")
    return out


def _below_each_other(figures: Sequence[Figure]) -> Image.Image:
    drawn = []
    for figure in figures:
        figure.savefig(file := BytesIO(), format="png", dpi=144, facecolor="white")
        plt.close(figure)
        drawn.append(Image.open(file))
    whole = Image.new("RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white")
    for n, one in enumerate(drawn):
        whole.paste(one, (0, sum(above.height for above in drawn[:n])))
    return whole


def page(found: Sequence[Identified], figures: Sequence[Figure]) -> str:
    """Renders the answers as an HTML page that contains its pictures."""
    parts = []
    for one, figure in zip(found, figures, strict=True):
        drawn = base64.b64encode(pictures.light(figure).data.encode()).decode()
        parts.append(f"<h1>Who is in {html.escape(one.video.path.name)}?</h1>")
        for answer in one.answers:
            rows = "".join(
                f'<tr><td>{html.escape(person)}</td><td class="p">{p:.1%}</td>'
                f'<td class="b"><div class="bar" style="width: {100 * p:.1f}%"></div></td></tr>'
                for person, p in zip(answer.persons, answer.probabilities, strict=True)
            )
            name = f"{html.escape(answer.name)}: " if len(one.answers) > 1 else ""
            parts.append(f"<h2>{name}{html.escape(_title(answer))}</h2>")
            if answer.likely and answer.threshold is not None:
                score = f"{html.escape(answer.likely)} has the score {answer.score:.3f}; below {answer.threshold:.3f}"
                parts.append(f"<p>{score} somebody is unknown.</p>")
            parts.append(f"<p>The model's probabilities:</p><table>{rows}</table>")
        parts.append(
            f'<h2>Which faces decided</h2><figure><img alt="faces with their weights" '
            f'src="data:image/svg+xml;base64,{drawn}"></figure>'
        )
        if one.lacking:
            lacking = html.escape(", ".join(one.lacking))
            parts.append(f'<p class="said">The model also uses {lacking}, for which there is no vector here.</p>')
    title = html.escape(", ".join(one.video.path.name for one in found))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Who is in {title}?</title>'
        f"<style>{STYLE}</style>{''.join(parts)}{SAID}</html>\n"
    )
