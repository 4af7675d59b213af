"""A training at the paper's full size on this machine: its time, part by part, compared with a roofline model.

    python benchmarks/full_size.py [--batch 512] [--device cpu] [--record]

On a GPU the script times whole trainings on the synthetic clips of the profile ``paper``: with CUDA graphs, launched
kernel by kernel, and compiled. A whole training on a CPU would take days, so the script times a few steps of
``--batch`` random clips and extrapolates. ``table_1.py`` makes the runs of Table 1.

The parts of a step are timed forward and backward, with the shapes that they have in a step, as ``common.replays``
does: on a GPU without the host's part. Whole steps are those of ``train.train``, from the end of an epoch to the end of
the next. The rates of the machine, which the roofline model needs, are measured in the same run by large matrix
products and a large copy. On a CPU the seconds are CPU time of one thread, as in runs, which excludes other programs.

What was changed to make a step faster is timed with none of the changes, with each alone and with all. Its saving is
predicted first, from operations, bytes and the rates of the machine; a change that gains less than ``KEPT`` goes again.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import common
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Batch, Sampler, generator, sample_faces
from famf_lib.data.splits import Split, split
from famf_lib.data.synthetic import SIZES
from famf_lib.experiments.catalogue import FAMF as ROW
from famf_lib.experiments.catalogue import specs
from famf_lib.experiments.parameters import PROFILES
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import row_settings
from famf_lib.metrics import Ranking, log_odds
from famf_lib.models import famf
from famf_lib.models.famf import FAMF
from famf_lib.paper import IQIYI
from famf_lib.training import evaluation, roofline, train
from famf_lib.training.roofline import COMPILED, PADDED, Machine, Size
from famf_lib.training.train import SingleProcess

STEPS = 4  # of an epoch of random clips
FACES_PER_CLIP = 30  # of random clips
ROUNDS, BUDGET = 15, 20.0  # the budget is in seconds for all parts
SHORT = 10  # epochs of the trainings that are only timed
KEPT = 0.03  # the least gain of a change, as a share of the step without any


class Compiled(SingleProcess):
    """A single process whose model is compiled, which fuses the small kernels of a step."""

    def wrap(self, model: FAMF) -> nn.Module:
        return torch.compile(model)


class Regions(SingleProcess):
    """A single process that compiles each batch normalisation of the classifier with the activation after it."""

    def wrap(self, model: FAMF) -> nn.Module:
        torch.compiler.reset()  # it stops compiling after a number of regions
        first, *between, last = model.classifier
        cut = len(between) // 2
        regions = nn.Sequential(*between[:cut]), nn.Sequential(*between[cut + 1 :])
        for region in regions:
            region.compile()
        model.classifier = nn.Sequential(first, regions[0], between[cut], regions[1], last)
        return model


def machine(device: torch.device, dtype: torch.dtype, quick: bool) -> Machine:
    """The rates of the three products of a linear layer, forward and backward, and of moving bytes.

    The latter is the faster of a copy and a change in place, because a CPU that copies also reads the target.
    """
    n = 256 if quick else 8192 if device.type == "cuda" else 2048
    odd = n - 6  # like the paper's 10,034 persons not a multiple of 8

    kinds = {"training": (dtype, n), "float32": (torch.float32, n), "unaligned": (dtype, odd)}

    def products(kind: torch.dtype, outputs: int) -> Callable[[], object]:
        sizes = (n, n), (outputs, n), (n, outputs)
        x, weight, upstream = (torch.randn(*size, device=device).to(kind) for size in sizes)
        return lambda: (x @ weight.T, upstream @ weight, upstream.T @ x)

    source = torch.ones(n * n * 16, device=device)  # larger than any cache
    target = torch.empty_like(source)
    works = {name: products(*kind) for name, kind in kinds.items()}
    works |= {"copy": lambda: target.copy_(source), "change": source.neg_}
    taken = common.medians(common.replays(works, [()], device, 2 if quick else ROUNDS, BUDGET))
    rates = {name: 6 * n * n * outputs / taken[name] for name, (_, outputs) in kinds.items()}
    return Machine(memory=2 * source.nbytes / min(taken["copy"], taken["change"]), **rates)


def random_clips(
    size: Size, clips: int, modalities: tuple[str, ...], faces: int = FACES_PER_CLIP
) -> tuple[ClipSet, Split]:
    """Random clips of the right shapes; the time of a step does not depend on their values."""
    rng = np.random.default_rng(0)
    names = [f"clip {n}" for n in range(clips)]
    table = pd.DataFrame({"name": names, "person": "nobody", "split": "train", "group": None})
    counts = np.full(clips, faces)
    clipset = ClipSet.build(
        rng.standard_normal((clips * faces, size.dim), dtype=np.float32),
        counts,
        table,
        face_table=pd.DataFrame(index=pd.RangeIndex(clips * faces)),
        modalities={
            m: (rng.standard_normal((clips, size.modality_dims[m]), dtype=np.float32), np.ones(clips))
            for m in modalities
        },
    )
    every, classes = torch.arange(clips), torch.from_numpy(rng.integers(size.persons, size=clips))
    return clipset, Split([f"person {n}" for n in range(size.persons)], every, classes, every, classes)


def parts(
    spec: RunSpec, size: Size, clipset: ClipSet, clips: Split, batch: int, quick: bool
) -> tuple[dict[str, float], float]:
    """Seconds of each part of a step of ``batch`` clips and of the draw of an epoch; seconds of ranking a clip."""
    device, schedule = clipset.faces.device, spec.training
    rounds, budget = (2, 1.0) if quick else (ROUNDS, BUDGET)
    model = train.build(spec.model, clipset, size.persons, seed=1).train()
    sampler = Sampler(clipset, clips.train, schedule.faces, spec.model.modalities)
    classes, draw = clips.train_classes.to(device), generator(device, 0)
    drawn = sampler.draw(draw)
    optimiser = train._optimiser(model, schedule, capturable=device.type == "cuda")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    def inputs() -> tuple[Tensor, Batch, Tensor, Tensor, Tensor]:
        """The clips of a step, and what each part receives."""
        rows = torch.randperm(len(classes), generator=draw, device=device)[:batch]
        given = sampler.batch(drawn, rows)
        with train.autocast(device, schedule):
            aggregated = model.aggregation(model.scaled(given.faces), given.mask)
            fused = model.fusion(model.tokens(given)).flatten(1)
            logits = model.classifier(fused)
        return rows, given, leaf(aggregated), leaf(fused), leaf(logits)

    def fusion(given: Batch, aggregated: Tensor) -> Tensor:
        with patch.object(model.aggregation, "forward", lambda x, mask: aggregated):  # all of ``tokens`` but that
            return model.fusion(model.tokens(given))

    def both_ways(function: Callable[..., Tensor]) -> Callable[..., None]:
        """Runs forward, and backward if the result needs a gradient."""

        def call(rows: Tensor, given: Batch, *leaves: Tensor) -> None:
            with train.autocast(device, schedule):
                result = function(rows, given, *leaves)
            if result.requires_grad:
                wanted = [one for one in (*leaves, *model.parameters()) if one.requires_grad]
                torch.autograd.grad(result, wanted, result.detach(), allow_unused=True)

        return call

    works = {
        "sampling": lambda rows, *rest: sampler.batch(drawn, rows),
        "aggregation": both_ways(lambda rows, given, *rest: model.aggregation(model.scaled(given.faces), given.mask)),
        "fusion": both_ways(lambda rows, given, aggregated, *rest: fusion(given, aggregated)),
        "classifier": both_ways(lambda rows, given, aggregated, fused, logits: model.classifier(fused)),
        "loss": both_ways(lambda rows, *rest: F.cross_entropy(rest[-1].float(), classes[rows])),
        "optimiser": lambda *given: optimiser.step(),
    }
    taken = common.replays(works, common.cold_inputs(inputs, device), device, rounds, budget)

    counts = torch.full((size.clips,), size.faces // size.clips)  # the draw needs no faces and is timed at full size
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(device)
    every, total = torch.arange(size.clips, device=device), int(counts.sum())

    def whole_draw() -> None:
        sample_faces(offsets, every, schedule.faces, draw, total)
        torch.randperm(size.clips, generator=draw, device=device)

    ranked = torch.arange(min(evaluation.EVALUATION_BATCH, len(clips.train)), device=device)

    @torch.inference_mode()
    def rank() -> None:
        ranking = Ranking(size.persons, spec.evaluation.k, device)
        for _ in range(2):  # the second batch is merged with the best clips of the first
            ranking.update(log_odds(model.eval()(sampler.batch(drawn, ranked))), classes[ranked])

    # They run a few times per training, launched by the host.
    found = common.medians(taken | common.in_turn({"draw": whole_draw, "rank": rank}, device, rounds, budget))
    return found, found.pop("rank") / (2 * len(ranked))


def step_seconds(spec: RunSpec, clipset: ClipSet, clips: Split, batch: int, **options: Any) -> float:
    """Seconds per step of ``train.train`` on random clips: the time between the ends of two epochs, divided."""
    schedule = spec.training.model_copy(update={"batch_size": batch, "epochs": 4, "decay_after": 4})
    model = spec.model.model_copy(
        update={"aggregation_options": spec.model.aggregation_options | {"centres": "random"}}
    )
    device, ends = clipset.faces.device, []
    train.train(
        model, schedule, clipset, clips, 1, report=lambda epoch, loss: ends.append(common.now(device)), **options
    )
    epoch = statistics.median(b - a for a, b in pairwise(ends))
    return epoch / train.steps_of(len(clips.train), batch)


def changes(
    spec: RunSpec, size: Size, clipset: ClipSet, clips: Split, batch: int, rates: Machine, quick: bool
) -> dict[str, Any]:
    """Seconds per step with none of the changes, with all, and of each alone what was predicted and what it gained."""
    predicted = roofline.savings(spec.model, spec.training, size, batch, rates)
    tried = [PADDED] + [COMPILED] * common.can_compile(clipset.faces.device)
    ways = {"none": [], **{name: [name] for name in tried}, "all": tried}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 if quick else 2):
        for way, chosen in ways.items():
            with patch.object(famf, "ALIGNED", famf.ALIGNED if PADDED in chosen else 1):
                processes = Regions() if COMPILED in chosen else None
                taken[way].append(step_seconds(spec, clipset, clips, batch, processes=processes))
    found = common.medians(taken)
    saved = {name: found["none"] - found[name] for name in tried}
    return {
        "none": found["none"],
        "all": found["all"],
        "changes": [
            {
                "change": name,
                "predicted": predicted[name],
                "saved": saved[name],
                "gain": saved[name] / found["none"],
                "kept": saved[name] / found["none"] >= KEPT,
            }
            for name in tried
        ],
    }


def host_seconds(spec: RunSpec, size: Size, device: torch.device, quick: bool) -> float:
    """Seconds that the host needs to launch a step kernel by kernel: the time of a step with tiny tensors."""
    tiny = Size(8, dict.fromkeys(size.modality_dims, 8), 3, 8, 32, 8)
    small = spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"hidden": 8}),
            "training": spec.training.model_copy(update={"faces": 4}),
        }
    )
    clips = 4 if quick else 400
    clipset, parts = random_clips(tiny, clips, spec.model.modalities, faces=4)
    return step_seconds(small, clipset.to(device), parts, batch=4, cuda_graph=False)


def timed(spec: RunSpec, clipset: ClipSet, epochs: int, **options: Any) -> tuple[dict[str, float], FAMF]:
    """A training of so many epochs; its seconds are extrapolated to all epochs of ``spec``."""
    given, ends = split(clipset, spec.protocol, spec.seed), []
    schedule = spec.training.model_copy(update={"epochs": min(epochs, spec.training.epochs)})
    trained = train.train(
        spec.model,
        schedule,
        clipset,
        given,
        spec.seed,
        report=lambda epoch, loss: ends.append(time.perf_counter()),
        **options,
    )
    usual = statistics.median(b - a for a, b in pairwise(ends))
    more = usual * (spec.training.epochs - schedule.epochs)
    return {
        "seconds": trained.seconds + more,
        "an epoch": usual,
        "before": trained.seconds - usual * schedule.epochs,
        "epochs": schedule.epochs,
    }, trained.model


def compiled(spec: RunSpec, profile: str, processes: SingleProcess) -> dict[str, float]:
    """A compiled training. In a process of its own it finds compiled code only in the cache that PyTorch keeps."""
    return timed(spec, datasets.load("synthetic", profile).to("cuda"), SHORT, processes=processes)[0]


def whole(spec: RunSpec, profile: str, device: torch.device) -> dict[str, Any]:
    """Times a whole training and its evaluation, and the same training launched kernel by kernel and compiled."""
    clipset = datasets.load("synthetic", profile).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, Any] = {}
    found["captured"], model = timed(spec, clipset, spec.training.epochs)
    begin = time.perf_counter()
    parts = split(clipset, spec.protocol, spec.seed)
    scores = evaluation.evaluate(model, spec.evaluation, clipset, parts, spec.seed)
    found |= {"evaluation": time.perf_counter() - begin, "mean_ap": scores.mean_ap}
    if device.type == "cuda":
        found["peak memory"] = torch.cuda.max_memory_allocated()
    found["launched"] = timed(spec, clipset, SHORT, cuda_graph=False)[0]
    if common.can_compile(device):
        with TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
            for way, processes in (
                ("compiled", Compiled()),
                ("compiled, kept cache", Compiled()),
                ("regions compiled", Regions()),
            ):
                try:
                    found[way] = common.apart(compiled, spec, profile, processes)[0]
                except Exception as error:  # without a compiler the rest is still recorded
                    common.say({"left out": way, "why": type(error).__name__})
    return found


def measure(device: torch.device, quick: bool, batch: int = 512) -> dict[str, Any]:
    profile = PROFILES[0] if quick else PROFILES[-1]
    here = device.type == "cuda" or quick  # whole trainings
    spec = specs([ROW], datasets.get("synthetic"), row_settings("synthetic", profile, "printed"), [1])[ROW.label, 1]
    precision = train.precision_of(spec.training, device)
    spec = spec.model_copy(
        update={"training": spec.training.model_copy(update={"precision": str(precision).removeprefix("torch.")})}
    )
    dim = SIZES[profile].dim
    size = Size(
        dim=dim,
        modality_dims=dict.fromkeys(spec.model.modalities, dim),
        persons=SIZES[profile].persons,
        clips=300 if quick else IQIYI["train_clips_with_face"],
        faces=9_000 if quick else IQIYI["train_faces"],
        gallery=200 if quick else IQIYI["val_gallery"],
    )
    steps = train.steps_of(size.clips, spec.training.batch_size)
    if device.type == "cuda":
        batch = -(-size.clips // steps)
    elif quick:
        batch = 16
    clipset, clips = random_clips(size, batch * STEPS, spec.model.modalities)
    clipset = clipset.to(device)
    rates = machine(device, precision, quick)
    alone, ranked = parts(spec, size, clipset, clips, batch, quick)
    epochs = spec.training.epochs
    times = {name: epochs * size.clips / batch for name in alone} | {"draw": epochs, "optimiser": epochs * steps}
    work = roofline.of_training(spec.model, spec.training, size)
    taken = {name: alone[name] * times[name] for name in work} | {"evaluation": ranked * size.gallery}
    work |= {"evaluation": roofline.of_evaluation(spec.model, spec.evaluation, size)}
    lines = [
        {"part": name, **asdict(one), "floor here": one.seconds(rates), "measured": taken[name]}
        for name, one in work.items()
    ]
    step = step_seconds(spec, clipset, clips, batch)
    # The optimiser takes the same time for any batch; the rest of a step is proportional to its clips.
    rest = (step - alone["optimiser"]) * size.clips / batch / steps
    in_step = sum(seconds for name, seconds in alone.items() if name != "draw")
    return {
        "profile": profile,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": spec.training.precision,
        "timed": common.TIMED[device.type],
        "size": {
            "persons": size.persons,
            "clips": size.clips,
            "faces": size.faces,
            "gallery": size.gallery,
            "dim": size.dim,
            "hidden": spec.model.hidden,
            "batch": spec.training.batch_size,
            "epochs": epochs,
            "steps": steps * epochs,
        },
        "machine": asdict(rates),
        "parts": lines,
        "step": {
            "batch": batch,
            "seconds": step,
            "parts": in_step,
            "parts / step": in_step / step,
            "host": host_seconds(spec, size, device, quick),
            "a training of these": (rest + alone["optimiser"]) * steps * epochs,
        },
        "changes": changes(spec, size, clipset, clips, batch, rates, quick) if here else None,
        "training": whole(spec, profile, device) if here else None,
    }


if __name__ == "__main__":
    common.main(measure)
