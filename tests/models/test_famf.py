from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from famf_lib.data.sampling import Batch
from famf_lib.models import famf
from famf_lib.models.aggregation import AGGREGATIONS
from famf_lib.models.config import ModelConfig
from famf_lib.models.famf import FAMF, PaddedLinear, classifier, padded_linear
from famf_lib.models.fusion import FUSIONS

B, N, D, A, C, K = 5, 7, 11, 3, 13, 2  # clips, faces, face and audio vectors, persons, clusters
OPTIONS = {"mean": {}, "nextvlad": {"clusters": K, "groups": 2, "expansion": 4}, "concat": {}}
OPTIONS |= {name: {"clusters": K} for name in ("netvlad", "ghostvlad", "attentionvlad")}
OPTIONS |= {"mma": {"hidden": 3}, "mlma": {"hidden": (5, 3)}}


of_every_pair = pytest.mark.parametrize(("aggregation", "fusion"), list(product(AGGREGATIONS, FUSIONS)))


def config(aggregation="attentionvlad", fusion="mlma", modalities=("audio", "body"), **more):
    options = {"aggregation_options": OPTIONS[aggregation], "fusion_options": OPTIONS[fusion]}
    return ModelConfig(aggregation=aggregation, fusion=fusion, modalities=modalities, hidden=17, **options, **more)


def made(seed=0, **options):
    torch.manual_seed(seed)
    model = FAMF(config(**options), D, {"audio": A, "body": D, "text": 4}, C)
    for parameter in model.aggregation.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def batch(masked=True):
    """The second clip has no face and no audio, and the first one no body."""
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(B, N, generator=g) < 0.6
    mask[0], mask[1] = True, False
    present = {"audio": torch.tensor([1, 0, 1, 0, 1]) > 0, "body": torch.tensor([0, 1, 1, 1, 0]) > 0}
    vectors = {"audio": torch.randn(B, A, generator=g), "body": torch.randn(B, D, generator=g)}
    return Batch(torch.randn(B, N, D, generator=g), mask if masked else None, vectors, present)


@of_every_pair
def test_every_combination_runs_forward_and_backward(aggregation, fusion):
    model = made(aggregation=aggregation, fusion=fusion).train()
    for given in (batch(), batch(masked=False)):
        model.zero_grad()
        logits = model(given)
        tokens = model.aggregation.tokens + 2
        assert logits.shape == (B, C) and len(model.token_names) == tokens
        assert model.attention(given).shape == (B, tokens, tokens) and model.face_weights(given).shape == (B, N)
        (F.cross_entropy(logits, torch.arange(B)) + model.fusion.penalty()).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_tokens_are_the_faces_then_the_modalities_in_the_order_of_the_configuration():
    model, given = made(modalities=("body", "audio")).eval(), batch()
    tokens = model.tokens(given)
    assert model.token_names == ["face 1", "face 2", "body", "audio"]
    torch.testing.assert_close(tokens[:, :K], model.aggregation(given.faces, given.mask))
    for b in range(B):
        body = given.modalities["body"][b] if given.present["body"][b] else torch.zeros(D)
        assert torch.equal(tokens[b, K], body), "a modality of length D stays as it is"
        linear = model.projections["audio"]
        audio = linear.weight @ given.modalities["audio"][b] + linear.bias if given.present["audio"][b] else body * 0
        torch.testing.assert_close(tokens[b, K + 1], audio)
    layers = model.classifier(model.fusion(tokens).flatten(1))
    assert torch.equal(model(given), layers)


@pytest.mark.parametrize("features", ["raw", "unit"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_absent_values_have_no_effect(aggregation, features):
    results = []
    for value in (7.0, torch.nan, torch.inf):
        model, given = made(aggregation=aggregation, features=features).train(), batch()
        given.faces[~given.mask] = value
        for name, vectors in given.modalities.items():
            vectors[~given.present[name]] = value
        F.cross_entropy(model(given), torch.arange(B)).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([model.tokens(given).detach(), model.face_weights(given).detach(), *gradients])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.isfinite().all() and torch.equal(a, b)
    tokens, faces = results[0][0], results[0][0].shape[1] - 2
    assert not tokens[1, :faces].any(), "a clip without a face"
    assert not tokens[1, faces].any() and not tokens[0, faces + 1].any(), "an absent modality is a zero vector"
    assert tokens[0, faces].any() and tokens[1, faces + 1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("features", ["raw", "unit"])
@of_every_pair
def test_a_model_in_half_precision_stays_close_and_finite(aggregation, fusion, features, dtype):
    model, given = made(aggregation=aggregation, fusion=fusion, features=features).eval(), batch()
    given.faces[~given.mask] = torch.nan
    vectors = {m: v.to(dtype) for m, v in given.modalities.items()}
    half = Batch(given.faces.to(dtype), given.mask, vectors, given.present)
    expected = model(given)
    model = model.to(dtype)
    tokens, logits = model.tokens(half), model(half)
    faces = model.aggregation.tokens
    assert tokens.dtype == logits.dtype == dtype
    assert tokens.isfinite().all() and not tokens[1, :faces].any(), "a clip without a face"
    assert model.attention(half).isfinite().all() and model.face_weights(half).isfinite().all()
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.05)


def test_unit_features_do_not_depend_on_the_length_of_vectors():
    unit, raw = made(features="unit").eval(), made(features="raw").eval()
    given = batch()
    longer = Batch(3 * given.faces, given.mask, {k: 5 * v for k, v in given.modalities.items()}, given.present)
    torch.testing.assert_close(unit(longer), unit(given))
    assert not torch.allclose(raw(longer), raw(given))
    unit.initialise(40 * torch.randn(29, D), seed=0)
    assert unit.aggregation.centres.norm(dim=1).max() <= 1


def test_the_classifier_and_the_defaults_are_the_papers():
    with torch.device("meta"):
        layers = classifier(10 * 512, 4096, 10_034)
    assert [layers[n].weight.shape for n in (0, 3, 6)] == [(4096, 5120), (4096, 4096), (10_034, 4096)]
    assert layers[1].momentum == layers[4].momentum == 0.1
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["PaddedLinear"]
    assert "ReLU" not in [type(layer).__name__ for layer in classifier(3, 5, 7, "none")]
    model = FAMF(ModelConfig(hidden=8), 64, {"audio": 64, "body": 64}, C)
    assert model.token_names == [f"face {k}" for k in range(1, 9)] + ["audio", "body"]
    assert ModelConfig().hidden == 4096 and model.fusion.second.weight.shape == (32, 128)
    assert (model.aggregation.normalisation, model.aggregation.attention) == ("none", "sigmoid")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05)], ids=str)
@pytest.mark.parametrize("persons", [67, 3, 128])
def test_a_padded_layer_gives_the_logits_the_loss_and_the_gradients_of_a_plain_one(persons, dtype, tolerance):
    torch.manual_seed(0)
    parameters = torch.randn(persons, 13, dtype=torch.float64), torch.randn(persons, dtype=torch.float64)
    x, classes = torch.randn(11, 13, dtype=torch.float64), torch.arange(11) % persons
    found = []
    for layer, kind in ((F.linear, torch.float64), (padded_linear, dtype)):
        weight, bias = (given.clone().requires_grad_() for given in parameters)
        faces = x.to(kind).requires_grad_()
        logits = layer(faces, weight, bias)
        loss = F.cross_entropy(logits.double(), classes)
        found.append([logits, loss, *torch.autograd.grad(loss, (faces, weight, bias))])
    for plain, padded in zip(*found, strict=True):
        assert padded.shape == plain.shape
        torch.testing.assert_close(padded.double(), plain, rtol=tolerance, atol=tolerance)


def test_only_a_gpu_in_half_precision_pads_the_last_layer(monkeypatch):
    torch.manual_seed(0)
    layer, x = PaddedLinear(13, 67), torch.randn(11, 13)
    plain = torch.nn.Linear(13, 67)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x.bfloat16()), plain(x.bfloat16()))

    with FlopCounterMode(display=False) as counted:
        padded_linear(x, layer.weight, layer.bias)
    assert counted.get_total_flops() == 2 * 11 * 13 * 128

    way = []
    monkeypatch.setattr(famf, "padded_linear", lambda x, weight, bias: way.append("padded") or x.new_empty(11, 67))
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: way.append("plain") or x.new_empty(11, 67))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with FakeTensorMode():  # it needs no GPU
            layer(torch.empty(11, 13, dtype=dtype, device="cuda"))
    assert way == ["padded", "padded", "plain"]


def test_the_data_must_have_the_modalities():
    with pytest.raises(ValueError) as refusal:
        FAMF(config(), D, {"body": D, "text": 4}, C)
    assert str(refusal.value) == "modalities: the data have no 'audio', expected some of: body, text"
    with pytest.raises(ValueError, match="expected some of: none$"):
        FAMF(config(), D, {}, C)


def test_configurations_that_mean_the_same_are_equal_and_frozen():
    options = {"aggregation_options": {"attention": "sigmoid", "clusters": 8}, "fusion_options": {"hidden": [128, 32]}}
    spelt = ModelConfig(**options, modalities=["audio", "body"])
    assert spelt == ModelConfig() and spelt.model_dump_json() == ModelConfig().model_dump_json()
    assert spelt != ModelConfig(aggregation_options={"clusters": 7})
    with pytest.raises(ValueError):
        spelt.hidden = 3


CLUSTERS = "expected one of clusters, normalisation, centres"
NUMBER = "input should be a valid integer, unable to parse string as an integer"
NORMALISATIONS = "input should be 'none', 'cluster', 'whole' or 'cluster+whole'"
REFUSED = [
    ({"hiden": 8}, "hiden: no such key, expected one of aggregation, aggregation_options, fusion, fusion_options, mod"),
    ({"aggregation": "vlad"}, "aggregation: 'vlad' is not known, expected one of mean, netvlad, ghostvlad, nextvlad"),
    ({"fusion": "sum"}, "fusion: 'sum' is not known, expected one of concat, mma, mlma"),
    ({"hidden": 0}, "hidden: 0 found; input should be greater than or equal to 1"),
    ({"features": "l2"}, "features: 'l2' found; input should be 'raw' or 'unit'"),
    ({"modalities": "audio"}, "modalities: 'audio' found; input should be a valid tuple"),
]  # fmt: skip
REFUSED += [
    ({"aggregation": "netvlad", "aggregation_options": options}, f"aggregation_options{sentence}")
    for options, sentence in [
        ({"ghosts": 1}, f": NetVLAD has no option 'ghosts', {CLUSTERS}"),
        ({"dim": 3}, f": NetVLAD has no option 'dim', {CLUSTERS}"),
        ({"clusters": "eight"}, f".clusters: 'eight' found; {NUMBER}"),
        ({"clusters": 0}, ".clusters: 0 found; "),
        ({"normalisation": "l2"}, f".normalisation: 'l2' found; {NORMALISATIONS}"),
    ]
]
REFUSED += [
    ({"fusion": fusion, "fusion_options": options}, f"fusion_options{sentence}")
    for fusion, options, sentence in [
        ("concat", {"axis": "source"}, ": Concat has no option 'axis', expected none: it has no options"),
        ("mlma", {"axis": "both"}, ".axis: 'both' found; input should be 'source' or 'target'"),
        ("mma", {"penalty": -1.0}, ".penalty: -1.0 found; "),
        ("mma", {"penalty": float("nan")}, ".penalty: nan found; "),
        *(("mlma", {"hidden": hidden}, f".hidden: {hidden} found; ") for hidden in ((0, 3), (5,), (5, 3, 2), 5)),
    ]
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=str)
def test_a_bad_configuration_is_refused(options, sentence):
    with pytest.raises(ValueError) as refusal:
        ModelConfig(**options)
    assert str(refusal.value).startswith(sentence)
