from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from scipy.stats import spearmanr

from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Batch
from famf_lib.experiments import probes
from famf_lib.experiments.run_store import RunSpec, get_or_train
from famf_lib.training.evaluation import evaluate

CPU = torch.device("cpu")
SPEC = RunSpec(
    model={"aggregation_options": {"clusters": 3}, "fusion_options": {"hidden": [7, 5]}, "hidden": 13},
    training={"epochs": 4, "decay_after": 2, "batch_size": 16, "faces": 5},
    evaluation={"faces": 5},
)


def changed(clips, folder, table, modalities=None):
    """The same clips with other columns of faces, or other modalities, saved to disk."""
    kept = {name: (one.vectors.numpy(), one.present.numpy()) for name, one in clips.modalities.items()}
    counts = clips.counts.numpy()
    made = ClipSet.build(clips.faces, counts, clips.clips, face_table=table, modalities=modalities or kept)
    return ClipSet.open(made.save(folder))


@pytest.fixture
def clips(made_up, tmp_path):
    made = made_up(persons=5, clips=12, spread=0.8)
    rng = np.random.default_rng(5)
    n = len(made.faces)
    table = pd.DataFrame({"quality": rng.normal(size=n), "blur": rng.random(n), "occlusion": np.round(rng.random(n))})
    table.loc[rng.random(n) < 0.1, "blur"] = np.nan
    return changed(made, tmp_path / "clips", table)


@pytest.fixture
def run(clips):
    return get_or_train(SPEC, clips, CPU)


def test_the_usual_conditions_give_the_runs_own_ap_and_another_number_of_faces_an_evaluation_with_it(run, clips):
    for probe, where in (("ruined", "share == 0"), ("missing", "missing == ''")):
        table = probes.ask(run, probe, clips).query(where)
        for _, one in table.groupby("kind") if "kind" in table else [("", table)]:
            np.testing.assert_allclose(one.sort_values("person")["ap"], run.ap, equal_nan=True)
    table = probes.ask(run, "faces", clips)
    assert tuple(table["faces"].unique()) == probes.FACES
    evaluation = SPEC.evaluation.model_copy(update={"faces": 2})
    scores = evaluate(run.model(clips), evaluation, clips, run.split(clips), SPEC.seed)
    np.testing.assert_allclose(table.query("faces == 2")["ap"], scores.ap, equal_nan=True)


def test_ruined_frames_are_what_they_should_be(run, clips, monkeypatch):
    seen = []
    spy = lambda *given: seen.append(given[2].faces.clone()) or evaluate(*given)  # noqa: E731
    monkeypatch.setattr(probes, "evaluate", spy)
    split = run.split(clips)
    probes.ruined(run.model(clips), SPEC, clips, split)
    person = clips.clips["person"].to_numpy(dtype=object)
    of_face = np.repeat(np.arange(len(clips)), clips.counts)
    train = np.isin(of_face, split.train.numpy())
    gallery = np.isin(of_face, split.gallery.numpy())
    quality = clips.face_columns()["quality"].to_numpy()
    limit = np.quantile(quality[train], probes.POOREST)
    origin = {clips.faces[i].numpy().tobytes(): i for i in np.flatnonzero(train)}
    before = np.zeros(len(of_face), dtype=bool)
    for n, faces in enumerate(seen):
        kind, share = ("poor", "stranger")[n // len(probes.RUINED)], probes.RUINED[n % len(probes.RUINED)]
        changed = (faces != clips.faces).any(dim=1).numpy()
        assert not changed[~gallery].any(), "a training face was ruined"
        assert abs(changed[gallery].mean() - share) < 0.15
        if share == 0:
            before[:] = False
        assert (changed >= before).all(), "a face that was ruined at a smaller share is whole again"
        before = changed
        for i in np.flatnonzero(changed):
            source = origin[faces[i].numpy().tobytes()]
            if kind == "poor":
                assert quality[source] <= limit
            else:
                assert person[of_face[source]] != person[of_face[i]]


def test_a_modality_that_is_missing_is_missing_from_the_data(run, clips, tmp_path):
    table = probes.ask(run, "missing", clips)
    assert list(table["missing"].unique()) == ["", "audio", "body", "all"]
    gone = {k: (m.vectors.numpy(), m.present.numpy() & (k != "audio")) for k, m in clips.modalities.items()}
    without = changed(clips, tmp_path / "without", clips.face_columns(), gone)
    scores = evaluate(run.model(clips), SPEC.evaluation, without, run.split(clips), SPEC.seed)
    np.testing.assert_allclose(table.query("missing == 'audio'")["ap"], scores.ap, equal_nan=True)


def test_weights_are_those_of_eq_3_and_correlate_as_scipy_says(run, clips):
    model, split = run.model(clips), run.split(clips)
    aggregation = model.aggregation
    table = probes.ask(run, "weights", clips).set_index(["person", "trait"])
    known = split.gallery_classes >= 0
    columns = clips.face_columns()
    gallery = split.gallery[known].tolist()
    faces = [i for clip in gallery for i in range(*clips.offsets[clip : clip + 2].tolist())]
    persons = np.repeat(split.gallery_classes[known].numpy(), clips.counts[gallery].numpy())
    weight = []
    with torch.no_grad():
        phi = [float(torch.sigmoid(aggregation.score(c))) for c in aggregation.centres]
        for i in faces:
            alpha = torch.softmax(aggregation.assignment(clips.faces[i].float()), dim=0)
            weight.append(sum(float(a) * p for a, p in zip(alpha, phi, strict=True)))
    np.testing.assert_allclose(probes.face_weights(model, clips, np.array(faces)), weight, rtol=1e-5)
    frame = columns.iloc[faces].assign(person=persons, weight=weight)
    for trait in ("quality", "blur", "occlusion"):
        there = frame[frame[trait].notna()]
        for person, own in there.groupby("person"):
            one = table.loc[(person, trait)]
            assert one["faces"] == len(own)
            assert one["rho"] == pytest.approx(spearmanr(own[trait], own["weight"]).statistic, abs=1e-6)
        best = there[there[trait] > there[trait].quantile(0.8)]
        if trait == "quality":  # no ties
            own = best[best["person"] == best["person"].iloc[0]]
            mean = table.loc[(best["person"].iloc[0], trait), "fifth 5"]
            assert mean == pytest.approx(own["weight"].mean(), rel=1e-5)


def test_attention_is_the_mean_over_the_clips_that_have_everything(run, clips):
    model, split = run.model(clips), run.split(clips)
    table = probes.ask(run, "attention", clips)
    names = model.token_names
    audio, body = clips.modalities["audio"], clips.modalities["body"]
    whole = (clips.counts > 0) & audio.present & body.present
    for person in table["person"].unique():
        rows = [int(c) for c, p in zip(split.gallery, split.gallery_classes, strict=True) if p == person and whole[c]]
        # Clips of N faces or fewer are not sampled at random but for the repeats: only those of 1 or 5 are compared.
        if not rows or any(clips.counts[c] not in (1, 5) for c in rows):
            continue
        found = []
        for c in rows:
            faces = clips.faces[clips.offsets[c] : clips.offsets[c + 1]].float()[None]
            batch = Batch(
                faces if faces.shape[1] == 5 else faces.expand(1, 5, -1),
                None,
                {name: each.vectors[c : c + 1].float() for name, each in (("audio", audio), ("body", body))},
                {name: torch.tensor([True]) for name in ("audio", "body")},
            )
            with torch.no_grad():
                found.append(model.attention(batch)[0].numpy())
        matrix = table[table["person"] == person].pivot(index="row", columns="column", values="weight")
        np.testing.assert_allclose(matrix.loc[names, names], np.mean(found, axis=0), atol=1e-5)
    by_row = table.groupby(["person", "row"])["weight"].sum()
    np.testing.assert_allclose(by_row, 1, atol=1e-5)


def test_answers_are_right_or_wrong(run, clips):
    split = run.split(clips)
    table = probes.ask(run, "answers", clips)
    assert len(table) == len(split.gallery) and (table["person"] == split.gallery_classes.numpy()).all()
    known = table[table["person"] >= 0]
    assert known["right"].mean() == pytest.approx(run.rank_1)
    assert table["confidence"].between(1 / len(split.persons), 1).all()
    assert not table[table["person"] < 0]["right"].any()
    for person, one in known.groupby("person"):
        assert (one["trained"] == int((split.train_classes == person).sum())).all()


def test_an_answer_is_asked_for_once_and_kept_with_the_run(run, clips, monkeypatch):
    first = probes.ask(run, "answers", clips)
    monkeypatch.setitem(probes.PROBES, "answers", lambda *_: pytest.fail("asked again"))
    pd.testing.assert_frame_equal(probes.ask(run, "answers", clips), first)
    assert [p.name for p in run.folder.glob("answers-*.parquet")]


def test_the_answers_of_all_runs_are_computed_in_parallel(run, clips, monkeypatch):
    monkeypatch.setattr(probes, "cores", lambda: 2)
    asked = []
    monkeypatch.setattr(probes, "_worker", lambda *given, real=probes._worker: asked.append(given) or real(*given))
    other = get_or_train(SPEC.model_copy(update={"seed": 2}), clips, CPU)
    with parallel_config(backend="threading"):  # the run store's tests start processes
        found = probes.ask_all([run, other], ["answers", "missing"], clips, CPU, "probes")
    assert len(asked) == 4
    for probe, tables in found.items():
        for one, asked in zip((run, other), tables, strict=True):
            direct = probes.PROBES[probe](one.model(clips), one.spec, clips, one.split(clips))
            pd.testing.assert_frame_equal(asked, direct)


def test_a_recorded_run_has_no_model_to_ask(run, clips):
    with pytest.raises(ValueError, match="only its numbers were recorded"):
        probes.ask(replace(run, folder=None), "answers", clips)


def test_other_qualities_are_another_question(clips, tmp_path):
    """The run's key does not cover traits, so the file of a probe's table must."""
    table = clips.face_columns()
    other = changed(clips, tmp_path / "other", table.assign(quality=-table["quality"]))
    assert other.fingerprint == clips.fingerprint and other.checksums != clips.checksums
    first, second = (
        probes.ask(get_or_train(SPEC, its, CPU), "weights", its).set_index(["trait", "person"]).loc["quality", "rho"]
        for its in (clips, other)
    )
    np.testing.assert_allclose(first, -second)
    assert first.abs().max() > 0
