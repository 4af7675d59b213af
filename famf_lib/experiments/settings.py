"""The settings under which the rows of a table are compared, and what was tuned for each row.

Normalisation, feature scale and learning rate decide which row wins, so every comparison is made under three settings:

printed  what the paper prints, for all rows; nothing is chosen
own      each row at its own best point of ``GRID``, chosen on the tuning part with the same budget for every row
shared   one point for all rows, the one with the best mean mAP over the rows of Table 1

The verdict on a claim is that of ``own``; the other two show whether it depends on the setting. This was decided before
the runs under ``own`` and ``printed`` were made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from famf_lib.experiments import parameters
from famf_lib.experiments.parameters import Profile, SettingName
from famf_lib.models.aggregation import Normalisation
from famf_lib.models.config import Config
from famf_lib.support.files import ROOT
from famf_lib.training.train import TrainingConfig

RESULTS = ROOT / "results"

DECIDING: SettingName = "own"
TITLES: dict[SettingName, str] = {
    "printed": "as printed",
    "own": "with each row at its own best",
    "shared": "with one shared choice",
}
SHORT: dict[SettingName, str] = {"printed": "as printed", "own": "own best", "shared": "shared"}
"""Their names in sentences, and in legends and tables."""


class Choice(Config):
    """A point of ``GRID``; the defaults are the paper's. The aggregation has ten times the rate ``lr`` (Sec. 4.3).

    The normalised forms of a baseline are those that its authors published: NeXtVLAD's include its two batch
    normalisations, which the form as printed, ``none``, does not have.
    """

    normalisation: Normalisation = "none"
    features: Literal["raw", "unit"] = "raw"
    lr: float = 0.004


PRINTED = Choice()
GRID = {
    "normalisation": ("none", "cluster", "cluster+whole"),
    "features": ("raw", "unit"),
    "lr": (0.016, 0.004, 0.001, 0.00025),  # ``tuning`` adds rates until no chosen rate lies at an end
}


class Setting(Config):
    """Everything about a row's model and training that its table does not compare."""

    hidden: int
    features: Literal["raw", "unit"] = "raw"
    normalisation: Normalisation = "none"
    training: TrainingConfig

    def at(self, choice: Choice) -> "Setting":
        """The same sizes at a point of ``GRID``."""
        rates = {"lr": choice.lr, "lr_aggregation": 10 * choice.lr}
        changed = {"features": choice.features, "normalisation": choice.normalisation}
        return self.model_copy(update=changed | {"training": self.training.model_copy(update=rates)})


# ``paper`` is Sec. 4.3. The other profiles shorten its schedule in proportion (constant for 50 of 80 epochs, then a
# tenth every 10) and use a smaller classifier and batch for their smaller data.
BASE: dict[Profile, Setting] = {
    "quick": Setting(
        hidden=64, training=TrainingConfig(epochs=16, decay_after=10, decay_every=2, batch_size=64, faces=8)
    ),
    "standard": Setting(hidden=512, training=TrainingConfig(epochs=24, decay_after=15, decay_every=3, batch_size=256)),
    "paper": Setting(hidden=4096, training=TrainingConfig()),
}


@dataclass(frozen=True)
class RowSettings:
    """The setting of each row: that of ``base`` at the row's own point, or at ``common`` if it has none."""

    base: Setting
    common: Choice = PRINTED
    own: Mapping[str, Choice] = field(default_factory=dict)

    def of(self, label: str) -> Setting:
        return self.base.at(self.choice(label))

    def choice(self, label: str) -> Choice:
        return self.own.get(label, self.common)


def tuning_file(dataset: str, profile: Profile, experiment: str = "") -> Path:
    """The file that records what was tuned (see ``tuning``), for all rows or for the further rows of an experiment."""
    return RESULTS / f"tuning-{dataset}-{profile}{'+' * bool(experiment)}{experiment}.json"


def tuned(dataset: str, profile: Profile) -> dict | None:
    """What was tuned on a dataset in a profile, as recorded; None if nothing was.

    The profile ``quick`` is a preview of ``standard``: it uses what was tuned there if it has nothing of its own. Rows
    that were tuned later have records of their own, which add to it and change nothing; ``later`` maps the experiment
    of each to its command.
    """
    files = [tuning_file(dataset, profile)] + [tuning_file(dataset, "standard")] * (profile == "quick")
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return None
    record = json.loads(found.read_text()) | {"later": {}}
    for file in sorted(RESULTS.glob(f"{found.stem}+*.json")):
        later = json.loads(file.read_text())
        record["rows"] = later["rows"] | record["rows"]
        record["later"][file.stem.partition("+")[2]] = later["command"]
    return record


def row_settings(dataset: str, profile: str, setting: str = DECIDING) -> RowSettings:
    """The setting of each row of a table. Where nothing was tuned, every row is as printed.

    Raises:
        ValueError: an unknown profile or setting.
    """
    parameters.check("profile", profile)
    parameters.check("setting", setting)
    base, record = BASE[profile], tuned(dataset, profile)
    if record is None or setting == "printed":
        return RowSettings(base)
    shared = Choice(**record["shared"])
    if setting == "shared":
        return RowSettings(base, shared)
    return RowSettings(base, shared, {label: Choice(**row["chosen"]) for label, row in record["rows"].items()})
