"""The setting that all rows of a table share: sizes by profile, and what was chosen on a dataset's tuning part."""

import json
from pathlib import Path
from typing import Any, Literal

from famf_lib.experiments import parameters
from famf_lib.experiments.parameters import Profile
from famf_lib.models.config import Config
from famf_lib.support.files import ROOT
from famf_lib.training.train import TrainingConfig

RESULTS = ROOT / "results"


class Setting(Config):
    """What all rows of a table share, so that they differ only in what the table compares."""

    hidden: int
    features: Literal["raw", "unit"] = "raw"
    normalisation: Literal["none", "cluster", "cluster+whole"] = "none"
    training: TrainingConfig


# ``paper`` is Sec. 4.3. The other profiles shorten its schedule in proportion (constant for 50 of 80 epochs, then a
# tenth every 10) and use a smaller classifier and batch for their smaller data.
BASE: dict[Profile, Setting] = {
    "quick": Setting(
        hidden=64, training=TrainingConfig(epochs=16, decay_after=10, decay_every=2, batch_size=64, faces=8)
    ),
    "standard": Setting(hidden=512, training=TrainingConfig(epochs=24, decay_after=15, decay_every=3, batch_size=256)),
    "paper": Setting(hidden=4096, training=TrainingConfig()),
}

# What ``tuning`` chooses from. The first value of each is the paper's.
GRID = {
    "normalisation": ("none", "cluster", "cluster+whole"),
    "features": ("raw", "unit"),
    "lr": (0.004, 0.001),
}
TUNING_SEEDS = (101, 102)


def tuning_file(dataset: str, profile: Profile) -> Path:
    """The file that records the choice from ``GRID``."""
    return RESULTS / f"tuning-{dataset}-{profile}.json"


def setting(dataset: str, profile: str) -> Setting:
    """The setting of a profile, with what was chosen on the dataset's tuning part.

    Raises:
        ValueError: an unknown profile.
    """
    parameters.check("profile", profile)
    base = BASE[profile]
    if not tuning_file(dataset, profile).exists():
        return base
    return with_choice(base, json.loads(tuning_file(dataset, profile).read_text())["chosen"])


def with_choice(base: Setting, choice: dict[str, Any]) -> Setting:
    """A setting with one point of ``GRID``. The aggregation's learning rate is ten times the rest's, as in Sec. 4.3."""
    training = base.training.model_dump() | {"lr": choice["lr"], "lr_aggregation": 10 * choice["lr"]}
    values = base.model_dump() | {k: choice[k] for k in ("normalisation", "features")}
    return Setting(**(values | {"training": TrainingConfig(**training)}))
