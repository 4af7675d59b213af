"""The conditions of the chapter "When does it hold?": its grids, declared before their runs, and the clips of a point.

A condition says how clips are generated and how models read them. All other choices are those of a ``Size``. It has
fewer persons and a smaller model than the profile of the same name, because there are many points.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from famf_lib.data.clipset import ClipSet
from famf_lib.data.datasets import Dataset
from famf_lib.data.synthetic import SyntheticConfig, generate
from famf_lib.experiments.run_store import RunSpec
from famf_lib.models.config import ModelConfig
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.training.evaluation import EvaluationConfig
from famf_lib.training.train import TrainingConfig

ROWS = {
    "NetVLAD + MMA": ("netvlad", "mma"),
    "NetVLAD + MLMA": ("netvlad", "mlma"),
    "AttentionVLAD + MMA": ("attentionvlad", "mma"),
    "AttentionVLAD + MLMA": ("attentionvlad", "mlma"),
}
"""Row → aggregation and fusion: the four rows of Table 1 that cross the paper's two modules with those they replace."""

EFFECTS = {
    "AttentionVLAD − NetVLAD, with MMA": ("AttentionVLAD + MMA", "NetVLAD + MMA"),
    "AttentionVLAD − NetVLAD, with MLMA": ("AttentionVLAD + MLMA", "NetVLAD + MLMA"),
    "MLMA − MMA, with NetVLAD": ("NetVLAD + MLMA", "NetVLAD + MMA"),
    "MLMA − MMA, with AttentionVLAD": ("AttentionVLAD + MLMA", "AttentionVLAD + MMA"),
}
"""The differences that the maps show: the first row minus the second."""


@dataclass(frozen=True)
class Condition:
    """A point of the maps. The default is what the paper prints, on data as in the book's ``synthetic``.

    Args:
        scale: multiplies all feature vectors; "unit" scales each to unit norm, which removes what its norm says.
        face_scale: multiplies the vectors of the faces once more, and not those of the modalities.
        normalisation: that of the aggregation.
        lr: the learning rate; that of the aggregation is ten times as high, as in Sec. 4.3.
        quality_shift, quality_effect, modality_person, presence: see ``SyntheticConfig``.
    """

    scale: float | Literal["unit"] = 1.0
    face_scale: float = 1.0
    normalisation: str = "none"
    lr: float = 0.004
    quality_shift: float = 0.0
    quality_effect: float = 1.0
    modality_person: float | None = None
    presence: float = 1.0


SETTINGS = {"as printed": Condition(), "normalised": Condition(scale="unit", normalisation="cluster+whole")}
"""What the paper prints, and NetVLAD as published with unit features."""

AXES: dict[str, dict[str, tuple]] = {
    "features": {
        "normalisation": ("none", "cluster", "cluster+whole"),
        "scale": ("unit", 1 / 16, 1 / 4, 1.0, 4.0),
        "lr": (0.016, 0.004, 0.001),
    },
    "quality": {"quality_shift": (0.0, -0.75, -1.5), "quality_effect": (0.0, 1.0, 2.0)},
    "modalities": {"modality_person": (0.0, 0.3, 0.6), "presence": (1.0, 0.7, 0.4)},
    "balance": {"face_scale": (2.0, 1.0, 0.5, 0.25), "modality_person": (0.0, 0.3, 0.6)},
}
"""Map → the axes of its grid. The maps "quality" and "modalities" are made for both of ``SETTINGS``, the others for
what the paper prints.

The map "balance" was added after the others had been seen. As printed, AttentionVLAD gained where audio and body tell
much about the person; with normalised tokens it did not. The map tests an explanation that was written here before its
runs: φ, about 0.5 at the start, shortens the tokens of the face in proportion to those of the modalities. If so, the
gain grows with the length of the faces, is gone where faces are shorter, and there NetVLAD does better than before.
"""

QUICK = {
    "features": {"normalisation": ("none", "cluster+whole"), "scale": ("unit", 1.0), "lr": (0.004,)},
    "quality": {"quality_shift": (0.0, -1.5), "quality_effect": (1.0,)},
    "modalities": {"modality_person": (0.0, 0.6), "presence": (1.0,)},
    "balance": {"face_scale": (1.0, 0.25), "modality_person": (0.6,)},
}
"""A few of these points, to see that everything works."""


@dataclass(frozen=True)
class Size:
    """What all points share: the number of persons, D, the width of the classifier, the training, and the axes."""

    persons: int
    dim: int
    hidden: int
    training: TrainingConfig
    axes: Mapping[str, Mapping[str, tuple]]


_SCHEDULE: dict[str, Any] = {"epochs": 24, "decay_after": 15, "decay_every": 3}  # that of the standard profile
SIZES = {
    "quick": Size(
        24, 32, 32, TrainingConfig(epochs=8, decay_after=5, decay_every=1, batch_size=64, faces=8), axes=QUICK
    ),
    "standard": Size(80, 64, 128, TrainingConfig(batch_size=128, faces=12, **_SCHEDULE), axes=AXES),
    "paper": Size(256, 128, 512, TrainingConfig(batch_size=256, **_SCHEDULE), axes=AXES),  # full size: Table 1 alone
}


def grid(name: str, size: Size) -> list[Condition]:
    """The points of a map: all combinations of its axes, for one setting or for both."""
    axes = size.axes[name]
    bases = list(SETTINGS.values()) if name in ("quality", "modalities") else [Condition()]
    values = [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
    return [replace(base, **point) for base in bases for point in values]


def dataset(condition: Condition, size: Size) -> Dataset:
    """The clips of a point, made on first use and kept in the store. Points that read the same clips share them."""
    knobs = {k: getattr(condition, k) for k in ("quality_shift", "quality_effect", "modality_person", "presence")}
    config = SyntheticConfig(size.persons, size.dim, **knobs)
    factor = 1.0 if condition.scale == "unit" else float(condition.scale)
    code = source_fingerprint("famf_lib.data.synthetic", "famf_lib.paper")
    decided = json.dumps([asdict(config), factor, condition.face_scale, code], sort_keys=True)
    key = hashlib.sha256(decided.encode()).hexdigest()[:16]
    make = partial(scaled, factor=factor, faces=condition.face_scale)
    return Dataset("when", "generated persons", key=lambda _: key, make=lambda _: make(generate(config)))


def scaled(clipset: ClipSet, factor: float, faces: float = 1.0) -> ClipSet:
    """The clips with every feature vector multiplied by a factor, and those of the faces by another one as well."""
    return ClipSet.build(
        clipset.faces.float() * factor * faces,
        clipset.counts.numpy(),
        clipset.clips,
        face_table=clipset.face_columns(),
        modalities={m: (v.vectors.float().numpy() * factor, v.present.numpy()) for m, v in clipset.modalities.items()},
        info=clipset.info | {"scale": factor, "face_scale": faces},
    )


def with_faces_scaled(source: Dataset, factor: float) -> Dataset:
    """A dataset of the book with the vectors of its faces, and not those of its modalities, multiplied by a factor."""
    name = f"{source.name}-faces-{factor:g}"
    return replace(source, name=name, make=lambda profile: scaled(source.load(profile), 1.0, factor))


def spec(
    condition: Condition, size: Size, row: str, seed: int, modalities: tuple[str, ...] = ("audio", "body")
) -> RunSpec:
    """The run of a row at a point. ``modalities`` are those of Table 1 unless others are given."""
    aggregation, fusion = ROWS[row]
    model = ModelConfig(
        aggregation=aggregation,
        aggregation_options={"normalisation": condition.normalisation},
        fusion=fusion,
        modalities=modalities,
        features="unit" if condition.scale == "unit" else "raw",
        hidden=size.hidden,
    )
    training = size.training.model_copy(update={"lr": condition.lr, "lr_aggregation": 10 * condition.lr})
    return RunSpec(model=model, training=training, evaluation=EvaluationConfig(faces=training.faces), seed=seed)


def wanted(profile: str, seeds: Sequence[int]) -> list[tuple[Dataset, list[RunSpec]]]:
    """The clips and the runs of every point of the maps."""
    size = SIZES[profile]
    points = dict.fromkeys(point for name in size.axes for point in grid(name, size))
    return [(dataset(c, size), [spec(c, size, row, seed) for row in ROWS for seed in seeds]) for c in points]
