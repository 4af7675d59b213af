"""Arguments and options that several commands share, and what is done with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from famf_book import notebooks
from famf_book.commands import completion
from famf_lib.experiments import parameters

Dataset = Annotated[
    str,
    typer.Argument(
        help="synthetic, imfdb, chimera, iqiyi, or the name of an import of yours", autocompletion=completion.datasets
    ),
]
Profile = Annotated[
    str,
    typer.Option(help="quick (seconds), standard (a laptop), paper (a GPU)", autocompletion=completion.profiles),
]
Seeds = Annotated[str, typer.Option(help="for example 1,2,3; otherwise as the book has them")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda", autocompletion=completion.devices)]

# The models of famf extract, and of what looks at videos as it does.
Detector = Annotated[str, typer.Option(help="mtcnn, a folder with its three files, or an SCRFD file")]
Embedder = Annotated[
    str, typer.Option(help="a network of the ArcFace kind: a name of famf models list, or an ONNX file")
]
Head = Annotated[str, typer.Option(metavar="MODEL", help="an ONNX network for pictures, for heads")]
Body = Annotated[str, typer.Option(metavar="MODEL", help="likewise, for bodies")]
Speaker = Annotated[str, typer.Option(metavar="MODEL", help="an ONNX network for voices")]
Text = Annotated[str, typer.Option(metavar="FOLDER", help="a sentence-transformers model, for what is read")]
Fps = Annotated[float, typer.Option(min=0.01, max=1_000_000, help="pictures a second that are looked at")]
MinFace = Annotated[int, typer.Option(min=12, max=4096, help="side of the smallest face, in pixels")]


def checked_profile(name: str) -> str:
    parameters.check("profile", name)
    return name


def checked_seeds(text: str) -> list[int]:
    seeds = notebooks.as_list(text, "seeds")
    parameters.check("seeds", seeds)
    return seeds


def clips_folder(dataset: str, profile: str) -> Path:
    """Where the ClipSet lies that a user means by the name of a dataset, or by a folder."""
    from famf_lib.data import datasets, imported

    if dataset in imported.names():  # not opened: it may be damaged
        return imported.place(dataset)
    if dataset not in datasets.names() and Path(dataset).is_dir():
        return Path(dataset).resolve()
    folder = datasets.load(dataset, checked_profile(profile)).folder
    assert folder is not None  # what is loaded lies in the store
    return folder


def say(sentence: str) -> None:
    """A sentence to the user, beside what the command gives."""
    typer.echo(f"famf: {sentence}", err=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """A place that cannot be written to is one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}), expected a place for a file") from error
