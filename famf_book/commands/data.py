"""``famf data``: lists, describes, checks, exports and imports datasets."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import (
    EMBEDDER,
    Profile,
    Yes,
    clips_folder,
    confirm,
    dataset_names,
    import_names,
    open_clips,
    say,
    show,
)
from famf_lib.support.wording import counted, plain

app = typer.Typer(no_args_is_help=True, help="List, describe, check, export and import datasets.")
bringing = typer.Typer(no_args_is_help=True, help="Import your own data into the store, under a name.")
app.add_typer(bringing, name="import")

Clips = Annotated[
    str,
    typer.Argument(
        help="a dataset that famf data list shows, or the folder of a ClipSet", autocompletion=dataset_names
    ),
]


@app.command("list")
def data_list() -> None:
    """List the datasets: which are on this machine, and how to get the others."""
    from famf_lib.data import datasets
    from famf_lib.data.clipset import ClipSetError

    for name in datasets.names():
        try:
            dataset = datasets.get(name)
            absence = dataset.absence()
            state = f"{'here' if absence is None else 'absent':7}  {plain(absence or dataset.title)}"
        except ClipSetError as error:  # a damaged dataset does not hide the others
            state = f"damaged  {error}"
        show(f"{name:10} {state}")


@app.command("info")
def data_info(
    dataset: Clips,
    profile: Profile = "standard",
    record: Annotated[
        bool, typer.Option("--record", help="also write the numbers of its page to results/, for machines without it")
    ] = False,
) -> None:
    """Describe a dataset on one screen; if it is missing and can be made, it is made first."""
    from famf_book import datasheets
    from famf_lib.data import datasets, inspection

    clipset = open_clips(dataset, profile)
    title = datasets.get(dataset).title if dataset in datasets.names() else ""
    show(inspection.summary(clipset, title))
    if record:
        show(datasheets.record(dataset))


@app.command("verify")
def data_verify(dataset: Clips, profile: Profile = "standard") -> None:
    """Check a dataset in the store against its checksums and its fingerprint, and report what differs."""
    from famf_lib.data import inspection
    from famf_lib.data.clipset import CHECKSUMS

    folder = clips_folder(dataset, profile)
    for fault in (faults := inspection.faults(folder)):
        say(fault)
    if faults:
        raise typer.Exit(1)
    sums = (folder / CHECKSUMS).exists()
    show(f"ok  {folder}" + ("" if sums else f"\nno {CHECKSUMS} in it: columns of faces were not compared"))


@app.command("export")
def data_export(
    dataset: Clips,
    folder: Annotated[Path, typer.Argument(help="a new folder for the tables")],
    npz: Annotated[bool, typer.Option("--npz", help="write features.npz instead of two Parquet files")] = False,
    profile: Profile = "standard",
) -> None:
    """Write a dataset as tables that famf data import table reads (data/README.md describes them)."""
    from famf_lib.data import table_export

    clipset = open_clips(dataset, profile)
    show(f"{table_export.export(clipset, folder, npz=npz)}, fingerprint {clipset.fingerprint}")


@app.command("remove")
def data_remove(
    name: Annotated[str, typer.Argument(help="the name of an import", autocompletion=import_names)], yes: Yes = False
) -> None:
    """Remove an import from the store. Your files and the runs trained on it stay."""
    import shutil

    from famf_lib.data import imported

    folder = imported.place(name)
    if not folder.is_dir():
        raise ValueError(f"name: there is no import {name!r}, expected one of {', '.join(imported.names()) or 'none'}")
    confirm(f"Remove {folder}?", yes)
    shutil.rmtree(folder)
    show(f"removed {folder}")


@bringing.command("table")
def import_table(
    folder: Annotated[Path, typer.Argument(help="a folder with faces.parquet and clips.parquet, or an .npz file")],
    name: Annotated[str, typer.Option(help="name of the import; by default that of the folder")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier import of that name")] = False,
) -> None:
    """Import your own features from tables (data/README.md describes them)."""
    from famf_lib.data import inspection, tables

    clipset = tables.import_tables(folder, name, replacing=replace, say=say)
    show(inspection.summary(clipset, f"{clipset.folder.name}, imported"))


@bringing.command("imfdb")
def import_imfdb(
    archive: Annotated[Path, typer.Argument(help="IMFDB_final.tar.gz, or the folder that was unpacked from it")],
    embedder: Annotated[str, typer.Option(help=EMBEDDER)],
    landmarks: Annotated[
        str, typer.Option(help="O-Net of MTCNN: a name that famf models list shows, or an ONNX file")
    ] = "mtcnn-onet",
    name: Annotated[str, typer.Option(help="name of the import; by default imfdb-NETWORK")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier import of that name")] = False,
) -> None:
    """Compute face vectors from the images of IMFDB; after an interruption it resumes."""
    import re

    from famf_lib.data import inspection
    from famf_video import imfdb_embedding, registry
    from famf_video.embedding import ArcFace

    network = registry.find(embedder)
    name = name or re.sub("[^a-z0-9]+", "-", f"imfdb-{network.stem}".lower())[:40].strip("-")
    points = imfdb_embedding.Landmarks.open(registry.find(landmarks))
    made = imfdb_embedding.import_pictures(archive, ArcFace(network), points, name, replacing=replace)
    if made.faces:
        show(f"{counted(made.faces, 'face')} in {made.seconds:.0f} s, {made.faces / made.seconds:.0f} per second")
    show(inspection.summary(made.clipset, made.clipset.info["title"]))


@bringing.command("iqiyi")
def import_iqiyi(
    folder: Annotated[Path, typer.Argument(help="folder of the official files; data/README.md describes it")],
    name: Annotated[str, typer.Option(help="name of the import")] = "iqiyi",
    faults: Annotated[str, typer.Option(help="stop (at the first fault) or skip (and count the faults)")] = "stop",
    replace: Annotated[
        bool, typer.Option("--replace", help="replace an earlier import of that name, as is always done for iqiyi")
    ] = False,
) -> None:
    """Import the official files of iQIYI-VID-2019, and report where they differ from the published description."""
    from typing import get_args

    from famf_lib.data import datasets, inspection, iqiyi
    from famf_lib.data.iqiyi_text import Faults

    if faults not in get_args(Faults):
        raise ValueError(f"--faults: {faults!r} is not known, expected one of {', '.join(get_args(Faults))}")
    if name != iqiyi.NAME:
        datasets.check_free(name, replace)
    clipset, found = iqiyi.import_folder(folder, name, faults)
    show(found.report())
    show(inspection.summary(clipset, iqiyi.TITLE))
