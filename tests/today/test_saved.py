"""The recipe as a FAMF model: the same logits, also after it is saved, opened and exported."""

import pytest
import torch

from famf_lib.data.sampling import Batch
from famf_lib.models import AGGREGATIONS
from famf_lib.training import checkpoint
from famf_lib.training.evaluation import EvaluationConfig
from famf_today.heads import MarginHead
from famf_today.saved import as_famf

B, N, D, C = 5, 3, 7, 11


@pytest.mark.parametrize("mapped", [True, False])
def test_it_gives_the_mean_of_the_heads_logits(mapped, tmp_path):
    torch.manual_seed(0)
    heads = [MarginHead(D, C, scale=s, mapped=mapped) for s in (13.0, 17.0)]
    for parameter in (p for head in heads for p in head.parameters()):
        torch.nn.init.normal_(parameter)
    x, mask = torch.randn(B, N, D), torch.ones(B, N, dtype=torch.bool)
    mask[1, 1:], mask[2] = False, False
    clips = []
    for faces, seen in zip(x, mask, strict=True):
        clips.append(sum((one.norm() ** 2 * one for one in faces[seen]), torch.zeros(D)))  # |x|³ x̂
    expected = sum(head(torch.stack(clips)) for head in heads) / 2
    model = as_famf(heads, power=3.0)
    card = checkpoint.Card(
        config=model.config,
        dim=D,
        modality_dims={},
        persons=[f"p{c}" for c in range(C)],
        evaluation=EvaluationConfig(faces=N),
        seed=1,
        run="enrolled",
        data="",
    )
    opened = checkpoint.open(checkpoint.save(tmp_path / "model.safetensors", model, card)).model
    for one in (model, opened):
        torch.testing.assert_close(one(Batch(x, mask, {}, {})), expected, rtol=1e-4, atol=1e-4)
    assert AGGREGATIONS["mapped-mean"] is type(model.aggregation)
