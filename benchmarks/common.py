"""What all benchmarks share: their options, timing in turn, and a record with the origin of the numbers.

``in_turn`` times calls from the host. The kernels of a short function take a GPU less time than the host needs to
launch them, so that ``replays`` times them as replays of a CUDA graph.
"""

import argparse
import inspect
import json
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peak import peak
from torch.utils._pytree import tree_leaves

from famf_lib.data.sampling import Batch
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training.cuda_graphs import WARM_UP, Recorder, recorder
from famf_lib.training.train import pick_device

LEAST = 0.005  # seconds; faster functions are called several times per round
CACHES = 4  # inputs that are used in turn are together so many times larger than a GPU's cache
TIMED = {"cpu": "CPU seconds of one thread", "cuda": "graph replays, inputs in turn"}  # how ``replays`` times


def main(measure: Callable[..., dict[str, Any]]) -> None:
    """Runs a benchmark script. The other arguments of ``measure(device, quick, …)`` become options of the script."""
    script = Path(inspect.getfile(measure))
    doc = sys.modules[measure.__module__].__doc__
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to try the script")
    parser.add_argument(
        "--record",
        nargs="?",
        type=Path,
        const=ROOT / "results",
        metavar="FOLDER",
        help="write NAME-cpu.json or NAME-gpu.json, to results/ unless a folder is given",
    )
    for option in list(inspect.signature(measure).parameters.values())[2:]:
        parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default)
    given = vars(parser.parse_args())
    folder = given.pop("record")
    device = pick_device(given.pop("device"))
    text = json.dumps({"command": command(script.name), **recorded(measure, device, **given)}, indent=1) + "\n"
    if folder is None:
        print(text, end="")
        return
    place = folder / f"{script.stem.replace('_', '-')}-{'gpu' if device.type == 'cuda' else 'cpu'}.json"
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


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` makes kernels for a GPU, for which it needs Triton. No benchmark compiles for a CPU."""
    return device.type == "cuda" and find_spec("triton") is not None


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
    return _rounds({name: partial(seconds, work, device) for name, work in works.items()}, rounds, budget)


def replays(
    works: Mapping[str, Callable[..., object]],
    inputs: Sequence[tuple],
    device: torch.device,
    rounds: int,
    budget: float = 1e9,
) -> dict[str, list[float]]:
    """Seconds per call of each function on a GPU, without the host's part; on a CPU ``in_turn`` with the first input.

    The CUDA graph of a function calls it with each input once. If the inputs are those of ``cold_inputs``, the cache
    holds nothing of an input when its turn comes.

    Args:
        works: functions that a CUDA graph can record: they never wait for the GPU (see ``cuda_graphs``).
        inputs: the arguments of a call; ``[()]`` for functions without any.
        rounds, budget: as for ``in_turn``.
    """
    if device.type == "cpu":
        return in_turn({name: partial(work, *inputs[0]) for name, work in works.items()}, device, rounds, budget)
    record = recorder(device)
    clocks = {name: partial(_elapsed, _graph(work, inputs, device, record)) for name, work in works.items()}
    taken = _rounds(clocks, rounds, budget)
    return {name: [replay / len(inputs) for replay in each] for name, each in taken.items()}


def cold_inputs(make: Callable[[], tuple], device: torch.device) -> list[tuple]:
    """Inputs for ``replays``, together larger than ``CACHES`` caches of the GPU, and at least two; one on a CPU."""
    inputs = [make()]
    if device.type == "cuda":
        size = sum(tensor.nbytes for tensor in tree_leaves(inputs) if isinstance(tensor, torch.Tensor))
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        inputs += [make() for _ in range(max(1, math.ceil(CACHES * cache / size) - 1))]
    return inputs


def _graph(
    work: Callable[..., object], inputs: Sequence[tuple], device: torch.device, record: Recorder
) -> Callable[[], None]:
    """The replay of a CUDA graph that calls a function with each input once.

    The calls before it, in which libraries choose and compile kernels, are on a stream of their own, as PyTorch's
    documentation asks.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work(*inputs[0])
    torch.cuda.current_stream(device).wait_stream(stream)

    def calls() -> None:
        for given in inputs:
            work(*given)  # its result is dropped, so that the next call uses the same memory

    return record(calls)


def _elapsed(replay: Callable[[], None], times: int = 1) -> float:
    """Seconds of the GPU per replay."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def _rounds(clocks: Mapping[str, Callable[..., float]], rounds: int, budget: float) -> dict[str, list[float]]:
    """Runs clocks in turn: functions that take a number of calls, make them, and return the seconds of one."""
    warm = {name: clock() for name, clock in clocks.items()}
    rounds = max(min(rounds, 3), min(rounds, int(budget / sum(warm.values()))))
    calls = {name: max(1, math.ceil(LEAST / max(once, 1e-6))) for name, once in warm.items()}
    taken = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            taken[name].append(clock(calls[name]))
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
