"""``famf models``: lists, adds and downloads the pre-trained models of the extraction."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, add and download pre-trained models for videos and pictures.")


@app.command("list")
def models_list(
    terms: Annotated[bool, typer.Option("--terms", help="also show the origin and the terms of use of each")] = False,
) -> None:
    """List the models that have a name here, and which are on this machine. Any other model is given by its path."""
    from famf_video import registry

    for name, entry in registry.entries().items():
        absence = registry.absence(name)
        typer.echo(f"{name:18} {'here' if absence is None else 'absent':7} {absence or f'{entry.kind}, {entry.path}'}")
        if terms:
            typer.echo(f"{'':18} from    {entry.origin}\n{'':18} terms   {entry.terms}")


@app.command("add")
def models_add(file: Annotated[Path, typer.Argument(help="the file of a model, under any name")]) -> None:
    """Copy a model to the folder of models. It is recognised by its checksum."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        entry = registry.add(file)
    typer.echo(f"{entry.path}\nterms: {entry.terms}")


@app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="a name that famf models list shows")]) -> None:
    """Download a model whose address is known, and keep it if its checksum is right."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        path = registry.fetch(name)
    typer.echo(f"{path}\nterms: {registry.entries()[name].terms}")
