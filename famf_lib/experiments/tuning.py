"""Chooses the setting of a dataset by a grid search with all rows of Table 1 on the tuning part."""

import json
from itertools import product
from typing import Any

import numpy as np

from famf_lib.data import datasets
from famf_lib.experiments.catalogue import TABLE_1, specs
from famf_lib.experiments.results import run
from famf_lib.experiments.settings import BASE, GRID, TUNING_SEEDS, Profile, tuning_file, with_choice
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training.train import pick_device


def tune(dataset: str, profile: Profile, device: str = "auto") -> dict[str, Any]:
    """Trains all rows of Table 1 at every point of ``GRID`` on the tuning part and records the best point.

    All rows share one point, the one with the highest mAP averaged over rows and seeds. Returns what was recorded.
    """
    source = datasets.get(dataset)
    clipset, where = datasets.load(dataset, profile), pick_device(device)
    points = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    wanted = {}
    for point in points:
        used = with_choice(BASE[profile], point)
        for (label, seed), spec in specs(TABLE_1, source, used, TUNING_SEEDS, part="tune").items():
            wanted[json.dumps(point), label, seed] = spec
    found = run(wanted, clipset, where, "tuning")
    table = []
    for point in points:
        of_rows = {
            v.label: float(np.mean([found[json.dumps(point), v.label, s].mean_ap for s in TUNING_SEEDS]))
            for v in TABLE_1
        }
        table.append(point | {"mean_ap": float(np.mean(list(of_rows.values()))), "rows": of_rows})
    best = max(table, key=lambda line: line["mean_ap"])
    result = {
        "command": f"famf tune {dataset} --profile {profile}",
        "data": clipset.fingerprint,
        "seeds": list(TUNING_SEEDS),
        "chosen": {key: best[key] for key in GRID},
        "table": table,
        "origin": provenance.origin(ROOT),
    }
    with written_whole(tuning_file(dataset, profile)) as new:
        new.write_text(json.dumps(result, indent=1) + "\n")
    return result
