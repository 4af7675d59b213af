"""What is still to be trained: how many runs, and about how much time, memory and disk they take.

Times are those of ``results/full-size-*.json`` (one core of an EPYC, and an H200), divided among the parts of a model:
they tell minutes from days, no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from famf_lib.data import synthetic
from famf_lib.data.clipset import ClipSet
from famf_lib.data.datasets import Dataset
from famf_lib.experiments import conditions
from famf_lib.experiments.catalogue import SIMPLE, Experiment, specs
from famf_lib.experiments.parameters import Profile
from famf_lib.experiments.run_store import RunSpec, run_key
from famf_lib.experiments.settings import row_settings
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.paper import IQIYI
from famf_lib.support.files import store
from famf_lib.support.provenance import cores
from famf_lib.support.wording import counted, lasting, sized
from famf_lib.training.train import precision_of, steps_of

PRODUCTS = {"cpu": {torch.float32: 6e10, torch.bfloat16: 1.4e11}, "cuda": {torch.float32: 4e13, torch.bfloat16: 3e14}}
"""FLOP/s of the products of a training step."""
NUMBERS = {"cpu": 1e8, "cuda": 1e10}  # of face vectors, drawn and aggregated per second
STEP = {"cpu": 0.005, "cuda": 0.002}  # seconds that a step takes in any case
PROCESS = 400_000_000  # bytes of a worker and its libraries


@dataclass(frozen=True)
class Size:
    """The sizes of a dataset that decide the work of a training."""

    persons: int
    trained: int  # clips
    dim: int
    modality_dims: tuple[tuple[str, int], ...]
    bytes: int = 0  # of the ClipSet, if it is still to be made


@dataclass(frozen=True)
class Plan:
    """The runs that are asked for and those to train, with estimates: seconds of the device, bytes of memory and disk.

    ``at_once`` is the number of trainings that run at the same time.
    """

    asked: int
    runs: int
    seconds: float
    memory: int  # bytes
    disk: int
    at_once: int

    def sentence(self) -> str:
        """The plan in one line."""
        if not self.runs:
            return "nothing to train" + f": {counted(self.asked, 'run')} in the store already" * bool(self.asked)
        stored = f", {self.asked - self.runs:,} of {self.asked:,} are stored" if self.runs < self.asked else ""
        side = f", {self.at_once} at a time" if self.at_once > 1 else ""
        room = f"{sized(self.memory)} of memory, {sized(self.disk)} on disk"
        return f"{counted(self.runs, 'run')} to train{stored}: about {lasting(self.seconds)}{side}, {room}"


def wanted(
    experiment: Experiment, source: Dataset, profile: Profile, seeds: Sequence[int] = (), protocol: str = ""
) -> list[RunSpec]:
    """The runs of an experiment on a dataset under every setting; none if the dataset is absent or does not fit."""
    if not experiment.serves(source) or source.absence():
        return []
    seeds, rows = seeds or experiment.seeds, (SIMPLE, *experiment.variants)
    return [
        spec
        for setting in experiment.settings
        for spec in specs(
            rows, source, row_settings(source.name, profile, setting), seeds, protocol=protocol or None
        ).values()
    ]


def plan(asked: Iterable[tuple[Dataset, Profile, Sequence[RunSpec]]], device: torch.device, workers: int = 0) -> Plan:
    """The plan of runs on datasets; a run that is asked for twice counts once. ``workers``: 0 for one per core."""
    missing: dict[str, tuple[RunSpec, Size]] = {}
    every, to_make = set(), {}
    for source, profile, of_it in asked:
        if not of_it:
            continue
        clipset, size = _sizes(source, profile)
        data = clipset.fingerprint if clipset else source.key(profile)
        for spec in of_it:
            key = run_key(spec, data, device)
            every.add(key)
            if not (store() / "runs" / key).is_dir():
                missing[key] = spec, size
                to_make[data] = size.bytes
    weights = [_weights(spec.model.model_dump_json(), size) for spec, size in missing.values()]
    seconds = sum(_seconds(*one, n, device) for one, n in zip(missing.values(), weights, strict=True))
    memory = max((_memory(*one, n) for one, n in zip(missing.values(), weights, strict=True)), default=0)
    at_once = max(min(workers or (cores() if device.type == "cpu" else 1), len(missing)), 1)
    disk = 4 * sum(weights) + sum(to_make.values())
    return Plan(len(every), len(missing), seconds / at_once, memory * at_once, disk, at_once)


def _sizes(source: Dataset, profile: Profile) -> tuple[ClipSet | None, Size]:
    """The ClipSet, unless it is still to be generated, and its sizes."""
    generated = {"synthetic": synthetic.SIZES, "when": conditions.SIZES}.get(source.name)
    if generated and not source.folder(profile).is_dir():
        persons, dim = generated[profile].persons, generated[profile].dim
        dims = tuple((name, dim) for name in synthetic.MODALITIES)
        clips = (IQIYI["train_clips"] + IQIYI["val_gallery"]) / IQIYI["persons"] * persons
        trained = IQIYI["train_clips_with_face"] / IQIYI["persons"] * persons
        size = 2 * dim * clips * (IQIYI["faces_a_clip_mean"] + len(dims))  # float16
        return None, Size(persons, int(trained), dim, dims, int(size))
    clipset = source.load(profile)
    known, given = clipset.clips["person"].notna(), source.protocol == "given"
    trained = (known & (clipset.clips["split"] == "train")).sum() if given else 2 / 3 * known.sum()
    dims = tuple((name, modality.vectors.shape[1]) for name, modality in clipset.modalities.items())
    return clipset, Size(len(clipset.persons), int(trained), clipset.dim, dims)


def _seconds(spec: RunSpec, size: Size, weights: int, device: torch.device) -> float:
    training, kind = spec.training, device.type
    clips, steps = training.epochs * size.trained, training.epochs * steps_of(size.trained, training.batch_size)
    products = 6 * weights * clips / PRODUCTS[kind][precision_of(training, device)]  # forward, and twice that backward
    return STEP[kind] * steps + products + clips * training.faces * size.dim / NUMBERS[kind]


def _memory(spec: RunSpec, size: Size, weights: int) -> int:
    """Weights, gradients and Adam's moments, and roughly what a step keeps of its clips (``memory`` counts it)."""
    tokens = 8 + len(spec.model.modalities)
    of_clip = 2 * spec.training.faces * size.dim + 6 * tokens * size.dim + 3 * spec.model.hidden + 2 * size.persons
    return 16 * weights + 4 * min(spec.training.batch_size, size.trained) * of_clip + PROCESS


@cache
def _weights(model: str, size: Size) -> int:
    """The number of weights of a model, which is built without storage."""
    config, dims = ModelConfig.model_validate_json(model), dict(size.modality_dims)
    with torch.device("meta"):
        famf = FAMF(config, size.dim, {name: dims[name] for name in config.modalities}, size.persons)
    return sum(weight.numel() for weight in famf.parameters())
