"""The command ``famf``: what ``make`` does, for those who have their own environment, and more."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands import book, completion, data, evaluate, extract, models, people, pretrained, sweep
from famf_book.commands.options import Dataset, Device, Profile, Seeds, checked_profile, checked_seeds
from famf_lib.experiments import parameters
from famf_lib.support.files import ROOT, sources, store

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data.app, name="data")
app.add_typer(pretrained.app, name="models")
app.command()(book.book)
app.command()(evaluate.evaluate)
app.command()(extract.extract)
app.command()(people.enroll)
app.command()(people.identify)
app.command()(models.runs)
app.command()(models.predict)
app.command()(models.export)
app.command()(sweep.sweep)


@app.callback()
def settings(
    data: Annotated[Path | None, typer.Option(help="folder with your data; otherwise $FAMF_DATA, or data/")] = None,
) -> None:
    """The setting that all commands share."""
    if data is not None:
        if not data.is_dir():
            raise ValueError(f"--data: {data} is not a folder, expected the folder that holds your datasets")
        os.environ["FAMF_DATA"] = str(data)
    for name, folder in (("FAMF_DATA", sources), ("FAMF_STORE", store)):
        if os.environ.get(name):  # a kernel runs in the folder of its notebook: there a relative path leads elsewhere
            os.environ[name] = str(folder())


@app.command(cls=completion.Parametrised)
def run(
    experiment: Annotated[
        str,
        typer.Argument(help="table-1, table-2 …; an unknown name lists them", autocompletion=completion.experiments),
    ],
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="a name that famf data list shows", autocompletion=completion.datasets),
    ] = "synthetic",
    profile: Profile = "standard",
    seeds: Seeds = "",
    device: Device = "auto",
    protocol: Annotated[
        str,
        typer.Option(
            help="given, groups or random; otherwise as the dataset is reported", autocompletion=completion.protocols
        ),
    ] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            *completion.GIVEN,
            metavar="NAME VALUE",
            help="any of these as papermill takes it, -p dataset imfdb (may be repeated)",
            autocompletion=completion.names,
        ),
    ] = None,
    record: Annotated[bool, typer.Option(help="keep the numbers in results/, for machines without the data")] = False,
) -> None:
    """Make the runs of an experiment, print its rows and what they say of the paper's claims."""
    given = dict(dataset=dataset, profile=profile, seeds=seeds, device=device, protocol=protocol)
    given |= _parameters(parameter or ())
    for name in ("profile", "device", "protocol"):  # before seconds of imports
        parameters.check(name, given[name])
    numbers = checked_seeds(given["seeds"]) if given["seeds"] else None
    from famf_book import report
    from famf_lib.evidence import ledger
    from famf_lib.experiments import results
    from famf_lib.experiments.catalogue import get_experiment

    declared = get_experiment(experiment)
    numbers = numbers or list(declared.seeds)
    dataset, profile, device, protocol = (given[name] for name in ("dataset", "profile", "device", "protocol"))
    found = results.run_experiment(experiment, dataset, profile, numbers, device, protocol)
    typer.echo(report.rows(found, declared.paper()).to_string(float_format="{:.4f}".format, na_rep=""))
    for comparison in ledger.comparisons(experiment, found):
        typer.echo(comparison.sentence().replace("**", ""))
    if record:
        if found.recorded is not None:
            raise ValueError(f"--record: {dataset} is not on this machine, expected runs made here")
        if protocol:
            raise ValueError(f"--record: the protocol {protocol} found, expected the one the dataset is reported under")
        on = f" --device {device}" * (device != "auto")
        command = f"{results.command(experiment, dataset, profile, numbers)}{on} --record"
        typer.echo(results.record(found, experiment, dataset, profile, command))


@app.command()
def tune(dataset: Dataset, profile: Profile = "standard", device: Device = "auto") -> None:
    """Choose normalisation, features and learning rate on the tuning part, and write the choice to results/."""
    from famf_lib.experiments import settings, tuning

    result = tuning.tune(dataset, profile := checked_profile(profile), device)
    for line in sorted(result["table"], key=lambda line: -line["mean_ap"]):
        typer.echo("  ".join([f"{line['mean_ap']:.4f}"] + [f"{key}={line[key]}" for key in result["chosen"]]))
    typer.echo(settings.tuning_file(dataset, profile))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on its start page; further options go to it, as in: famf lab --port 9999."""
    options = {
        "ServerApp.root_dir": ROOT,
        "LabApp.default_url": "/lab/tree/lab/start.md",
        "ServerApp.log_level": "ERROR",  # the address is told in any case
        "LabApp.log_level": "ERROR",
        "ServerApp.answer_yes": True,  # Ctrl-C ends it, and its kernels
        "KernelManager.transport_encryption": "auto",  # else each kernel warns
        "LabApp.extension_manager": "readonly",  # the other one asks PyPI as soon as its panel is opened
    }
    places = (str(ROOT / "lab"), os.environ.get("JUPYTER_CONFIG_PATH"))
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, places))
    own = _own_folder()
    os.environ.setdefault("JUPYTERLAB_WORKSPACES_DIR", str(own))  # no tabs of other projects
    home = os.path.expanduser("~")
    if not (os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)):  # as in a container with another user
        (own / "home").mkdir(exist_ok=True)
        os.environ["HOME"] = str(own / "home")  # where Jupyter and its kernels keep their state
    started = [f"--{name}={value}" for name, value in options.items()]
    # In the place of this process, which would otherwise catch Ctrl-C and leave JupyterLab to itself.
    os.execv(sys.executable, [sys.executable, "-m", "jupyter", "lab", *started, *context.args])


@app.command()
def pdf() -> None:
    """Print the built book into _build/famf.pdf, with a browser of the Chromium family."""
    from famf_book import pdf as printed

    typer.echo(printed.pdf(ROOT))


@app.command()
def test() -> None:
    """Run the tests, a file on each core."""
    _call("pytest", "--numprocesses", "logical", "--maxprocesses", "8", "--dist", "loadfile")


@app.command()
def clean(
    runs: Annotated[bool, typer.Option(help="also forget generated data and trained models")] = False,
) -> None:
    """Remove the built book; data of your own are never touched."""
    for folder in [ROOT / "_build"] + ([store() / "runs", store() / "clipsets"] if runs else []):
        if folder.exists():
            shutil.rmtree(folder)
            typer.echo(f"removed {folder}")


def _own_folder() -> Path:
    """Where JupyterLab keeps what it knows of this project: in the checkout, unless that is read-only."""
    place = ROOT / "_build" / "lab"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="famf-lab-"))


def _parameters(pairs: Iterable[str]) -> dict[str, str]:
    """What ``-p NAME VALUE`` gave, by name.

    Raises:
        ValueError: there is no such parameter, or no value.
    """
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name not in completion.PARAMETERS:
            raise ValueError(f"-p: {parameters.unknown(name, completion.PARAMETERS, 'an experiment')}")
        if not equals:
            raise ValueError(f"-p {name}: no value found, expected -p {name} VALUE")
        given[name] = value
    return given


def _call(module: str, *arguments: str) -> None:
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode)


def main() -> None:
    """The entry point: whatever is wrong with the input is one sentence, not a traceback."""
    try:
        if "RANK" in os.environ:  # torchrun started us
            from famf_lib.training import distributed

            distributed.run(app)
        else:
            app()
    except (ValueError, LookupError) as error:
        _fail(error)
    except OSError as error:  # a disk that is full, a folder that may not be written, a name that is too long
        _fail(_of_the_system(error))
    except Exception as error:
        from famf_book.notebooks import NotebookError

        if not isinstance(error, NotebookError):
            raise
        _fail(error)


def _of_the_system(error: OSError) -> str:
    """The sentence on a file or folder that the system refuses, or its own words where it names none."""
    said = os.strerror(error.errno) if error.errno else next(iter(str(error).splitlines()), type(error).__name__)
    if not isinstance(error.filename, str | bytes):
        return said
    where = os.fsdecode(error.filename)
    return f"{where}: it cannot be used ({said}), expected a place that can be read and written"


def _fail(error: Exception | str) -> None:
    typer.echo(f"famf: {error}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
