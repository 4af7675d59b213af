"""The configuration of a model: its modules and their options, checked before anything runs."""

import inspect
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import nn

from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.fusion import FUSIONS


class Config(BaseModel):
    """A frozen configuration that refuses an unknown key or a bad value with one sentence.

    Raises:
        ValueError: a sentence with the key, what was found and what was expected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(explain(error, type(self))) from None


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Pydantic's first error as one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and model is not None:
        return f"{key}: no such key, expected one of {', '.join(model.model_fields)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{key}: {first['input']!r} found; {first['msg'][0].lower()}{first['msg'][1:]}"


class ModelConfig(Config):
    """The modules of a model and their options. Where the paper leaves a detail open, its readings are options.

    Args:
        aggregation: a name in ``aggregation.AGGREGATIONS``; its options are the arguments of that class.
        fusion: a name in ``fusion.FUSIONS``; its options are the arguments of that class.
        modalities: the modalities besides the face. Table 1 uses audio and body (the 0.8824 of Table 2).
        features: unit scales every feature vector to unit norm first; raw leaves it as the extractor returned it.
        hidden: the width of the classifier (Sec. 4.3: 4,096).
        activation: the activation between the layers of the classifier. The paper names none.
    """

    aggregation: str = "attentionvlad"
    aggregation_options: dict[str, Any] = {}
    fusion: str = "mlma"
    fusion_options: dict[str, Any] = {}
    modalities: tuple[str, ...] = ("audio", "body")
    features: Literal["raw", "unit"] = "raw"
    hidden: int = Field(4096, ge=1)
    activation: Literal["relu", "none"] = "relu"

    @model_validator(mode="after")
    def _modules_exist(self) -> "ModelConfig":
        for field, known in (("aggregation", AGGREGATIONS), ("fusion", FUSIONS)):
            name = getattr(self, field)
            if name not in known:
                raise ValueError(f"{field}: {name!r} is not known, expected one of {', '.join(known)}")
            options = _options(known[name], getattr(self, f"{field}_options"), f"{field}_options")
            object.__setattr__(self, f"{field}_options", options)  # frozen for callers, but not during validation
        return self


def _options(module: type[nn.Module], options: dict[str, Any], field: str) -> dict[str, Any]:
    """The options, converted to the types in the module's signature (a list from JSON becomes a tuple).

    Missing options get their defaults, so that configurations that mean the same are equal.
    """
    arguments = {k: p for k, p in inspect.signature(module).parameters.items() if k != "dim"}
    checked = {k: p.default for k, p in arguments.items() if p.default is not inspect.Parameter.empty}
    for key, value in options.items():
        if key not in arguments:
            expected = f"one of {', '.join(arguments)}" if arguments else "none: it has no options"
            raise ValueError(f"{field}: {module.__name__} has no option {key!r}, expected {expected}")
        try:
            checked[key] = _validator(module, key).validate_python(value)
        except ValidationError as error:
            found = error.errors()[0]
            raise ValueError(f"{field}.{key}: {value!r} found; {found['msg'][0].lower()}{found['msg'][1:]}") from None
    return checked


@cache
def _validator(module: type[nn.Module], argument: str) -> TypeAdapter:
    """What checks the argument of a module. Making one takes as long as reading a run."""
    return TypeAdapter(inspect.signature(module).parameters[argument].annotation)
