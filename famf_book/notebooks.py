"""Parameterised notebooks: what parameters they have, which values are accepted, and how they are executed.

A parameterised notebook has one code cell tagged ``parameters``. It assigns only literals, one per line, with an
annotation and a comment that explains the parameter::

    dataset: str = "synthetic"  # the faces: synthetic or imfdb
    seeds: list[int] = [1, 2, 3, 4, 5]  # one training run per seed

The first code cell after it calls :func:`refuse_unknown_parameters`, so that a misspelt parameter or a wrong value
stops the notebook however it is executed. Notebooks import this module, so papermill and nbformat are only imported
where they are used.
"""

import ast
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from famf_lib.experiments import parameters as rules
from famf_lib.experiments import plugins
from famf_lib.support.errors import Refusal
from famf_lib.support.files import written_whole
from famf_lib.support.wording import first_line, plain

INJECTED = "# Parameters\n"  # the first line of the cell in which papermill puts the given values
INJECTED_TAG = "injected-parameters"
BEGAN = time.monotonic()  # in a notebook: when its first code cell imported this module
QUIET = {
    "KernelManager": {"transport_encryption": "auto"},  # otherwise each kernel warns
    # Otherwise a kernel that is shut down while it sends its last message reports that it was interrupted.
    "NotebookClient": {"extra_arguments": ["--log-level=CRITICAL"]},
}
UNWATCHED = {"FAMF_PROGRESS": "silent", "TQDM_DISABLE": "1"}  # for a kernel whose progress nobody sees


class NotebookError(Refusal, Exception):
    """A notebook that breaks the rules above, a parameter that it refuses, or a cell that failed."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as its notebook declares it; ``type`` is the annotation as written, or ``""``."""

    name: str
    type: str
    default: Any
    help: str


def parameters(path: Path) -> list[Parameter]:
    """The parameters that the notebook at ``path`` declares, in its order.

    Raises: NotebookError if the file is not a notebook, does not have exactly one cell tagged ``parameters``, or has a
    line in that cell that papermill does not understand.
    """
    import papermill

    notebook = read(path)
    if not notebook.metadata.get("kernelspec", {}).get("name"):
        expected = "'kernelspec' with the name python3; JupyterLab writes it when it saves the notebook"
        raise NotebookError(f"{path}: no kernel found in its metadata, expected {expected}.")
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        found = f"{len(tagged)} cells" if len(tagged) != 1 else "a text cell"
        raise NotebookError(f"{path}: expected exactly one code cell tagged 'parameters', found {found}.")
    try:
        statements = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise NotebookError(f"{path}: the cell tagged 'parameters' is not Python: {error.msg}.") from None
    # papermill reads line by line and skips what it cannot read; the syntax tree shows what it skipped.
    try:
        read_by_papermill = papermill.inspect_notebook(_plain(path))
    except papermill.exceptions.PapermillException as error:
        raise NotebookError(f"{path}: {first_line(error, 300)}; expected a notebook for the kernel python3.") from None
    declared = []
    for statement in statements:
        name, annotation, value = _assignment(statement)
        try:
            declared.append(Parameter(name, annotation, ast.literal_eval(value), read_by_papermill[name]["help"]))
        except (ValueError, KeyError):
            raise NotebookError(
                f"{path}: in the cell tagged 'parameters', expected lines such as 'seed: int = 1  # random seed', "
                f"found '{ast.unparse(statement)}'."
            ) from None
    return declared


def check(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The given values in the types that the notebook declares; text becomes what it says ("[1, 2]" a list).

    Raises: NotebookError for a name that the notebook does not have, and for a value that does not fit its annotation
    or the limits of its name (see ``famf_lib.experiments.parameters``).
    """
    types = {parameter.name: parameter.type for parameter in parameters(path)}
    try:
        return rules.validated(given, types)
    except ValueError as error:
        raise NotebookError(f"{path}: {error}.") from None


def refuse_unknown_parameters() -> None:
    """Stops a notebook if it was given an unknown parameter or a wrong value, and puts the others in their types.

    papermill itself only logs a wrong name, and accepts any value; text such as "1,2" it leaves as text. To be called
    in the first code cell after the one tagged ``parameters``. It compares papermill's cell with what other cells have
    declared so far; where nothing was injected, as in JupyterLab, it checks the values in the parameters cell itself.

    Modules from outside are added as well (see ``famf_lib.experiments.plugins``).

    Raises: NotebookError.
    """
    plugins.load()
    from IPython import get_ipython

    if (shell := get_ipython()) is None:
        return
    given: dict[str, Any] = {}
    types: dict[str, str] = {}
    for source in shell.user_ns.get("In", [])[:-1]:  # the last one is the cell that calls this function
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        injected = source.startswith(INJECTED) and all(isinstance(statement, ast.Assign) for statement in statements)
        for statement in statements:
            name, annotation, value = _assignment(statement)
            if name and not injected:
                types[name] = annotation or types.get(name, "")
            if name and (injected or (annotation and name in rules.ALLOWED)):
                try:
                    given[name] = ast.literal_eval(value)
                except ValueError:  # computed, not a literal
                    continue
    try:
        values = rules.validated(given, types)
    except ValueError as error:
        raise NotebookError(f"{error}.") from None
    for name, value in values.items():
        if shell.user_ns.get(name) == given[name]:  # no later cell has changed it
            shell.user_ns[name] = value


def papermill_options(given: Mapping[str, Any]) -> list[str]:
    """The options with which papermill gives a notebook these values, such as ``-p seeds 1,2``."""
    words = []
    for name, value in given.items():
        if isinstance(value, list) and value and all(type(one) is int for one in value):
            value = ",".join(map(str, value))  # refuse_unknown_parameters makes it a list
        nested = isinstance(value, list | dict)
        words += ["-y", f"{name}: {json.dumps(value)}"] if nested else ["-p", name, str(value)]
    return words


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
    """Executes the notebook at ``path`` in its own folder, and writes it with its outputs to ``out``, or nothing.

    Args:
        timeout: seconds that a cell may take.
        reports: the folder that keeps a notebook that failed, as far as it ran; by default ``reports`` next to ``out``.
        watched: whether somebody may be looking at the terminal, if there is one.

    Returns: ``provenance`` with the given values, the seconds it took and when it finished (UTC). The executed notebook
    has the same in its metadata, under ``famf``.
    Raises: NotebookError naming notebook, cell and error; ``out`` is then unchanged.
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

        def failed(problem: str, index: int | None = None) -> NotebookError:
            cells = nbformat.read(draft, as_version=4).cells
            place = _place(cells, _reached(cells) if index is None else index)
            report.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft, report)
            return NotebookError(f"{path}, {place}: {plain(problem, 600)} The notebook so far: {report}")

        begin = time.monotonic()
        try:
            # A terminal shows the progress bars of the notebook as they move; elsewhere they would only fill the log.
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
                    coalesce_streams=True,  # keeps the last line of the thousands of updates of a progress bar
                    config=Config(QUIET),
                )
        except PapermillExecutionError as error:
            message = next(iter(error.evalue.splitlines()), "")
            # papermill has put two cells before it: one at the top, one directly above
            raise failed(f"{error.ename}: {message}", error.cell_index + 2) from None
        except CellTimeoutError:
            raise failed(f"not finished after {timeout} s, the time limit of a cell.") from None
        except DeadKernelError:
            raise failed("the kernel died, perhaps for lack of memory.") from None
        seconds = time.monotonic() - begin
        # papermill treats sys.exit() as success, and leaves the rest of the notebook undone.
        if any(cell.metadata.papermill.get("start_time") is None for cell in executed.cells):
            raise failed("the notebook ended itself before its last cell.")
        executed.metadata.papermill.update(input_path=path.name, output_path=out.name)  # no folders of this machine
        record = {
            "parameters": given,
            "seconds": round(seconds, 1),
            "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            **(provenance or {}),
        }
        executed.metadata["famf"] = record
        for cell in executed.cells:
            if INJECTED_TAG in cell.metadata.get("tags", []) and "id" in cell:
                cell["id"] = INJECTED_TAG  # papermill gives it a random one
        nbformat.write(executed, draft)
        os.replace(draft, new)
    report.unlink(missing_ok=True)  # of an earlier failure
    return record


def elapsed() -> float:
    """Seconds since the notebook began."""
    return time.monotonic() - BEGAN


def read(path: Path) -> Any:
    """The notebook at ``path`` as nbformat reads it.

    Raises: NotebookError if the file is missing or is not a notebook.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise NotebookError(f"{path}: there is no such notebook.") from None
    except Exception as error:  # of any kind: nbformat converts old formats without checking their content
        reason = first_line(error, 300)
        raise NotebookError(f"{path}: this is not a Jupyter notebook: {reason}") from None
    return notebook


def _plain(path: Path) -> str:
    """The path for papermill, which would fill in {names} otherwise."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _assignment(statement: ast.stmt) -> tuple[str, str, ast.expr | None]:
    """Name, annotation and value of a statement that assigns one name; the name is empty for any other statement."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value) if value:
            return name, ast.unparse(annotation), value
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, "", value
    return "", "", None


def _reached(cells: list) -> int:
    """Index of the last cell that was started."""
    return max((i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")), default=0)


def _place(cells: list, index: int) -> str:
    """Cell ``index`` as the author counts it: from one, without the cells that papermill added."""
    added = {INJECTED_TAG, "papermill-error-cell-tag"}
    own = [added.isdisjoint(cell.metadata.get("tags", [])) for cell in cells]
    if not own[index]:
        return "the cell of the given parameters"
    line = next((line.strip() for line in cells[index].source.splitlines() if line.strip()), "")
    return f"cell {sum(own[: index + 1])} ('{line}')"


@contextmanager
def unwatched(several: bool) -> Iterator[None]:
    """For several executions at once: their kernels show no progress, since the bars would overwrite each other.

    All threads share the environment. It is set here, around all of them, so that no thread resets it for another.
    """
    with _environment(UNWATCHED if several else {}):
        yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the kernels that are started meanwhile."""
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
