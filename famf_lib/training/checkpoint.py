"""A trained model in one file: its weights, its configuration, the names of its persons, and its origin.

The file is in safetensors format, and reading it runs no code. Its tensors are the state of the model, and the
centroids of known persons if it has some; its metadata are ``format`` and one JSON entry for each field of ``Card``.
Memory is allocated only after the sizes in the file's header agree with the configuration.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float32
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from famf_lib.models.config import Config, ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.support.files import written_whole
from famf_lib.support.untrusted import parse_json, read_header
from famf_lib.support.wording import plain
from famf_lib.training.evaluation import EvaluationConfig

FORMAT = "famf-model-1"
MODALITIES = 100  # the paper has 4
CENTROIDS = "centroids"
LENGTH = 300  # characters of an error message: a damaged file may hold long text

Size = Annotated[int, Field(ge=1)]


class SavedModelError(ValueError):
    """The file is not a saved model, or it contradicts itself."""


class Known(Config):
    """Persons that clips are compared with, one centroid each, and the threshold (see ``famf_video.similarity``)."""

    persons: Annotated[tuple[str, ...], Field(min_length=1)]
    threshold: float | None = Field(allow_inf_nan=False)


class Card(Config):
    """The metadata of a saved model.

    Args:
        config: the modules and their options.
        dim: D, the length of a face vector.
        modality_dims: D_m of each modality of the configuration.
        persons: the names of the classes, in order.
        evaluation: how it was evaluated; ``faces`` is N.
        seed: the seed of the training.
        run: the key of the training run.
        data: the fingerprint of the ClipSet that it was trained on.
        embedder: the checksum of the network that computed the face vectors, if known.
        known: the persons of the centroids, for an enrolled model.
    """

    config: ModelConfig
    dim: Size
    modality_dims: dict[str, Size]
    persons: Annotated[tuple[str, ...], Field(min_length=1)]
    evaluation: EvaluationConfig
    seed: int = Field(ge=0, lt=2**32)
    run: str
    data: str
    embedder: str | None = None
    known: Known | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> "Card":
        names = self.config.modalities
        if len(names) > MODALITIES:  # each is a module and takes memory
            raise ValueError(f"modalities: {len(names)} found, expected {MODALITIES} at most")
        if sorted(self.modality_dims) != sorted(names):
            found, expected = (", ".join(map(repr, m)) or "none" for m in (self.modality_dims, names))
            raise ValueError(f"modality_dims: those of {found} found, expected those of {expected}")
        if len(set(self.persons)) < len(self.persons):
            raise ValueError("persons: a name appears twice, expected every name once")
        return self

    def metadata(self) -> dict[str, str]:
        """The card as metadata of a file."""
        fields = self.model_dump(mode="json")
        return {"format": FORMAT} | {name: json.dumps(value) for name, value in fields.items()}


@dataclass(frozen=True, eq=False)
class SavedModel:
    """An opened model in evaluation mode, its card, and one centroid for each of the persons in ``card.known``."""

    model: FAMF
    card: Card
    centroids: Float32[Tensor, "P D"] | None = None


def save(path: Path, model: FAMF, card: Card, centroids: Float32[Tensor, "P D"] | None = None) -> Path:
    """Writes the file atomically."""
    state = model.state_dict() | ({} if centroids is None else {CENTROIDS: centroids})
    state = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    with written_whole(path) as new:
        new.write_bytes(repeatable(as_bytes(state, card.metadata())))  # its own writer reports a full disk differently
    return Path(path)


def repeatable(content: bytes) -> bytes:
    """A safetensors file with its header in order: the library writes the metadata in a random one."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def open(path: Path | str, device: torch.device | str = "cpu") -> SavedModel:
    """Opens what ``save`` wrote.

    Raises:
        SavedModelError: one sentence with the file, the field, what was found and what was expected.
    """
    try:
        read_header(Path(path))  # its size
        with safe_open(path, framework="pt") as file:
            card = _card(file.metadata() or {})
            model = _skeleton(card)
            state = _state(file, model, card)
            centroids = state.pop(CENTROIDS, None)
    except SavedModelError as error:
        raise SavedModelError(f"{path}: {error}") from None
    except Exception as error:  # safetensors raises various errors for damaged files
        raise SavedModelError(f"{path}: this is not a saved model ({_plain(error)}), expected one") from error
    model.to_empty(device=device).load_state_dict(state)
    return SavedModel(model.eval(), card, centroids)


def _card(metadata: dict[str, str]) -> Card:
    if metadata.get("format") != FORMAT:
        found = _plain(repr(metadata.get("format")))
        raise SavedModelError(f"the format is {found}, expected {FORMAT!r}, the format of this version")
    values = {}
    for name, text in metadata.items():
        if name != "format":
            try:
                values[name] = parse_json(text)
            except ValueError as error:
                raise SavedModelError(f"{_plain(name)}: {_plain(error)}") from None
    if missing := [name for name, of in Card.model_fields.items() if of.is_required() and name not in values]:
        raise SavedModelError(f"{missing[0]} is missing, expected {', '.join(Card.model_fields)}")
    try:
        return Card(**values)
    except ValueError as error:
        raise SavedModelError(_plain(error)) from None


def _skeleton(card: Card) -> FAMF:
    """The model with tensors that have shapes but no storage."""
    try:
        with torch.device("meta"):
            return FAMF(card.config, card.dim, card.modality_dims, len(card.persons))
    except Exception as error:  # impossible sizes or module names
        raise SavedModelError(
            f"config: no model can be built from it ({_plain(error)}), expected that of a model"
        ) from None


def _state(file: safe_open, model: FAMF, card: Card) -> dict[str, Tensor]:
    """The tensors of the file, checked to have the shapes and types that the model expects."""
    expected, found = model.state_dict(), set(file.keys())
    if card.known:
        expected[CENTROIDS] = torch.empty(len(card.known.persons), card.dim, device="meta")
    if missing := [name for name in expected if name not in found]:
        raise SavedModelError(f"tensor {missing[0]!r} is missing, expected one for each of the model's {len(expected)}")
    if extra := sorted(found - set(expected)):
        raise SavedModelError(f"tensor {_plain(extra[0])!r} found, expected only the model's {len(expected)}")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in expected}
    bias = shapes[list(model.state_dict())[-1]]  # of the classifier's last layer: (C,)
    if bias != (len(card.persons),):
        raise SavedModelError(f"persons: {len(card.persons)} names found, expected one for each of {bias} classes")
    state = {}
    for name, tensor in expected.items():
        if shapes[name] != tuple(tensor.shape):
            raise SavedModelError(f"tensor {name!r}: shape {shapes[name]} found, expected {tuple(tensor.shape)}")
        state[name] = file.get_tensor(name)
        if state[name].dtype != tensor.dtype:
            raise SavedModelError(f"tensor {name!r}: {state[name].dtype} found, expected {tensor.dtype}")
        if not state[name].isfinite().all():
            raise SavedModelError(f"tensor {name!r}: a value that is not finite found, expected numbers")
    return state


def _plain(message: object) -> str:
    return plain(message, LENGTH)
