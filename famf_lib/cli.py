"""The command ``famf``: what ``make`` does, for those who have their own environment, and more."""

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from famf_lib.files import ROOT, store

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
data = typer.Typer(no_args_is_help=True, help="The datasets: what is here, and how to get what is not.")
app.add_typer(data, name="data")

Dataset = Annotated[str, typer.Argument(help="synthetic, imfdb, chimera")]
Profile = Annotated[str, typer.Option(help="quick (seconds), standard (a laptop), paper (a GPU)")]
Seeds = Annotated[str, typer.Option(help="for example 1,2,3")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda")]


@app.callback()
def settings(
    data: Annotated[Path | None, typer.Option(help="folder with your data; otherwise $FAMF_DATA, or data/")] = None,
) -> None:
    """The setting that all commands share."""
    if data is not None:
        if not data.is_dir():
            raise ValueError(f"--data: {data} is not a folder, expected the folder that holds your datasets")
        os.environ["FAMF_DATA"] = str(data.resolve())


@app.command()
def book(
    profile: Profile = "standard",
    seeds: Seeds | None = None,
    device: Device = "auto",
    only: Annotated[list[str] | None, typer.Option(help="bring only this page up to date (may be repeated)")] = None,
) -> None:
    """Execute what is out of date and build the book into _build/html."""
    from famf_lib import book, notebooks

    parameters = {"profile": _profile(profile), "device": device}
    if seeds is not None:
        parameters["seeds"] = notebooks.as_list(seeds, "seeds")
    told = {"absent": _absent, "inputs": _inputs, "data": _data, "prepare": _prepare}
    typer.echo(book.build(ROOT, parameters=parameters, only=only, **told))


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="table-1, table-2 …; an unknown name lists them")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="synthetic, imfdb, chimera")] = "synthetic",
    profile: Profile = "standard",
    seeds: Annotated[str, typer.Option(help="for example 1,2,3; otherwise as the book has them")] = "",
    device: Device = "auto",
    protocol: Annotated[str, typer.Option(help="given, groups or random; otherwise as the dataset is reported")] = "",
    record: Annotated[bool, typer.Option(help="keep the numbers in results/, for machines without the data")] = False,
) -> None:
    """Make the runs of an experiment, print its rows and what they say of the paper's claims."""
    from famf_lib import ledger, notebooks, report, results
    from famf_lib.experiments import known

    declared = known(experiment)
    numbers = notebooks.as_list(seeds, "seeds") if seeds else list(declared.seeds)
    found = results.obtain(experiment, dataset, _profile(profile), numbers, device, protocol)
    typer.echo(report.rows(found, declared.paper()).to_string(float_format="{:.4f}".format, na_rep=""))
    for comparison in ledger.comparisons(experiment, found):
        typer.echo(comparison.sentence().replace("**", ""))
    if record:
        if found.recorded is not None:
            raise ValueError(f"--record: {dataset} is not on this machine, expected runs made here")
        if protocol:
            raise ValueError(f"--record: the protocol {protocol} found, expected the one the dataset is reported under")
        command = f"{report.command(experiment, dataset, profile, numbers)} --record"
        typer.echo(results.record(found, experiment, dataset, _profile(profile), command))


@app.command()
def tune(dataset: Dataset, profile: Profile = "standard", device: Device = "auto") -> None:
    """Choose normalisation, features and learning rate on the tuning part, and write the choice to results/."""
    from famf_lib import settings, tuning

    result = tuning.tune(dataset, _profile(profile), device)
    for line in sorted(result["table"], key=lambda line: -line["mean_ap"]):
        typer.echo("  ".join([f"{line['mean_ap']:.4f}"] + [f"{key}={line[key]}" for key in result["chosen"]]))
    typer.echo(settings.tuning_file(dataset, _profile(profile)))


@data.command("list")
def data_list() -> None:
    """Every dataset, and whether it is here."""
    from famf_lib import datasets

    for dataset in datasets.DATASETS.values():
        absence = dataset.absence()
        typer.echo(f"{dataset.name:10} {'here' if absence is None else 'absent'}  {absence or dataset.title}")


@data.command("info")
def data_info(dataset: Dataset, profile: Profile = "standard") -> None:
    """A dataset in a few lines; it is made first if need be."""
    from famf_lib import datasets

    clipset = datasets.load(dataset, _profile(profile))
    clips = clipset.clips
    typer.echo(f"{clipset.folder}\nfingerprint {clipset.fingerprint}")
    typer.echo(
        f"{len(clipset):,} clips, {len(clipset.persons):,} persons, {len(clipset.faces):,} faces of {clipset.dim}"
    )
    typer.echo(
        f"{int(clips['person'].isna().sum()):,} noise clips, {int((clipset.counts == 0).sum()):,} without a face"
    )
    for name, modality in clipset.modalities.items():
        typer.echo(f"{name}: {modality.vectors.shape[1]} numbers, {modality.present.float().mean():.1%} of the clips")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on the notebooks; further options go to it, as in: famf lab --port 9999."""
    start = (f"--ServerApp.root_dir={ROOT}", "--LabApp.default_url=/lab/tree/book/table-1.ipynb")
    _call("jupyter", "lab", *start, *context.args)


@app.command()
def test() -> None:
    """Run the tests."""
    _call("pytest")


@app.command()
def clean(
    runs: Annotated[bool, typer.Option(help="also forget imported and generated data, and trained models")] = False,
) -> None:
    """Remove the built book; data of your own are never touched."""
    for folder in [ROOT / "_build"] + ([store() / "runs", store() / "clipsets"] if runs else []):
        if folder.exists():
            shutil.rmtree(folder)
            typer.echo(f"removed {folder}")


def _call(module: str, *arguments: str) -> None:
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode)


def _profile(name: str) -> str:
    from famf_lib.settings import PROFILES

    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is not known, expected one of {', '.join(PROFILES)}")
    return name


def _absent(page) -> str | None:
    """Why a page cannot be made here: its dataset is absent, and so is a recording of it."""
    from famf_lib import datasets, results

    name = page.values.get("dataset")
    if name is None or (absence := datasets.get(name).absence()) is None:
        return None
    return None if results.find_recording(page.notebook.stem, name, page.values["profile"]) else absence


def _inputs(page) -> dict:
    """What decides a page besides its notebook: the data, and what is recorded in results/."""
    decided = dict(_recorded())
    for name in _datasets(page):
        decided[f"data {name}"] = _data_key(name, page.values.get("profile", "standard"))
    return decided


@cache
def _recorded() -> dict:
    from famf_lib.settings import RESULTS

    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(RESULTS.glob("*.json"))}


@cache  # it reads the user's files whole, and many pages show the same dataset
def _data_key(name: str, profile: str) -> str:
    from famf_lib import datasets

    dataset = datasets.get(name)
    return dataset.absence() or dataset.key(profile)


def _data(page) -> list[dict]:
    """The data that a page was made from, or what its recording says of them."""
    from famf_lib import datasets, results

    profile, found = page.values.get("profile", "standard"), []
    for name in _datasets(page):
        if datasets.get(name).absence() is None:
            clipset = datasets.load(name, profile)
            sizes = {"persons": len(clipset.persons), "clips": len(clipset), "faces": len(clipset.faces)}
            found.append({"name": name, "profile": profile, "fingerprint": clipset.fingerprint} | sizes)
        elif recorded := results.find_recording(page.notebook.stem, name, profile):
            found.append({"name": name, "profile": recorded.profile, "fingerprint": recorded.data})
    return found


def _prepare(page) -> None:
    """Makes the runs that a page shows, with progress, on every core; the page then only reads them."""
    from famf_lib import datasets, notebooks, results
    from famf_lib.experiments import EXPERIMENTS
    from famf_lib.ledger import CLAIMS

    values = page.values
    several = "datasets" in values  # the ledger's pages: every experiment that a claim is tested on
    names = dict.fromkeys(claim.experiment for claim in CLAIMS) if several else [page.notebook.stem]
    for experiment in (EXPERIMENTS[name] for name in names if name in EXPERIMENTS):
        for dataset in _datasets(page):
            if experiment.serves(dataset) and datasets.get(dataset).absence() is None:
                seeds = notebooks.as_list(values["seeds"], "seeds") if values["seeds"] else experiment.seeds
                protocol = values.get("protocol", "")
                results.obtain(experiment.name, dataset, values["profile"], seeds, values["device"], protocol)


def _datasets(page) -> list[str]:
    """The datasets that a page is made from. A notebook that is called as one is about it."""
    from famf_lib.datasets import DATASETS

    if "datasets" in page.values:
        return page.values["datasets"]
    name = page.values.get("dataset", page.notebook.stem)
    return [name] if "dataset" in page.values or name in DATASETS else []


def main() -> None:
    """The entry point: whatever is wrong with the input is one sentence, not a traceback."""
    try:
        app()
    except (ValueError, LookupError) as error:
        _fail(error)
    except Exception as error:
        from famf_lib.notebooks import NotebookError

        if not isinstance(error, NotebookError):
            raise
        _fail(error)


def _fail(error: Exception) -> None:
    typer.echo(f"famf: {error}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
