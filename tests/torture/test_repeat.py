"""Same inputs, same bytes: of models, ClipSets, figures and executed notebooks, whose times are left out."""

import hashlib
import json

import matplotlib.pyplot as plt
from made_notebooks import tagged, write

from famf_book import notebooks, pictures, plots
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training import checkpoint

TIMES = ("start_time", "end_time", "duration", "seconds", "when", "iopub.execute_input", "iopub.status.busy")
TIMES += ("iopub.status.idle", "shell.execute_reply")
CELL = """\
import matplotlib.pyplot as plt, pandas as pd
from famf_book import plots
plots.theme()
plt.plot(range(seed), marker="o", label="$x$"), plt.legend()
display(plt.gcf(), pd.DataFrame({"a": [seed]})), plt.close()
"""


def digest(content):
    return hashlib.sha256(content).hexdigest()


def test_files(tmp_path, made_up, count):
    card = checkpoint.Card(
        config=ModelConfig(modalities=("audio", "body"), hidden=3),
        dim=5,
        modality_dims={"audio": 2, "body": 7},
        persons=("Ann", "Božena"),
        evaluation={},
        seed=1,
        run="a",
        data="b",
    )
    model = FAMF(card.config, card.dim, card.modality_dims, len(card.persons))
    saved = [checkpoint.save(tmp_path / f"{n}.safetensors", model, card).read_bytes() for n in range(10)]
    sets = [made_up(info={"b": 1, "a": 2}).save(tmp_path / f"set {n}") / "SHA256SUMS" for n in range(3)]
    assert len({digest(content) for content in saved}) == 1
    assert checkpoint.open(tmp_path / "0.safetensors").card == card
    assert len({path.read_text() for path in sets}) == 1
    count("repeated", "models", files=10, different=0)
    count("repeated", "ClipSets", files=3, different=0)


def test_figures(count):
    def drawn():
        figure, axes = plt.subplots()
        plots.tip(axes.plot([1, 2], marker="o")[0], "a point")
        faces = pictures.sheet([pictures.Strip(r"$\frac{$" + "\x1b[1m", ["a card"])])
        return plots.svg(figure), pictures.light(faces).data

    plots.theme()
    first, second = drawn(), drawn()
    assert first == second and not any("<dc:date>" in svg for svg in first)
    count("repeated", "figures", files=4, different=0)


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def test_notebooks(tmp_path, scale, count):
    write(tmp_path / "a.ipynb", tagged("seed: int = 1  # of all"), CELL)
    found = set()
    for _ in range(min(1 + scale, 5)):
        notebooks.execute(tmp_path / "a.ipynb", tmp_path / "out.ipynb", {"seed": 7})
        found.add(json.dumps(without_times(json.loads((tmp_path / "out.ipynb").read_text())), sort_keys=True))
    assert len(found) == 1
    count("repeated", "executed notebooks", files=min(1 + scale, 5), different=0)
