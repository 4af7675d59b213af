"""From many videos to a ClipSet: a bad video stops none of the others, and an interrupted extraction resumes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from famf_lib.support.wording import counted, plain
from famf_video.clips import FACE_COLUMNS, FPS, Clip, Stages, extract_clips, remarks, stack_modalities
from famf_video.contained import ContainedVideo, describe
from famf_video.labels import Label, names
from famf_video.video import Video, VideoError

ARRAYS = ("frames", "times", "boxes", "points", "scores", "quality", "faces")


class ExtractionError(ValueError):
    """No video can be used, or the result cannot be written."""


@dataclass(frozen=True)
class Extracted:
    """The result of an extraction. ``failed`` has a sentence for each video that could not be used."""

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
    """Extracts a ClipSet from videos; one that cannot be used stops none of the others.

    The clips of each video are saved in the folder ``out`` + ``.parts`` under a name that depends on file, models and
    settings, and are read from there the next time. The ClipSet is written at the end, whole or not at all.

    Args:
        labels: who is in each clip, by the name of the clip or of the file. Clips without a label are of unknown
            persons, as noise clips are.
        replacing: whether to replace a ClipSet at ``out``.
        say: receives one sentence at a time about what was left out.

    Raises:
        ExtractionError: something else is at ``out``, or no video could be used.
    """
    _check_free(out, replacing)
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    called, failed = dict(zip(videos, names(videos), strict=True)), {}

    def fail(path: Path, error: Exception) -> None:
        failed[path] = describe(path, error)
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
                report = lambda time, start=done, name=path.name: bar.to(start + time, name)  # noqa: E731
                clips = extract_clips(opened[path], stages, fps=fps, everybody=everybody, report=report)
                _save(clips, remarks(opened[path], clips[0], stages), files[path])
            except OSError:  # the part cannot be written, which is not the video's fault
                raise
            except Exception as error:
                fail(path, error)
            done += seconds
    good = {called[path]: (path, files[path]) for path in opened if path not in failed}
    if not good:
        raise ExtractionError(f"{out}: not written, because none of the videos can be used ({len(videos)} given)")
    clips, faces = _assemble(good, out, stages, fps, labels, say)
    return Extracted(out, clips, faces, failed)


def _check_free(out: Path, replacing: bool) -> None:
    if (out / FILES[0]).is_file():
        if not replacing:
            raise ExtractionError(f"{out}: a ClipSet found, expected a new folder, or --replace")
    elif out.exists():
        raise ExtractionError(f"{out}: something other than a ClipSet found, expected a new folder")


def _key(path: Path, stages: Stages, fps: float | int, everybody: bool, code: str) -> str:
    """A hash of everything that the clips of a video depend on."""
    file = path.stat()
    parts = [str(path.resolve()), file.st_size, file.st_mtime_ns, stages.checksums, fps, everybody, code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _save(clips: list[Clip], said: list[str], file: Path) -> None:
    arrays = {f"{n}.{name}": getattr(clip, name) for n, clip in enumerate(clips) for name in ARRAYS}
    arrays |= {f"{n}.vectors.{name}": vector for n, clip in enumerate(clips) for name, vector in clip.vectors.items()}
    texts = [clip.text for clip in clips]
    with written_whole(file) as new:
        new.write_bytes(save(arrays, {"texts": json.dumps(texts), "remarks": json.dumps(said)}))


def _open(file: Path, modalities: Iterable[str]) -> tuple[list[Clip], list[str]]:
    """The clips and remarks that ``_save`` wrote."""
    try:
        with safe_open(file, framework="np") as arrays:
            texts, said = (json.loads(arrays.metadata()[name]) for name in ("texts", "remarks"))
            listed = isinstance(texts, list) and isinstance(said, list)
            if not listed or not all(isinstance(word, str) for word in texts + said):
                raise ValueError("texts that are none")
            keys, clips = set(arrays.keys()), []
            for n, text in enumerate(texts):
                given = {name: arrays.get_tensor(key) for name in modalities if (key := f"{n}.vectors.{name}") in keys}
                clips.append(Clip(*(arrays.get_tensor(f"{n}.{name}") for name in ARRAYS), given, text))
    except Exception as error:  # of many kinds for a damaged file
        found = f"{file}: a damaged part found ({plain(error, 300)}), expected it as it was written"
        raise ExtractionError(f"{found}; remove it to extract its video again") from error
    return clips, said


def _assemble(
    parts: dict[str, tuple[Path, Path]],
    out: Path,
    stages: Stages,
    fps: float | int,
    labels: Mapping[str, Label] | None,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Writes the ClipSet from the parts, given as (video, part) by name; returns the numbers of clips and faces."""
    rows, counts, vectors = [], [], []
    used: set[str] = set()
    with writing(out, stages.embedder.dim, FACE_COLUMNS) as writer:
        for called, (path, file) in parts.items():
            clips, said = _open(file, stages.dims)
            for sentence in said:
                say(f"{path}: {sentence}")
            for number, clip in enumerate(clips, 1):
                name = called if number == 1 else f"{called}#{number}"
                known = [key for key in ((path.name, name) if number == 1 else (name,)) if key in (labels or {})]
                label = labels[known[-1]] if labels and known else Label()
                used.update(known)
                rows.append((name, label.person, label.split, called, str(path), number, clip.text))
                counts.append(len(clip.faces))
                writer.add(clip.faces, clip.table)
                vectors.append(clip.vectors)
        table = pd.DataFrame(rows, columns=["name", "person", "split", "group", "video", "track", "text"])
        table = table.astype({column: "str" for column in ("person", "split")})
        if labels is not None:
            if (unknown := table["person"].isna()).any():
                first = table["name"][unknown.argmax()]
                many = counted(int(unknown.sum()), "clip")
                say(f"labels: no person given for {many}, for example {first!r}")
            if idle := [name for name in labels if name not in used]:
                say(f"labels: {counted(len(idle), 'label')} without a clip, for example {idle[0]!r}")
        modalities = {
            name: Modality(torch.from_numpy(stacked), torch.from_numpy(present))
            for name, (stacked, present) in stack_modalities(vectors, stages.dims).items()
        }
        info = {"dataset": out.name, "embedder": stages.embedder.checksum}
        info["extraction"] = {"fps": fps, "models": stages.checksums}
        writer.finish(np.array(counts), table, modalities, info)
    return len(rows), sum(counts)
