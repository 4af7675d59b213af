import itertools

import numpy as np
import pandas as pd
import pytest

from famf_lib.data import quality
from famf_lib.data.clipset import ClipSet


def small(rng, clips=23, dim=5):
    counts = rng.integers(3, 8, size=clips)
    person = rng.integers(3, size=clips)
    table = pd.DataFrame(
        {"name": [f"c{i}" for i in range(clips)], "person": [f"p{p}" for p in person], "split": "train"}
    )
    table["group"] = [f"g{g}" for g in rng.integers(2, size=clips)]
    table.loc[0, "person"] = None  # a noise clip counts nowhere
    faces = rng.standard_normal((counts.sum(), dim)).astype(np.float16)
    return ClipSet.build(faces, counts, table, face_table=pd.DataFrame({"own": rng.random(counts.sum()) < 0.8}))


def test_cosines_by_fifth_are_those_of_a_loop():
    clipset = small(np.random.default_rng(0))
    clip = np.repeat(np.arange(len(clipset)), clipset.counts.numpy())
    faces = clipset.faces.numpy().astype(float)
    chosen = [i for i in range(len(faces)) if clip[i] > 0 and clipset.face_columns()["own"][i]]
    norm = {i: np.linalg.norm(faces[i]) for i in chosen}
    median = np.median(list(norm.values()))
    fifth = dict(zip(chosen, pd.qcut([norm[i] for i in chosen], 5, labels=False) + 1, strict=True))
    person, group = clipset.clips["person"], clipset.clips["group"]
    found = quality.by_fifth(clipset)
    for k in range(1, 6):
        members = [i for i in chosen if fifth[i] == k]
        cosines = {name: [] for name in ("same_clip", "same_group", "same_person", "different")}
        for i, j in itertools.combinations(members, 2):
            a, b = clip[i], clip[j]
            if person[a] != person[b]:
                kind = "different"
            elif group[a] != group[b]:
                kind = "same_person"
            else:
                kind = "same_clip" if a == b else "same_group"
            cosines[kind].append(faces[i] @ faces[j] / norm[i] / norm[j])
        for kind, values in cosines.items():
            assert found.loc[k, kind] == pytest.approx(np.mean(values), abs=1e-5), (k, kind)
        to_person = []
        for i in members:
            rest = [
                faces[j] / norm[j]
                for j in chosen
                if norm[j] > median and person[clip[j]] == person[clip[i]] and group[clip[j]] != group[clip[i]]
            ]
            mean = np.mean(rest, axis=0)
            to_person.append(faces[i] @ mean / norm[i] / np.linalg.norm(mean))
        assert found.loc[k, "cos_person"] == pytest.approx(np.mean(to_person), abs=1e-5)
        assert found.loc[k, "norm"] == pytest.approx(np.mean([norm[i] for i in members]) / median, abs=1e-5)


def test_intraclass_finds_the_share_that_was_put_in():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(4000), rng.integers(2, 9, size=4000))
    values = np.sqrt(0.3) * rng.standard_normal(4000)[groups] + np.sqrt(0.7) * rng.standard_normal(len(groups))
    assert quality.intraclass(values, groups) == pytest.approx(0.3, abs=0.02)
    assert quality.intraclass(rng.permutation(values), groups) == pytest.approx(0, abs=0.02)


def test_effective_dimension_of_a_ball_and_of_a_line():
    rng = np.random.default_rng(2)
    ball = rng.standard_normal((20_000, 7)).astype(np.float32)
    assert quality.effective_dimension(ball) == pytest.approx(7, rel=0.01)
    assert quality.effective_dimension(ball[:, :1] * np.arange(1, 8)) == pytest.approx(1, rel=0.01)


def test_who_is_it_looks_at_other_clips_only():
    # Two persons on two axes; the vectors of each clip agree best with its own clip, which must not count.
    persons = np.tile([0, 1], 13)
    vectors = np.zeros((26, 3), np.float32)
    vectors[np.arange(26), persons] = 1
    vectors[:, 2] = np.linspace(-0.5, 0.5, 26)
    faces = np.repeat(vectors, 7, axis=0) * np.linspace(1, 2, 182)[:, None]
    for person, right in ((persons, 1), (np.arange(26), 0)):  # 0: everyone in a single clip
        clips = pd.DataFrame({"name": range(26), "person": person, "split": "train", "group": "g"})
        clips = clips.astype({"name": str, "person": str})
        clipset = ClipSet.build(faces, np.full(26, 7), clips, face_table=pd.DataFrame(index=range(182)))
        assert (quality.who_is_it(clipset) == right).all()
