"""Enrolment: a FAMF model trained on a folder with one folder of videos and pictures for each person."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Split, SplitError, split
from famf_lib.experiments import run_store, settings
from famf_lib.experiments.catalogue import FAMF
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF as FAMFModel
from famf_lib.support import rasters
from famf_lib.support.progress import progress
from famf_lib.support.wording import counted
from famf_lib.training import checkpoint, evaluation, train
from famf_lib.training.checkpoint import SavedModel
from famf_lib.training.evaluation import EvaluationConfig
from famf_today import saved
from famf_video import labels, similarity, stills
from famf_video.clips import FPS, Clip, Stages, extract_clips, remarks, stack_modalities
from famf_video.contained import ContainedVideo, describe

PIECE = 12  # the most faces in a clip for training: longer clips are cut into several
Classifier = Literal["famf", "margin"]
STEPS = 240  # the least number of optimiser steps: few clips give few steps per epoch


class EnrolmentError(ValueError):
    """No classifier can be trained on a folder."""


@dataclass(frozen=True)
class Enrolled:
    """A saved model, and the result of a trial training: ``right`` of ``tried`` held-out clips named correctly.

    ``tried`` is 0 if no person has two videos, or enough pictures for two clips, and if persons were added to a model.
    ``calibration`` is that of the threshold, None for fewer than ``similarity.LEAST`` persons or if persons were added.
    """

    file: Path
    persons: int
    clips: int
    faces: int
    right: int = 0
    tried: int = 0
    calibration: similarity.Calibration | None = None


def files_of(folder: Path, say: Callable[[str], None] = lambda sentence: None, least: int = 2) -> dict[str, list[Path]]:
    """Lists the videos and pictures of each person, by the name of the person's folder.

    ``say`` receives sentences about the other files, and about persons who have nothing else.

    Raises:
        EnrolmentError: fewer than ``least`` persons have any.
    """
    if not folder.is_dir():
        raise EnrolmentError(f"{folder}: no such folder found, expected one that has a folder for each person")
    endings = (*labels.ENDINGS, *rasters.ENDINGS)
    found, others, without, loose = {}, [], [], []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_dir():
            files, rest = labels.split_by_ending(path, endings)
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
        nothing = f"no file of {', '.join(without)} has the ending of a readable video or picture"
        said.append(f"{nothing}, so the model will not know them")
    if loose:
        said.append(f"{counted(len(loose), 'file')} outside the persons' folders left out, for example {loose[0].name}")
    if len(found) < least:
        listed, more = ", ".join(found) or "nobody", "two or more persons" if least > 1 else "a person"
        too_few = f"readable videos or pictures of {listed} found, expected a folder for each of {more}"
        raise EnrolmentError(f"{folder}: {'; '.join([too_few, *said])}")
    for sentence in said:
        say(f"{folder}: {sentence}")
    return found


def gather(
    folder: Path,
    stages: Stages,
    *,
    fps: float = FPS,
    say: Callable[[str], None] = lambda sentence: None,
    least: int = 2,
) -> ClipSet:
    """Collects the faces of persons as a ClipSet: the main person of each video, and the largest face of each picture.

    Long clips are cut into pieces, which share the ``group`` of their video. ``say`` receives a sentence about each
    file that cannot be used; it stops none of the others.

    Raises:
        EnrolmentError: faces of fewer than ``least`` persons are found.
    """
    files = files_of(folder, say, least)
    rows, clips = [], []
    with progress("looking at faces", sum(map(len, files.values()))) as bar:
        done = 0
        for person, paths in files.items():
            pictures = [path for path in paths if path.suffix.lower() in rasters.ENDINGS]
            found = [("pictures", stills.clip_from_pictures(pictures, stages, say))] if pictures else []
            bar.to(done := done + len(pictures), person)
            for path in (path for path in paths if path not in pictures):
                try:
                    video = ContainedVideo(path)
                    clip = extract_clips(video, stages, fps=fps)[0]
                    found.append((path.relative_to(folder / person).as_posix(), clip))
                    for sentence in remarks(video, clip, stages):
                        say(f"{path}: {sentence}")
                except Exception as error:
                    say(describe(path, error))
                bar.to(done := done + 1, person)
            for source, clip in found:
                for number, piece in enumerate(_pieces(clip), 1):
                    # Each piece of pictures is a group of its own: they need not be of one scene.
                    group = f"{person}/{source}" + (f" {number}" if source == "pictures" else "")
                    rows.append((f"{person}/{source} {number}", person, group))
                    clips.append(piece)
    persons = sorted({person for _, person, _ in rows})
    if len(persons) < least:
        listed, more = ", ".join(persons) or "nobody", "two or more persons" if least > 1 else "a person"
        raise EnrolmentError(f"{folder}: faces of {listed} found, expected faces of {more}")
    if lost := sorted(set(files) - set(persons)):
        say(f"{folder}: no face of {', '.join(lost)} found, so the model will not know them")
    table = pd.DataFrame(rows, columns=["name", "person", "group"]).assign(split=None)
    return as_clipset(clips, table.astype({"split": "str"}), stages)


def _pieces(clip: Clip) -> list[Clip]:
    """Cuts a clip into pieces of nearly equal length; a clip without faces gives none."""
    parts = np.array_split(np.arange(len(clip.faces)), math.ceil(len(clip.faces) / PIECE)) if len(clip.faces) else []
    columns = [name for name, array in vars(clip).items() if isinstance(array, np.ndarray)]
    return [replace(clip, **{name: getattr(clip, name)[rows] for name in columns}) for rows in parts]


def as_clipset(clips: list[Clip], table: pd.DataFrame, stages: Stages) -> ClipSet:
    """Builds a ClipSet in memory from extracted clips and a table with one row per clip."""
    return ClipSet.build(
        np.concatenate([clip.faces for clip in clips]),
        np.array([len(clip.faces) for clip in clips]),
        table,
        face_table=pd.concat([clip.table.to_pandas() for clip in clips], ignore_index=True),
        modalities=stack_modalities([clip.vectors for clip in clips], stages.dims),
        info={"embedder": stages.embedder.checksum},
    )


def enroll(clipset: ClipSet, out: Path, *, classifier: Classifier = "famf", seed: int = 1) -> Enrolled:
    """Trains a classifier on all clips, and writes the saved model whole or not at all.

    ``famf`` is AttentionVLAD and MLMA; ``margin`` is the recipe of ``famf_today``, for the face alone.

    The model also has the centroid of each person, and a threshold (see ``similarity``). The settings are those tuned
    for FAMF on real faces (``settings``), with more epochs if there are few clips. If persons have two or more groups,
    a trial training first holds out some of the groups to test on them.

    Raises:
        ValueError: the clips cannot be trained on.
    """
    base = settings.row_settings("imfdb", "standard").of(FAMF.label)
    model = ModelConfig(
        aggregation_options={"normalisation": base.normalisation},
        modalities=tuple(clipset.modalities),
        features=base.features,
        hidden=base.hidden,
    )
    persons = clipset.persons
    everything = torch.arange(len(clipset))
    nothing = everything[:0]
    whole = Split(persons, everything, clipset.labels, nothing, nothing)
    try:
        held_out = split(clipset, "groups", seed)
    except SplitError:
        held_out = None
    right = tried = 0

    def train_on(parts: Split, report: Callable[[float], None]) -> FAMFModel:
        if classifier == "margin":
            return saved.train(clipset, parts, seed)
        return _train(model, base.training, clipset, parts, seed, report)

    with run_store.threads(1), progress("training", 2 if held_out else 1) as bar:
        if held_out:
            trial = train_on(held_out, bar.to)
            batches = evaluation.logits_of(trial, base.training.faces, clipset, held_out.gallery, seed)
            logits = torch.cat([found for _, found in batches])
            right, tried = int((logits.argmax(dim=1) == held_out.gallery_classes).sum()), len(held_out.gallery)
        start = 1 if held_out else 0
        trained = train_on(whole, lambda part: bar.to(start + part))
    vectors = similarity.descriptors(clipset)
    calibration = similarity.calibrate(vectors, clipset.labels, clipset.clips["group"].tolist())
    card = checkpoint.Card(
        config=trained.config,
        dim=clipset.dim,
        modality_dims={name: clipset.modalities[name].vectors.shape[1] for name in trained.config.modalities},
        persons=persons,
        evaluation=EvaluationConfig(faces=base.training.faces),
        seed=seed,
        run=f"enrolled {clipset.fingerprint[:16]}",
        data=clipset.fingerprint,
        embedder=clipset.info.get("embedder"),
        known=checkpoint.Known(persons=persons, threshold=calibration and calibration.threshold),
    )
    checkpoint.save(out, trained, card, similarity.centroids(vectors, clipset.labels))
    return Enrolled(out, len(persons), len(clipset), len(clipset.faces), right, tried, calibration)


def add(clipset: ClipSet, opened: SavedModel, out: Path) -> Enrolled:
    """Writes a model that also knows the persons of a ClipSet, by their centroids; nothing is trained.

    Raises:
        EnrolmentError: the model was not enrolled, or knows somebody of that name.
    """
    known = opened.card.known
    if known is None or opened.centroids is None:
        raise EnrolmentError(f"--to: run {opened.card.run!r} found, expected a model that famf enroll wrote")
    if twice := sorted(set(known.persons) & set(clipset.persons)):
        raise EnrolmentError(f"--to: it knows {twice[0]} already, expected other persons")
    new = similarity.centroids(similarity.descriptors(clipset), clipset.labels)
    more = known.model_copy(update={"persons": (*known.persons, *clipset.persons)})
    card = opened.card.model_copy(update={"known": more})
    checkpoint.save(out, opened.model, card, torch.cat([opened.centroids, new]))
    return Enrolled(out, len(more.persons), len(clipset), len(clipset.faces))


def _train(
    model: ModelConfig,
    base: train.TrainingConfig,
    clipset: ClipSet,
    parts: Split,
    seed: int,
    report: Callable[[float], None],
):
    """Trains with the schedule of ``base``, stretched to at least ``STEPS`` steps."""
    steps = max(train.steps_of(len(parts.train), base.batch_size), 1)
    factor = max(1.0, STEPS / (steps * base.epochs))
    stretched = {name: round(getattr(base, name) * factor) for name in ("epochs", "decay_after", "decay_every")}
    config = type(base)(**(base.model_dump() | stretched))
    with warnings.catch_warnings():  # by k-means, if there are fewer distinct faces than clusters
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        done = train.train(
            model, config, clipset, parts, seed, report=lambda epoch, loss: report(epoch / config.epochs)
        )
    return done.model
