"""Measures how the quality of real film faces (IMFDB) shows in their vectors; the synthetic faces follow these numbers.

    python benchmarks/imfdb_shape.py

It needs IMFDB (see data/README.md) and half a minute. The numbers, and the constants that are fitted to them here, are
written in famf_lib/data/synthetic.py.
"""

import sys

import numpy as np
import pandas as pd
from scipy import optimize, stats
from scipy.special import expit

from famf_lib.data import datasets, quality
from famf_lib.data.clipset import ClipSet


def show(clipset: ClipSet) -> None:
    labels = clipset.labels.numpy()
    norm = np.linalg.norm(clipset.faces.numpy().astype(np.float32), axis=1)
    print(f"{len(norm):,} faces, {len(clipset):,} clips, {len(clipset.persons):,} persons, D = {clipset.dim}")
    print("norm over its median, percentiles 1 5 25 50 75 95 99:", end=" ")
    print(*(np.percentile(norm, [1, 5, 25, 50, 75, 95, 99]) / np.median(norm)).round(2))
    by_fifth = quality.by_fifth(clipset)
    print(by_fifth.round(3).to_string())
    print("share of the variance of the log norm between clips, correlation of neighbours:", end=" ")
    print(*(round(value, 2) for value in quality.within_clip(clipset).values()))
    person = labels[np.repeat(np.arange(len(clipset)), clipset.counts.numpy())]
    unit = clipset.faces.numpy().astype(np.float32) / norm[:, None]
    good = (norm > np.median(norm)) & (person >= 0)
    means = np.array([unit[good & (person == p)].mean(axis=0) for p in np.unique(person[good])])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    print("effective dimension of the persons' mean directions:", round(quality.effective_dimension(means), 1))
    print("who is it, 5 nearest faces of other clips, right by fifth of the norm:", end=" ")
    print(*quality.who_is_it(clipset, queries=8000).round(2))

    table = clipset.face_columns()
    side = np.sqrt(table["width"] * table["height"]).to_numpy()
    dark, turned = (table["illumination"] == "BAD").to_numpy(), table["pose"].isin(["LEFT", "RIGHT"]).to_numpy()
    poor = norm < np.quantile(norm, 0.4)
    kinds = {"dark": dark & (side > 70), "small": ~dark & (side < 40), "turned": ~dark & (side > 70) & turned}
    directions = np.array([unit[poor & kind].mean(axis=0) for kind in kinds.values()])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    print("\nmean directions of poor faces (two poorest fifths), cosines:")
    print(pd.DataFrame(directions @ directions.T, index=kinds, columns=kinds).round(2).to_string())
    fifth = pd.qcut(norm, quality.FIFTHS, labels=False)
    apart = [
        np.linalg.norm(
            np.subtract(*(unit[(fifth == k) & (table["pose"] == way)].mean(axis=0) for way in ("LEFT", "RIGHT")))
        )
        for k in range(quality.FIFTHS)
    ]
    print("distance of the mean left profile from the mean right one, by fifth of the norm:", *np.round(apart, 3))
    fit(by_fifth)


def fit(measured: pd.DataFrame) -> None:
    """Fits the constants of the synthetic faces to the numbers by fifth; synthetic.py has the equation."""
    s = stats.norm.ppf((np.arange(5000) + 0.5) / 5000).reshape(quality.FIFTHS, -1)  # confidences, one row per fifth

    def cosines(v: np.ndarray) -> np.ndarray:
        person, rho_0, rho_1, programme, clip, common, *kappa = v
        rho = expit(rho_0 + rho_1 * s)
        different = common * _pairs(np.sqrt(rho)) + _pairs(kappa[0] * expit(-kappa[1] * (s + kappa[2])))
        same_person = different + person * _pairs(rho)
        same_group = same_person + programme * _pairs(np.sqrt(rho))
        return np.stack([same_group + clip, same_group, same_person, different])

    target = measured[["same_clip", "same_group", "same_person", "different"]].to_numpy().T
    start = [0.5, 0.0, 1.0, 0.1, 0.05, 0.1, 0.5, 2.0, 1.0]
    bounds = [0, -3, 0.1, 0, 0, 0, 0.1, 0.3, 0], [1, 3, 4, 0.5, 0.5, 0.5, 1, 6, 3]
    found = optimize.least_squares(lambda v: (cosines(v) - target).ravel(), start, bounds=bounds)
    names = "PERSON RHO[0] RHO[1] PROGRAMME CLIP COMMON KAPPA[0] KAPPA[1] KAPPA[2]".split()
    print("\nfitted:", *(f"{name} {value:.3f}" for name, value in zip(names, found.x, strict=True)), end="; ")
    print(f"root mean square {np.sqrt((found.fun**2).mean()):.3f}")
    norms = optimize.least_squares(
        lambda v: (v[0] * expit(v[1] + v[2] * s)).mean(axis=1) - measured["norm"].to_numpy(), [1.6, 0.5, 1.0]
    )
    print("fitted: norm over its median = {:.2f} σ({:.2f} + {:.2f} s)".format(*norms.x))


def _pairs(amplitude: np.ndarray) -> np.ndarray:
    """The mean product of the amplitudes of two faces, within each fifth."""
    return amplitude.mean(axis=1) ** 2


if __name__ == "__main__":
    try:
        show(datasets.load("imfdb"))
    except datasets.DatasetAbsent as absent:
        sys.exit(str(absent))
