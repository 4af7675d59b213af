"""``famf runs``, ``famf predict`` and ``famf export``: list trained models, apply them, and write them as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famf_book.commands.options import (
    DATASET,
    EXPERIMENTS,
    RUN,
    Device,
    Profile,
    dataset_names,
    open_clips,
    run_keys,
    say,
    show,
    writing,
)
from famf_lib.support.wording import counted, plain

if TYPE_CHECKING:
    import pyarrow as pa

Model = Annotated[
    str,
    typer.Argument(metavar="RUN", help=f"{RUN}, or the file of a saved model", autocompletion=run_keys),
]


def runs(
    last: Annotated[int, typer.Option(min=1, help="how many to list, the latest ones")] = 20,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help=DATASET, autocompletion=dataset_names)] = "",
    experiment: Annotated[
        str, typer.Option(help="such as table-1", autocompletion=lambda: EXPERIMENTS, show_default=False)
    ] = "",
    row: Annotated[str, typer.Option(help='a row of a table, such as FAMF or "NetVLAD + MMA"')] = "",
    best: Annotated[bool, typer.Option("--best", help="only the best run of each row on each dataset")] = False,
) -> None:
    """List the trained models in the store: key, date, dataset, profile, experiment, row, setting, seed and mAP."""
    from famf_lib.experiments.run_table import chosen, run_table

    table = run_table(say)
    words = {"dataset": dataset, "experiment": experiment, "row": row}
    found = chosen(table, {column: word for column, word in words.items() if word}, best)
    others = found.groupby("key")["experiment"].transform("nunique") - 1
    more = [f" +{number}" if number else "" for number in others]
    shown = found.assign(experiment=found["experiment"] + more, when=found["when"].str[:16]).drop_duplicates("key")
    if len(shown):
        show(shown.tail(last).to_string(index=False, float_format="{:.4f}".format))
    cut = f", the latest {last} of {len(shown):,} shown" if len(shown) > last else ""
    show(f"{counted(table['key'].nunique(), 'run')} in the store{cut}")


def predict(
    run: Model,
    clips: Annotated[
        str,
        typer.Argument(
            metavar="CLIPSET",
            help="a dataset that famf data list shows, or the folder of a ClipSet",
            autocompletion=dataset_names,
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="how many persons per clip, the most probable first")] = 5,
    out: Annotated[Path | None, typer.Option(help="write the predictions here, as .parquet, .jsonl or .csv")] = None,
    faces: Annotated[
        str, typer.Option(help="faces of each clip to use: a number, evenly spaced, or all; by default as in training")
    ] = "",
    profile: Profile = "standard",
    device: Device = "auto",
) -> None:
    """Predict who is in each clip, with probabilities and the weight of each face."""
    from famf_lib.support.progress import progress
    from famf_lib.training import checkpoint, prediction
    from famf_lib.training.train import pick_device

    if faces not in ("", "all") and not (faces.isdecimal() and int(faces)):
        raise ValueError(f"--faces: {faces!r} found, expected a number of 1 or more, or all")
    place = pick_device(device)
    opened = checkpoint.open(saved_file(run), place)
    clipset, lacking = prediction.fitting(open_clips(clips, profile), opened.card)
    for name in lacking:
        say(f"{name}: these clips have none, so the model gets zero vectors (Sec. 4.3)")
    used = faces if faces == "all" else int(faces or opened.card.evaluation.faces)
    say(f"uses {'all' if used == 'all' else f'{used:,} evenly spaced'} faces of each clip")
    clipset = clipset.to(place)
    if empty := int((~prediction.has_evidence(opened, clipset)).sum()):
        say(f"{counted(empty, 'clip')} without a face or a modality of the model: no answer")
    tables = prediction.predict(opened, clipset, top, used)
    if out is None:
        for table in tables:
            for line in _lines(table):
                show(line)
    else:
        with writing(out), progress("predicting", len(clipset)) as bar:
            show(prediction.write(tables, out, bar.to))


def export(
    run: Model,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="the file to write, .onnx or .safetensors")],
) -> None:
    """Write a trained model for other programs: an ONNX graph, checked against PyTorch, or the saved model."""
    from famf_lib.training import checkpoint, onnx_export

    source = saved_file(run)
    if out.suffix == ".onnx":
        opened = checkpoint.open(source)
        with writing(out):
            worst = onnx_export.onnx(opened, out)
        show(f"{out}\nlargest relative difference from PyTorch: {worst:.1e}")
        show(onnx_export.description(opened.card))
    elif out.suffix == ".safetensors":
        with writing(out):
            show(onnx_export.copy(source, out))
    else:
        raise ValueError(f"{out}: ends in {out.suffix!r}, expected .onnx or .safetensors")


def saved_file(run: str) -> Path:
    """The file of a saved model, given that file or a run."""
    import famf_today.saved  # noqa: F401 (the aggregation of famf enroll --classifier margin)
    from famf_lib.experiments.run_table import find_run

    return Path(run) if Path(run).is_file() else find_run(run).file


def _lines(table: "pa.Table") -> list[str]:
    """One line per clip: its name, the persons with their probabilities, the weights of its faces."""
    lines = []
    for row in table.to_pylist():
        persons = [f"{name} {p:.3f}" for name, p in zip(row["persons"], row["probabilities"], strict=True)]
        faces = " ".join(f"{weight:.2f}" for weight in row["weights"]) or "none"
        line = f"{row['name']}: {', '.join(persons) or 'no answer'}; weights of its faces: {faces}"
        lines.append(plain(line, None))  # a name may contain control characters
    return lines
