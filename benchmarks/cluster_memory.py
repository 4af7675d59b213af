"""Peak memory of a training step at the paper's full size for several K, with and without residuals; counted and real.

    python benchmarks/cluster_memory.py [--real 8,64] [--device cpu] [--record]

The counted memory is that of ``famf_lib.training.memory`` in float32. The real memory is measured in the second step of
a training: on a CPU that of a separate process minus that of the libraries, on a GPU that of PyTorch's allocator.
``--real`` lists the K to run, or ``none``; the default is 8 and 64 on a CPU, which takes a minute for some of them, and
all on a GPU. A case is not run if its count exceeds three quarters of the free memory.
"""

import os
from dataclasses import replace
from typing import Any

import common
import torch
import torch.nn.functional as F

from famf_book.figures.curves import FORMS, OURS_FORM, Size, paper_size, step_memory
from famf_lib.models.famf import FAMF

CLUSTERS = (8, 16, 32, 64)
REAL = {"cpu": "8,64", "cuda": "8,16,32,64"}


def run(clusters: int, form: str, size: Size, device: str) -> tuple[float, int | None]:
    """The wall time of a step whose optimiser has its state, in seconds; on a GPU also the peak memory, in bytes."""
    place = torch.device(device)
    torch.manual_seed(0)
    options = size.model.aggregation_options | {"clusters": clusters}
    config = size.model.model_copy(update={"aggregation_options": options})
    with place:
        model = FAMF(config, size.dim, size.modality_dims, size.persons)
        if FORMS[form] is not None:
            model.aggregation = FORMS[form](size.dim, **options)
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
    full = paper_size()
    training = full.training.model_copy(update={"batch_size": 64})
    return replace(full, model=full.model.model_copy(update={"hidden": 13}), training=training, persons=31)


def measure(device: torch.device, quick: bool, real: str = "auto") -> dict[str, Any]:
    wanted = (REAL[device.type] if real == "auto" else real).split(",")
    size = small() if quick else paper_size()
    counted = step_memory(CLUSTERS[:1] if quick else CLUSTERS, size)
    libraries = 0 if quick or device.type == "cuda" else common.apart(common.nothing)[1]
    rows = []
    for form, used in counted.items():
        for clusters, peak in used.items():
            row = {"form": form, "residuals": form != OURS_FORM, "K": clusters, "counted (bytes)": int(peak)}
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
