"""``famf enroll`` and ``famf identify``: train a classifier of the user's own persons, and say who is in a video."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famf_book.commands.options import Fps, Models, Tracks, say, show, with_models, writing
from famf_lib.experiments.parameters import SEEDS
from famf_lib.support.wording import counted, plain

if TYPE_CHECKING:
    from famf_video.identification import Answer


@with_models
def enroll(
    folder: Annotated[Path, typer.Argument(help="one folder per person, with videos or pictures of the face")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="the file to write, .safetensors")],
    models: Models,
    to: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="add the persons to this model, without training it anew")
    ] = None,
    fps: Fps = 5.0,
    classifier: Annotated[
        str, typer.Option(help="famf, or margin: better on real faces, for the face alone (“What one would do today”)")
    ] = "famf",
    seed: Annotated[int, typer.Option(min=SEEDS[0], max=SEEDS[-1], help="of the training")] = 1,
) -> None:
    """Train a classifier of the persons in a folder of videos and pictures, for famf identify.

    No data leave this machine. Ask the persons first: book/responsible-use.md says why.
    """
    from famf_lib.training import checkpoint
    from famf_video import enrolment, identification

    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"--out: {out} found, expected a file that ends in .safetensors")
    if classifier not in ("famf", "margin"):
        raise ValueError(f"--classifier: {classifier!r} found, expected famf or margin")
    if classifier != "famf" and to is not None:
        raise ValueError("--classifier: found with --to, which trains nothing, expected one of them")
    if classifier == "margin" and (used := models.head or models.body or models.speaker or models.text):
        raise ValueError(f"--classifier margin: a model for {used!r} found, expected the face alone")
    least = 2 if to is None else 1
    enrolment.files_of(folder, least=least)
    opened = None if to is None else checkpoint.open(to)
    stages = models.open()
    if opened is not None:
        identification.check(opened, stages)
    clipset = enrolment.gather(folder, stages, fps=fps, say=say, least=least)
    with writing(out):
        made = (
            enrolment.enroll(clipset, out, classifier=classifier, seed=seed)
            if opened is None
            else enrolment.add(clipset, opened, out)
        )
    if made.tried:
        show(f"trial on held-out clips: {made.right} of {made.tried} assigned to the right person")
    elif opened is None:
        show("no trial on held-out clips: it needs a person with two videos, or with enough pictures for two clips")
    if found := made.calibration:
        named = f"{found.named} of {counted(found.strangers, 'clip')} get a name with their person left out"
        missed = f", {found.missed} of {found.known} are missed with their person known" if found.known else ""
        show(f"threshold {found.threshold:.3f}: {named}{missed}")
    elif opened is None:
        show("no threshold: it needs three persons")
    show(
        f"{made.file}: {counted(made.persons, 'person')}, {counted(made.clips, 'clip')}, {counted(made.faces, 'face')}"
    )


@with_models
def identify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="videos, pictures, or folders of them")],
    model: Annotated[
        str,
        typer.Option("--model", "--run", help="the file of a saved model, or a run: its key or the beginning of it"),
    ],
    models: Models,
    out: Annotated[Path | None, typer.Option(help="write the faces with their weights, as .html or .png")] = None,
    top: Annotated[int, typer.Option(min=1, help="number of persons to name, the most probable first")] = 5,
    threshold: Annotated[
        float | None, typer.Option(help="the score below which somebody is unknown; by default that of famf enroll")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the answers as JSON, with the weight of each face")
    ] = False,
    tracks: Tracks = "main",
    fps: Fps = 5.0,
) -> None:
    """Say which of the persons that a model knows is in a video or picture, and show the faces that decided it.

    No data leave this machine. An answer can be wrong: book/responsible-use.md says how often.
    """
    from famf_book import answer_page
    from famf_book.commands.models import saved_file
    from famf_lib.support import rasters
    from famf_lib.support.progress import progress
    from famf_lib.training import checkpoint
    from famf_video import clips, identification, labels
    from famf_video.contained import describe

    if out is not None:
        answer_page.check_writable(out)
    paths = labels.videos(files, say, (*labels.ENDINGS, *rasters.ENDINGS))
    opened = checkpoint.open(saved_file(model))
    stages = models.open()
    identification.check(opened, stages)
    if opened.card.embedder is None:
        say("the model does not say which network its face vectors come from: another one gives a meaningless answer")
    if threshold is None and (opened.card.known is None or opened.card.known.threshold is None):
        say("the model has no threshold, so it names somebody, whoever it is; --threshold sets one")
    everything = []
    with progress("looking", len(paths)) as bar:
        for number, path in enumerate(paths):
            try:
                found = identification.identify(
                    path,
                    opened,
                    stages,
                    top=top,
                    threshold=threshold,
                    fps=fps,
                    everybody=tracks == "all",
                    report=lambda time, n=number, name=path.name: bar.to(n, f"{name} {time:.0f} s"),
                )
                everything.append(found)
            except Exception as error:
                say(describe(path, error))
                continue
            for sentence in clips.remarks(found.video, found.answers[0].clip, stages):
                say(f"{path}: {sentence}")
            for name in found.lacking:
                say(f"{path}: {name}: no vector of it, so the model gets zeros (Sec. 4.3)")
            for answer in [] if as_json else found.answers:
                show(plain(_line(answer), None))
    if as_json:
        answers = [{"file": str(found.video.path)} | _for_json(one) for found in everything for one in found.answers]
        typer.echo(json.dumps(answers, indent=1))  # names of files may have any characters
    if out is not None and everything:
        with writing(out):
            (say if as_json else show)(answer_page.write(everything, out))
    if len(everything) < len(paths):
        say(f"{len(paths) - len(everything):,} of {counted(len(paths), 'file')} could not be used")
        raise typer.Exit(1)


def _line(answer: "Answer") -> str:
    if answer.likely is None:
        return f"{answer.name}: no answer, because no face was found"
    limit = answer.threshold
    if answer.person is None:
        said = f"unknown (closest to {answer.likely}, score {answer.score:.3f}, below {limit:.3f})"
    else:
        score = "" if limit is None else f", score {answer.score:.3f} (at least {limit:.3f})"
        probable = zip(answer.persons, answer.probabilities, strict=True)
        said = f"{answer.person}{score}; classifier: {', '.join(f'{who} {p:.3f}' for who, p in probable)}"
    return f"{answer.name}: {said}; {counted(len(answer.weights), 'face')}"


def _for_json(answer: "Answer") -> dict[str, Any]:
    faces = zip(answer.clip.times.tolist(), answer.weights.tolist(), strict=True)
    return {
        "clip": answer.name,
        "person": answer.person or answer.likely and "unknown",
        "likely": answer.likely,
        "score": round(answer.score, 6),
        "threshold": answer.threshold,
        "probabilities": {who: round(p, 6) for who, p in zip(answer.persons, answer.probabilities, strict=True)},
        "faces": [{"time": round(time, 3), "weight": round(weight, 6)} for time, weight in faces],
    }
