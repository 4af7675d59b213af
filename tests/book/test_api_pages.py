import inspect
import re
from types import SimpleNamespace

import pytest
import yaml
from sphinx.util.inspect import stringify_signature

from famf_book.extensions import api
from famf_lib.data import clipset
from famf_lib.models import aggregation
from famf_lib.support.files import ROOT

PAGES = sorted((ROOT / "book").glob("api-*.md"))


def test_every_page_is_of_a_module_and_in_the_contents():
    contents = yaml.safe_dump(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    for path in PAGES:
        (module,) = re.findall(r"automodule:: ([\w.]+)", path.read_text())
        assert path.stem == f"api-{module.rpartition('.')[2]}" and f"book/{path.stem}\n" in contents
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_our_docstrings_are_read_before_napoleon_and_once():
    connected = {}
    app = SimpleNamespace(connect=lambda event, function, priority=500: connected.update({event: (function, priority)}))
    api.setup(app)
    assert connected["autodoc-process-docstring"][1] < 500  # napoleon has what connect gives by itself


@pytest.mark.parametrize(
    ("what", "line", "shown"),
    [
        ("class", "    dim: D.", "    dim: D"),  # else a list with the letter D
        ("class", "    dim: D, the length of a face vector.", "    dim: D, the length of a face vector."),
        ("method", "b_k = −s|c_k|²", r"b_k = −s\|c_k\|²"),
        ("property", "What each row stands for: the clusters", "What each row stands for – the clusters"),
        ("method", "Shape: (B, N)", "Shape: (B, N)"),
    ],
)
def test_what_means_something_else_to_sphinx(what, line, shown):
    lines = [line]
    api._docstring(None, what, "name", None, None, lines)
    assert lines == [shown]


@pytest.mark.parametrize("kind", aggregation.AGGREGATIONS.values(), ids=list(aggregation.AGGREGATIONS))
def test_signatures_are_short_and_keep_names_and_defaults(kind):
    signature = inspect.signature(kind)
    shown, _ = api._signature(None, "class", "name", kind, None, stringify_signature(signature), None)
    assert "Annotated" not in shown and "FieldInfo" not in shown and "Ge(" not in shown
    assert re.findall(r"(\w+): ", shown) == list(signature.parameters)
    if "clusters" in signature.parameters:
        assert re.search(r"clusters: int ?= ?8", shown)


def test_a_signature_is_python_so_that_sphinx_breaks_it_into_lines():
    signature = stringify_signature(inspect.signature(clipset.ClipSet), unqualified_typehints=True)
    shown, _ = api._signature(None, "class", "name", clipset.ClipSet, None, signature, None)
    assert "<" in signature and "<" not in shown
