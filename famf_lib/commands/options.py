"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Dataset = Annotated[str, typer.Argument(help="synthetic, imfdb, chimera, iqiyi, or the name of an import of yours")]
Profile = Annotated[str, typer.Option(help="quick (seconds), standard (a laptop), paper (a GPU)")]
Seeds = Annotated[str, typer.Option(help="for example 1,2,3")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda")]


def checked_profile(name: str) -> str:
    from famf_lib.settings import PROFILES

    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is not known, expected one of {', '.join(PROFILES)}")
    return name
