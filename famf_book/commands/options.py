"""Arguments and options that several commands share, and what the shell completes in them.

Nothing heavy is imported, so that tab completion is immediate; see ``famf --install-completion``.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from famf_lib.experiments import parameters
from famf_lib.support.files import store
from famf_lib.support.wording import plain

if TYPE_CHECKING:
    from famf_lib.data.clipset import ClipSet
    from famf_video.clips import Stages

# Written out, since the import of the library takes seconds. A test compares them with the library.
EXPERIMENTS = (
    "table-1 table-2 clusters readings convolutions weights attention graded-weights faces ruined-frames "
    "missing-modalities confidence training-clips"
).split()
DATASETS = ("synthetic", "imfdb", "chimera", "iqiyi")
GIVEN = ("-p", "--parameter")
PARAMETERS = {"dataset": "str", "profile": "str", "seeds": "list[int]", "device": "str", "protocol": "str"}
PARAMETERS["modalities"] = "list[str]"
"""The parameters of an experiment and their types, as its notebook declares them; modalities only for ``famf run``."""


def dataset_names() -> list[str]:
    return [*DATASETS, *import_names()]


def import_names() -> list[str]:
    return _stored("imported/[a-z]*/arrays.safetensors")


def run_keys() -> list[str]:
    return _stored("runs/*/run.json")


def _stored(pattern: str) -> list[str]:
    return sorted(path.parent.name for path in store().glob(pattern))


class WithParameters(TyperCommand):
    """A command that also takes its options as papermill does: ``-p dataset imfdb`` for ``--dataset imfdb``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self.words, rest = [], list(args)
        while rest:
            word = rest.pop(0)
            if word in GIVEN and len(rest) > 1 and rest[0] in PARAMETERS:
                word = f"--{rest.pop(0)}"
            self.words.append(word)
        return super().parse_args(ctx, list(self.words))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        *_, given, name = ["", "", *self.words]  # after "-p dataset" a value of --dataset comes next
        option = next((one for one in self.params if given in GIVEN and one.name == name), super())
        return option.shell_complete(ctx, incomplete)


def check_parameter(option: TyperOption, value: str) -> Any:
    """A parameter of an experiment in its type: ``--seeds 1,2`` as a list."""
    return parameters.validated({option.name: value}, PARAMETERS)[option.name]


def refuse_names(names: list[str] | None) -> None:
    """Refuses what is left of ``-p NAME VALUE`` after ``WithParameters``: an unknown name, or one without a value."""
    for name in names or ():
        if name in PARAMETERS:
            raise ValueError(f"-p {name}: no value found, expected -p {name} VALUE")
        raise ValueError(f"-p: {parameters.unknown(name, PARAMETERS, 'an experiment')}")


RUN = "a run (its key, the first characters of it, its folder, or latest:table-1/FAMF)"
DATASET = "a dataset that famf data list shows"
Dataset = Annotated[str, typer.Argument(help=DATASET, autocompletion=dataset_names)]
Profile = Annotated[
    str,
    typer.Option(
        help="quick (seconds), standard (minutes on a laptop) or paper (the paper's sizes, for a GPU)",
        autocompletion=lambda: parameters.PROFILES,
        callback=check_parameter,
    ),
]
Seeds = Annotated[
    Any,  # text for the shell, a list for the command
    typer.Option(
        metavar="SEEDS",
        help="such as 1,2,3 or 1-3; by default those of the book",
        callback=check_parameter,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda", autocompletion=lambda: parameters.DEVICES)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what would be trained, and about how long it takes")]
Protocol = Annotated[
    str,
    typer.Option(
        help="how clips are split: given, groups or random; by default as the dataset is usually reported",
        autocompletion=lambda: parameters.PROTOCOLS,
        callback=check_parameter,
        show_default=False,
    ),
]
Modalities = Annotated[
    Any,
    typer.Option(
        metavar="NAMES",
        help="such as audio,gait: used with the face, in place of audio and body",
        callback=check_parameter,
        show_default=False,
    ),
]
Parameter = Annotated[
    list[str] | None,
    typer.Option(
        *GIVEN,
        metavar="NAME VALUE",
        help="the same options in papermill's form, such as -p dataset imfdb (repeatable)",
        autocompletion=lambda: PARAMETERS,
        callback=refuse_names,
    ),
]

EMBEDDER = "face-recognition network of the ArcFace kind: a name that famf models list shows, or an ONNX file"
Fps = Annotated[float, typer.Option(min=0.01, max=1_000_000, help="frames per second to analyse")]


@dataclass(frozen=True)
class Models:
    """The models for ``famf extract``, ``famf enroll`` and ``famf identify``, as their options name them."""

    detector: Annotated[
        str, typer.Option(help="face detector: mtcnn, a folder with its three files, or an SCRFD file")
    ] = "mtcnn"
    embedder: Annotated[str, typer.Option(help=EMBEDDER)] = "mobilefacenet128"
    head: Annotated[str, typer.Option(metavar="MODEL", help="ONNX network for images of heads")] = ""
    body: Annotated[str, typer.Option(metavar="MODEL", help="ONNX network for images of bodies")] = ""
    speaker: Annotated[str, typer.Option(metavar="MODEL", help="ONNX network for voices")] = ""
    text: Annotated[str, typer.Option(metavar="FOLDER", help="sentence-transformers model for text in the picture")] = (
        ""
    )
    min_face: Annotated[int, typer.Option(min=12, max=4096, help="side of the smallest face to detect, in pixels")] = 40

    def open(self) -> "Stages":
        """Opens them."""
        from famf_video import clips, detection, registry
        from famf_video.embedding import ArcFace
        from famf_video.regions import OnnxImages
        from famf_video.speech import OnnxSpeaker
        from famf_video.text import RapidOcr, SentenceTransformers

        return clips.Stages(
            detection.detector(self.detector, self.min_face),
            ArcFace(registry.find(self.embedder)),
            OnnxImages(registry.find(self.head)) if self.head else None,
            OnnxImages(registry.find(self.body)) if self.body else None,
            OnnxSpeaker(registry.find(self.speaker)) if self.speaker else None,
            RapidOcr() if self.text else None,
            SentenceTransformers(self.text) if self.text else None,
        )


def with_models(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of ``Models``; it receives them as its argument ``models``."""
    own, shared = inspect.signature(command), inspect.signature(Models).parameters

    @wraps(command)
    def called(**values: Any) -> None:
        command(models=Models(**{name: values.pop(name) for name in shared}), **values)

    every = [one for one in own.parameters.values() if one.name != "models"] + list(shared.values())
    called.__annotations__ = {one.name: one.annotation for one in every}
    called.__signature__ = own.replace(parameters=[one.replace(kind=one.KEYWORD_ONLY) for one in every])
    return called


def check_tracks(value: str) -> str:
    if value not in ("main", "all"):
        raise ValueError(f"--tracks: {value!r} found, expected main or all")
    return value


Tracks = Annotated[
    str, typer.Option(help="main: the main person of each video; all: the others as well", callback=check_tracks)
]


def clips_folder(dataset: str, profile: str) -> Path:
    """The folder of the ClipSet that a user names, by the name of a dataset or by the folder itself."""
    from famf_lib.data import datasets, imported

    if dataset in imported.names():  # not opened: it may be damaged
        return imported.place(dataset)
    if dataset not in datasets.names() and (place := Path(dataset)).is_dir():
        if not (place / "arrays.safetensors").exists() and (any(place.glob("*.parquet")) or any(place.glob("*.npz"))):
            command = f"famf data import table {dataset} --name NAME"
            raise ValueError(f"{dataset}: tables found, expected a ClipSet: import it first ({command}), then use NAME")
        return place.resolve()
    folder = datasets.load(dataset, profile).folder
    assert folder is not None  # a loaded dataset is in the store
    return folder


def open_clips(dataset: str, profile: str) -> "ClipSet":
    """Opens the ClipSet that a user names (see ``clips_folder``)."""
    from famf_lib.data.opening import opened

    return opened(clips_folder(dataset, profile))


def say(sentence: object) -> None:
    """Tells the user something on standard error, apart from the output of the command."""
    typer.echo(f"famf: {plain(sentence)}", err=True)


def show(text: object) -> None:
    """Prints the output of a command, without the control characters that names in files may have."""
    typer.echo("\n".join(plain(line, None, strip=False) for line in str(text).split("\n")))


def confirm(question: str, yes: bool) -> None:
    """Asks the user, unless ``yes`` answers already; ends the command at a no."""
    if not (yes or sys.stdin.isatty()):
        raise ValueError(f"--yes: not given, and nobody is here to answer: {question}")
    if not (yes or typer.confirm(question)):
        raise typer.Exit(1)


def before_training(what: str, asked: list, device: str, yes: bool, dry_run: bool, workers: int = 0) -> None:
    """Says what will be trained and about how long it takes; ends a dry run; asks before the paper's size on a CPU.

    ``what`` names the experiments; ``asked`` is what ``plan.plan`` takes.
    """
    from famf_lib.experiments.plan import plan
    from famf_lib.training.train import pick_device

    found = plan(asked, place := pick_device(device), workers)
    if dry_run:
        show(f"{what}: {found.sentence()}")
        raise typer.Exit()
    if found.runs:
        say(f"{what}: {found.sentence()}")
        if place.type == "cpu" and any(profile == "paper" for _, profile, of_it in asked if of_it):
            confirm("Train them on this CPU?", yes)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns an error in writing to ``out`` into one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}), expected a place for a file") from error
