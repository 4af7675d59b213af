"""A training at the paper's full size on this machine: its time, part by part, compared with a roofline model.

    python benchmarks/full_size.py [--quick] [--batch 512]

On a GPU the script times a whole training on the synthetic clips of the profile ``paper``, with CUDA graphs, launched
kernel by kernel, and compiled; and all of Table 1, which it records as ``famf run table-1 -p profile paper --record``
does. A whole training on a CPU would take days, so the script times a few steps of ``--batch`` random clips and
extrapolates.

Each part is timed alone, forward and backward, with the shapes that it has in a step; whole steps of ``train.train``
are timed as well. The rates of the machine, which the roofline model needs, are measured in the same run by a large
matrix product and a large copy. On a CPU the seconds are CPU time of one thread, as in runs, which excludes other
programs. ``--quick`` is for tests: small shapes, and all steps that a GPU would run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Sampler, generator, sample_faces
from famf_lib.data.splits import Split, split
from famf_lib.data.synthetic import SIZES
from famf_lib.experiments import results, run_store
from famf_lib.experiments.catalogue import FAMF as ROW
from famf_lib.experiments.catalogue import get_experiment, specs
from famf_lib.experiments.parameters import PROFILES, Profile
from famf_lib.experiments.run_store import RunSpec
from famf_lib.experiments.settings import row_settings
from famf_lib.metrics import Ranking, log_odds
from famf_lib.models.famf import FAMF
from famf_lib.paper import IQIYI
from famf_lib.support import provenance
from famf_lib.support.files import ROOT, written_whole
from famf_lib.training import evaluation, roofline, train
from famf_lib.training.roofline import Machine, Size
from famf_lib.training.train import SingleProcess

SEEDS = (1, 2, 3, 4, 5)
STEPS = 4  # of an epoch of random clips
FACES = 30  # of a random clip


class Compiled(SingleProcess):
    """A single process whose model is compiled, which fuses the small kernels of a step."""

    def wrap(self, model: FAMF) -> nn.Module:
        return torch.compile(model)


def machine(device: torch.device, dtype: torch.dtype, quick: bool) -> Machine:
    """The rates of a square product in either precision, and of moving bytes.

    The latter is the faster of a copy and a change in place, because a CPU that copies also reads the target.
    """
    n = 256 if quick else 8192 if device.type == "cuda" else 2048

    def product(kind: torch.dtype) -> float:
        a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
        return 2 * n**3 / seconds(lambda: a @ b, quick)

    source = torch.ones(n * n * 16, device=device)  # larger than any cache
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / min(seconds(f, quick) for f in (lambda: target.copy_(source), lambda: source.neg_()))
    return Machine(product(dtype), product(torch.float32), moved)


def seconds(function: Callable[[], Any], quick: bool) -> float:
    """The median time of a call."""
    timer = Timer("f()", timer=now, globals={"f": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.01 if quick else 2.0).median


def now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def random_clips(size: Size, clips: int, modalities: tuple[str, ...], faces: int = FACES) -> tuple[ClipSet, Split]:
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
    model = train.build(spec.model, clipset, size.persons, seed=1).train()
    sampler = Sampler(clipset, clips.train, schedule.faces, spec.model.modalities)
    classes = clips.train_classes.to(device)[:batch]
    draw = generator(device, 0)
    drawn = sampler.draw(draw)
    rows = torch.randperm(len(clips.train), generator=draw, device=device)[:batch]
    counts = torch.full((size.clips,), size.faces // size.clips)  # the draw needs no faces and is timed at full size
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(device)
    every, total = torch.arange(size.clips, device=device), int(counts.sum())

    def whole_draw() -> None:
        sample_faces(offsets, every, schedule.faces, draw, total)
        torch.randperm(size.clips, generator=draw, device=device)

    def forward_and_backward(function: Callable[..., Tensor], *given: Tensor) -> Callable[[], None]:
        """Runs forward, and backward if the result needs a gradient."""
        with train.autocast(device, schedule):
            upstream = torch.randn_like(function(*given))

        def call() -> None:
            with train.autocast(device, schedule):
                result = function(*given)
            if result.requires_grad:
                result.backward(upstream)
            for one in (*given, *model.parameters()):
                one.grad = None

        return call

    sample = sampler.batch(drawn, rows)
    with train.autocast(device, schedule):
        aggregated = model.aggregation(sample.faces, sample.mask)
        fused = model.fusion(model.tokens(sample)).flatten(1)
        logits = model.classifier(fused)

    def fusion(faces: Tensor) -> Tensor:
        model.aggregation.forward = lambda x, mask: faces  # all of ``tokens`` but the aggregation
        try:
            return model.fusion(model.tokens(sample))
        finally:
            del model.aggregation.forward

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    functions = {
        "draw": whole_draw,
        "sampling": lambda: sampler.batch(drawn, rows),
        "aggregation": forward_and_backward(lambda: model.aggregation(model.scaled(sample.faces), sample.mask)),
        "fusion": forward_and_backward(fusion, leaf(aggregated)),
        "classifier": forward_and_backward(model.classifier, leaf(fused)),
        "loss": forward_and_backward(lambda x: F.cross_entropy(x.float(), classes), leaf(logits)),
    }
    del aggregated, fused, logits
    found = {name: seconds(function, quick) for name, function in functions.items()}
    optimiser = train._optimiser(model, schedule, capturable=device.type == "cuda")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    found["optimiser"] = seconds(optimiser.step, quick)
    optimiser.zero_grad(set_to_none=True)

    ranked = min(evaluation.EVALUATION_BATCH, len(clips.train))

    @torch.inference_mode()
    def rank() -> None:
        ranking = Ranking(size.persons, spec.evaluation.k, device)
        for _ in range(2):  # the second batch is merged with the best clips of the first
            logits = model.eval()(sampler.batch(drawn, torch.arange(ranked, device=device)))
            ranking.update(log_odds(logits), clips.train_classes.to(device)[:ranked])

    return found, seconds(rank, quick) / (2 * ranked)


def step_seconds(spec: RunSpec, clipset: ClipSet, clips: Split, batch: int, **options: Any) -> float:
    """Seconds per step of ``train.train`` on random clips: the time between the ends of two epochs, divided."""
    schedule = spec.training.model_copy(update={"batch_size": batch, "epochs": 4, "decay_after": 4})
    model = spec.model.model_copy(
        update={"aggregation_options": spec.model.aggregation_options | {"centres": "random"}}
    )
    ends: list[float] = []
    train.train(model, schedule, clipset, clips, 1, report=lambda epoch, loss: ends.append(now()), **options)
    epoch = statistics.median(b - a for a, b in pairwise(ends))
    return epoch / train.steps_of(len(clips.train), batch)


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


def whole(spec: RunSpec, clipset: ClipSet, quick: bool) -> dict[str, Any]:
    """Times a whole training and its evaluation, and the same training launched kernel by kernel and compiled."""
    device, given = clipset.faces.device, split(clipset, spec.protocol, spec.seed)
    found: dict[str, Any] = {}
    ways: dict[str, dict[str, Any]] = {"captured": {}, "launched": {"cuda_graph": False}}
    if device.type == "cuda":
        ways["compiled"] = {"processes": Compiled()}
    for way, options in ways.items():
        ends = [time.perf_counter()]
        try:
            trained = train.train(
                spec.model,
                spec.training,
                clipset,
                given,
                spec.seed,
                report=lambda epoch, loss: ends.append(time.perf_counter()),  # noqa: B023
                **options,
            )
        except Exception as error:  # without a compiler the rest is still recorded
            if way != "compiled":
                raise
            print(f"compiled: {type(error).__name__}, left out", file=sys.stderr)
            continue
        epochs = [b - a for a, b in pairwise(ends)]
        usual = statistics.median(epochs[1:] or epochs)
        found[way] = {"seconds": trained.seconds, "an epoch": usual, "before": trained.seconds - usual * len(epochs)}
        if way == "captured":
            begin = time.perf_counter()
            scores = evaluation.evaluate(trained.model, spec.evaluation, clipset, given, spec.seed)
            found["evaluation"] = time.perf_counter() - begin
            found["mean_ap"] = scores.mean_ap
            if device.type == "cuda":
                found["peak memory"] = torch.cuda.max_memory_allocated()
    return found


def table(profile: Profile, device: torch.device, seeds: tuple[int, ...], record: bool) -> dict[str, Any]:
    """Makes all runs of Table 1; the seconds are those of the runs that were not in the store."""
    clipset = datasets.load("synthetic", profile)
    rows, source = get_experiment("table-1").variants, datasets.get("synthetic")
    wanted = specs(rows, source, row_settings("synthetic", profile, "printed"), seeds).values()
    there = sum(run_store.find(spec, clipset, device) is not None for spec in wanted)
    begin = time.perf_counter()
    made = results.run_experiment("table-1", "synthetic", profile, seeds, device.type, setting="printed")
    took = time.perf_counter() - begin
    if record:
        command = f"{results.command('table-1', 'synthetic', profile, seeds)} --device {device.type} --record"
        results.record(made, "table-1", "synthetic", command)
    return {
        "seconds": took,
        "runs": len(made.runs),
        "read": there,
        "trainings": sum(run.seconds for run in made.runs.values()),
    }


def measured(quick: bool, batch: int, device: torch.device) -> dict[str, Any]:
    profile: Profile = PROFILES[0] if quick else PROFILES[-1]
    here = device.type == "cuda" or quick  # the whole training
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
    content = {
        "profile": profile,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": spec.training.precision,
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
            "host": host_seconds(spec, size, device, quick),
            "a training of these": (rest + alone["optimiser"]) * steps * epochs,
        },
        "training": whole(spec, datasets.load("synthetic", profile).to(device), quick) if here else None,
    }
    del clipset
    content["table 1"] = table(profile, device, SEEDS[:1] if quick else SEEDS, not quick) if here else None
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes; prints the record instead of writing it")
    parser.add_argument("--batch", type=int, default=512, help="clips per step on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args()
    device = train.pick_device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    content = measured(arguments.quick, arguments.batch, device)
    command = "python benchmarks/full_size.py" + " --quick" * arguments.quick
    command += f" --batch {arguments.batch}" if device.type == "cpu" and not arguments.quick else ""
    text = json.dumps({"command": command, **content, "origin": provenance.origin(ROOT)}, indent=1)
    if arguments.quick:
        print(text)
        return
    with written_whole(target(device)) as new:
        new.write_text(text + "\n")


def target(device: torch.device) -> Path:
    return ROOT / "results" / f"full-size-{'gpu' if device.type == 'cuda' else 'cpu'}.json"


if __name__ == "__main__":
    main()
