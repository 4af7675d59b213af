"""Runs, probes and notebooks of many experiments as tasks of a Dask cluster.

Dask hands the tasks out, and gives the task of a lost worker to another one. Results lie in the run store, where every
run is trained once (see ``run_store``), so the same sweep goes on where an interrupted one stopped. joblib's Dask
backend does not fit: it waits for ever for a task that killed its workers, and a task that fails ends the others.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from famf_book import notebooks
from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.experiments import plugins
from famf_lib.experiments.catalogue import SIMPLE, get_experiment, specs
from famf_lib.experiments.parameters import Profile
from famf_lib.experiments.probes import ask
from famf_lib.experiments.run_store import RunSpec, cores, get_or_train, threads
from famf_lib.experiments.settings import row_settings
from famf_lib.support.files import ROOT, store
from famf_lib.support.progress import progress
from famf_lib.support.wording import counted, first_line
from famf_lib.training.train import pick_device

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = "10s"  # for a scheduler to answer
POLL = 0.1  # seconds between two looks at the tasks
EVERY = 60.0  # seconds between two messages while no worker is there
IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # in a worker: the sweep answers it
RETRIES = 2  # of a task that failed; the task of a lost worker is given to another one in any case

Say = Callable[[str], None]


class SweepError(ValueError):
    """An empty grid, a cluster that cannot be used, or tasks that failed."""


@dataclass
class Task:
    """One run with its probes, and the rows (experiment, label) of the grid that it belongs to."""

    dataset: str
    clipset: ClipSet
    spec: RunSpec
    probes: set[str] = field(default_factory=set)
    rows: list[tuple[str, str]] = field(default_factory=list)


def grid(
    experiments: Sequence[str], on: Sequence[str], profile: Profile, seeds: Sequence[int] | None = None
) -> list[Task]:
    """The runs of experiments on datasets under every setting, each once although rows are shared; with the book's
    seeds by default.

    Raises:
        DatasetAbsent: a dataset is not here.
        ValueError: an experiment or a dataset is unknown, or no experiment has anything to show on any dataset.
    """
    tasks: dict[tuple[str, str], Task] = {}
    chosen = [get_experiment(name) for name in experiments]
    for dataset in on:
        source = datasets.get(dataset)
        clipset = source.load(profile)
        served = [one for one in chosen if one.serves(source)]
        for experiment, setting in ((one, setting) for one in served for setting in one.settings):
            used, own = row_settings(dataset, profile, setting), {variant.label for variant in experiment.variants}
            wanted = specs((SIMPLE, *experiment.variants), source, used, seeds or experiment.seeds)
            for (label, _), spec in wanted.items():
                task = tasks.setdefault((dataset, spec.model_dump_json()), Task(dataset, clipset, spec))
                task.probes |= set(experiment.probes) if label in own else set()
                if (experiment.name, label) not in task.rows:
                    task.rows.append((experiment.name, label))
    if not tasks:
        raise SweepError(f"{', '.join(experiments)}: nothing to see on {', '.join(on)}, expected other modalities")
    return list(tasks.values())


def pages(tasks: Sequence[Task], folder: Path) -> dict[tuple[str, str], Path]:
    """Where the executed notebooks of the grid go, by dataset and experiment."""
    shown = dict.fromkeys((task.dataset, name) for task in tasks for name, _ in task.rows)
    return {(dataset, name): folder.resolve() / f"{name}-{dataset}.ipynb" for dataset, name in shown}


def sweep(
    tasks: Sequence[Task],
    client: "Client",
    device: str,
    executed: dict[tuple[str, str], Path] | None = None,
    profile: Profile = "standard",
    *,
    wait: float | None = None,
    say: Say = lambda sentence: None,
) -> pd.DataFrame:
    """Does the tasks, and executes each notebook of ``executed`` (see ``pages``) once its runs are done.

    While the cluster has no worker, ``say`` gets a message now and then, and after ``wait`` minutes the sweep ends.

    Returns one line per row and seed of the grid: dataset, experiment, label, seed, key (of the run), mean_ap.

    Raises:
        SweepError: tasks failed (the others are done), or there is no worker.
    """
    here = store(), os.environ.get(plugins.VARIABLE, "")
    options = {"retries": RETRIES} | ({"resources": {"GPU": 1}} if device == "cuda" else {})
    runs = []
    for task in tasks:
        given = task.spec, sorted(task.probes), task.clipset.folder, device
        runs.append(client.submit(_run, *given, *here, **options))
    futures = list(runs)
    for (dataset, name), out in (executed or {}).items():
        needed = {
            run: task.spec.seed
            for run, task in zip(runs, tasks, strict=True)
            if task.dataset == dataset and name in dict(task.rows)
        }
        seeds = list(dict.fromkeys(needed.values()))
        given = {"dataset": dataset, "profile": profile, "seeds": seeds, "device": device}
        futures.append(client.submit(_page, name, out, given, *here, list(needed), **options))
    try:
        _finish(futures, client, wait, say)
        made = client.gather(runs)
    except BaseException:
        client.cancel(futures)  # those that are running come to their end
        raise
    return pd.DataFrame(
        {"dataset": task.dataset, "experiment": name, "label": label, "seed": task.spec.seed, "key": key, "mean_ap": ap}
        for task, (key, ap) in zip(tasks, made, strict=True)
        for name, label in task.rows
    )


def _finish(futures: Sequence, client: "Client", minutes: float | None, say: Say) -> None:
    looked = time.monotonic()
    with progress("sweep", len(futures)) as bar:
        while running := sum(not future.done() for future in futures):
            failed = sum(future.done() and future.status != "finished" for future in futures)
            bar.to(len(futures) - running, f"{failed} failed" if failed else "")
            if time.monotonic() - looked >= EVERY / 20:
                _await_worker(client, minutes, say)
                looked = time.monotonic()
            time.sleep(POLL)
    if bad := [future for future in futures if future.status != "finished"]:
        error = bad[0].exception() if bad[0].status == "error" else "the scheduler was lost"
        reason = error if isinstance(error, str) else first_line(error)
        raise SweepError(f"{len(bad)} of {len(futures)} tasks failed, the others are done; the first: {reason}")


def _await_worker(client: "Client", minutes: float | None, say: Say) -> None:
    """Returns when the cluster has a worker, at the latest after ``minutes``.

    Raises:
        SweepError: it has none.
    """
    where, waited, pause = client.scheduler.address, 0.0, EVERY / 6  # a worker that died may soon be back
    limit = float("inf") if minutes is None else 60 * minutes
    expected = f"expected one: dask worker {where} --nthreads 1"
    while True:
        pause = max(min(pause, limit - waited), 0.001)
        try:
            return client.wait_for_workers(1, timeout=pause)
        except TimeoutError:
            waited += pause
        except OSError:
            return  # the scheduler was lost, and the tasks with it
        if waited >= limit:
            raise SweepError(f"--wait: no worker at {where} for {minutes:g} minutes, {expected}")
        say(f"no worker at {where} for {waited / 60:.1f} minutes, {expected}; still waiting")
        pause = EVERY


# --- on a worker -----------------------------------------------------------------------------------------------------


def _run(
    spec: RunSpec, probes: Sequence[str], folder: Path, device: str, place: Path, modules: str
) -> tuple[str, float]:
    """Makes a run, with the answers to its probes, in the store; returns its key and mAP."""
    _set_up(place, modules)
    where = pick_device(device)
    clipset = opened(folder, where)
    with threads(1 if where.type == "cpu" else None):
        run = get_or_train(spec, clipset, where)
        for name in probes:
            ask(run, name, clipset)
    return run.key, run.mean_ap


def _page(experiment: str, out: Path, parameters: dict[str, Any], place: Path, modules: str, runs: Sequence) -> None:
    _set_up(place, modules)
    notebooks.execute(ROOT / "book" / f"{experiment}.ipynb", out, parameters, watched=False)


def _set_up(place: Path, modules: str) -> None:
    """Refuses a worker that cannot do the tasks, and loads the plug-ins of the sweep."""
    from distributed import get_worker

    worker = get_worker()
    if (found := worker.state.nthreads) != 1:  # PyTorch has one seed for all threads of a process
        raise SweepError(f"worker {worker.address}: {counted(found, 'thread')} found, expected --nthreads 1")
    if store() != place:
        raise SweepError(f"worker {worker.address}: its store is {store()}, expected FAMF_STORE to be {place}")
    os.environ[plugins.VARIABLE] = modules  # for the kernels of notebooks, too
    plugins.load()


# --- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def cluster(
    scheduler: str | None = None,
    workers: int = 0,
    device: str = "auto",
    *,
    wait: float | None = None,
    say: Say = lambda sentence: None,
) -> Iterator[tuple["Client", str]]:
    """A client of the cluster, and the kind of device that its tasks use.

    Args:
        scheduler: address of a scheduler, or the file that it wrote. By default a cluster on this machine lives as
            long as the context, with one process per core, or per GPU.
        workers: number of processes of a cluster on this machine.
        device: auto is cuda where a worker offers a GPU.
        wait: minutes to wait for a first worker, by default without end; ``say`` gets messages meanwhile.

    Raises:
        SweepError: Dask is not installed, the scheduler does not answer, there is no worker, or no GPU.
        ValueError: the device is not here.
    """
    if find_spec("distributed") is None:
        raise SweepError("distributed: not installed, expected it for a sweep: pip install distributed")
    from distributed import Client

    if scheduler is None:
        kind = pick_device(device).type
        with _local(kind, workers) as here, Client(here) as client:
            yield client, kind
        return
    address = _address(scheduler)
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise SweepError(f"--scheduler: {scheduler!r} does not answer, expected tcp://host:8786 or a file") from error
    with client:
        _await_worker(client, wait, say)
        offered = client.scheduler_info(n_workers=-1)["workers"].values()
        gpu = any(worker["resources"].get("GPU") for worker in offered)
        if device == "cuda" and not gpu:
            found = f"none of {counted(len(offered), 'worker')} offers a GPU"
            raise SweepError(f"--scheduler: {found}, expected --resources GPU=1")
        yield client, ("cuda" if gpu else "cpu") if device == "auto" else device


def _address(scheduler: str) -> str:
    if not Path(scheduler).is_file():
        if ":" in scheduler:
            return scheduler
        raise SweepError(f"--scheduler: there is no file {scheduler}, expected one, or an address as tcp://host:8786")
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except (ValueError, LookupError, TypeError, RecursionError):
        found = "no address of a scheduler in it, expected the file that one wrote"
        raise SweepError(f"--scheduler: {scheduler}: {found}") from None


def _local(device: str, workers: int) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    # Memory-mapped clips are shared, but a memory limit would count them for every worker.
    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL, "preload": [IGNORE_CTRL_C]}
    own: list[dict[str, Any]] = [{}] * cores()
    if device == "cuda":
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        own = [{"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": gpu}} for gpu in named.split(",")]
    spec = {n: {"cls": Nanny, "options": options | own[n % len(own)]} for n in range(workers or len(own))}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)
