import ast
import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import grimp
import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from filelock import FileLock
from made_notebooks import tagged, write
from nbformat.v4 import new_code_cell, new_markdown_cell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from famf_book import build as book
from famf_book import notebooks, report
from famf_book.build import build
from famf_book.commands.book import book as command
from famf_book.extensions import picture_sizes
from famf_book.notebooks import NotebookError
from famf_book.pages import BookError, Further, pages, pruned, table_of_contents
from famf_lib.data import imported
from famf_lib.support.files import ROOT

# A figure without a plotting library, as large as theirs.
FIGURE = """\
from IPython.display import SVG
path = '<g><title>a square</title><path d="M0 0h9v9z"/></g>'
SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="360pt" height="180pt">{path}</svg>')
"""
RENDER = book._render
REAL = {"notebook": "numbers.ipynb", "parameters": {"dataset": "imfdb"}, "title": "Numbers of real faces"}
PAGES = {"numbers": {"notebook": "numbers.ipynb"}, "numbers-real": REAL, "words": "words.ipynb"}
TOC = {
    "format": "jb-book",
    "root": "book/intro",
    "parts": [
        {"caption": "Results", "chapters": [{"file": "book/numbers", "sections": [{"file": "book/numbers-real"}]}]},
        {"caption": "More", "chapters": [{"file": "book/words"}]},
        {"caption": "About", "chapters": [{"file": "book/parameters"}, {"file": "book/execution"}]},
    ],
}
INTRO = """\
# Introduction

(paper-eq-1)=
```{math}
V_k = \\sum_i \\frac{\\exp(w_k^\\top x_i + b_k)}{\\sum_{k'} \\exp(w_{k'}^\\top x_i + b_{k'})} (x_i - c_k)
\\tag{1}
```

```{math}
a &= \\frac{b}{c} \\\\ d &= \\frac{e}{f} \\\\ g &= \\frac{h}{i} \\\\ j &= \\frac{k}{l}
```

[Eq. (1)](#paper-eq-1) after {cite:p}`somebody`; see {doc}`words`. Its weight is $\\phi(c_k)$.

```{bibliography}
```
"""
REFERENCES = "@article{somebody, title={A title}, author={Somebody, S.}, journal={A journal}, year={2020}}\n"


def write_numbers(root: Path, code: str = "print(dataset, seeds)", figure: str = "fig-{{page}}") -> None:
    shown = {"mystnb": {"figure": {"name": figure, "caption": "A square of {{page}}"}}}
    write(
        root / "book" / "numbers.ipynb",
        new_markdown_cell("# Numbers\n\n(rows-{{page}})=\nSee [the square](#fig-{{page}})."),
        tagged('dataset: str = "synthetic"\nseeds: list[int] = [1]'),
        new_code_cell(code, metadata={"tags": ["hide-input"]}),
        new_code_cell(FIGURE, metadata=shown),
    )


def write_words(root: Path, code: str = "print('words')") -> None:
    cells = new_markdown_cell("# Words"), tagged('word: str = "face"'), code
    write(root / "book" / "words.ipynb", *cells)


def write_yaml(path: Path, content) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module", autouse=True)
def one_library():
    """The library stays the same while these tests run, whoever edits it meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "source_fingerprint", lambda *modules, **options: "this library")
        patch.setattr(book, "_docstrings", lambda: "these docstrings")
        patch.setenv("FAMF_REPOSITORY", "a folder")  # git need not be asked, and no page has buttons
        yield


@pytest.fixture
def root(tmp_path):
    """A tiny book with the configuration of the real one."""
    shutil.copyfile(ROOT / "_config.yml", tmp_path / "_config.yml")
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    (tmp_path / "book" / "references.bib").write_text(REFERENCES)
    (tmp_path / "book" / "intro.md").write_text(INTRO)
    write_yaml(tmp_path / "_toc.yml", TOC)
    write_yaml(tmp_path / "book" / "pages.yml", PAGES)
    write_numbers(tmp_path)
    write_words(tmp_path)
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """The pages that were executed: only their parameters are filled in, without a kernel, and nothing is rendered."""
    names = []

    def fill_in(path, out, given, *, provenance, **options):
        notebook = parameterize_notebook(load_notebook_node(str(path)), given, kernel_name="python3", language="python")
        record = {"parameters": given, "seconds": 0.1, "when": "2026-01-02 03:04", **provenance}
        notebook.metadata["famf"] = record
        out.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out)
        names.append(out.stem)
        return record

    monkeypatch.setattr(notebooks, "execute", fill_in)
    monkeypatch.setattr(book, "_render", lambda place: None)
    return names


@pytest.fixture
def untouched(monkeypatch):

    def refuse(*args, **kwargs):
        raise AssertionError("something long was begun")

    monkeypatch.setattr(notebooks, "execute", refuse)
    monkeypatch.setattr(book, "_render", refuse)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def modules_of_notebooks() -> set[str]:
    graph, imported = grimp.build_graph("famf_book", "famf_lib", "famf_video"), set()
    for path in (ROOT / "book").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
                if isinstance(node, ast.Import):
                    imported |= {name.name for name in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    imported &= graph.modules
    return imported.union(*map(graph.find_upstream_modules, imported))


def test_what_does_not_make_a_page_out_of_date_is_used_by_no_notebook():
    used = modules_of_notebooks()
    assert {"famf_book.report", "famf_book.notebooks", "famf_lib.training.train"} <= used
    assert not [name for name in used if f"{name}.".startswith(tuple(f"{name}." for name in book.NOT_USED))]


def staged(root: Path, page: str):
    return nbformat.read(root / "_build" / "source" / "book" / f"{page}.ipynb", as_version=4)


def test_only_what_changed_is_executed_again(root, executed, monkeypatch):
    def run(**options):
        executed.clear()
        build(root, **options)
        return sorted(executed)  # side by side: in no order

    assert run() == ["numbers", "numbers-real", "words"]
    assert run() == []

    # What a notebook editor leaves behind does not count, what the author writes does.
    path = root / "book" / "words.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="old")]
    notebook.cells[-1].execution_count = 7
    notebook.metadata["language_info"] = {"name": "python", "version": "3.0"}
    nbformat.write(notebook, path)
    assert run() == []
    write_words(root, "print('other words')")
    assert run() == ["words"]

    # Inputs and parameters count where they apply.
    assert run(inputs=lambda page: {"data": "new"} if page.values.get("dataset") == "imfdb" else {}) == ["numbers-real"]
    given = {"inputs": lambda page: {"data": "new"} if page.name == "numbers-real" else {}}
    assert run(**given) == []
    assert run(parameters={"word": "clip"}, **given) == ["words"]
    assert run(parameters={"word": "clip", "dataset": "small"}, **given) == ["numbers"]  # the page's own value wins
    given["parameters"] = {"word": "clip", "dataset": "small"}

    # A title is put on without execution.
    write_yaml(root / "book" / "pages.yml", PAGES | {"words": {"notebook": "words.ipynb", "title": "New words"}})
    assert run(**given) == []
    assert staged(root, "words").cells[0].source == "# New words"

    # Neither does a page that nobody asks for run, nor one whose executed notebook is there.
    write_numbers(root, "print(seeds, dataset)")
    write_words(root, "print('more words')")
    assert run(only=["words"], **given) == ["words"]
    assert run(**given) == ["numbers", "numbers-real"]
    (root / "_build" / "executed" / "words.ipynb").unlink()
    assert run(**given) == ["words"]

    monkeypatch.setattr(book, "source_fingerprint", lambda *modules, **options: "another library")
    assert run(only=["numbers"], **given) == ["numbers"]
    with pytest.raises(BookError, match="no page 'nubmers'"):
        run(only=["nubmers"])


def test_an_absent_page_is_left_out_of_the_book_and_of_its_contents(root, executed, capsys):
    build(root, absent=lambda page: "no real faces" if page.values.get("dataset") == "imfdb" else None)
    assert sorted(executed) == ["numbers", "words"]  # side by side: in no order
    assert "numbers-real             left out: no real faces\n" in capsys.readouterr().out
    source = root / "_build" / "source"
    assert not (source / "book" / "numbers-real.ipynb").exists()
    parts = yaml.safe_load((source / "_toc.yml").read_text())["parts"]
    assert parts[0] == {"caption": "Results", "chapters": [{"file": "book/numbers"}]}
    assert "- `numbers-real`: no real faces" in (source / "book" / "execution.md").read_text()


def test_what_lies_under_an_absent_page_moves_up_and_an_empty_part_goes():
    parts = pruned(TOC, {"book/numbers", "book/words"})["parts"]
    assert parts == [
        {"caption": "Results", "chapters": [{"file": "book/numbers-real"}]},
        {"caption": "About", "chapters": [{"file": "book/parameters"}, {"file": "book/execution"}]},
    ]
    assert pruned(TOC, set()) == TOC


def test_pages_of_one_notebook_have_their_own_title_labels_and_origin(root, executed):
    build(root, parameters={"seeds": "3, 5"})
    for page, title in (("numbers", "Numbers"), ("numbers-real", "Numbers of real faces")):
        cells = staged(root, page).cells
        assert cells[0].source == f"# {title}\n\n(rows-{page})=\nSee [the square](#fig-{page})."
        assert cells[-1].metadata["mystnb"]["figure"] == {"name": f"fig-{page}", "caption": f"A square of {page}"}
    record = staged(root, "numbers-real").metadata["famf"]
    assert record["parameters"] == {"seeds": [3, 5], "dataset": "imfdb"}
    assert record["versions"]["papermill"] and record["hardware"]["cores"] >= 1 and "commit" in record
    book = root / "_build" / "source" / "book"
    assert "words" in json.loads((book / "execution.json").read_text())
    assert '`seeds = [3, 5]`<br>`dataset = "imfdb"` |' in (book / "execution.md").read_text()


def test_a_label_in_the_metadata_of_a_text_cell_is_the_label_of_its_text(root, executed):
    def write_labelled(label: str) -> None:
        write_numbers(root)
        path = root / "book" / "numbers.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.append(new_markdown_cell("$$ a = b $$", metadata={"label": label}))
        nbformat.write(notebook, path)

    write_labelled("equation-{{page}}")
    build(root)
    for page in ("numbers", "numbers-real"):
        assert staged(root, page).cells[-1].source == f"(equation-{page})=\n$$ a = b $$"
    write_labelled("equation")  # the same on several pages
    with pytest.raises(BookError, match=r"numbers\.ipynb makes 2 pages, .* label 'equation'"):
        build(root)


SEVERAL = 'datasets: list[str] = ["synthetic", "imfdb"]  # all'


@pytest.fixture
def wider(root):
    """The tiny book with a notebook that shows several datasets, and one whose heading begins with a number."""
    for name, heading, cell in (
        ("ledger", "The ledger", SEVERAL),
        ("table-9", "Table 9: what holds?", 'dataset: str = "synthetic"'),
        ("enough", "Is it enough?", 'dataset: str = "synthetic"'),
    ):
        cells = new_markdown_cell(f"# {heading}"), tagged(cell), "print('said')"
        write(root / "book" / f"{name}.ipynb", *cells)
    measured = {"notebook": "enough.ipynb", "title": "Is it? Synthetic persons"}
    more = {"table-9": "table-9.ipynb", "measured": measured, "ledger": "ledger.ipynb"}
    write_yaml(root / "book" / "pages.yml", PAGES | more)
    chapters = [{"file": f"book/{name}"} for name in ("table-9", "measured", "ledger")]
    write_yaml(root / "_toc.yml", TOC | {"parts": [*TOC["parts"], {"caption": "Wider", "chapters": chapters}]})
    return root


def test_a_further_dataset_has_a_page_of_every_notebook_that_serves_it(wider):
    before = pages(wider, {"seeds": [3]})
    every = pages(wider, {"seeds": [3]}, [Further("mine", "my faces", lambda notebook: notebook.stem != "table-9")])
    assert [page.name for page in every] == [
        "numbers", "numbers-real", "numbers-mine", "words", "table-9", "measured", "measured-mine", "ledger",
    ]  # fmt: skip
    of = {page.name: page for page in every}
    assert (of["numbers-mine"].title, of["measured-mine"].title) == ("Numbers on my faces", "Is it enough? On my faces")
    assert of["numbers-mine"].parameters == of["numbers-mine"].values == {"seeds": [3], "dataset": "mine"}
    assert of["ledger"].parameters == of["ledger"].values == {"datasets": ["synthetic", "imfdb", "mine"]}
    assert [page for page in every if page.name[-5:] != "-mine" and page.name != "ledger"] == before[:-1]

    plain, toc = table_of_contents(wider, before), table_of_contents(wider, every)
    results, *_, last = toc["parts"]
    assert results["chapters"] == [
        {"file": "book/numbers", "sections": [{"file": "book/numbers-real"}, {"file": "book/numbers-mine"}]}
    ]
    assert last["chapters"][1] == {"file": "book/measured", "sections": [{"file": "book/measured-mine"}]}
    assert pruned(toc, {"book/numbers-mine", "book/measured-mine"}) == pruned(plain, set())


def test_several_further_datasets_and_none_twice(wider):
    def names(*datasets):
        return [page.name for page in pages(wider, {}, [Further(name, name) for name in datasets])]

    assert names("imfdb") == [
        "numbers", "numbers-real", "words", "table-9", "table-9-imfdb", "measured", "measured-imfdb", "ledger",
    ]  # fmt: skip
    assert names("synthetic") == [page.name for page in pages(wider, {})]  # all that there is shows it already
    assert names("b", "a", "b") == names("b", "a")
    assert names("b", "a")[:4] == ["numbers", "numbers-real", "numbers-b", "numbers-a"]
    titles = {page.name: page.title for page in pages(wider, {}, [Further("a", "A-7")])}
    assert titles["table-9-a"] == "Table 9 on A-7"


def test_a_further_page_is_executed_and_staged_as_the_others(wider, executed):
    build(wider, further=[Further("mine", "my faces")])
    assert {"numbers-mine", "table-9-mine", "measured-mine"} < set(executed)
    page = staged(wider, "numbers-mine")
    assert page.cells[0].source.startswith("# Numbers on my faces\n\n(rows-numbers-mine)=")
    assert 'dataset = "mine"' in page.cells[2].source
    listed = (wider / "_build" / "source" / "book" / "parameters.md").read_text()
    assert "[Numbers on my faces](numbers-mine.ipynb)" in listed and "-p dataset mine" in listed
    executed.clear()
    build(wider)
    assert executed == ["ledger"] and not (wider / "_build" / "source" / "book" / "numbers-mine.ipynb").exists()


@pytest.fixture
def asked(monkeypatch):
    told = []
    monkeypatch.setattr(book, "build", lambda root, **options: told.append(options))
    return told


def test_the_command_asks_for_the_pages_of_notebooks_that_have_something_to_show_of_a_known_dataset(asked, made_up):
    for name, sentence in (("nope", "dataset: 'nope' is not known, expected"), ("iqiyi", "iqiyi: not imported; famf")):
        with pytest.raises((ValueError, LookupError), match=f"^{sentence}"):
            command(profile="quick", dataset=["synthetic", name])
    assert not asked
    clipset = made_up()
    clipset.save(imported.place("mine"))  # with audio and body
    replace(clipset, modalities={}).save(imported.place("faces"))
    command(profile="quick", dataset=["mine", "faces"])
    mine, faces = asked[0]["further"]
    assert (mine.dataset, mine.called) == ("mine", "mine")

    def served(further):
        return {path.stem for path in (ROOT / "book").glob("*.ipynb") if further.serves(path)} & {
            "table-1", "table-2", "attention", "missing-modalities", "challenging-cases", "chimera", "imfdb",
            "synthetic",
        }  # fmt: skip

    assert served(mine) == {"table-1", "table-2", "attention", "missing-modalities", "challenging-cases"}
    assert served(faces) == {"table-1", "challenging-cases"}
    command(profile="quick")
    assert asked[1]["further"] == []


def change_pages(**pages):
    return lambda root: write_yaml(root / "book" / "pages.yml", PAGES | pages)


def change_toc(**entries):
    return lambda root: write_yaml(root / "_toc.yml", TOC | entries)


def without_tag(root):
    write(root / "book" / "words.ipynb", new_markdown_cell("# Words"), "word = 'face'")


def labelled_twice(root):
    write(root / "book" / "words.ipynb", new_markdown_cell("(words)=\n# Words"), tagged('dataset: str = "a"'))


def in_book(name, text):
    return lambda root: (root / "book" / name).write_text(text)


def words_with(parameters):
    return change_pages(words={"notebook": "words.ipynb", "parameters": parameters})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_tag, r"words\.ipynb: expected exactly one code cell tagged 'parameters', found 0"),
        (change_pages(words={"notebook": "wrods.ipynb"}), r"page 'words': the notebook .*wrods\.ipynb does not exist"),
        (words_with({"wrod": "clip"}), r"page 'words': .*words\.ipynb: there is no parameter 'wrod'.*est is 'word'"),
        (words_with({"word": 3}), r"page 'words': .*word: found 3, expected str"),
        (change_pages(words={"notebok": "words.ipynb"}), r"page 'words': expected a mapping with 'notebook'"),
        (change_pages(words={"notebook": "words.ipynb", "titel": "W"}), r"page 'words': expected .*found titel: 'W'"),
        (change_pages(intro="words.ipynb"), r"page 'intro': there is another page of that name"),
        (change_pages(**{"a/b": "words.ipynb"}), r"a page is named with letters, digits.*'a/b'"),
        (change_pages(more="words.ipynb"), r"_toc\.yml does not list book/more"),
        (change_toc(root="book/inrto"), r"_toc\.yml: there is no book/inrto\.md"),
        (lambda root: write_numbers(root, figure="square"), r"numbers\.ipynb makes 3 pages, .* label 'square'"),
        (lambda root: (root / "_toc.yml").write_text("a: [b"), r"_toc\.yml is not YAML"),
        (lambda root: (root / "_toc.yml").unlink(), r"_toc\.yml does not exist"),
        (lambda root: (root / "_config.yml").unlink(), r"_config\.yml does not exist"),
        (in_book("pages.yml", "- a"), r"pages\.yml: expected a mapping, found list"),
        (in_book("execution.md", "# E"), r"execution\.md exists, but the build"),
        (in_book("numbers-mine.md", "# N"), "the page of 'mine' would be 'numbers-mine': there is another page of"),
        (labelled_twice, r"words\.ipynb makes 2 pages, .* label 'words'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(root, untouched, change, sentence):
    change(root)
    with pytest.raises(NotebookError, match=sentence) as caught:
        build(root, further=[Further("mine", "my faces")])
    assert "\n" not in str(caught.value)


def test_a_parameter_that_no_notebook_has_is_refused(root, untouched):
    with pytest.raises(BookError, match="no notebook of the book has a parameter 'dateset'; there are: dataset, seeds"):
        build(root, parameters={"dateset": "imfdb"})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    place = tmp_path_factory.mktemp("rendered")
    index = build(root.__wrapped__(place))
    assert index == place / "_build" / "html" / "index.html"
    return place


@pytest.fixture
def good(rendered, tmp_path):
    shutil.copytree(rendered, tmp_path / "book-of-mine")
    return tmp_path / "book-of-mine"


def loads(page: str):
    """What a page makes the browser load: sources, styles and the like, not the links that a reader may follow."""
    for tag in BeautifulSoup(page, "html.parser").find_all(True):
        names = ["src", "srcset", "data", "poster"] + ["href"] * (tag.name not in ("a", "area"))
        yield from (tag[name] for name in names if name in tag.attrs)


def test_the_pages_load_nothing_from_another_host(rendered):
    html = rendered / "_build" / "html"
    pages = [page for page in html.rglob("*.html") if "_static" not in page.parts]
    assert {"index.html", "intro.html", "numbers-real.html", "execution.html"} <= {page.name for page in pages}
    files = set()
    for page in pages:
        for target in loads(page.read_text()):
            parts = urlsplit(target)
            assert not parts.netloc and parts.scheme in ("", "data"), f"{page.name} loads {target}"
            if parts.path and not parts.scheme:
                files.add((page.parent / unquote(parts.path)).resolve())
    for file in files:
        assert file.exists(), f"{file} is loaded, but is not there"
        if file.suffix == ".css":
            targets = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", file.read_text())
            assert not [target for target in targets if target.startswith(("http", "//"))], file
        # MathJax names a host in its speech component, which only its menu loads, and that is switched off.
        elif file.suffix == ".js" and file.name != "tex-chtml.js":
            assert not re.search(r"cdnjs|jsdelivr|unpkg|googleapis", file.read_text()), file
    assert {"famf.css", "tex-chtml.js", "favicon.svg"} <= {file.name for file in files}
    assert not list((html / "_static").rglob("*.html"))  # templates of the themes
    assert '"enableMenu": false' in (html / "book" / "intro.html").read_text()


SHIFTS = """() => new Promise(done => {
  let moved = 0;
  new PerformanceObserver(list => list.getEntries().forEach(entry => moved += entry.value))
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(moved), 500);
})"""


@pytest.fixture
def visit(rendered, browser):
    """Opens a page of the book in a browser, in which addresses of some form are answered otherwise."""
    with ExitStack() as opened:

        def visit(name, routes=(), **options):
            page = browser.new_page(**options)
            opened.callback(page.close)
            for pattern, answer in routes:
                page.route(f"**/{pattern}", answer)
            page.goto((rendered / "_build" / "html" / f"{name}.html").as_uri())
            return page

        yield visit


STILL = 0.01  # 0.1 counts as good; letters may change their font by a hair


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])  # a desk, and a telephone at night
def test_in_a_browser_pages_are_accessible_stand_still_and_ask_nobody(rendered, browser, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not here: the extra test has it")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    asked, errors = [], []
    for name in ("intro", "numbers-real", "execution", "parameters"):
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((rendered / "_build" / "html" / "book" / f"{name}.html").as_uri())
        assert page.evaluate(SHIFTS) < STILL
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert not found.response["violations"], found.generate_report()
        page.close()
    context.close()
    assert not errors and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.parametrize(
    ("name", "late", "width"),
    [("intro", "tex-chtml.js", 390), ("numbers-real", "*.svg", 1280), ("numbers-real", "*.svg", 390)],
)
def test_in_a_browser_nothing_moves_when_formulas_and_pictures_come_late(visit, name, late, width):
    came = []

    def wait(route):
        time.sleep(0.7)
        came.append(route.request.url)
        route.continue_()

    patient = (ROOT / "book" / "_static" / "famf.css").read_text().replace("famf-shown 0s 3s", "famf-shown 0s 60s")
    styles = "famf.css*", lambda route: route.fulfill(body=patient, content_type="text/css")  # a busy machine
    page = visit(f"book/{name}", [(late, wait), styles], viewport={"width": width, "height": 900})
    assert page.evaluate(SHIFTS) < STILL and came
    page.locator(".bd-article p").first.wait_for(state="visible")


@pytest.mark.parametrize("lost", ["tex-chtml.js", "*.js*", "*.woff*"])
def test_in_a_browser_formulas_that_are_never_set_do_not_hide_their_page(visit, lost):
    page = visit("book/intro", [(lost, lambda route: route.abort())])
    page.locator(".bd-article p").first.wait_for(state="visible", timeout=10_000)


WIDE = """table => {
  const output = document.querySelector(".bd-article .cell_output");
  output.insertAdjacentHTML("afterbegin", `<div class="output text_html">${table}</div>`);
  const scrolled = what => {
    let box = what;
    const scrolls = ["auto", "scroll"];
    while (box.parentElement && !scrolls.includes(getComputedStyle(box).overflowX)) box = box.parentElement;
    return [box.scrollWidth - box.clientWidth, document.documentElement.scrollWidth - innerWidth];
  };
  const picture = document.querySelector(".bd-article figure img");
  picture.setAttribute("width", 731);
  picture.style.width = "731px";
  return [...scrolled(output.querySelector("table")), picture.getBoundingClientRect().width, ...scrolled(picture)];
}"""


def test_in_a_browser_wide_tables_are_whole_on_a_laptop_and_scroll_on_a_telephone(visit):
    claim = {"dataset": "synthetic", "effect": "AttentionVLAD + MLMA over AttentionVLAD + MMA", "paper": 0.0214}
    claim |= {"ours": -0.1312, "low": -0.1940, "high": -0.0701, "verdict": "does not hold", "rule": "no difference"}
    claim |= {"margin": 0.005, "seeds": 10, "persons": 90}
    table = report.styled(pd.DataFrame([claim]).set_index("dataset")).data
    pages = (visit("book/numbers-real", viewport={"width": width, "height": 900}) for width in (1280, 390))
    wide, (hidden, over, picture, of_picture, still_over) = (page.evaluate(WIDE, table) for page in pages)
    assert wide == [0, 0, 731, 0, 0]
    assert hidden > 100 and over <= 0 and 500 < picture < 700 and of_picture > 100 and still_over <= 0


def test_in_a_browser_the_search_quotes_formulas_as_text(rendered, visit):
    intro = (rendered / "_build" / "html" / "book" / "intro.html").read_text()
    assert r"\(\phi" in intro and r"\[" in intro
    text = visit("search").evaluate("html => Search.htmlToText(html)", intro)
    assert "φ(c_k)" in text and "Σ_i" in text and "Eq. (1) after" in text and "\\" not in text


def test_pictures_say_their_size_in_the_page(rendered):
    html = (rendered / "_build" / "html" / "book" / "numbers-real.html").read_text()
    ((file, width, height),) = re.findall(r'<img[^>]* src="../_images/([^"]+)" width="(\d+)" height="(\d+)"', html)
    drawn = ElementTree.parse(rendered / "_build" / "html" / "_images" / file).getroot()
    found = [float(drawn.get(side).removesuffix("pt")) / 72 * 96 for side in ("width", "height")]
    assert [int(width), int(height)] == pytest.approx(found, abs=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('<img alt="" src="../_images/a%20b.png" />', '<img alt="" src="../_images/a%20b.png" width="5" height="3" />'),
        ('<img src="_images/a%20b.png">', '<img src="_images/a%20b.png" width="5" height="3">'),
        ('<img style="width: 7px" src="_images/a%20b.png">', None),
        ('<img src="_images/unknown.png">', None),
        ('<img src="https://example.org/_images/a%20b.png">', None),
        ('<a href="_images/a%20b.png">', None),
    ],
)
def test_a_picture_of_the_book_is_sized_and_nothing_else(tmp_path, given, expected):
    Image.new("RGB", (5, 3)).save(tmp_path / "it.png")
    assert picture_sizes.sized(given, {"a b.png": tmp_path / "it.png"}) == (expected or given)


def test_in_a_browser_a_figure_is_alive_and_can_be_taken_along(visit):
    page = visit("book/numbers-real")
    link, picture, drawing = (page.locator(f"figure {what}") for what in ("a.famf-take", "img", "object"))
    assert link.inner_text() == "SVG" and link.get_attribute("download") == "numbers-real-figure-1.svg"
    assert link.get_attribute("href") == picture.get_attribute("src") and not drawing.count()
    before = picture.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.wait_for_function("document.querySelector('figure img').style.visibility == 'hidden'")
    assert drawing.get_attribute("data") == link.get_attribute("href") and drawing.bounding_box() == before
    page.mouse.move(1, 1)
    drawing.wait_for(state="detached")
    assert picture.is_visible()


def test_the_pages_show_what_was_executed(rendered):
    html = rendered / "_build" / "html"
    page = (html / "book" / "numbers-real.html").read_text()
    assert "imfdb [1]" in page and "<title>Numbers of real faces" in page and 'id="fig-numbers-real"' in page
    assert "tag_hide-input" in page and "<details" in page  # code is folded
    download = nbformat.read(html / "_sources" / "book" / "numbers-real.ipynb", as_version=4)
    record = download.metadata["famf"]
    assert record["parameters"] == {"dataset": "imfdb"} and record["seconds"] > 0 and record["when"]
    assert "thebe" not in page and "require.js" not in page
    assert "numbers-real.html" in (html / "book" / "execution.html").read_text()


def test_nothing_changed_nothing_runs(good, untouched, monkeypatch):
    monkeypatch.undo()  # the real _render, which is to find nothing to do
    monkeypatch.setattr(notebooks, "execute", None)
    monkeypatch.setattr(subprocess, "run", None)
    before = contents(good / "_build")
    build(good)
    assert contents(good / "_build") == before


def failing(root):
    write_words(root, "x = 1\nraise KeyError('face')")


def misconfigured(root):
    config = root / "_config.yml"
    config.write_text(config.read_text().replace("famf_book.extensions.api", "famf_book.extensions.none"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (failing, r"words\.ipynb, cell 3 \('x = 1'\): KeyError: 'face' .*words\.failed\.ipynb"),
        (in_book("intro.md", "# I\n\n{numref}`nothing`\n"), r"book/intro\.md:3: WARNING.*nothing.*sphinx\.log"),
        (misconfigured, r"sphinx.errors.ExtensionError: Could not import .*none.*sphinx\.log"),
    ],
)
def test_the_last_good_book_stays_when_a_notebook_or_sphinx_fails(good, change, sentence):
    before = contents(good / "_build" / "html")
    change(good)
    with pytest.raises(NotebookError, match=sentence):
        build(good)
    assert contents(good / "_build" / "html") == before
    assert not list((good / "_build").glob(".html*")) and not list((good / "_build").glob(".source*"))


def test_a_page_alone_is_rendered_with_plain_text_for_what_is_not_there(root, executed, monkeypatch):
    monkeypatch.setattr(book, "_render", RENDER)
    there = "[one](numbers.ipynb) [two](#paper-eq-1) [three](intro.md) {doc}`four <intro>` {numref}`five <fig-numbers>`"
    roles = "{term}`six` {eq}`seven` {cite:p}`somebody` {glue:text}`n.ipynb::x`"
    more = new_markdown_cell(f"# Words\n\n{there} {roles}")
    write(root / "book" / "words.ipynb", more, tagged('word: str = "face"'))
    page = build(root, only=["words"])
    assert page == root / "_build" / "only" / "html" / "book" / "words.html"
    article = page.read_text().partition("<h1>Words")[2].partition("</article>")[0]
    assert re.sub(r"<[^>]+>", "", article).split()[1:6] == ["one", "two", "three", "four", "five"]
    assert not re.findall(r'href="(?!#)', article)
    assert not (root / "_build" / "html").exists() and not list(page.parent.glob("numbers*"))
    with pytest.raises(BookError, match="--only: no data"):
        build(root, only=["words"], absent=lambda page: "no data")


def test_a_page_that_is_gone_is_gone(good, monkeypatch):
    def render(source, out, builder, log):  # in place of Sphinx
        shutil.copytree(source, out)

    monkeypatch.setattr(book, "sphinx", render)
    write_yaml(good / "book" / "pages.yml", {name: entry for name, entry in PAGES.items() if name != "numbers-real"})
    write_yaml(good / "_toc.yml", pruned(TOC, {"book/numbers-real"}))
    assert (good / "_build" / "html" / "book" / "numbers-real.html").exists()
    build(good)
    assert (good / "_build" / "html" / "book" / "numbers.ipynb").exists()
    assert not list((good / "_build" / "html").rglob("numbers-real.*"))


def test_two_builds_take_turns(root, executed):
    (root / "_build").mkdir()
    code = (
        "import sys; from famf_book import build; build._render = lambda place: None;"
        "build.build(sys.argv[1], absent=lambda page: 'no data')"
    )
    with FileLock(root / "_build" / ".lock"):
        waiting = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout.readline().startswith("waiting")
        time.sleep(0.5)
        assert not (root / "_build" / "source").exists()
    assert "left out: no data" in waiting.communicate(timeout=60)[0]
    assert (root / "_build" / "source").exists()
