"""What only a GPU can show; skipped where there is none. ``make gpu`` runs these tests first."""

import importlib
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from famf_lib.data.sampling import Sampler, generator
from famf_lib.data.splits import split
from famf_lib.experiments.catalogue import TABLE_1
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import PaddedLinear
from famf_lib.models.kernels import plain_residual_sums
from famf_lib.support.files import ROOT
from famf_lib.training.train import TrainingConfig, build, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda")
BRIEF = TrainingConfig(
    epochs=5, decay_after=2, decay_every=2, batch_size=13, faces=5, precision="bfloat16", lr=0.004, lr_aggregation=0.04
)


@pytest.fixture(scope="module")
def clips(made_up):
    clipset = made_up(persons=7, clips=12)
    return clipset.to(GPU), split(clipset, "given")


def model(aggregation="attentionvlad", fusion="mlma"):
    options = {"mean": {}, "nextvlad": {"clusters": 3, "groups": 2}}.get(aggregation, {"clusters": 3})
    return ModelConfig(aggregation=aggregation, aggregation_options=options, fusion=fusion, hidden=29)


@pytest.mark.parametrize("modules", [row.modules for row in TABLE_1], ids="-".join)
def test_captured_steps_train_as_launched_ones_do(clips, modules):
    captured, launched = (train(model(*modules), BRIEF, *clips, seed=1, cuda_graph=c) for c in (True, False))
    assert captured.losses == pytest.approx(launched.losses, rel=0.01)


def test_a_model_gives_the_logits_of_a_cpu(clips, made_up):
    clipset, parts = made_up(persons=7, clips=12), clips[1]
    sampler = Sampler(clipset, parts.train, 5, ("audio", "body"))
    rows = torch.arange(len(parts.train))
    found = []
    for device in (torch.device("cpu"), GPU):
        network = build(model(), clipset, len(parts.persons), seed=1).eval().to(device)
        here = Sampler(clipset.to(device), parts.train, 5, ("audio", "body"))
        drawn = sampler.draw(generator(torch.device("cpu"), 0)).to(device)
        found.append(network(here.batch(drawn, rows.to(device))).cpu())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_the_padded_last_layer_gives_the_gradients_of_a_plain_one():
    torch.manual_seed(0)
    plain = torch.nn.Linear(31, 67).to(GPU)
    padded = PaddedLinear(31, 67).to(GPU)
    padded.load_state_dict(plain.state_dict())
    x, classes = torch.randn(53, 31, device=GPU).bfloat16(), torch.arange(53, device=GPU)
    found = []
    for layer in (plain, padded):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = layer(x)
        assert logits.dtype == torch.bfloat16
        loss = F.cross_entropy(logits.float(), classes)
        found.append([logits.float(), *torch.autograd.grad(loss, layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.detach().abs().max()))


def test_a_replay_calls_a_function_with_every_input(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    common = importlib.import_module("common")
    source = [(torch.full((7,), float(n), device=GPU), torch.zeros(7, device=GPU)) for n in range(3)]
    (taken,) = common.replays({"copy": lambda a, b: b.copy_(a)}, source, GPU, 3).values()
    assert len(taken) == 3 and min(taken) > 0
    assert [float(target[0]) for _, target in source] == [0, 1, 2]
    inputs = common.cold_inputs(lambda: (torch.rand(2**20, device=GPU),), GPU)
    cache = torch.cuda.get_device_properties(GPU).L2_cache_size
    assert len(inputs) * 2**22 >= common.CACHES * cache
    assert all(a[0].data_ptr() != b[0].data_ptr() for a, b in pairwise(inputs))


@pytest.mark.parametrize("name", ["netvlad", "ghostvlad", "attentionvlad"])
def test_fused_kernels_give_the_numbers_of_the_plain_form(name, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    fused = importlib.import_module("fused_residual_sums").fused_residual_sums
    torch.manual_seed(0)
    module = AGGREGATIONS[name](131, clusters=5).to(GPU)
    x = torch.randn(17, 7, 131, device=GPU, requires_grad=True)
    upstream = torch.randn(17, 5, 131, device=GPU)
    found = []
    for form in (plain_residual_sums, fused):
        phi = module.cluster_attention()
        tokens = form(x, None, module.assignment.weight, module.assignment.bias, module.centres, phi)
        found.append([tokens, *torch.autograd.grad(tokens, [x, *module.parameters()], upstream)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.detach().abs().max()))
