"""Measures how the quality of faces shows in their vectors, for any ClipSet.

The norm of an ArcFace-like vector falls with the quality of its face, so that no quality score is needed. Only faces of
the clip's own person in clips of a known person count (face column ``own``, if the source has it).
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Num

from famf_lib.data.clipset import ClipSet

FIFTHS = 5


def by_fifth(clipset: ClipSet, order: str = "norm") -> pd.DataFrame:
    """Norms and mean cosines per fifth of the faces, worst to best by ``order``: the norm, or a face column.

    ``norm`` is the mean norm divided by the median of all faces. ``cos_person`` is the mean cosine to the person: the
    mean direction of the better half (by norm) of the person's faces in *other groups*. The rest are mean cosines of
    two faces of the same fifth: ``same_clip``, ``same_group`` (same person and group, other clip), ``same_person``
    (other group) and ``different`` (persons).
    """
    unit, norm, clip, group, person, value = _own_faces(clipset, order)
    fifth = pd.qcut(value, FIFTHS, labels=False)
    # A person without one group: the sum over the person's faces minus the sum over those of the group.
    good = norm > np.median(norm)
    elsewhere = _sums(unit[good], person[good], person)[person] - _sums(unit[good], group[good], group)[group]
    length = np.linalg.norm(elsewhere, axis=1)
    cosine = np.full(len(unit), np.nan)
    np.divide((unit * elsewhere).sum(axis=1), length, out=cosine, where=length > 1e-3)
    rows = [
        {
            "norm": norm[chosen].mean() / np.median(norm),
            "cos_person": np.nanmean(cosine[chosen]),
            **_pair_cosines(unit[chosen], clip[chosen], group[chosen], person[chosen]),
        }
        for chosen in (fifth == k for k in range(FIFTHS))
    ]
    return pd.DataFrame(rows, index=pd.RangeIndex(1, FIFTHS + 1, name=f"fifth by {order}"))


def intraclass(values: Num[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """ICC(1), the share of the variance of ``values`` between groups (one-way random effects)."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(codes, values) / sizes
    n, g = len(values), len(sizes)
    between = (sizes * (means - np.mean(values)) ** 2).sum() / (g - 1)
    within = ((values - means[codes]) ** 2).sum() / (n - g)
    size = (n - (sizes**2).sum() / n) / (g - 1)
    variance = (between - within) / size
    return float(variance / (variance + within))


def within_clip(clipset: ClipSet) -> dict[str, float]:
    """The share of the variance of the log norm between clips, and the correlation of neighbours in a clip."""
    _, norm, clip, _, _, value = _own_faces(clipset, "norm")
    value = np.log(value)
    same = clip[1:] == clip[:-1]
    return {
        "between clips": intraclass(value, clip),
        "neighbours": float(np.corrcoef(value[1:][same], value[:-1][same])[0, 1]),
    }


def effective_dimension(vectors: Float[np.ndarray, "n D"]) -> float:
    """(Σλ)² / Σλ² with the eigenvalues λ of the covariance: D for a sphere, 1 for a line."""
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def who_is_it(clipset: ClipSet, order: str = "norm", k: int = 5, queries: int = 2000, seed: int = 0) -> pd.Series:
    """The share of faces, per fifth, whose person wins the vote of the k nearest faces (cosine) of other clips."""
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
    group = np.unique(person * (group.max() + 2) + group, return_inverse=True)[1]  # groups of one person
    value = norm if order == "norm" else table[order].to_numpy()[chosen]
    return faces / norm[:, None], norm, clip, group, person, value


def _sums(vectors: np.ndarray, codes: np.ndarray, all_codes: np.ndarray) -> np.ndarray:
    """Sums by code, with a row for each of ``all_codes``."""
    sums = np.zeros((all_codes.max() + 1, vectors.shape[1]), dtype=np.float64)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sums[codes[order][starts]] = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
    return sums


def _pair_cosines(unit: np.ndarray, clip: np.ndarray, group: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """Mean cosines over nested sets of pairs: ‖Σu‖² is the sum over all pairs of a set, including (u, u)."""
    inner_sum, inner_pairs, cosines = float(len(unit)), float(len(unit)), {}
    levels = {"same_clip": clip, "same_group": group, "same_person": person, "different": np.zeros_like(person)}
    for name, codes in levels.items():
        codes = np.unique(codes, return_inverse=True)[1]
        total = (_sums(unit, codes, codes) ** 2).sum()
        pairs = float((np.bincount(codes).astype(np.float64) ** 2).sum())
        cosines[name] = (total - inner_sum) / (pairs - inner_pairs) if pairs > inner_pairs else np.nan
        inner_sum, inner_pairs = total, pairs
    return cosines
