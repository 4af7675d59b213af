"""What a shell offers when its user presses tab (``famf --install-completion``). Nothing heavy is imported: to wait a
second would be too long."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from famf_lib.experiments.parameters import DEVICES, PROFILES, PROTOCOLS
from famf_lib.support.files import ROOT, store

GIVEN = ("-p", "--parameter")
PARAMETERS = ("dataset", "profile", "seeds", "device", "protocol")  # of an experiment, whoever runs it


def experiments(incomplete: str) -> list[str]:
    """Those of ``experiments``, read from its source, as its import takes seconds."""
    return _beginning(incomplete, _declared("experiments/catalogue.py", "Experiment"))


def datasets(incomplete: str) -> list[str]:
    """Those of ``datasets.names``, likewise."""
    imported = sorted(path.parent.name for path in (store() / "imported").glob("[a-z]*/arrays.safetensors"))
    return _beginning(incomplete, [*_declared("data/datasets.py", "Dataset"), "iqiyi", *imported])


def runs(incomplete: str) -> list[str]:
    """The keys of the trained models in the store."""
    return _beginning(incomplete, sorted(path.parent.name for path in (store() / "runs").glob("*/run.json")))


def names(incomplete: str) -> list[str]:
    """The parameters of an experiment."""
    return _beginning(incomplete, PARAMETERS)


def profiles(incomplete: str) -> list[str]:
    return _beginning(incomplete, PROFILES)


def devices(incomplete: str) -> list[str]:
    return _beginning(incomplete, DEVICES)


def protocols(incomplete: str) -> list[str]:
    return _beginning(incomplete, PROTOCOLS)


class Parametrised(TyperCommand):
    """A command with ``-p NAME VALUE`` as papermill has it, which to its function is ``-p NAME=VALUE``: typer has no
    list of pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self.words = list(args)
        return super().parse_args(ctx, _joined(args))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        *_, given, name = ["", "", *self.words]
        option = next((one for one in self.params if given in GIVEN and one.name == name), None)
        return option.shell_complete(ctx, incomplete) if option else super().shell_complete(ctx, incomplete)


def _joined(args: list[str]) -> list[str]:
    if len(args) >= 3 and args[0] in GIVEN:
        return [args[0], f"{args[1]}={args[2]}", *_joined(args[3:])]
    return [*args[:1], *_joined(args[1:])] if args else []


def _declared(module: str, kind: str) -> list[str]:
    """The names that a module of the library gives to what it declares of a kind: the first word in each."""
    return re.findall(rf'\b{kind}\(\s*"([\w-]+)"', (ROOT / "famf_lib" / module).read_text())


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
