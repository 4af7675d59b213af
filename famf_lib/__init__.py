"""FAMF (Li et al. 2020), reproduced: models, metric, data and experiments.

Nothing heavy is imported here: ``import famf_lib`` costs milliseconds, ``famf_lib.models.famf`` loads PyTorch.
"""

__version__ = "0.1.0"
