import shutil
import stat

import pytest

from famf_book import pdf
from famf_book.build import BookError

# Stands for a browser: it writes what it was asked to print, with the pictures beside it, in place of a PDF.
PRINTS = """#!/bin/sh
for word; do case "$word" in --print-to-pdf=*) out="${word#*=}";; file://*) page="${word#file://}";; esac; done
cat "$page" "$(dirname "$page")/_images/one.svg" > "$out"
"""
FAILS = "#!/bin/sh\necho first >&2; echo 'no display' >&2; exit 3\n"
SILENT = "#!/bin/sh\nexit 0\n"


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A book that was built, and a renderer that gives one page further down than its pictures, as Sphinx does."""

    def render(source, out, builder, log):
        assert builder == "singlehtml" and (source / "_toc.yml").is_file()
        files = {"book/intro.html": "whole book, ", "_images/one.svg": "picture", "_static/x.html": ""}
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(content)

    monkeypatch.setattr(pdf, "sphinx", render)
    (tmp_path / "_build" / "source").mkdir(parents=True)
    (tmp_path / "_build" / "source" / "_toc.yml").write_text("root: book/intro")
    return tmp_path


@pytest.fixture
def browser(tmp_path, monkeypatch):
    def make(script):
        place = tmp_path / "browser"
        place.write_text(script)
        place.chmod(place.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CHROMIUM", str(place))

    return make


def left(root):
    return sorted(path.name for path in (root / "_build").iterdir() if path.name not in (".lock", "reports"))


def test_the_page_is_printed_from_where_its_pictures_are_found(built, browser):
    browser(PRINTS)
    assert pdf.pdf(built).read_text() == "whole book, picture"
    assert left(built) == ["famf.pdf", "source"]


@pytest.mark.parametrize(
    ("script", "words"), [(FAILS, "ended with 3 and said 'no display'"), (SILENT, "ended with 0 and said 'nothing'")]
)
def test_where_the_browser_fails_the_older_pdf_stays(built, browser, script, words):
    browser(PRINTS)
    before = pdf.pdf(built).read_text()
    browser(script)
    with pytest.raises(BookError, match=words):
        pdf.pdf(built)
    assert (built / "_build" / "famf.pdf").read_text() == before and left(built) == ["famf.pdf", "source"]


def test_without_a_browser_or_a_book_it_says_so(built, browser, monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/no/such/browser")
    with pytest.raises(BookError, match="CHROMIUM: /no/such/browser not found, expected a browser of the Chromium"):
        pdf.pdf(built)
    with monkeypatch.context() as patch:
        patch.delenv("CHROMIUM")
        patch.setenv("PATH", str(built))
        with pytest.raises(BookError, match="none of chromium, .* found, expected a browser of the Chromium"):
            pdf.pdf(built)
    browser(PRINTS)
    shutil.rmtree(built / "_build" / "source")
    with pytest.raises(BookError, match="source: no book found, expected one that `famf book` has built"):
        pdf.pdf(built)


@pytest.mark.skipif(not any(map(shutil.which, pdf.BROWSERS)), reason="no browser of the Chromium family is here")
def test_a_real_browser_prints_a_pdf(tmp_path):
    page, out = tmp_path / "book.html", tmp_path / "book.pdf"
    page.write_text("<title>A book</title><h1>One page</h1>")
    pdf._print(pdf.browser(), page, out)
    assert out.read_bytes().startswith(b"%PDF-") and out.stat().st_size > 1000
