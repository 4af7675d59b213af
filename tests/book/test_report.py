import base64
import io
import json
import shlex
from itertools import product
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from famf_book import report
from famf_book.plots import differences, svg
from famf_lib.evidence import ledger
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison
from famf_lib.experiments import results as experiment_results
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, TABLE_1
from famf_lib.experiments.parameters import SETTINGS
from famf_lib.support import provenance

LEVELS = {variant.label: 0.5 for variant in TABLE_1}
PRINTED = EXPERIMENTS["table-1"].paper()


def test_table_shows_the_levels_and_the_papers_values(made_results):
    table = report.rows(made_results(LEVELS | {"NetVLAD + MMA": 0.625}), PRINTED)
    assert table.loc["NetVLAD + MMA", "ours"] == pytest.approx(0.625)
    assert table.loc["NetVLAD + MMA", "paper"] == 0.8246
    assert np.isnan(table.loc["Mean pooling + Concat", "paper"])
    assert (table["low"] <= table["ours"]).all() and (table["ours"] <= table["high"]).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "“FAMF over the others”: **does not hold** (0 of 5 parts hold); the same under every setting."),
        (
            {"own": {FAMF.label: 0.9}},
            "“FAMF over the others”: **depends on the setting** (5 of 5 parts hold); as printed: does not hold; "
            "own best: holds; shared: does not hold.",
        ),
        ({"own": {FAMF.label: 0.6, "GhostVLAD + Concat": 0.8}}, "**does not hold** (4 of 5 parts hold); the same"),
    ],
)
def test_the_answer_of_a_page_follows_the_numbers(made_results, changed, words):
    found = {setting: made_results(LEVELS | changed.get(setting, {})) for setting in SETTINGS}
    answer = report.answer("table-1", {"synthetic": found})
    assert answer.startswith("- On generated persons (`synthetic`):\n  - “FAMF over the others”: ") and words in answer


def test_text_in_a_figure_is_text_and_its_lines_align_in_any_font():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(layout="constrained")
    with plt.rc_context({"svg.fonttype": "none"}):
        axes.set_yticks([0, 1], ["a long line\nshort", "one"])
        before = axes.get_position().bounds
        drawn = ElementTree.fromstring(svg(figure))
    lines = {t.text: t.attrib["style"] + t.attrib.get("x", "") for t in drawn.iter("{http://www.w3.org/2000/svg}text")}
    plt.close(figure)
    assert lines["a long line"] == lines["short"] and "text-anchor: end" in lines["short"]
    assert figure.get_layout_engine() is not None and axes.get_position().bounds != before
    assert [label.get_visible() for label in axes.get_yticklabels()] == [True, True]


def test_the_table_of_comparisons_has_the_effect_of_the_deciding_setting_and_every_verdict(made_results):
    levels = {"printed": 0.1, "own": 0.75, "shared": 0.5}
    found = {setting: made_results(LEVELS | {FAMF.label: level}) for setting, level in levels.items()}
    compared = {setting: ledger.comparisons("table-1", results) for setting, results in found.items()}
    table = report.comparison_table(compared)
    row = table.loc["FAMF over the others: NetVLAD + MMA"]
    assert row["ours"] == pytest.approx(0.75 - 0.5) and row["paper"] == pytest.approx(0.8824 - 0.8246)
    assert row[["as printed", "own best", "shared"]].tolist() == [
        "does not hold", "holds", "does not hold: no practical difference",
    ]  # fmt: skip
    drawn = differences(compared).axes[0]
    assert [text.get_text() for text in drawn.get_yticklabels()][0] == "FAMF over the others:\nNetVLAD + MMA"
    tips = " ".join(str(line.get_gid()) for line in drawn.lines)
    assert "NetVLAD + MMA, as printed: -0.4000 [" in tips and "own best: +0.2500 [" in tips


def test_a_styled_table_has_the_interval_in_one_column_and_folds_long_texts(made_results):
    html = report.styled(report.rows(made_results(LEVELS), PRINTED)).data
    assert "95% interval" in html and "…" in html and "NaN" not in html and "nan" not in html
    what = ["a text that is <long> enough to fold", "short"]
    html = report.styled(pd.DataFrame({"what": what, "low": [0.1, 0.2], "high": [0.3, 0.4]})).data
    assert '<td class="famf-left famf-text">a text that is &lt;long&gt; enough to fold</td>' in html
    assert (
        '<td class="famf-left">short</td>' in html
        and '<th class="famf-left">what</th>' in html
        and '<td><span class="famf-interval">0.1000 … 0.3000</span></td>' in html
    )
    found = report.styled(pd.DataFrame({"right": ["0.7 [-0.61, 0.84]"]})).data
    assert '<td>0.7 <span class="famf-interval">[−0.61, 0.84]</span></td>' in found


def test_share_of_attention_is_summed_over_columns_and_averaged_over_rows(made_results):
    results = made_results({"A": 0.5}, seeds=2, persons=3)
    names = ["face 1", "face 2", "audio", "body"]
    matrix = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0], [0.25, 0.35, 0.15, 0.25]])
    places = product((1, 2), (-1, 0, 2), enumerate(names), enumerate(names))
    rows = [("A", s, p, r, c, matrix[i, j] + (0.01 if p else 0)) for s, p, (i, r), (j, c) in places]
    columns = ["label", "seed", "person", "row", "column", "weight"]
    results.answers["attention"] = pd.DataFrame(rows, columns=columns)
    share, even = experiment_results.attention_share(results, "A", "face", "face")
    assert even == 0.5 and share.shape == (2, 3)
    assert share[0, 0] == pytest.approx((0.7 + 0.3) / 2) and share[1, 2] == pytest.approx(0.52)
    assert np.isnan(share[:, 1]).all()
    share, even = experiment_results.attention_share(results, "A", "body", "audio")
    assert even == 0.25 and share[0, 0] == pytest.approx(0.15)


def test_the_csv_of_a_table_has_all_digits():
    table = pd.DataFrame({"ours": [1 / 3, np.nan], "low": [0.1, 0.2], "high": [0.7, 0.8]}, index=["a,b", 'say "c"'])
    page = BeautifulSoup(report.styled(table.rename_axis("row")).data, "html.parser")
    assert page.table.find("td").text == "0.3333"
    kind, content = page.find("a", download=True)["href"].split(",")
    assert kind == "data:text/csv;base64"
    back = pd.read_csv(io.BytesIO(base64.b64decode(content)), index_col="row")
    pd.testing.assert_frame_equal(back, table.rename_axis("row"))


def test_every_run_of_a_page_is_listed(made_results):
    results = made_results({"one": 0.5, "another": 0.7}, seeds=3)
    page = BeautifulSoup(report.runs({"own": results}).data, "html.parser")
    lines = [[cell.text for cell in line.find_all(["th", "td"])] for line in page.tbody.find_all("tr")]
    assert [(line[0], line[1], line[2], line[5]) for line in lines] == [
        (label, "own best", str(seed), run.key[:12]) for (label, seed), run in results.runs.items()
    ]
    assert [float(line[3]) for line in lines] == pytest.approx([r.mean_ap for r in results.runs.values()], abs=5e-5)
    assert page.details["id"] == "runs" and "6 runs" in page.summary.text
    assert f'href="#{page.details["id"]}"' in report.where_from(results)


def test_marks_of_a_figure_have_tips():
    estimate = Estimate(0.01, -0.02, 0.04, seeds=2, persons=3)
    one = Comparison("a < b", "c & d", "a over b", 0.25, estimate)
    drawn = ElementTree.fromstring(svg(differences({"own": [one]})))
    tips = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert tips == [
        "a < b: c & d, own best: +0.0100 [-0.0200, +0.0400], cannot tell",
        "a < b: c & d, the paper: +0.2500",
    ]


@pytest.mark.parametrize("size", [0, 1, 11])
def test_a_figure_of_differences_has_a_row_for_each_comparison(size):
    comparisons = [Comparison("A", f"name {n}", "", 0.1, Estimate(0.01, -0.02, 0.04, 5, 11)) for n in range(size)]
    figure = differences({"own": comparisons, "printed": comparisons})
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"name {n}" for n in range(size)]


def test_the_command_of_a_page_gives_every_value_and_is_read_by_a_shell():
    values = {"dataset": "imfdb", "profile": "quick", "seeds": [3, 5], "device": "auto"}
    values |= {"protocol": "", "note": "it's 1"}
    block = report.again("table-1", **values).split("```")[1].removeprefix("bash\n")
    papermill, famf = block.replace("\\\n", "").strip().splitlines()
    words = shlex.split(papermill)
    assert words[:5] == ["papermill", "book/table-1.ipynb", "out.ipynb", "-k", "python3"]
    assert words[5:11] == ["-p", "dataset", "imfdb", "-p", "profile", "quick"]
    assert words[11:] == ["-p", "seeds", "3,5", "-p", "note", "it's 1"]
    assert shlex.split(famf)[:3] == ["famf", "run", "table-1"] and famf.endswith("-p seeds 3,5")
    assert "famf run" not in report.again("synthetic", profile="quick")


def test_a_page_says_how_it_was_executed(monkeypatch):
    versions = {"python": "3.11.0", "torch": "2.7", "numpy": "2.3"}
    machine = {"processor": "A Processor", "cores": 3, "memory (GiB)": 5, "gpu": "A Card"}
    origin = {"commit": "0123456789abcdef-dirty", "versions": versions, "hardware": machine}
    monkeypatch.setattr(provenance, "origin", lambda root: origin)
    told = report.executed()
    assert "`0123456789ab` with uncommitted changes, with" in told
    assert all(part in told for part in ("Python 3.11.0", "PyTorch 2.7", "NumPy 2.3", "(UTC) in "))
    assert told.endswith("on A Processor, 3 cores, 5 GiB of memory, A Card.")


@pytest.mark.parametrize(
    ("experiment", "labels", "expected"),
    [
        ("faces", ["trained with N = 4", "trained with N = 24"], [FAMF.label]),
        ("clusters", ["K = 2", "K = 16", "K = 16, half the batch"], ["K = 2", "K = 16"]),
    ],
)
def test_a_row_that_uses_the_point_of_another_row_is_not_listed_with_one_of_its_own(
    results_folder, experiment, labels, expected
):
    own = {label: {"chosen": {"lr": 0.001 * n}} for n, label in enumerate([FAMF.label, "K = 2", "K = 16"], start=1)}
    results_folder.mkdir()
    record = {"shared": {"lr": 0.016}, "rows": own}
    (results_folder / "tuning-synthetic-standard.json").write_text(json.dumps(record))
    table = report.points(experiment, "synthetic", "standard", labels)
    rates = {name: str(own[name]["chosen"]["lr"]) for name in expected}
    assert table["lr"].to_dict() == rates | {"all rows, one shared choice": "0.016"}
