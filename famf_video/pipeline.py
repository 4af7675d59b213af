"""From videos to a ClipSet: one after the other, whatever is wrong with some, and going on where it was interrupted."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.numpy import save

from famf_lib.data.clipset import FILES, Modality, writing
from famf_lib.support.files import written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.wording import counted
from famf_video.clips import FACE_COLUMNS, FPS, Clip, Stages, clips_of
from famf_video.contained import ContainedVideo, fault
from famf_video.labels import Label, names
from famf_video.video import Video, VideoError

ARRAYS = ("frames", "times", "boxes", "points", "scores", "quality", "faces")


class ExtractionError(ValueError):
    """Nothing can be extracted, or it cannot be put where it was asked for."""


@dataclass(frozen=True)
class Extracted:
    """What came of many videos. ``failed`` has a sentence for each that could not be used."""

    folder: Path
    clips: int
    faces: int
    failed: dict[Path, str]


def extract(
    videos: Sequence[Path],
    out: Path,
    stages: Stages,
    *,
    fps: float | int = FPS,
    everybody: bool = False,
    labels: Mapping[str, Label] | None = None,
    replacing: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> Extracted:
    """Makes a ClipSet of videos; one that cannot be used stops none of the others.

    What came of a video is put into the folder ``out`` + ``.parts`` as soon as it is whole, under a name that file,
    models and settings decide: asked for again, it is read. The ClipSet comes into being at once, at the end.

    Args:
        labels: who is in each clip, by the name of the clip or of the file. A clip without one is of an unknown person,
            as noise clips are.
        replacing: a ClipSet that lies at ``out`` gives way.
        say: is told what there is to say of the videos, a sentence each.

    Raises:
        ExtractionError: there is something else at ``out``, or no video could be used.
    """
    _check_free(out, replacing)
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    called, failed = dict(zip(videos, names(videos), strict=True)), {}

    def fail(path: Path, error: Exception) -> None:
        failed[path] = fault(path, error)
        say(failed[path])

    opened: dict[Path, Video] = {}
    for path in videos:
        try:
            opened[path] = ContainedVideo(path)
        except VideoError as error:
            fail(path, error)
    code = source_fingerprint("famf_video")
    files = {path: parts / f"{_key(path, stages, fps, everybody, code)}.safetensors" for path in opened}
    missing = {path: video.duration or 0.0 for path, video in opened.items() if not files[path].is_file()}
    done = 0.0
    with progress("extracting", max(round(sum(missing.values())), 1)) as bar:
        for path, seconds in missing.items():
            try:
                clips = clips_of(
                    opened[path],
                    stages,
                    fps=fps,
                    everybody=everybody,
                    report=lambda time, start=done, name=path.name: bar.to(start + time, name),
                )
                _save(clips, opened[path], files[path])
            except OSError:  # it is not the video's fault that nothing can be written
                raise
            except Exception as error:
                fail(path, error)
            done += seconds
    good = {called[path]: (path, files[path]) for path in opened if path not in failed}
    if not good:
        raise ExtractionError(f"{out}: not written, since none of the videos can be used ({len(videos)} given)")
    clips, faces = _assemble(good, out, stages, fps, labels, say)
    return Extracted(out, clips, faces, failed)


def _check_free(out: Path, replacing: bool) -> None:
    if (out / FILES[0]).is_file():
        if not replacing:
            raise ExtractionError(f"{out}: there is a ClipSet already, expected a new folder, or --replace")
    elif out.exists():
        raise ExtractionError(f"{out}: there is something else, expected a new folder")


def _key(path: Path, stages: Stages, fps: float | int, everybody: bool, code: str) -> str:
    told = path.stat()
    decides = [str(path.resolve()), told.st_size, told.st_mtime_ns, stages.checksums, fps, everybody, code]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


# --- what came of one video ------------------------------------------------------------------------------------------


def _save(clips: list[Clip], video: Video, file: Path) -> None:
    arrays = {f"{n}.{name}": getattr(clip, name) for n, clip in enumerate(clips) for name in ARRAYS}
    arrays |= {f"{n}.vectors.{name}": vector for n, clip in enumerate(clips) for name, vector in clip.vectors.items()}
    told = {"texts": [clip.text for clip in clips], "damaged": video.damaged, "sound": video.has_sound}
    told["unheard"] = video.unheard
    with written_whole(file) as new:
        new.write_bytes(save(arrays, {"told": json.dumps(told)}))  # not by its own writer: see saved.save


def _open(file: Path, modalities: Sequence[str]) -> tuple[list[Clip], dict]:
    with safe_open(file, framework="np") as arrays:
        told, keys = json.loads(arrays.metadata()["told"]), set(arrays.keys())
        clips = []
        for n, text in enumerate(told["texts"]):
            there = [name for name in modalities if f"{n}.vectors.{name}" in keys]
            vectors = {name: arrays.get_tensor(f"{n}.vectors.{name}") for name in there}
            clips.append(Clip(*(arrays.get_tensor(f"{n}.{name}") for name in ARRAYS), vectors, text))
    return clips, told


# --- all of them -----------------------------------------------------------------------------------------------------


def _assemble(
    parts: dict[str, tuple[Path, Path]],
    out: Path,
    stages: Stages,
    fps: float | int,
    labels: Mapping[str, Label] | None,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Writes the ClipSet of what lies in the parts, each with its video; the numbers of clips and faces."""
    rows, counts, vectors = [], [], {name: [] for name in stages.dims}
    used: set[str] = set()
    with writing(out, stages.embedder.dim, FACE_COLUMNS) as writer:
        for called, (path, file) in parts.items():
            clips, told = _open(file, list(vectors))
            for sentence in _lacking(clips[0], told, stages):
                say(f"{path}: {sentence}")
            for number, clip in enumerate(clips, 1):
                name = called if number == 1 else f"{called}#{number}"
                label = Label()
                for known in (path.name, name) if number == 1 else (name,):
                    if labels and known in labels:
                        label = labels[known]
                        used.add(known)
                rows.append((name, label.person, label.split, called, str(path), number, clip.text))
                counts.append(len(clip.faces))
                writer.add(clip.faces, clip.table)
                for modality, of in vectors.items():
                    of.append(clip.vectors.get(modality))
        table = pd.DataFrame(rows, columns=["name", "person", "split", "group", "video", "track", "text"])
        table = table.astype({column: "str" for column in ("person", "split")})
        if labels is not None:
            if (unknown := table["person"].isna()).any():
                first = table["name"][unknown.argmax()]
                many = counted(int(unknown.sum()), "clip")
                say(f"labels: none for {many}, {first!r} the first: the person is unknown there")
            if idle := [name for name in labels if name not in used]:
                say(f"labels: {counted(len(idle), 'label')} of no clip here, {idle[0]!r} the first")
        modalities = {name: _modality(of, stages.dims[name]) for name, of in vectors.items()}
        modalities = {name: modality for name, modality in modalities.items() if modality.present.any()}
        info = {
            "dataset": out.name,
            "embedder": stages.embedder.checksum,
            "extraction": {"fps": fps, "models": stages.checksums},
        }
        writer.finish(np.array(counts), table, modalities, info)
    return len(rows), sum(counts)


def _lacking(clip: Clip, told: dict, stages: Stages) -> list[str]:
    """What there is to say of a video, of which this is the main person's clip."""
    said = []
    if told["damaged"]:
        said.append(f"{counted(told['damaged'], 'piece of damaged pictures')} left out")
    if not len(clip.faces):
        said.append("no face found, so its clip has none")
    if stages.speaker is not None and "audio" not in clip.vectors:
        why = "no sound track" if not told["sound"] else "nothing to hear"
        said.append(f"{'its sound cannot be decoded' if told['unheard'] else why}, so its clip has no audio")
    return said


def _modality(vectors: list[np.ndarray | None], dim: int) -> Modality:
    filled = [np.zeros(dim, np.float16) if vector is None else vector for vector in vectors]
    present = [vector is not None for vector in vectors]
    return Modality(torch.from_numpy(np.stack(filled)), torch.tensor(present))
