from famf_book.notebooks import read
from famf_lib.experiments.catalogue import READINGS
from famf_lib.support.files import ROOT


def test_every_question_is_linked_to_where_it_is_explained():
    cells = "\n".join(c.source for c in read(ROOT / "book" / "readings.ipynb").cells if c.cell_type == "markdown")
    explained = (ROOT / "book" / "readings.md").read_text()
    for question in dict.fromkeys(r.question for r in READINGS):
        (line,) = [line for line in cells.splitlines() if line.startswith(f"| {question} |")]
        label = line.split("(#")[1].split(")")[0]
        assert f"({label})=" in explained
