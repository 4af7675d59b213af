"""Adds the modules of this package to the library, and the rows that compare them with those of the paper's Table 1.

The rows were declared before any of them was run. They are compared under one setting, each row at its own best point
of the grid of Table 1's rows: ``famf --plugin famf_today.plugin tune DATASET --experiment since`` finds it. Three rows
of Table 1 stand beside them with the runs that they have there.
"""

from typing import Any

from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, SIMPLE, TABLE_1, Experiment, Variant
from famf_lib.experiments.settings import DECIDING
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.fusion import FUSIONS
from famf_today.aggregations import NAN, ClusterAggregate, ComponentQuality, NormMean
from famf_today.fusions import LowRankFusion, TensorFusion, TokenTransformer

AGGREGATIONS.update(
    {
        "norm-mean": NormMean,
        "nan": NAN,
        "component-quality": ComponentQuality,
        "cluster-aggregate": ClusterAggregate,
    }
)
FUSIONS.update({"tensor": TensorFusion, "low-rank": LowRankFusion, "transformer": TokenTransformer})


def _aggregation(name: str, module: str, **options: Any) -> Variant:
    return Variant(f"{name} + Concat", aggregation=module, fusion="concat", aggregation_options=options)


def _fusion(name: str, module: str, partial: bool = False) -> Variant:
    return Variant(f"AttentionVLAD + {name}", fusion=module, partial=partial)


BASELINE = TABLE_1[1]  # NetVLAD + MMA
AGGREGATION_ROWS = (
    *(_aggregation(f"Norm{sign} mean", "norm-mean", power=p) for p, sign in ((1.0, ""), (2.0, "²"), (3.0, "³"))),
    _aggregation("NAN", "nan"),
    _aggregation("C-FAN", "component-quality"),
    _aggregation("CAFace", "cluster-aggregate"),
)
FUSION_ROWS = (
    _fusion("TFN", "tensor"),  # it and the next one need the two modalities
    _fusion("low rank", "low-rank"),
    _fusion("transformer", "transformer", partial=True),
)
SINCE = Experiment(
    "since",
    "before and after the paper",
    (SIMPLE, BASELINE, FAMF, *AGGREGATION_ROWS, *FUSION_ROWS),
    settings=(DECIDING,),
)
EXPERIMENTS[SINCE.name] = SINCE
