"""What all benchmarks share: their options, interleaved timing, and a record with its provenance."""

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

LEAST = 0.005  # seconds: faster work is called several times per round


def main(measure: Callable[..., dict[str, Any]]) -> None:
    """Runs a benchmark script. The other arguments of ``measure(device, quick, …)`` become options of the script."""
    script = Path(inspect.getfile(measure))
    doc = sys.modules[measure.__module__].__doc__
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to try the script")
    parser.add_argument("--record", action="store_true", help="write results/NAME-cpu.json or NAME-gpu.json")
    for option in list(inspect.signature(measure).parameters.values())[2:]:
        parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default)
    given = vars(parser.parse_args())
    record = given.pop("record")
    device = pick_device(given.pop("device"))
    text = json.dumps({"command": command(script.name), **recorded(measure, device, **given)}, indent=1) + "\n"
    if not record:
        print(text, end="")
        return
    place = ROOT / "results" / f"{script.stem.replace('_', '-')}-{'gpu' if device.type == 'cuda' else 'cpu'}.json"
    with written_whole(place) as new:
        new.write_text(text)


def command(script: str) -> str:
    return shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]])


def recorded(measure: Callable[..., dict[str, Any]], device: torch.device, quick: bool, **options: Any) -> dict:
    """The result of ``measure``, with its provenance and the load of the machine before and after."""
    if device.type == "cpu":
        torch.set_num_threads(1)  # as in the training of the run store
    load, begin = os.getloadavg()[0], time.monotonic()
    result = measure(device, quick, **options)
    origin = provenance.origin(ROOT, but="results")  # where make bench has just written the previous record
    origin["load average"] = {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)}
    return result | {"seconds in all": round(time.monotonic() - begin, 1), "origin": origin}


def say(row: Mapping[str, Any]) -> None:
    """Prints a row of the record as soon as it is measured."""
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in _leaves(row))
    print("  ".join(cells), file=sys.stderr, flush=True)


def _leaves(row: Any) -> list:
    return [leaf for value in row.values() for leaf in _leaves(value)] if isinstance(row, Mapping) else [row]


def now(device: torch.device) -> float:
    """Seconds: on a CPU the processor time of all threads, so that other processes have little influence."""
    return time.process_time() if device.type == "cpu" else wall(device)


def wall(device: torch.device) -> float:
    """Seconds of the clock, after a GPU has finished its queue."""
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
    """Seconds per call of each, in interleaved rounds, so that a drift of the machine affects all of them.

    Args:
        rounds: how many are counted, after one warm-up round.
        budget: seconds; fewer rounds are made if they would take longer, but at least three.
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
    """How many times as long the first takes as the second: the median over rounds."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """The result of a function in a process of its own, and the peak memory of that process, in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def nothing() -> None:
    """Called in ``apart``: the memory of a process that has only imported the libraries."""


def _with_peak(function: Callable[..., Any], arguments: tuple) -> tuple[Any, int]:
    return function(*arguments), peak()
