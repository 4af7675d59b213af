"""The head with a margin, compared with loops written from its equation."""

import math

import pytest
import torch

from famf_today.heads import MarginHead

B, D, C = 5, 7, 11


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
@pytest.mark.parametrize("mapped", [True, False])
def test_logits_and_gradients_are_those_of_the_equation(kind, mapped):
    torch.manual_seed(0)
    head = MarginHead(D, C, margin=0.3, scale=13.0, kind=kind, mapped=mapped).double()
    x, classes = torch.randn(B, D, dtype=torch.float64), torch.randint(C, (B,))
    if mapped:
        assert torch.equal(head.map, torch.eye(D))
        torch.nn.init.normal_(head.map)
    plain, harder = head(x).tolist(), head(x, classes).tolist()
    for b in range(B):
        z = head.map @ x[b] if mapped else x[b]
        for c, w in enumerate(head.directions):
            cosine = (z @ w / z.norm() / w.norm()).item()
            assert plain[b][c] == pytest.approx(13 * cosine)
            if c == classes[b]:
                cosine = cosine - 0.3 if kind == "cosface" else math.cos(math.acos(cosine) + 0.3)
            assert harder[b][c] == pytest.approx(13 * cosine)
    names, values = zip(*head.named_parameters(), strict=True)

    def of(x, *given):
        return torch.func.functional_call(head, dict(zip(names, given, strict=True)), (x, classes))

    assert torch.autograd.gradcheck(of, (x.requires_grad_(), *values))
