"""The models of the paper: frame aggregation, multi-modal fusion, and FAMF, which puts them together."""

from famf_lib.models.aggregation import (
    AGGREGATIONS,
    Aggregation,
    AttentionVLAD,
    GhostVLAD,
    MeanPooling,
    NetVLAD,
    NeXtVLAD,
)
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.models.fusion import FUSIONS, MLMA, MMA, Concat, Fusion

__all__ = [
    "AGGREGATIONS",
    "FAMF",
    "FUSIONS",
    "MLMA",
    "MMA",
    "Aggregation",
    "AttentionVLAD",
    "Concat",
    "Fusion",
    "GhostVLAD",
    "MeanPooling",
    "ModelConfig",
    "NeXtVLAD",
    "NetVLAD",
]
