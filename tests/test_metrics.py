import inspect
import math
import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from famf_lib import metrics
from famf_lib.metrics import Ranking, log_odds, mean_average_precision, score_lists

V, C = 31, 5  # clips, persons
AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, -1e-40, math.inf, -math.inf, 3e38, -3e38]


def gallery(seed=0, noise=0.2):
    """Scores without ties (V, C) and the person of each clip, -1 for some."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(V * C).reshape(V, C) - V * C / 2
    classes = rng.integers(C, size=V)
    classes[rng.random(V) < noise] = -1
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(classes)


def ranked_by_hand(scores, c, k):
    """The best k clips of person c by decreasing score, equal scores in the order of the clips."""
    return sorted(range(len(scores)), key=lambda v: (-float(scores[v, c]) + 0.0, v))[:k]


def ap_by_hand(clips, positives):
    """Eq. 7."""
    hits = [rank for rank, clip in enumerate(clips, start=1) if clip in positives]
    return sum(n / rank for n, rank in enumerate(hits, start=1)) / len(positives) if positives else math.nan


@pytest.mark.parametrize("seed", range(5))
def test_without_cut_and_ties_it_is_average_precision(seed):
    scores, classes = gallery(seed)
    found = mean_average_precision(scores, classes, k=V)
    expected = [average_precision_score((classes == c).numpy(), scores[:, c].numpy()) for c in range(C)]
    np.testing.assert_allclose(found.ap, expected, rtol=1e-12)
    assert found.mean_ap == pytest.approx(np.mean(expected), rel=1e-12)


score = st.sampled_from(AWKWARD) | st.floats(width=32, allow_nan=False, allow_subnormal=True)


def tables(c):
    """Scores of c persons and the person of each clip."""
    clip = st.tuples(st.lists(score, min_size=c, max_size=c), st.integers(-1, c - 1))
    return st.lists(clip, min_size=1, max_size=13)


@given(st.integers(1, 4).flatmap(tables), st.integers(1, 15), st.lists(st.integers(0, 5), max_size=5))
def test_any_scores_in_any_batches_give_what_is_counted_by_hand(table, k, sizes):
    scores, classes = torch.tensor([row for row, _ in table]), torch.tensor([c for _, c in table])
    persons = range(scores.shape[1])
    ranking, start = Ranking(len(persons), k), 0
    for size in [*sizes, len(scores)]:
        ranking.update(scores[start : start + size], classes[start : start + size])
        start += size
    found, expected = ranking.clips().tolist(), [ranked_by_hand(scores, c, k) for c in persons]
    positives = [{v for v in range(len(classes)) if classes[v] == c} for c in persons]
    aps = [ap_by_hand(clips, own) for clips, own in zip(expected, positives, strict=True)]
    assert found == expected
    np.testing.assert_allclose(ranking.compute().ap, aps, rtol=1e-12)
    # The lists of the official evaluation, from the same ranking.
    lists = {str(c): [str(v) for v in clips] for c, clips in enumerate(found)}
    truth = {str(c): [str(v) for v in own] for c, own in enumerate(positives)}
    np.testing.assert_allclose(list(score_lists(lists, truth, k).values()), aps, rtol=1e-12)
    whole = mean_average_precision(scores, classes, k)
    assert torch.equal(ranking.compute().ap.nan_to_num(-1), whole.ap.nan_to_num(-1))
    assert ranking.compute().rank_1 == whole.rank_1


@pytest.mark.parametrize("chunk", [1, 3, 4096])
@pytest.mark.parametrize("few", [0.0, 1.0], ids=["all merged", "the better ones merged"])
@pytest.mark.parametrize(
    ("dtype", "low", "step"),
    [
        (torch.float64, 1.0, 1e-9),
        (torch.float64, 1e9, 1e-6),
        (torch.float32, 1.0, 2**-23),
        (torch.float16, 1.0, 2**-10),
        (torch.bfloat16, 1.0, 2**-7),
        (torch.int64, 2**53 - 20, 1),
        (torch.int64, 1 - 2**53, 1),
        (torch.uint8, 230, 1),
    ],
    ids=str,
)
def test_scores_are_compared_in_the_precision_in_which_they_are_given(dtype, low, step, few, chunk, monkeypatch):
    monkeypatch.setattr(metrics, "SPARSE", few)
    order = np.random.default_rng(5).permutation(20)
    scores = torch.tensor([[low + step * int(place)] for place in order], dtype=dtype)
    assert len(scores.unique()) == 20, "the scores themselves"
    ranking = Ranking(1, k=7)
    for batch in scores.split(chunk):
        ranking.update(batch, torch.zeros(len(batch), dtype=torch.int64))
    assert ranking.clips()[0].tolist() == np.argsort(-order)[:7].tolist()


def test_batches_of_two_precisions_are_ranked_in_the_finer_one():
    ranking = Ranking(1, k=2)
    high, low = (1 + 1e-9, torch.float64), (1 - 1e-9, torch.float64)
    for score, dtype in ((1.0, torch.float32), high, (1.0, torch.float16), low):
        ranking.update(torch.tensor([[score]], dtype=dtype), torch.tensor([0]))
    assert ranking.clips().tolist() == [[1, 0]]


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_padding_is_never_ranked(few, monkeypatch):
    """If all scores are -inf, the first clips are kept, each of them once."""
    monkeypatch.setattr(metrics, "SPARSE", few)
    scores = torch.full((13, 2), -math.inf)
    scores[5:11, 1] = 0
    ranking = Ranking(2, k=3)
    for batch in scores.split(4):
        ranking.update(batch, torch.full((len(batch),), -1))
    assert ranking.clips().tolist() == [[0, 1, 2], [5, 6, 7]]


@pytest.mark.parametrize(("clips", "persons"), [(0, 3), (2, 0), (0, 0), (3, 2)])
def test_without_clips_of_persons_there_are_no_scores(clips, persons):
    scores, noise = torch.zeros(clips, persons), torch.full((clips,), -1)
    found = mean_average_precision(scores, noise)
    assert found.ap.isnan().all() and found.ap.shape == (persons,)
    assert math.isnan(found.mean_ap) and found.rank_1 == 0
    ranking = Ranking(persons)
    ranking.update(scores, noise)
    assert ranking.clips().shape == (persons, clips if persons else 0)
    part = mean_average_precision(torch.tensor([[3.0, 9.0], [2.0, 8.0]]), torch.tensor([-1, 0]))
    assert part.ap[0] == part.mean_ap == 0.5 and part.ap[1].isnan()  # a person without positives is left out


@pytest.mark.parametrize(
    ("scores", "classes", "sentence"),
    [
        (torch.ones(3, 2, dtype=torch.complex64), [0, 1, 0], "scores: torch.complex64 found, expected real numbers"),
        (torch.tensor([[2**53 + 1, 0]]), [0], "scores: integers of 2^53 or more found"),
        (torch.tensor([[-(2**60), 0]]), [0], "scores: integers of 2^53 or more found"),
        (torch.ones(3, 5), [0, 1, 0], "scores: 3 × 5 found, expected 3 × 2, as many as clips and persons"),
        (torch.ones(3, 2), [0, 1], "scores: 3 × 2 found, expected 2 × 2, as many as clips and persons"),
        (torch.ones(3), [0, 1, 0], "scores: 3 found, expected 3 × 2, as many as clips and persons"),
        (torch.tensor([[1.0, 2.0], [1.0, math.nan]]), [0, 1], "scores: NaN found, expected numbers that can be ranked"),
        (torch.ones(3, 2), [0, 1, 4], "classes: 4 found, expected at most 1 for 2 persons"),
    ],
)
def test_bad_scores_are_refused(scores, classes, sentence):
    ranking = Ranking(2)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        inspect.unwrap(Ranking.update)(ranking, scores, torch.tensor(classes))  # without jaxtyping's check of shapes
        ranking.compute()


@given(
    st.integers(1, 5).flatmap(
        lambda c: st.lists(st.lists(st.floats(-300, 300, width=32), min_size=c, max_size=c), min_size=1)
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_log_odds_are_those_of_the_softmax(rows, dtype):
    found = log_odds(torch.tensor(rows, dtype=dtype))
    assert found.dtype == dtype
    for row, odds in zip(rows, found.tolist(), strict=True):
        for c, logit in enumerate(row):
            others = row[:c] + row[c + 1 :]
            if not others:
                assert odds[c] == math.inf  # of a single person
                continue
            most = max(others)
            expected = logit - most - math.log(math.fsum(math.exp(o - most) for o in others))
            close = 1e-12 if dtype == torch.float64 else 1e-6
            assert odds[c] == pytest.approx(expected, rel=close, abs=400 * close)


def test_equal_logits_have_equal_log_odds():
    logits = torch.randn(997, 7, generator=torch.Generator().manual_seed(3))
    logits[:, 2] = logits[:, 5] = logits.amax(dim=1)
    odds = log_odds(logits)
    assert torch.equal(odds[:, 2], odds[:, 5]) and torch.equal(odds.argmax(dim=1), logits.argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_log_odds_separate_probabilities_close_to_1(dtype):
    """Log-probabilities are 0 for margins above 17 in float32 and above 37 in float64."""
    logits = torch.zeros(4, 3, dtype=dtype)
    logits[:, 0] = torch.tensor([19, 1000, 20, 50])
    odds = log_odds(logits)
    assert odds.isfinite().all()
    assert odds[:, 0].argsort(descending=True).tolist() == [1, 3, 2, 0]
    assert odds[:, 1].argsort(descending=True).tolist() == [0, 2, 3, 1]


def test_a_cut_below_one_is_refused():
    for k, rank in product((0, -1), (partial(Ranking, 3), partial(score_lists, {"a": ["x"]}, {"a": ["x"]}))):
        with pytest.raises(ValueError, match=f"^k: {k}, expected 1 or more$"):
            rank(k=k)


def test_rank_1_counts_clips_whose_best_person_is_theirs():
    scores = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [-1.0, -2.0, -0.5], [0.0, 5.0, 1.0], [9.0, 0.0, 0.0]])
    classes = torch.tensor([0, 1, 2, 1, -1])
    for chunk in (1, 2, 5):
        assert mean_average_precision(scores, classes, chunk=chunk).rank_1 == 3 / 4  # noise clips do not count
    assert mean_average_precision(scores[3:], classes[3:]).rank_1 == 1  # of a single clip


@pytest.mark.parametrize("order", ["as drawn", "rising", "falling", "one person rising"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_long_galleries_are_ranked_as_a_plain_sort_does(order, dtype, monkeypatch):
    """Few clips of a batch are better than those kept, or all, or all for one person."""
    monkeypatch.setattr(metrics, "PERSONS_AT_ONCE", 3)  # C = 5 is no multiple
    scores, k = torch.randint(-40, 40, (997, 5), generator=torch.Generator().manual_seed(7)).to(dtype) / 8, 11
    if order == "one person rising":
        scores[:, 2] = scores[:, 2].sort().values
    elif order != "as drawn":
        scores = scores.sort(dim=0, descending=order == "falling").values
    ranking, merged = Ranking(5, k), []
    merge = ranking._merge
    monkeypatch.setattr(ranking, "_merge", lambda *found: merged.append(len(found[0])) or merge(*found))
    for batch in scores.split(89):
        ranking.update(batch, torch.full((len(batch),), -1))
    assert len(merged) == {"rising": 0, "falling": 11}.get(order, len(merged))
    assert order != "as drawn" or sum(merged) > 20
    for c, found in enumerate(ranking.clips().tolist()):
        assert found == ranked_by_hand(scores, c, k)


def test_clips_times_persons_is_never_held():
    ranking = Ranking(C, k=7)
    for seed in range(9):
        scores, classes = gallery(seed)
        ranking.update(scores, classes)
    assert ranking.scores.shape == ranking.positions.shape == (C, 7) and ranking.classes.shape == (9 * V,)
