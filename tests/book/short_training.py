"""What a kernel is told first, where the numbers do not matter but their way does."""

# Two epochs, and no processes besides.
SETUP = """\
from famf_lib.experiments import probes, run_store as runs
from famf_lib.experiments.settings import BASE

base = BASE["quick"]
training = base.training.model_copy(update={"epochs": 2, "decay_after": 1})
BASE["quick"] = base.model_copy(update={"training": training, "hidden": 16})
runs.cores = probes.cores = lambda: 1
"""
