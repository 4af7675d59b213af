"""Which clips train and which are ranked.

Three protocols:

given    the split that the source fixes (iQIYI-VID: train and val; noise clips stay in the gallery, Sec. 4.1)
groups   each person's films (or programmes) are dealt out: no film of a person is on both sides. A person needs two
random   each person's clips are dealt out: scenes leak from one side to the other

Hyper-parameters are chosen on the part ``tune``, whose gallery is made of *development* films (clips, where clips are
dealt out). Which ones is fixed once for all seeds, and the part ``report`` always trains on them: what is reported is
never a clip that something was chosen on, whatever the seeds.
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
HELD_OUT = 1 / 3  # the share of a person's films or clips that goes to the gallery
DEVELOPMENT = 2010_09290  # seed of the development films: a constant, so that no run's seed moves them


class SplitError(ValueError):
    """A ClipSet that cannot be split as asked."""


@dataclass(frozen=True)
class Split:
    """Clips by their position in the ClipSet, with classes 0 … C - 1 in the order of ``persons``.

    In the gallery the class -1 stands for a noise clip, or one of a person without a training clip: it is ranked, and
    is nobody's.
    """

    persons: list[str]
    train: Int64[Tensor, " T"]
    train_classes: Int64[Tensor, " T"]
    gallery: Int64[Tensor, " G"]
    gallery_classes: Int64[Tensor, " G"]


def split(clipset: ClipSet, protocol: Protocol, seed: int = 0, part: Part = "report") -> Split:
    """Splits the clips. ``seed`` decides who goes where; when ``given`` is reported there is nothing left to decide.

    Raises:
        SplitError: the source fixes no split, or no person has enough films or clips for two sides.
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
    # For two sides a person needs two units, and a third one to take part in tuning; a given split keeps its own side.
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
    codes = pd.Index(persons).get_indexer(clips["person"])  # -1 for whoever is none of them
    return Split(
        persons,
        torch.from_numpy(train),
        torch.from_numpy(codes[train]),
        torch.from_numpy(gallery),
        torch.from_numpy(codes[gallery]),
    )


def _units(person: pd.Series, unit: pd.Series, least: int) -> pd.Series:
    """The number of units of the person, for every (person, unit) of the persons who have ``least`` or more; sorted."""
    pairs = pd.DataFrame({"person": person, "unit": unit}).drop_duplicates().sort_values(["person", "unit"])
    number = pairs.groupby("person")["unit"].transform("size")
    return pd.Series(number.to_numpy(), pd.MultiIndex.from_frame(pairs))[number.to_numpy() >= least]


def _draw(units: pd.Series, rng: np.random.Generator, least: int) -> pd.Series:
    """A third of each person's units, one or more, of those persons who have ``least`` or more."""
    shuffled = units[units >= least].sample(frac=1, random_state=rng)
    place = shuffled.groupby(level=0).cumcount()
    return shuffled[place < (shuffled * HELD_OUT).round().clip(lower=1)]


def _rows(units: pd.Series, person: pd.Series, unit: pd.Series) -> np.ndarray:
    """Which clips belong to one of the (person, unit)."""
    return pd.MultiIndex.from_arrays([person, unit]).isin(units.index)
