"""FAMF (Li et al. 2020), reproduced: models, metric, data and experiments.

Nothing heavy is imported here: ``import famf_lib`` costs milliseconds, ``famf_lib.model`` loads PyTorch.
"""

import os

# Nothing leaves the machine, whatever the environment says of other programs. ONNX Runtime reports from its import on,
# so this comes first; child processes inherit it. book/responsible-use.md lists what reports by default.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
