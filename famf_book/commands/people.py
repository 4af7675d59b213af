"""``famf enroll`` and ``famf identify``: train a classifier of the user's own persons, and say who is in a video."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import Body, Detector, Embedder, Fps, Head, MinFace, Speaker, Text, say, show, writing
from famf_lib.experiments.parameters import SEEDS
from famf_lib.support.wording import counted, plain


def enroll(
    folder: Annotated[Path, typer.Argument(help="one folder per person, with videos or pictures of the face")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="the file to write, .safetensors")],
    detector: Detector = "mtcnn",
    embedder: Embedder = "mobilefacenet128",
    head: Head = "",
    body: Body = "",
    speaker: Speaker = "",
    text: Text = "",
    fps: Fps = 5.0,
    min_face: MinFace = 40,
    seed: Annotated[int, typer.Option(min=SEEDS[0], max=SEEDS[-1], help="of the training")] = 1,
) -> None:
    """Train a classifier of the persons in a folder of videos and pictures, for famf identify.

    No data leave this machine. Ask the persons first: book/responsible-use.md says why.
    """
    from famf_book.commands.extract import models_of
    from famf_video import enrolment

    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"--out: {out} found, expected a file that ends in .safetensors")
    enrolment.files_of(folder)
    stages = models_of(detector, embedder, head, body, speaker, text, min_face)
    clipset = enrolment.gather(folder, stages, fps=fps, say=say)
    with writing(out):
        made = enrolment.enroll(clipset, out, seed=seed)
    if made.tried:
        show(f"trial on held-out clips: {made.right} of {made.tried} assigned to the right person")
    else:
        show("no trial on held-out clips: it needs a person with two videos, or with enough pictures for two clips")
    show(
        f"{made.file}: {counted(made.persons, 'person')}, {counted(made.clips, 'clip')}, {counted(made.faces, 'face')}"
    )


def identify(
    video: Annotated[Path, typer.Argument(help="a video file")],
    run: Annotated[str, typer.Option(help="a saved model, or a run: its key or the beginning of it, or its folder")],
    out: Annotated[Path | None, typer.Option(help="write the faces with their weights, as .html or .png")] = None,
    top: Annotated[int, typer.Option(min=1, help="number of persons to name, the most probable first")] = 5,
    tracks: Annotated[str, typer.Option(help="main: the main person; all: the others as well")] = "main",
    detector: Detector = "mtcnn",
    embedder: Embedder = "mobilefacenet128",
    head: Head = "",
    body: Body = "",
    speaker: Speaker = "",
    text: Text = "",
    fps: Fps = 5.0,
    min_face: MinFace = 40,
) -> None:
    """Say which of the persons that a model knows is in a video, and show the faces that decided it.

    No data leave this machine. The model always names one of its persons, whoever is in the video:
    book/responsible-use.md.
    """
    from famf_book import answer_page
    from famf_book.commands.extract import models_of
    from famf_book.commands.models import saved_file
    from famf_lib.support.progress import progress
    from famf_lib.training import checkpoint
    from famf_video import clips, identification

    if tracks not in ("main", "all"):
        raise ValueError(f"--tracks: {tracks!r} found, expected main or all")
    if out is not None:
        answer_page.check_writable(out)
    opened = checkpoint.open(saved_file(run))
    stages = models_of(detector, embedder, head, body, speaker, text, min_face)
    if opened.card.embedder is None:
        say("the model does not say which network its face vectors come from: another one gives a meaningless answer")
    with progress("looking", 1) as bar:
        report = lambda time: bar.to(0, f"{time:.0f} s")  # noqa: E731
        everybody = tracks == "all"
        found = identification.identify(video, opened, stages, top=top, fps=fps, everybody=everybody, report=report)
    for sentence in clips.remarks(found.video, found.answers[0].clip, stages):
        say(f"{video}: {sentence}")
    for name in found.lacking:
        say(f"{name}: no vector of it for this video, so the model gets zeros (Sec. 4.3)")
    for answer in found.answers:
        persons = ", ".join(f"{who} {p:.3f}" for who, p in zip(answer.persons, answer.probabilities, strict=True))
        show(plain(f"{answer.name}: {persons}; {counted(len(answer.weights), 'face')}", None))
    if out is not None:
        with writing(out):
            show(answer_page.write(found, out))
