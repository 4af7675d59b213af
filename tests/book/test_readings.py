"""The page on the readings: its links, and the tuned points that it lists."""

import json

from famf_book import report
from famf_book.notebooks import read
from famf_lib.experiments.catalogue import FAMF, FAMF_WITH_MMA, READINGS
from famf_lib.experiments.settings import PRINTED, tuning_file
from famf_lib.support.files import ROOT


def test_every_question_is_linked_to_where_it_is_explained():
    cells = "\n".join(c.source for c in read(ROOT / "book" / "readings.ipynb").cells if c.cell_type == "markdown")
    explained = (ROOT / "book" / "readings.md").read_text()
    for question in dict.fromkeys(r.question for r in READINGS):
        (line,) = [line for line in cells.splitlines() if line.startswith(f"| {question} |")]
        label = line.split("(#")[1].split(")")[0]
        assert f"({label})=" in explained


def test_a_row_that_uses_the_point_of_another_one_is_not_listed(results_folder):
    assert report.points("readings", "synthetic", "standard").empty
    tuned = {FAMF.label: 0.001, FAMF_WITH_MMA.label: 0.016, "MMA: no L2": 0.064, "NetVLAD + MMA": 0.256}
    rows = {label: {"chosen": PRINTED.model_copy(update={"lr": lr}).model_dump()} for label, lr in tuned.items()}
    results_folder.mkdir()
    tuning_file("synthetic", "standard").write_text(json.dumps({"shared": PRINTED.model_dump(), "rows": rows}))
    listed = report.points("readings", "synthetic", "standard")["lr"].to_dict()
    del tuned["NetVLAD + MMA"]
    assert listed == {label: str(lr) for label, lr in tuned.items()} | {"all rows, one shared choice": str(PRINTED.lr)}
