"""The runs in the store as a table: dataset, profile, experiment and row of each; and names for a run made of these.

A run may belong to rows of several experiments, and then has several lines. What a run does not record is found by
comparing it with the rows that the experiments declare.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pandas as pd
from safetensors import safe_open

from famf_lib.data import datasets
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, specs
from famf_lib.experiments.run_store import Run, name_of, open_run, read_record
from famf_lib.experiments.settings import BASE, SHORT, row_settings
from famf_lib.support.files import store

COLUMNS = ("key", "when", "dataset", "profile", "experiment", "row", "setting", "seed", "mAP")
SAID = ("dataset", "profile", "experiment", "row", "setting")  # what may stand in the name of a run
PICKED = ("latest", "best")
UNKNOWN = "—"


def run_table(say: Callable[[str], None] = lambda sentence: None) -> pd.DataFrame:
    """One line per run and experiment, oldest first. ``say`` gets a sentence for each damaged run, which is omitted."""
    lines, names, rows_of = [], cache(_names), cache(_rows)
    for path in (store() / "runs").glob("*/run.json"):
        try:
            record = read_record(path.parent)
        except ValueError as error:
            say(f"{error}; left out")
            continue
        spec, model = record["spec"], record["spec"]["model"]
        profile = next((p for p, s in BASE.items() if s.training.epochs == spec["training"]["epochs"]), UNKNOWN)
        dataset = record.get("dataset") or names().get(record["data"], UNKNOWN)
        line = {"key": record["key"], "when": record["origin"]["when"], "dataset": dataset, "profile": profile}
        line |= {"seed": spec["seed"], "mAP": record["mean_ap"]}
        named = ", ".join(("face", *map(str, model["modalities"])))
        other = {"experiment": UNKNOWN, "row": f"{model['aggregation']} + {model['fusion']} ({named})"}
        other |= {"setting": "tuning" if spec["part"] == "tune" else UNKNOWN}
        decided = _decided(spec) if spec["part"] == "report" else ""
        lines += [line | row for row in rows_of(dataset, profile).get(decided, [other])]
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    return table.sort_values(["when", "key"], kind="stable", ignore_index=True)


def chosen(table: pd.DataFrame, words: dict[str, str], best: bool = False) -> pd.DataFrame:
    """The lines whose columns have these values, in any case; ``best`` leaves the best run of each row and dataset.

    Raises:
        ValueError: no line has such a value.
    """
    for column, word in words.items():
        fits = [_is(word, value) for value in table[column]]
        if not any(fits):
            there = ", ".join(dict.fromkeys(table[column])) or "a run in the store"
            raise ValueError(f"--{column}: {word!r} found in no run, expected one of {there}")
        table = table[fits]
    if best and len(table):
        of_row = table.groupby(["dataset", "profile", "experiment", "row"], sort=False)["mAP"]
        table = table.loc[sorted(of_row.idxmax())]
    return table


def find_run(name: str) -> Run:
    """The run of this key, folder, or name such as ``latest:table-1/FAMF`` or ``best:mine/table-1/FAMF``.

    The words of a name, in any order, are values of dataset, profile, experiment, row or setting.

    Raises:
        ValueError: there is none, or the run is damaged.
    """
    how, _, words = name.partition(":")
    if how not in PICKED or not words:
        return open_run(name)
    table = run_table()
    for word in words.split("/"):
        fits = [any(_is(word, line[column]) for column in SAID) for _, line in table.iterrows()]
        if not any(fits):
            raise ValueError(f"run: no run with {word!r} found for {name!r}, expected words that famf runs shows")
        table = table[fits]
    return open_run(table["key"][table["mAP"].idxmax() if how == "best" else table.index[-1]])


def _is(word: str, value: str) -> bool:
    """Whether a word says a value of the table, or one of several settings."""
    word = FAMF.label if word.casefold() == "famf" else word
    return word.casefold() in (value.casefold(), *value.casefold().split(", "))


def _rows(dataset: str, profile: str) -> dict[str, list[dict[str, str]]]:
    """The rows that experiments declare on a dataset, by what decides their runs besides data and seed."""
    try:
        source, found = datasets.get(dataset), {}
    except ValueError:  # it was removed, or is damaged
        return {}
    for experiment in EXPERIMENTS.values():
        for setting in experiment.settings if profile in BASE and experiment.serves(source) else ():
            declared = specs(experiment.variants, source, row_settings(dataset, profile, setting), [0])
            for (label, _), spec in declared.items():
                of_row = found.setdefault(_decided(spec.model_dump(mode="json")), {})
                of_row.setdefault((experiment.name, label), []).append(SHORT[setting])
    return {
        decided: [{"experiment": e, "row": r, "setting": ", ".join(used)} for (e, r), used in of_row.items()]
        for decided, of_row in found.items()
    }


def _decided(spec: dict[str, Any]) -> str:
    return json.dumps([spec[part] for part in ("model", "training", "evaluation")], sort_keys=True)


def _names() -> dict[str, str]:
    """The names of the datasets in the store by their fingerprints, for runs that were stored without a name."""
    found = {}
    for arrays in [*(store() / "imported").glob("*/arrays.safetensors"), *(store() / "clipsets").glob("*/arrays.*")]:
        with suppress(Exception):  # a damaged one, which famf data verify tells
            with safe_open(arrays, framework="np") as file:
                found[file.metadata()["fingerprint"]] = name_of(arrays.parent)
    return found
