"""Aggregations, fusions and datasets from outside this library.

An installed package names them in its ``pyproject.toml``, by name and by module and class (or ``Dataset``)::

    [project.entry-points."famf.fusions"]
    mean-of-tokens = "my_package.fusions:Mean"

A module in ``FAMF_PLUGINS`` (commas between several; set by ``famf --plugin``) adds its own when it is imported, as in
``FUSIONS["mean-of-tokens"] = Mean``.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from famf_lib.support.errors import Refusal
from famf_lib.support.wording import named

GROUPS = ("famf.aggregations", "famf.fusions", "famf.datasets")
VARIABLE = "FAMF_PLUGINS"


class PluginError(Refusal, ValueError):
    """Something from outside cannot be used; the message names it."""


def load() -> None:
    """Adds what installed packages and ``FAMF_PLUGINS`` provide, once. If that is nothing, nothing heavy is imported.

    Raises:
        PluginError: a module cannot be imported, or what it provides is of another kind, or its name is taken.
    """
    _load(os.environ.get(VARIABLE, ""))


@contextmanager
def also(modules: Iterable[str]) -> Iterator[None]:
    """Loads further modules, and adds them to ``FAMF_PLUGINS`` for a while, for the processes that start meanwhile.

    Raises:
        PluginError: as ``load``.
    """
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = ",".join(dict.fromkeys(filter(None, (*before.split(","), *modules))))
    try:
        load()
        yield
    finally:
        os.environ[VARIABLE] = before


def option() -> str:
    """The option of ``famf`` that adds the modules of ``FAMF_PLUGINS``, with a space before it; empty for none."""
    modules = filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(",")))
    return "".join(f" --plugin {name}" for name in modules)


def known_to_workers(kind: type) -> bool:
    """Whether a class is of this library or of a package that workers load too: a plugin or an entry point."""
    points = [point.value for group in GROUPS for point in entry_points().select(group=group)]
    named = [*os.environ.get(VARIABLE, "").split(","), *(value.partition(":")[0] for value in points)]
    packages = {name.strip().partition(".")[0] for name in named}
    return kind.__module__.partition(".")[0] in {"famf_lib", *packages}


@cache
def _load(modules: str) -> None:
    for name in filter(None, map(str.strip, modules.split(","))):
        try:
            import_module(name)
        except Exception as error:
            expected = "a module that can be imported and adds to AGGREGATIONS, FUSIONS or DATASETS"
            raise PluginError(f"--plugin: {name!r} found ({named(error)}), expected {expected}") from error
    installed = entry_points()
    for group in GROUPS:
        for point in installed.select(group=group):
            _add(point)


def _add(point: Any) -> None:
    from famf_lib.data.datasets import DATASETS, Dataset
    from famf_lib.models import AGGREGATIONS, FUSIONS, Aggregation, Fusion

    places: dict[str, tuple[dict[str, Any], type]]
    places = dict(zip(GROUPS, ((AGGREGATIONS, Aggregation), (FUSIONS, Fusion), (DATASETS, Dataset)), strict=True))
    known, kind = places[point.group]
    where = f"{point.group}: {point.name} = {point.value!r}"
    try:
        found = point.load()
    except Exception as error:
        raise PluginError(f"{where} found ({named(error)}), expected something that can be imported") from error
    if not (isinstance(found, kind) if kind is Dataset else isinstance(found, type) and issubclass(found, kind)):
        raise PluginError(f"{where} found, expected a {kind.__name__}")
    if known.setdefault(point.name, found) is not found:
        raise PluginError(f"{where} found, expected another name, because there is a {point.name!r} already")


def check(aggregation: Any, fusion: Any, dim: int) -> None:
    """Tries modules on two random clips of three faces, and on five tokens.

    Raises:
        PluginError: one of them fails, or returns another shape than its base class says.
    """
    import torch

    faces, tokens = torch.randn(2, 3, dim), torch.randn(2, 5, dim)
    for method, given, expected in (
        (aggregation.forward, faces, (2, aggregation.tokens, aggregation.width)),
        (aggregation.face_weights, faces, (2, 3)),
        (fusion.forward, tokens, (2, 5, dim)),
        (fusion.attention, tokens, (2, 5, 5)),
    ):
        what, asked = (
            f"{type(method.__self__).__name__}.{method.__name__}",
            f"for an input of shape {tuple(given.shape)}",
        )
        try:
            with torch.no_grad():
                found = tuple(method(given).shape)
        except Exception as error:
            raise PluginError(f"{what}: {named(error)} {asked}, expected shape {expected}") from error
        if found != expected:
            raise PluginError(f"{what}: shape {found} found {asked}, expected {expected}")
