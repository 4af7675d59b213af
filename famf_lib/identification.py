"""Who is in a video, by a model that was trained on other videos of the same persons; and which faces said so.

The contact sheet is the paper's Fig. 3 for one's own clip. What is made here holds the user's pictures: it is written
where the user says, and nowhere else.
"""

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from PIL import Image

from famf_lib import pictures, prediction
from famf_lib.enrolment import as_clipset
from famf_lib.extraction.clips import FPS, Clip, Stages, clips_of
from famf_lib.extraction.video import Video
from famf_lib.features import ClipSet
from famf_lib.files import written_whole
from famf_lib.sampling import Batch
from famf_lib.saved import SavedModel
from famf_lib.wording import counted

ENDINGS = (".html", ".png")
COLUMNS, LINES = 6, 2  # faces of a clip that are shown
ROOM = 0.25  # of a box's sides, shown around the face
CLOSED = (
    "The model knows these persons and nobody else: it names one of them whoever is in the video. "
    "A probability says how it decides among them, not how sure one may be of a person."
)


class IdentificationError(ValueError):
    """A video that cannot be asked about, or a place where the answer cannot be written."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one clip of a video.

    ``persons`` and ``probabilities``, the most probable first; ``weights`` of the faces in their order (Fig. 3).
    """

    name: str
    clip: Clip
    persons: tuple[str, ...]
    probabilities: tuple[float, ...]
    weights: Float[np.ndarray, " F"]


@dataclass(frozen=True, eq=False)
class Identified:
    """The answers to a video, the main person's clip first. ``lacking``: modalities of the model that it has not."""

    video: Video
    answers: list[Answer]
    clipset: ClipSet
    lacking: list[str]


def identify(
    path: Path,
    opened: SavedModel,
    stages: Stages,
    *,
    top: int = 5,
    fps: float = FPS,
    everybody: bool = False,
    report: Callable[[float], None] = lambda seconds: None,
) -> Identified:
    """Looks at a video and asks a saved model, on the CPU, who is in it.

    Raises:
        ValueError: the file is no video, there is no face in it, or the model wants vectors of another network.
    """
    check(opened, stages)
    video = Video(path)
    clips = clips_of(video, stages, fps=fps, everybody=everybody, report=report)
    if not len(clips[0].faces):
        raise IdentificationError(f"{path}: no face found, expected one at least")
    names = [path.name if n == 1 else f"{path.name}#{n}" for n in range(1, len(clips) + 1)]
    table = pd.DataFrame({"name": names}).assign(person=None, split=None, group=None).astype("str")
    table[["person", "split", "group"]] = None
    clipset, lacking = prediction.fitting(as_clipset(clips, table, stages), opened.card)
    rows = [row for told in prediction.predict(opened, clipset, top) for row in told.to_pylist()]
    answers = [
        Answer(row["name"], clip, tuple(row["persons"]), tuple(row["probabilities"]), np.array(row["weights"]))
        for clip, row in zip(clips, rows, strict=True)
    ]
    return Identified(video, answers, clipset, lacking)


def check(opened: SavedModel, stages: Stages) -> None:
    """Refuses a network that is not the one whose vectors the model was trained on, before a video is looked at.

    Raises:
        IdentificationError: it is another, or gives vectors of another length.
    """
    expected, made = opened.card.embedder, stages.embedder.checksum
    if expected and made != expected:
        told = f"SHA-256 {made[:16]}… found, expected {expected[:16]}…, whose vectors the model was trained on"
        raise IdentificationError(f"embedder: {told}")
    if stages.embedder.dim != opened.card.dim:
        raise IdentificationError(f"embedder: {stages.embedder.dim} numbers a face found, expected {opened.card.dim}")


@torch.inference_mode()
def attention(opened: SavedModel, found: Identified, row: int = 0) -> Float[np.ndarray, "T T"]:
    """The attention matrix of one of the clips, all of whose faces take part (Fig. 4); rows as ``token_names``."""
    clipset = found.clipset
    faces = clipset.faces[clipset.offsets[row] : clipset.offsets[row + 1]].float()[None]
    names = opened.model.config.modalities
    there = {name: clipset.modalities[name] for name in names}
    vectors = {name: of.vectors[row : row + 1].float() for name, of in there.items()}
    batch = Batch(faces, torch.ones(faces.shape[:2], dtype=torch.bool), vectors,
                  {name: of.present[row : row + 1] for name, of in there.items()})  # fmt: skip
    return opened.model.attention(batch)[0].numpy()


# --- pictures --------------------------------------------------------------------------------------------------------


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


# --- the page --------------------------------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td { padding: .2rem .5rem }
td.p { text-align: right; font-variant-numeric: tabular-nums; width: 4rem } td.b { width: 50% }
.bar { background: #2f6f9f; height: .8rem; border-radius: .2rem }
figure { margin: 1.5rem 0 } svg, img { max-width: 100%; height: auto } .said { color: #555 }
"""  # noqa: E501


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
