import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from famf_lib.models import aggregation, kernels
from famf_lib.models.aggregation import AGGREGATIONS, AttentionVLAD, GhostVLAD, NetVLAD, NeXtVLAD, normalise
from famf_lib.models.kernels import plain_residual_sums

B, N, D, K, G = 3, 7, 11, 5, 2  # clips, faces, length of a face, clusters, ghost clusters
NORMALISATIONS = ("none", "cluster", "whole", "cluster+whole")
FORMS = [("netvlad", {}), ("ghostvlad", {"ghosts": G}), ("nextvlad", {"expansion": 6, "groups": 3})]
FORMS += [("attentionvlad", {"attention": a}) for a in ("sigmoid", "softmax", "none")]
CASES = [(name, more | {"clusters": K, "normalisation": n}) for name, more in FORMS for n in NORMALISATIONS]
CASES += [("mean", {}), ("nextvlad", {"clusters": K, "expansion": 2, "groups": 2})]  # tokens of a face's length
of_every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else str(v))
SMALL = dict(CASES[::-1])  # the first case of each
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0]], dtype=torch.bool)
ONE_WITHOUT = MASK & torch.tensor([[True], [False], [True]])  # a clip without faces
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # sums are kept in float32, also of float64


@pytest.fixture(autouse=True)
def _two_clips_a_chunk(monkeypatch):
    """Every test has a full chunk and one that is not full."""
    monkeypatch.setattr(kernels, "CHUNK", 2 * N * D + 1)
    monkeypatch.setattr(kernels, "FEWEST", 0)
    monkeypatch.setattr(kernels, "FEWEST_NORMALISED", 0)


def made(name, options, dim=D, seed=0):
    """The module in float64, with parameters so large that every softmax and sigmoid has an effect."""
    torch.manual_seed(seed)
    module = AGGREGATIONS[name](dim, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def clips(b=B, n=N, d=D, seed=1):
    return torch.randn(b, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(v):
    length = torch.sqrt(sum(value**2 for value in v.flatten()))
    return v / (length if length > 1e-12 else 1e-12)


def softmax(scores):
    powers = [torch.exp(s) for s in scores]
    return [p / sum(powers) for p in powers]


def assigned(x, a, b):
    """Eq. 2: α_k(x) for all clusters k."""
    return softmax([a[k] @ x + b[k] for k in range(len(a))])


def normalised(tokens, normalisation, phi):
    if "cluster" in normalisation:
        tokens = [unit(v) for v in tokens]
    tokens = torch.stack([p * v for p, v in zip(phi, tokens, strict=True)])
    return unit(tokens) if "whole" in normalisation else tokens


def attention_of(module, name, options):
    """φ(c_k) of the kept clusters: 1, except in AttentionVLAD, where it is a linear layer of the centre."""
    if name != "attentionvlad":
        return [torch.ones((), dtype=torch.float64)] * K
    scores = [module.score.weight[0] @ c + module.score.bias[0] for c in module.centres]
    if options["attention"] == "sigmoid":
        return [1 / (1 + torch.exp(-s)) for s in scores]
    return softmax(scores) if options["attention"] == "softmax" else scores


def tokens_of(module, name, options, faces):
    """The tokens (K, D') of one clip from the list of its faces (D,)."""
    if name == "mean":
        return (sum(faces) / len(faces))[None]
    kept, normalisation = options["clusters"], options.get("normalisation", "none")
    if name == "nextvlad":
        width = D * options["expansion"] // options["groups"]
        sums = [torch.zeros(width, dtype=torch.float64) for _ in range(kept)]
        for face in faces:
            expanded = module.expand.weight @ face + module.expand.bias
            for g in range(options["groups"]):
                part = expanded[g * width : (g + 1) * width]
                gate = 1 / (1 + torch.exp(-(module.attention.weight[g] @ expanded + module.attention.bias[g])))
                rows = slice(g * kept, (g + 1) * kept)
                alpha = assigned(expanded, module.assignment.weight[rows], module.assignment.bias[rows])
                for k in range(kept):
                    sums[k] = sums[k] + gate * alpha[k] * (part - module.centres[k])
    else:
        sums = [torch.zeros(D, dtype=torch.float64) for _ in range(kept)]
        for face in faces:
            alpha = assigned(face, module.assignment.weight, module.assignment.bias)
            for k in range(kept):
                sums[k] = sums[k] + alpha[k] * (face - module.centres[k])
    return normalised(sums, normalisation, attention_of(module, name, options))


def weights_of(module, name, options, faces):
    """The weight of each face of one clip: for the VLADs Σ_k α_k(x) φ(c_k) over the kept clusters."""
    if name == "mean":
        return [torch.tensor(1 / len(faces), dtype=torch.float64)] * len(faces)
    if name == "nextvlad":
        gates = [module.attention(module.expand(face)) for face in faces]
        return [sum(1 / (1 + torch.exp(-g)) for g in gate) / options["groups"] for gate in gates]
    phi = attention_of(module, name, options)
    alphas = [assigned(face, module.assignment.weight, module.assignment.bias) for face in faces]
    return [sum(alpha[k] * phi[k] for k in range(K)) for alpha in alphas]


@of_every_case
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_tokens_weights_and_gradients_are_those_of_the_equation(name, options, mask):
    module, x = made(name, options), clips().requires_grad_()
    shown = [[i for i in range(N) if mask is None or mask[b, i]] for b in range(B)]
    faces = [[x[b, i] for i in rows] for b, rows in enumerate(shown)]
    expected = torch.stack([tokens_of(module, name, options, each) for each in faces])
    found = module(x, mask)
    assert found.shape == (B, module.tokens, module.width) and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, **CLOSE)

    weights = torch.zeros(B, N, dtype=torch.float64)
    for b, rows in enumerate(shown):
        weights[b, rows] = torch.stack(weights_of(module, name, options, faces[b])).double()
    torch.testing.assert_close(module.face_weights(x, mask), weights, **CLOSE)

    wanted = {"x": x} | dict(module.named_parameters())
    upstream = clips(*expected.shape, seed=2)
    of_expected = torch.autograd.grad((expected * upstream).sum(), list(wanted.values()), allow_unused=True)
    of_found = torch.autograd.grad((found * upstream).sum(), list(wanted.values()), allow_unused=True)
    for key, a, b in zip(wanted, of_found, of_expected, strict=True):
        cancels = key == "score.bias" and options["attention"] == "softmax"
        assert a is not None and (cancels or b.abs().max() > 1e-3), f"no gradient reaches {key}"
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@of_every_case
@pytest.mark.parametrize("hidden", [math.nan, -math.inf, 1e30])
def test_masked_faces_have_no_effect_and_a_clip_without_faces_gives_zeros(name, options, hidden):
    module, mask = made(name, options), ONE_WITHOUT
    results = []
    for value in (0.5, hidden):
        x = clips().masked_fill(~mask[..., None], value).requires_grad_()
        module.zero_grad()
        tokens = module(x, mask)
        (tokens * torch.arange(tokens.numel()).view_as(tokens)).sum().backward()
        gradients = [p.grad.clone() for p in module.parameters()]
        results.append([tokens.detach(), module.face_weights(x, mask).detach(), x.grad, *gradients])
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
    tokens, weights, gradient = results[0][:3]
    assert not tokens[1].any() and tokens[0].any() and tokens[2].any() and not weights[1].any()
    assert not gradient[~mask].any(), "a masked face has a gradient"


@of_every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_close_and_gives_zeros_for_no_face(name, options, dtype):
    module, x, mask = made(name, options), clips(), ONE_WITHOUT
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(dtype))  # the same numbers in both precisions
    given = x.to(dtype)
    expected = module(given.double(), mask).detach()
    module, given = module.to(dtype), given.requires_grad_()
    tokens, weights = module(given, mask), module.face_weights(given, mask)
    assert tokens.dtype == weights.dtype == dtype
    assert not tokens[1].any() and not weights[1].any()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(tokens.double(), expected, rtol=20 * eps, atol=20 * eps * float(expected.abs().max()))
    (tokens.float().square().mean() + tokens.float().mean()).backward()
    for gradient in (given.grad, *(p.grad for p in module.parameters())):
        assert gradient is None or gradient.isfinite().all()


@of_every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_a_batch_without_faces_gives_zeros(name, options, dtype, masked):
    module, x = made(name, options).to(dtype), clips(n=0).to(dtype).requires_grad_()
    mask = torch.ones(B, 0, dtype=torch.bool) if masked else None
    tokens = module(x, mask)
    assert tokens.shape == (B, module.tokens, module.width) and not tokens.any()
    assert module.face_weights(x, mask).shape == (B, 0)
    tokens.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_normalise_is_that_of_pytorch_in_full_precision():
    v = clips(5, 7, 11) * torch.tensor([0, 1e-13, 1e-30, 1e15, 1])[:, None, None]
    assert torch.equal(normalise(v), F.normalize(v, dim=-1))
    assert torch.equal(normalise(v.float()), F.normalize(v.float(), dim=-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
def test_normalise_in_half_precision_gives_unit_norm_whatever_the_length(dtype, scale):
    """In float16 the squares of the small vectors are 0, and the norms of the large ones infinite."""
    v = (scale * torch.rand(7, 509, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = normalise(v)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().norm(dim=-1), torch.ones(7, dtype=torch.float64), rtol=1e-2, atol=0)


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_residuals_are_never_materialised(name):
    b, n, k, d = 11, 13, 7, 16
    module = AGGREGATIONS[name](d) if name == "mean" else AGGREGATIONS[name](d, clusters=k)
    x, mask = torch.randn(b, n, d, requires_grad=True), torch.ones(b, n, dtype=torch.bool)
    with Largest() as seen:
        module(x, mask).sum().backward()
    assert b * n * d <= seen.elements < b * n * k * d
    with Largest() as naive:  # the check itself
        x[:, :, None] - torch.rand(k, d)
    assert naive.elements == b * n * k * d


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_mixed_precision_stays_close(name):
    module, x = made(name, SMALL[name]).float(), clips().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, weights = module(x, MASK), module.face_weights(x, MASK)
    torch.testing.assert_close(mixed.float(), module(x, MASK), rtol=0.05, atol=0.1)
    torch.testing.assert_close(weights.float(), module.face_weights(x, MASK), rtol=0.05, atol=0.05)


VLADS = [
    (name, SMALL[name] | {"normalisation": n})
    for name in ("netvlad", "ghostvlad", "attentionvlad")
    for n in NORMALISATIONS
]
of_every_vlad = pytest.mark.parametrize(
    ("name", "options"), VLADS, ids=lambda v: v if isinstance(v, str) else v["normalisation"]
)


@pytest.fixture
def plainly(monkeypatch):
    """Calls a function while the modules use the plain form."""

    def call(function, *given):
        with monkeypatch.context() as patch:
            patch.setattr(aggregation, "residual_sums", plain_residual_sums)
            return function(*given)

    return call


def gradients(module, x, mask, b=B):
    x = x.detach().clone().requires_grad_()
    tokens = module(x, mask)
    return [tokens.detach(), *torch.autograd.grad(tokens, [x, *module.parameters()], clips(b, K, seed=2))]


@of_every_vlad
@pytest.mark.parametrize("b", [0, 1, 13])
def test_chunks_give_what_the_whole_batch_gives(name, options, b, plainly, monkeypatch):
    module, x = made(name, options), clips(b)
    mask = torch.rand(b, N, generator=torch.Generator().manual_seed(3)) < 0.7
    x = x.masked_fill(~mask[..., None], math.nan)
    seen, faces = [], kernels._faces
    monkeypatch.setattr(kernels, "_faces", lambda *given: seen.append(len(part := faces(*given))) or part)
    found = gradients(module, x, mask, b)
    assert seen == ([2] * (b // 2) + [1] * (b % 2)) * 2, "forward and backward"
    for one, other in zip(found, plainly(gradients, module, x, mask, b), strict=True):
        torch.testing.assert_close(one, other)


@of_every_vlad
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_mixed_precision_has_the_gradients_of_the_plain_form(name, options, inside, plainly):
    module = made(name, options).float()
    exact = module(clips().float(), MASK)

    def gradients():
        x = clips().float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = module(x, MASK)
            with torch.autocast("cpu", enabled=inside, dtype=torch.bfloat16):
                found = torch.autograd.grad(tokens.sum(), [x, *module.parameters()])
        assert tokens.dtype == torch.float32
        return [tokens, *found]

    mixed = [gradients(), plainly(gradients)]
    for one, other in zip(*mixed, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(other.detach().abs().max()) + 1e-3)
    assert not torch.equal(mixed[0][0], exact), "no product was in bfloat16"


@of_every_vlad
def test_the_number_of_threads_changes_nothing(name, options):
    module, found = made(name, options), []
    for threads in (2, 1):  # the tests have one
        torch.set_num_threads(threads)
        found.append(gradients(module, clips(), MASK))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@of_every_vlad
def test_models_can_be_batched(name, options):
    """``torch.vmap`` over weights and clips, as in ``benchmarks/batched_seeds.py``, with gradients of the faces."""
    modules = [made(name, options, seed=seed) for seed in (1, 2)]
    weights, _ = torch.func.stack_module_state(modules)
    x = torch.stack([clips(seed=seed) for seed in (4, 5)]).requires_grad_()
    found = torch.vmap(lambda w, x: torch.func.functional_call(modules[0], w, (x,)))(weights, x)
    expected = torch.stack([module(each) for module, each in zip(modules, x, strict=True)])
    torch.testing.assert_close(found, expected)
    of_faces = torch.autograd.grad(expected.square().sum(), x, retain_graph=True)[0]
    found.square().sum().backward()
    expected.square().sum().backward(inputs=[p for module in modules for p in module.parameters()])
    torch.testing.assert_close(x.grad, of_faces)
    for name, stacked in weights.items():
        torch.testing.assert_close(stacked.grad, torch.stack([m.get_parameter(name).grad for m in modules]))


@of_every_vlad
def test_gradients_of_chunks_are_those_of_finite_differences(name, options):
    """First and second derivatives of faces and all parameters, with masked faces and a clip without faces.

    A clip without faces has a second derivative only if nothing is normalised: in PyTorch that of a norm of 0 is NaN.
    """
    module, mask = made(name, options), ONE_WITHOUT
    x = clips().requires_grad_()

    def tokens(x, *parameters):
        given = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(module, given, (x, mask))

    assert torch.autograd.gradcheck(tokens, (x, *module.parameters()), fast_mode=True)
    mask = mask if options["normalisation"] == "none" else MASK
    assert torch.autograd.gradgradcheck(tokens, (x, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("name", ["netvlad", "ghostvlad", "attentionvlad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_given_faces_are_summed_as_in_recorded_runs(name, dtype):
    """Bitwise the two products with which the recorded runs were trained, if nothing is normalised."""
    module, x = made(name, SMALL[name]).float(), clips().float()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        alpha, phi, hidden = module.assign(x, MASK), module.cluster_attention(), x.masked_fill(~MASK[..., None], 0.0)
        v = torch.bmm(alpha.transpose(1, 2).to(x.dtype), hidden)
        v = v.to(module.centres.dtype) - alpha.sum(dim=1)[..., None] * module.centres
        assert torch.equal(module(x, MASK), v if phi is None else v * phi[:, None])


AWKWARD = [(name, options) for name, options in VLADS if "cluster" in options["normalisation"] and name != "ghostvlad"]


@pytest.mark.parametrize(("name", "options"), AWKWARD, ids=lambda v: v if isinstance(v, str) else v["normalisation"])
@pytest.mark.parametrize("bias", [-1e4, -32.0], ids=["no weight", "short vector"])
def test_clusters_with_little_weight_and_clips_without_faces_are_normalised(name, options, bias):
    """A cluster whose V_k is 0, or shorter than the least divisor, and another with φ = 0."""
    module, x, mask = made(name, options | {"attention": "none"} if name == "attentionvlad" else options), clips(), MASK
    with torch.no_grad():
        module.assignment.bias[1] = bias
        module.centres[3] = 0
        if name == "attentionvlad":
            module.score.bias[0] = 0
            options = options | {"attention": "none"}
    x.requires_grad_()
    faces = [[x[b, i] for i in range(N) if mask[b, i]] for b in range(B)]
    expected = torch.stack([tokens_of(module, name, options, each) for each in faces])
    found = module(torch.cat([x, x[:1]]), torch.cat([mask, torch.zeros(1, N, dtype=torch.bool)]))
    assert not found[B].any() and (found[0, 1].norm() < 0.5) and (bias > -1e4) == bool(found[0, 1].any())
    torch.testing.assert_close(found[:B], expected, rtol=1e-9, atol=1e-9)
    upstream = clips(B + 1, K, seed=2)
    wanted = [x, *module.parameters()]
    of_found = torch.autograd.grad(found, wanted, upstream)
    of_expected = torch.autograd.grad(expected, wanted, upstream[:B])
    for one, other in zip(of_found, of_expected, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_chunks_are_for_large_batches_whose_faces_need_a_gradient(monkeypatch):
    monkeypatch.setattr(kernels, "FEWEST", 3)  # chunks of two clips
    taken = []
    monkeypatch.setattr(kernels, "chunked_residual_sums", lambda *given: taken.append(1) or plain_residual_sums(*given))
    module = made("netvlad", {"clusters": K})
    for x, chunked in ((clips(7).requires_grad_(), [1]), (clips(6).requires_grad_(), []), (clips(7), [])):
        taken.clear()
        module(x)
        assert taken == chunked
    with torch.no_grad():
        module(clips(7).requires_grad_())
    with pytest.raises(RuntimeError, match="dtype"):  # PyTorch itself refuses mixed types
        module(clips(7).float().requires_grad_())
    assert not taken


def test_one_pass_is_for_batches_of_a_chunk_in_full_precision(monkeypatch):
    monkeypatch.setattr(kernels, "FEWEST_NORMALISED", 1)  # a chunk has two clips and one number
    taken, form = [], kernels.chunked_residual_sums
    monkeypatch.setattr(kernels, "chunked_residual_sums", lambda *given: taken.append(1) or form(*given))
    module = made("netvlad", {"clusters": K, "normalisation": "cluster+whole"})
    for x, expected in ((clips(3), [1]), (clips(3).requires_grad_(), [1]), (clips(2), []), (clips(3).half(), [])):
        taken.clear()
        module.to(x.dtype)(x)
        assert taken == expected


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_an_exporter_gets_plain_operations(normalisation):
    module = made("attentionvlad", {"clusters": K, "normalisation": normalisation})
    x, batch = clips(6).requires_grad_(), torch.export.Dim("B")
    graph = torch.export.export(module, (x, MASK.repeat(2, 1)), dynamic_shapes=({0: batch}, {0: batch}))
    mask = torch.cat([MASK, MASK[:2]])
    torch.testing.assert_close(graph.module()(clips(5), mask), module(clips(5), mask))
    assert "_Sums" not in str(graph) and "bmm" in str(graph)


@pytest.mark.parametrize("name", ["netvlad", "ghostvlad", "attentionvlad"])
def test_kmeans_puts_the_centres_where_the_faces_are(name):
    module = AGGREGATIONS[name](D, clusters=K)
    number = module.assignment.out_features
    middles = 3 * clips(1, number)[0].float()
    blobs = middles[:, None] + 0.1 * clips(number, 29).float()
    module.initialise(blobs.flatten(0, 1), seed=3)
    nearest = torch.cdist(module.centres.data, middles)
    assert nearest.min(dim=1).values.max() < 0.5 and len(set(nearest.argmin(dim=1).tolist())) == K
    # Each cluster of the softmax belongs to one blob, and the kept ones to their centres.
    alpha = module.assignment(middles).softmax(dim=-1)
    assert sorted(alpha.argmax(dim=1).tolist()) == list(range(number))
    own = module.assignment(module.centres).softmax(dim=-1)
    assert own.argmax(dim=1).tolist() == list(range(K))


def test_kmeans_gives_the_nearest_cluster_100_times_the_weight_of_the_second():
    module = NetVLAD(D, K)
    faces = clips(1, 307)[0].float()
    module.initialise(faces, seed=0)
    by_distance = torch.cdist(faces, module.centres).argsort(dim=1)
    alpha = module.assign(faces[None])[0].gather(1, by_distance).log()
    assert (alpha.diff(dim=1) < 1e-4).all(), "α does not fall with the distance"
    assert (alpha[:, 0] - alpha[:, 1]).mean().exp().item() == pytest.approx(100, rel=1e-3)


def test_kmeans_follows_its_seed_and_leaves_cluster_attention_alone():
    starts, faces = [], clips(1, 307)[0].float()
    for seed in (1, 1, 2):
        module = AttentionVLAD(D, K)
        before = module.score.weight.clone()
        module.initialise(faces, seed=seed)
        assert torch.equal(module.score.weight, before)
        starts.append(module.centres.detach())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    single = NetVLAD(D, 1)
    single.initialise(faces, seed=0)
    torch.testing.assert_close(single.centres.data[0], faces.mean(dim=0), rtol=1e-4, atol=1e-4)
    assert single(faces[None]).isfinite().all()
    random = NetVLAD(D, K, centres="random")
    before = {name: tensor.clone() for name, tensor in random.state_dict().items()}
    random.initialise(faces, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in random.state_dict().items())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NetVLAD(D, 0), "clusters: 0, expected 1 or more"),
        (lambda: GhostVLAD(D, K, -1), "ghosts: -1, expected 1 or more"),
        (lambda: NeXtVLAD(D, K, 0), "expansion: 0, expected 1 or more"),
        (lambda: NeXtVLAD(D, K, 2, 0), "groups: 0, expected 1 or more"),
        (lambda: NeXtVLAD(D, K, 2, 8), "groups: 8 do not divide the expanded length 22, expected a divisor"),
        (lambda: GhostVLAD(D, K, G).initialise(clips(1, 5)[0].float(), 0), "clusters: 7 requested for 5 .*more faces"),
    ],
)
def test_a_bad_option_gives_its_sentence(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()


@pytest.mark.parametrize(("dim", "groups"), [(512, 8), (128, 8), (26, 4), (23, 2), (1, 2)])
def test_nextvlad_takes_vectors_of_any_length(dim, groups):
    nextvlad = NeXtVLAD(dim, K)
    assert nextvlad.groups == groups and nextvlad(torch.zeros(2, 3, dim)).shape == (2, K, 2 * dim // groups)
