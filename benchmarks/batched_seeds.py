"""Training S seeds of a model as one batched computation, compared with one after the other: seconds per step.

    python benchmarks/batched_seeds.py [--seeds 5] [--rounds 15] [--steps 6] [--record]

A step is forward, backward and Adam on batches that were sampled before. One after the other: each model makes
``--steps`` steps before the next one's turn, so that its weights stay in the cache, as in runs. Batched: the weights of
all models are stacked and ``torch.vmap`` maps over them, so that every product is one batched product and Adam updates
one long tensor per parameter; batch normalisation keeps separate statistics per model. Before the timing the script
checks that both make the same steps. The two run in turn, so that a change in the machine's speed affects both. On a
CPU the seconds are CPU time of one thread, which excludes other programs.

The last column is the same ratio for the matrix products of the classifier alone: the most that any batching gains
there.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch.func import functional_call, stack_module_state

from famf_lib.data import datasets
from famf_lib.data.sampling import Batch, Sampler, generator
from famf_lib.data.splits import split
from famf_lib.experiments.settings import row_settings
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training import train
from famf_lib.training.train import TrainingConfig

METHODS = (("mean", "concat"), ("netvlad", "mma"), ("attentionvlad", "mlma"))


@dataclass(frozen=True)
class Task:
    """S models of equal shape, each with its batch and classes."""

    training: TrainingConfig
    models: list[FAMF]
    batches: list[Batch]
    classes: list[torch.Tensor]
    autocast: Callable[[], torch.autocast]


def task(profile: str, method: tuple[str, str], precision: str, seeds: range, device: torch.device) -> Task:
    clipset = datasets.load("synthetic", profile).to(device)
    used = row_settings("synthetic", profile, "shared").of("")
    config = ModelConfig(
        aggregation=method[0],
        aggregation_options={} if method[0] == "mean" else {"normalisation": used.normalisation},
        fusion=method[1],
        features=used.features,
        hidden=used.hidden,
    )
    schedule = used.training.model_copy(update={"precision": precision})
    parts = split(clipset, "given", seeds[0])
    sampler = Sampler(clipset, parts.train, schedule.faces, config.modalities)
    models, batches, classes = [], [], []
    for seed in seeds:
        model = train.build(config, clipset, len(parts.persons), seed).train()
        draw = generator(device, seed)
        drawn = sampler.draw(draw)
        rows = torch.randperm(len(parts.train), generator=draw, device=device)[: schedule.batch_size]
        model.initialise(clipset.faces[drawn.flatten()[: train.CENTRE_SAMPLE]].float(), seed)
        models.append(model)
        batches.append(sampler.batch(drawn, rows))
        classes.append(parts.train_classes.to(device)[rows])
    return Task(schedule, models, batches, classes, lambda: train.autocast(device, schedule))


def adam(parameters: Iterable[tuple[str, torch.Tensor]], schedule: TrainingConfig) -> torch.optim.Adam:
    groups = ([], [])
    for name, value in parameters:
        groups["aggregation." in name].append(value)
    rates = (schedule.lr, schedule.lr_aggregation)
    return torch.optim.Adam([{"params": g, "lr": lr} for g, lr in zip(groups, rates, strict=True) if g], fused=True)


def one_after_the_other(work: Task) -> Callable[[int], list[float]]:
    """A function that makes some steps of each model and returns the last loss of each."""
    models = copy.deepcopy(work.models)
    optimisers = [adam(model.named_parameters(), work.training) for model in models]

    def run(steps: int) -> list[float]:
        losses = []
        for model, optimiser, batch, classes in zip(models, optimisers, work.batches, work.classes, strict=True):
            for _ in range(steps):
                with work.autocast():
                    logits = model(batch)
                loss = F.cross_entropy(logits.float(), classes) + model.fusion.penalty()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            losses.append(float(loss.detach()))
        return losses

    return run


def batched(work: Task) -> Callable[[int], list[float]]:
    """The same steps of all models at once."""
    models = [_WithPenalty(model) for model in copy.deepcopy(work.models)]
    weights, buffers = stack_module_state(models)
    skeleton = models[0].to("meta")
    optimiser = adam(weights.items(), work.training)
    stacked = {f.name: _stacked([getattr(b, f.name) for b in work.batches]) for f in fields(Batch)}
    classes = torch.stack(work.classes)

    def loss_of(weights, buffers, batch, classes):
        logits, penalty = functional_call(skeleton, weights | buffers, (Batch(**batch),))
        return F.cross_entropy(logits.float(), classes) + penalty

    def run(steps: int) -> list[float]:
        for _ in range(steps):
            with work.autocast():
                losses = torch.vmap(loss_of)(weights, buffers, stacked, classes)
            optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()
            optimiser.step()
        return losses.detach().tolist()

    return run


class _WithPenalty(torch.nn.Module):
    """Returns logits and penalty in one call, because ``functional_call`` lends the weights to one call only."""

    def __init__(self, model: FAMF):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | float]:
        return self.model(batch), self.model.fusion.penalty()


def _stacked(values: list):
    if isinstance(values[0], dict):
        return {name: torch.stack([v[name] for v in values]) for name in values[0]}
    return None if values[0] is None else torch.stack(values)


def products(work: Task) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """The products of the classifier, forward and backward, model by model and batched, in the step's precision."""
    with work.autocast():
        dtype = (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    layers = [layer for layer in work.models[0].classifier if isinstance(layer, torch.nn.Linear)]
    seeds, rows, device = len(work.models), len(work.classes[0]), work.classes[0].device

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(seeds, *shape, device=device).to(dtype)

    operands = [
        (
            random(rows, layer.in_features),
            random(layer.out_features, layer.in_features),
            random(rows, layer.out_features),
        )
        for layer in layers
    ]

    def each(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> None:
        x @ w.mT, g @ w, g.mT @ x  # forward, gradient to the input, gradient to the weights

    def single(steps: int) -> None:
        for seed in range(seeds):
            for _ in range(steps):
                for x, w, g in operands:
                    each(x[seed], w[seed], g[seed])

    def together(steps: int) -> None:
        for _ in range(steps):
            for x, w, g in operands:
                each(x, w, g)

    return single, together


def check(first: Callable[[int], list[float]], second: Callable[[int], list[float]], tolerance: float) -> None:
    """Checks that both have the same losses before any step and after one step of Adam."""
    for _ in range(2):
        torch.testing.assert_close(second(1), first(1), rtol=tolerance, atol=0)


def measure(device: torch.device, quick: bool, seeds: int = 5, rounds: int = 5, steps: int = 3) -> dict[str, Any]:
    warnings.filterwarnings("error", message=".*batching rule.*")  # raised where vmap would fall back to a loop
    numbers = range(1, (2 if quick else seeds) + 1)
    rows = []
    for profile in ("quick",) if quick else ("quick", "standard"):
        for precision in ("float32",) if quick else ("float32", "bfloat16"):
            for method in METHODS[-1:] if quick else METHODS:
                work = task(profile, method, precision, numbers, device)
                single, together = one_after_the_other(work), batched(work)
                check(single, together, 1e-3 if precision == "float32" else 5e-2)
                rows.append(
                    {"profile": profile, "precision": precision, "method": " + ".join(method)}
                    | compared(single, together, products(work), device, 1 if quick else rounds, steps)
                )
                common.say(rows[-1])
    return {"seeds": len(numbers), "rows": rows}


def compared(
    single: Callable,
    together: Callable,
    bound: tuple[Callable, Callable],
    device: torch.device,
    rounds: int,
    steps: int,
) -> dict[str, float]:
    """Seconds per step of all S models, both ways, and the ratios."""
    names = ("one after the other", "batched")
    works = dict(zip(names, (single, together), strict=True))
    taken = common.in_turn({name: lambda w=w: w(steps) for name, w in works.items()}, device, rounds)
    least = common.in_turn({n: lambda w=w: w(steps) for n, w in zip(names, bound, strict=True)}, device, rounds)
    return {f"seconds, {name}": median / steps for name, median in common.medians(taken).items()} | {
        "one after the other / batched": common.ratio(*taken.values()),
        "the same, products of the classifier alone": common.ratio(*least.values()),
    }


if __name__ == "__main__":
    common.main(measure)
