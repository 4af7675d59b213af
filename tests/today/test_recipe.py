"""The recipe's vectors, weights, training and ranking, compared with loops over clips, faces and persons."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import Split
from famf_lib.metrics import log_odds, mean_average_precision
from famf_today import recipe, study
from famf_today.heads import MarginHead
from famf_today.recipe import Faces, Recipe

D, VOICE, C = 7, 5, 3
COUNTS = [2, 0, 3, 1, 5, 4, 2, 3]
PERSONS = [0, 0, 0, 1, 1, 2, 2, 1]
FILMS = ["a", "a", "b", "a", "c", "c", None, "c"]


@pytest.fixture
def clipset():
    rng = np.random.default_rng(0)
    clips = pd.DataFrame({"name": [f"clip {n}" for n in range(8)], "person": [f"p{p}" for p in PERSONS]})
    clips = clips.assign(split="train", group=FILMS)
    total = sum(COUNTS)
    voice = (rng.normal(size=(8, VOICE)), np.arange(8) != 3)
    table = pd.DataFrame({"det_score": rng.uniform(0.5, 1, total).astype(np.float32)})
    vectors = 3 * rng.normal(size=(total, D))
    return ClipSet.build(vectors, np.array(COUNTS), clips, face_table=table, modalities={"voice": voice})


@pytest.fixture
def parts():
    every = torch.arange(8)
    return Split([f"p{p}" for p in range(C)], every, torch.tensor(PERSONS), every, torch.tensor(PERSONS))


@pytest.mark.parametrize("quality", ["norm", "det_score"])
def test_a_clip_is_the_weighted_direction_of_its_faces(clipset, quality):
    chosen, starts = torch.tensor([4, 1, 0]), np.concatenate([[0], np.cumsum(COUNTS)])
    found = recipe.vectors_of(Recipe(quality=quality, clip_power=2.0, modalities=("voice",)), clipset, chosen)
    for place, v in enumerate(chosen.tolist()):
        total = torch.zeros(D)
        for i in range(starts[v], starts[v + 1]):
            x = clipset.faces[i].float()
            q = x.norm() if quality == "norm" else clipset.face_columns()["det_score"][i]
            total += q**2 * x / x.norm()
        torch.testing.assert_close(found["face"][place], total / total.norm() if COUNTS[v] else total)
    assert recipe.vectors_of(Recipe(modalities=("voice",)), clipset, torch.tensor([3]))["voice"].count_nonzero() == 0


def test_every_film_of_a_person_has_the_same_weight(clipset, parts, monkeypatch):
    given = {}

    def watched(head, x, classes, weight, **how):
        given[len(x)] = (classes, weight)
        return head

    monkeypatch.setattr(recipe, "train_head", watched)
    recipe.fit(Recipe(face_power=0.0, modalities=("voice",)), clipset, parts, 1)
    faces = Faces.of(clipset, parts.train)
    films = [(PERSONS[v], FILMS[v] or v) for v in faces.clip]
    classes, weight = given[sum(COUNTS)]
    assert weight.tolist() == pytest.approx([1 / films.count(film) for film in films])
    assert classes.tolist() == [p for p, _ in films] and set(given) == {
        sum(COUNTS),
        7,
    }  # clips with faces, with a voice


def test_training_follows_the_weighted_loss(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, classes = F.normalize(torch.randn(11, D, generator=generator), dim=1), torch.tensor([0, 1, 2] * 3 + [0, 1])
    weight = torch.rand(11, generator=generator)
    start = recipe.train_head(MarginHead(D, C), x, classes, weight, lr=0.0, epochs=1, batch=4, seed=0)
    for c in range(C):
        mean = sum(w * v for w, v, one in zip(weight, x, classes, strict=True) if one == c)
        torch.testing.assert_close(start.directions[c].detach(), mean)
    found = recipe.train_head(MarginHead(D, C), x, classes, weight, lr=0.01, epochs=1, batch=11, seed=0)
    losses = [-torch.log_softmax(start(v[None], c[None])[0], 0)[c] for v, c in zip(x, classes, strict=True)]
    (weight @ torch.stack(losses) / weight.sum()).backward()
    torch.optim.Adam(start.parameters(), lr=0.01).step()
    torch.testing.assert_close(found.map, start.map)
    torch.testing.assert_close(found.directions, start.directions)


def test_ranking_adds_the_heads_and_expansion_the_best_clips(clipset, parts):
    how = Recipe(modalities=("voice",), expanded=2)
    model = recipe.fit(how, clipset, parts, 1)
    vectors = recipe.vectors_of(how, clipset, parts.gallery)
    with torch.no_grad():
        faces = (model.face["faces"](vectors["face"]) + model.face["clips"](vectors["face"])) / 2
        logits = faces + model.others["voice"](vectors["voice"])
    torch.testing.assert_close(faces[3], logits[3])  # it has no voice
    further = torch.zeros_like(logits)
    for c in range(C):
        best = sorted(range(8), key=lambda v: -float(log_odds(logits)[v, c]))[:2]
        for x in vectors.values():
            mean = F.normalize(sum(logits[v].softmax(0)[c] * x[v] for v in best), dim=0)
            further[:, c] += how.scale * x @ mean
    expected = mean_average_precision(log_odds(logits + further), parts.gallery_classes)
    assert recipe.rank(model, how, clipset, parts).ap.tolist() == expected.ap.tolist()
    torch.testing.assert_close(recipe.expansion(logits, vectors, how), further)


def test_tuning_chooses_the_best_mean_of_the_points_that_were_best_with_one_seed(results_folder, monkeypatch):
    results_folder.mkdir()
    rng, level = np.random.default_rng(0), {}

    def measure(jobs, clipset, label):
        assert {job["part"] for job in jobs} == {"tune"}
        keys = [(job["row"], *job["point"].values(), job["seed"]) for job in jobs]
        return [{"ap": [level.setdefault(key, rng.random()), None]} for key in keys]

    monkeypatch.setattr(study, "measure", measure)
    monkeypatch.setattr(study.datasets, "load", lambda *_: SimpleNamespace(fingerprint="f"))
    for row in study.tune("synthetic", "quick")["rows"].values():
        ranked = sorted(row["tried"], key=lambda point: -point["mAP"][0])
        assert [len(point["mAP"]) for point in ranked] == [3] * 4 + [1] * 20
        best = max(ranked[:4], key=lambda point: np.mean(point["mAP"]))
        assert row["chosen"] == {name: value for name, value in best.items() if name != "mAP"}
    assert len(level) == 2 * (24 + 2 * 4)


def test_both_grids_have_as_many_points_as_the_rows_of_table_1():
    assert [math.prod(map(len, grid.values())) for grid in study.GRIDS.values()] == [24, 24]
    assert set(study.MAIN) <= {study.RECIPE, study.FAMF_WITH_HEAD, *study.WITHOUT}
