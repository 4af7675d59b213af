"""``famf data``: the datasets that are here, and how to get what is not."""

import typer

from famf_lib.commands.options import Dataset, Profile, checked_profile

app = typer.Typer(no_args_is_help=True, help="The datasets: what is here, and how to get what is not.")


@app.command("list")
def data_list() -> None:
    """Every dataset, and whether it is here."""
    from famf_lib import datasets

    for dataset in map(datasets.get, datasets.names()):
        absence = dataset.absence()
        typer.echo(f"{dataset.name:10} {'here' if absence is None else 'absent'}  {absence or dataset.title}")


@app.command("info")
def data_info(dataset: Dataset, profile: Profile = "standard") -> None:
    """A dataset in a few lines; it is made first if need be."""
    from famf_lib import datasets

    clipset = datasets.load(dataset, checked_profile(profile))
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
