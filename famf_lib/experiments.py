"""The experiments of the book, declared: what is run, on what, with which settings.

An experiment is data that a reader can print. Its runs come from the run store; where the dataset is not here they come
from ``results/``, as they were recorded elsewhere.
"""

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
import torch

from famf_lib import datasets, provenance
from famf_lib.features import ClipSet
from famf_lib.files import ROOT, written_whole
from famf_lib.model import Config, ModelConfig
from famf_lib.runs import Run, RunSpec, obtain_all
from famf_lib.splits import Part, Protocol
from famf_lib.training import EvaluationConfig, TrainingConfig, pick_device

Profile = Literal["quick", "standard", "paper"]
Key = TypeVar("Key", bound=Hashable)
PROFILES: tuple[Profile, ...] = ("quick", "standard", "paper")
RESULTS = ROOT / "results"


class Setting(Config):
    """What all rows of a table share, so that they differ in nothing but the modules."""

    hidden: int
    features: Literal["raw", "unit"] = "raw"
    normalisation: Literal["none", "cluster", "cluster+whole"] = "none"
    training: TrainingConfig


# The sizes of a profile. ``paper`` is Sec. 4.3; the others shorten its schedule in proportion (50 of 80 epochs, then
# a tenth every 10) and shrink classifier and batch with the data.
BASE: dict[Profile, Setting] = {
    "quick": Setting(
        hidden=64, training=TrainingConfig(epochs=16, decay_after=10, decay_every=2, batch_size=64, faces=8)
    ),
    "standard": Setting(hidden=512, training=TrainingConfig(epochs=24, decay_after=15, decay_every=3, batch_size=256)),
    "paper": Setting(hidden=4096, training=TrainingConfig()),
}

# What is chosen on the tuning part, among these (the paper's values are the first of each).
GRID = {
    "normalisation": ("none", "cluster", "cluster+whole"),
    "features": ("raw", "unit"),
    "lr": (0.004, 0.001),
}
TUNING_SEEDS = (101, 102)


@dataclass(frozen=True)
class Variant:
    """A row of a table: a combination of modules."""

    label: str
    aggregation: str
    fusion: str

    @property
    def modules(self) -> tuple[str, str]:
        return self.aggregation, self.fusion

    def model(self, setting: Setting, modalities: tuple[str, ...]) -> ModelConfig:
        """The configuration of the row under a setting. The mean of faces knows no normalisation."""
        return ModelConfig(
            aggregation=self.aggregation,
            aggregation_options={} if self.aggregation == "mean" else {"normalisation": setting.normalisation},
            fusion=self.fusion,
            modalities=modalities,
            features=setting.features,
            hidden=setting.hidden,
        )


TABLE_1 = (
    Variant("Mean pooling + Concat", "mean", "concat"),
    Variant("NetVLAD + MMA", "netvlad", "mma"),
    Variant("GhostVLAD + Concat", "ghostvlad", "concat"),
    Variant("NeXtVLAD + Concat", "nextvlad", "concat"),
    Variant("NetVLAD + MLMA", "netvlad", "mlma"),
    Variant("AttentionVLAD + MMA", "attentionvlad", "mma"),
    Variant("AttentionVLAD + MLMA", "attentionvlad", "mlma"),
)
"""The six rows of the paper's Table 1, behind mean pooling, which it leaves out."""

TABLE_1_MODALITIES = ("audio", "body")  # Table 1's last row is the 0.8824 that Table 2 gives for Face+Audio+Body


def tuning_file(dataset: str, profile: Profile) -> Path:
    """Where the choice among ``GRID`` is recorded."""
    return RESULTS / f"tuning-{dataset}-{profile}.json"


def setting(dataset: str, profile: Profile) -> Setting:
    """The setting of a dataset in a profile: that of the profile, with what was chosen on the tuning part."""
    base = BASE[profile]
    if not tuning_file(dataset, profile).exists():
        return base
    return with_choice(base, json.loads(tuning_file(dataset, profile).read_text())["chosen"])


def with_choice(base: Setting, choice: dict[str, Any]) -> Setting:
    """A setting with one point of ``GRID``. The aggregation learns ten times as fast as the rest, as in Sec. 4.3."""
    training = base.training.model_dump() | {"lr": choice["lr"], "lr_aggregation": 10 * choice["lr"]}
    values = base.model_dump() | {k: choice[k] for k in ("normalisation", "features")}
    return Setting(**(values | {"training": TrainingConfig(**training)}))


def specs(
    variants: Iterable[Variant],
    dataset: str,
    used: Setting,
    seeds: Sequence[int],
    part: Part = "report",
    protocol: Protocol | None = None,
) -> dict[tuple[str, int], RunSpec]:
    """The runs of every variant and seed, by (label, seed), split as the dataset is reported or by another protocol."""
    source = datasets.get(dataset)
    modalities = tuple(m for m in TABLE_1_MODALITIES if m in source.modalities)
    return {
        (variant.label, seed): RunSpec(
            model=variant.model(used, modalities),
            training=used.training,
            evaluation=EvaluationConfig(faces=used.training.faces),
            protocol=protocol or source.protocol,
            part=part,
            seed=seed,
        )
        for variant, seed in product(variants, seeds)
    }


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of an experiment, by (label, seed), and where they come from.

    ``profile`` is that of the runs, which for a recording may not be the one asked for. ``recorded`` is what
    ``results/`` says of a recording that is shown in place of runs of this machine, or None.
    """

    runs: dict[tuple[str, int], Run]
    data: str
    profile: Profile
    recorded: dict[str, Any] | None = None

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for label, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for _, seed in self.runs})

    def ap(self, label: str) -> np.ndarray:
        """AP of a row: (seeds, persons), all persons of any seed, NaN where a run had none of their clips."""
        return pd.concat([self.runs[label, seed].ap for seed in self.seeds], axis=1).T.to_numpy()

    def mean_ap(self) -> pd.DataFrame:
        """mAP by label and seed."""
        values = {s: [self.runs[label, s].mean_ap for label in self.labels] for s in self.seeds}
        return pd.DataFrame(values, index=self.labels)


def table_1(
    dataset: str, profile: Profile, seeds: Sequence[int], device: str = "auto", protocol: str | None = None
) -> Results:
    """The runs of Table 1: read, or trained; from the recording where the dataset is not here.

    Args:
        protocol: how the clips are split; by default as the dataset is reported (see ``splits``).

    Raises:
        DatasetAbsent: neither the dataset nor a recording of it, under that protocol, is here.
        ValueError: an unknown dataset or protocol.
    """
    source = datasets.get(dataset)
    if protocol and protocol not in get_args(Protocol):
        raise ValueError(f"protocol: {protocol!r} is not known, expected one of {', '.join(get_args(Protocol))}")
    if absence := source.absence():
        recorded = find_recording("table-1", dataset, profile)
        if recorded is None or (protocol or source.protocol) != source.protocol:
            raise datasets.DatasetAbsent(absence)
        return recorded
    clipset = datasets.load(dataset, profile)
    wanted = specs(TABLE_1, dataset, setting(dataset, profile), seeds, protocol=protocol or None)
    return Results(run(wanted, clipset, pick_device(device), "Table 1"), clipset.fingerprint, profile)


EXPERIMENTS = {"table-1": table_1}
"""What ``famf run`` knows by name; the page of an experiment has the same name."""


def run(wanted: dict[Key, RunSpec], clipset: ClipSet, device: torch.device, label: str) -> dict[Key, Run]:
    """All of them under the names they were asked for, from the store or trained."""
    return dict(zip(wanted, obtain_all(list(wanted.values()), clipset, device, label), strict=True))


def tune(dataset: str, profile: Profile, device: str = "auto") -> dict[str, Any]:
    """Tries every point of ``GRID`` with every row of Table 1 on the tuning part, and writes the best down.

    One point serves all rows: the one with the best mAP, averaged over rows and seeds. Returns what was written.
    """
    clipset, where = datasets.load(dataset, profile), pick_device(device)
    points = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    wanted = {}
    for point in points:
        used = with_choice(BASE[profile], point)
        for (label, seed), spec in specs(TABLE_1, dataset, used, TUNING_SEEDS, part="tune").items():
            wanted[json.dumps(point), label, seed] = spec
    found = run(wanted, clipset, where, "tuning")
    table = []
    for point in points:
        of_rows = {
            v.label: float(np.mean([found[json.dumps(point), v.label, s].mean_ap for s in TUNING_SEEDS]))
            for v in TABLE_1
        }
        table.append(point | {"mean_ap": float(np.mean(list(of_rows.values()))), "rows": of_rows})
    best = max(table, key=lambda line: line["mean_ap"])
    result = {
        "command": f"famf tune {dataset} --profile {profile}",
        "data": clipset.fingerprint,
        "seeds": list(TUNING_SEEDS),
        "chosen": {key: best[key] for key in GRID},
        "table": table,
        "origin": _origin(),
    }
    with written_whole(tuning_file(dataset, profile)) as new:
        new.write_text(json.dumps(result, indent=1) + "\n")
    return result


def recording(experiment: str, dataset: str, profile: Profile) -> Path:
    """Where the numbers of an experiment are recorded for those who cannot run it."""
    return RESULTS / f"{experiment}-{dataset}-{profile}.json"


def record(results: Results, experiment: str, dataset: str, profile: Profile, command: str) -> Path:
    """Writes the numbers of an experiment to ``results/``: AP a person by position, without names or pictures."""
    content = {
        "experiment": experiment,
        "dataset": dataset,
        "profile": profile,
        "command": command,
        "data": results.data,
        "origin": _origin(),
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
    }
    target = recording(experiment, dataset, profile)
    with written_whole(target) as new:
        new.write_text(json.dumps(content) + "\n")
    return target


def find_recording(experiment: str, dataset: str, profile: Profile) -> Results | None:
    """The runs of a recording, those of the profile or else of the standard one.

    They have numbers only: no weights, and persons without names.
    """
    places = [recording(experiment, dataset, p) for p in (profile, "standard")]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        return None
    content = json.loads(place.read_text())
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
    recorded = {key: content[key] for key in ("command", "origin")}
    return Results(runs, content["data"], content["profile"], recorded)


def _origin() -> dict[str, Any]:
    return {"commit": provenance.commit(ROOT), "versions": provenance.versions(), "hardware": provenance.hardware()}
