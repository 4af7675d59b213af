"""``famf book``: builds the book, and tells the build which data and results each page depends on."""

import hashlib
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import Device, DryRun, Profile, Seeds, Yes, before_training, dataset_names, show
from famf_lib.support.files import ROOT
from famf_lib.support.wording import counted, named


def book(
    profile: Profile = "standard",
    seeds: Seeds = "",
    device: Device = "auto",
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="add the pages of this dataset (repeatable)", autocompletion=dataset_names),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="execute and render only this page, into _build/only (repeatable)")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Execute the notebooks that are out of date and build the book into _build/html."""
    from famf_book import build

    parameters = {"profile": profile, "device": device} | ({"seeds": seeds} if seeds else {})
    further = [_further(name) for name in dataset or ()]
    prepare = partial(_prepare, device=device, yes=yes, dry_run=dry_run)
    hooks = {"absent": _absent, "inputs": _inputs, "data": _data, "prepare": prepare}
    show(build.build(ROOT, parameters=parameters, further=further, only=only, **hooks))


def _further(dataset: str):
    """A dataset whose pages are added. An absent one is refused before anything runs."""
    from famf_book.pages import Further
    from famf_lib.data import datasets
    from famf_lib.experiments.catalogue import EXPERIMENTS

    found = datasets.get(dataset)
    if absence := found.absence():
        raise datasets.DatasetAbsent(absence)

    def serves(notebook: Path) -> bool:
        experiment = EXPERIMENTS.get(notebook.stem)
        return experiment.serves(found) if experiment else notebook.stem not in datasets.DATASETS

    return Further(dataset, found.title.split(",")[0], serves)


def _absent(page) -> str | None:
    """Why a page cannot be made here: its dataset is absent."""
    from famf_lib.data import datasets

    name = page.values.get("dataset")
    return None if name is None else datasets.get(name).absence()


def _inputs(page) -> dict:
    """What determines a page besides its notebook: the data, and the recordings in results/."""
    found = dict(_recorded())
    for name in _datasets(page):
        found[f"data {name}"] = _data_key(name, page.values.get("profile", "standard"))
    return found


@cache
def _recorded() -> dict:
    from famf_lib.experiments.settings import RESULTS

    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(RESULTS.glob("[!.]*"))}


@cache  # it reads all of the user's files, and many pages show the same dataset
def _data_key(name: str, profile: str) -> str:
    from famf_lib.data import datasets

    dataset = datasets.get(name)
    return dataset.absence() or dataset.key(profile)


def _data(page) -> list[dict]:
    """The data that a page was made from, or what its recording says about them."""
    from famf_lib.data import datasets
    from famf_lib.experiments import results

    profile, found = page.values.get("profile", "standard"), []
    for name in _datasets(page):
        if datasets.get(name).absence() is None:
            clipset = datasets.load(name, profile)
            sizes = {"persons": len(clipset.persons), "clips": len(clipset), "faces": len(clipset.faces)}
            found.append({"name": name, "profile": profile, "fingerprint": clipset.fingerprint} | sizes)
        elif recorded := results.find_recording(page.notebook.stem, name, profile):
            found.append({"name": name, "profile": recorded.profile, "fingerprint": recorded.data})
    return found


def _prepare(pages: list, device: str, yes: bool, dry_run: bool) -> None:
    """Makes the runs that pages show, with progress, on every core; the pages then only read them.

    All are trained in one go, since between two experiments a core would wait for the last run of the first.
    """
    from famf_lib.data import datasets
    from famf_lib.experiments import plan, plugins, results, run_store
    from famf_lib.training.train import pick_device

    with plugins.also(name for page in pages for name in page.plugins):
        needed = [one for page in pages for one in _needed(page)]
        asked = []
        for experiment, dataset, values in needed:
            source, given = datasets.get(dataset), (values["profile"], values["seeds"], values.get("protocol", ""))
            asked.append((source, values["profile"], plan.wanted(experiment, source, *given)))
        for page in pages:
            if page.runs:
                asked += [(source, page.values["profile"], of_it) for source, of_it in _own_runs(page)]
        names = ", ".join(page.name for page in pages) if len(pages) < 4 else counted(len(pages), "page")
        before_training(names or "no page", asked, device, yes, dry_run)
        run_store.train_missing(_on_clipsets(asked), pick_device(device), f"trainings for {names or 'no page'}")
        for experiment, dataset, values in needed:
            seeds = values["seeds"] or experiment.seeds
            given = values["profile"], seeds, values["device"], values.get("protocol", "")
            results.run_settings(experiment.name, dataset, *given)


def _on_clipsets(asked: list) -> list[tuple]:
    """(ClipSet, runs) for (dataset, profile, runs); several datasets may have the same clips, which are opened once."""
    runs, first = {}, {}
    for source, profile, of_it in asked:
        if of_it:
            key = source.folder(profile)
            first.setdefault(key, (source, profile))
            runs.setdefault(key, []).extend(of_it)
    return [(source.load(profile), runs[key]) for key, (source, profile) in first.items()]


def _own_runs(page) -> list[tuple]:
    """The runs that the notebook of a page makes itself, each with its dataset, as the module in pages.yml says."""
    from famf_book.pages import BookError

    try:
        wanted = import_module(page.runs).wanted
    except (ImportError, AttributeError) as error:
        expected = "a module with a function wanted(profile, seeds)"
        raise BookError(
            f"book/pages.yml, page {page.name!r}: runs: {page.runs!r} found ({named(error)}), expected {expected}."
        ) from error
    return wanted(page.values["profile"], page.values["seeds"])


def _needed(page) -> Iterator[tuple]:
    """The experiments that a page shows, each with a dataset that is here and the values of the page."""
    from famf_lib.data import datasets
    from famf_lib.evidence.ledger import CLAIMS
    from famf_lib.experiments.catalogue import EXPERIMENTS

    several = "datasets" in page.values  # the pages of the ledger: every experiment that tests a claim
    tested = {claim.experiment for claim in CLAIMS}
    for experiment in EXPERIMENTS.values():
        if experiment.name in tested if several else experiment.notebook == page.notebook.stem:
            for dataset in _datasets(page):
                source = datasets.get(dataset)
                if experiment.serves(source) and source.absence() is None:
                    yield experiment, dataset, page.values


def _datasets(page) -> list[str]:
    """The datasets that a page is made from. A notebook with the name of a dataset is about it."""
    from famf_lib.data import datasets

    if "datasets" in page.values:
        return page.values["datasets"]
    name = page.values.get("dataset", page.notebook.stem)
    shown = [name] if "dataset" in page.values or name in datasets.names() else []
    return list(dict.fromkeys(shown + page.values.get("beside", [])))
