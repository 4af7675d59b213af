"""The command ``famf``: builds the book, and works with its data, experiments and trained models."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands import book, data, evaluate, extract, people, pretrained, sweep
from famf_book.commands import models as trained
from famf_book.commands.options import (
    DATASET,
    EXPERIMENTS,
    Dataset,
    Device,
    DryRun,
    Modalities,
    Parameter,
    Profile,
    Protocol,
    Seeds,
    WithParameters,
    Yes,
    before_training,
    dataset_names,
    say,
    show,
)
from famf_lib.experiments import parameters, plugins
from famf_lib.support.files import ROOT, clear_all, models, size_of, sources, store
from famf_lib.support.wording import first_line, sized

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Build the reproducibility book of FAMF, and work with its data, experiments and trained models.",
)
app.add_typer(data.app, name="data")
app.add_typer(pretrained.app, name="models")
app.command()(book.book)
app.command()(evaluate.evaluate)
app.command()(extract.extract)
app.command()(people.enroll)
app.command()(people.identify)
app.command()(trained.runs)
app.command()(trained.predict)
app.command()(trained.export)
app.command()(sweep.sweep)


@app.callback()
def settings(
    data: Annotated[Path | None, typer.Option(help="folder of your datasets; by default $FAMF_DATA or data/")] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="a module that adds aggregations, fusions or datasets (repeatable)"),
    ] = None,
) -> None:
    """Sets the folders of data and store for all commands, and adds modules from outside."""
    if data is not None:
        if not data.is_dir():
            raise ValueError(f"--data: {data} is not a folder, expected the folder that holds your datasets")
        os.environ["FAMF_DATA"] = str(data)
    for name, folder in (("FAMF_DATA", sources), ("FAMF_STORE", store)):
        if os.environ.get(name):  # absolute, since a kernel runs in the folder of its notebook
            os.environ[name] = str(folder())
    if plugin:  # also for the kernels of notebooks, and from the current folder, as with python -m
        os.environ[plugins.VARIABLE] = ",".join(plugin)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
        sys.path.insert(0, str(Path.cwd()))
    plugins.load()


@app.command(cls=WithParameters)
def run(
    experiment: Annotated[
        str,
        typer.Argument(help="a name such as table-1; a wrong name lists all", autocompletion=lambda: EXPERIMENTS),
    ],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help=DATASET, autocompletion=dataset_names)] = "synthetic",
    profile: Profile = "standard",
    seeds: Seeds = "",
    device: Device = "auto",
    protocol: Protocol = "",
    modalities: Modalities = "",
    parameter: Parameter = None,
    record: Annotated[
        bool, typer.Option("--record", help="write the numbers to results/, for machines without the data")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Train the models of an experiment under every setting; print rows, keys of runs, and tests of the claims.

    Example: famf run table-1 -p dataset imfdb -p seeds 1,2
    """
    parameters.check("device", device)  # before seconds of imports
    from famf_book import report
    from famf_lib.data import datasets
    from famf_lib.evidence import ledger
    from famf_lib.experiments import plan, results
    from famf_lib.experiments.catalogue import get_experiment
    from famf_lib.experiments.settings import DECIDING, TITLES

    declared, source = get_experiment(experiment), datasets.get(dataset)
    if modalities:
        declared = declared.with_modalities(modalities, source)
        if absence := source.absence():  # what is recorded has the usual modalities
            raise datasets.DatasetAbsent(absence)
    if unused := declared.unused(source):
        chosen = ",".join(source.modalities)
        say(f"no row uses {', '.join(unused)} of {dataset}, expected -p modalities {chosen} if one should")
    numbers = list(seeds or declared.seeds)
    asked = [(source, profile, plan.wanted(declared, source, profile, numbers, protocol))]
    before_training(f"{experiment} on {dataset}", asked, device, yes, dry_run)
    every = results.run_settings(declared, dataset, profile, numbers, device, protocol)
    found = every[DECIDING]
    for setting, shown in every.items():
        table = report.rows(shown, declared.paper()).rename_axis(TITLES[setting])
        if shown.recorded is None:
            table["runs"] = [" ".join(shown.runs[label, seed].key[:8] for seed in shown.seeds) for label in table.index]
        show(table.to_string(float_format="{:.4f}".format, na_rep="") + "\n")
    for comparison in ledger.comparisons(experiment, found):
        show(comparison.sentence().replace("**", ""))
    show(" ".join(report.verdicts(ledger.entries(experiment, dataset, every))).replace("**", ""))
    if record:
        if found.recorded is not None:
            raise ValueError(f"--record: {dataset} is not on this machine, expected runs made here")
        if modalities:
            raise ValueError(f"--record: found modalities {', '.join(modalities)}, expected the usual ones")
        if protocol:
            raise ValueError(f"--record: found the protocol {protocol}, expected the usual one of the dataset")
        on = f" -p device {device}" * (device != "auto")
        command = f"{results.command(experiment, dataset, profile, numbers)}{on} --record"
        for shown in every.values():
            show(results.record(shown, experiment, dataset, command))


@app.command()
def tune(
    dataset: Dataset,
    profile: Profile = "standard",
    device: Device = "auto",
    experiment: Annotated[str, typer.Option(help="only its rows that are not tuned yet; they are added")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Choose normalisation, features and learning rate of each row on the tuning part, and write them to results/."""
    from famf_lib.data import datasets
    from famf_lib.experiments import settings, tuning

    asked = [(datasets.get(dataset), profile, tuning.first_runs(dataset, profile, experiment))]
    before_training(f"tuning on {dataset}", asked, device, yes, dry_run)
    result = tuning.tune(dataset, profile, device, experiment)
    chosen = {label: row["chosen"] for label, row in result["rows"].items()}
    chosen |= {"one shared choice": result["shared"]} if "shared" in result else {}
    for label, choice in chosen.items():
        show(f"{label}: " + ", ".join(f"{name} {value}" for name, value in choice.items()))
    show(settings.tuning_file(dataset, profile, experiment))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on the start page of the book. Further options are passed to it: famf lab --port 9999."""
    options = {
        "ServerApp.root_dir": ROOT,
        "LabApp.default_url": "/lab/tree/lab/start.md",
        "ServerApp.log_level": "ERROR",  # the address is printed in any case
        "LabApp.log_level": "ERROR",
        "ServerApp.answer_yes": True,  # Ctrl-C ends it and its kernels
        "KernelManager.transport_encryption": "auto",  # otherwise each kernel warns
        "LabApp.extension_manager": "readonly",  # the default one asks PyPI as soon as its panel is opened
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
    # It replaces this process, which would otherwise catch Ctrl-C and leave JupyterLab running.
    os.execv(sys.executable, [sys.executable, "-m", "jupyter", "lab", *started, *context.args])


@app.command()
def pdf() -> None:
    """Print the built book to _build/famf.pdf with Chromium, Chrome or a similar browser."""
    from famf_book.pdf import pdf as print_book

    show(print_book(ROOT))


@app.command()
def test() -> None:
    """Run the tests in parallel, one file per process."""
    _call("pytest", "--numprocesses", "logical", "--maxprocesses", "8", "--dist", "loadfile", "--no-loadscope-reorder")


@app.command()
def clean(
    runs: Annotated[
        bool, typer.Option("--runs", help="also remove trained models, those in training and generated data")
    ] = False,
) -> None:
    """Remove the built book and what interrupted commands left behind. Your own data are never touched.

    An interrupted training stays, since it can be resumed, unless --runs is given.
    """
    from famf_lib.experiments.run_store import clear_interrupted

    for folder in [ROOT / "_build"] + ([store() / "runs", store() / "clipsets"] if runs else []):
        if folder.exists():
            size = size_of(folder)
            shutil.rmtree(folder)
            show(f"removed {folder}, {sized(size)}")
    places = [ROOT / "results", models(), store(), *store().glob("*/"), *store().glob("*/*/")]
    size = sum(map(clear_all, places)) + (clear_interrupted() if runs else 0)
    show(f"removed {sized(size)} that interrupted commands had left")


def _own_folder() -> Path:
    """The folder for JupyterLab's state of this project: in the checkout, unless that is read-only."""
    place = ROOT / "_build" / "lab"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="famf-lab-"))


def _call(module: str, *arguments: str) -> None:
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode)


def main() -> None:
    """The entry point. Any error in the input is reported as one sentence, without a traceback."""
    try:
        if "RANK" in os.environ:  # started by torchrun
            from famf_lib.training import distributed

            distributed.run(app)
        else:
            app()
    except (KeyError, IndexError):  # not a sentence, but a fault of the program
        raise
    except (ValueError, LookupError) as error:
        _fail(error)
    except OSError as error:  # a full disk, a read-only folder, a name that is too long
        _fail(_of_the_system(error))
    except Exception as error:
        from famf_book.notebooks import NotebookError

        if not isinstance(error, NotebookError):
            raise
        _fail(error)


def _of_the_system(error: OSError) -> str:
    """The error message for a file or folder that the system refuses; the system's own words if it names none."""
    said = os.strerror(error.errno) if error.errno else first_line(error)
    if not isinstance(error.filename, str | bytes):
        return said
    where = os.fsdecode(error.filename)
    return f"{where}: it cannot be used ({said}), expected a place that can be read and written"


def _fail(error: Exception | str) -> None:
    say(error)
    sys.exit(1)


if __name__ == "__main__":
    main()
