"""``famf data``: the datasets that are here, what is in them, and how to get what is not."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands import completion
from famf_book.commands.options import Profile, clips_folder
from famf_lib.support.wording import counted

app = typer.Typer(no_args_is_help=True, help="The datasets: what is here, what is in it, and how to get what is not.")
bringing = typer.Typer(no_args_is_help=True, help="Bring data of your own into the store, under a name.")
app.add_typer(bringing, name="import")

Clips = Annotated[
    str,
    typer.Argument(
        help="synthetic, imfdb …, the name of an import, or the folder of a ClipSet", autocompletion=completion.datasets
    ),
]


@app.command("list")
def data_list() -> None:
    """Every dataset, and whether it is here."""
    from famf_lib.data import datasets
    from famf_lib.data.clipset import ClipSetError

    for name in datasets.names():
        try:
            dataset = datasets.get(name)
            absence = dataset.absence()
            told = f"{'here' if absence is None else 'absent':7}  {absence or dataset.title}"
        except ClipSetError as error:  # one that is damaged hides none of the others
            told = f"damaged  {error}"
        typer.echo(f"{name:10} {told}")


@app.command("info")
def data_info(dataset: Clips, profile: Profile = "standard") -> None:
    """A dataset on one screen; it is made first if need be."""
    from famf_lib.data import datasets, inspection
    from famf_lib.data.clipset import ClipSet

    clipset = ClipSet.open(clips_folder(dataset, profile))
    title = datasets.get(dataset).title if dataset in datasets.names() else ""
    typer.echo(inspection.summary(clipset, title))


@app.command("verify")
def data_verify(dataset: Clips, profile: Profile = "standard") -> None:
    """Compare a dataset in the store with its checksums and its fingerprint; say what differs."""
    from famf_lib.data import inspection
    from famf_lib.data.clipset import CHECKSUMS

    folder = clips_folder(dataset, profile)
    for fault in (faults := inspection.faults(folder)):
        typer.echo(f"famf: {fault}", err=True)
    if faults:
        raise typer.Exit(1)
    sums = (folder / CHECKSUMS).exists()
    typer.echo(f"ok  {folder}" + ("" if sums else f"\nno {CHECKSUMS} in it: columns of faces were not compared"))


@app.command("export")
def data_export(
    dataset: Clips,
    folder: Annotated[Path, typer.Argument(help="a new folder for the tables")],
    npz: Annotated[bool, typer.Option("--npz", help="features.npz in place of two Parquet files")] = False,
    profile: Profile = "standard",
) -> None:
    """Write a dataset as tables, which famf data import table reads (data/README.md says what is in them)."""
    from famf_lib.data import table_export
    from famf_lib.data.clipset import ClipSet

    clipset = ClipSet.open(clips_folder(dataset, profile))
    typer.echo(f"{table_export.export(clipset, folder, npz=npz)}, fingerprint {clipset.fingerprint}")


@bringing.command("table")
def import_table(
    folder: Annotated[Path, typer.Argument(help="faces.parquet and clips.parquet in a folder, or an .npz file")],
    name: Annotated[str, typer.Option(help="what it is called from then on; otherwise as the folder")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="an earlier import of that name gives way")] = False,
) -> None:
    """Import features of your own (data/README.md says what the tables hold)."""
    from famf_lib.data import inspection, tables

    clipset = tables.import_tables(
        folder, name, replacing=replace, say=lambda sentence: typer.echo(f"famf: {sentence}", err=True)
    )
    typer.echo(inspection.summary(clipset, f"{clipset.folder.name}, imported"))


@bringing.command("imfdb")
def import_imfdb(
    archive: Annotated[Path, typer.Argument(help="IMFDB_final.tar.gz, or the folder that comes out of it")],
    embedder: Annotated[
        str, typer.Option(help="a network of the ArcFace kind: a name of famf models list, or an ONNX file")
    ],
    landmarks: Annotated[str, typer.Option(help="O-Net of MTCNN, likewise")] = "mtcnn-onet",
    name: Annotated[str, typer.Option(help="what it is called from then on; otherwise imfdb- and the network")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="an earlier import of that name gives way")] = False,
) -> None:
    """Make face vectors from the pictures of IMFDB; it goes on where it was interrupted."""
    import re

    from famf_lib.data import inspection
    from famf_video import imfdb_embedding, registry
    from famf_video.embedding import ArcFace

    network = registry.find(embedder)
    name = name or re.sub("[^a-z0-9]+", "-", f"imfdb-{network.stem}".lower())[:40].strip("-")
    points = imfdb_embedding.Landmarks.open(registry.find(landmarks))
    made = imfdb_embedding.import_pictures(archive, ArcFace(network), points, name, replacing=replace)
    if made.faces:
        typer.echo(f"{counted(made.faces, 'face')} in {made.seconds:.0f} s, {made.faces / made.seconds:.0f} a second")
    typer.echo(inspection.summary(made.clipset, made.clipset.info["title"]))


@bringing.command("iqiyi")
def import_iqiyi(
    folder: Annotated[Path, typer.Argument(help="the official files, as data/README.md tells")],
    name: Annotated[str, typer.Option(help="what it is called from then on")] = "iqiyi",
    faults: Annotated[str, typer.Option(help="stop at the first fault, or skip and count them")] = "stop",
) -> None:
    """Import the official files of iQIYI-VID-2019, and say where they differ from what is published of them."""
    from typing import get_args

    from famf_lib.data import inspection, iqiyi
    from famf_lib.data.iqiyi_text import Faults

    if faults not in get_args(Faults):
        raise ValueError(f"--faults: {faults!r} is not known, expected one of {', '.join(get_args(Faults))}")
    clipset, found = iqiyi.import_folder(folder, name, faults)
    typer.echo(found.report())
    typer.echo(inspection.summary(clipset, iqiyi.TITLE))
