"""Every fusion beside the library, compared with loops over tokens and features written from its equation."""

from itertools import product

import pytest
import torch
from untrained_models import random_module

from famf_today.fusions import LowRankFusion, TensorFusion, TokenTransformer

B, K, M, D, H, R = 5, 3, 2, 7, 4, 3
T = K + M
CASES = [(TensorFusion, {"hidden": H}), (LowRankFusion, {"rank": R}), (TokenTransformer, {"heads": 1})]
of_every_case = pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda v: getattr(v, "__name__", ""))


def tokens():
    x = torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[1, -1] = 0.0  # a clip without its last modality
    x[2] = 0.0  # one without anything
    return x


def normed(norm, x):
    return (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


def naive(module, clip):
    vectors = [clip[:K].mean(dim=0), *clip[K:]]
    if isinstance(module, TensorFusion):
        z = [[1.0, *(layer.weight @ v)] for layer, v in zip(module.reduce, vectors, strict=True)]
        terms = torch.stack([torch.as_tensor(a * b * c) for a, b, c in product(*z)])
        return clip + module.out.weight @ terms + module.out.bias
    if isinstance(module, LowRankFusion):
        joint = torch.zeros(D, dtype=clip.dtype)
        for r in range(R):
            rows, term = slice(r * D, (r + 1) * D), torch.ones(D, dtype=clip.dtype)
            for factor, v in zip(module.factors, vectors, strict=True):
                term = term * (factor.weight[rows] @ v + factor.bias[rows])
            joint += term
        return clip + joint
    seen = [t for t in range(T) if clip[t].any()]
    x = [clip[t] + module.kind[t] for t in range(T)]
    (q, k, v), (bq, bk, bv) = module.mixing.in_proj_weight.chunk(3), module.mixing.in_proj_bias.chunk(3)
    n, out = [normed(module.norm, one) for one in x], torch.zeros_like(clip)
    first, *_, second = module.feedforward[1:]
    for t in seen:
        power = torch.stack([((q @ n[t] + bq) @ (k @ n[s] + bk) / D**0.5).exp() for s in seen])
        mixed = sum(p / power.sum() * (v @ n[s] + bv) for p, s in zip(power, seen, strict=True))
        y = x[t] + module.mixing.out_proj.weight @ mixed + module.mixing.out_proj.bias
        inner = torch.nn.functional.gelu(first.weight @ normed(module.feedforward[0], y) + first.bias)
        out[t] = y + second.weight @ inner + second.bias
    return out


@of_every_case
def test_tokens_and_gradients_are_those_of_the_equation(kind, options):
    module, x = random_module(kind, D, **options), tokens()
    with torch.no_grad():
        torch.testing.assert_close(module(x), torch.stack([naive(module, clip) for clip in x]))
    shape = module.attention(x).shape
    assert shape == (B, T, T)
    names, values = zip(*module.named_parameters(), strict=True)
    there = torch.cat([x[:1], x[3:]]).requires_grad_()  # where no token is zero: there the mask jumps

    def of(*given):
        return torch.func.functional_call(module, dict(zip(names, given[1:], strict=True)), (given[0],))

    assert torch.autograd.gradcheck(of, (there, *values))


def test_what_is_absent_gets_no_attention_and_stays_absent():
    module, x = random_module(TokenTransformer, D, heads=1), tokens()
    assert module.attention(x)[1, :, -1].count_nonzero() == 0
    assert module(x)[1, -1].count_nonzero() == 0 and module(x)[2].count_nonzero() == 0
    module(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
