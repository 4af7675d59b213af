"""Builds the book: executes the notebooks that are out of date, then renders all pages with Sphinx.

In ``_build/``: ``executed/`` (each page with outputs, and what decided them), ``source/`` (what Sphinx reads),
``html/`` (the book), ``only/`` (single pages), ``reports/`` (the notebook that failed, the log of Sphinx).
"""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from joblib import cpu_count
from tqdm import tqdm

from famf_book import generated, notebooks
from famf_book.extensions import launch_buttons
from famf_book.pages import BookError, Further, Page, pages, pruned, stage, stage_alone, table_of_contents
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.untrusted import read_json
from famf_lib.support.wording import plain

RENDERERS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "pydata-sphinx-theme", "sphinx-mathjax-offline")
PACKAGES = ("famf_lib", "famf_today", "famf_book", "famf_video")
# No notebook uses these (a test checks it), so a change of theirs makes no page out of date.
NOT_USED = ("famf_book.cli", "famf_book.commands", "famf_book.extensions", __name__)
CRASH = re.compile(r"[\w.]*(Error|Exception): \S")  # the last line of a traceback
RECORD = {"key": dict, "seconds": float, "when": str, "parameters": dict, "versions": dict, "hardware": dict}
VOLATILE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled", "trusted", "language_info", "kernelspec")


def build(
    root: Path,
    *,
    parameters: dict[str, Any] | None = None,
    further: Sequence[Further] = (),
    absent: Callable[[Page], str | None] = lambda page: None,
    inputs: Callable[[Page], dict[str, Any]] = lambda page: {},
    data: Callable[[Page], list[dict[str, Any]]] = lambda page: [],
    prepare: Callable[[list[Page]], None] = lambda pages: None,
    only: Iterable[str] | None = None,
    timeout: int | None = None,
) -> Path:
    """Executes what is out of date, renders the book, and replaces the last book if all went well.

    Args:
        root: the checkout, with ``_config.yml``, ``_toc.yml`` and ``book/``.
        parameters: given to every notebook that declares them.
        further: datasets to show in addition to those of ``book/pages.yml``.
        absent: returns the reason why a page cannot be made here, or None. A page with a reason is left out.
        inputs: returns what decides the outputs of a page besides its notebook and the library, such as fingerprints
            of data, as JSON can hold it.
        data: returns the datasets that a page was made from, each with its name, profile, fingerprint and, if it is
            here, its persons, clips and faces. It is called after the execution, for the page about the execution.
        prepare: called with the pages that will be executed before any is executed: for long work that shows its
            progress and uses every core.
        only: execute and render only these pages, in ``_build/only/``, whose references to other pages are plain text.
        timeout: the limit for one cell, in seconds.

    Returns: the first page of the book, or of ``only``.
    Raises: NotebookError, such as BookError; ``_build/html`` then stays as it was.
    """
    root = Path(root).resolve()
    place = root / "_build"
    place.mkdir(exist_ok=True)
    begin = time.monotonic()
    with alone(place / ".lock"):
        every = pages(root, parameters or {}, further)
        toc = table_of_contents(root, every)
        if unknown := set(only or ()) - {page.name for page in every}:
            names = ", ".join(page.name for page in every)
            raise BookError(f"book/pages.yml: there is no page {min(unknown)!r}; the pages are: {names}.")

        chosen = every if only is None else [page for page in every if page.name in only]
        library = source_fingerprint(*PACKAGES, without=NOT_USED)
        left_out: dict[str, str] = {}
        records: dict[str, dict] = {}
        outdated: dict[str, tuple[Page, dict[str, Any]]] = {}
        for page in chosen:
            reason, record = absent(page), _record(place, page)
            if reason is None:
                key = _key(page, library, inputs(page))
                if record and record["key"] == key:
                    records[page.name] = record
                    _say(page.name, f"unchanged (executed in {record['seconds']:.1f} s on {record['when']})")
                else:
                    outdated[page.name] = page, key
                    changed = [part for part in key if key[part] != record["key"].get(part)] if record else ["new"]
                    _say(page.name, f"to be executed ({', '.join(changed)})")
            else:
                left_out[page.name] = reason
                _say(page.name, f"left out: {reason}")
        prepare([page for page, _ in outdated.values()])
        records |= _executed(root, outdated, data, timeout)

        made = [page for page in chosen if page.name in records]
        if only is None:
            texts = generated.texts(root, every, records, left_out)
            stage(root, place / "source", pruned(toc, {f"book/{name}" for name in left_out}), made, texts)
            first = place / "html" / "index.html"
        elif not made:
            raise BookError(f"--only: {'; '.join(left_out.values()) or 'no page found'}.")
        else:
            place = place / "only"
            stage_alone(root, place / "source", made)
            first = place / "html" / "book" / f"{made[0].name}.html"
        _render(place)
    _say("in all", f"{time.monotonic() - begin:.1f} s")
    return first


def _key(page: Page, library: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What decides the outputs of a page."""
    return {
        "notebook": _hash(_without_outputs(notebooks.read(page.notebook))),
        "parameters": _hash(page.parameters),
        "inputs": _hash(inputs),
        "library": library,
        "versions": provenance.versions(),
    }


def _executed(
    root: Path,
    outdated: dict[str, tuple[Page, dict[str, Any]]],
    data: Callable[[Page], list[dict[str, Any]]],
    timeout: int | None,
) -> dict[str, dict[str, Any]]:
    """Executes pages in parallel, one kernel per core, and returns their records. Drawing takes most of the time and
    uses one thread."""
    side_by_side = min(len(outdated), cpu_count())
    several = side_by_side > 1
    watched = progress("executing", len(outdated)) if several else nullcontext()  # a single page shows its own progress
    with ThreadPoolExecutor(max(side_by_side, 1)) as pool, watched as bar, notebooks.unwatched(several):
        futures = {
            pool.submit(_execute, root, page, key, data, timeout, watched=not several): name
            for name, (page, key) in outdated.items()
        }
        records: dict[str, dict[str, Any]] = {}
        try:
            for future in as_completed(futures):
                records[futures[future]] = future.result()  # raises what its page raised
                if bar is not None:
                    bar.to(len(records), ", ".join(name for name in outdated if name not in records))
            return {name: records[name] for name in outdated}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # pages that are being executed are finished
            raise


def _execute(
    root: Path,
    page: Page,
    key: dict[str, Any],
    data: Callable[[Page], list[dict[str, Any]]],
    timeout: int | None,
    watched: bool,
) -> dict[str, Any]:
    place = root / "_build"
    out = place / "executed" / f"{page.name}.ipynb"
    _say(page.name, "executing …")
    record = notebooks.execute(
        page.notebook,
        out,
        page.parameters,
        timeout=timeout,
        reports=place / "reports",
        provenance=provenance.origin(root),
        watched=watched,
    )
    record = {"notebook": page.notebook.name, **record, "data": data(page), "key": key}
    with written_whole(out.with_suffix(".json")) as new:
        new.write_text(json.dumps(record, indent=1, ensure_ascii=False))
    _say(page.name, f"executed in {record['seconds']:.1f} s")
    return record


def _record(place: Path, page: Page) -> dict[str, Any] | None:
    """The record of the last execution of a page, if its outputs still exist."""
    executed = place / "executed" / f"{page.name}.ipynb"
    try:
        record = read_json(executed.with_suffix(".json")) if executed.exists() else None
    except (OSError, ValueError):
        return None
    sound = record and all(isinstance(record.get(name), kind) for name, kind in RECORD.items())
    return record if sound else None


def _without_outputs(notebook: Any) -> Any:
    """The cells and metadata that the author wrote, without what execution and editors add."""

    def kept(metadata: dict) -> dict:
        return {key: value for key, value in metadata.items() if key not in VOLATILE}

    cells = [[cell.cell_type, cell.source, kept(cell.metadata)] for cell in notebook.cells]
    return [kept(notebook.metadata), cells]


def _render(place: Path) -> None:
    """Renders ``source/`` and replaces ``html/`` with the result, unless it would be the same."""
    source, html = place / "source", place / "html"
    files = {str(path.relative_to(source)): path for path in source.rglob("*") if path.is_file()}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    versions = {package: version(package) for package in RENDERERS}
    state = _hash([hashes, sys.version, versions, _docstrings(), launch_buttons.repository()])
    stamp = ".state"  # inside html/, so that both are replaced at once
    if (html / stamp).is_file() and (html / stamp).read_text() == state:
        _say("pages", "unchanged")
        return
    _say("pages", "rendering …")
    begin = time.monotonic()
    log = place / "reports" / "sphinx.log"
    with progress("rendering", 1), written_whole(html) as new:
        sphinx(source, new, "html", log)
        for stray in (new / "_static").glob("*webpack-macros.html"):  # templates that the themes leave there
            stray.unlink()
        (new / stamp).write_text(state)
    _say("pages", f"rendered in {time.monotonic() - begin:.1f} s: {_size(html)}")


def _size(html: Path) -> str:
    """The sizes of pages and pictures, without the files of the theme and MathJax, which all pages share."""
    pages = sorted((path.stat().st_size, path.stem) for path in (html / "book").glob("*.html"))
    pictures = sum(path.stat().st_size for path in (html / "_images").glob("*"))
    if not pages:
        return "no page"
    largest, name = pages[-1]
    median = pages[len(pages) // 2][0]
    sizes = f"median {median / 1e3:.0f} kB, largest {largest / 1e3:.0f} kB ({name})"
    return f"{len(pages)} pages, {sizes}; {pictures / 1e6:.1f} MB of pictures"


def sphinx(source: Path, out: Path, builder: str, log: Path) -> None:
    """Renders ``source`` into the new folder ``out``; every warning is an error. ``builder`` is one of Jupyter Book's.

    Raises: BookError with the first problem; the log has all of them.
    """
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    strict = ["-W", "-n", "--keep-going", "--all", "--path-output", str(out.parent), "--builder", builder]
    with log.open("w") as lines:
        done = subprocess.run([*command, *strict, str(source)], stdout=lines, stderr=subprocess.STDOUT)
    log.write_text(re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace")))  # colours
    if done.returncode:
        if os.strerror(errno.ENOSPC) in log.read_text():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        raise BookError(f"Sphinx refuses the book: {plain(_problems(log, source), 600)} The whole log: {log}")
    (out.parent / "_build" / builder).rename(out)


def _docstrings() -> str:
    """Hash of the source files with their docstrings, which the API pages show and code fingerprints leave out."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _problems(log: Path, source: Path) -> str:
    """The first warning or error of Sphinx and how many more there are; after a crash, the exception or last line."""
    lines = [line for line in log.read_text().replace(f"{source}/", "").splitlines() if line.strip(" =")]
    found = [line for line in lines if "WARNING:" in line or "ERROR:" in line]
    if not found:
        found = ([line for line in lines if CRASH.match(line)] or lines or ["it wrote nothing"])[-1:]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}."


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Lets one build run at a time; another one waits."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        _say("waiting", "for another build of this book to finish …")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _say(what: str, happens: str) -> None:
    tqdm.write(f"{what:<24} {happens}")  # above the bar of a terminal
    sys.stdout.flush()
