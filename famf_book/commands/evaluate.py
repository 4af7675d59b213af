"""``famf evaluate``: the official evaluation of a run or of a submission file."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import RUN, Device, dataset_names, run_keys, writing
from famf_lib.support.wording import counted

What = Annotated[
    str,
    typer.Argument(metavar="RUN|SUBMISSION", help=f"{RUN}, or a submission file", autocompletion=run_keys),
]


def evaluate(
    what: What,
    out: Annotated[Path | None, typer.Option(help="for a run: write its submission file here")] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="for a run: its dataset, or the folder of a ClipSet; by default looked up in the store",
            autocompletion=dataset_names,
        ),
    ] = "",
    truth: Annotated[Path | None, typer.Option(help="for a submission: the ground truth, val_gt.txt")] = None,
    per_person: Annotated[
        Path | None, typer.Option(help="for a submission: write the scores here, one row per person, as CSV")
    ] = None,
    device: Device = "auto",
) -> None:
    """Rank the gallery of a run and write a submission, or score a submission as the official evaluation does."""
    if truth is not None:
        if out is not None or dataset:
            raise ValueError(
                "--truth: found with --out or --dataset, expected --truth with a submission, or the others with a run"
            )
        _score(Path(what), truth, per_person)
    elif per_person is not None or Path(what).is_file():
        raise ValueError(f"--truth: nothing found, expected the ground truth for the submission {what}")
    else:
        _rank(what, out, dataset, device)


def _rank(what: str, out: Path | None, dataset: str, device: str) -> None:
    from itertools import chain

    from famf_lib.data import iqiyi_text
    from famf_lib.experiments import run_store, submission
    from famf_lib.training import checkpoint, prediction
    from famf_lib.training.train import pick_device

    place, run = pick_device(device), run_store.open_run(what)
    opened = checkpoint.open(run.file)
    clipset = submission.data_of(opened.card, dataset)
    split = run.split(clipset)
    if out is not None:
        iqiyi_text.check_writable(out, chain(split.persons, clipset.clips["name"].iloc[split.gallery.numpy()]))
    ranked = submission.rank(opened, clipset.to(place), split)
    scores, scored = ranked.scores, int(ranked.scores.ap.isfinite().sum())
    noise = ranked.clips - sum(map(len, ranked.truth.values()))
    typer.echo(f"mAP {scores.mean_ap:.4f}, rank-1 {scores.rank_1:.4f}")
    typer.echo(f"{counted(scored, 'person')}, {counted(ranked.clips, 'clip')} ranked, {noise:,} of them noise")
    evident = prediction.has_evidence(opened, clipset)[split.gallery]
    if empty := int((~evident).sum()):
        typer.echo(f"{counted(empty, 'clip')} without a face or a modality of the model: ranked, but without evidence")
    if without := len(split.persons) - scored:
        typer.echo(f"{counted(without, 'person')} without a clip in the gallery, left out")
    if strangers := len(ranked.truth.keys() - ranked.lists.keys()):
        mean_ap = submission.score(ranked.lists, ranked.truth).mean_ap
        typer.echo(
            f"{counted(strangers, 'person')} in the gallery without a training clip, left out; with AP 0 for them:"
        )
        typer.echo(f"mAP {mean_ap:.4f}, as in the official evaluation")
    if out is not None:
        typer.echo(iqiyi_text.write_submission(out, ranked.lists))


def _score(file: Path, truth: Path, per_person: Path | None) -> None:
    from famf_lib.experiments import submission
    from famf_lib.support.files import written_whole

    if per_person is not None and per_person.is_dir():
        raise ValueError(f"--per-person: {per_person} is a folder, expected the name of a file to write")
    if per_person is not None and per_person.resolve() in (file.resolve(), truth.resolve()):
        raise ValueError(f"--per-person: {per_person} is one of the input files, expected another file to write")
    report = submission.score_files(file, truth)
    persons, ids = report.persons, len(report.persons)
    hits, positives = int(persons["hits"].sum()), int(persons["positives"].sum())
    typer.echo(f"mAP {report.mean_ap:.4f}")
    typer.echo(f"{counted(ids, 'id')} of the ground truth: {report.answered:,} answered, {ids - report.answered:,} not")
    typer.echo(f"{counted(positives, 'clip')} of the ground truth: {hits:,} listed for their id")
    typer.echo(f"{counted(report.clips, 'clip')} listed, {report.noise:,} of them not in the ground truth (noise)")
    for number, odd in (
        (report.strangers, "id not in the ground truth, not scored"),
        (report.repeated, "list that repeats a clip: its first place counts"),
        (report.cut, f"list of more than {submission.CUT} clips: the first {submission.CUT} count"),
    ):
        if number:
            typer.echo(counted(number, odd))
    if per_person is not None:
        with writing(per_person), written_whole(per_person) as new:
            persons.to_csv(new, index=False)
        typer.echo(per_person)
