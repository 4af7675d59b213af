"""Splits clips into training clips and the gallery that is ranked.

Three protocols:

given    the split of the source (iQIYI-VID: train and val; noise clips stay in the gallery, Sec. 4.1)
groups   each person's films (or programmes) are split: no film of a person is on both sides. A person needs two
random   each person's clips are split: scenes leak from one side to the other

Hyper-parameters are chosen on the part ``tune``, whose gallery consists of *development* films (or clips). They are the
same for all seeds, and the part ``report`` always trains on them, so that no reported clip was used to choose anything.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from famf_lib.data.clipset import ClipSet

Protocol = Literal["given", "groups", "random"]
Part = Literal["report", "tune"]
HELD_OUT = 1 / 3  # share of a person's films or clips that go to the gallery
DEVELOPMENT = 2010_09290  # seed of the development films: a constant, so that no run's seed moves them


class SplitError(ValueError):
    """The ClipSet cannot be split by this protocol."""


@dataclass(frozen=True)
class Split:
    """Positions of clips in the ClipSet, and their classes 0 … C − 1 in the order of ``persons``.

    Class -1 in the gallery is a noise clip, or a clip of a person without training clips: it is ranked as a negative.
    """

    persons: list[str]
    train: Int64[Tensor, " T"]
    train_classes: Int64[Tensor, " T"]
    gallery: Int64[Tensor, " G"]
    gallery_classes: Int64[Tensor, " G"]


def split(clipset: ClipSet, protocol: Protocol, seed: int = 0, part: Part = "report") -> Split:
    """Splits the clips at random by ``seed``, which has no effect if the protocol is ``given`` and the part ``report``.

    Raises:
        SplitError: the source has no split, or no person has enough films or clips for two sides.
    """
    clips = clipset.clips[["person", "split", "group"]]
    usable = clips["person"].notna()
    if protocol == "given":
        if clips["split"].isna().all():
            raise SplitError("split: the source fixes no train and val, expected the protocol 'groups' or 'random'")
        usable &= clips["split"] == "train"
    elif protocol == "groups":
        usable &= clips["group"].notna()
    unit = clips["group"] if protocol == "groups" else pd.Series(clips.index, clips.index)
    # A person needs two units for two sides, and a third one to take part in tuning; one less with a given split.
    units = _units(clips["person"][usable], unit[usable], least=1 if protocol == "given" else 2)
    tuning = _draw(units, np.random.default_rng(DEVELOPMENT), least=2 if protocol == "given" else 3)
    if part == "tune":
        held = tuning
    elif protocol == "given":
        held = units.iloc[:0]
    else:
        held = _draw(units[~units.index.isin(tuning.index)], np.random.default_rng(seed), least=1)
    out = _rows(held, clips["person"], unit)
    train = np.flatnonzero(usable & clips["person"].isin(units.index.get_level_values(0)) & ~out)
    given = protocol == "given" and part == "report"
    gallery = np.flatnonzero(clips["split"] == "val" if given else usable & out)
    if len(train) == 0 or len(gallery) == 0:
        raise SplitError(f"{protocol}: {len(train)} training and {len(gallery)} gallery clips, expected some of each")
    persons = sorted(clips["person"].iloc[train].unique())
    codes = pd.Index(persons).get_indexer(clips["person"])  # -1 for all others
    return Split(
        persons,
        torch.from_numpy(train),
        torch.from_numpy(codes[train]),
        torch.from_numpy(gallery),
        torch.from_numpy(codes[gallery]),
    )


def _units(person: pd.Series, unit: pd.Series, least: int) -> pd.Series:
    """For every (person, unit) of persons with ``least`` units or more, the person's number of units; sorted."""
    pairs = pd.DataFrame({"person": person, "unit": unit}).drop_duplicates().sort_values(["person", "unit"])
    number = pairs.groupby("person")["unit"].transform("size")
    return pd.Series(number.to_numpy(), pd.MultiIndex.from_frame(pairs))[number.to_numpy() >= least]


def _draw(units: pd.Series, rng: np.random.Generator, least: int) -> pd.Series:
    """Draws a third, at least one, of the units of each person with ``least`` units or more."""
    shuffled = units[units >= least].sample(frac=1, random_state=rng)
    place = shuffled.groupby(level=0).cumcount()
    return shuffled[place < (shuffled * HELD_OUT).round().clip(lower=1)]


def _rows(units: pd.Series, person: pd.Series, unit: pd.Series) -> np.ndarray:
    """Marks the clips that belong to one of the (person, unit) pairs."""
    return pd.MultiIndex.from_arrays([person, unit]).isin(units.index)
