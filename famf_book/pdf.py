"""Prints the built book, all pages as one, to a PDF with an installed browser."""

import os
import shutil
import subprocess
from pathlib import Path

from famf_book.build import BookError, alone, sphinx
from famf_lib.support.files import written_whole

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome")
PATIENCE = 60_000  # milliseconds, on the clock of the browser, for formulas and pictures to load
TIMEOUT = 900  # seconds, on our clock


def browser() -> str:
    """The browser that prints: ``$CHROMIUM``, or the first of ``BROWSERS`` that is installed.

    Raises: BookError if there is none.
    """
    given = os.environ.get("CHROMIUM")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        where = f"CHROMIUM: {given} not found" if given else f"none of {', '.join(BROWSERS)} found"
        raise BookError(f"{where}, expected a browser of the Chromium family; CHROMIUM=/path/to/it names one.")
    return found


def pdf(root: Path) -> Path:
    """Prints the last book that was built to ``_build/famf.pdf``.

    Raises: BookError: there is no browser or no book, or one of them fails; an older PDF then stays.
    """
    program, place = browser(), Path(root).resolve() / "_build"
    out = place / "famf.pdf"
    with alone(place / ".lock"):
        if not (place / "source" / "_toc.yml").is_file():
            raise BookError(f"{place / 'source'}: no book found, expected one that `famf book` has built.")
        with written_whole(out) as new:
            pages = new.parent / "pages"
            sphinx(place / "source", pages, "singlehtml", place / "reports" / "singlehtml.log")
            # The builder writes links relative to the top of the folder, but puts the page into a subfolder.
            (page,) = (found for found in pages.glob("*/*.html") if not found.parent.name.startswith("_"))
            _print(program, page.rename(pages / "book.html"), new)
    return out


def _print(program: str, page: Path, out: Path) -> None:
    options = ["--headless", "--disable-gpu", "--no-pdf-header-footer", f"--virtual-time-budget={PATIENCE}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to run as root otherwise, as in most containers
    command = [program, *options, f"--print-to-pdf={out}", page.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except subprocess.TimeoutExpired as late:
        raise BookError(f"{program}: no PDF within {TIMEOUT} s, expected one") from late
    if done.returncode or not out.is_file():
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BookError(f"{program}: it ended with {done.returncode} and said {said!r}, expected a PDF")
