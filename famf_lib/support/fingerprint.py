"""Hashes of source code that ignore comments, layout and docstrings."""

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


def source_fingerprint(*modules: str, without: Collection[str] = ()) -> str:
    """Hashes the code of ``modules``, so that results can tell whether they are out of date.

    A module is given by its dotted name and is not imported. A package includes all its modules, subpackages and data
    files. ``without`` names modules and packages to leave out.

    Returns: 64 hexadecimal digits, which comments, docstrings and layout do not change.
    Raises: ModuleNotFoundError if there is no such module; SyntaxError if one is not valid Python.
    """
    left_out = tuple(f"{name}." for name in without)
    files = {name: path for module in modules for name, path in _files(module) if not f"{name}.".startswith(left_out)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = _code(path).encode() if path.suffix == ".py" else path.read_bytes()
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def class_fingerprint(kind: type, without: Collection[str] = ()) -> str:
    """Hashes the compiled code of a class, which works without a source file, for example in a notebook.

    The hash covers the methods and constants of the class and of its bases, except bases from the packages ``without``.
    It does not cover functions that they call.

    Returns: 64 hexadecimal digits, which may differ between versions of Python.
    """
    decided = []
    for base in kind.__mro__[:-1]:
        if base.__module__.partition(".")[0] not in without:
            for name, value in sorted(vars(base).items()):
                value = inspect.unwrap(value) if callable(value) else value
                if isinstance(value, FunctionType):
                    decided.append((name, _compiled(value.__code__), value.__defaults__, value.__kwdefaults__))
                elif not name.startswith("__") and isinstance(value, int | float | str | tuple):
                    decided.append((name, value))
    return hashlib.sha256(repr(decided).encode()).hexdigest()


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """The parts of compiled code that determine its behaviour, without file name and line numbers."""
    constants = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _files(module: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package, each with a name that does not depend on where the package is installed."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of the top package only: find_spec imports the parents of a dotted name
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ModuleNotFoundError(f"there is no module {top!r} to fingerprint")
    place = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
    place = place.joinpath(*rest)
    if place.is_dir():
        for path in place.rglob("*"):
            inside = path.relative_to(place)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
                steps = inside.with_suffix("").parts if path.suffix == ".py" else inside.parts
                yield ".".join([module, *(step for step in steps if step != "__init__")]), path
    elif (file := place if place.is_file() else place.with_suffix(".py")).is_file():
        yield module, file
    else:
        raise ModuleNotFoundError(f"there is no module {module!r} to fingerprint: neither {place} nor {file} exists")


def _code(path: Path) -> str:
    return _without_docstrings(path, path.stat().st_mtime_ns)


@cache  # keys are asked for many times per page
def _without_docstrings(path: Path, changed: int) -> str:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
