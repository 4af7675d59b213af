"""``famf models``: the pre-trained models of the extraction, which are here, and how to get those that are not."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Pre-trained models for videos and pictures: what is here, and its terms.")


@app.command("list")
def models_list(terms: Annotated[bool, typer.Option("--terms", help="also origin and terms of each")] = False) -> None:
    """Every model that the book knows by name, and whether it is here. Any other is named by its path."""
    from famf_video import registry

    for name, entry in registry.entries().items():
        absence = registry.absence(name)
        typer.echo(f"{name:18} {'here' if absence is None else 'absent':7} {absence or f'{entry.kind}, {entry.path}'}")
        if terms:
            typer.echo(f"{'':18} from    {entry.origin}\n{'':18} terms   {entry.terms}")


@app.command("add")
def models_add(file: Annotated[Path, typer.Argument(help="a model that you have, whatever it is called")]) -> None:
    """Copy a model to where the book looks for it; its checksum tells which it is."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        entry = registry.add(file)
    typer.echo(f"{entry.path}\nterms: {entry.terms}")


@app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="a name that famf models list shows")]) -> None:
    """Download a model, if an address is known, and keep it only if its checksum is right."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        path = registry.fetch(name)
    typer.echo(f"{path}\nterms: {registry.entries()[name].terms}")
