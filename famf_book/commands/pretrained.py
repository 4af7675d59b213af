"""``famf models``: the pre-trained models of the extraction, which of them are here, and how to get the others."""

from pathlib import Path
from typing import Annotated

import typer

from famf_book.commands.options import show

app = typer.Typer(
    no_args_is_help=True, help="Pre-trained models for videos and pictures: which are here, and their terms."
)


@app.command("list")
def models_list(terms: Annotated[bool, typer.Option("--terms", help="also show origin and terms")] = False) -> None:
    """List the models that the book knows by name, and whether each is here. Other models are given by their path."""
    from famf_video import registry

    for name, entry in registry.entries().items():
        absence = registry.absence(name)
        show(f"{name:18} {'here' if absence is None else 'absent':7} {absence or f'{entry.kind}, {entry.path}'}")
        if terms:
            show(f"{'':18} from    {entry.origin}\n{'':18} terms   {entry.terms}")


@app.command("add")
def models_add(file: Annotated[Path, typer.Argument(help="a model file of yours, with any name")]) -> None:
    """Copy a model to where the book looks for it; its checksum identifies it."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        entry = registry.add(file)
    show(f"{entry.path}\nterms: {entry.terms}")


@app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="a name from famf models list")]) -> None:
    """Download a model, if the registry has its address, and keep it only if its checksum is right."""
    from famf_book.commands.options import writing
    from famf_lib.support.files import models
    from famf_video import registry

    with writing(models()):
        path = registry.fetch(name)
    show(f"{path}\nterms: {registry.entries()[name].terms}")
