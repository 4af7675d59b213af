"""Progress of long computations: a bar in a terminal, an updating line in a notebook, a line each half minute in a log.

A program that executes a notebook sets ``$FAMF_PROGRESS`` to ``terminal`` if the notebook's standard error is shown on
a terminal, and to ``silent`` if nobody sees it.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Protocol

from famf_lib.support.wording import lasting, plain

SECONDS = {"terminal": 1.0, "notebook": 1.0, "log": 30.0}  # between two looks at what is done


class Bar(Protocol):
    """Shows how much is done. ``note`` is shown after the numbers."""

    def to(self, done: int | float, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, under_way: Callable[[], float] = lambda: 0.0) -> Iterator[Bar]:
    """Shows the progress of ``total`` steps. ``under_way`` says how much of the steps that have begun is done."""
    chosen = os.environ.get("FAMF_PROGRESS")
    kind: type[_Log | _Silent] = _Terminal if chosen == "terminal" or sys.stderr.isatty() else _Log
    if chosen != "terminal" and _in_notebook():
        kind = _Notebook
    bar = (_Silent if chosen == "silent" else kind)(label, total, under_way)
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
    def __init__(self, label: str, total: int, under_way: Callable[[], float]):
        pass

    def to(self, done: int | float, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class _Log:
    """A line now and then, also during a long step: a thread looks at what is done."""

    kind = "log"

    def __init__(self, label: str, total: int, under_way: Callable[[], float]):
        self.label, self.total, self.under_way = label, total, under_way
        self.finished, self.note, self.start, self.ended = 0.0, "", time.monotonic(), threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)
        self.clock.start()

    def _tick(self) -> None:
        while not self.ended.wait(SECONDS[self.kind]):
            self.show()

    @property
    def done(self) -> float:
        return min(self.finished + self.under_way(), self.total)

    def to(self, done: int | float, note: str = "") -> None:
        self.finished, self.note = done, note

    def words(self) -> str:
        done, passed = self.done, time.monotonic() - self.start
        left = f", about {lasting(passed * (self.total - done) / done)} left" if done else ""
        words = f"{self.label}: {self.finished:,.0f} of {self.total:,} after {lasting(passed)}{left} {self.note}"
        return words.rstrip()

    def show(self) -> None:
        print(self.words(), file=sys.stderr, flush=True)

    def close(self) -> None:
        self.ended.set()
        self.clock.join()


class _Terminal(_Log):
    kind = "terminal"

    def __init__(self, label: str, total: int, under_way: Callable[[], float]):
        from tqdm import tqdm

        form = "{desc} {bar} {n:.0f}/{total} [{elapsed}<{remaining}]{postfix}"
        self.bar = tqdm(total=total, desc=label, leave=False, bar_format=form)
        super().__init__(label, total, under_way)

    def to(self, done: int | float, note: str = "") -> None:
        super().to(done, note)
        self.bar.set_postfix_str(plain(note, 60), refresh=False)
        self.bar.update(self.done - self.bar.n)

    def show(self) -> None:
        self.bar.n = self.done
        self.bar.refresh()

    def close(self) -> None:
        super().close()
        self.bar.close()


class _Notebook(_Log):
    """An updating line: tqdm's notebook bar loads a script from another host, and its text bar fills the page."""

    kind = "notebook"

    def __init__(self, label: str, total: int, under_way: Callable[[], float]):
        from IPython.display import HTML, display

        self.html, self.handle = HTML, display(HTML(""), display_id=True)
        super().__init__(label, total, under_way)

    def show(self) -> None:
        self.handle.update(self.html(escape(plain(self.words()))))

    def close(self) -> None:
        super().close()
        self.handle.update(self.html(""))
