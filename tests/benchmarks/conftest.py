import importlib

import pytest

from famf_lib.support.files import ROOT


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark with its folder on the path, as when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("FAMF_PROGRESS", "silent")
    return lambda name: importlib.import_module(name)
