"""The experiments of the book, declared: which rows, trained how often, and what is measured on the trained models.

An experiment is data that a reader can print; ``results`` makes its runs, ``ledger`` says what they decide. Two
experiments that declare the same row share its runs.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from famf_lib import paper
from famf_lib.data import datasets
from famf_lib.data.splits import Part, Protocol
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import Setting
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import ModelConfig
from famf_lib.training.train import EvaluationConfig

TABLE_1_MODALITIES = ("audio", "body")  # Table 1's last row is the 0.8824 that Table 2 gives for Face+Audio+Body


@dataclass(frozen=True)
class Variant:
    """A row of a table: FAMF, or what it is changed to.

    ``modalities`` are the clip-level ones; those that a dataset lacks are left out where the row is ``partial``, and
    the row itself where it is not. None stands for all that there are. ``faces`` is N in training and evaluation,
    ``batch`` a factor of the setting's batch size, ``rate`` the aggregation's learning rate in units of the rest's.
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

    @property
    def modules(self) -> tuple[str, str]:
        return self.aggregation, self.fusion

    def available_modalities(self, dataset: str) -> tuple[str, ...] | None:
        """The modalities that the row uses on a dataset; None where the dataset cannot serve it."""
        offered = datasets.get(dataset).modalities
        wanted = offered if self.modalities is None else self.modalities
        there = tuple(m for m in wanted if m in offered)
        return there if self.partial or there == wanted else None

    def spec(self, dataset: str, used: Setting, seed: int, part: Part, protocol: Protocol) -> RunSpec:
        """The run of this row under a setting, whose normalisation counts where the aggregation knows one."""
        options = inspect.signature(AGGREGATIONS[self.aggregation]).parameters
        normalisation = {"normalisation": used.normalisation} if "normalisation" in options else {}
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
            protocol=protocol,
            part=part,
            seed=seed,
        )


def specs(
    variants: Iterable[Variant],
    dataset: str,
    used: Setting,
    seeds: Sequence[int],
    part: Part = "report",
    protocol: Protocol | None = None,
) -> dict[tuple[str, int], RunSpec]:
    """The runs of every variant and seed, by (label, seed), split as the dataset is reported or by another protocol.

    Rows that the dataset cannot serve are not among them.
    """
    protocol = protocol or datasets.get(dataset).protocol
    served = [variant for variant in variants if variant.available_modalities(dataset) is not None]
    return {
        (variant.label, seed): variant.spec(dataset, used, seed, part, protocol)
        for variant, seed in product(served, seeds)
    }


@dataclass(frozen=True)
class Experiment:
    """Rows to train, and probes (see ``probes``) to put to every trained model of them.

    ``needs_modalities``: without any of those that its rows use there is nothing to see. ``seeds`` are the book's.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    probes: tuple[str, ...] = ()
    needs_modalities: bool = False
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)

    def serves(self, dataset: str) -> bool:
        """Whether there is something to see on a dataset."""
        return not self.needs_modalities or any(variant.available_modalities(dataset) for variant in self.variants)

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

TABLE_1 = (
    _modules("mean", "concat"),
    _modules("netvlad", "mma"),
    _modules("ghostvlad", "concat"),
    _modules("nextvlad", "concat"),
    _modules("netvlad", "mlma"),
    FAMF_WITH_MMA,
    FAMF,
)
"""The six rows of the paper's Table 1, behind mean pooling, which it leaves out."""


def set_name(modalities: Iterable[str]) -> str:
    """A set of modalities beside the face, as the paper's Table 2 names it: Face+Audio+Body."""
    return "+".join(["Face", *(m.capitalize() for m in modalities)])


TABLE_2 = tuple(
    Variant(set_name(modalities), modalities=modalities, partial=False, paper=value)
    for modalities, value in paper.TABLE_2.items()
)
"""The eight sets of modalities of Table 2, each with AttentionVLAD + MLMA."""

CLUSTERS = (1, 2, 4, 8, 16, 32, 64)
_CLUSTERS = (
    *(Variant(f"K = {k}", aggregation_options={"clusters": k}, paper=paper.CLUSTERS.get(k)) for k in CLUSTERS),
    # The paper's K = 16 had a smaller batch, so its fall may be the batch's.
    Variant("K = 16, half the batch", aggregation_options={"clusters": 16}, batch=0.5),
)


@dataclass(frozen=True)
class Reading:
    """One reading of something that the paper leaves open. ``base`` is the row that it is compared with."""

    question: str
    name: str
    variant: Variant
    base: Variant


def _readings(question: str, base: Variant, readings: dict[str, dict[str, Any]]) -> tuple[Reading, ...]:
    """Readings by what they are called, each as what it changes of the base row."""
    labelled = {name: {"label": f"{question}: {name}", "paper": None} | change for name, change in readings.items()}
    return tuple(Reading(question, name, replace(base, **change), base) for name, change in labelled.items())


def _aggregation(**options: Any) -> dict[str, Any]:
    return {"aggregation_options": options}


def _fusion(**options: Any) -> dict[str, Any]:
    return {"fusion_options": options}


# The reading that the book chose stands among them: it is the row whose run is the base row's.
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
            # Behind φ the scaling of each cluster cancels it: what is left is NetVLAD, exactly.
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
        Experiment("table-1", "Table 1", TABLE_1, seeds=tuple(range(1, 11))),
        Experiment("table-2", "Table 2", TABLE_2, needs_modalities=True),
        Experiment("clusters", "the number of clusters", _CLUSTERS),
        Experiment("readings", "readings", (FAMF, FAMF_WITH_MMA, *(r.variant for r in READINGS))),
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
            tuple(Variant(f"trained with N = {n}", faces=n) for n in FACES_TRAINED),
            probes=("faces",),
        ),
        Experiment("ruined-frames", "ruined frames", TABLE_1, probes=("ruined",)),
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
        Experiment("confidence", "confidence", (_modules("netvlad", "mma"), FAMF), probes=("answers",)),
        Experiment("training-clips", "training clips", (_modules("netvlad", "mma"), FAMF), probes=("answers",)),
    )
}
"""What ``famf run`` knows by name; the notebook of an experiment has the same name."""


def get_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment: {name!r} is not known, expected one of: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
