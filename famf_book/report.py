"""Tables and sentences from the runs. Nothing here trains, and no number is typed in."""

import base64
import json
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from IPython.display import HTML

from famf_book import notebooks
from famf_lib.data import datasets, iqiyi
from famf_lib.data.splits import HELD_OUT
from famf_lib.evidence.bootstrap import LEVEL, estimate
from famf_lib.evidence.claims import Comparison, Verdict
from famf_lib.experiments.catalogue import EXPERIMENTS
from famf_lib.experiments.results import Results, command
from famf_lib.experiments.settings import GRID, Profile, Setting, tuning_file
from famf_lib.support import provenance
from famf_lib.support.files import ROOT
from famf_lib.support.wording import counted

LONG = 28  # characters of a cell that is a text and no number
SHORT = 16  # characters of a name that needs no room of its own
_RUNS = '<a href="#runs">all its runs</a>'  # where ``runs`` stands on the page
RECORDED_DIGITS = 1e-5  # a recording keeps five digits of each AP


def rows(results: Results, printed: dict[str, float | None]) -> pd.DataFrame:
    """A row a variant: the paper's mAP (NaN where it prints none), ours with its interval, rank-1, seconds a training.

    ``printed`` is the paper's value by label, as ``Experiment.paper`` gives it.
    """
    found = {}
    for label in results.labels:
        ours = estimate(results.ap(label))
        runs = [results.runs[label, seed] for seed in results.seeds]
        found[label] = {
            "paper": printed.get(label),
            "ours": ours.mean,
            "low": ours.low,
            "high": ours.high,
            "rank-1": sum(run.rank_1 for run in runs) / len(runs),
            "seconds": sum(run.seconds for run in runs) / len(runs),
        }
    columns = ["paper", "ours", "low", "high", "rank-1", "seconds"]
    table = pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("row")
    return table.astype(float)


def by_seed(results: Results) -> pd.DataFrame:
    """mAP of every run: a row a method, a column a seed."""
    return results.mean_ap().rename_axis("row")


def comparison_table(compared: Sequence[Comparison]) -> pd.DataFrame:
    """A row a comparison: the paper's difference, ours with its interval, the verdict."""
    return pd.DataFrame(
        {
            "paper": pd.Series([c.paper for c in compared], dtype=float).to_numpy(),
            "ours": [c.ours.mean for c in compared],
            "low": [c.ours.low for c in compared],
            "high": [c.ours.high for c in compared],
            "verdict": [c.outcome for c in compared],
        },
        index=pd.Index([c.name for c in compared], name="claim"),
    )


def verdicts(compared: Sequence[Comparison]) -> str:
    """The verdict on each claim in a line of text, all parts counted."""
    parts = []
    for claim in dict.fromkeys(c.claim for c in compared):
        found = [c.verdict for c in compared if c.claim == claim]
        number = {1: "", 2: " in both comparisons"}.get(len(found), f" in all {len(found)} comparisons")
        if len(set(found)) == 1:
            parts.append(f"“{claim}”: **{found[0]}**{number}.")
        else:
            counts = ", ".join(f"{found.count(v)} × {v}" for v in Verdict if v in found)
            parts.append(f"“{claim}”: **mixed** ({counts}).")
    return " ".join(parts)


def place(table: pd.DataFrame, label: str, name: str = "") -> str:
    """Where a row stands among those of ``rows``, in a sentence; ``name`` is what the row is called besides."""
    order = table["ours"].sort_values(ascending=False)
    number = list(order.index).index(label) + 1
    ranked = "first" if number == 1 else f"number {number}"
    interval = f"[{table['low'][label]:.4f}, {table['high'][label]:.4f}]"
    best = "." if number == 1 else f"; the best is {order.index[0]} with {order.iloc[0]:.4f}."
    called = f"{name} ({label})" if name else label
    return f"{called} comes out {ranked} of {len(order)} rows, with mAP {order[label]:.4f} {interval}{best}"


def where_from(results: Results) -> str:
    """Whether the numbers were made here, and if not, where."""
    if results.recorded is None:
        when = max(run.origin["when"] for run in results.runs.values())
        return f"Trained on this machine, the last run on {when}; data fingerprint `{results.data}`; {_RUNS}."
    told = made_by(results).removesuffix(".")
    return f"**Recorded, not run here**: the dataset is not on this machine. {told}; {_RUNS}."


def made_by(results: Results) -> str:
    """What made a recording: its command, commit, machine, version, profile and data."""
    recorded, origin = results.recorded, results.recorded["origin"]
    hardware = origin["hardware"]
    machine = f"{hardware['processor']}, {hardware['cores']} cores"
    if recorded.get("device") != "cpu":  # older recordings do not say: with a GPU, they used it
        machine = hardware.get("gpu") or machine
    return (
        f"Made by `{recorded['command']}` at commit `{(origin['commit'] or 'unknown')[:12]}` on {machine}, PyTorch "
        f"{origin['versions']['torch']}; profile {results.profile}; data fingerprint `{results.data}`."
    )


def beside_full_size(table: pd.DataFrame, full: Results) -> pd.DataFrame:
    """The rows of this page and what was recorded of them at the paper's full size, with its interval."""
    there = rows(full, {})
    return pd.DataFrame(
        {
            "paper": table["paper"],
            "this page": table["ours"],
            "full size": there["ours"],
            "low": there["low"],
            "high": there["high"],
            "rank-1": there["rank-1"],
            "seconds": there["seconds"],
        },
        index=[label for label in table.index if label in there.index],
    ).rename_axis("row")


def is_the_papers(dataset: str) -> bool:
    """Whether a dataset is the paper's own, under whatever name it was imported."""
    return datasets.get(dataset).title == iqiyi.TITLE


def beside_paper(dataset: str) -> str:
    """What the paper's values can tell beside those of a dataset."""
    if is_the_papers(dataset):
        return (
            "The paper's values are those of the same data: levels can be compared as far as the settings below are "
            "the paper's, as they are in the profile `paper`."
        )
    return (
        f"The paper's values are those of {iqiyi.TITLE}, which is not the dataset of this page: levels cannot be "
        "compared, the order of the rows and their differences can."
    )


def beside_recording(results: Results, recorded: Results | None) -> str | None:
    """Whether fresh runs differ from the recorded ones, in a sentence; None where there is nothing to compare."""
    if results.recorded is not None or recorded is None:
        return None
    if results.data != recorded.data:
        return f"The recorded runs were made on other data (fingerprint `{recorded.data}`): nothing to compare."
    both = [key for key in results.runs if key in recorded.runs]
    same = [key for key in both if results.runs[key].spec == recorded.runs[key].spec]
    if not same:
        return "The recorded runs have other settings or seeds: nothing to compare."
    apart = {key: abs(results.runs[key].mean_ap - recorded.runs[key].mean_ap) for key in same}
    worst = max(apart, key=apart.get)
    differ = sum(d >= RECORDED_DIGITS for d in apart.values())
    if not differ:
        return f"All {len(same)} runs give the numbers that were recorded."
    here, there = (sum(r.runs[key].mean_ap for key in same) / len(same) for r in (results, recorded))
    return (
        f"Of {len(same)} runs {differ} differ from the recorded ones: at most by {apart[worst]:.4f} mAP ({worst[0]}, "
        f"seed {worst[1]}), on average over all by {abs(here - there):.4f}."
    )


def again(notebook: str, **values: Any) -> str:
    """How to execute a page again with the values of its parameters, and what executed it, as text for the page."""
    given = {name: value for name, value in values.items() if value not in ("", [], "auto")}  # otherwise as it is
    words = [
        f"-p {name} {shlex.quote(str(value))}" if isinstance(value, str) else f"-y '{name}: {json.dumps(value)}'"
        for name, value in given.items()
    ]
    lines = [f"papermill book/{notebook}.ipynb out.ipynb -k python3 \\", f"    {' '.join(words)}"]
    if notebook in EXPERIMENTS:
        asked = [str(values[name]) for name in ("dataset", "profile")]
        lines.append(command(notebook, *asked, values["seeds"], values.get("protocol", "")))
    return "\n".join(["```bash", *lines, "```", "", executed()])


def executed() -> str:
    """What executed the notebook that asks, in a sentence."""
    origin = provenance.origin(ROOT)
    machine, versions = origin["hardware"], origin["versions"]
    commit, changed, _ = (origin["commit"] or "unknown").partition("-dirty")
    parts = [machine["processor"], f"{machine['cores']} cores"]
    parts += [f"{machine['memory (GiB)']} GiB of memory"] if "memory (GiB)" in machine else []
    parts += [machine["gpu"]] if "gpu" in machine else []
    return (
        f"This page was executed on {datetime.now(UTC):%Y-%m-%d %H:%M} (UTC) in {notebooks.elapsed():.0f} s, at commit "
        f"`{commit[:12]}`{', changed since,' * bool(changed)} with Python {versions['python']}, PyTorch "
        f"{versions['torch']} and NumPy {versions['numpy']}, on {', '.join(parts)}."
    )


def runs(results: Results) -> HTML:
    """Every run behind the numbers of a page, folded away: its row, seed, mAP, key in the store, and when it was made.

    ``where_from`` links to it.
    """
    table = pd.DataFrame(
        [
            {
                "row": label,
                "seed": seed,
                "mAP": one.mean_ap,
                "rank-1": one.rank_1,
                "run": one.key[:12],
                "trained": one.origin.get("when", ""),  # not kept in a recording
                "commit": (one.origin["commit"] or "unknown")[:9],
            }
            for (label, seed), one in results.runs.items()
        ]
    ).set_index("row")
    head = f"The {counted(len(table), 'run')} behind these numbers"
    return HTML(f'<details id="runs"><summary>{head}</summary>{styled(table).data}</details>')


def setting_table(setting: Setting) -> pd.DataFrame:
    """What all rows share, a line a setting."""
    flat = setting.model_dump() | setting.training.model_dump()
    del flat["training"]
    return pd.DataFrame({"value": [str(v) for v in flat.values()]}, index=pd.Index(flat, name="setting"))


def styled(table: pd.DataFrame) -> HTML:
    """A table for a page: four digits, an interval in one column, nothing for no value. All digits to take along."""
    shown = table.copy()
    if {"low", "high"} <= set(shown):
        interval = [f"{low:.4f} … {high:.4f}" for low, high in zip(shown["low"], shown["high"], strict=True)]
        shown.insert(shown.columns.get_loc("low"), f"{LEVEL:.0%} interval", interval)
        shown = shown.drop(columns=["low", "high"])
    if "seconds" in shown:
        shown["seconds"] = [f"{s:.1f}" for s in shown["seconds"]]
    named = shown.index.name is not None
    if named:
        shown = shown.rename_axis(index=None, columns=shown.index.name)  # the name of the rows in the header, not below
    # The page gives names their room, sets many columns smaller, and folds the cells of long texts.
    long = named and max((len(str(name)) for name in shown.index), default=0) > SHORT
    kinds = ["famf-names"] * long + ["famf-wide"] * (shown.shape[1] > 5)
    html = shown.to_html(index=named, border=0, classes=kinds, na_rep="", float_format="{:.4f}".format)
    html = re.sub(rf"<td>([^<]{{{LONG},}})</td>", r'<td class="famf-text">\1</td>', html)
    return HTML(f"{html}\n{_taken_along(table.to_csv(index=named))}")


def _taken_along(csv: str) -> str:
    """A link to a table with all its digits, which lies in the page itself."""
    data = base64.b64encode(csv.encode()).decode()
    link = f'<a class="famf-take" data-table download="table.csv" href="data:text/csv;base64,{data}">CSV</a>'
    return f'<p class="famf-take">{link}</p>'


def protocol(dataset: str, results: Results) -> str:
    """How the runs were split, trained and scored, in a paragraph."""
    spec = next(iter(results.runs.values())).spec
    source = datasets.get(dataset)
    split = {
        "given": "The source fixes which clips train and which are ranked; the gallery keeps its noise clips, training "
        "has none (Sec. 4.1). A seed decides the first weights and the faces that are sampled.",
        "groups": "No film of a person is on both sides: of each person's films a third, one or more, are ranked, the "
        "others train, and persons with a single film are left out. Every seed deals the films anew, so the interval "
        "covers the choice of films too.",
        "random": "A third of each person's clips are ranked and the others train, dealt anew by every seed.",
    }[spec.protocol]
    *others, last = spec.model.modalities or ("",)
    beside = f"{', '.join(others)} and {last}" if others else last
    given = f"The face is fused with {beside}." if beside else "There is the face alone: fusion mixes its clusters."
    if len({run.spec.model.modalities for run in results.runs.values()}) > 1:
        given = "Each row names what the face is fused with."
    return (
        f"Data: {source.title}. {split} {given} A run ranks the clips by {spec.evaluation.rank_by}; a person keeps the "
        f"best {spec.evaluation.k}, and AP divides by all the person's clips. Seeds: "
        f"{', '.join(map(str, results.seeds))}. All rows share the settings below."
    )


def choice(dataset: str, profile: Profile) -> str:
    """How the settings were chosen, in a paragraph."""
    place = tuning_file(dataset, profile)
    if not place.exists():
        return "These are the settings of the profile; nothing was chosen by a measurement."
    told = json.loads(place.read_text())
    grid = ", ".join(f"`{key}` among {' · '.join(map(str, values))}" for key, values in GRID.items())
    return (
        f"Chosen on the tuning part, which is never reported: {grid}. Its gallery is {HELD_OUT:.0%} of each person's "
        f"training films or clips. One choice serves all rows: the best mAP on average over the rows and the seeds "
        f"{', '.join(map(str, told['seeds']))}. `{told['command']}` repeats it. It gave:"
    )


def tuning_table(dataset: str, profile: Profile) -> pd.DataFrame | None:
    """Every setting that was tried, best first, with the mAP on the tuning part."""
    place = tuning_file(dataset, profile)
    if not place.exists():
        return None
    told = json.loads(place.read_text())
    table = pd.DataFrame([{k: str(v) for k, v in line.items() if k in GRID} | line["rows"] for line in told["table"]])
    table.insert(len(GRID), "all rows", [line["mean_ap"] for line in told["table"]])
    return table.sort_values("all rows", ascending=False, ignore_index=True)
