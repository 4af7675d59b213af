"""Table 1 at the paper's full size on generated persons, seed by seed, until the minutes are over.

    python benchmarks/table_1.py [--minutes 30] [--seeds 5] [--device cpu] [--quick] [--record]

Each seed is trained as printed, then with each row at its own best, and both recordings grow by a seed at a time. What
is recorded or in the store is not trained again, so that a later call goes on where this one ended. Nothing was tuned
at full size: a row's own best is the point that was chosen for it at the standard size.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
import torch

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments import results
from famf_lib.experiments.catalogue import SIMPLE, TABLE_1, specs
from famf_lib.experiments.parameters import Profile, SettingName
from famf_lib.experiments.results import Results
from famf_lib.experiments.run_store import RunSpec, run_key
from famf_lib.experiments.settings import BASE, TITLES, row_settings
from famf_lib.support.files import ROOT
from famf_lib.training.train import pick_device

SETTINGS: tuple[SettingName, ...] = ("printed", "own")


def wanted(setting: SettingName, profile: Profile, seeds: range) -> dict[tuple[str, int], RunSpec]:
    """The runs of Table 1: sizes and schedule are those of the profile, points those of the standard size."""
    used = replace(row_settings("synthetic", "standard", setting), base=BASE[profile])
    return specs(TABLE_1, datasets.get("synthetic"), used, seeds)


def made(setting: SettingName, profile: Profile, seeds: range, clipset: ClipSet, device: torch.device) -> Results:
    """Trains what is not in the store."""
    runs = results.run(wanted(setting, profile, seeds), clipset, device, f"Table 1, {TITLES[setting]}")
    simple = float(np.mean([runs[SIMPLE.label, seed].mean_ap for seed in seeds]))
    return Results(runs, clipset.fingerprint, profile, setting, simple)


def is_recorded(
    folder: Path, setting: SettingName, profile: Profile, seeds: range, data: str, device: torch.device
) -> bool:
    """Whether the recording in a folder has all of these runs."""
    place = folder / results.recording("table-1", "synthetic", profile, setting).name
    if not place.is_file():
        return False
    keys = {run["key"] for run in json.loads(place.read_text())["runs"]}
    return {run_key(spec, data, device) for spec in wanted(setting, profile, seeds).values()} <= keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="begins nothing that would take longer")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="the profile quick, to try the script")
    parser.add_argument("--record", nargs="?", type=Path, const=ROOT / "results", metavar="FOLDER")
    given = parser.parse_args()
    end, longest = time.monotonic() + 60 * given.minutes, 0.0
    profile: Profile = "quick" if given.quick else "paper"
    device = pick_device(given.device)
    clipset = datasets.load("synthetic", profile).to(device)
    for seed in range(1, given.seeds + 1):
        for setting in SETTINGS:
            seeds, begin = range(1, seed + 1), time.monotonic()
            if given.record and is_recorded(given.record, setting, profile, seeds, clipset.fingerprint, device):
                continue
            if begin + longest > end:
                return
            found = made(setting, profile, seeds, clipset, device)
            if given.record:
                quick = " --quick" * given.quick
                command = f"python benchmarks/table_1.py --seeds {seed} --device {device.type}{quick} --record"
                results.record(found, "table-1", "synthetic", command, given.record)
            longest = max(longest, time.monotonic() - begin)
            common.say({"setting": setting, "seed": seed} | found.mean_ap()[seed].to_dict())


if __name__ == "__main__":
    main()
