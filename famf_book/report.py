"""Tables and sentences that pages show about runs. Nothing here trains, and every number comes from a run."""

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, Markdown, display

from famf_book import notebooks, plots
from famf_lib.data import datasets, iqiyi
from famf_lib.data.splits import HELD_OUT
from famf_lib.evidence import ledger
from famf_lib.evidence.bootstrap import LEVEL, estimate
from famf_lib.evidence.claims import Comparison
from famf_lib.evidence.ledger import Entry
from famf_lib.experiments.catalogue import EXPERIMENTS
from famf_lib.experiments.parameters import Profile, SettingName
from famf_lib.experiments.results import Results, command, find_recording
from famf_lib.experiments.settings import DECIDING, GRID, SHORT, row_settings, tuned
from famf_lib.support import provenance
from famf_lib.support.files import ROOT
from famf_lib.support.wording import counted

LONG = 28  # characters from which the text of a cell may fold
NUMBER = r"[-+]?\d*\.?\d+(?:e[-+]\d+)?"  # has a letter where it is small, and is no text
NARROW = 16  # characters up to which row names need no wider column
_RUNS = '<a href="#runs">all runs</a>'  # the anchor of the list that ``runs`` makes
RECORDED_DIGITS = 1e-5  # a recording keeps five digits of each AP


def rows(results: Results, printed: dict[str, float | None]) -> pd.DataFrame:
    """One row per variant: the paper's mAP (NaN if not printed), ours with its interval, rank-1, seconds per training.

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


def comparison_table(compared: Mapping[SettingName, Sequence[Comparison]]) -> pd.DataFrame:
    """One row per comparison: the paper's difference, ours under the deciding setting, and the verdict under each."""
    decided = compared[DECIDING]
    several = len({c.claim for c in decided}) > 1  # the name of a single claim would be on every line
    table = pd.DataFrame(
        {
            "paper": pd.Series([c.paper for c in decided], dtype=float).to_numpy(),
            "ours": [c.ours.mean for c in decided],
            "low": [c.ours.low for c in decided],
            "high": [c.ours.high for c in decided],
        },
        index=pd.Index([c.name if several else c.case for c in decided], name="comparison"),
    ).dropna(axis=1, how="all")
    for setting, comparisons in compared.items():
        table[SHORT[setting]] = [c.outcome for c in comparisons]
    return table


def other_datasets(experiment: str, found: Mapping[str, Mapping[SettingName, Results]]) -> None:
    """Shows the comparisons of an experiment on every dataset but the first, as a figure and a table."""
    for name, of_settings in list(found.items())[1:]:
        compared = {setting: ledger.comparisons(experiment, results) for setting, results in of_settings.items()}
        display(Markdown(f"### On {called(name)}\n\n{where_from(of_settings[DECIDING])}"))
        display(plots.differences(compared), styled(comparison_table(compared)))
        plt.close()


def verdicts(entries: Sequence[Entry]) -> list[str]:
    """One sentence per claim: its verdict, how many parts hold, and what the settings say."""
    return [f"“{entry.claim.short}”: {verdict(entry)}." for entry in entries]


def verdict(entry: Entry) -> str:
    """The verdict on a claim in words, how many of its parts hold, and what the settings say."""
    if entry.verdict is None:
        return f"not tested, {entry.reason}"
    held = f" ({entry.deciding.held})" if entry.deciding.held else ""
    return f"**{entry.verdict}**{held}; {entry.by_setting}"


def answer(experiment: str, found: Mapping[str, Mapping[SettingName, Results]]) -> str:
    """The verdicts on the claims of an experiment as a list in Markdown: by dataset, then by claim."""
    items = []
    for name, of_settings in found.items():
        sentences = verdicts(ledger.entries(experiment, name, of_settings))
        before = " " if len(sentences) == 1 else "\n  - "
        items.append(f"- On {called(name)}:" + "".join(before + sentence for sentence in sentences))
    return "\n".join(items)


def called(dataset: str) -> str:
    """What a dataset is called in sentences, such as "real faces (`imfdb`)"."""
    words = {
        "synthetic": "generated persons",
        "imfdb": "real faces",
        "chimera": "real faces with other people's voices",
    }
    return f"{words[dataset]} (`{dataset}`)" if dataset in words else f"`{dataset}`"


def where_from(results: Results) -> str:
    """Whether the runs were made on this machine or recorded elsewhere, and how."""
    if results.recorded is None:
        when = max(run.origin["when"] for run in results.runs.values())
        return f"Trained on this machine, last run {when}; data fingerprint `{results.data}`; {_RUNS}."
    origin = made_by(results).removesuffix(".")
    return f"**Recorded, not run here**: the dataset is not on this machine. {origin}; {_RUNS}."


def made_by(results: Results) -> str:
    """The command, commit, machine, PyTorch version, profile, number of seeds and data of a recording."""
    recorded, origin = results.recorded, results.recorded["origin"]
    hardware = origin["hardware"]
    machine = f"{hardware['processor']}, {hardware['cores']} cores"
    if recorded.get("device") != "cpu":  # older recordings name no device; they used the GPU if there was one
        machine = hardware.get("gpu") or machine
    seeds = counted(len(results.seeds), "seed")
    alone = ", so that intervals reflect variation over people alone" * (len(results.seeds) == 1)
    return (
        f"Recorded with `{recorded['command']}` at commit `{(origin['commit'] or 'unknown')[:12]}` on {machine}, "
        f"PyTorch {origin['versions']['torch']}; profile {results.profile}; {seeds}{alone}; "
        f"data fingerprint `{results.data}`."
    )


def beside_full_size(table: pd.DataFrame, full: Results) -> pd.DataFrame:
    """mAP of each row on this page and, with its interval, as recorded at the paper's full size."""
    recorded = rows(full, {})
    return pd.DataFrame(
        {
            "paper": table["paper"],
            "this page, as printed": table["ours"],
            "full size": recorded["ours"],
            "low": recorded["low"],
            "high": recorded["high"],
            "rank-1": recorded["rank-1"],
            "seconds": recorded["seconds"],
        },
        index=[label for label in table.index if label in recorded.index],
    ).rename_axis("row")


def is_the_papers(dataset: str) -> bool:
    """Whether a dataset is the paper's own, whatever its name here."""
    return datasets.get(dataset).title == iqiyi.TITLE


def beside_paper(dataset: str) -> str:
    """How results on a dataset may be compared with the paper's values, in a sentence."""
    if is_the_papers(dataset):
        return (
            "The paper's values are those of the same data: mAP can be compared directly where the settings below "
            "match the paper's, as in the profile `paper`."
        )
    return (
        f"The paper's values are for {iqiyi.TITLE}, which is not the dataset of this page: compare the order of the "
        "rows and the differences between them, not the mAP itself."
    )


def beside_recording(results: Results, recorded: Results | None) -> str | None:
    """How new runs compare with the recorded ones, in a sentence; None if there are not both."""
    if results.recorded is not None or recorded is None:
        return None
    if results.data != recorded.data:
        return f"The recorded runs used other data (fingerprint `{recorded.data}`), so they cannot be compared."
    both = [key for key in results.runs if key in recorded.runs]
    same = [key for key in both if results.runs[key].spec == recorded.runs[key].spec]
    if not same:
        return "The recorded runs have other settings or seeds, so they cannot be compared."
    apart = {key: abs(results.runs[key].mean_ap - recorded.runs[key].mean_ap) for key in same}
    worst = max(apart, key=apart.get)
    differ = sum(d >= RECORDED_DIGITS for d in apart.values())
    if not differ:
        return f"All {len(same)} runs reproduce the recorded numbers."
    new, old = (sum(r.runs[key].mean_ap for key in same) / len(same) for r in (results, recorded))
    return (
        f"{differ} of {len(same)} runs differ from the recorded ones, by at most {apart[worst]:.4f} mAP ({worst[0]}, "
        f"seed {worst[1]}); the mean mAP of all runs differs by {abs(new - old):.4f}."
    )


def again(notebook: str, **values: Any) -> str:
    """The commands that execute a page again with the same parameters, then ``executed``, as Markdown."""
    given = {name: value for name, value in values.items() if value not in ("", [], "auto")}  # the others are defaults
    words = shlex.join(notebooks.papermill_options(given))
    lines = [f"papermill book/{notebook}.ipynb out.ipynb -k python3 \\", f"    {words}"]
    if notebook in EXPERIMENTS:
        asked = [str(values[name]) for name in ("dataset", "profile")]
        lines.append(command(notebook, *asked, values["seeds"], values.get("protocol", "")))
    return "\n".join(["```bash", *lines, "```", "", executed()])


def executed() -> str:
    """When, how long and on which software and machine the calling notebook was executed, in a sentence."""
    origin = provenance.origin(ROOT)
    machine, versions = origin["hardware"], origin["versions"]
    commit, changed, _ = (origin["commit"] or "unknown").partition("-dirty")
    parts = [machine["processor"], f"{machine['cores']} cores"]
    parts += [f"{machine['memory (GiB)']} GiB of memory"] if "memory (GiB)" in machine else []
    parts += [machine["gpu"]] if "gpu" in machine else []
    return (
        f"This page was executed on {datetime.now(UTC):%Y-%m-%d %H:%M} (UTC) in {notebooks.elapsed():.0f} s, at commit "
        f"`{commit[:12]}`{' with uncommitted changes' * bool(changed)}, with Python {versions['python']}, PyTorch "
        f"{versions['torch']} and NumPy {versions['numpy']}, on {', '.join(parts)}."
    )


def runs(found: Mapping[SettingName, Results]) -> HTML:
    """A folded table of all runs of a page: row, setting, seed, mAP, key in the store, when it was trained, the commit.

    ``where_from`` links to it.
    """
    lines = [
        {
            "row": label,
            "setting": SHORT[setting],
            "seed": seed,
            "mAP": one.mean_ap,
            "rank-1": one.rank_1,
            "run": one.key[:12],
            "trained": one.origin.get("when", ""),  # a recording has no dates
            "commit": (one.origin["commit"] or "unknown")[:9],
        }
        for setting, results in found.items()
        for (label, seed), one in results.runs.items()
    ]
    table = pd.DataFrame(lines).set_index("row")
    head = f"The {counted(len(table), 'run')} behind these numbers"
    return HTML(f'<details id="runs"><summary>{head}</summary>{styled(table).data}</details>')


def points(experiment: str, dataset: str, profile: Profile, labels: Sequence[str]) -> pd.DataFrame:
    """The tuned points that these rows use, by the row that each was tuned for, and the shared one.

    It is empty if nothing was tuned.
    """
    if tuned(dataset, profile) is None:
        return pd.DataFrame(columns=list(GRID))
    labels = dict.fromkeys(v.tuned_as or v.label for v in EXPERIMENTS[experiment].variants if v.label in labels)
    own, shared = (row_settings(dataset, profile, name) for name in ("own", "shared"))
    chosen = {label: own.choice(label).model_dump() for label in labels}
    chosen["all rows, one shared choice"] = shared.common.model_dump()
    return pd.DataFrame.from_dict(chosen, orient="index").rename_axis("row").astype(str)


def footer(notebook: str, found: Mapping[SettingName, Results], **values: Any) -> None:
    """The end of a page of results: data and split, tuning, recorded runs, the commands to repeat it, every run.

    ``values`` are the parameters of the notebook.
    """
    results = found[DECIDING]
    dataset = values["dataset"]
    tuning = choice(dataset, results.profile, notebook)
    display(Markdown(f"{where_from(results)} {protocol(dataset, results)} {tuning}"))
    if len(table := points(notebook, dataset, results.profile, results.labels)):
        display(styled(table))
    said = beside_recording(results, find_recording(notebook, dataset, results.profile))
    display(Markdown("\n\n".join(filter(None, [said, again(notebook, **values)]))))
    display(runs(found))


def styled(table: pd.DataFrame) -> HTML:
    """A table as HTML: four digits, the interval in one column, empty cells for NaN, and a link to all digits."""
    shown = table.copy()
    if {"low", "high"} <= set(shown):
        interval = [f"{low:.4f} … {high:.4f}" for low, high in zip(shown["low"], shown["high"], strict=True)]
        shown.insert(shown.columns.get_loc("low"), f"{LEVEL:.0%} interval", interval)
        shown = shown.drop(columns=["low", "high"])
    if "seconds" in shown:
        shown["seconds"] = [f"{s:.1f}" for s in shown["seconds"]]
        shown = shown.rename(columns={"seconds": "seconds per training"})
    if {"ours", SHORT[DECIDING]} <= set(shown):  # beside verdicts under every setting
        shown = shown.rename(columns={"ours": f"ours ({SHORT[DECIDING]})"})
    named = shown.index.name is not None
    if named:
        shown = shown.rename_axis(
            index=None, columns=shown.index.name
        )  # the name of the index in the header row, not below it
    # The stylesheet widens the column of names, shrinks wide tables, and folds cells, but no interval.
    long = named and max((len(str(name)) for name in shown.index), default=0) > NARROW
    kinds = ["famf-names"] * long + ["famf-wide"] * (shown.shape[1] > 5)
    digits = {column: "{:,}".format for column in shown if pd.api.types.is_integer_dtype(shown[column])}
    html = shown.to_html(
        index=named, border=0, classes=kinds, na_rep="", float_format="{:.4f}".format, formatters=digits
    )
    html = re.sub(rf"<td>([^<]{{{LONG},}})</td>", r'<td class="famf-left famf-text">\1</td>', html)
    text = rf"<td>(?!{NUMBER}<)([^<]*[^\W\d_][^<]*)</td>"  # it has a letter
    html = re.sub(text, r'<td class="famf-left">\1</td>', html)
    for column in shown:
        texts = [value for value in shown[column] if isinstance(value, str) and not re.fullmatch(NUMBER, value)]
        if any(re.search(r"[^\W\d_]", text) for text in texts):
            html = html.replace(f"<th>{escape(str(column))}</th>", f'<th class="famf-left">{escape(str(column))}</th>')
    html = re.sub(r"(?<=[a-z])\+(?=[A-Z])", "+<wbr>", html)  # Face+Audio+Body may fold
    html = re.sub(r"(?<![\w-])-(?=\.?\d)", "−", html)  # a minus, not a hyphen
    html = re.sub(r"\[[−+\d.]+, [−+\d.]+\]|[−+\d.]+ … [−+\d.]+", r'<span class="famf-interval">\g<0></span>', html)
    return HTML(f"{html}\n{_taken_along(table.to_csv(index=named))}")


def _taken_along(csv: str) -> str:
    """A link to the table as CSV with all digits, embedded in the page."""
    data = base64.b64encode(csv.encode()).decode()
    link = f'<a class="famf-take" data-table download="table.csv" href="data:text/csv;base64,{data}">CSV</a>'
    return f'<p class="famf-take">{link}</p>'


def protocol(dataset: str, results: Results) -> str:
    """How the runs were split, trained and scored, in a paragraph."""
    spec = next(iter(results.runs.values())).spec
    source = datasets.get(dataset)
    split = {
        "given": "The dataset defines which clips are for training and which are ranked; noise clips stay in the "
        "gallery and out of training (Sec. 4.1). A seed determines the initial weights and the sampled faces.",
        "groups": "No film of a person is on both sides of the split: a third of each person's films, at least one, "
        "are ranked, and the others are for training; persons with a single film are left out. Each seed uses a new "
        "split, so the interval also reflects the choice of films.",
        "random": "A third of each person's clips are ranked and the others are for training. Each seed uses a new "
        "split.",
    }[spec.protocol]
    *others, last = spec.model.modalities or ("",)
    beside = f"{', '.join(others)} and {last}" if others else last
    given = f"The face is fused with {beside}." if beside else "There is only the face: the fusion mixes its clusters."
    if len({run.spec.model.modalities for run in results.runs.values()}) > 1:
        given = "Each row names the modalities that the face is fused with."
    return (
        f"Data: {source.title}. {split} {given} Clips are ranked by {spec.evaluation.rank_by}. AP is computed on the "
        f"top {spec.evaluation.k} per person and divides by the number of all the person's clips. Seeds: "
        f"{', '.join(map(str, results.seeds))}."
    )


def choice(dataset: str, profile: Profile, notebook: str) -> str:
    """How the settings of a page were chosen: a paragraph that introduces ``points``."""
    record = tuned(dataset, profile)
    if record is None:
        return "Nothing was tuned on this dataset in this profile, so the three settings are one: as printed."
    grid = ", ".join(f"`{key}` among {' · '.join(map(str, values))}" for key, values in record["grid"].items())
    budget = " and ".join(f"{what} with seed {', '.join(map(str, s))}" for what, s in record["seeds"].items())
    commands = f"`{record['command']}`"
    if later := record["later"].get(notebook):
        commands += f", and for the rows that only this page has `{later}`"
    return (
        f"The tuned points were chosen from {grid}, on a held-out part of the training data ({HELD_OUT:.0%} of each "
        f"person's training films or clips), whose results are reported nowhere else. Every row had the same budget: "
        f"{budget}. To repeat it, run {commands}."
    )
