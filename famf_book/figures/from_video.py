"""One video passed through all four modules, with the output of each, for a page of the book.

If the user gives no video, one is made from pictures of IMFDB, and the model is trained on other pictures of the same
actors. The pictures are stored only in the page.
"""

import io
import json
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from famf_book import answer_page, pictures
from famf_book.plots import OURS, PALETTE, WIDTH
from famf_lib.data import imfdb
from famf_lib.experiments.settings import RESULTS
from famf_lib.support import rasters
from famf_lib.support.files import sources
from famf_lib.training import checkpoint
from famf_video import enrolment, identification, registry
from famf_video.clips import Stages
from famf_video.identification import Identified
from famf_video.video import Video

PACKAGES = ("av", "onnx", "onnxruntime")
MODELS = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet", "mobilefacenet128")
RECORDED = RESULTS / "imfdb-embedding-cpu.json"

ACTORS, KNOWN, SHOWN = 6, 4, 4  # actors that the model knows, training pictures of each, other pictures in the video
LENGTH, HEIGHT = 10.0, (80, 300)  # clear faces: least norm of the vector, height of the picture in pixels
SIZE, SECONDS, RATE = (640, 360), 3.0, 16_000


def absence(video: str, model: str) -> str | None:
    """None if the page can be executed in full, otherwise one sentence that says what is missing."""
    missing = [f"the package {name}" for name in PACKAGES if find_spec(name) is None]
    missing += [f"the model {name}" for name in MODELS if registry.absence(name)]
    if not (video and model) and imfdb.absence():
        missing.append("IMFDB")
    if not missing:
        return None
    return f"Not shown here: {', '.join(missing)} not found on the machine that executed this page."


def recorded() -> pd.DataFrame:
    """A table of what was measured on a machine with the models and data; nothing in it is about a single person."""
    told = json.loads(RECORDED.read_text())
    speed, cosine = told["faces a second of one core"], told["cosine with the recorded vectors"]
    rows = {
        "pictures of faces": f"{told['faces']:,}",
        "faces per second and core, from picture to vector": f"{speed['whole']:.0f}",
        "the same for the recogniser alone": f"{speed['network alone']:.0f}",
        "cosine with the recorded vectors: median": f"{cosine['median']:.4f}",
        "cosine with the recorded vectors: minimum": f"{cosine['min']:.4f}",
        "faces with a cosine above 0.99": f"{told['share above 0.99']:.1%}",
        "the same with alignment by the least median of squares": f"{told['share above 0.99 then']:.1%}",
        "machine": f"{told['origin']['hardware']['processor']}, {told['origin']['hardware']['cores']} cores",
    }
    return pd.DataFrame({"": rows}).rename_axis("measured")


# --- a video of pictures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cast:
    """Clear pictures of some actors: by name those that a model is trained on, and those of the actor in the video."""

    known: dict[str, list[Image.Image]]
    shown: list[Image.Image]
    name: str


def cast(seed: int) -> Cast:
    """Draws actors at random among those with enough pictures of 80 to 300 pixels height and with long vectors.

    Raises:
        ValueError: IMFDB is not on this machine.
    """
    source = imfdb.archive()
    with np.load(next(iter(sorted((sources() / "imfdb").glob(imfdb.EMBEDDINGS))))) as file:
        clear = (file["onet_probability"] > 0.99) & (
            np.linalg.norm(file["embedding"].astype(np.float32), axis=1) > LENGTH
        )
        paths = file["path"][clear]
    draw = np.random.default_rng(seed)
    chosen: dict[str, list[str]] = {}
    for path in draw.permutation(np.sort(paths)):
        chosen.setdefault(path.split("/")[1], []).append(path)
    enough = [person for person in sorted(chosen) if len(chosen[person]) >= 4 * (KNOWN + SHOWN)]
    actors = draw.permutation(enough)[:ACTORS].tolist()
    contents = imfdb.pictures(source, {path for person in actors for path in chosen[person][: 4 * (KNOWN + SHOWN)]})
    own = {}
    for person in actors:
        opened = [rasters.open(io.BytesIO(contents[p])).convert("RGB") for p in chosen[person] if p in contents]
        own[person] = [picture for picture in opened if HEIGHT[0] <= picture.height <= HEIGHT[1]][: KNOWN + SHOWN]
    name = max(actors, key=lambda person: len(own[person]))
    return Cast({person: of[:KNOWN] for person, of in own.items()}, own[name][KNOWN:], name)


def compose(faces: list[Image.Image], path: Path, seed: int) -> Path:
    """Writes a video of three seconds: the faces one after another, moving in front of clutter, and a tone.

    One face is blurred and one is dark, so that their weights differ.
    """
    import av

    coarse = np.random.default_rng(seed).integers(60, 200, (9, 16, 3), dtype=np.uint8)
    base, frames = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), round(25 * SECONDS)
    with av.open(path, "w") as out:
        track = out.add_stream("mpeg4", rate=25, options={"q:v": "2"})
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        voice = out.add_stream("aac", rate=RATE)
        voice.layout = "mono"
        for number in range(frames):
            place = number * len(faces) // frames
            shown = _pasted(base, faces[place], number, place)
            frame = av.VideoFrame.from_ndarray(np.asarray(shown), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
        time = np.arange(round(SECONDS * RATE)) / RATE
        sound = (0.3 * np.sin(2 * np.pi * 220 * time) * np.sin(np.pi * time) ** 2).astype(np.float32)
        for start in range(0, len(sound), 1024):
            heard = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            heard.rate, heard.pts, heard.time_base = RATE, start, Fraction(1, RATE)
            out.mux(voice.encode(heard))
        out.mux(voice.encode(None))
    return path


def _pasted(base: Image.Image, face: Image.Image, number: int, place: int) -> Image.Image:
    height = 170 - 25 * (place % 3)
    width = max(round(face.width * height / face.height), 1)
    face = face.resize((width, height), Image.Resampling.BICUBIC)
    face = {1: face.filter(ImageFilter.GaussianBlur(3)), 2: face.point(lambda v: v // 3)}.get(place % 4, face)
    edge = height // 16
    mask = Image.new("L", face.size, 0)
    mask.paste(255, (edge, edge, width - edge, height - edge))
    canvas = base.copy()
    corner = round(230 + 60 * np.sin(number / 11)), round(80 + 20 * np.cos(number / 7))
    canvas.paste(face, corner, mask.filter(ImageFilter.GaussianBlur(edge / 2)))
    return canvas


# --- the four modules ------------------------------------------------------------------------------------------------


def stages() -> Stages:
    """The detector and the recogniser of the registry; the other modalities have no model."""
    from famf_video.detection import detector
    from famf_video.embedding import ArcFace

    return Stages(detector("mtcnn"), ArcFace(registry.find("mobilefacenet128")))


def trained(actors: Cast, using: Stages, folder: Path, seed: int) -> checkpoint.SavedModel:
    """Trains a classifier of the actors as ``famf enroll`` does."""
    for person, own in actors.known.items():
        (folder / person).mkdir(parents=True)
        for number, picture in enumerate(own):
            picture.save(folder / person / f"{number}.png")
    made = enrolment.enroll(enrolment.gather(folder, using), folder / "model.safetensors", seed=seed)
    return checkpoint.open(made.file)


def loudness(video: Video, pieces: int = 60) -> Float[np.ndarray, " n"]:
    """The root mean square (0 to 1) of the sound in ``pieces`` equal parts; empty without a sound track."""
    heard = list(video.sound()) if video.has_sound else []
    parts = np.array_split(np.concatenate(heard), pieces) if heard else []
    return np.array([np.sqrt((part.astype(np.float64) ** 2).mean()) if len(part) else 0.0 for part in parts])


def frames(found: Identified, number: int = 3) -> Figure:
    """Some pictures of the video with the box and the five landmarks of every tracked face."""
    clip = found.answers[0].clip
    wanted = clip.frames[np.unique(np.linspace(0, len(clip.frames) - 1, number).round().astype(int))]
    shown = list(found.video.numbered(wanted.tolist()))
    figure, grid = plt.subplots(1, len(shown), figsize=(WIDTH, 0.6 + WIDTH / len(shown) * _aspect(shown[0].picture)),
                                layout="constrained", squeeze=False)  # fmt: skip
    for axes, frame in zip(grid.flat, shown, strict=True):
        axes.imshow(frame.picture)
        axes.set_title(f"{frame.time:.1f} s", fontsize=9)
        axes.axis("off")
        for answer, colour in zip(found.answers, PALETTE, strict=False):
            for row in np.flatnonzero(answer.clip.frames == frame.number):
                x1, y1, x2, y2 = answer.clip.boxes[row]
                axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2))
                axes.scatter(*answer.clip.points[row].T, s=6, color="white", edgecolor="black", linewidth=0.4)
    return figure


def _aspect(picture: UInt8[np.ndarray, "H W 3"]) -> float:
    return picture.shape[0] / picture.shape[1]


def aligned(found: Identified, number: int = 12) -> Figure:
    """Aligned faces of the main person's clip in the order of the video, with their quality."""
    from famf_video.alignment import align

    clip = found.answers[0].clip
    rows = np.unique(np.linspace(0, len(clip.frames) - 1, min(number, len(clip.frames))).round().astype(int))
    of_frame = dict(zip(clip.frames[rows].tolist(), rows.tolist(), strict=True))
    faces = []
    for frame in found.video.numbered(of_frame):
        points = clip.points[of_frame[frame.number]].astype(np.float64)
        faces.append(Image.fromarray(align(frame.picture, points[None])[0]))
    text = [f"{clip.quality[row]:.2f}" for row in rows]
    return pictures.sheet([pictures.Strip("Aligned", faces, text, "with quality")], answer_page.COLUMNS, 2)


def weights(found: Identified) -> Figure:
    """Weight against quality for every face of the main person's clip."""
    answer = found.answers[0]
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    axes.scatter(answer.clip.quality, answer.weights, s=28, color=OURS, alpha=0.8, linewidth=0)
    axes.set(xlabel="quality of the face, 0 to 1", ylabel="weight")
    return figure


def attention(opened: checkpoint.SavedModel, found: Identified) -> pd.DataFrame:
    """The attention matrix of the main person's clip; rows and columns are named by token."""
    names = opened.model.token_names
    return pd.DataFrame(identification.attention(opened, found), index=names, columns=names)


def answers(found: Identified) -> pd.DataFrame:
    """The most probable persons of every clip of the video."""
    rows = [
        {"clip": answer.name, "faces": len(answer.weights), "person": person, "probability": f"{p:.3f}"}
        for answer in found.answers
        for person, p in zip(answer.persons, answer.probabilities, strict=True)
    ]
    return pd.DataFrame(rows).set_index("clip")
