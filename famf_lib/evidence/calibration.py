"""Calibration and selective prediction: confidence against accuracy, and the gain from rejecting uncertain clips.

Tables of clips have one row per answer of a run, with the columns seed, unit, confidence, right. ``unit`` is the unit
of resampling: the person, or for a noise clip a number of its own (-1, -2, … in the order of the gallery).
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from famf_lib.evidence.bootstrap import Estimate, estimate
from famf_lib.experiments.results import Results

BINS = 10
COVERAGES = tuple(n / 10 for n in range(1, 11))  # where the risk-coverage curve has an interval
WANTED = 0.99  # the accuracy that a user may want
KNOWN, ALL = "known persons", "with noise clips"


def clips_by_row(results: Results) -> dict[tuple[str, str], pd.DataFrame]:
    """The clips of each row by (row, KNOWN or ALL); without ALL if the gallery has no noise clips."""
    table = results.answers["answers"]
    noise = table["person"] < 0
    number = noise.groupby([table["label"], table["seed"]]).cumsum()
    clips = table.assign(unit=table["person"].where(~noise, -number))[["label", "seed", "unit", "confidence", "right"]]
    found = {}
    for label in results.labels:
        of = clips[clips["label"] == label].drop(columns="label").reset_index(drop=True)
        found[label, KNOWN] = of[of["unit"] >= 0].reset_index(drop=True)
        if (of["unit"] < 0).any():
            found[label, ALL] = of
    return found


def share(clips: pd.DataFrame, value: pd.Series, among: pd.Series | None = None) -> Estimate:
    """The mean of a value over all or some clips, with the interval of ``bootstrap.estimate``.

    A mean over clips is a ratio of two sums over persons and seeds, R = Σ y / Σ n. Its Taylor linearisation (as in
    survey sampling), R + (y − R n) / mean n, is resampled; its mean is R.

    Raises:
        ValueError: there is no clip.
    """
    seeds = clips["seed"].unique()
    if among is not None:
        clips, value = clips[among], value[among]
    if clips.empty:
        raise ValueError("clips: none, expected one or more")
    of = value.astype(float).groupby([clips["seed"], clips["unit"]])
    y, n = (t.unstack(fill_value=0).reindex(seeds, fill_value=0).to_numpy(dtype=float) for t in (of.sum(), of.size()))
    ratio = y.sum() / n.sum()
    return estimate(ratio + (y - ratio * n) / n.mean())


def of_right(clips: pd.DataFrame, among: pd.Series | None = None) -> Estimate:
    """The share of right answers, its interval clipped to 0..1. Raises the errors of ``share``."""
    return within(share(clips, clips["right"], among))


def within(e: Estimate) -> Estimate:
    """An estimate with its interval clipped to 0..1."""
    return replace(e, low=max(e.low, 0.0), high=min(e.high, 1.0))


# --- calibration -----------------------------------------------------------------------------------------------------


def bins_of(clips: pd.DataFrame, bins: int = BINS) -> pd.Series:
    """The bin of each clip, from 0. Bins have about equal counts over all seeds; equal confidences share a bin."""
    edges = np.unique(np.quantile(clips["confidence"], np.arange(1, bins) / bins))
    return pd.Series(np.searchsorted(edges, clips["confidence"], side="left"), clips.index)


def reliability(clips: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """One line per bin: clips (of all seeds), mean confidence, and the share of right answers with its interval."""
    place = bins_of(clips, bins)
    lines = []
    for number in sorted(place.unique()):
        inside = place == number
        right = of_right(clips, inside)
        confidence = clips["confidence"][inside].mean()
        lines.append((number + 1, int(inside.sum()), confidence, right.mean, right.low, right.high))
    return pd.DataFrame(lines, columns=["bin", "clips", "confidence", "right", "low", "high"])


def calibration_error(clips: pd.DataFrame, bins: int = BINS) -> Estimate:
    """The expected calibration error: |share right − mean confidence| of each bin, averaged over clips.

    The interval treats the bins and the sign of each bin's gap as fixed.
    """
    gap = clips["right"].astype(float) - clips["confidence"]
    side = np.sign(gap.groupby(bins_of(clips, bins)).transform("mean"))
    return within(share(clips, side * gap))


def overconfidence(clips: pd.DataFrame) -> Estimate:
    """Mean confidence minus the share of right answers."""
    return share(clips, clips["confidence"] - clips["right"].astype(float))


# --- selective prediction --------------------------------------------------------------------------------------------


def refused_last(clips: pd.DataFrame) -> pd.DataFrame:
    """The clips of each run in descending confidence, with the columns wrong, coverage and risk.

    ``coverage`` is the share of the run's clips up to this one, ``risk`` the share of wrong answers among them. Clips
    of equal confidence share their errors, so their order does not matter.
    """
    wrong = 1 - clips["right"].astype(float)
    clips = clips.assign(wrong=wrong.groupby([clips["seed"], clips["confidence"]]).transform("mean"))
    clips = clips.sort_values(["seed", "confidence"], ascending=[True, False], ignore_index=True)
    of_run = clips.groupby("seed")
    rank = of_run.cumcount() + 1
    return clips.assign(coverage=rank / of_run["seed"].transform("size"), risk=of_run["wrong"].cumsum() / rank)


def risk_coverage(clips: pd.DataFrame, points: int = 100) -> pd.DataFrame:
    """The risk-coverage curve over all runs. Columns: coverage, risk, and at ``COVERAGES`` low and high.

    The interval treats the threshold that gives this coverage in each run as fixed.
    """
    ranked = refused_last(clips)
    lines = []
    for coverage in np.arange(1, points + 1) / points:
        among = ranked["coverage"] <= coverage + 1e-9
        if not among.any():
            continue
        e = within(share(ranked, ranked["wrong"], among)) if np.isclose(coverage, COVERAGES).any() else None
        lines.append((coverage, ranked["wrong"][among].mean(), e.low if e else np.nan, e.high if e else np.nan))
    return pd.DataFrame(lines, columns=["coverage", "risk", "low", "high"])


def area(clips: pd.DataFrame) -> Estimate:
    """The area under the risk-coverage curve: the mean over the clips of a run of the risk at the clip's coverage.

    The interval resamples each clip's influence: the risk at its own coverage plus its contribution to the risk at all
    larger coverages. The mean of the influences is the area.
    """
    ranked = refused_last(clips)
    rank = ranked.groupby("seed").cumcount() + 1
    # Σ over later ranks k of (wrong − risk_k) / k, as two sums from the end of each run.
    ones, risks = (t.iloc[::-1].groupby(ranked["seed"]).cumsum() for t in (1 / rank, ranked["risk"] / rank))
    return within(share(ranked, ranked["risk"] + ranked["wrong"] * ones - risks))


def kept(clips: pd.DataFrame, wanted: float = WANTED) -> pd.Series:
    """Which clips are answered if this share of the answers should be right.

    In each run, the clips of every second person set the threshold for the clips of the others, and vice versa: the
    lowest threshold that gives this share.
    """
    answered = pd.Series(False, clips.index)
    half = clips["unit"] % 2
    for (seed, side), rows in clips.groupby([clips["seed"], half]).groups.items():
        others = clips[(clips["seed"] == seed) & (half != side)]
        answered[rows] = clips.loc[rows, "confidence"] >= threshold(others, wanted)
    return answered


def threshold(clips: pd.DataFrame, wanted: float) -> float:
    """The lowest confidence at or above which this share of the clips is right; ∞ if there is none."""
    of = clips.groupby("confidence")["right"].agg(["sum", "size"]).iloc[::-1].cumsum()  # equal confidences together
    enough = of.index[of["sum"] >= wanted * of["size"] - 1e-9]
    return float(enough.min()) if len(enough) else np.inf
