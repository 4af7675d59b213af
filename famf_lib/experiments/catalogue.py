"""Declares the experiments of the book: their rows, their seeds, and what is measured on the trained models.

An experiment is data that a reader can print; ``results`` runs it and ``ledger`` tests claims on its results. Two
experiments that declare the same row share its runs.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from famf_lib import paper
from famf_lib.data.datasets import Dataset
from famf_lib.data.splits import Part, Protocol
from famf_lib.experiments.parameters import SETTINGS, SettingName
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import DECIDING, RowSettings, Setting
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import ModelConfig
from famf_lib.training.evaluation import EvaluationConfig

TABLE_1_MODALITIES = ("audio", "body")  # Table 1's last row is the 0.8824 that Table 2 gives for Face+Audio+Body


@dataclass(frozen=True)
class Variant:
    """One row of a table: FAMF, or FAMF with something changed.

    Args:
        modalities: those of the clip that are fused with the face; None for all that the dataset has.
        partial: whether the row still makes sense on a dataset that lacks some of them.
        faces: N in training and evaluation; None for the setting's.
        batch: multiplies the setting's batch size.
        rate: the learning rate of the aggregation divided by that of the rest; None for the setting's.
        paper: the mAP that the paper prints for this row.
        tuned_as: the label of the row whose tuned setting it uses; None if it is tuned itself (see ``settings``).
    """

    label: str
    aggregation: str = "attentionvlad"
    fusion: str = "mlma"
    modalities: tuple[str, ...] | None = TABLE_1_MODALITIES
    partial: bool = True
    aggregation_options: Mapping[str, Any] = field(default_factory=dict)
    fusion_options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    faces: int | None = None
    batch: float = 1.0
    rate: float | None = None
    paper: float | None = None
    tuned_as: str | None = None

    @property
    def modules(self) -> tuple[str, str]:
        return self.aggregation, self.fusion

    def available_modalities(self, dataset: Dataset) -> tuple[str, ...] | None:
        """The modalities that the row uses on a dataset; None if the row needs one that the dataset lacks."""
        wanted = dataset.modalities if self.modalities is None else self.modalities
        available = tuple(m for m in wanted if m in dataset.modalities)
        return available if self.partial or available == wanted else None

    def spec(
        self, dataset: Dataset, used: Setting, seed: int, part: Part = "report", protocol: Protocol | None = None
    ) -> RunSpec:
        """The run of this row with a seed; split by the dataset's own protocol unless another one is given.

        The setting's normalisation is used if the aggregation has that option. NeXtVLAD was published with batch
        normalisations, so they belong to its normalised forms.
        """
        options = inspect.signature(AGGREGATIONS[self.aggregation]).parameters
        normalisation = {"normalisation": used.normalisation} if "normalisation" in options else {}
        if "batch_norm" in options and used.normalisation != "none":
            normalisation["batch_norm"] = True
        training = used.training.model_dump()
        training["batch_size"] = round(training["batch_size"] * self.batch)
        training["faces"] = self.faces or training["faces"]
        if self.rate is not None:
            training["lr_aggregation"] = self.rate * training["lr"]
        model = {
            "aggregation": self.aggregation,
            "aggregation_options": normalisation | dict(self.aggregation_options),
            "fusion": self.fusion,
            "fusion_options": dict(self.fusion_options),
            "modalities": self.available_modalities(dataset),
            "features": used.features,
            "hidden": used.hidden,
        }
        return RunSpec(
            model=ModelConfig(**(model | dict(self.model))),
            training=type(used.training)(**training),
            evaluation=EvaluationConfig(faces=training["faces"]),
            protocol=protocol or dataset.protocol,
            part=part,
            seed=seed,
        )


def specs(
    variants: Iterable[Variant],
    dataset: Dataset,
    used: RowSettings,
    seeds: Sequence[int],
    part: Part = "report",
    protocol: Protocol | None = None,
) -> dict[tuple[str, int], RunSpec]:
    """The runs of all variants and seeds, by (label, seed), without variants that need modalities the dataset lacks."""
    served = [variant for variant in variants if variant.available_modalities(dataset) is not None]
    return {
        (variant.label, seed): variant.spec(dataset, used.of(variant.tuned_as or variant.label), seed, part, protocol)
        for variant, seed in product(served, seeds)
    }


@dataclass(frozen=True)
class Experiment:
    """Rows to train, and the probes that are measured on each trained model (see ``probes``).

    ``needs_modalities``: the experiment says nothing on a dataset that has none of the modalities of its rows.
    ``seeds`` are those of the book, and ``settings`` those that it is run under: all three if it tests a claim.
    ``notebook`` is the name of the one that shows it; by default that of the experiment.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    probes: tuple[str, ...] = ()
    needs_modalities: bool = False
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    settings: tuple[SettingName, ...] = SETTINGS
    notebook: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notebook", self.notebook or self.name)

    def serves(self, dataset: Dataset) -> bool:
        """Whether the experiment can be run on a dataset."""
        return not self.needs_modalities or any(variant.available_modalities(dataset) for variant in self.variants)

    def unused(self, dataset: Dataset) -> list[str]:
        """The modalities of a dataset that no row uses, without those that other tables of the paper use."""
        used = {name for variant in self.variants for name in variant.available_modalities(dataset) or ()}
        return [name for name in dataset.modalities if name not in used.union(*paper.TABLE_2)]

    def with_modalities(self, names: Sequence[str], dataset: Dataset) -> "Experiment":
        """The same experiment, with other modalities in every row that has those of Table 1.

        Raises:
            ValueError: the dataset lacks one of them, or no row has those of Table 1.
        """
        if absent := [name for name in names if name not in dataset.modalities]:
            offered = ", ".join(dataset.modalities) or "none"
            raise ValueError(f"modalities: {absent[0]!r} found, expected some of those of {dataset.name}: {offered}")
        other = tuple(replace(v, modalities=tuple(names)) if v.modalities == TABLE_1_MODALITIES else v
                      for v in self.variants)  # fmt: skip
        if other == self.variants and tuple(names) != TABLE_1_MODALITIES:
            raise ValueError(f"modalities: the rows of {self.name} have their own, expected another experiment")
        return replace(self, variants=other)

    def paper(self) -> dict[str, float | None]:
        """The paper's value of each row."""
        return {variant.label: variant.paper for variant in self.variants}


NAMES = {
    "mean": "Mean pooling",
    "netvlad": "NetVLAD",
    "ghostvlad": "GhostVLAD",
    "nextvlad": "NeXtVLAD",
    "attentionvlad": "AttentionVLAD",
    "concat": "Concat",
    "mma": "MMA",
    "mlma": "MLMA",
}


def _modules(aggregation: str, fusion: str, **others: Any) -> Variant:
    printed = paper.TABLE_1.get((aggregation, fusion))
    return Variant(f"{NAMES[aggregation]} + {NAMES[fusion]}", aggregation, fusion, paper=printed, **others)


FAMF = _modules("attentionvlad", "mlma")
FAMF_WITH_MMA = _modules("attentionvlad", "mma")

SIMPLE = _modules("mean", "concat")

TABLE_1 = (
    SIMPLE,
    _modules("netvlad", "mma"),
    _modules("ghostvlad", "concat"),
    _modules("nextvlad", "concat"),
    _modules("netvlad", "mlma"),
    FAMF_WITH_MMA,
    FAMF,
)
"""Mean pooling, which the paper leaves out, and the six rows of its Table 1."""


def set_name(modalities: Iterable[str]) -> str:
    """A set of modalities as the paper's Table 2 writes it: Face+Audio+Body."""
    return "+".join(["Face", *(m.capitalize() for m in modalities)])


TABLE_2 = tuple(
    Variant(set_name(modalities), modalities=modalities, partial=False, paper=value)
    for modalities, value in paper.TABLE_2.items()
)
"""The eight sets of modalities of Table 2, each with AttentionVLAD + MLMA."""

CLUSTERS = (1, 2, 4, 8, 16, 32)


def _clusters(k: int, label: str = "", **others: Any) -> Variant:
    return Variant(label or f"K = {k}", aggregation_options={"clusters": k}, **others)


_CLUSTERS = (
    *(_clusters(k, paper=paper.CLUSTERS.get(k)) for k in CLUSTERS if k <= 16),
    *(_clusters(k, tuned_as="K = 16") for k in CLUSTERS if k > 16),  # beyond the paper's claim
    # The paper used a smaller batch for K = 16, which may explain its lower mAP.
    _clusters(16, "K = 16, half the batch", batch=0.5, tuned_as="K = 16"),
)


@dataclass(frozen=True)
class Reading:
    """One reading of something that the paper leaves open, compared with the row ``base``."""

    question: str
    name: str
    variant: Variant
    base: Variant


def _readings(
    question: str, base: Variant, readings: dict[str, dict[str, Any]], tuned: bool = False
) -> tuple[Reading, ...]:
    """Readings of one question from what each changes in the base row, whose setting they use unless ``tuned``."""
    common = {"paper": None, "tuned_as": None if tuned else base.label}
    labelled = {name: {"label": f"{question}: {name}"} | common | change for name, change in readings.items()}
    return tuple(Reading(question, name, replace(base, **change), base) for name, change in labelled.items())


def _aggregation(**options: Any) -> dict[str, Any]:
    return {"aggregation_options": options}


def _fusion(**options: Any) -> dict[str, Any]:
    return {"fusion_options": options}


# One reading of each question is the book's own: its run is the base row's run.
READINGS = (
    *_readings(
        "φ",
        FAMF,
        {
            "sigmoid": _aggregation(attention="sigmoid"),
            "softmax": _aggregation(attention="softmax"),
            "no activation": _aggregation(attention="none"),
        },
    ),
    *_readings(
        "normalisation",
        FAMF,
        {
            "none": _aggregation(normalisation="none"),
            "each cluster, before φ": _aggregation(normalisation="cluster"),
            # Scaling each cluster to unit length after φ cancels φ, which leaves exactly NetVLAD.
            "each cluster, behind φ": {"aggregation": "netvlad"} | _aggregation(normalisation="cluster"),
            "the whole, behind φ": _aggregation(normalisation="whole"),
            "each cluster before φ, the whole behind": _aggregation(normalisation="cluster+whole"),
        },
    ),
    *_readings("centres", FAMF, {s: _aggregation(centres=c) for s, c in (("k-means", "kmeans"), ("random", "random"))}),
    *_readings(
        "features", FAMF, {"raw": {"model": {"features": "raw"}}, "unit length": {"model": {"features": "unit"}}}
    ),
    *_readings(
        "MLMA's layers", FAMF, {"linear": _fusion(activation="none"), "ReLU between": _fusion(activation="relu")}
    ),
    *_readings("softmax", FAMF, {"over sources": _fusion(axis="source"), "over targets": _fusion(axis="target")}),
    *_readings(
        "MMA",
        FAMF_WITH_MMA,
        {
            "residual and L2": {},
            "no residual": _fusion(residual=False),
            "no L2": _fusion(penalty=0.0),
            "one convolution alone": _fusion(residual=False, penalty=0.0),
        },
        tuned=True,  # claim 9 compares them, and each comparison of a claim is between rows at their own best
    ),
    *_readings("learning rates", FAMF, {"two, 10 : 1": {"rate": 10.0}, "one": {"rate": 1.0}}),
    *_readings(
        "classifier", FAMF, {"ReLU": {"model": {"activation": "relu"}}, "linear": {"model": {"activation": "none"}}}
    ),
)


def reading(question: str, name: str) -> Variant:
    """The row of a reading."""
    return next(r.variant for r in READINGS if (r.question, r.name) == (question, name))


FACES_TRAINED = (4, 8, 24, 48)
_ALL = {"modalities": None}

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("table-1", "Table 1", TABLE_1),
        Experiment("table-2", "Table 2", TABLE_2, needs_modalities=True),
        Experiment("clusters", "the number of clusters", _CLUSTERS),
        Experiment("readings", "readings", (FAMF, FAMF_WITH_MMA, *(r.variant for r in READINGS)), settings=(DECIDING,)),
        Experiment(
            "convolutions",
            "convolutions",
            (FAMF, FAMF_WITH_MMA, *(r.variant for r in READINGS if r.question == "MMA")),
            notebook="readings",
        ),
        Experiment(
            "weights",
            "the weights of faces",
            (FAMF, FAMF_WITH_MMA, _modules("ghostvlad", "concat"), _modules("nextvlad", "concat")),
            probes=("weights",),
        ),
        Experiment("attention", "the attention matrix", (FAMF, FAMF_WITH_MMA), ("attention",), needs_modalities=True),
        Experiment(
            "graded-weights",
            "graded weights",
            (
                *(_modules(a, "concat") for a in ("netvlad", "ghostvlad", "attentionvlad")),
                *(_modules(a, "mlma") for a in ("netvlad", "ghostvlad", "attentionvlad")),
            ),
        ),
        Experiment(
            "faces",
            "the number of faces",
            tuple(Variant(f"trained with N = {n}", faces=n, tuned_as=FAMF.label) for n in FACES_TRAINED),
            probes=("faces",),
        ),
        Experiment("ruined-frames", "ruined frames", TABLE_1, probes=("ruined",), settings=(DECIDING,)),
        Experiment(
            "missing-modalities",
            "missing modalities",
            tuple(
                Variant(f"AttentionVLAD + {NAMES[f]}, all modalities", fusion=f, **_ALL)
                for f in ("concat", "mma", "mlma")
            ),
            probes=("missing",),
            needs_modalities=True,
        ),
        *(
            Experiment(name, title, (_modules("netvlad", "mma"), FAMF), probes=("answers",), settings=(DECIDING,))
            for name, title in (("confidence", "confidence"), ("training-clips", "training clips"))
        ),
    )
}
"""The experiments by name."""


def tuned_rows(dataset: Dataset) -> list[Variant]:
    """The rows of all experiments that a dataset serves and that have a setting of their own, without repetitions."""
    found = {
        variant.label: variant
        for experiment in EXPERIMENTS.values()
        if experiment.serves(dataset)
        for variant in experiment.variants
        if variant.tuned_as is None and variant.available_modalities(dataset) is not None
    }
    return list(found.values())


def get_experiment(name: str) -> Experiment:
    """The experiment with this name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment: {name!r} is not known, expected one of: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
