"""The run store: what a run was asked to be, and what it left behind.

A run lies in a folder named by the hash of everything that decided it: configuration, seed, fingerprint of the data,
code of the library modules that it went through, kind of device and precision, version of PyTorch, the format of the
saved model, and the number of processes where several train together. Asked for again it is read. ::

    <key>/run.json             the request, the result, the losses, where and when it was made
    <key>/persons.parquet      person, ap
    <key>/model.safetensors    the trained model (see ``saved``)
    <key>.partial/             the checkpoint of a run that is under way or was interrupted
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from joblib import Parallel, delayed
from pydantic import Field

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Part, Protocol, Split, split
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import Config, ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.models.fusion import FUSIONS
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, store, written_whole
from famf_lib.support.fingerprint import class_fingerprint, source_fingerprint
from famf_lib.support.progress import progress
from famf_lib.support.provenance import cores
from famf_lib.training import checkpoint, train
from famf_lib.training.train import EvaluationConfig, TrainingConfig, world_size

DECIDING_MODULES = (
    "famf_lib.data.clipset",
    "famf_lib.data.sampling",
    "famf_lib.data.splits",
    "famf_lib.metrics",
    "famf_lib.models",
    "famf_lib.training.cuda_graphs",
    "famf_lib.training.resume",
    "famf_lib.training.train",
)
LISTED = 10  # keys that a sentence names


class RunSpec(Config):
    """What decides a run, the data themselves aside."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    protocol: Protocol = "given"
    part: Part = "report"
    seed: int = Field(1, ge=0, lt=2**32)


class AddedElsewhere(ValueError):
    """A run of a model with modules that this process does not know."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. ``ap`` has a value a person, NaN where the gallery holds none of its clips.

    ``folder`` is None for a run that was recorded elsewhere and is shown from its numbers.
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
        """The saved model of the run (see ``saved``).

        Raises:
            ValueError: the run was recorded elsewhere: its weights are not here.
        """
        if self.folder is None:
            raise ValueError(f"run {self.key}: only its numbers were recorded, expected a run trained on this machine")
        return self.folder / "model.safetensors"

    def model(self, clipset: ClipSet) -> FAMF:
        """The trained model, on the device of the ClipSet it was trained on.

        Raises:
            ValueError: the run was recorded elsewhere, or its model is damaged.
        """
        return checkpoint.open(self.file, clipset.faces.device).model

    def split(self, clipset: ClipSet) -> Split:
        """The clips it was trained on and those it ranked."""
        return split(clipset, self.spec.protocol, self.spec.seed, self.spec.part)


@cache
def _code() -> str:
    return source_fingerprint(*DECIDING_MODULES)


def added_modules(spec: RunSpec) -> list[type]:
    """The modules of a run that are not of this library, but were added to it from outside."""
    used = (AGGREGATIONS[spec.model.aggregation], FUSIONS[spec.model.fusion])
    return [module for module in used if not module.__module__.startswith("famf_lib.")]


def run_key(spec: RunSpec, fingerprint: str, device: torch.device) -> str:
    """The name of a run: 16 hexadecimal digits over everything that decides its numbers."""
    decided = {
        "spec": spec.model_dump(mode="json"),
        "data": fingerprint,
        "code": _code(),
        "device": device.type,
        "precision": str(train.precision_of(spec.training, device)),
        "torch": torch.__version__.split("+")[0],
        "saved": checkpoint.FORMAT,  # what an older build left behind in another one is trained again
    }
    if (processes := world_size()) > 1:  # they add in another order
        decided |= {"processes": processes, "data_parallel": source_fingerprint("famf_lib.training.distributed")}
    if added := added_modules(spec):
        decided |= {"added": [class_fingerprint(module, without=("famf_lib", "torch")) for module in added]}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def find(spec: RunSpec, clipset: ClipSet, device: torch.device) -> Run | None:
    """The run, if it was made before."""
    folder = store() / "runs" / run_key(spec, clipset.fingerprint, device)
    return _read(folder) if folder.is_dir() else None


def open_run(name: str | Path) -> Run:
    """The run that a user means: its key in the store, the beginning of a single one, or the folder of a run.

    Raises:
        ValueError: no run or several fit; the run is damaged.
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


def stored() -> list[Run]:
    """Every run in the store, the latest last. Those with modules that were added elsewhere are left out.

    Raises:
        ValueError: one of them is damaged.
    """
    found = []
    for path in (store() / "runs").glob("*/run.json"):
        with suppress(AddedElsewhere):
            found.append(_read(path.parent))
    return sorted(found, key=lambda run: (run.origin["when"], run.key))


def _read(folder: Path) -> Run:
    try:
        record = json.loads((folder / "run.json").read_text())
        model = record["spec"]["model"]
        if model["aggregation"] not in AGGREGATIONS or model["fusion"] not in FUSIONS:
            raise AddedElsewhere(
                f"{folder}: {model['aggregation']} and {model['fusion']} found, expected modules that stand in "
                "AGGREGATIONS and FUSIONS: one of them was added by the code that trained it"
            )
        ap = pd.read_parquet(folder / "persons.parquet").set_index("person")["ap"]
        numbers = (record["rank_1"], record["losses"], record["seconds"], record["origin"])
        return Run(RunSpec(**record["spec"]), record["key"], ap, *numbers, folder)
    except AddedElsewhere:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: a damaged run ({error}); remove the folder to train it again") from error


def get_or_train(
    spec: RunSpec, clipset: ClipSet, device: torch.device, report: Callable[[int, float], None] | None = None
) -> Run:
    """The run: read if it was made before, otherwise trained, and resumed where an earlier attempt was interrupted.

    Two processes that ask at once train it once. On a CPU a run uses one thread, so that its numbers do not depend on
    how many cores there are: runs go side by side instead (``get_or_train_all``).
    """
    key = run_key(spec, clipset.fingerprint, device)
    folder = store() / "runs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        run = find(spec, clipset, device)
        if run is None:
            with threads(1 if device.type == "cpu" else None):
                _make(spec, key, clipset.to(device), folder, report)
            run = find(spec, clipset, device)
    Path(f"{folder}.lock").unlink(missing_ok=True)  # whoever still waits for it will find the run
    return run


def _trainer() -> Callable[..., train.Trained]:
    if world_size() == 1:
        return train.train
    from famf_lib.training import distributed  # only where torchrun started several processes

    return distributed.train


def _make(spec: RunSpec, key: str, clipset: ClipSet, folder: Path, report: Callable[[int, float], None] | None) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    parts = split(clipset, spec.protocol, spec.seed, spec.part)
    trained = _trainer()(
        spec.model, spec.training, clipset, parts, spec.seed, checkpoint=partial / "checkpoint.pt", report=report
    )
    scores = train.evaluate(trained.model, spec.evaluation, clipset, parts, spec.seed)
    record = {
        "key": key,
        "spec": spec.model_dump(mode="json"),
        "data": clipset.fingerprint,
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
    shutil.rmtree(partial)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def get_or_train_all(
    specs: Sequence[RunSpec], clipset: ClipSet, device: torch.device, label: str = "training"
) -> list[Run]:
    """The runs, in the order asked for. On a CPU those that have to be trained go side by side, one a core; where
    several processes train together, or modules were added from outside, one after another.

    Interrupted, the runs that are done stay done, and those under way resume from their checkpoints the next time.
    """
    missing = {run_key(spec, clipset.fingerprint, device): spec for spec in specs if not find(spec, clipset, device)}
    if missing:
        with progress(label, len(missing)) as bar:
            workers = min(len(missing), cores()) if can_parallelise(missing.values(), clipset, device) else 1
            if workers == 1:
                clipset = clipset.to(device)  # once: at full size it is 4 GB
                for done, spec in enumerate(missing.values()):
                    epochs = spec.training.epochs
                    get_or_train(spec, clipset, device, lambda epoch, loss, n=done, of=epochs: bar.to(n + epoch / of))
            else:
                tasks = [delayed(_worker)(spec, clipset.folder, device.type) for spec in missing.values()]
                for done in side_by_side(tasks, workers):
                    bar.to(done)
    return [get_or_train(spec, clipset, device) for spec in specs]


def side_by_side(tasks: Sequence[tuple], workers: int) -> Iterator[int]:
    """Does the tasks (joblib's ``delayed`` calls) in processes of their own; gives the number that is done."""
    with warnings.catch_warnings():
        # A worker whose memory has grown is replaced by a new one. Nothing is lost, and no page should show it.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
        for done, _ in enumerate(Parallel(workers, return_as="generator_unordered")(tasks), start=1):
            yield done


def can_parallelise(specs: Iterable[RunSpec], clipset: ClipSet, device: torch.device) -> bool:
    """Whether other processes of this machine can do the work: they open the clips from disk, and know the modules of
    the library alone."""
    here = device.type != "cpu" or world_size() > 1 or clipset.folder is None
    return not here and not any(map(added_modules, specs))


def _worker(spec: RunSpec, folder: Path, device: str) -> None:
    get_or_train(spec, opened(folder), torch.device(device))


@cache
def opened(folder: Path) -> ClipSet:
    return ClipSet.open(folder)
