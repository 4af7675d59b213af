import shlex

import pytest
from made_notebooks import tagged, write
from nbformat.v4 import new_markdown_cell

from famf_book import generated, notebooks
from famf_book.pages import Page

CELL = """\
dataset: str = "synthetic"  # which faces: a | b, or *c*
profile: str = "standard"  # quick or standard
seeds: list[int] = [1, 2]  # one training a seed
note: str = ""  # a sentence
share: float = 0.5  # of the clips
"""
MACHINE = {"hardware": {"processor": "P", "cores": 2}, "versions": {"python": "3.11", "torch": "2"}}
RECORD = {"seconds": 2.5, "when": "2026-01-02 03:04", "commit": "0123456789" * 4, "parameters": {}, **MACHINE}
FACES = {"name": "imfdb", "profile": "standard", "fingerprint": "f1"}
FACES |= {"persons": 1100, "clips": 23_000, "faces": 345_000}


@pytest.fixture
def pages(tmp_path):
    """Two pages of one notebook, the second with parameters of its own, and one of another."""
    (tmp_path / "book").mkdir()
    for name, cell in (("numbers", CELL), ("words", 'word: str = "face"  # what to say')):
        write(tmp_path / "book" / f"{name}.ipynb", new_markdown_cell(f"# {name}"), tagged(cell))

    def page(name, notebook, title=None, **given):
        path = tmp_path / "book" / f"{notebook}.ipynb"
        defaults = {parameter.name: parameter.default for parameter in notebooks.parameters(path)}
        return Page(name, path, given, defaults | given, title)

    own = {"dataset": "imfdb", "seeds": [3, 5], "note": "it's `one` | two", "profile": "standard"}
    real = page("real", "numbers", "Real_faces", **own)
    return [page("plain", "numbers", "Plain"), real, page("words", "words")]


def cells(text, *beginning):
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row[1:-1].split(" | ")] for row in rows if row[2:].startswith(beginning)]


def test_every_parameter_stands_with_its_meaning_and_the_command_of_a_page_with_its_values(tmp_path, pages):
    records = {page.name: RECORD for page in pages if page.name != "words"}
    text = generated.texts(tmp_path, pages, records, {"words": "no words here"})["book/parameters.md"]
    assert cells(text, "`dataset`") == [["`dataset`<br>str", '`"synthetic"`', r"which faces: a \| b, or \*c\*"]]
    assert cells(text, "`seeds`") == [[r"`seeds`<br>list\[int\]", "`[1, 2]`", "one training a seed"]]
    assert cells(text, "`share`") == [["`share`<br>float", "`0.5`", "of the clips"]]
    assert "`book/numbers.ipynb` makes: [Plain](plain.ipynb), [Real\\_faces](real.ipynb)." in text
    assert "`book/words.ipynb` makes: `words` (left out)." in text  # no link to what is not there
    text = generated.texts(tmp_path, pages, {}, {})["book/parameters.md"]
    plain, real, words = (shlex.split(line) for line in text.splitlines() if line.startswith("papermill "))
    assert plain == ["papermill", "book/numbers.ipynb", "out.ipynb", "-k", "python3"]
    assert words[1] == "book/words.ipynb"
    assert real[5:] == ["-p", "dataset", "imfdb", "-p", "seeds", "3,5", "-p", "note", "it's `one` | two"]


def test_what_differs_between_pages_has_a_column_and_what_is_the_same_a_sentence(tmp_path, pages):
    own = {"dataset": "imfdb", "note": "a|b", "seeds": [1, 2]}
    other = RECORD | {"hardware": {"processor": "Q", "gpu": "G"}, "parameters": own, "data": [FACES]}
    synthetic = [{"name": "synthetic", "profile": "standard", "fingerprint": "f0"}]
    records = {"plain": RECORD | {"data": synthetic}, "real": other}
    text = generated.texts(tmp_path, pages[:2], records, {})["book/execution.md"]
    assert "The same for all pages: profile standard, commit `012345678`." in text
    assert cells(text, "page") == [["page", "took", "when<br>(UTC)", "data", "machine"]]
    assert cells(text, "[Plain]") == [["[Plain](plain.ipynb)", "2.5 s", "2026-01-02<br>03:04", "synthetic", "1"]]
    # Not the seeds: they are the default.
    link = '[Real\\_faces](real.ipynb)<br>`dataset = "imfdb"`<br>`note = "a\\|b"`'
    assert cells(text, "[Real") == [[link, "2.5 s", "2026-01-02<br>03:04", "imfdb", "2"]]
    assert cells(text, "imfdb") == [["imfdb<br>standard", "f1", "1,100", "23,000", "345,000"]]
    assert cells(text, "synthetic") == [["synthetic<br>standard", "f0", "", "", ""]]
    assert "Data without sizes are not on this machine" in text
    assert cells(text, "processor", "gpu") == [["processor", "P", "Q"], ["gpu", "", "G"]]


def test_data_of_one_name_are_told_apart_and_older_records_have_none(tmp_path, pages):
    data = [[FACES], [FACES | {"fingerprint": "f2"}]]
    records = {page.name: RECORD | {"data": d} for page, d in zip(pages, data, strict=False)} | {"words": RECORD}
    text = generated.texts(tmp_path, pages, records, {"gone": "not | here"})["book/execution.md"]
    assert [row[-2] for row in cells(text, "[")] == ["imfdb (1)", "imfdb (2)", "none"]
    assert [row[1] for row in cells(text, "imfdb")] == ["f1", "f2"]
    assert [row[-1] for row in cells(text, "[")] == ["standard", "standard", "none"]
    assert "- `gone`: not | here" in text


def test_a_book_without_an_executed_page_and_one_whose_pages_end_in_another_order(tmp_path, pages):
    text = generated.texts(tmp_path, pages, {}, {page.name: "absent" for page in pages})
    assert "0 pages" in text["book/execution.md"] and "|" not in text["book/execution.md"]
    # The same book must come out, or it is rendered again.
    records = {page.name: RECORD | {"data": [FACES | {"fingerprint": page.name}]} for page in pages}
    backwards = dict(reversed(records.items()))
    assert generated.texts(tmp_path, pages, backwards, {}) == generated.texts(tmp_path, pages, records, {})
