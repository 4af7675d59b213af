"""Peak memory of a training step at the paper's full size for several K, with and without residuals; counted and real.

    python benchmarks/cluster_memory.py [--real 8,64] [--device cpu] [--record]

The counted memory is that of ``famf_lib.training.memory`` in float32. The real memory is measured in the second step of
a training: on a CPU that of a separate process minus that of the libraries, on a GPU that of PyTorch's allocator.
``--real`` lists the K to run, or ``none``; the default is 8 and 64 on a CPU, which takes a minute for some of them, and
all on a GPU. A case is not run if its count exceeds three quarters of the free memory.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import common
import torch
import torch.nn.functional as F

from famf_lib.data.synthetic import SIZES
from famf_lib.experiments.catalogue import TABLE_1_MODALITIES
from famf_lib.experiments.settings import BASE
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.memory import ResidualsMaterialised, peak_of_step
from famf_lib.training.train import TrainingConfig

OURS = "residuals not stored (this book)"
FORMS = {OURS: None, "every residual stored": ResidualsMaterialised}
"""The two ways to compute the tokens of AttentionVLAD, and the class that replaces the model's own for each."""

CLUSTERS = (8, 16, 32, 64)
REAL = {"cpu": "8,64", "cuda": "8,16,32,64"}


@dataclass(frozen=True)
class Size:
    """Everything but K that determines the memory of a training step: model, training, D = D_m, and C."""

    model: ModelConfig
    training: TrainingConfig
    dim: int
    persons: int

    @property
    def modality_dims(self) -> dict[str, int]:
        return dict.fromkeys(self.model.modalities, self.dim)

    def with_clusters(self, k: int) -> ModelConfig:
        options = self.model.aggregation_options | {"clusters": k}
        return self.model.model_copy(update={"aggregation_options": options})


def full_size() -> Size:
    """The paper's (Sec. 4.3): batch 4,096, D = 512, hidden 4,096, 10,034 persons; 32-bit floats."""
    full, base = SIZES["paper"], BASE["paper"]
    model = ModelConfig(modalities=TABLE_1_MODALITIES, hidden=base.hidden)
    return Size(model, base.training.model_copy(update={"precision": "float32"}), full.dim, full.persons)


def counted(form: str, clusters: int, size: Size) -> int:
    """The peak memory of a step in bytes, counted tensor by tensor."""
    model, dims = size.with_clusters(clusters), size.modality_dims
    step = peak_of_step(
        model, size.training, dim=size.dim, modality_dims=dims, persons=size.persons, aggregation=FORMS[form]
    )
    return step.peak


def run(clusters: int, form: str, size: Size, device: str) -> tuple[float, int | None]:
    """The wall time of a step whose optimiser has its state, in seconds; on a GPU also the peak memory, in bytes."""
    place = torch.device(device)
    torch.manual_seed(0)
    config = size.with_clusters(clusters)
    with place:
        model = FAMF(config, size.dim, size.modality_dims, size.persons)
        if FORMS[form] is not None:
            model.aggregation = FORMS[form](size.dim, **config.aggregation_options)
        optimiser = torch.optim.Adam(model.parameters(), fused=True)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        clips = size.training.batch_size
        given = common.random_batch(clips, size.training.faces, size.dim, size.modality_dims)
        classes = torch.randint(size.persons, (clips,))

        def step() -> None:
            loss = F.cross_entropy(model(given), classes) + model.fusion.penalty()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        begin = common.wall(place)
        step()
        taken = common.wall(place) - begin
    return taken, torch.cuda.max_memory_allocated(place) if place.type == "cuda" else None


def free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def small() -> Size:
    full = full_size()
    training = full.training.model_copy(update={"batch_size": 64})
    return replace(full, model=full.model.model_copy(update={"hidden": 13}), training=training, persons=31)


def measure(device: torch.device, quick: bool, real: str = "auto") -> dict[str, Any]:
    wanted = (REAL[device.type] if real == "auto" else real).split(",")
    size = small() if quick else full_size()
    libraries = 0 if quick or device.type == "cuda" else common.apart(common.nothing)[1]
    rows = []
    for form in FORMS:
        for clusters in CLUSTERS[:1] if quick else CLUSTERS:
            peak = counted(form, clusters, size)
            row = {"form": form, "residuals": form != OURS, "K": clusters, "counted (bytes)": peak}
            if quick:  # the memory of this process would include much else
                row |= {"seconds": run(clusters, form, size, str(device))[0]}
            elif str(clusters) in wanted and peak < 0.75 * free(device):
                (taken, held), process = common.apart(run, clusters, form, size, str(device))
                row |= {"real (bytes)": held or process - libraries, "seconds": taken}
            rows.append(row)
            common.say(row)
    return {"batch": size.training.batch_size, "persons": size.persons, "hidden": size.model.hidden, "rows": rows}


if __name__ == "__main__":
    common.main(measure)
