"""A hash of source code that comments, blank lines and docstrings do not change."""

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


def source_fingerprint(*modules: str, without: Collection[str] = ()) -> str:
    """Hash of what the code of ``modules`` does, so that results can tell whether they are out of date.

    A module is given by its dotted name and found without being imported. A package stands for everything that lies
    in it: its modules, its packages and its data files. ``without`` names modules and packages to leave out.

    Returns: 64 hexadecimal digits, equal for equal code whatever its comments, docstrings and layout.
    Raises: ModuleNotFoundError if a module is not there; SyntaxError if one is not Python.
    """
    left_out = tuple(f"{name}." for name in without)
    files = {name: path for module in modules for name, path in _files(module) if not f"{name}.".startswith(left_out)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = _code(path).encode() if path.suffix == ".py" else path.read_bytes()
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def class_fingerprint(kind: type, without: Collection[str] = ()) -> str:
    """Hash of what a class does whose source may lie in no file, as one that is written in a notebook.

    Its methods and constants count, as they were compiled, and those of its bases but for the bases from the packages
    ``without``. What they call elsewhere does not.

    Returns: 64 hexadecimal digits. Another version of Python may give others.
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
    """What decides the behaviour of compiled code: neither the name of its file nor its lines."""
    constants = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _files(module: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package, each with a name that does not depend on where it is installed."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of the top package only: for a dotted name, find_spec imports its parents
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
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
