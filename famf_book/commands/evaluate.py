"""``famf evaluate``: the official evaluation of a run or of a submission file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famf_book.commands.options import RUN, Device, dataset_names, run_keys, say, show, writing
from famf_lib.support.wording import counted

if TYPE_CHECKING:
    from famf_lib.experiments.submission import Report

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
    truth: Annotated[Path | None, typer.Option(help="the ground truth to score against, val_gt.txt")] = None,
    per_person: Annotated[
        Path | None, typer.Option(help="with --truth: write the scores here, one row per person, as CSV")
    ] = None,
    device: Device = "auto",
) -> None:
    """Rank the gallery of a run and write a submission, or score a submission as the official evaluation does."""
    file = Path(what)
    if truth is not None and (file.is_file() or file.suffix == ".txt"):
        if out is not None or dataset:
            raise ValueError("--truth: found with a submission and --out or --dataset, expected these with a run")
        _check(per_person, file, truth)
        from famf_lib.experiments import submission

        _show(submission.score_files(file, truth), per_person)
    elif truth is None and (per_person is not None or file.is_file()):
        raise ValueError(f"--truth: nothing found, expected the ground truth for the submission {what}")
    else:
        _check(per_person, out, truth)
        _rank(what, out, dataset, device, truth, per_person)


def _rank(what: str, out: Path | None, dataset: str, device: str, truth: Path | None, per_person: Path | None) -> None:
    from itertools import chain

    from famf_lib.data import iqiyi_text
    from famf_lib.experiments import submission
    from famf_lib.experiments.run_table import find_run
    from famf_lib.training import checkpoint, prediction
    from famf_lib.training.train import pick_device

    place, run = pick_device(device), find_run(what)
    opened = checkpoint.open(run.file)
    clipset = submission.data_of(opened.card, dataset, say)
    split = run.split(clipset)
    if out is not None:
        iqiyi_text.check_writable(out, chain(split.persons, clipset.clips["name"].iloc[split.gallery.numpy()]))
    ranked = submission.rank(opened, clipset.to(place), split)
    scores, scored = ranked.scores, int(ranked.scores.ap.isfinite().sum())
    noise = ranked.clips - sum(map(len, ranked.truth.values()))
    show(f"mAP {scores.mean_ap:.4f}, rank-1 {scores.rank_1:.4f}")
    show(f"{counted(scored, 'person')}, {counted(ranked.clips, 'clip')} ranked, {noise:,} of them noise")
    evident = prediction.has_evidence(opened, clipset)[split.gallery]
    if empty := int((~evident).sum()):
        show(f"{counted(empty, 'clip')} without a face or a modality of the model: ranked, but without evidence")
    if without := len(split.persons) - scored:
        show(f"{counted(without, 'person')} without a clip in the gallery, left out")
    if strangers := len(ranked.truth.keys() - ranked.lists.keys()):
        mean_ap = submission.score(ranked.lists, ranked.truth).mean_ap
        show(f"{counted(strangers, 'person')} in the gallery without a training clip, left out; with AP 0 for them:")
        show(f"mAP {mean_ap:.4f}, as in the official evaluation")
    if out is not None:
        show(iqiyi_text.write_submission(out, ranked.lists))
    if truth is not None:
        show(f"against {truth}:")
        _show(submission.score_against(ranked.lists, f"run {run.key}", truth), per_person)


def _check(per_person: Path | None, *inputs: Path | None) -> None:
    """Refuses a place for the scores before anything is computed."""
    if per_person is not None and per_person.is_dir():
        raise ValueError(f"--per-person: {per_person} is a folder, expected the name of a file to write")
    if per_person is not None and per_person.resolve() in [path.resolve() for path in inputs if path is not None]:
        raise ValueError(f"--per-person: {per_person} is one of the other files, expected another file to write")


def _show(report: "Report", per_person: Path | None) -> None:
    """Prints the official scores, and writes those of each person."""
    from famf_lib.experiments import submission
    from famf_lib.support.files import written_whole

    persons, ids = report.persons, len(report.persons)
    hits, positives = int(persons["hits"].sum()), int(persons["positives"].sum())
    show(f"mAP {report.mean_ap:.4f}")
    show(f"{counted(ids, 'id')} of the ground truth: {report.answered:,} answered, {ids - report.answered:,} not")
    show(f"{counted(positives, 'clip')} of the ground truth: {hits:,} listed for their id")
    show(f"{counted(report.clips, 'clip')} listed, {report.noise:,} of them not in the ground truth (noise)")
    for number, odd in (
        (report.strangers, "id not in the ground truth, not scored"),
        (report.repeated, "list that repeats a clip: its first place counts"),
        (report.cut, f"list of more than {submission.CUT} clips: the first {submission.CUT} count"),
    ):
        if number:
            show(counted(number, odd))
    if per_person is not None:
        with writing(per_person), written_whole(per_person) as new:
            persons.to_csv(new, index=False)
        show(per_person)
