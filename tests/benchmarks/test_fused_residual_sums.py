"""The Triton kernels give the numbers of the plain form in Triton's interpreter, and they compile for GPUs.

Interpretation must be switched on before Triton is imported, hence the separate process; the compiler needs no GPU.
"""

import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest.mock import patch

import numpy as np
import pytest
import torch

from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.kernels import plain_residual_sums
from famf_lib.support.files import ROOT

pytest.importorskip("triton", reason="Triton is not installed")

BENCHMARKS = str(ROOT / "benchmarks")
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes per program, by compute capability
# (B, N, D, K): more columns than a program holds at a time, and not a multiple of them; fewer with many clusters.
SIZES = [(3, 7, 131, 5), (2, 17, 11, 19), (5, 3, 37, 67), (0, 7, 11, 5)]
of_every_vlad = pytest.mark.parametrize("name", ["netvlad", "ghostvlad", "attentionvlad"])


def _benchmark():
    with patch.object(sys, "path", [BENCHMARKS, *sys.path]):
        return importlib.import_module("fused_residual_sums")


def gradients(name, size, masked=False, given=False, dtype=torch.float32, plain=False, programs=512):
    """The tokens, and the gradients of the faces unless they are given and of all parameters."""
    if plain:
        form = plain_residual_sums
    else:
        fused = _benchmark()
        fused.PROGRAMS, form = programs, fused.fused_residual_sums
    clips, faces, dim, clusters = size
    torch.manual_seed(0)
    module = AGGREGATIONS[name](dim, clusters=clusters)
    x, mask = torch.randn(clips, faces, dim), None
    if masked:
        mask = torch.rand(clips, faces) < 0.6
        mask[:1] = False
        x = x.masked_fill(~mask[..., None], torch.nan)
    x.requires_grad_(not given)
    upstream = torch.randn(clips, clusters, dim)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        phi = module.cluster_attention()
        tokens = form(x, mask, module.assignment.weight, module.assignment.bias, module.centres, phi)
    found = torch.autograd.grad(tokens, [x] * (not given) + list(module.parameters()), upstream.to(tokens.dtype))
    return [each.detach().numpy() for each in (tokens, *found)]


@pytest.fixture(scope="module")
def interpreted():
    """``gradients`` in a process where the kernels are interpreted."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(os.getpid).result()  # starts the process with this variable
        yield lambda *arguments, **options: pool.submit(gradients, *arguments, **options).result()


def same(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * abs(other).max(initial=0))


@of_every_vlad
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["every face", "masked"])
def test_kernels_give_what_the_plain_form_gives(interpreted, name, size, masked):
    same(interpreted(name, size, masked), gradients(name, size, masked, plain=True), 2e-5)


def test_faces_that_are_given_get_no_gradient(interpreted):
    given = interpreted("netvlad", SIZES[0], True, True)
    same(given, gradients("netvlad", SIZES[0], True, True, plain=True), 2e-5)
    assert len(given) == len(interpreted("netvlad", SIZES[0], True)) - 1


@pytest.mark.parametrize("programs", [1, 6, 7])
def test_clips_are_shared_by_few_programs(interpreted, programs):
    """Three blocks of columns; seven clips in one, two and two groups."""
    of = "attentionvlad", (7, 5, 131, 3), True
    same(interpreted(*of, programs=programs), gradients(*of, plain=True), 2e-5)


def test_products_are_in_the_precision_of_autocast(interpreted):
    """In float16, because the interpreter cannot multiply in bfloat16."""
    exact = gradients("attentionvlad", SIZES[0], plain=True)
    found = interpreted("attentionvlad", SIZES[0], dtype=torch.float16)
    same(found, exact, 0.01)
    assert found[0].dtype == np.float32 and not np.allclose(found[0], exact[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("clusters", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_compile_at_the_size_of_the_paper(capability, clusters, dtype, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fused = _benchmark()
    shapes = {"MASKED": True, "OF_FACES": True, **fused._shapes(24, 512, clusters, clusters, dtype)}
    options = {"num_warps": shapes.pop("num_warps")}
    for kernel in (fused._forward, fused._grad_logits, fused._grad_faces_and_weights):
        names = kernel.arg_names
        kinds = {name: "constexpr" if name in shapes else "*fp32" for name in names} | {"mask": "*u8"}
        if "clips" in names:
            kinds["clips"] = "i32"
        constants = {(names.index(name),): value for name, value in shapes.items() if name in names}
        source = ASTSource(kernel, kinds, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.asm["cubin"] and compiled.metadata.shared <= SHARED_MEMORY[capability]
