"""Every aggregation beside the library, compared with a loop over clips and faces written from its equation."""

import math

import pytest
import torch
from untrained_models import random_module

from famf_today.aggregations import NAN, ClusterAggregate, ComponentQuality, NormMean

B, N, D, M, S = 5, 7, 11, 3, 13
CASES = [(NormMean, {"power": p}) for p in (0.0, 1.0, 3.0)] + [(NAN, {}), (ComponentQuality, {})]
CASES.append((ClusterAggregate, {"clusters": M, "style": S}))
of_every_case = pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))


def clips():
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(B, N, D, dtype=torch.float64, generator=generator)
    mask = torch.rand(B, N, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    return x, mask


def softmax(values):
    powers = [math.exp(float(v)) for v in values]
    return [p / sum(powers) for p in powers]


def token(module, faces):
    """The token of one clip from a list of faces (D,)."""
    if not faces:
        return torch.zeros(D, dtype=torch.float64)
    if isinstance(module, NormMean):
        weights = [float(x.norm()) ** module.power for x in faces]
        return sum(w * x / x.norm() for w, x in zip(weights, faces, strict=True)) / sum(weights)
    if isinstance(module, NAN):
        first = softmax([module.query @ x for x in faces])
        r = sum(a * x for a, x in zip(first, faces, strict=True))
        query = torch.tanh(module.second.weight @ r + module.second.bias)
        return sum(a * x for a, x in zip(softmax([query @ x for x in faces]), faces, strict=True))
    if isinstance(module, ComponentQuality):
        q = [module.quality.weight @ x + module.quality.bias for x in faces]
        weights = [softmax([one[d] for one in q]) for d in range(D)]
        return torch.stack([sum(weights[d][i] * x[d] for i, x in enumerate(faces)) for d in range(D)])
    styles = [torch.cat([x / x.norm(), x.norm().log()[None]]) for x in faces]
    styles = [(module.style.weight @ s + module.style.bias).clamp(min=0) for s in styles]
    shares = [softmax(module.assignment.weight @ s + module.assignment.bias) for s in styles]
    centres, kinds = [], []
    for m in range(M):
        total = sum(share[m] for share in shares)
        centres.append(sum(share[m] / total * x for share, x in zip(shares, faces, strict=True)))
        kinds.append(sum(share[m] / total * s for share, s in zip(shares, styles, strict=True)))
    scores = [module.merge.weight @ torch.cat([c, k]) + module.merge.bias for c, k in zip(centres, kinds, strict=True)]
    p = [softmax([score[d] for score in scores]) for d in range(D)]
    return torch.stack([sum(p[d][m] * centres[m][d] for m in range(M)) for d in range(D)])


@of_every_case
def test_tokens_are_those_of_the_equation_and_masked_faces_change_nothing(kind, options):
    module, (x, mask) = random_module(kind, D, **options), clips()
    with torch.no_grad():
        naive = torch.stack(
            [token(module, [f for f, seen in zip(x[b], mask[b], strict=True) if seen]) for b in range(B)]
        )
        hidden = x.masked_fill(~mask[..., None], torch.nan)
        torch.testing.assert_close(module(hidden, mask), naive[:, None])
        torch.testing.assert_close(module(x[:1]), naive[:1, None])  # all faces of the first clip count
        assert module(x[:, :0]).count_nonzero() == 0


@of_every_case
def test_gradients_are_those_of_finite_differences(kind, options):
    module, (x, mask) = random_module(kind, D, **options), clips()
    names, values = zip(*[("x", x.requires_grad_())] + list(module.named_parameters()), strict=True)

    def of(*given):
        state = dict(zip(names[1:], given[1:], strict=True))
        return torch.func.functional_call(module, state, (given[0], mask))

    assert torch.autograd.gradcheck(of, values)


@of_every_case
def test_weights_of_faces_sum_to_one_and_are_zero_where_masked(kind, options):
    module, (x, mask) = random_module(kind, D, **options), clips()
    weights = module.face_weights(x, mask)
    assert weights[~mask].count_nonzero() == 0
    torch.testing.assert_close(weights.sum(dim=1), mask.any(dim=1).double())
