"""Progress of long computations: a bar in a terminal, an updating line in a notebook; both disappear at the end.

A program that executes a notebook sets ``$FAMF_PROGRESS`` to ``terminal`` if the notebook's standard error is shown on
a terminal, and to ``silent`` if nobody sees it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Protocol

from famf_lib.support.wording import plain


class Bar(Protocol):
    """Shows how much is done. ``note`` is shown after the numbers."""

    def to(self, done: int | float, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """A progress bar for ``total`` steps. It shows nothing if the output is a pipe or a log."""
    chosen = os.environ.get("FAMF_PROGRESS")
    bar: _Line | _Terminal | _Silent
    if chosen == "silent":
        bar = _Silent()
    elif chosen != "terminal" and _in_notebook():
        bar = _Line(label, total)
    else:
        bar = _Terminal(label, total) if chosen == "terminal" or sys.stderr.isatty() else _Silent()
    try:
        yield bar
    finally:
        bar.close()


def watched() -> bool:
    """Whether a person may be looking at the notebook, which is not being executed for a page."""
    return "FAMF_PROGRESS" not in os.environ


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class _Silent:
    def to(self, done: int | float, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class _Terminal:
    def __init__(self, label: str, total: int):
        from tqdm import tqdm

        form = "{desc} {bar} {n:.0f}/{total} [{elapsed}<{remaining}]{postfix}"
        self.bar = tqdm(total=total, desc=label, leave=False, bar_format=form)

    def to(self, done: int | float, note: str = "") -> None:
        self.bar.set_postfix_str(plain(note, 60), refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class _Line:
    """An updating line: tqdm's notebook bar loads a script from another host, and its text bar fills the page."""

    def __init__(self, label: str, total: int):
        from IPython.display import HTML, display

        self.html, self.label, self.total = HTML, label, total
        self.start = self.last = time.monotonic()
        self.handle = display(HTML(""), display_id=True)

    def to(self, done: int | float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < 0.5:
            return
        self.last = now
        left = (now - self.start) * (self.total - done) / done if done else float("nan")
        said = f"{self.label}: {done:.0f} of {self.total}, {left:.0f} s to go {plain(note, 60)}"
        self.handle.update(self.html(escape(said)))

    def close(self) -> None:
        self.handle.update(self.html(""))
