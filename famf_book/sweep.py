"""A sweep: the runs, probes and notebooks of many experiments as tasks of a Dask cluster.

Dask says who does what, and gives the task of a worker that was lost to another one. What is done lies in the store,
where a run is trained once whoever asks (see ``runs``): asked for again, an interrupted sweep goes on.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from famf_book import notebooks
from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments.catalogue import get_experiment, specs
from famf_lib.experiments.probes import ask
from famf_lib.experiments.run_store import RunSpec, cores, get_or_train, threads
from famf_lib.experiments.settings import Profile, setting
from famf_lib.support.files import ROOT, store
from famf_lib.support.progress import progress
from famf_lib.support.wording import counted
from famf_lib.training.train import pick_device

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = "10s"  # for a scheduler to answer
EVERY = 60.0  # seconds between two sentences on what a sweep waits for
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # code that a worker runs first
RETRIES = 2  # of a task that failed; one whose worker was lost is given to another in any case


class SweepError(ValueError):
    """A grid with nothing in it, a cluster that cannot be used, or tasks that failed."""


@dataclass
class Task:
    """A run with all that is asked of it, and the rows (experiment, label) of the grid that it stands for.

    ``clips`` are the folder and the fingerprint of the ClipSet.
    """

    dataset: str
    clips: tuple[Path, str]
    spec: RunSpec
    probes: set[str] = field(default_factory=set)
    rows: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A notebook to execute on a dataset, when the runs of its experiment are there."""

    experiment: str
    dataset: str
    out: Path
    parameters: dict[str, Any]

    @property
    def notebook(self) -> Path:
        return ROOT / "book" / f"{self.experiment}.ipynb"


def grid(
    experiments: Sequence[str], on: Sequence[str], profile: Profile, seeds: Sequence[int] | None = None
) -> list[Task]:
    """The runs of experiments on datasets, each once: experiments share rows. ``seeds`` are by default the book's.

    An experiment that has nothing to see on a dataset is left out there.

    Raises:
        DatasetAbsent: a dataset is not here.
        ValueError: an experiment or a dataset is not known; nothing is left.
    """
    tasks: dict[tuple[str, str], Task] = {}
    chosen = [get_experiment(name) for name in experiments]
    for dataset in on:
        clipset = datasets.load(dataset, profile)
        clips = clipset.folder, clipset.fingerprint
        source, used = datasets.get(dataset), setting(dataset, profile)
        for experiment in (e for e in chosen if e.serves(source)):
            for (label, _), spec in specs(experiment.variants, source, used, seeds or experiment.seeds).items():
                task = tasks.setdefault((dataset, spec.model_dump_json()), Task(dataset, clips, spec))
                task.probes |= set(experiment.probes)
                task.rows.append((experiment.name, label))
    if not tasks:
        raise SweepError(f"{', '.join(experiments)}: nothing to see on {', '.join(on)}, expected other modalities")
    return list(tasks.values())


def pages(tasks: Sequence[Task], folder: Path, profile: Profile, seeds: Sequence[int] | None = None) -> list[Page]:
    """The notebooks of the grid, to be left with their outputs in a folder."""
    shown = dict.fromkeys((experiment, task.dataset) for task in tasks for experiment, _ in task.rows)
    return [
        Page(
            experiment,
            dataset,
            folder.resolve() / f"{experiment}-{dataset}.ipynb",
            {"dataset": dataset, "profile": profile, "seeds": list(seeds or get_experiment(experiment).seeds)},
        )
        for experiment, dataset in shown
    ]


def sweep(
    tasks: Sequence[Task],
    client: "Client",
    device: str,
    executed: Sequence[Page] = (),
    *,
    wait: float | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> pd.DataFrame:
    """Does the tasks and then the pages that stand on them.

    While no worker is there ``say`` is told so, and after ``wait`` minutes of it the sweep ends.

    Returns a line a row and seed of the grid: dataset, experiment, label, seed, key (of the run), mean_ap.

    Raises:
        SweepError: tasks failed, or were lost with the cluster, or nobody is there to do them; the others are done.
    """
    options = {"retries": RETRIES} | ({"resources": {"GPU": 1}} if device == "cuda" else {})
    runs = {}
    for task in tasks:
        arguments = task.spec, sorted(task.probes), *task.clips, device, store()
        runs[client.submit(_run, *arguments, key=_key("run", *arguments), **options)] = task
    futures = list(runs)
    for page in executed:
        stands_on = [f for f, t in runs.items() if t.dataset == page.dataset and page.experiment in dict(t.rows)]
        arguments = page.notebook, page.out, page.parameters | {"device": device}, store()
        futures.append(client.submit(_page, *arguments, stands_on, key=_key("page", *arguments), **options))
    try:
        _wait(futures, _Patience(client, wait, say))
        made = client.gather(list(runs))
    except BaseException:
        client.cancel(futures)  # those under way come to their end
        raise
    return pd.DataFrame(
        {"dataset": t.dataset, "experiment": e, "label": label, "seed": t.spec.seed, "key": key, "mean_ap": mean_ap}
        for t, (key, mean_ap) in zip(runs.values(), made, strict=True)
        for e, label in t.rows
    )


def _key(kind: str, *arguments: Any) -> str:
    """What Dask calls a task: whoever asks for the same one gets the same."""
    return f"{kind}-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]}"


def _wait(futures: Sequence, patience: "_Patience") -> None:
    from distributed import as_completed

    failed, coming = [], as_completed(futures)
    with progress("sweep", len(futures)) as bar:
        while left := coming.count():
            if not coming.has_ready():
                patience.worker()
                time.sleep(0.05)
                continue
            future = next(coming)
            if future.status != "finished":
                failed.append(future)
            bar.to(len(futures) - left + 1, f"{len(failed)} failed" if failed else "")
    if failed:
        error = failed[0].exception() if failed[0].status == "error" else "the scheduler was lost"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SweepError(f"{len(failed)} of {len(futures)} tasks failed, the others are done; the first: {reason}")


class _Patience:
    """Waits for workers: says so now and then, and not for ever."""

    def __init__(self, client: "Client", minutes: float | None, say: Callable[[str], None]):
        self.client, self.minutes, self.say = client, minutes, say
        self.looked = float("-inf")
        self.since: float | None = None  # when no worker was seen first
        self.said = 0.0

    def worker(self) -> bool:
        """Whether one is there, looked for every few seconds.

        Raises: SweepError, none is there and it was waited for long enough.
        """
        if time.monotonic() - self.looked < EVERY / 20:
            return False
        info = self.client.scheduler_info(n_workers=-1)
        self.looked = now = time.monotonic()
        if info["workers"]:
            self.since = None
            return True
        if self.since is None:
            self.since = self.said = now
        where, expected = info["address"], f"expected one: dask worker {info['address']} --nthreads 1"
        if self.minutes is not None and now - self.since >= 60 * self.minutes:
            raise SweepError(f"--wait: no worker at {where} for {self.minutes:g} minutes, {expected}")
        if now - self.said >= (EVERY if self.said > self.since else EVERY / 6):  # one that died may soon be back
            self.said = now
            self.say(f"no worker at {where} for {(now - self.since) / 60:.1f} minutes, {expected}; still waiting")
        return False


# --- what a worker does ----------------------------------------------------------------------------------------------


def _run(
    spec: RunSpec, probes: Sequence[str], folder: Path, fingerprint: str, device: str, place: Path
) -> tuple[str, float]:
    """Key and mAP of a run, which afterwards lies in the store with the answers to its probes."""
    _check_worker(place)
    where = pick_device(device)
    clipset = _opened(folder, fingerprint, where)
    with threads(1 if where.type == "cpu" else None):
        run = get_or_train(spec, clipset, where)
        for name in probes:
            ask(run, name, clipset)
    return run.key, run.mean_ap


def _page(notebook: Path, out: Path, parameters: dict[str, Any], place: Path, runs: Sequence) -> None:
    _check_worker(place)
    notebooks.execute(notebook, out, parameters, watched=False)


def _check_worker(place: Path) -> None:
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads != 1:  # the seed of PyTorch is one for all threads of a process
        raise SweepError(
            f"worker {worker.address}: {counted(worker.state.nthreads, 'thread')} found, expected --nthreads 1"
        )
    if store() != place:
        raise SweepError(f"worker {worker.address}: its store is {store()}, expected FAMF_STORE to be {place}")


@lru_cache(maxsize=1)
def _opened(folder: Path, fingerprint: str, device: torch.device) -> ClipSet:
    return ClipSet.open(folder).to(device)


# --- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def cluster(
    scheduler: str = "",
    workers: int = 0,
    device: str = "auto",
    *,
    wait: float | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[tuple["Client", str]]:
    """A client of the cluster, and the kind of device that its tasks use.

    Args:
        scheduler: address of a scheduler, or the file that it wrote. By default a cluster of this machine begins and
            ends here: one process a core, or one a GPU.
        workers: of that cluster of this machine.
        device: auto is cuda where a worker offers a GPU.
        wait: minutes for a first worker to come; by default for ever. ``say`` is told of the wait.

    Raises:
        SweepError: Dask is not installed, the scheduler does not answer, no worker came, or none offers the GPU asked
            for.
        ValueError: the device is not here.
    """
    if find_spec("distributed") is None:
        raise SweepError("distributed: not installed, expected it for a sweep: pip install distributed")
    from distributed import Client

    if not scheduler:
        kind = pick_device(device).type
        with _local(kind, workers) as here, Client(here) as client:
            yield client, kind
        return
    address = _address(Path(scheduler)) if Path(scheduler).is_file() else scheduler
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise SweepError(f"--scheduler: {scheduler!r} does not answer, expected tcp://host:8786 or a file") from error
    with client:
        patience = _Patience(client, wait, say)
        while not patience.worker():
            time.sleep(0.05)
        offered = client.scheduler_info(n_workers=-1)["workers"].values()
        gpu = any(worker["resources"].get("GPU") for worker in offered)
        if device == "cuda" and not gpu:
            raise SweepError(
                f"--scheduler: none of {counted(len(offered), 'worker')} offers a GPU, expected --resources GPU=1"
            )
        yield client, "cuda" if gpu and device == "auto" else "cpu" if device == "auto" else device


def _address(file: Path) -> str:
    """The address in the file that a scheduler wrote.

    Raises:
        SweepError: none did.
    """
    try:
        address = json.loads(file.read_bytes())["address"]
        if isinstance(address, str):
            return address
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise SweepError(f"--scheduler: {file}: no address of a scheduler in it, expected the file that one wrote")


def _local(device: str, workers: int) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    # What is memory-mapped is not a worker's own, and a limit would count it. Ctrl-C is for this process to answer.
    options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL, "preload": [DEAF]}
    if device == "cuda":
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        own = [{"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": gpu}} for gpu in named.split(",")]
    else:
        own = [{}] * cores()
    number = workers or len(own)
    spec = {n: {"cls": Nanny, "options": options | own[n % len(own)]} for n in range(number)}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)
