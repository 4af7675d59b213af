from dataclasses import replace

import pytest
import torch

from famf_lib.data import datasets
from famf_lib.experiments import conditions
from famf_lib.experiments.conditions import AXES, SETTINGS, SIZES, Condition, Size
from famf_lib.experiments.run_store import run_key
from famf_lib.training.train import TrainingConfig

CPU = torch.device("cpu")
TINY = Size(7, 11, 13, TrainingConfig(epochs=1, batch_size=17, faces=3), axes=AXES)


@pytest.mark.parametrize("profile", SIZES)
def test_every_map_has_every_combination_once_and_holds_both_settings(profile):
    size = SIZES[profile]
    for name, axes in size.axes.items():
        points = conditions.grid(name, size)
        panels = 1 if name in ("features", "balance") else len(SETTINGS)
        number = panels
        for values in axes.values():
            number *= len(values)
        assert len(points) == len(set(points)) == number
        for field, values in axes.items():
            assert {getattr(point, field) for point in points} == set(values)
    assert set(SETTINGS.values()) <= set(conditions.grid("features", size))
    assert set(SETTINGS.values()) <= set(conditions.grid("quality", size))  # so that the maps share these runs


def test_the_default_is_what_the_paper_prints():
    run = conditions.spec(Condition(), SIZES["paper"], "AttentionVLAD + MLMA", 3)
    assert (run.model.features, run.model.aggregation_options["normalisation"]) == ("raw", "none")
    assert (run.training.lr, run.training.lr_aggregation) == (0.004, 0.04) and run.seed == 3
    assert run.model.modalities == ("audio", "body")


def test_a_point_changes_its_own_option_alone():
    plain = conditions.spec(Condition(), TINY, "NetVLAD + MMA", 1).model_dump()
    for change, path, value in (
        ({"scale": "unit"}, ("model", "features"), "unit"),
        ({"normalisation": "cluster"}, ("model", "aggregation_options", "normalisation"), "cluster"),
    ):
        changed = conditions.spec(Condition(**change), TINY, "NetVLAD + MMA", 1).model_dump()
        place, expected = changed, plain
        for key in path[:-1]:
            place, expected = place[key], expected[key]
        assert place[path[-1]] == value != expected[path[-1]]
        place[path[-1]] = expected[path[-1]]
        assert changed == plain
    changed = conditions.spec(Condition(lr=0.03), TINY, "NetVLAD + MMA", 1).training
    assert (changed.lr, changed.lr_aggregation) == (0.03, 0.3)


def test_no_two_points_share_a_key_and_points_of_the_same_clips_share_them(store):
    points = [Condition(), Condition(scale="unit"), Condition(scale=0.25), Condition(presence=0.4), Condition(lr=0.01)]
    clipsets = [conditions.dataset(point, TINY).load() for point in points]
    runs = [
        run_key(conditions.spec(point, TINY, row, seed), clipset.fingerprint, CPU)
        for point, clipset in zip(points, clipsets, strict=True)
        for row in conditions.ROWS
        for seed in (1, 2)
    ]
    assert len(set(runs)) == len(runs) == 40
    folders = [clipset.folder for clipset in clipsets]
    assert folders[0] == folders[1] == folders[4] and len(set(folders)) == 3
    assert len({c.fingerprint for c in clipsets}) == 3
    other = conditions.dataset(Condition(), replace(TINY, persons=11))
    assert other.load().fingerprint not in {c.fingerprint for c in clipsets}


@pytest.mark.parametrize(("scales", "of_modalities"), [({"scale": 0.25}, 0.25), ({"face_scale": 0.25}, 1)])
def test_scaled_clips_have_the_same_vectors_but_for_their_length(scales, of_modalities, store):
    plain = conditions.dataset(Condition(), TINY).load()
    quarter = conditions.dataset(Condition(**scales), TINY).load()
    assert torch.allclose(quarter.faces.float() * 4, plain.faces.float(), atol=1e-6)  # tiny numbers lose digits
    for name, modality in plain.modalities.items():
        found = quarter.modalities[name]
        assert torch.allclose(found.vectors.float() / of_modalities, modality.vectors.float(), atol=1e-6)
        assert torch.equal(found.present, modality.present)
    assert quarter.clips.equals(plain.clips) and quarter.face_columns().equals(plain.face_columns())
    assert scales.items() <= quarter.info.items()


def test_a_dataset_of_the_book_is_scaled_and_kept_apart(store):
    source = datasets.get("synthetic")
    quarter = conditions.with_faces_scaled(source, 0.25)
    plain, scaled = source.load("quick"), quarter.load("quick")
    assert torch.allclose(scaled.faces.float() * 4, plain.faces.float(), atol=1e-6)
    assert torch.equal(scaled.modalities["audio"].vectors, plain.modalities["audio"].vectors)
    assert scaled.folder != plain.folder and scaled.fingerprint != plain.fingerprint
    assert conditions.with_faces_scaled(source, 0.5).load("quick").fingerprint != scaled.fingerprint
