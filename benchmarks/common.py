"""What all benchmarks share: their arguments, taking turns, and a record that says where it was made."""

import argparse
import inspect
import json
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peak import peak

from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training.train import pick_device

LEAST = 0.005  # seconds: what takes less is called several times in its turn


def main(measure: Callable[..., dict[str, Any]]) -> None:
    """Runs a script: ``measure(device, quick, …)``, whose other arguments become options, gives what is recorded."""
    script = Path(inspect.getfile(measure))
    doc = sys.modules[measure.__module__].__doc__
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it works")
    parser.add_argument("--record", action="store_true", help="write results/NAME-cpu.json or -gpu.json; else print it")
    for option in list(inspect.signature(measure).parameters.values())[2:]:
        parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default)
    given = vars(parser.parse_args())
    record = given.pop("record")
    device = pick_device(given.pop("device"))
    told = json.dumps({"command": command(script.name), **recorded(measure, device, **given)}, indent=1) + "\n"
    if not record:
        print(told, end="")
        return
    place = ROOT / "results" / f"{script.stem.replace('_', '-')}-{'gpu' if device.type == 'cuda' else 'cpu'}.json"
    with written_whole(place) as new:
        new.write_text(told)


def command(script: str) -> str:
    return shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]])


def recorded(measure: Callable[..., dict[str, Any]], device: torch.device, quick: bool, **options: Any) -> dict:
    """What ``measure`` gives, with where it was made and how busy the machine was meanwhile."""
    if device.type == "cpu":
        torch.set_num_threads(1)  # as the run store trains
    load, begin = os.getloadavg()[0], time.monotonic()
    told = measure(device, quick, **options)
    origin = provenance.origin(ROOT, but="results")  # where make bench has just written the record before
    origin["load average"] = {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)}
    return told | {"seconds in all": round(time.monotonic() - begin, 1), "origin": origin}


def say(row: Mapping[str, Any]) -> None:
    """A row of the record as it comes, on the way."""
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in _leaves(row))
    print("  ".join(cells), file=sys.stderr, flush=True)


def _leaves(row: Any) -> list:
    return [leaf for value in row.values() for leaf in _leaves(value)] if isinstance(row, Mapping) else [row]


def now(device: torch.device) -> float:
    """Seconds: on a CPU those of the processor, of all threads, so that what else runs there counts for little."""
    return time.process_time() if device.type == "cpu" else wall(device)


def wall(device: torch.device) -> float:
    """Seconds of the clock, once a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    begin = now(device)
    for _ in range(calls):
        work()
    return (now(device) - begin) / calls


def in_turn(
    works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, budget: float = 1e9
) -> dict[str, list[float]]:
    """Seconds a call of each, round by round: a machine whose speed drifts drifts for all.

    Args:
        rounds: how many are counted; there is one before them that is not.
        budget: seconds, beyond which there are fewer rounds, but three at the least.
    """
    warm = {name: seconds(work, device) for name, work in works.items()}
    rounds = max(min(rounds, 3), min(rounds, int(budget / sum(warm.values()))))
    calls = {name: max(1, math.ceil(LEAST / max(once, 1e-6))) for name, once in warm.items()}
    taken = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work, device, calls[name]))
    return taken


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in taken.items()}


def ratio(first: list[float], second: list[float]) -> float:
    """How many times as long the first takes: the median over rounds."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function gives in a process of its own, and the most memory that the process held, in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def nothing() -> None:
    """Apart, what a process takes that has but imported the libraries."""


def _with_peak(function: Callable[..., Any], arguments: tuple) -> tuple[Any, int]:
    return function(*arguments), peak()
