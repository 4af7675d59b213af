"""``famf sweep``: a grid of experiments, datasets and seeds on a Dask cluster."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import (
    DATASET,
    EXPERIMENTS,
    Device,
    DryRun,
    Profile,
    Seeds,
    Yes,
    before_training,
    dataset_names,
    say,
    show,
)
from famf_lib.support.wording import counted


def sweep(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(help="names such as table-1; by default all experiments", autocompletion=lambda: EXPERIMENTS),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", "-d", help=f"{DATASET} (repeatable)", autocompletion=dataset_names),
    ] = None,
    profile: Profile = "standard",
    seeds: Seeds = "",
    device: Device = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="address of a Dask scheduler, such as tcp://host:8786, or its scheduler file; by default this machine"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="workers on this machine; 0: one per core, or one per GPU")
    ] = 0,
    wait: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="stop after this time without a worker; by default wait"),
    ] = None,
    pages: Annotated[
        Path | None, typer.Option("--notebooks", help="also execute the notebooks and write them to this folder")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Train the models of many experiments on a Dask cluster, and print the mAP of each row."""
    from famf_book import sweep
    from famf_lib.data import datasets
    from famf_lib.experiments.catalogue import get_experiment
    from famf_lib.experiments.plan import wanted

    if pages is not None:  # checked before hours of training
        found = next(path for path in (pages, *pages.parents) if path.exists())
        if not found.is_dir():
            raise ValueError(f"--notebooks: {found} is a file, expected a folder")
    if scheduler == "":  # an unset variable in a script must not train everything here
        raise ValueError("--scheduler: nothing found, expected an address or a file")
    if wait is not None and not wait >= 0:
        raise ValueError(f"--wait: {wait} found, expected minutes, 0 or more")
    numbers = list(seeds) or None
    names, on = experiments or list(EXPERIMENTS), dataset or ["synthetic"]
    sources = [datasets.get(name) for name in on]
    chosen = [get_experiment(name) for name in names]
    asked = [(source, profile, wanted(one, source, profile, numbers or ())) for source in sources for one in chosen]
    what = f"{counted(len(names), 'experiment')} on {', '.join(on)}"
    if dry_run or scheduler is None:
        before_training(what, asked, device, yes, dry_run, workers)
    tasks = sweep.grid(names, on, profile, numbers)
    executed = sweep.pages(tasks, pages) if pages else {}
    with sweep.cluster(scheduler, workers, device, wait=wait, say=say) as (client, kind):
        if scheduler is not None and kind == "cpu":
            before_training(what, asked, kind, yes, False, len(client.ncores()))
        made = sweep.sweep(tasks, client, kind, executed, profile, wait=wait, say=say)
    made = made.sort_values(["dataset", "experiment"], kind="stable")
    rows = made.groupby(["dataset", "experiment", "label"], sort=False)["mean_ap"].agg(["count", "mean"])
    rows.columns = ["runs", "mAP"]
    show(rows.to_string(float_format="{:.4f}".format))
    for page in executed.values():
        show(page)
