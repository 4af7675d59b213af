import math

import numpy as np
import pytest
import torch

from famf_lib.models.aggregation import NeXtVLAD

B, N, D, K, G, EXPANSION = 7, 5, 6, 3, 2, 3
WIDTH = EXPANSION * D // G
EPS, MOMENTUM = 1e-3, 0.1


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = NeXtVLAD(D, K, EXPANSION, G, normalisation="cluster", batch_norm=True).double()
    with torch.no_grad():
        for norm in (made.assignment_norm, made.token_norm):  # scales and shifts that are not 1 and 0
            norm.weight.copy_(torch.rand(len(norm.weight)) + 0.5)
            norm.bias.copy_(torch.randn(len(norm.bias)))
    return made


def faces(seed=1):
    return torch.randn(B, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normalised(rows, norm, statistics):
    """Batch normalisation of rows (R, C), with statistics of the batch, or the running ones."""
    if statistics is None:
        statistics = [(float(np.mean(column)), float(np.mean((column - np.mean(column)) ** 2))) for column in rows.T]
    out = np.empty_like(rows)
    for c, (mean, variance) in enumerate(statistics):
        out[:, c] = (rows[:, c] - mean) / math.sqrt(variance + EPS) * norm.weight[c].item() + norm.bias[c].item()
    return out, statistics


def naive(module, x, mask, running=None):
    """Tokens (B, K, W) by loops over clips, faces, groups and clusters, and the statistics of both normalisations."""
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}
    x = np.where(mask[..., None], x.numpy(), 0.0)
    expanded = x @ weights["expand.weight"].T + weights["expand.bias"]  # (B, N, λD)
    logits = (expanded @ weights["assignment.weight"].T).reshape(B * N, G * K)
    logits, first = normalised(logits, module.assignment_norm, running and running[0])
    v = np.zeros((B, K, WIDTH))
    for b in range(B):
        for i in range(N):
            for g in range(G):
                if not mask[b, i]:
                    continue
                part = expanded[b, i, g * WIDTH : (g + 1) * WIDTH]
                score = expanded[b, i] @ weights["attention.weight"][g] + weights["attention.bias"][g]
                powers = np.exp(logits[b * N + i, g * K : (g + 1) * K])
                for k in range(K):
                    share = powers[k] / powers.sum() / (1 + math.exp(-score))
                    v[b, k] += share * (part - weights["centres"][k])
    for b in range(B):
        for k in range(K):
            v[b, k] /= max(np.linalg.norm(v[b, k]), 1e-12)
    tokens, second = normalised(v.reshape(B, K * WIDTH), module.token_norm, running and running[1])
    tokens = tokens.reshape(B, K, WIDTH)
    tokens[~mask.any(axis=1)] = 0.0
    return tokens, (first, second)


@pytest.mark.parametrize("hidden", [(), ((2, 3), (4, 0)), ((3, slice(None)), (5, 1))], ids=["all", "some", "a clip"])
def test_training_and_evaluation_are_those_of_the_loops(module, hidden):
    mask = np.ones((B, N), dtype=bool)
    for place in hidden:
        mask[place] = False
    x = faces()
    given = x.masked_fill(~torch.from_numpy(mask)[..., None], math.nan)
    tokens, statistics = naive(module, x, mask)
    torch.testing.assert_close(module.train()(given, torch.from_numpy(mask)), torch.from_numpy(tokens))

    running = []  # from mean 0 and variance 1, with the unbiased variance of the batch
    for norm, found, rows in zip((module.assignment_norm, module.token_norm), statistics, (B * N, B), strict=True):
        running.append([(MOMENTUM * m, 1 - MOMENTUM * (1 - v * rows / (rows - 1))) for m, v in found])
        torch.testing.assert_close(norm.running_mean, torch.tensor([m for m, _ in running[-1]], dtype=torch.float64))
    other = faces(seed=2)
    tokens, _ = naive(module, other, mask, running)
    torch.testing.assert_close(module.eval()(other, torch.from_numpy(mask)), torch.from_numpy(tokens))


def test_gradients_reach_every_parameter_but_what_the_normalisation_cancels(module):
    module.train()(faces()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    torch.autograd.gradcheck(lambda x: module(x), faces().requires_grad_(), atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_clips_without_faces_give_zeros(module, masked):
    mask = torch.ones(B, 0, dtype=torch.bool) if masked else None
    assert not module.eval()(torch.zeros(B, 0, D, dtype=torch.float64), mask).any()
