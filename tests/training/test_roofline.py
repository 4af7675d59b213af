import pytest

from famf_lib.models.config import ModelConfig
from famf_lib.training import roofline
from famf_lib.training.evaluation import EvaluationConfig
from famf_lib.training.roofline import Machine, Size, Work
from famf_lib.training.train import TrainingConfig

B, N, D, K, H, C = 13, 5, 11, 3, 29, 7
AUDIO, FIRST, SECOND = 17, 19, 2
SIZE = Size(dim=D, modality_dims={"audio": AUDIO, "body": D}, persons=C, clips=101, faces=601, gallery=47)
MODEL = ModelConfig(
    aggregation_options={"clusters": K}, fusion_options={"hidden": (FIRST, SECOND)}, modalities=("audio",), hidden=H
)
TRAINING = TrainingConfig(epochs=3, batch_size=B, faces=N, precision="bfloat16")
T = K + 1  # tokens: the clusters and the voice
LAYERS = ((T * D, H), (H, H), (H, C))


def test_operations_are_those_of_the_equations():
    parts = roofline.of_step(MODEL, TRAINING, SIZE, B)
    # Two products, for the scores of the clusters and for the sum over faces, without a gradient of the faces. φ is a
    # product of the centres with a vector, and both have a gradient.
    assert parts["aggregation"].flops == 2 * (2 * B * N * D * K) * 2 + 3 * 2 * K * D
    # Projected voice (its vectors need no gradient); two convolutions, the Gram matrix, the sum, with all gradients.
    voice = 2 * 2 * B * AUDIO * D
    mixed = 2 * B * T * (D * FIRST + FIRST * SECOND + T * SECOND + T * D)
    assert parts["fusion"].flops == voice + 3 * mixed
    assert parts["classifier"].flops == 3 * sum(2 * B * a * b for a, b in LAYERS)
    assert [name for name, work in parts.items() if work.flops == 0] == ["sampling", "loss", "optimiser"]


def test_a_classifier_without_weights_before_it_needs_no_gradient_of_its_inputs():
    model = ModelConfig(aggregation="mean", fusion="concat", modalities=(), hidden=H)
    parts = roofline.of_step(model, TRAINING, SIZE, B)
    forward = [2 * B * D * H, 2 * B * H * H, 2 * B * H * C]
    assert parts["classifier"].flops == 3 * sum(forward) - forward[0]  # no gradient of its inputs
    assert parts["aggregation"].flops == 2 * B * N * D and parts["fusion"].flops == 0


@pytest.mark.parametrize(("precision", "element"), [("bfloat16", 2), ("float32", 4)])
def test_bytes_are_those_of_inputs_and_results(precision, element):
    training = TRAINING.model_copy(update={"precision": precision})
    parts = roofline.of_step(MODEL, training, SIZE, B)
    assert parts["sampling"].bytes == (2 + element) * B * (N * D + AUDIO)
    assert parts["aggregation"].bytes == element * 2 * B * (N * D + K * D)
    assert parts["fusion"].bytes == element * 2 * B * (K * D + T * D)
    assert parts["loss"].bytes == element * 2 * B * C
    weights = sum(a * b + b for a, b in LAYERS)
    between = sum(a + b for a, b in LAYERS)
    assert parts["classifier"].bytes == element * 2 * (weights + B * between) + 4 * weights
    others = 2 * K * D + K + D + 1 + AUDIO * D + D + D * FIRST + FIRST * SECOND + 4 * H
    assert parts["optimiser"].bytes == 28 * (weights + others)


def test_a_training_is_its_steps_and_its_draws():
    step = roofline.of_step(MODEL, TRAINING, SIZE, 13)  # 101 clips in 8 steps of 12 or 13
    whole = roofline.of_training(MODEL, TRAINING, SIZE)
    assert whole["classifier"] == step["classifier"] * 24
    assert whole["draw"].bytes == 3 * (2 * 8 * 601 + 8 * N * 101) and list(whole)[0] == "draw"


def test_the_papers_full_size_is_that_computed_by_hand():
    """2.2 PFLOP, 2.5 TB of the optimiser at 1,130 steps, about 4 s in total on an H200."""
    size = Size(512, {"audio": 512, "body": 512}, persons=10_034, clips=57_800, faces=1_700_000, gallery=72_800)
    model = ModelConfig(modalities=("audio", "body"), hidden=4096)
    training = TrainingConfig(epochs=80, batch_size=4096, faces=24, precision="bfloat16")
    parts = roofline.of_training(model, training, size)
    seconds = {name: work.seconds(Machine(790e12, 67e12, 4.3e12)) for name, work in parts.items()}
    assert sum(work.flops for work in parts.values()) == pytest.approx(2.2e15, rel=0.05)
    assert parts["optimiser"].bytes == pytest.approx(2.5e12 * 1200 / 1130, rel=0.05)
    assert sum(seconds.values()) == pytest.approx(4, abs=0.5) and max(seconds, key=seconds.get) == "classifier"
    assert seconds["classifier"] > parts["classifier"].bytes / 4.3e12  # products decide
    smaller = roofline.of_training(model, training.model_copy(update={"batch_size": 1024}), size)
    assert smaller["optimiser"].bytes == pytest.approx(57 / 15 * parts["optimiser"].bytes)  # weights change more often
    assert smaller["classifier"].flops == pytest.approx(parts["classifier"].flops, rel=1e-3)


def test_ranking_reads_faces_and_scores():
    work = roofline.of_evaluation(MODEL, EvaluationConfig(faces=4), SIZE)
    assert work.float32 and work.bytes == 47 * (2 * (4 * D + AUDIO) + 8 * C)
    mixed = D * FIRST + FIRST * SECOND + T * SECOND + T * D
    clip = 2 * 4 * D * K + AUDIO * D + T * mixed + sum(a * b for a, b in LAYERS)
    assert work.flops == 2 * (47 * clip + K * D)


def test_changes_should_save_what_they_no_longer_compute_or_move():
    machine = Machine(training=100.0, float32=10.0, memory=5.0, unaligned=20.0)
    found = roofline.savings(MODEL, TRAINING, SIZE, B, machine)
    last = 3 * 2 * B * H  # per person; 7 are padded to 64
    moved = 4 * H * C + 6 * B * C  # the weights and the gradient of the logits, copied in bfloat16
    assert found[roofline.PADDED] == pytest.approx(last * C / 20 - last * 64 / 100 - moved / 5)
    before, now = 2 * ((4 + 4) + (4 + 2)), (4 + 2) + (2 + 2)  # masked and rounded for each product; rounded and masked
    assert found[roofline.FACES] == pytest.approx((before - now) * B * N * D / 5)
    assert found[roofline.COMPILED] == pytest.approx(2 * (2 + 3 + 3 - 4) * 2 * B * H / 5)
    with pytest.raises(ValueError, match="^unaligned: None found"):
        roofline.savings(MODEL, TRAINING, SIZE, B, Machine(100.0, 10.0, 5.0))


def test_the_longer_of_products_and_bytes_decides_and_the_precision_must_be_known():
    machine = Machine(training=100.0, float32=10.0, memory=5.0)
    assert Work(300, 10).seconds(machine) == 3 and Work(300, 50).seconds(machine) == 10
    assert Work(300, 50, float32=True).seconds(machine) == 30
    assert (Work(7, 11, True) * 3) == Work(21, 33, True)
    with pytest.raises(ValueError, match=r"^precision: 'auto' found, expected float32 or bfloat16$"):
        roofline.of_step(MODEL, TrainingConfig(), SIZE, B)
