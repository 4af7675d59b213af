"""How sure we are: intervals over seeds and persons at once, for a mean AP and for a paired difference of two.

The AP of P persons in S runs is a table (S, P). Both sides are a sample: another seed (with another deal of films)
and other persons would have given other numbers. The *pigeonhole bootstrap* (Owen 2007) resamples rows and columns
independently. Two corrections make it right for five seeds: drawing n − 1 of n makes the variance unbiased (McCarthy
1969), and the quantiles are stretched from the normal's to Student's t, with Satterthwaite's degrees of freedom.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt16

LEVEL = 0.95
DRAWS = 4_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval (95 %), and how many seeds and persons it rests on."""

    mean: float
    low: float
    high: float
    seeds: int
    persons: int


def estimate(ap: Float[np.ndarray, "*S P"], seed: int = 0) -> Estimate:
    """The mean over seeds of the mean over persons, with its interval, from AP (S, P) or, of one seed, (P,).

    A person without a clip in a run's gallery (NaN) is left out of that run. With a single seed the interval speaks of
    other persons only.

    Raises:
        ValueError: a run in which no person has a value.
    """
    ap = np.atleast_2d(np.asarray(ap, dtype=np.float64))
    seeds, persons = ap.shape
    there = ~np.isnan(ap)
    if not there.any(axis=1).all():
        raise ValueError("ap: a run in which no person has a value, expected at least one in each")
    values = np.where(there, ap, 0.0)
    means = values.sum(axis=1) / there.sum(axis=1)
    centre = float(means.mean())

    rng = np.random.default_rng(seed)
    rows = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), DRAWS)
    drawn = np.empty(DRAWS)
    of_persons = _persons_drawn(persons, seed)
    for start in range(0, DRAWS, 500):  # in pieces: 10,034 persons × 4,000 draws would not be small
        part = slice(start, start + 500)
        columns = of_persons[part].astype(np.float64)
        weight = columns @ there.T  # (500, S)
        of_seed = np.divide(
            columns @ values.T, weight, out=np.broadcast_to(means, weight.shape).copy(), where=weight > 0
        )
        drawn[part] = (rows[part] * of_seed).sum(axis=1) / rows[part].sum(axis=1)
    alpha = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [alpha, 1 - alpha]) - centre
    stretch = _stretch(means, np.nanmean(np.where(there, ap - means[:, None], np.nan)[:, there.any(axis=0)], axis=0))
    return Estimate(centre, centre + stretch * float(low), centre + stretch * float(high), seeds, persons)


@lru_cache(maxsize=4)  # a page asks for many intervals over the same persons, and this is most of their cost
def _persons_drawn(persons: int, seed: int) -> UInt16[np.ndarray, "draws {persons}"]:
    """How often each person is drawn in each draw."""
    rng = np.random.default_rng([seed, persons])
    pieces = [rng.multinomial(max(persons - 1, 1), np.full(persons, 1 / persons), 500) for _ in range(DRAWS // 500)]
    return np.concatenate([piece.astype(np.uint16) for piece in pieces])


def difference(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], seed: int = 0) -> Estimate:
    """a − b, paired: row s of both tables is the same seed and split, column p the same person.

    Raises:
        ValueError: tables of different shapes.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if a.shape != b.shape:
        raise ValueError(f"ap: tables of shapes {a.shape} and {b.shape}, expected the same seeds and persons in both")
    return estimate(a - b, seed)


def _stretch(of_seeds: Float[np.ndarray, " S"], of_persons: Float[np.ndarray, " P"]) -> float:
    """t over normal quantile, with the degrees of freedom of a sum of two variances (Satterthwaite 1946)."""
    from scipy.stats import norm, t

    parts = [(np.var(x, ddof=1) / len(x), len(x) - 1) for x in (of_seeds, of_persons) if len(x) > 1]
    total = sum(v for v, _ in parts)
    if total == 0:
        return 1.0
    freedom = total**2 / sum(v**2 / d for v, d in parts)
    quantile = (1 + LEVEL) / 2
    return float(t.ppf(quantile, freedom) / norm.ppf(quantile))
