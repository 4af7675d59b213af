"""How quality shows in the face vectors of a ClipSet: a few figures that any source of faces gives.

The norm of an ArcFace-like vector falls with the quality of its face, so that the figures need no quality score. Only
faces of the clip's own person in clips of a known person count (the face column ``own``, where the source has it).
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Num

from famf_lib.data.clipset import ClipSet

FIFTHS = 5


def by_fifth(clipset: ClipSet, order: str = "norm") -> pd.DataFrame:
    """One row a fifth of the faces, worst to best by ``order``: the norm, or a face column such as ``quality``.

    ``norm`` is the mean over the median of all faces; ``cos_person`` the mean cosine to the person, that is to the
    mean direction of the better half (by norm) of the person's faces in *other groups*. The rest are mean cosines of
    two faces of the same fifth: ``same_clip``, ``same_group`` (same person and group, other clip), ``same_person``
    (other group) and ``different`` persons.
    """
    unit, norm, clip, group, person, value = _own_faces(clipset, order)
    fifth = pd.qcut(value, FIFTHS, labels=False)
    # The person without one group: the sum over the person's faces less the sum over those of the group.
    good = norm > np.median(norm)
    elsewhere = _sums(unit[good], person[good], person)[person] - _sums(unit[good], group[good], group)[group]
    length = np.linalg.norm(elsewhere, axis=1)
    known = length > 1e-3
    cosine = np.full(len(unit), np.nan)
    cosine[known] = (unit[known] * elsewhere[known]).sum(axis=1) / length[known]
    rows = []
    for k in range(FIFTHS):
        chosen = fifth == k
        rows.append(
            {
                "norm": norm[chosen].mean() / np.median(norm),
                "cos_person": np.nanmean(cosine[chosen]),
                **_pair_cosines(unit[chosen], clip[chosen], group[chosen], person[chosen]),
            }
        )
    return pd.DataFrame(rows, index=pd.RangeIndex(1, FIFTHS + 1, name=f"fifth by {order}"))


def intraclass(values: Num[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """ICC(1): the share of the variance of ``values`` that lies between the groups (one-way random effects)."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(codes, values) / sizes
    n, g = len(values), len(sizes)
    between = (sizes * (means - np.mean(values)) ** 2).sum() / (g - 1)
    within = ((values - means[codes]) ** 2).sum() / (n - g)
    size = (n - (sizes**2).sum() / n) / (g - 1)
    variance = (between - within) / size
    return float(variance / (variance + within))


def within_clip(clipset: ClipSet) -> dict[str, float]:
    """Of the log norm: the share of its variance between clips, and the correlation of neighbours in a clip."""
    _, norm, clip, _, _, value = _own_faces(clipset, "norm")
    value = np.log(value)
    same = clip[1:] == clip[:-1]
    return {
        "between clips": intraclass(value, clip),
        "neighbours": float(np.corrcoef(value[1:][same], value[:-1][same])[0, 1]),
    }


def effective_dimension(vectors: Float[np.ndarray, "n D"]) -> float:
    """(Σλ)² / Σλ² over the eigenvalues λ of the covariance: D for a sphere, 1 for a line."""
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def who_is_it(clipset: ClipSet, order: str = "norm", k: int = 5, queries: int = 2000, seed: int = 0) -> pd.Series:
    """By fifth of ``order``, the share of faces whose person wins among the k nearest (cosine) of other clips."""
    unit, _, clip, _, person, value = _own_faces(clipset, order)
    fifth = pd.qcut(value, FIFTHS, labels=False)
    chosen = np.random.default_rng(seed).choice(len(unit), min(queries, len(unit)), replace=False)
    faces, clips, persons = torch.from_numpy(unit), torch.from_numpy(clip), torch.from_numpy(person)
    right = np.empty(len(chosen), dtype=bool)
    for start in range(0, len(chosen), 250):  # 250 × F cosines at a time
        rows = torch.from_numpy(chosen[start : start + 250])
        cosine = faces[rows] @ faces.T
        cosine[clips[rows][:, None] == clips] = -2
        votes = persons[cosine.topk(k, dim=1).indices]
        right[start : start + 250] = (votes.mode(dim=1).values == persons[rows]).numpy()
    return pd.Series(right).groupby(fifth[chosen] + 1).mean().rename_axis(f"fifth by {order}")


def _own_faces(clipset: ClipSet, order: str) -> tuple[np.ndarray, ...]:
    """Unit vectors (n, D), norms, clip, group, person and the values of ``order``, each (n,)."""
    labels = clipset.labels.numpy()
    clip = np.repeat(np.arange(len(clipset)), clipset.counts.numpy())
    table = clipset.face_columns()
    chosen = labels[clip] >= 0
    if "own" in table:
        chosen &= table["own"].to_numpy()
    faces = clipset.faces.numpy()[chosen].astype(np.float32)
    norm = np.linalg.norm(faces, axis=1)
    clip = clip[chosen]
    person = labels[clip]
    group = pd.factorize(clipset.clips["group"])[0][clip]
    group = np.unique(person * (group.max() + 2) + group, return_inverse=True)[1]  # the person's, not a co-star's
    value = norm if order == "norm" else table[order].to_numpy()[chosen]
    return faces / norm[:, None], norm, clip, group, person, value


def _sums(vectors: np.ndarray, codes: np.ndarray, all_codes: np.ndarray) -> np.ndarray:
    """Sums by code, with a row for every code that there is."""
    sums = np.zeros((all_codes.max() + 1, vectors.shape[1]), dtype=np.float64)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sums[codes[order][starts]] = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
    return sums


def _pair_cosines(unit: np.ndarray, clip: np.ndarray, group: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """Mean cosines over all pairs, nested: ‖Σu‖² over a set sums all its pairs, each face with itself too."""
    everyone = np.zeros(len(unit), dtype=np.int64)
    inner_sum, inner_pairs = float(len(unit)), float(len(unit))
    cosines = {}
    levels = {"same_clip": clip, "same_group": group, "same_person": person, "different": everyone}
    for name, codes in levels.items():
        codes = np.unique(codes, return_inverse=True)[1]
        total = (_sums(unit, codes, codes) ** 2).sum()
        pairs = float((np.bincount(codes).astype(np.float64) ** 2).sum())
        cosines[name] = (total - inner_sum) / (pairs - inner_pairs) if pairs > inner_pairs else np.nan
        inner_sum, inner_pairs = total, pairs
    return cosines
