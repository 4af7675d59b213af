"""FAMF with another head is trained as FAMF itself: with the classifier's own last layer it is the same model."""

import pytest
import torch
from torch import nn

from famf_lib.data.splits import split
from famf_lib.experiments.run_store import RunSpec
from famf_lib.training import train
from famf_today import famf_with_head
from famf_today.famf_with_head import FAMFWithHead


class Plain(nn.Module):
    """The last layer of a classifier in place of a head with a margin."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, x, classes=None):
        return self.last(x)


class PlainFAMF(FAMFWithHead):
    def __init__(self, famf, margin, scale):
        last = famf.classifier[-1]
        super().__init__(famf, margin, scale)
        self.head = Plain(last)


@pytest.mark.parametrize("fusion", ["mlma", "mma"])  # the latter has a penalty
def test_with_the_plain_head_it_is_trained_to_the_numbers_of_train(fusion, made_up, monkeypatch):
    clips = made_up(audio=3)
    spec = RunSpec(
        model={"aggregation_options": {"clusters": 3}, "fusion": fusion, "modalities": ["audio"], "hidden": 13},
        training={"epochs": 3, "decay_after": 1, "decay_every": 1, "batch_size": 7, "faces": 5, "precision": "float32"},
        evaluation={"faces": 5},
        seed=2,
    )
    parts = split(clips, "given")
    monkeypatch.setattr(famf_with_head, "FAMFWithHead", PlainFAMF)
    found = famf_with_head.fit(spec, clips, parts, margin=0.3, scale=16.0)
    expected = train.train(spec.model, spec.training, clips, parts, spec.seed).model
    found.famf.classifier = nn.Sequential(*found.body, found.head.last)
    torch.testing.assert_close(found.famf.state_dict(), expected.state_dict(), rtol=0, atol=0)
