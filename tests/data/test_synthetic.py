from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from famf_lib.data import quality, synthetic
from famf_lib.data.synthetic import SyntheticConfig, generate, quality_score
from famf_lib.paper import IQIYI


@pytest.fixture(scope="module")
def large():
    """Enough persons for the published shape; short vectors, which it does not concern."""
    return generate(SyntheticConfig(persons=997, dim=11, seed=3))


@pytest.fixture(scope="module")
def vectors():
    """Vectors as long as those of IMFDB, and about as many persons."""
    return generate(SyntheticConfig(persons=101, dim=128, seed=5, identity_noise=1.0))  # IMFDB's own proportion


def clip_of_face(clipset):
    return np.repeat(np.arange(len(clipset)), clipset.counts.numpy())


@pytest.mark.parametrize("seed", [0, 7])
def test_clips_a_person_at_full_size_are_the_published_ones(seed):
    counts = synthetic._clips_per_person(IQIYI["persons"], np.random.default_rng(seed))
    for split, n in zip(("train", "val"), counts, strict=True):
        published = IQIYI[f"{split}_clips_a_person"]
        assert n.min() == published["least"] and np.median(n) == published["median"]
        assert n.mean() == pytest.approx(published["mean"], rel=0.005)
        assert n.max() == pytest.approx(published["most"], rel=0.1)
        assert n.sum() == pytest.approx(IQIYI[f"{split}_clips"], rel=0.005)
    assert (counts[0] == 1).sum() == pytest.approx(IQIYI["train_clips_a_person"]["with_one"], rel=0.08)
    assert np.corrcoef(*np.log(counts))[0, 1] > 0.8  # who has many clips here has many there


def test_clips_of_a_thousand_persons_have_the_published_shape(large):
    clips, counts = large.clips, large.counts.numpy()
    for split in ("train", "val"):
        published = IQIYI[f"{split}_clips_a_person"]
        n = clips[clips["split"] == split].groupby("person").size()
        assert len(n) == 997 and n.min() == published["least"] and n.median() == published["median"]
        assert n.mean() == pytest.approx(published["mean"], rel=0.03)
        assert 0.5 * published["most"] < n.max() <= published["most"]
    unknown = clips["person"].isna().groupby(clips["split"]).mean()
    assert unknown["train"] == 0 and unknown["val"] == pytest.approx(IQIYI["noise_share"], abs=0.002)
    with_face = IQIYI["train_clips_with_face"] / IQIYI["train_clips"]
    assert (counts > 0).mean() == pytest.approx(with_face, abs=0.002)
    assert counts[counts > 0].mean() == pytest.approx(IQIYI["faces_a_clip_mean"], rel=0.01)
    assert 0 < (counts > 100).mean() < 0.025


def test_quality_detection_score_and_norm_have_the_published_ranges(large):
    table = large.face_columns()
    own = table["quality"][table["own"]]
    low, high = IQIYI["quality"]["range"]
    assert own.mean() == pytest.approx(IQIYI["quality"]["centre"], abs=1.5)
    assert abs(own.skew()) < 0.2 and abs(own.kurt()) < 0.3  # roughly normal
    assert low - 25 < own.min() < low + 35 and high - 35 < own.max() < high + 25
    above = (table["det_score"] > IQIYI["det_score_nearly_all_above"]).mean()
    assert 0.98 < above < 1 and table["det_score"].max() <= 1
    assert np.corrcoef(table["det_score"], table["quality"])[0, 1] > 0.3
    norm = large.faces.float().norm(dim=1).numpy()
    least, most = IQIYI["face_norm"]
    assert norm.max() <= most and 0.9 < (norm > least).mean() < 0.98
    assert np.median(norm[table["quality"] < IQIYI["quality"]["poor_below"][0]]) < least


def test_quality_shows_in_the_vectors_as_on_imfdb(vectors):
    ours = quality.by_fifth(vectors)
    for column, measured in synthetic.IMFDB_BY_FIFTH.items():
        tolerance = {"cos_person": 0.1, "different": 0.04}.get(column, 0.07)
        assert ours[column].to_numpy() == pytest.approx(np.array(measured), abs=tolerance), column
    assert quality.within_clip(vectors) == pytest.approx(synthetic.IMFDB_WITHIN_CLIP, abs=0.08)
    by_quality = quality.by_fifth(vectors, "quality")
    assert by_quality["cos_person"].is_monotonic_increasing and by_quality["norm"].is_monotonic_increasing
    assert by_quality["cos_person"][5] > 2 * by_quality["cos_person"][1]
    assert by_quality["different"][1] > 3 * by_quality["different"][[3, 4, 5]].max()  # they share a direction


def test_persons_differ_along_as_many_directions_as_on_imfdb():
    space = synthetic._space(SyntheticConfig(persons=100, dim=128), "face")
    persons = synthetic._directions(space, 100, np.random.default_rng(2))
    assert quality.effective_dimension(persons) == pytest.approx(synthetic.IMFDB_DIMENSION, rel=0.15)


def test_what_made_a_face_poor_shows_in_its_direction_a_little(vectors):
    table = vectors.face_columns()
    unit = torch.nn.functional.normalize(vectors.faces.float(), dim=1).numpy()
    poor = table["quality"] < 50
    dark = unit[poor & (table["darkness"] > 0.6) & (table["blur"] < 0.4)]
    blurred = unit[poor & (table["blur"] > 0.6) & (table["darkness"] < 0.4)]

    def toward(a, b):
        a, b = a.mean(axis=0), b.mean(axis=0)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert 0.8 < toward(dark, blurred) < min(toward(dark[::2], dark[1::2]), toward(blurred[::2], blurred[1::2]))


configs = st.builds(SyntheticConfig, persons=st.integers(2, 23), dim=st.integers(8, 13), seed=st.integers(0, 2**70))


@settings(max_examples=25, deadline=None)
@given(configs)
def test_promises(config):
    clipset = generate(config)
    clips, table, clip = clipset.clips, clipset.face_columns(), clip_of_face(clipset)
    assert clipset.dim == config.dim and len(clip) == len(clipset.faces) == len(table)
    for split in ("train", "val"):
        assert clips["person"][clips["split"] == split].nunique() == config.persons
    assert clips["name"].str.fullmatch(r"synthetic-(train|val)-\d{7}").all()
    assert clips["person"].dropna().str.fullmatch(r"person-\d{4}").all()
    assert clips["group"].str.fullmatch(r"programme-\d{4}").all()

    same_clip = clip[1:] == clip[:-1]
    frame = table["frame"].to_numpy()
    assert (np.diff(frame)[same_clip] >= 0).all() and (frame > 0).all()
    own_in_frame = table["own"].groupby([clip, frame]).sum()
    assert own_in_frame.max() <= 1  # two faces in one frame are of two people
    for low, high, most in (("x1", "x2", synthetic.FRAME[0]), ("y1", "y2", synthetic.FRAME[1])):
        assert ((table[low] >= 0) & (table[low] < table[high]) & (table[high] <= most + 0.01)).all()

    latents = {name: table[name].to_numpy() for name in (*synthetic.LATENTS, "yaw")}
    for name, values in latents.items():
        assert (np.abs(values) <= 90 if name == "yaw" else (values >= 0) & (values <= 1)).all(), name
    again = quality_score(**latents)
    assert again == pytest.approx(table["quality"].to_numpy(), abs=1e-3)
    norm = clipset.faces.float().norm(dim=1)
    assert (norm > 0).all() and (norm <= synthetic.NORM_MOST * 1.001).all()

    assert tuple(clipset.modalities) == synthetic.MODALITIES
    for name, modality in clipset.modalities.items():
        norm = modality.vectors.float().norm(dim=1)
        assert (norm[~modality.present] == 0).all(), name
        typical = synthetic.NORMS[name]
        assert ((norm > typical / 3) & (norm < typical * 3))[modality.present].all(), name


qualities = st.floats(0.001, 0.999)


@given(qualities, qualities, qualities, qualities, st.floats(-90, 90), st.floats(0.001, 0.5))
def test_quality_falls_with_every_degradation(blur, darkness, occlusion, size, yaw, more):
    latents = {"blur": blur, "darkness": darkness, "occlusion": occlusion, "size": size, "yaw": yaw}
    here = quality_score(**latents)
    for name in ("blur", "darkness", "occlusion"):
        worse = min(latents[name] + more, 0.9999)
        assert quality_score(**latents | {name: worse}) < here
    assert quality_score(**latents | {"size": min(size + more, 0.9999)}) > here
    assert quality_score(**latents | {"yaw": np.copysign(abs(yaw) + 10 * more, yaw)}) < here
    assert quality_score(**latents | {"yaw": -yaw}) == here


def test_the_same_configuration_gives_the_same_data_and_the_length_of_vectors_decides_nothing_else():
    config, told = SyntheticConfig(persons=19, dim=13, seed=2), []
    made = generate(config)
    again = generate(config, lambda *numbers: told.append(numbers))
    assert again.fingerprint == made.fingerprint and again.face_columns().equals(made.face_columns())
    assert told == sorted(told) and told[-1] == (len(made.faces), len(made.faces))
    for other in (replace(config, seed=3), replace(config, identity_noise=1.1), replace(config, persons=20)):
        assert generate(other).fingerprint != made.fingerprint
    short, long = (generate(SyntheticConfig(persons=19, dim=dim)) for dim in (8, 17))
    assert short.clips.equals(long.clips) and short.face_columns().equals(long.face_columns())


@pytest.mark.parametrize("chunk", [1, 127])
def test_chunks_leave_no_trace(monkeypatch, chunk):
    config = SyntheticConfig(persons=7, dim=13)
    made = generate(config)
    monkeypatch.setattr(synthetic, "CHUNK", chunk)
    again = generate(config)
    # Matrix products of other shapes may round otherwise, the random numbers are the same.
    assert torch.allclose(again.faces.float(), made.faces.float(), rtol=2e-3, atol=2e-3)
    for name, modality in made.modalities.items():
        assert torch.allclose(again.modalities[name].vectors.float(), modality.vectors.float(), rtol=2e-3, atol=4e-3)


def test_one_modality_drawn_anew_leaves_the_rest_as_it_was(monkeypatch):
    config = SyntheticConfig(persons=19, dim=13)
    made, stream = generate(config), synthetic._stream

    def other(config, part):
        return stream(replace(config, seed=99) if part.startswith("audio") else config, part)

    monkeypatch.setattr(synthetic, "_stream", other)
    again = generate(config)
    assert torch.equal(again.faces, made.faces) and again.clips.equals(made.clips)
    other = [name for name, m in made.modalities.items() if not torch.equal(again.modalities[name].vectors, m.vectors)]
    assert other == ["audio"]


def unit(vectors):
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def test_a_wrong_face_is_nearer_to_somebody_else(vectors):
    table, labels = vectors.face_columns(), vectors.labels.numpy()[clip_of_face(vectors)]
    faces = unit(vectors.faces)
    good = (table["quality"] > 80).to_numpy() & (labels >= 0)
    own = good & table["own"].to_numpy()
    persons = torch.stack([faces[torch.from_numpy(own & (labels == p))].mean(dim=0) for p in range(101)])
    cosine = (faces @ unit(persons).T).numpy()
    to_label = cosine[np.arange(len(labels)), labels]
    assert to_label[own].mean() > 0.45
    wrong = good & ~table["own"].to_numpy()
    assert wrong.sum() > 100 and to_label[wrong].mean() < 0.2
    somebody_else = np.where(np.arange(101) == labels[:, None], -1, cosine).max(axis=1)
    assert (somebody_else > to_label)[wrong].mean() > 0.95
    assert (somebody_else > to_label)[own].mean() < 0.15


@settings(max_examples=25, deadline=None)
@given(configs)
def test_a_bystander_is_somebody_else_of_the_same_programme(config):
    cast = synthetic._cast(config)
    there = cast.bystander >= 0
    people, programmes = cast.appearances[cast.bystander[there]].T
    assert (people != cast.person[there]).all() and (programmes == cast.programme[there]).all()


def test_a_bystander_stays_the_same_within_the_clip(vectors):
    table, clip = vectors.face_columns(), clip_of_face(vectors)
    chosen = (~table["own"] & (table["quality"] > 80)).to_numpy() & (vectors.labels.numpy()[clip] >= 0)
    faces, clip = unit(vectors.faces)[torch.from_numpy(chosen)].numpy(), clip[chosen]
    cosine, same = faces @ faces.T, clip[:, None] == clip
    np.fill_diagonal(same, False)
    other = clip[:, None] != clip
    assert cosine[same].mean() > cosine[other].mean() + 0.25


def test_what_is_assumed_of_films(large):
    table, clip = large.face_columns(), clip_of_face(large)
    frames = table.groupby([clip, table["frame"]]).size()
    assert 0.01 < (frames == 2).mean() < 0.1 and 0.05 < 1 - table["own"].mean() < 0.3
    assert 0.002 < (table["quality"].groupby(clip).max() < 60).mean() < 0.1  # clips that are poor throughout
    assert 0.5 < (large.clips.groupby("group")["split"].nunique() == 2).mean() < 0.95  # shared programmes
    known = large.clips.dropna(subset="person")
    train = known[known["split"] == "train"][["person", "group"]].drop_duplicates()
    val = known[known["split"] == "val"][["person", "group"]]
    assert 0.4 < len(val.merge(train)) / len(val) < 0.65
    present = pd.DataFrame({name: m.present.numpy() for name, m in large.modalities.items()})
    assert present[large.clips["split"] == "train"].mean().to_dict() == pytest.approx(synthetic.PRESENT, abs=0.02)


def same_and_other(modality, of_clip, where):
    chosen = np.flatnonzero(where & modality.present.numpy())[:1500]
    vectors, codes = unit(modality.vectors)[chosen].numpy(), np.asarray(of_clip)[chosen]
    cosine, same = vectors @ vectors.T, codes[:, None] == codes
    different = ~same
    np.fill_diagonal(same, False)
    return cosine[same].mean(), cosine[different].mean()


def test_head_is_close_to_the_clips_face(vectors):
    own = vectors.face_columns()["own"].to_numpy()
    faces = unit(vectors.faces).numpy() * own[:, None]
    mean = np.zeros((len(vectors), 128))
    np.add.at(mean, clip_of_face(vectors), faces)
    shown = (np.linalg.norm(mean, axis=1) > 0) & vectors.modalities["head"].present.numpy()
    head = unit(vectors.modalities["head"].vectors).numpy()[shown]
    mean = mean[shown] / np.linalg.norm(mean[shown], axis=1, keepdims=True)
    assert (head * mean).sum(axis=1).mean() > 0.6
    assert abs((head * np.roll(mean, 1, axis=0)).sum(axis=1).mean()) < 0.2


def test_body_audio_and_text_are_of_the_person_and_the_programme(vectors):
    clips, modalities = vectors.clips, vectors.modalities
    known, own = clips["person"].notna().to_numpy(), clips["own_voice"].to_numpy()
    person = clips["person"].fillna("")
    same_outfit, _ = same_and_other(modalities["body"], person + clips["group"], known)
    same_person, other = same_and_other(modalities["body"], person, known)
    assert same_outfit > 0.55 and same_outfit > same_person > other + 0.05 and abs(other) < 0.05
    same, other = same_and_other(modalities["audio"], person, known & own)
    assert same > other + 0.3
    same, other = same_and_other(modalities["audio"], person, known & ~own)
    assert same < other + 0.15 and own[known].mean() == pytest.approx(synthetic.OWN_VOICE, abs=0.03)
    same, other = same_and_other(modalities["text"], clips["group"], np.ones(len(vectors), bool))
    assert same > other + 0.2


def test_identity_noise_sets_how_hard_it_is():
    config = SyntheticConfig(persons=53, dim=32)
    made = (generate(replace(config, identity_noise=noise)) for noise in (0.0, 1.0, 3.0))
    easy, middle, hard = (quality.who_is_it(clipset, queries=997).mean() for clipset in made)
    assert easy > 0.95 and hard < 0.25 and hard + 0.2 < middle < easy - 0.1


CONDITIONED = SyntheticConfig(persons=101, dim=128)
BEFORE = {"faces": -27241308.5, "head": -1192292.2, "body": -408382.3, "audio": 116108.0, "text": -346931.4}


@pytest.fixture(scope="module")
def plain():
    return generate(CONDITIONED)


def test_the_defaults_make_the_data_that_they_made_before_there_were_conditions():
    """Sums noted then, and not a fingerprint: another processor may round the last digit of a vector differently."""
    made = generate(synthetic.SIZES["quick"])
    vectors = {"faces": made.faces} | {name: m.vectors for name, m in made.modalities.items()}
    place = {name: torch.arange(x.numel()).reshape(x.shape).remainder(997) for name, x in vectors.items()}
    sums = {name: float((place[name] * x.double()).sum()) for name, x in vectors.items()}
    assert sums == pytest.approx(BEFORE, rel=1e-3)


def test_a_shift_of_quality_is_one_of_all_faces_and_of_nothing_else(plain):
    poorer = generate(replace(CONDITIONED, quality_shift=-1.5))
    before, after = plain.face_columns(), poorer.face_columns()
    assert (before["quality"] - after["quality"]).mean() == pytest.approx(1.5 * synthetic.QUALITY_SPREAD, rel=1e-3)
    assert after["quality"].std() == pytest.approx(before["quality"].std(), rel=1e-3)
    assert after["yaw"].equals(before["yaw"]) and poorer.clips.equals(plain.clips)
    poor = [(columns["quality"] < IQIYI["quality"]["poor_below"][1]).mean() for columns in (before, after)]
    assert poor[0] < 0.1 and poor[1] > 0.35
    assert quality.who_is_it(poorer, queries=997).mean() < quality.who_is_it(plain, queries=997).mean() - 0.1


def test_the_effect_of_quality_is_on_the_vectors_alone(plain):
    def seen(clipset):  # rank correlations of quality: with length, and with nearness to the person's good faces
        table, labels = clipset.face_columns(), clipset.labels.numpy()[clip_of_face(clipset)]
        faces, score = unit(clipset.faces), table["quality"].to_numpy()
        known = table["own"].to_numpy() & (labels >= 0)
        best = known & (score > 100)
        persons = unit(torch.stack([faces[torch.from_numpy(best & (labels == p))].sum(dim=0) for p in range(101)]))
        tested = known & (score < 100)
        near = (faces[torch.from_numpy(tested)] * persons[torch.from_numpy(labels[tested])]).sum(dim=1).numpy()
        length = clipset.faces.float().norm(dim=1).numpy()[tested]
        return [stats.spearmanr(score[tested], value).statistic for value in (length, near)]

    none, twice = (generate(replace(CONDITIONED, quality_effect=effect)) for effect in (0.0, 2.0))
    assert none.face_columns().equals(plain.face_columns()) and twice.face_columns().equals(plain.face_columns())
    length, near = np.abs(seen(none))
    assert length < 0.05 and near < 0.15  # good faces come from clips of good faces, which have more in common
    assert min(seen(plain)) > 0.4
    lengths = [clipset.faces.float().norm(dim=1).std() for clipset in (none, plain, twice)]
    assert lengths[0] < 0.1 < lengths[1] < lengths[2] - 1


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_the_share_of_the_person_is_that_of_every_modality_and_moves_no_face(plain, share):
    made = generate(replace(CONDITIONED, modality_person=share))
    assert torch.equal(made.faces, plain.faces)
    clips = made.clips
    known = (clips["person"].notna() & clips["own_voice"]).to_numpy()
    for name in ("body", "audio", "text"):
        assert torch.equal(made.modalities[name].present, plain.modalities[name].present)
        people = clips["person"].fillna("")
        # Other clips of the person in other programmes share the person, and no outfit or sound.
        same, _ = same_and_other(made.modalities[name], people, known)
        outfit, other = same_and_other(made.modalities[name], people + clips["group"], known)
        assert same - other == pytest.approx(share, abs=0.25) and outfit >= same - 0.02


def test_presence_is_a_share_of_every_modality(plain):
    half = generate(replace(CONDITIONED, presence=0.5))
    assert torch.equal(half.faces, plain.faces)
    for name, modality in half.modalities.items():
        before = plain.modalities[name]
        assert modality.present.sum() / before.present.sum() == pytest.approx(0.5, abs=0.09)
        assert (before.present | ~modality.present).all()  # the same clips, fewer of them
        assert torch.equal(modality.vectors[modality.present], before.vectors[modality.present])


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_a_clip_made_again_shows_as_much_quality_as_its_set(effect):
    config = SyntheticConfig(persons=7, dim=13, quality_effect=effect, quality_shift=-0.5)
    made = generate(config)
    clip = int(made.counts.argmax())
    again = synthetic.Retake(config, clip)
    rows = slice(int(made.offsets[clip]), int(made.offsets[clip + 1]))
    assert again.faces().astype(float) == pytest.approx(made.faces[rows].double().numpy(), abs=0.02)
    blurred = again.table.assign(blur=0.9)
    fall = quality_score(**{name: blurred[name].to_numpy() for name in synthetic.WEIGHTS}) - again.table["quality"]

    def confidence(faces):  # from the length alone
        share = np.linalg.norm(faces.astype(float), axis=1) / synthetic.NORM_MOST
        return (np.log(share / (1 - share)) - synthetic.NORM[0]) / synthetic.NORM[1]

    found = confidence(again.faces(blur=np.full(len(blurred), 0.9))) - confidence(again.faces())
    assert found == pytest.approx(effect * synthetic.CONFIDENCE * fall / synthetic.QUALITY_SPREAD, abs=0.02)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("persons", 1, "a whole number of 2 or more"),
        ("dim", 7, "a whole number of 8 or more"),
        ("seed", -1, "a whole number of 0 or more"),
        ("seed", True, "a whole number of 0 or more"),
        ("identity_noise", -0.1, "a number from 0 to 100"),
        ("identity_noise", float("nan"), "a number from 0 to 100"),
        ("quality_shift", -4.1, "a number from -4 to 4"),
        ("quality_effect", 10.5, "a number from 0 to 10"),
        ("modality_person", 1.1, "a number from 0 to 1"),
        ("presence", -0.5, "a number from 0 to 1"),
    ],
)
def test_bad_configurations_are_refused_in_one_sentence(field, value, expected):
    with pytest.raises(ValueError) as refused:
        replace(SyntheticConfig(persons=40, dim=32), **{field: value})
    assert str(refused.value) == f"{field}: found {value}, expected {expected}"


def test_a_profile_has_a_size_and_a_key():
    keys = [synthetic.key(profile) for profile in synthetic.SIZES]
    assert len(set(keys)) == 3 and synthetic.make("quick").fingerprint == generate(synthetic.SIZES["quick"]).fingerprint
    for ask in (synthetic.make, synthetic.key):
        with pytest.raises(ValueError, match="^profile: 'huge' is not known, expected one of quick, standard, paper$"):
            ask("huge")
