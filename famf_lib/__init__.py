"""FAMF (Li et al. 2020), reproduced: the models, the metric, the data, the training and the evidence.

``from famf_lib import ClipSet, mean_average_precision`` works, and so does ``from famf_lib.models import FAMF``.
Importing ``famf_lib`` alone loads nothing heavy.
"""

import os
from typing import Any

# Nothing leaves the machine, whatever the environment says of other programs. ONNX Runtime reports from its import on,
# so this comes first; child processes inherit it. book/responsible-use.md lists what reports by default.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = ["ClipSet", "mean_average_precision"]

_MODULES = {"ClipSet": "famf_lib.data.clipset", "mean_average_precision": "famf_lib.metrics"}


def __getattr__(name: str) -> Any:
    """Loads what is asked for on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'famf_lib' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
