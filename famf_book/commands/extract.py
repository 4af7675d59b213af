"""``famf extract``: from videos to a ClipSet, which every other command accepts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famf_book.commands.options import Body, Detector, Embedder, Fps, Head, MinFace, Speaker, Text, say, show, writing
from famf_lib.support.wording import counted

if TYPE_CHECKING:
    from famf_video.clips import Stages


def extract(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="video files, or folders of them")],
    out: Annotated[Path, typer.Option(metavar="CLIPSET", help="a new folder")],
    detector: Detector = "mtcnn",
    embedder: Embedder = "mobilefacenet128",
    head: Head = "",
    body: Body = "",
    speaker: Speaker = "",
    text: Text = "",
    fps: Fps = 5.0,
    min_face: MinFace = 40,
    tracks: Annotated[str, typer.Option(help="main: the main person of each video; all: the others as well")] = "main",
    labels: Annotated[
        Path | None, typer.Option(help="who is in each clip: a CSV file with the columns clip, person, split")
    ] = None,
    person_folders: Annotated[
        bool, typer.Option("--person-folders", help="the folder of a video is named after the person in it")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier ClipSet")] = False,
) -> None:
    """Detect, track and embed the faces in videos; also head, body, voice and text, if models for them are given.

    After an interruption the same command resumes with the missing videos. Nothing is downloaded, and no data leave
    this machine.
    """
    from famf_video import labels as naming
    from famf_video import pipeline

    if tracks not in ("main", "all"):
        raise ValueError(f"--tracks: {tracks!r} found, expected main or all")
    if labels is not None and person_folders:
        raise ValueError("--labels: found with --person-folders, expected one of them")
    files = naming.videos(videos, say)
    who = naming.read(labels, say) if labels is not None else naming.from_folders(files) if person_folders else None
    stages = models_of(detector, embedder, head, body, speaker, text, min_face)
    if absent := [name for name in ("head", "body", "audio", "text") if name not in stages.dims]:
        options = ", ".join(f"--{'speaker' if name == 'audio' else name}" for name in absent)
        say(f"{', '.join(absent)}: no model given ({options}), so these clips have none")
    everybody = tracks == "all"
    with writing(out):
        made = pipeline.extract(
            files, out, stages, fps=fps, everybody=everybody, labels=who, replacing=replace, say=say
        )
    show(f"{made.folder}: {counted(made.clips, 'clip')}, {counted(made.faces, 'face')}")
    if made.failed:
        say(f"{len(made.failed):,} of {len(files):,} videos could not be used")
        raise typer.Exit(1)


def models_of(detector: str, embedder: str, head: str, body: str, speaker: str, text: str, min_face: int) -> "Stages":
    """Opens the models that the options name."""
    from famf_video import clips, detection, registry
    from famf_video.embedding import ArcFace
    from famf_video.regions import OnnxImages
    from famf_video.speech import OnnxSpeaker
    from famf_video.text import RapidOcr, SentenceTransformers

    return clips.Stages(
        detection.detector(detector, min_face),
        ArcFace(registry.find(embedder)),
        OnnxImages(registry.find(head)) if head else None,
        OnnxImages(registry.find(body)) if body else None,
        OnnxSpeaker(registry.find(speaker)) if speaker else None,
        RapidOcr() if text else None,
        SentenceTransformers(text) if text else None,
    )
