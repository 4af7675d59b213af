"""The rows of the plug-in are trained like those of the library, in worker processes too."""

import subprocess
import sys
from unittest.mock import patch

from famf_lib.data.datasets import DATASETS
from famf_lib.experiments.catalogue import EXPERIMENTS, TABLE_1
from famf_lib.models import AGGREGATIONS, FUSIONS
from famf_lib.support.files import ROOT

TRAINED = """
import os
os.environ["FAMF_PLUGINS"] = "famf_today.plugin"
from famf_today.plugin import AGGREGATION_ROWS, FUSION_ROWS
from famf_lib.data import datasets
from famf_lib.experiments import run_store
from famf_lib.experiments.catalogue import specs
from famf_lib.experiments.settings import BASE, RowSettings
import torch
training = BASE["quick"].training.model_copy(update={"epochs": 1})
base = BASE["quick"].model_copy(update={"hidden": 16, "training": training})
wanted = specs((AGGREGATION_ROWS[0], FUSION_ROWS[0]), datasets.get("synthetic"), RowSettings(base), [1])
clipset, run_store.cores = datasets.load("synthetic", "quick"), lambda: 2
assert run_store.can_parallelise(wanted.values(), clipset, torch.device("cpu"))
runs = run_store.get_or_train_all(list(wanted.values()), clipset, torch.device("cpu"))
assert [run.spec.model.aggregation for run in runs] == ["norm-mean", "attentionvlad"]
"""


def test_rows_are_trained_in_worker_processes(store):
    done = subprocess.run([sys.executable, "-c", TRAINED], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1000:]


def test_rows_are_added_and_those_of_table_1_are_the_same():
    with patch.dict(AGGREGATIONS), patch.dict(FUSIONS), patch.dict(EXPERIMENTS):
        from famf_today import plugin

        rows = {row.label: row for row in plugin.SINCE.variants}
        assert len(rows) == 12 and [r for r in TABLE_1 if r.label in rows] == list(plugin.SINCE.variants[:3])
        used = {label: row.available_modalities(DATASETS["imfdb"]) for label, row in rows.items()}
        assert {label for label, there in used.items() if there is None} == {
            "AttentionVLAD + TFN",
            "AttentionVLAD + low rank",
        }
