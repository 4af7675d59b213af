"""Saved models and modules with random weights."""

import torch

from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF
from famf_lib.training.checkpoint import Card, SavedModel

PERSONS = ("Ann", "Bo", "Cy", "Di", "Ed", "Flo", "Gus")


def random_module(kind, *given, **options):
    """A module in double precision whose parameters are all random, those that start at zero too."""
    torch.manual_seed(0)
    module = kind(*given, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def made(clips, aggregation="attentionvlad", persons=PERSONS, modalities=("audio", "body"), **card):
    """A model with random weights that fits the clips."""
    config = ModelConfig(aggregation=aggregation, modalities=modalities, hidden=13)
    dims = {name: clips.modalities[name].vectors.shape[1] for name in modalities}
    values = {"evaluation": {"faces": 3}, "seed": 29, "run": "", "data": ""} | card
    described = Card(config=config, dim=clips.dim, modality_dims=dims, persons=persons, **values)
    torch.manual_seed(5)
    return SavedModel(FAMF(config, clips.dim, dims, len(persons)).eval(), described)
