"""Confidence intervals over seeds and persons, for a mean AP and for a paired difference of two.

The AP of P persons in S runs is a table (S, P). Seeds and persons are both samples: another seed (with another split)
and other persons would have given other numbers. The *pigeonhole bootstrap* (Owen 2007) resamples rows and columns
independently. Two corrections make it valid for five seeds: drawing n − 1 of n makes the variance unbiased (McCarthy
1969), and the quantiles are scaled from the normal's to Student's t with Satterthwaite's degrees of freedom.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt16

LEVEL = 0.95
DRAWS = 4_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, and the numbers of seeds and persons behind it."""

    mean: float
    low: float
    high: float
    seeds: int
    persons: int

    def __format__(self, form: str) -> str:
        """Each number in the format ``form``, such as ``+.3f``, with a true minus sign; ".4f" if there is none."""
        form = form or ".4f"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]".replace("-", "−")

    def __str__(self) -> str:
        return format(self)


def estimate(ap: Float[np.ndarray, "*S P"], seed: int = 0) -> Estimate:
    """The mean over seeds of the mean over persons, with its interval.

    Args:
        ap: AP (S, P), or (P,) for one seed; NaN for a person without a clip in that run's gallery, who is left out of
            that run. With one seed the interval reflects variation over persons only.

    Raises:
        ValueError: a run in which no person has a value.
    """
    ap = np.atleast_2d(np.asarray(ap, dtype=np.float64))
    seeds, persons = ap.shape
    valid = ~np.isnan(ap)
    if not valid.any(axis=1).all():
        raise ValueError("ap: a run in which no person has a value, expected at least one in each")
    values = np.where(valid, ap, 0.0)
    means = values.sum(axis=1) / valid.sum(axis=1)
    centre = float(means.mean())

    rng = np.random.default_rng(seed)
    rows = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), DRAWS)
    drawn = np.empty(DRAWS)
    counts = _person_counts(persons, seed)
    for start in range(0, DRAWS, 500):  # in chunks: 4,000 draws of 10,034 persons would need much memory
        part = slice(start, start + 500)
        columns = counts[part].astype(np.float64)
        weight = columns @ valid.T  # (500, S)
        fallback = np.broadcast_to(means, weight.shape).copy()
        of_seed = np.divide(columns @ values.T, weight, out=fallback, where=weight > 0)
        drawn[part] = (rows[part] * of_seed).sum(axis=1) / rows[part].sum(axis=1)
    alpha = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [alpha, 1 - alpha]) - centre
    of_persons = np.nanmean(np.where(valid, ap - means[:, None], np.nan)[:, valid.any(axis=0)], axis=0)
    scale = _t_over_normal(means, of_persons)
    return Estimate(centre, centre + scale * float(low), centre + scale * float(high), seeds, persons)


@lru_cache(maxsize=4)  # a page needs many intervals over the same persons, and this is most of their cost
def _person_counts(persons: int, seed: int) -> UInt16[np.ndarray, "draws {persons}"]:
    """How often each draw of the bootstrap contains each person."""
    rng = np.random.default_rng([seed, persons])
    pieces = [rng.multinomial(max(persons - 1, 1), np.full(persons, 1 / persons), 500) for _ in range(DRAWS // 500)]
    return np.concatenate([piece.astype(np.uint16) for piece in pieces])


def difference(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], seed: int = 0) -> Estimate:
    """The paired difference a − b: row s of both tables is the same seed and split, column p the same person.

    Raises:
        ValueError: tables of different shapes.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if a.shape != b.shape:
        raise ValueError(f"ap: tables of shapes {a.shape} and {b.shape}, expected the same seeds and persons in both")
    return estimate(a - b, seed)


def _t_over_normal(of_seeds: Float[np.ndarray, " S"], of_persons: Float[np.ndarray, " P"]) -> float:
    """The ratio of t to normal quantile, with the degrees of freedom of a sum of two variances (Satterthwaite 1946)."""
    from scipy.stats import norm, t

    parts = [(np.var(x, ddof=1) / len(x), len(x) - 1) for x in (of_seeds, of_persons) if len(x) > 1]
    total = sum(v for v, _ in parts)
    if total == 0:
        return 1.0
    freedom = total**2 / sum(v**2 / d for v, d in parts)
    quantile = (1 + LEVEL) / 2
    return float(t.ppf(quantile, freedom) / norm.ppf(quantile))
