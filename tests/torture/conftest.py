"""The harness in two sizes: a small one in the test suite, and ``make torture``, which also records its counts."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

SCALE = int(os.environ.get("FAMF_TORTURE", "1"))
counts: dict[str, Counter] = {}


@pytest.fixture(scope="session")
def scale():
    """How many times the rounds of the test suite are done."""
    return SCALE


@pytest.fixture(scope="session")
def count():
    """Adds numbers to the record: ``count("kills", "import", attempts=1)``."""

    def add(kind, what, **numbers):
        counts.setdefault(kind, {}).setdefault(what, Counter()).update(numbers)

    return add


def pytest_sessionfinish(session, exitstatus):
    record = os.environ.get("FAMF_TORTURE_RECORD")
    if record and counts:
        from famf_lib.support import provenance
        from famf_lib.support.files import ROOT, written_whole

        found = {kind: {what: dict(numbers) for what, numbers in of.items()} for kind, of in counts.items()}
        content = {"command": f"make torture ROUNDS={SCALE}", "failed": session.testsfailed, "found": found}
        content |= {"origin": provenance.origin(ROOT, but="results")}
        with written_whole(Path(record)) as new:
            new.write_text(json.dumps(content, indent=1) + "\n")
