"""``famf sweep``: the grid of experiments, datasets and seeds on a Dask cluster."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands import completion
from famf_book.commands.options import Device, Profile, Seeds, checked_profile, checked_seeds, say


def sweep(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(help="table-1, table-2 …; by default all", autocompletion=completion.experiments),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", "-d", help="may be repeated", autocompletion=completion.datasets),
    ] = None,
    profile: Profile = "standard",
    seeds: Seeds = "",
    device: Device = "auto",
    scheduler: Annotated[
        str, typer.Option(help="tcp://host:8786 of a Dask scheduler, or the file it wrote; otherwise this machine")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="on this machine; otherwise one a core, or one a GPU")
    ] = 0,
    wait: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="end after so long without a worker; otherwise wait")
    ] = None,
    pages: Annotated[
        Path | None, typer.Option("--notebooks", help="also execute the notebooks, into this folder")
    ] = None,
) -> None:
    """Make the runs of many experiments on a Dask cluster, and print the mAP of their rows."""
    from famf_book import sweep
    from famf_lib.experiments.catalogue import EXPERIMENTS

    if pages is not None:  # asked for before hours of training
        found = next(path for path in (pages, *pages.parents) if path.exists())
        if not found.is_dir():
            raise ValueError(f"--notebooks: {found} is a file, expected a folder")
    if wait is not None and not wait >= 0:
        raise ValueError(f"--wait: {wait} found, expected minutes, 0 or more")
    profile = checked_profile(profile)
    numbers = checked_seeds(seeds) if seeds else None
    tasks = sweep.grid(experiments or list(EXPERIMENTS), dataset or ["synthetic"], profile, numbers)
    executed = sweep.pages(tasks, pages) if pages else {}
    with sweep.cluster(scheduler, workers, device, wait=wait, say=say) as (client, kind):
        made = sweep.sweep(tasks, client, kind, executed, profile, wait=wait, say=say)
    made = made.sort_values(["dataset", "experiment"], kind="stable")
    rows = made.groupby(["dataset", "experiment", "label"], sort=False)["mean_ap"].agg(["count", "mean"])
    rows.columns = ["runs", "mAP"]
    typer.echo(rows.to_string(float_format="{:.4f}".format))
    for page in executed.values():
        typer.echo(page)
