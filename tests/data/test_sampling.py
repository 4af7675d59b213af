import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from famf_lib.data.sampling import Sampler, generator, sample_faces

CPU = torch.device("cpu")
ragged = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def drawn(counts, n, seed=0, clips=None):
    offsets = torch.tensor([0, *np.cumsum(counts)])
    chosen = torch.arange(len(counts)) if clips is None else torch.tensor(clips, dtype=torch.int64)
    return sample_faces(offsets, chosen, n, generator(CPU, seed)), offsets


@given(ragged, st.integers(1, 12), st.integers(0, 2**40), st.data())
def test_every_clip_gives_its_own_faces_as_evenly_as_can_be(counts, n, seed, data):
    clips = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    faces, offsets = drawn(counts, n, seed, clips)
    assert faces.shape == (len(clips), n) and faces.dtype == torch.int64
    for clip, row in zip(clips, faces.tolist(), strict=True):
        if counts[clip] == 0:
            assert row == [0] * n
            continue
        own = range(int(offsets[clip]), int(offsets[clip + 1]))
        times = [row.count(face) for face in own]
        assert sum(times) == n, "a face of another clip"
        assert min(times) >= n // counts[clip] and max(times) <= math.ceil(n / counts[clip])


def test_a_seed_repeats_the_draw_and_another_epoch_or_seed_draws_anew():
    offsets = torch.arange(0, 101 * 13, 13)
    each = [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0), (0, 0, 1), (0, 1, 0), (2, 0, 0), (0, 2)]
    draws = (sample_faces(offsets, torch.arange(100), 5, generator(CPU, *seeds)) for seeds in each * 2)
    seen = {tuple(faces.flatten().tolist()) for faces in draws}
    assert len(seen) == len(each)


def test_no_two_epochs_of_any_seed_share_their_random_numbers():
    seeds = [*range(13), 2**31, 2**40, 2**62]
    each = [(seed, use, epoch) for seed in seeds for use in range(4) for epoch in range(83)]
    assert len({generator(CPU, *one).initial_seed() for one in each}) == len(each)


@pytest.mark.parametrize(("count", "n"), [(7, 3), (7, 7), (3, 5), (2, 1), (97, 2)])
def test_every_face_comes_equally_often_at_every_place(count, n):
    clips = 6_000
    faces, offsets = drawn([count] * clips, n)
    places = faces - offsets[:-1, None]
    for place in range(n):
        found = torch.bincount(places[:, place], minlength=count).double()
        expected = clips / count
        chi_squared = float(((found - expected) ** 2 / expected).sum())
        assert chi_squared < count - 1 + 6 * math.sqrt(2 * (count - 1)), found  # six standard deviations


def test_clips_are_drawn_independently_and_repeat_any_face():
    faces, offsets = drawn([5] * 400, 5)
    assert len({tuple(row) for row in (faces - offsets[:-1, None]).tolist()}) > 100  # of 120 orders
    faces, offsets = drawn([3] * 500, 4)
    assert set((faces - offsets[:-1, None]).mode(dim=1).values.tolist()) == {0, 1, 2}


def test_many_clips_keep_their_own_faces():
    """Keys hold the clip above the random number: none of its bits may be lost."""
    counts = np.random.default_rng(0).integers(1, 40, size=20_000)
    faces, offsets = drawn(counts, 24)
    assert (faces >= offsets[:-1, None]).all() and (faces < offsets[1:, None]).all()


def test_a_batch_holds_the_faces_and_modalities_of_its_clips(made_up):
    clipset = made_up()
    clips = torch.tensor([10, 1, 30, 0, 18])
    sampler = Sampler(clipset, clips, 5, ("body", "audio"))
    faces = sampler.draw(generator(CPU, 3))
    rows = torch.tensor([4, 0, 3])
    batch = sampler.batch(faces, rows)
    assert list(batch.modalities) == ["body", "audio"] and batch.faces.dtype == torch.float32
    for b, row in enumerate(rows.tolist()):
        clip = int(clips[row])
        own = clipset.faces[clipset.offsets[clip] : clipset.offsets[clip + 1]].float()
        assert batch.mask[b].tolist() == [len(own) > 0] * 5
        for i in range(5):
            assert len(own) == 0 or torch.equal(batch.faces[b, i], clipset.faces[faces[row, i]].float())
            assert len(own) == 0 or (own == batch.faces[b, i]).all(dim=1).any()
        for name, modality in clipset.modalities.items():
            expected = modality.vectors[clip].float()
            torch.testing.assert_close(batch.modalities[name][b], expected, rtol=0, atol=0, equal_nan=True)
            assert batch.present[name][b] == modality.present[clip]


def test_there_is_no_mask_where_every_clip_has_a_face(made_up):
    clipset = made_up()
    sampler = Sampler(clipset, clipset.counts.nonzero().squeeze(1), 3, ())
    batch = sampler.batch(sampler.draw(generator(CPU, 0)), torch.arange(4))
    assert batch.mask is None and batch.modalities == {}
