"""The numbers of an experiment: trained, read from the store, or, where the dataset is not here, from ``results/``."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments import plugins, settings
from famf_lib.experiments.catalogue import EXPERIMENTS, SIMPLE, Experiment, get_experiment, specs
from famf_lib.experiments.parameters import Profile, SettingName
from famf_lib.experiments.probes import ask_all
from famf_lib.experiments.run_store import Run, RunSpec, from_outside, get_or_train_all
from famf_lib.experiments.settings import DECIDING, TITLES, row_settings
from famf_lib.support import provenance
from famf_lib.support.errors import Refusal
from famf_lib.support.files import ROOT, written_whole
from famf_lib.support.untrusted import check_parquet, read_json
from famf_lib.support.wording import plain
from famf_lib.training.train import pick_device

Key = TypeVar("Key", bound=Hashable)


class ExperimentRefused(Refusal, ValueError):
    """The dataset lacks what the experiment needs."""


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of an experiment by (label, seed), the answers of its probes, and their origin.

    ``answers[probe]`` is a table with the columns label, seed and those of the probe. ``profile`` is that of the runs;
    a recording may have another profile than was requested. ``recorded`` is the header of the recording, or None if
    the runs were made on this machine. ``setting`` is the one that the rows were trained with (see ``settings``), and
    ``simple`` the mAP of mean pooling under it: where that is close to 1, a dataset is too easy to tell rows apart.
    """

    runs: dict[tuple[str, int], Run]
    data: str
    profile: Profile
    setting: SettingName = DECIDING
    simple: float | None = None
    answers: dict[str, pd.DataFrame] = field(default_factory=dict)
    recorded: dict[str, Any] | None = None

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for label, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for _, seed in self.runs})

    def ap(self, label: str) -> np.ndarray:
        """The AP of a row (seeds, persons); NaN for persons without a clip in the gallery of a seed.

        Raises:
            ValueError: there is no such row.
        """
        if label not in self.labels:
            where = self.recorded["file"] if self.recorded else "runs"
            raise ValueError(f"{where}: no row {label!r} found, expected one of {plain(', '.join(self.labels), 300)}")
        return pd.concat([self.runs[label, seed].ap for seed in self.seeds], axis=1).T.to_numpy()

    def mean_ap(self) -> pd.DataFrame:
        """mAP by label and seed."""
        values = {s: [self.runs[label, s].mean_ap for label in self.labels] for s in self.seeds}
        return pd.DataFrame(values, index=self.labels)

    def answer(self, probe: str, label: str, value: str, **where: Any) -> np.ndarray:
        """One column of a probe's answer as (seeds, persons), for the rows whose other columns equal ``where``.

        It has all persons of the runs, so that two answers can be subtracted; NaN for missing values.
        """
        table = self.answers[probe]
        chosen = (table["label"] == label) & (table["person"] >= 0)
        for column, wanted in where.items():
            chosen &= table[column] == wanted
        wide = table[chosen].pivot(index="seed", columns="person", values=value)
        persons = max(len(run.ap) for run in self.runs.values())
        return wide.reindex(index=self.seeds, columns=range(persons)).to_numpy(dtype=float)


def run_experiment(
    experiment: str | Experiment,
    dataset: str,
    profile: str,
    seeds: Sequence[int] = (),
    device: str = "auto",
    protocol: str = "",
    setting: str = DECIDING,
) -> Results:
    """The results of an experiment: read from the store or made now; from a recording if the dataset is absent.

    Args:
        experiment: the name of one of the book's experiments, or one of your own.
        seeds: by default those of the experiment.
        protocol: how the clips are split; by default the dataset's own protocol (see ``splits``).
        setting: how normalisation, features and learning rates were chosen (see ``settings``).

    Raises:
        DatasetAbsent: neither the dataset nor a recording of it under this protocol is available.
        ValueError: an unknown experiment, dataset, profile, protocol or setting, an invalid seed, or a dataset that the
            experiment cannot use.
    """
    experiment = get_experiment(experiment) if isinstance(experiment, str) else experiment
    source, used = datasets.get(dataset), row_settings(dataset, profile, setting)
    if not experiment.serves(source):
        there = ", ".join(source.modalities)
        found = f"{there} and no other modality" if there else "faces alone"
        expected = "expected a dataset with the modalities that it is about"
        raise ExperimentRefused(f"{experiment.name}: {dataset} has {found}, {expected}")
    if absence := source.absence():
        recorded = find_recording(experiment.name, dataset, profile, setting)
        if recorded is None or (protocol or source.protocol) != source.protocol:
            raise datasets.DatasetAbsent(absence)
        return recorded
    seeds = seeds or experiment.seeds
    wanted = specs(experiment.variants, source, used, seeds, protocol=protocol or None)  # refuses a bad seed
    clipset, place = datasets.load(dataset, profile), pick_device(device)
    simple = specs([SIMPLE], source, used, seeds, protocol=protocol or None)
    runs = run(simple | wanted, clipset, place, f"{experiment.title}, {TITLES[setting]}")
    level = float(np.mean([runs[key].mean_ap for key in simple]))
    runs = {key: runs[key] for key in wanted}
    found = ask_all(list(runs.values()), experiment.probes, clipset, place, f"{experiment.title}, probes")
    answers = {probe: _labelled(runs, tables) for probe, tables in found.items()}
    return Results(runs, clipset.fingerprint, profile, setting, level, answers)


def run_settings(
    experiment: str | Experiment,
    dataset: str,
    profile: str,
    seeds: Sequence[int] = (),
    device: str = "auto",
    protocol: str = "",
) -> dict[SettingName, Results]:
    """The results of an experiment under each of its settings (see ``run_experiment``)."""
    experiment = get_experiment(experiment) if isinstance(experiment, str) else experiment
    return {s: run_experiment(experiment, dataset, profile, seeds, device, protocol, s) for s in experiment.settings}


def run_available(
    experiment: str | Experiment, names: Sequence[str], profile: str, seeds: Sequence[int] = (), device: str = "auto"
) -> dict[str, dict[SettingName, Results]]:
    """``run_settings`` on the first dataset, and on the others that are here or recorded and that it can use.

    Raises:
        DatasetAbsent, ValueError: as ``run_experiment``, for the first dataset.
    """
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = run_settings(experiment, name, profile, seeds, device)
        except (datasets.DatasetAbsent, ExperimentRefused):
            if not found:
                raise
    return found


def attention_share(results: Results, label: str, row: str, column: str) -> tuple[np.ndarray, float]:
    """The share of a token's attention that goes to a modality, (seeds, persons), and an even share for comparison.

    ``row`` and ``column`` name a modality. The K clusters of "face" are averaged as rows and summed as columns.
    """
    table = results.answers["attention"]
    table = table[(table["label"] == label) & (table["person"] >= 0)]
    names = table["column"].unique()
    rows, columns = ([name for name in names if name.split()[0] == kind] for kind in (row, column))  # "face 3" is face
    chosen = table[table["row"].isin(rows) & table["column"].isin(columns)]
    share = chosen.groupby(["seed", "person", "row"])["weight"].sum().groupby(["seed", "person"]).mean().unstack()
    persons = max(len(run.ap) for run in results.runs.values())
    even = len(columns) / len(names)
    return share.reindex(index=results.seeds, columns=range(persons)).to_numpy(dtype=float), even


def command(experiment: str, dataset: str, profile: str, seeds: Sequence[int], protocol: str = "") -> str:
    """The command that repeats the runs of an experiment."""
    rows = EXPERIMENTS[experiment].variants if experiment in EXPERIMENTS else ()
    option = plugins.option() if any(from_outside(*row.modules) for row in rows) else ""
    words = [f"famf{option} run", experiment, f"-p dataset {dataset}", f"-p profile {profile}"]
    words += [f"-p seeds {','.join(map(str, seeds))}"] + [f"-p protocol {protocol}"] * bool(protocol)
    return " ".join(words)


def run(wanted: dict[Key, RunSpec], clipset: ClipSet, device: torch.device, label: str) -> dict[Key, Run]:
    """All of them under the names they were asked for, from the store or trained."""
    return dict(zip(wanted, get_or_train_all(list(wanted.values()), clipset, device, label), strict=True))


def _labelled(runs: dict[tuple[str, int], Run], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    named = [t.assign(label=label, seed=seed) for (label, seed), t in zip(runs, tables, strict=True)]
    return pd.concat(named, ignore_index=True)


# --- recordings ------------------------------------------------------------------------------------------------------


def recording(experiment: str, dataset: str, profile: Profile, setting: SettingName = DECIDING) -> Path:
    """Where the numbers of an experiment are recorded for those who cannot run it."""
    return settings.RESULTS / f"{experiment}-{dataset}-{profile}-{setting}.json"


def record(results: Results, experiment: str, dataset: str, command: str, folder: Path | None = None) -> Path:
    """Writes the numbers of an experiment to ``results/``, with five digits and without names or pictures of persons.

    The runs are a JSON file, whose path is returned. The answers of each probe are a Parquet file beside it. ``folder``
    takes the place of ``results/``.
    """
    content = {
        "experiment": experiment,
        "dataset": dataset,
        "profile": results.profile,
        "setting": results.setting,
        "simple": None if results.simple is None else round(results.simple, 5),
        "command": command,
        "device": next((run.origin.get("device") for run in results.runs.values()), None),
        "data": results.data,
        "origin": provenance.origin(ROOT, but="results"),  # another setting may just have been recorded there
        "runs": [
            {
                "label": label,
                "seed": seed,
                "key": one.key,
                "rank_1": one.rank_1,
                "seconds": round(one.seconds, 2),
                "loss": one.losses[-1],
                "spec": one.spec.model_dump(mode="json"),
                "ap": [None if np.isnan(v) else round(float(v), 5) for v in one.ap],
            }
            for (label, seed), one in results.runs.items()
        ],
        "answers": list(results.answers),
    }
    target = recording(experiment, dataset, results.profile, results.setting)
    target = target if folder is None else folder / target.name
    for probe, table in results.answers.items():
        floats = table.select_dtypes("floating").astype(float).round(5)
        with written_whole(_answers(target, probe)) as new:
            table.assign(**floats).to_parquet(new, index=False, compression="zstd", compression_level=19)
    with written_whole(target) as new:
        new.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return target


def _answers(recording: Path, probe: str) -> Path:
    """The table of a probe's answers beside its recording."""
    return recording.with_name(f"{recording.stem}-{probe}.parquet")


def full_size(experiment: str, dataset: str, profile: Profile, setting: SettingName = DECIDING) -> Results | None:
    """The recording of the profile ``paper``, to compare with results of a smaller one; None if there is none."""
    there = profile != "paper" and recording(experiment, dataset, "paper", setting).exists()
    return find_recording(experiment, dataset, "paper", setting) if there else None


def find_recording(experiment: str, dataset: str, profile: Profile, setting: SettingName = DECIDING) -> Results | None:
    """The results of a recording, those of the profile or else of the standard one.

    They have numbers only: no weights, and persons without names.
    """
    places = [recording(experiment, dataset, p, setting) for p in (profile, "standard")]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        return None
    try:
        return _read(place)
    except Exception as error:  # each reader raises errors of its own for a damaged file
        raise ValueError(f"{place}: a damaged recording found ({plain(error, 300)}), expected it as it was") from error


def _read(place: Path) -> Results:
    content = read_json(place)
    runs = {
        (line["label"], line["seed"]): Run(
            spec=RunSpec(**line["spec"]),
            key=line["key"],
            ap=pd.Series(line["ap"], dtype=float),
            rank_1=line["rank_1"],
            losses=[line["loss"]],
            seconds=line["seconds"],
            origin=content["origin"],
        )
        for line in content["runs"]
    }
    recorded = {key: content[key] for key in ("command", "origin", "device") if key in content} | {"file": str(place)}
    answers = {}
    for probe in content["answers"]:
        check_parquet(_answers(place, probe))
        answers[probe] = pd.read_parquet(_answers(place, probe))
    of_it = (content["data"], content["profile"], content["setting"], content["simple"])
    found = Results(runs, *of_it, answers, recorded)
    if not runs:
        raise ValueError("runs: none")
    for label in found.labels:
        found.ap(label)  # of every seed
    found.mean_ap()
    return found
