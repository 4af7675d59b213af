"""Training in float32 compared with bfloat16 on this device: seconds per epoch and mAP of each row of Table 1.

    python benchmarks/precision.py [--dataset synthetic] [--profile standard] [--repeats 2] [--record]

Both precisions run in turn on the same seeds, so that a change in the machine's speed affects both. mAP is that of the
tuning part, which the book does not report.
"""

import statistics
from typing import Any

import common
import torch

from famf_lib.data import datasets
from famf_lib.data.splits import split
from famf_lib.experiments.catalogue import TABLE_1, specs
from famf_lib.experiments.settings import row_settings
from famf_lib.training import evaluation, train


def measure(
    device: torch.device, quick: bool, dataset: str = "synthetic", profile: str = "standard", repeats: int = 2
) -> dict[str, Any]:
    profile, repeats = ("quick", 1) if quick else (profile, repeats)
    clipset = datasets.load(dataset, profile).to(device)
    seeds = range(1, repeats + 1)
    variants = TABLE_1[:1] if quick else TABLE_1
    wanted = specs(variants, datasets.get(dataset), row_settings(dataset, profile, "shared"), seeds, part="tune")
    rows = []
    for variant in variants:
        seconds, mean_ap = {"float32": [], "bfloat16": []}, {"float32": [], "bfloat16": []}
        for seed in seeds:
            spec = wanted[variant.label, seed]
            parts = split(clipset, spec.protocol, seed, "tune")
            for precision in seconds:
                schedule = spec.training.model_copy(update={"precision": precision, **({"epochs": 1} if quick else {})})
                trained = train.train(spec.model, schedule, clipset, parts, seed)
                seconds[precision].append(trained.seconds / schedule.epochs)
                scores = evaluation.evaluate(trained.model, spec.evaluation, clipset, parts, seed)
                mean_ap[precision].append(scores.mean_ap)
        rows.append(
            {
                "method": variant.label,
                **{f"seconds an epoch, {p}": statistics.median(s) for p, s in seconds.items()},
                "float32 / bfloat16": common.ratio(seconds["float32"], seconds["bfloat16"]),
                **{f"mAP, {p}": statistics.fmean(m) for p, m in mean_ap.items()},
            }
        )
        common.say(rows[-1])
    return {"dataset": dataset, "profile": profile, "rows": rows}


if __name__ == "__main__":
    common.main(measure)
