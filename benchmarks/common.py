"""What all benchmarks share: their options, timing in turn, and a record with the origin of the numbers."""

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

from famf_lib.data.sampling import Batch
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training.train import pick_device

LEAST = 0.005  # seconds; faster functions are called several times per round


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
    """The result of ``measure``, with its origin and the load of the machine."""
    if device.type == "cpu":
        torch.set_num_threads(1)  # as in runs
    load, begin = os.getloadavg()[0], time.monotonic()
    result = measure(device, quick, **options)
    origin = provenance.origin(ROOT, but="results")  # make bench has just written the previous record there
    origin["load average"] = {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)}
    return result | {"seconds in all": round(time.monotonic() - begin, 1), "origin": origin}


def random_batch(clips: int, faces: int, dim: int, modality_dims: Mapping[str, int]) -> Batch:
    """A batch of random vectors without masked faces or absent modalities, on the default device."""
    return Batch(
        torch.randn(clips, faces, dim),
        None,
        {name: torch.randn(clips, length) for name, length in modality_dims.items()},
        {name: torch.ones(clips, dtype=torch.bool) for name in modality_dims},
    )


def say(row: Mapping[str, Any]) -> None:
    """Prints a row of the record as soon as it is measured."""
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in _leaves(row))
    print("  ".join(cells), file=sys.stderr, flush=True)


def _leaves(row: Any) -> list:
    return [leaf for value in row.values() for leaf in _leaves(value)] if isinstance(row, Mapping) else [row]


def now(device: torch.device) -> float:
    """Seconds: on a CPU the CPU time of all threads, which other programs affect little."""
    return time.process_time() if device.type == "cpu" else wall(device)


def wall(device: torch.device) -> float:
    """Wall time in seconds; waits until a GPU has finished its work."""
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
    """Seconds per call of each function, round by round, so that a change in the machine's speed affects all.

    Args:
        rounds: the number of rounds, after one that does not count.
        budget: seconds; slow functions have fewer rounds, but at least three.
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
    """The median over rounds of first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """The result of a function in a separate process, and the peak memory of the process in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def nothing() -> None:
    """In ``apart``: the memory of a process that only imports the libraries."""


def _with_peak(function: Callable[..., Any], arguments: tuple) -> tuple[Any, int]:
    return function(*arguments), peak()
