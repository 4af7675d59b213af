"""The run store: a run is trained once and read from disk afterwards.

Each run has a folder named by a hash of everything that decides its numbers: configuration, seed, fingerprint of the
data, code of the library modules it uses, kind of device and precision, version of PyTorch, format of the saved model,
and the number of processes where several train together. ::

    <key>/run.json             the specification, the result, the losses, when and where the run was made
    <key>/persons.parquet      person, ap
    <key>/model.safetensors    the trained model (see ``checkpoint``)
    <key>.partial/             the checkpoint of a run that is in progress or was interrupted, and how much is done
"""

import hashlib
import json
import math
import os
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from pydantic import Field

from famf_lib.data.clipset import ClipSet
from famf_lib.data.opening import opened
from famf_lib.data.splits import Part, Protocol, Split, split
from famf_lib.experiments import plugins
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import Config, ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.models.fusion import FUSIONS
from famf_lib.support import parent, provenance
from famf_lib.support.files import ROOT, size_of, store, written_whole
from famf_lib.support.fingerprint import class_fingerprint, source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.provenance import cores
from famf_lib.support.untrusted import check_archive, check_parquet, read_json
from famf_lib.support.wording import named, plain
from famf_lib.training import checkpoint, evaluation, resume, train
from famf_lib.training.evaluation import EvaluationConfig
from famf_lib.training.train import TrainingConfig, world_size

DECIDING_MODULES = (
    "famf_lib.data.clipset",
    "famf_lib.data.sampling",
    "famf_lib.data.splits",
    "famf_lib.metrics",
    "famf_lib.models",
    "famf_lib.training.cuda_graphs",
    "famf_lib.training.evaluation",
    "famf_lib.training.resume",
    "famf_lib.training.train",
)
DONE = "done"  # the file in <key>.partial that says which share of the epochs is done
DONE_SECONDS = 1.0  # between two times that it is written: on some disks that takes as long as a short epoch
LISTED = 10  # the most keys that an error message lists
MODEL = {"aggregation": str, "fusion": str, "modalities": list}
SPEC = {"model": MODEL, "training": {"epochs": int}, "evaluation": {}, "part": str, "seed": int}
RECORD = {"key": str, "data": str, "mean_ap": float, "rank_1": float, "losses": list, "seconds": float}
RECORD |= {"spec": SPEC, "origin": {"when": str}}
"""What is read of ``run.json``."""


class RunSpec(Config):
    """Everything that decides a run except the data."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    protocol: Protocol = "given"
    part: Part = "report"
    seed: int = Field(1, ge=0, lt=2**32)


class AddedElsewhere(ValueError):
    """A run whose model uses modules that this process has not registered."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. ``ap`` has one value per person, NaN where the gallery holds none of their clips.

    ``folder`` is None for a run that was recorded on another machine: only its numbers are here.
    """

    spec: RunSpec
    key: str
    ap: pd.Series
    rank_1: float
    losses: list[float]
    seconds: float
    origin: dict[str, Any]
    folder: Path | None = None

    @property
    def mean_ap(self) -> float:
        """mAP at k, 0..1."""
        return float(self.ap.mean())

    @property
    def file(self) -> Path:
        """The file of the trained model (see ``checkpoint``).

        Raises:
            ValueError: the run was recorded on another machine, so its weights are not here.
        """
        if self.folder is None:
            raise ValueError(f"run {self.key}: only its numbers were recorded, expected a run trained on this machine")
        return self.folder / "model.safetensors"

    def model(self, clipset: ClipSet) -> FAMF:
        """The trained model, on the device of ``clipset``, which is the data it was trained on.

        Raises:
            ValueError: the run was recorded on another machine, or its file is damaged.
        """
        return checkpoint.open(self.file, clipset.faces.device).model

    def split(self, clipset: ClipSet) -> Split:
        """The clips that the run trained on and those that it ranked."""
        return split(clipset, self.spec.protocol, self.spec.seed, self.spec.part)


@cache
def _code() -> str:
    return source_fingerprint(*DECIDING_MODULES)


def added_modules(spec: RunSpec) -> list[type]:
    """The aggregation and fusion of a run that were added from outside this library."""
    return from_outside(spec.model.aggregation, spec.model.fusion)


def from_outside(aggregation: str, fusion: str) -> list[type]:
    """The classes of these names that were added from outside this library."""
    used = (AGGREGATIONS[aggregation], FUSIONS[fusion])
    return [module for module in used if not module.__module__.startswith("famf_lib.")]


def run_key(spec: RunSpec, fingerprint: str, device: torch.device) -> str:
    """The key of a run: 16 hexadecimal digits that hash everything that decides its numbers."""
    decided = {
        "spec": spec.model_dump(mode="json"),
        "data": fingerprint,
        "code": _code(),
        "device": device.type,
        "precision": str(train.precision_of(spec.training, device)),
        "torch": torch.__version__.split("+")[0],
        "saved": checkpoint.FORMAT,  # a run saved in an older format is trained again
    }
    if (processes := world_size()) > 1:  # they sum gradients in another order
        decided |= {"processes": processes, "data_parallel": source_fingerprint("famf_lib.training.distributed")}
    if added := added_modules(spec):
        decided |= {"added": [class_fingerprint(module, without=("famf_lib", "torch")) for module in added]}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def find(spec: RunSpec, clipset: ClipSet, device: torch.device) -> Run | None:
    """The run from the store; None if it has not been trained yet."""
    return _stored(run_key(spec, clipset.fingerprint, device), spec)


def _stored(key: str, spec: RunSpec) -> Run | None:
    folder = store() / "runs" / key
    return _read(folder, spec) if folder.is_dir() else None


def open_run(name: str | Path) -> Run:
    """The run with this key, with a key that begins like this, or in this folder.

    Raises:
        ValueError: no run or several match, or the run is damaged.
    """
    keys = sorted(path.parent.name for path in (store() / "runs").glob("*/run.json"))
    fit = [key for key in keys if key == str(name)] or [key for key in keys if key.startswith(str(name))]
    if len(fit) == 1:
        return _read(store() / "runs" / fit[0])
    if not fit and (Path(name) / "run.json").is_file():
        return _read(Path(name))
    listed = ", ".join((fit or keys)[:LISTED]) + (", …" if len(fit or keys) > LISTED else "")
    if fit:
        raise ValueError(f"run: {len(fit)} begin with {str(name)!r}, expected more digits of one of {listed}")
    here = f"one of the {len(keys)} in {store() / 'runs'}" + (f": {listed}" if keys else "")
    raise ValueError(f"run: {str(name)!r} is not known, expected {here}")


def _read(folder: Path, spec: RunSpec | None = None) -> Run:
    """The run in a folder. A ``spec`` that led to its key is that of the run, and need not be checked once more."""
    record = read_record(folder)
    model = record["spec"]["model"]
    if model["aggregation"] not in AGGREGATIONS or model["fusion"] not in FUSIONS:
        found = " and ".join(plain(model[kind], 60) for kind in ("aggregation", "fusion"))
        raise AddedElsewhere(
            f"{folder}: {found} found, expected modules in AGGREGATIONS and FUSIONS; register the one that was added "
            "by the code that trained this run"
        )
    with _damage(folder):
        check_parquet(folder / "persons.parquet")
        ap = pd.read_parquet(folder / "persons.parquet").set_index("person")["ap"]
        if not ap.dropna().between(0, 1).all():
            raise ValueError("ap: a number beyond 0 to 1 in persons.parquet")
        numbers = (record["rank_1"], record["losses"], record["seconds"], record["origin"])
        return Run(spec or RunSpec(**record["spec"]), record["key"], ap, *numbers, folder)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``run.json`` in a run's folder; its model may use modules that are not known here.

    Raises:
        ValueError: it is damaged.
    """
    with _damage(folder):
        record = read_json(folder / "run.json")
        _check_record(record, RECORD, "")
    return record


def _check_record(found: Any, expected: dict | type, name: str) -> None:
    if not isinstance(found, expected if isinstance(expected, type) else dict):
        raise ValueError(f"{name}: {plain(repr(found), 40)} in run.json")
    for key, kind in expected.items() if isinstance(expected, dict) else ():
        _check_record(found.get(key), kind, key)


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Turns any error in reading a run into one sentence."""
    try:
        yield
    except Exception as error:  # each reader raises errors of its own for a damaged file
        found = f"{folder}: a damaged run found ({plain(error, 300)}), expected it as it was saved"
        raise ValueError(f"{found}; remove the folder to train it again") from error


def get_or_train(
    spec: RunSpec, clipset: ClipSet, device: torch.device, report: Callable[[int, float], None] | None = None
) -> Run:
    """Reads the run from the store, or trains it, resuming an attempt that was interrupted.

    ``report`` is called with epoch and loss after each epoch. On a CPU a run uses one thread, so that its numbers do
    not depend on the number of cores; ``get_or_train_all`` trains several runs in parallel instead.
    """
    plugins.load()  # in a worker process
    key = run_key(spec, clipset.fingerprint, device)
    if found := _stored(key, spec):
        return found
    _try_modules([spec], clipset)
    return _train(spec, key, clipset, device, report)


def _try_modules(specs: Iterable[RunSpec], clipset: ClipSet) -> None:
    """Refuses modules from outside this library that fail on a small input."""
    for model in (spec.model for spec in specs if added_modules(spec)):
        aggregation = AGGREGATIONS[model.aggregation](clipset.dim, **model.aggregation_options)
        plugins.check(aggregation, FUSIONS[model.fusion](clipset.dim, **model.fusion_options), clipset.dim)


def _train(
    spec: RunSpec,
    key: str,
    clipset: ClipSet,
    device: torch.device,
    report: Callable[[int, float], None] | None = None,
) -> Run:
    """Trains a run that is not in the store. Two processes that ask for it at the same time train it once."""
    folder = store() / "runs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():  # no other process has trained it while this one waited
            with threads(1 if device.type == "cpu" else None):
                _make(spec, key, clipset.to(device), folder, report)
        shutil.rmtree(folder.with_suffix(".partial"), ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)  # a process that still waits for the lock will find the run
    return _read(folder, spec)


def name_of(folder: Path | None) -> str | None:
    """The name of the dataset in a folder of the store; that of any other folder; None for clips in memory alone."""
    made = folder is not None and folder.parent.name == "clipsets"  # there a folder is named NAME-KEY
    return folder and (folder.name.rpartition("-")[0] if made else folder.name)


def _done(keys: Iterable[str]) -> float:
    """How much of the trainings that are under way is done, in trainings."""
    found = 0.0
    for key in keys:
        with suppress(OSError, ValueError):  # it has not begun, has just ended, or is being written
            found += float((store() / "runs" / f"{key}.partial" / DONE).read_text())
    return found


def _trainer() -> Callable[..., train.Trained]:
    if world_size() == 1:
        return train.train
    from famf_lib.training import distributed  # needed only when torchrun started several processes

    return distributed.train


def _make(spec: RunSpec, key: str, clipset: ClipSet, folder: Path, report: Callable[[int, float], None] | None) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    parts, state = split(clipset, spec.protocol, spec.seed, spec.part), partial / "checkpoint.pt"

    written = -math.inf

    def epoch_done(epoch: int, loss: float) -> None:
        nonlocal written
        if (now := time.monotonic()) > written + DONE_SECONDS:
            written = now
            with suppress(OSError):  # a full disk; only the progress of other processes is lost
                (partial / DONE).write_text(str(epoch / spec.training.epochs))
        if report is not None:
            report(epoch, loss)

    given = spec.model, spec.training, clipset, parts, spec.seed
    if state.exists():
        _check_state(state, train.build(spec.model, clipset, len(parts.persons), spec.seed))
    try:
        trained = _trainer()(*given, checkpoint=state, report=epoch_done)
    except OSError as error:  # a full disk does not cost a run: the last state that was saved is enough
        if Path(str(error.filename)) != state or world_size() > 1:
            raise
        found = f"{state}: it cannot be written ({error.strerror})"
        print(f"famf: {plain(found)}; the run goes on, and cannot resume from here", file=sys.stderr)
        trained = _trainer()(*given, checkpoint=state, checkpoint_seconds=math.inf, report=epoch_done)
    scores = evaluation.evaluate(trained.model, spec.evaluation, clipset, parts, spec.seed)
    record = {
        "key": key,
        "spec": spec.model_dump(mode="json"),
        "data": clipset.fingerprint,
        "dataset": name_of(clipset.folder),
        "mean_ap": scores.mean_ap,
        "rank_1": scores.rank_1,
        "losses": trained.losses,
        "seconds": trained.seconds,
        "origin": {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "processes": world_size(),
            "device": clipset.faces.device.type,
            **provenance.origin(ROOT),
        },
    }
    with written_whole(folder) as new:
        new.mkdir()
        (new / "run.json").write_text(json.dumps(record, indent=1))
        pd.DataFrame({"person": parts.persons, "ap": scores.ap.numpy()}).to_parquet(
            new / "persons.parquet", index=False
        )
        card = checkpoint.Card(
            config=spec.model,
            dim=clipset.dim,
            modality_dims={m: clipset.modalities[m].vectors.shape[1] for m in spec.model.modalities},
            persons=[str(person) for person in parts.persons],
            evaluation=spec.evaluation,
            seed=spec.seed,
            run=key,
            data=clipset.fingerprint,
            embedder=clipset.info.get("embedder"),
        )
        checkpoint.save(new / "model.safetensors", trained.model, card)


def _check_state(file: Path, model: FAMF) -> None:
    """Refuses the checkpoint of an interrupted run that does not fit its model.

    Raises:
        ValueError: one sentence with the file, what was found and what was expected.
    """
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        check_archive(file)
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged}: other bytes than its checksum says")
        state = resume.load(file)
        found = {name: tensor.shape for name, tensor in state["model"].items()}
        kinds = isinstance(state["seconds"], float) and all(isinstance(loss, float) for loss in state["losses"])
        if found != expected or not kinds or not isinstance(state["optimiser"]["state"], dict):
            raise ValueError("the state of another model found")
    except Exception as error:
        found = f"{file}: a damaged checkpoint found ({plain(error, 300)}), expected the state of this run"
        raise ValueError(f"{found}; remove it to start again") from error


def clear_interrupted() -> int:
    """Removes the checkpoints of interrupted runs, and locks, that no process uses; returns the number of bytes."""
    size = 0
    for lock in [*(store() / "runs").glob("*.partial"), *(store() / "runs").glob("*.lock")]:
        held = FileLock(lock.with_suffix(".lock"))
        try:
            with held.acquire(timeout=0):
                size += size_of(lock)
                shutil.rmtree(lock.with_suffix(".partial"), ignore_errors=True)
                lock.with_suffix(".lock").unlink(missing_ok=True)
        except (Timeout, OSError):  # in use, or read-only
            continue
    return size


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Sets the number of PyTorch's threads for a while; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def get_or_train_all(
    specs: Sequence[RunSpec], clipset: ClipSet, device: torch.device, label: str = "training"
) -> list[Run]:
    """Reads or trains several runs (see ``train_missing``); returns them in the order of ``specs``."""
    keys = [run_key(spec, clipset.fingerprint, device) for spec in specs]
    wanted = dict(zip(keys, specs, strict=True))
    found = {key: run for key, spec in wanted.items() if (run := _stored(key, spec))}
    missing = {key: spec for key, spec in wanted.items() if key not in found}
    train_missing([(clipset, list(missing.values()))], device, label)
    found |= {key: get_or_train(spec, clipset, device) for key, spec in missing.items()}
    return [found[key] for key in keys]


def train_missing(
    asked: Iterable[tuple[ClipSet, Sequence[RunSpec]]], device: torch.device, label: str = "training"
) -> None:
    """Trains the runs on each ClipSet that are not in the store. None is read.

    On a CPU they are trained in parallel, one per core, where ``can_parallelise`` allows it. After an interruption
    finished runs are kept, and the next call resumes the others from their checkpoints.
    """
    missing: dict[str, tuple[RunSpec, ClipSet]] = {}
    for clipset, specs in asked:
        new = {run_key(spec, clipset.fingerprint, device): (spec, clipset) for spec in specs}
        missing |= {key: one for key, one in new.items() if not (store() / "runs" / key).is_dir()}
    if not missing:
        return
    for spec, clipset in missing.values():
        _try_modules([spec], clipset)
    parallel = all(can_parallelise([spec], clipset, device) for spec, clipset in missing.values())
    workers = min(len(missing), cores()) if parallel else 1
    with progress(label, len(missing), lambda: _done(missing) if workers > 1 else 0.0) as bar:
        if workers == 1:
            here, there = None, None
            for done, (key, (spec, clipset)) in enumerate(missing.items()):

                def report(epoch: int, loss: float, done: int = done, epochs: int = spec.training.epochs) -> None:
                    bar.to(done + epoch / epochs)

                if clipset is not here:
                    here, there = clipset, clipset.to(device)  # once: at full size it is 4 GB
                _train(spec, key, there, device, report)
        else:
            tasks = [delayed(_worker)(spec, clipset.folder, device.type) for spec, clipset in missing.values()]
            for done in in_parallel(tasks, workers):
                bar.to(done)


def in_parallel(tasks: Sequence[tuple], workers: int) -> Iterator[int]:
    """Executes joblib's ``delayed`` calls in worker processes, or here with one worker; yields how many are done."""
    with warnings.catch_warnings():
        # joblib replaces a worker whose memory has grown. Nothing is lost, and no page should show the warning.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
        if workers > 1:
            environment = {"FAMF_STORE": str(store()), plugins.VARIABLE: os.environ.get(plugins.VARIABLE, "")}
            tasks = [(parent.call, (environment, function, *given), named) for function, given, named in tasks]
        try:
            for done, _ in enumerate(Parallel(workers, return_as="generator_unordered")(tasks), start=1):
                yield done
        except (ValueError, LookupError, OSError, GeneratorExit, KeyboardInterrupt):
            raise  # one sentence already
        except BrokenProcessPool as error:
            raise ValueError("a worker process was killed, perhaps for lack of memory; finished runs stay") from error
        except Exception as error:
            if workers == 1:  # here, not in a worker
                raise
            raise ValueError(f"a worker process failed with {named(error)}") from error


def can_parallelise(specs: Iterable[RunSpec], clipset: ClipSet, device: torch.device) -> bool:
    """Whether worker processes on this machine can do the runs.

    They need a CPU, clips that lie on disk, and modules that they know: those of this library and of plugins.
    """
    alone = device.type == "cpu" and world_size() == 1
    added = {module for spec in specs for module in added_modules(spec)}
    return alone and clipset.folder is not None and all(map(plugins.known_to_workers, added))


def _worker(spec: RunSpec, folder: Path, device: str) -> None:
    get_or_train(spec, opened(folder), torch.device(device))
