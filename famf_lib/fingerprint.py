"""A hash of source code that comments, blank lines and docstrings do not change."""

import ast
import hashlib
import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path


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
