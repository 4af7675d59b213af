"""float32 against bfloat16 in training, on this device: seconds an epoch and mAP, row by row of Table 1.

    python benchmarks/precision.py [--dataset synthetic] [--profile standard] [--repeats 3]

Both precisions run in turn on the same seeds, so that a machine whose speed drifts drifts for both. mAP is that of the
tuning part: nothing that the book reports is looked at.
"""

import argparse
import json
import statistics

import torch

from famf_lib import datasets, provenance, training
from famf_lib.experiments import TABLE_1, specs
from famf_lib.splits import split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = training.pick_device()
    if device.type == "cpu":
        torch.set_num_threads(1)  # as the run store trains
    clipset = datasets.load(arguments.dataset, arguments.profile).to(device)
    seeds = range(1, arguments.repeats + 1)
    wanted = specs(TABLE_1, arguments.dataset, setting(arguments.dataset, arguments.profile), seeds, part="tune")
    rows = []
    for variant in TABLE_1:
        seconds, mean_ap = {"float32": [], "bfloat16": []}, {"float32": [], "bfloat16": []}
        for seed in seeds:
            spec = wanted[variant.label, seed]
            parts = split(clipset, spec.protocol, seed, "tune")
            for precision in seconds:
                schedule = spec.training.model_copy(update={"precision": precision})
                trained = training.train(spec.model, schedule, clipset, parts, seed)
                seconds[precision].append(trained.seconds / schedule.epochs)
                scores = training.evaluate(trained.model, spec.evaluation, clipset, parts, seed)
                mean_ap[precision].append(scores.mean_ap)
        ratios = [a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True)]
        rows.append(
            {
                "method": variant.label,
                **{f"seconds an epoch, {p}": statistics.median(s) for p, s in seconds.items()},
                "float32 / bfloat16": statistics.median(ratios),
                **{f"mAP, {p}": statistics.fmean(m) for p, m in mean_ap.items()},
            }
        )
        print("  ".join(f"{v:.3f}" if isinstance(v, float) else f"{v:24}" for v in rows[-1].values()), flush=True)
    command = f"python benchmarks/precision.py --dataset {arguments.dataset} --profile {arguments.profile}"
    command += f" --repeats {arguments.repeats}"
    print(
        json.dumps(
            {"command": command, "rows": rows, "versions": provenance.versions(), "hardware": provenance.hardware()},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
