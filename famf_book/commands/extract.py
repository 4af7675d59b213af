"""``famf extract``: from videos to a ClipSet, which the other commands accept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famf_book.commands.options import Body, Detector, Embedder, Fps, Head, MinFace, Speaker, Text, Tracks, say, writing
from famf_lib.support.wording import counted

if TYPE_CHECKING:
    from famf_video.clips import Stages


def extract(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="video files, or folders with videos")],
    out: Annotated[Path, typer.Option(metavar="CLIPSET", help="the folder to write")],
    detector: Detector = "mtcnn",
    embedder: Embedder = "mobilefacenet128",
    head: Head = "",
    body: Body = "",
    speaker: Speaker = "",
    text: Text = "",
    fps: Fps = 5.0,
    min_face: MinFace = 40,
    tracks: Tracks = "main",
    labels: Annotated[
        Path | None, typer.Option(help="who is in each clip: a CSV file with the columns clip, person, split")
    ] = None,
    person_folders: Annotated[
        bool, typer.Option("--person-folders", help="the folder of a video has the name of the person")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier ClipSet in that folder")] = False,
) -> None:
    """Detect, track and embed the faces in videos; also heads, bodies, voices and text if a model is given for them.

    After an interruption, the same command continues with the remaining videos. Nothing is downloaded, and nothing
    leaves this machine.
    """
    from famf_video import labels as naming
    from famf_video import pipeline

    if tracks not in ("main", "all"):
        raise ValueError(f"--tracks: {tracks!r} found, expected main or all")
    if labels is not None and person_folders:
        raise ValueError("--labels: found with --person-folders, expected one of them")
    files = naming.videos(videos, say)
    who = naming.read(labels, say) if labels is not None else naming.of_folders(files) if person_folders else None
    stages = models_of(detector, embedder, head, body, speaker, text, min_face)
    if absent := [name for name in ("head", "body", "audio", "text") if name not in stages.dims]:
        options = ", ".join(f"--{'speaker' if name == 'audio' else name}" for name in absent)
        say(f"{', '.join(absent)}: no model named ({options}), so these clips have none")
    with writing(out):
        made = pipeline.extract(
            files,
            out,
            stages,
            fps=fps,
            everybody=tracks == "all",
            labels=who,
            replacing=replace,
            say=say,
        )
    typer.echo(f"{made.folder}: {counted(made.clips, 'clip')}, {counted(made.faces, 'face')}")
    if made.failed:
        say(f"{len(made.failed):,} of {len(files):,} videos could not be used")
        raise typer.Exit(1)


def models_of(detector: str, embedder: str, head: str, body: str, speaker: str, text: str, min_face: int) -> "Stages":
    """Opens the named models, before the first video is read."""
    from famf_video import clips, detection, registry
    from famf_video.embedding import ArcFace
    from famf_video.regions import OnnxImages
    from famf_video.speech import OnnxSpeaker
    from famf_video.text import RapidOcr, SentenceTransformers

    return clips.Stages(
        detection.detector(detector, min_face),
        ArcFace(registry.find(embedder), workers=1),
        OnnxImages(registry.find(head)) if head else None,
        OnnxImages(registry.find(body)) if body else None,
        OnnxSpeaker(registry.find(speaker)) if speaker else None,
        RapidOcr() if text else None,
        SentenceTransformers(text) if text else None,
    )
