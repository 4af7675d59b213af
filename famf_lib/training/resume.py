"""The state of an unfinished training, from which it resumes and ends with the same numbers."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from famf_lib.support.files import written_whole


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float], seconds: float) -> None:
    """Writes the weights, the optimiser's state, the losses of the completed epochs and their seconds, atomically."""
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses, "seconds": seconds}
    with written_whole(path) as new:
        torch.save(state, new)


def load(path: Path) -> dict[str, Any]:
    """Reads what ``save`` wrote, without running code from the file.

    Raises:
        ValueError: the file is not a checkpoint.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint ({error}), expected one; remove it to start again") from error
