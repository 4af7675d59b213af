"""Notebooks that are executed with parameters: which they have, what fits them, and how they run.

A parameterised notebook has one code cell tagged ``parameters``. It assigns literals only, one a line, annotated, each
with a comment that says what it is for::

    dataset: str = "synthetic"  # which faces: synthetic or imfdb
    seeds: list[int] = [1, 2, 3, 4, 5]  # one training a seed

The first code cell after it calls :func:`refuse_unknown_parameters`, so that a misspelt parameter, or a value that does
not fit, stops the notebook however it is executed. Only the functions of the build import papermill: a notebook imports
this module at no cost.
"""

import ast
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from famf_lib.experiments import parameters as rules
from famf_lib.support.errors import Refusal
from famf_lib.support.files import written_whole

INJECTED = "# Parameters\n"  # how the cell begins in which papermill puts the values given
BEGAN = time.monotonic()  # in a notebook: when its first cell of code imported this
QUIET = {
    "KernelManager": {"transport_encryption": "auto"},  # else each kernel warns
    # Else one that is still busy with its last message when it is asked to end says that it was interrupted.
    "NotebookClient": {"extra_arguments": ["--log-level=CRITICAL"]},
}
UNWATCHED = {"FAMF_PROGRESS": "silent", "TQDM_DISABLE": "1"}  # of a kernel whose progress nobody sees


class NotebookError(Refusal, Exception):
    """A notebook that breaks the contract above, a parameter that it does not have, or a cell that failed."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as its notebook declares it; ``type`` is the annotation as written, or ``""``."""

    name: str
    type: str
    default: Any
    help: str


def parameters(path: Path) -> list[Parameter]:
    """The parameters that the notebook at ``path`` declares, in its order.

    Raises: NotebookError if it is no notebook, does not have exactly one cell tagged ``parameters``, or has a line
    there that papermill does not understand.
    """
    import papermill

    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        found = f"{len(tagged)} cells" if len(tagged) != 1 else "a text cell"
        raise NotebookError(f"{path}: expected exactly one code cell tagged 'parameters', found {found}.")
    try:
        statements = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise NotebookError(f"{path}: the cell tagged 'parameters' is not Python: {error.msg}.") from None
    # papermill reads line by line and skips what it cannot read; the tree of the cell tells what it skipped.
    read_by_papermill = papermill.inspect_notebook(_plain(path))
    declared = []
    for statement in statements:
        name, value = _assignment(statement)
        try:
            default = ast.literal_eval(value)
            help = read_by_papermill[name]["help"]
        except (ValueError, KeyError):
            raise NotebookError(
                f"{path}: in the cell tagged 'parameters', expected lines such as 'seed: int = 1  # which draw', "
                f"found '{ast.unparse(statement)}'."
            ) from None
        annotation = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else ""
        declared.append(Parameter(name, annotation, default, help))
    return declared


def check(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The values given, as the types that the notebook declares; text becomes what it says ("[1, 2]" a list).

    Raises: NotebookError at a name that the notebook does not have, and at a value that does not fit its annotation or
    the rule of its name (see ``parameters``).
    """
    known = {parameter.name: parameter.type for parameter in parameters(path)}
    try:
        return _checked(given, known)
    except NotebookError as error:
        raise NotebookError(f"{path}: {error}") from None


def execute(
    path: Path,
    out: Path,
    given: dict[str, Any] | None = None,
    *,
    timeout: int | None = None,
    reports: Path | None = None,
    provenance: dict[str, Any] | None = None,
    watched: bool = True,
) -> dict[str, Any]:
    """Executes the notebook at ``path``, in its own folder, and leaves it with outputs at ``out``: whole or not at all.

    ``timeout`` limits a cell, in seconds. A notebook that fails is kept, as far as it came, in ``reports`` (a folder;
    ``reports`` beside ``out`` by default). ``watched``: somebody looks at the terminal, if there is one.

    Returns: ``provenance`` with the values given, the seconds it took and when it was done (UTC); the same is in the
    metadata of the executed notebook, under ``famf``.
    Raises: NotebookError naming notebook, cell and error, ``out`` then being what it was.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    path, out = Path(path).resolve(), Path(out).resolve()
    report = (Path(reports).resolve() if reports else out.parent / "reports") / f"{out.stem}.failed.ipynb"
    given = check(path, given or {})
    terminal = watched and sys.stderr.isatty()
    with written_whole(out) as new:
        draft = new.with_name("draft.ipynb")

        def failed(index: int, problem: str) -> NotebookError:
            report.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft, report)
            return NotebookError(f"{path}, {_place(executed.cells, index)}: {problem} The notebook so far: {report}")

        begin = time.monotonic()
        try:
            # Progress bars of the notebook show on a terminal as they go; elsewhere they would only fill the log.
            with _environment({"FAMF_PROGRESS": "terminal"} if terminal else UNWATCHED):
                executed = papermill.execute_notebook(
                    _plain(path),
                    _plain(draft),
                    parameters=given,
                    kernel_name="python3",
                    language="python",
                    cwd=path.parent,
                    progress_bar=False,
                    execution_timeout=timeout,
                    stderr_file=sys.stderr if terminal else None,
                    coalesce_streams=True,  # thousands of updates of a progress bar become its last line
                    config=Config(QUIET),
                )
        except PapermillExecutionError as error:
            executed = nbformat.read(draft, as_version=4)
            message = next(iter(error.evalue.splitlines()), "")
            # papermill has put two cells before it, one at the top, one right above
            raise failed(error.cell_index + 2, f"{error.ename}: {message}") from None
        except CellTimeoutError:
            executed = nbformat.read(draft, as_version=4)
            raise failed(_reached(executed.cells), f"not done after {timeout} s, the time limit of a cell.") from None
        except DeadKernelError:
            executed = nbformat.read(draft, as_version=4)
            raise failed(_reached(executed.cells), "the kernel died, perhaps for lack of memory.") from None
        seconds = time.monotonic() - begin
        # papermill takes sys.exit() for success, and leaves the rest of the notebook undone.
        if any(cell.metadata.papermill.get("start_time") is None for cell in executed.cells):
            raise failed(_reached(executed.cells), "the notebook ended itself before its last cell.")
        executed.metadata.papermill.update(input_path=path.name, output_path=out.name)  # nobody else's business where
        record = {
            "parameters": given,
            "seconds": round(seconds, 1),
            "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            **(provenance or {}),
        }
        executed.metadata["famf"] = record
        nbformat.write(executed, draft)
        os.replace(draft, new)
    report.unlink(missing_ok=True)  # of an earlier failure
    return record


def refuse_unknown_parameters() -> None:
    """Stops a notebook at a parameter that it does not have, or that cannot be what it was given.

    papermill itself only logs a wrong name, and takes any value. To be called in the first code cell after the one
    tagged ``parameters``. It compares papermill's cell with what other cells have declared so far; where nothing was
    injected, as in JupyterLab, with the values in the cell of the parameters itself.

    Raises: NotebookError.
    """
    from IPython import get_ipython

    shell = get_ipython()
    earlier = shell.user_ns.get("In", [])[:-1] if shell else []  # the last one is the cell that calls
    given: dict[str, ast.expr] = {}
    known: dict[str, str] = {}
    for source in earlier:
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        injected = source.startswith(INJECTED) and all(isinstance(statement, ast.Assign) for statement in statements)
        for statement in statements:
            name, value = _assignment(statement)
            annotated = isinstance(statement, ast.AnnAssign)
            if name and not injected:
                known[name] = ast.unparse(statement.annotation) if annotated else known.get(name, "")
            if name and value and (injected or (annotated and name in rules.ALLOWED)):
                given[name] = value
    _checked({name: ast.literal_eval(value) for name, value in given.items() if _is_literal(value)}, known)


def elapsed() -> float:
    """Seconds since a notebook began."""
    return time.monotonic() - BEGAN


def _checked(given: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """The values given, as the types of the names that are ``known``."""
    checked = {}
    for name, value in given.items():
        if name not in known:
            raise NotebookError(f"{rules.unknown(name, known, 'this notebook')}.")
        try:
            checked[name] = _fitted(value, known[name])
        except ValueError:
            raise NotebookError(f"parameter {name!r} is declared as {known[name]}, found {value!r}.") from None
        try:
            rules.check(name, checked[name])
        except ValueError as error:
            raise NotebookError(f"{error}.") from None
    return checked


def as_list(value: Any, name: str, of: type = int) -> list:
    """A list parameter as papermill may hand it over: a list, a tuple, one value, or any of these as text.

    Raises: ValueError naming the parameter unless it holds one or more of type ``of``.
    """
    items = _literal(value) if isinstance(value, str) else value
    if of is str and isinstance(items, str):
        items = [item.strip() for item in items.split(",") if item.strip()]
    items = list(items) if isinstance(items, list | tuple) else [items]
    if not items or not all(type(item) is of for item in items):  # a bool is an int, but not a seed
        raise ValueError(f"{name}: expected {of.__name__}s, as a list or as text with commas between, found {value!r}.")
    return items


def read(path: Path) -> Any:
    """The notebook at ``path`` as nbformat reads it.

    Raises: NotebookError if there is none.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise NotebookError(f"{path}: there is no such notebook.") from None
    except Exception as error:  # of any kind: nbformat takes the content on trust while it converts old formats
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NotebookError(f"{path}: this is not a Jupyter notebook: {reason}") from None
    return notebook


def _plain(path: Path) -> str:
    """papermill fills in {names} of a path."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    """Name and value of a statement that assigns one name, or an empty name."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value:
            return name, value
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
    return "", None


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.strip().lower(), text)


def _fitted(value: Any, annotation: str) -> Any:
    """``value`` as the annotated type. Raises: ValueError if it does not fit (pydantic's error is one)."""
    from pydantic import TypeAdapter

    if not annotation:
        return value
    kind = _kind(ast.parse(annotation, mode="eval").body)
    if isinstance(value, str) and kind is not str:
        value = _literal(value)
    if kind is list or getattr(kind, "__origin__", None) is list:
        if isinstance(value, str) and kind == list[str]:
            value = as_list(value, "", of=str)
        value = list(value) if isinstance(value, list | tuple) else value if isinstance(value, str) else [value]
    return TypeAdapter(kind).validate_python(value, strict=True)


def _kind(annotation: ast.expr) -> Any:
    match annotation:
        case ast.Name(id=name) if kind := {k.__name__: k for k in (bool, int, float, str, list, dict)}.get(name):
            return kind
        case ast.Constant(value=str(text)):
            return _kind(ast.parse(text, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_kind(item)]
    raise NotebookError(
        f"a parameter is a bool, int, float, str, dict, list or list[int] and the like, not {ast.unparse(annotation)}."
    )


def _reached(cells: list) -> int:
    """Index of the last cell that was begun."""
    return max((i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")), default=0)


def _place(cells: list, index: int) -> str:
    """Cell ``index`` as the author knows it: counted from one, without what papermill put in."""
    put_in = ("injected-parameters", "papermill-error-cell-tag")

    def own(cell: Any) -> bool:
        return not any(tag in cell.metadata.get("tags", []) for tag in put_in)

    if not own(cells[index]):
        return "the cell of the parameters given"
    line = next((line.strip() for line in cells[index].source.splitlines() if line.strip()), "")
    return f"cell {sum(map(own, cells[: index + 1]))} ('{line}')"


@contextmanager
def unwatched(several: bool) -> Iterator[None]:
    """Around several executions at once: their kernels show no progress, since bars would write over each other.

    The environment is one for all threads: set here, none of them takes it away from another.
    """
    with _environment(UNWATCHED if several else {}):
        yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the kernels started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
