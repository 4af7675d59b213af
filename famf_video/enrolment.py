"""A classifier of one's own: a FAMF model trained on a folder of labelled videos and pictures, a folder a person."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Split, SplitError, split
from famf_lib.experiments import run_store, settings
from famf_lib.models.config import ModelConfig
from famf_lib.support import rasters
from famf_lib.support.progress import progress
from famf_lib.training import checkpoint, evaluation, train
from famf_lib.training.evaluation import EvaluationConfig
from famf_video import labels, stills
from famf_video.clips import FPS, Clip, Stages, clips_of
from famf_video.contained import ContainedVideo, fault

PIECE = 12  # faces of a clip that is trained on: a long one is cut, so that there are several
STEPS = 240  # of the optimiser, at least: few clips make few steps an epoch


class EnrolmentError(ValueError):
    """A folder from which no classifier can be made."""


@dataclass(frozen=True)
class Enrolled:
    """A saved model and, of clips that were held out in a training before, how many it named rightly.

    ``tried`` is 0 where no person has two videos or two pieces of pictures.
    """

    file: Path
    persons: int
    clips: int
    faces: int
    right: int
    tried: int


def files_of(folder: Path, say: Callable[[str], None] = lambda sentence: None) -> dict[str, list[Path]]:
    """The videos and pictures of each person, by the name of the folder that they lie in.

    ``say`` is told of the other files, and of persons who have no others.

    Raises:
        EnrolmentError: fewer than two persons have any.
    """
    if not folder.is_dir():
        raise EnrolmentError(f"{folder}: no such folder found, expected one with a folder for each person")
    endings = (*labels.ENDINGS, *rasters.ENDINGS)
    found, others, without, loose = {}, [], [], []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_dir():
            files, rest = labels.sorted_out(path, endings)
            others += rest
            if files:
                found[path.name] = files
            else:
                without.append(path.name)
        elif path.suffix.lower() in endings:
            loose.append(path)
    readable = f"pictures (.jpg, .png, .webp …) and videos ({', '.join(labels.ENDINGS[:3])} …)"
    said = [labels.left_out(others, readable)] if others else []
    if without:
        said.append(f"no video or picture of {', '.join(without)} can be read, so the model does not know them")
    if loose:
        said.append(f"{len(loose):,} in no person's folder left out, {loose[0].name} the first")
    if len(found) < 2:
        listed = ", ".join(found) or "nobody"
        told = f"videos or pictures of {listed} found, expected a folder for each of two or more"
        raise EnrolmentError(f"{folder}: {'; '.join([told, *said])}")
    for sentence in said:
        say(f"{folder}: {sentence}")
    return found


def gather(
    folder: Path, stages: Stages, *, fps: float = FPS, say: Callable[[str], None] = lambda sentence: None
) -> ClipSet:
    """The faces in a folder of folders as a ClipSet: a video's main person, and the largest face of each picture.

    A long clip is cut into pieces, which stay in the ``group`` of their video. ``say`` is told of every file that
    cannot be used; it stops none of the others.

    Raises:
        EnrolmentError: faces of fewer than two persons are found.
    """
    files = files_of(folder, say)
    rows, clips = [], []
    with progress("looking at faces", sum(map(len, files.values()))) as bar:
        done = 0
        for person, paths in files.items():
            pictures = [path for path in paths if path.suffix.lower() in rasters.ENDINGS]
            found = [("pictures", stills.clip_of(pictures, stages, say))] if pictures else []
            bar.to(done := done + len(pictures), person)
            for path in (path for path in paths if path not in pictures):
                try:
                    video = ContainedVideo(path)
                    clip = clips_of(video, stages, fps=fps)[0]
                    found.append((path.relative_to(folder / person).as_posix(), clip))
                    if video.unheard and "audio" not in clip.vectors:
                        say(f"{path}: its sound cannot be decoded, so its clip has no audio")
                except Exception as error:
                    say(fault(path, error))
                bar.to(done := done + 1, person)
            for source, clip in found:
                for number, piece in enumerate(_pieces(clip), 1):
                    # Each piece of pictures is a group of its own: nothing says that they are of one scene.
                    group = f"{person}/{source}" + (f" {number}" if source == "pictures" else "")
                    rows.append((f"{person}/{source} {number}", person, group))
                    clips.append(piece)
    persons = sorted({person for _, person, _ in rows})
    if len(persons) < 2:
        listed = ", ".join(persons) or "nobody"
        raise EnrolmentError(f"{folder}: faces of {listed} found, expected faces of two persons or more")
    if lost := sorted(set(files) - set(persons)):
        say(f"{folder}: no face of {', '.join(lost)} found, so the model does not know them")
    table = pd.DataFrame(rows, columns=["name", "person", "group"]).assign(split=None)
    return as_clipset(clips, table.astype({"split": "str"}), stages)


def _pieces(clip: Clip) -> list[Clip]:
    """A clip cut into pieces of nearly equal length; none of a clip without faces."""
    parts = np.array_split(np.arange(len(clip.faces)), math.ceil(len(clip.faces) / PIECE)) if len(clip.faces) else []
    columns = ("frames", "times", "boxes", "points", "scores", "quality", "faces")
    return [Clip(*(getattr(clip, name)[rows] for name in columns), clip.vectors, clip.text) for rows in parts]


def as_clipset(clips: list[Clip], table: pd.DataFrame, stages: Stages) -> ClipSet:
    """A ClipSet in memory of extracted clips, with a row of the table each. It knows the network of its faces."""
    there = [name for name in stages.dims if any(name in clip.vectors for clip in clips)]
    nothing = {name: np.zeros(stages.dims[name], np.float16) for name in there}
    modalities = {
        name: (
            np.stack([clip.vectors.get(name, nothing[name]) for clip in clips]),
            np.array([name in clip.vectors for clip in clips]),
        )
        for name in there
    }
    faces: Float[np.ndarray, "F D"] = np.concatenate([clip.faces for clip in clips])
    return ClipSet.build(
        faces,
        np.array([len(clip.faces) for clip in clips]),
        table,
        face_table=pd.concat([clip.table.to_pandas() for clip in clips], ignore_index=True),
        modalities=modalities,
        info={"embedder": stages.embedder.checksum},
    )


def enroll(clipset: ClipSet, out: Path, *, hidden: int | None = None, seed: int = 1) -> Enrolled:
    """Trains AttentionVLAD and MLMA on all clips, and writes the saved model whole or not at all.

    The settings are those that were chosen for real faces (``settings``), with more passes where there are few clips.
    Where persons have two groups or more, the same is first done without a third of them, to see how it fares there.

    Raises:
        ValueError: the clips cannot be trained on.
    """
    base = settings.setting("imfdb", "standard")
    model = ModelConfig(
        aggregation_options={"normalisation": base.normalisation},
        modalities=tuple(clipset.modalities),
        features=base.features,
        hidden=hidden or base.hidden,
    )
    persons = clipset.persons
    everybody = torch.arange(len(clipset))
    nobody = everybody[:0]
    whole = Split(persons, everybody, clipset.labels, nobody, nobody)
    try:
        held_out = split(clipset, "groups", seed)
    except SplitError:
        held_out = None
    right = tried = 0
    with run_store.threads(1), progress("training", 2 if held_out else 1) as bar:
        if held_out:
            opened = _trained(model, base.training, clipset, held_out, seed, bar.to)
            right, tried = _right(opened, base.training.faces, clipset, held_out, seed), len(held_out.gallery)
        start = 1 if held_out else 0
        trained = _trained(model, base.training, clipset, whole, seed, lambda part: bar.to(start + part))
    card = checkpoint.Card(
        config=model,
        dim=clipset.dim,
        modality_dims={name: clipset.modalities[name].vectors.shape[1] for name in model.modalities},
        persons=persons,
        evaluation=EvaluationConfig(faces=base.training.faces),
        seed=seed,
        run=f"enrolled {clipset.fingerprint[:16]}",
        data=clipset.fingerprint,
        embedder=clipset.info.get("embedder"),
    )
    checkpoint.save(out, trained, card)
    return Enrolled(out, len(persons), len(clipset), len(clipset.faces), right, tried)


def _trained(
    model: ModelConfig,
    base: train.TrainingConfig,
    clipset: ClipSet,
    parts: Split,
    seed: int,
    report: Callable[[float], None],
):
    """The schedule of ``base``, stretched until there are steps enough."""
    steps = max(train.steps_of(len(parts.train), base.batch_size), 1)
    factor = max(1.0, STEPS / (steps * base.epochs))
    stretched = {name: round(getattr(base, name) * factor) for name in ("epochs", "decay_after", "decay_every")}
    config = type(base)(**(base.model_dump() | stretched))
    with warnings.catch_warnings():  # of k-means, where there are fewer different faces than clusters
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        done = train.train(
            model, config, clipset, parts, seed, report=lambda epoch, loss: report(epoch / config.epochs)
        )
    return done.model


def _right(model, faces: int, clipset: ClipSet, parts: Split, seed: int) -> int:
    """How many clips of the gallery are given to their person."""
    logits = torch.cat([found for _, found in evaluation.logits_of(model, faces, clipset, parts.gallery, seed)])
    return int((logits.argmax(dim=1) == parts.gallery_classes).sum())
