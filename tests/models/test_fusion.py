import math

import pytest
import torch

from famf_lib.models.fusion import FUSIONS, MLMA, MMA, Concat

B, T, D, H1, H2 = 3, 5, 11, 7, 2  # clips, tokens, length of a token, channels of the two convolutions
AXES = ("source", "target")
CASES = (
    [("concat", {})]
    + [("mma", {"hidden": H1, "residual": r, "axis": a}) for r in (True, False) for a in AXES]
    + [("mlma", {"hidden": (H1, H2), "activation": f, "axis": a}) for f in ("none", "relu") for a in AXES]
)
of_every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else str(v))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # the loops add in another order


def made(name, options, seed=0):
    torch.manual_seed(seed)
    module = FUSIONS[name](D, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def tokens(seed=1):
    return torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projected(module, name, options, x):
    """W_F1 W_F2 x of one token."""
    if name == "mma":
        return module.convolution.weight @ x
    between = module.first.weight @ x
    return module.second.weight @ (between.clamp(min=0) if options["activation"] == "relu" else between)


def attention_of(module, name, options, clip):
    """A[i][j], the weight of token j in Y_i, for one clip (T, D)."""
    if name == "concat":
        return [[float(i == j) for j in range(T)] for i in range(T)]
    w = [projected(module, name, options, x) for x in clip]
    power = [[torch.exp(w[j] @ w[i]) for i in range(T)] for j in range(T)]  # e^{Z_ji}
    if options["axis"] == "target":  # Σ_i, as Eq. 5 is printed
        return [[power[j][i] / sum(power[j][n] for n in range(T)) for j in range(T)] for i in range(T)]
    return [[power[j][i] / sum(power[n][i] for n in range(T)) for j in range(T)] for i in range(T)]


def fused(module, name, options, clip):
    a = attention_of(module, name, options, clip)
    y = torch.stack([sum(a[i][j] * clip[j] for j in range(T)) for i in range(T)])
    return clip + module.scale * y if name == "mma" and options["residual"] else y


@of_every_case
def test_tokens_and_gradients_are_those_of_the_equation(name, options):
    module, x = made(name, options), tokens().requires_grad_()
    expected = torch.stack([fused(module, name, options, clip) for clip in x])
    found = module(x)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    wanted = {"x": x} | dict(module.named_parameters())
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    of_expected = torch.autograd.grad((expected * upstream).sum(), list(wanted.values()))
    of_found = torch.autograd.grad((found * upstream).sum(), list(wanted.values()))
    for key, a, b in zip(wanted, of_found, of_expected, strict=True):
        assert b.abs().max() > 1e-3, f"no gradient reaches {key}"
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@of_every_case
def test_the_attention_matrix_is_that_of_the_equation(name, options):
    module, x = made(name, options), tokens()
    found = module.attention(x)
    assert found.shape == (B, T, T) and (found.dtype == torch.float64 or name == "concat")
    for clip, matrix in zip(x, found.detach(), strict=True):
        with torch.no_grad():
            expected = torch.tensor([[float(v) for v in row] for row in attention_of(module, name, options, clip)])
        torch.testing.assert_close(matrix.float(), expected, **CLOSE)
    sums = found.sum(dim=1 if options.get("axis") == "target" else 2)
    torch.testing.assert_close(sums.float(), torch.ones(B, T), **CLOSE)


@of_every_case
def test_mixed_precision_stays_close(name, options):
    module, x = made(name, options).float(), tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, attention = module(x), module.attention(x)
    torch.testing.assert_close(mixed.float(), module(x), rtol=0.05, atol=0.1)
    torch.testing.assert_close(attention.float(), module.attention(x), rtol=0.05, atol=0.05)


@of_every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lower_precision_stays_close_and_does_not_overflow(name, options, dtype):
    module, x = made(name, options).float(), tokens().float()
    x[:, -1] = 0  # an absent modality
    expected, weights = module(x), module.attention(x)
    module, given = module.to(dtype), x.to(dtype)
    assert module(given).dtype == dtype
    torch.testing.assert_close(module(given).float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(module.attention(given).float(), weights, rtol=0.05, atol=0.05)
    large = module(given * 1e4)  # their products are out of the range of float16
    assert large.isfinite().all() and module.attention(given * 1e4).isfinite().all()


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_penalty_of_mma_is_the_squared_norm_of_its_matrix(weight):
    module = MMA(D, hidden=H1, penalty=weight)
    expected = weight * sum(w**2 for w in module.convolution.weight.flatten().tolist())
    assert module.penalty().item() == pytest.approx(expected, rel=1e-5)
    module.penalty().backward()
    torch.testing.assert_close(module.convolution.weight.grad, 2 * weight * module.convolution.weight.data)


def test_the_defaults_are_those_of_the_papers():
    shapes = {name: tuple(parameter.shape) for name, parameter in MLMA(512).named_parameters()}
    assert shapes == {"first.weight": (128, 512), "second.weight": (32, 128)}
    assert MMA(512).convolution.weight.shape == (32, 512)
    assert torch.equal(MMA(D)(tokens().float()), tokens().float()), "γ starts at 0"
    assert float(MLMA(D).penalty()) == float(Concat(D).penalty()) == 0


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        *((lambda p=p: MMA(D, penalty=p), f"penalty: {p}, expected a finite") for p in (-1.0, math.inf, math.nan)),
        (lambda: MMA(D, hidden=0), "hidden: .*expected 1 or more$"),
        (lambda: MLMA(D, hidden=(0, -3)), "hidden: .*expected 1 or more$"),
    ],
)
def test_a_bad_option_is_refused(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        make()
