"""``famf extract``: from videos to a ClipSet, which every other command accepts."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import Fps, Models, Tracks, say, show, with_models, writing
from famf_lib.support.wording import counted


@with_models
def extract(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="video files, or folders of them")],
    out: Annotated[Path, typer.Option(metavar="CLIPSET", help="a new folder")],
    models: Models,
    fps: Fps = 5.0,
    tracks: Tracks = "main",
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

    if labels is not None and person_folders:
        raise ValueError("--labels: found with --person-folders, expected one of them")
    files = naming.videos(videos, say)
    who = naming.read(labels, say) if labels is not None else naming.from_folders(files) if person_folders else None
    stages = models.open()
    if absent := [name for name in ("head", "body", "audio", "text") if name not in stages.dims]:
        options = ", ".join(f"--{'speaker' if name == 'audio' else name}" for name in absent)
        say(f"{', '.join(absent)}: no model given ({options}), so these clips have none")
    how = {"fps": fps, "everybody": tracks == "all", "labels": who, "replacing": replace}
    with writing(out):
        made = pipeline.extract(files, out, stages, say=say, **how)
    show(f"{made.folder}: {counted(made.clips, 'clip')}, {counted(made.faces, 'face')}")
    if made.failed:
        say(f"{len(made.failed):,} of {len(files):,} videos could not be used")
        raise typer.Exit(1)
