"""Explores one clip: corrupts its faces, removes modalities, and gives the answers of trained models.

The model gets the same input as in ``famf predict``: N evenly spaced faces of the clip. Only these faces are
explored; in a short clip some are used several times.

Synthetic faces are blurred and occluded by the generator, with all else unchanged. A real face is replaced by a
training face that is labelled as blurred or occluded, if the dataset has such labels. Poor faces and strangers replace
faces as in ``probes.ruined``, which calls them ruined.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int, Int64
from torch import Tensor

from famf_lib.data import datasets, synthetic
from famf_lib.data.clipset import ClipSet
from famf_lib.data.sampling import Batch
from famf_lib.data.splits import Split
from famf_lib.data.traits import SIGNS, traits
from famf_lib.experiments import results, run_store
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, TABLE_1, Variant
from famf_lib.experiments.probes import POOREST, RUIN
from famf_lib.experiments.run_store import Run, RunSpec, threads
from famf_lib.experiments.settings import row_settings
from famf_lib.models import famf
from famf_lib.models.aggregation import AttentionVLAD
from famf_lib.training import checkpoint
from famf_lib.training.prediction import evenly
from famf_lib.training.train import pick_device

CLUSTERS = (2, 4, 8, 16)  # numbers of clusters that FAMF is offered with
FAMF_ROW = "K = 8"  # FAMF with the paper's number of clusters
OTHERS = tuple(variant.label for variant in TABLE_1 if variant != FAMF)
"""The rows of Table 1 that FAMF can be compared with."""
CLIPS, LEAST = 12, 6  # number of clips to choose from, and their least number of faces
KINDS = {
    "blur": "blurred",
    "occlusion": "occluded",
    "poor": "replaced by poor faces",
    "stranger": "replaced by strangers",
}
"""How faces are corrupted, in words."""
REGENERATED = ("blur", "occlusion")  # kinds that the generator applies to synthetic faces


@dataclass(frozen=True)
class Corruption:
    """How the faces of a clip are corrupted.

    Args:
        kind: one of KINDS.
        share: the share of corrupted faces, 0 to 1. The faces of a smaller share are among those of a larger one.
        strength: of the blur or occlusion of synthetic faces, 0 to 1; a face that is worse already is unchanged.
        person: who replaces the faces if the kind is "stranger"; any stranger if empty.

    Raises:
        ValueError: one sentence with the field, what was found and what was expected.
    """

    kind: str = "blur"
    share: float = 0.0
    strength: float = 1.0
    person: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} found, expected one of {', '.join(KINDS)}")
        for name in ("share", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} found, expected a number from 0 to 1")


ORIGINAL = Corruption()


@dataclass(frozen=True, eq=False)
class Answer:
    """The output of a model for a clip. Row t of the attention matrix has the weights with which token t attends.

    ``phi`` is φ of each cluster and ``load`` the mean assignment α of the faces to it, so that the weights of the faces
    have the mean Σ φ · load. Both are empty for a model that has no φ.
    """

    weights: Float32[np.ndarray, " n"]
    persons: Sequence[str]
    probabilities: Float32[np.ndarray, " C"]
    tokens: Sequence[str]
    attention: Float32[np.ndarray, "T T"]
    phi: Float32[np.ndarray, " K"]
    load: Float32[np.ndarray, " K"]

    def ranking(self, number: int = 5, person: str = "") -> list[tuple[int, str, float]]:
        """Rank, name and probability of the most probable persons; ``person`` is the last one if not among them."""
        order = np.argsort(-self.probabilities, kind="stable")
        lines = [(n, self.persons[i], float(self.probabilities[i])) for n, i in enumerate(order, start=1)]
        first, others = lines[:number], lines[number:]
        return first[: number - 1] + missed if (missed := [line for line in others if line[1] == person]) else first

    def probability(self, person: str) -> float:
        """The probability of a person."""
        return float(self.probabilities[self.persons.index(person)])

    def rank(self, person: str) -> int:
        """The rank of a person, from 1."""
        return int((self.probabilities > self.probability(person)).sum()) + 1


@dataclass(frozen=True, eq=False)
class Explored:
    """A clip as input of a model.

    Args:
        clip: its position in the ClipSet.
        rows: its n sampled faces, as positions among all faces, in the order of their frames.
        drawn: the N faces that the model gets, as positions in ``rows``.
        order: the position of each face in the order in which faces are corrupted.
        replacements: the training face that replaces each face, by kind or by name of a person.
        retake: generates the faces of a synthetic clip again.
    """

    clipset: ClipSet
    clip: int
    rows: Int[np.ndarray, " n"]
    drawn: Int64[Tensor, " N"]
    order: Int[np.ndarray, " n"]
    replacements: Callable[[str], Int[np.ndarray, " n"]]
    retake: synthetic.Retake | None = None

    @property
    def name(self) -> str:
        return str(self.clipset.clips["name"].iloc[self.clip])

    @property
    def person(self) -> str:
        return str(self.clipset.clips["person"].iloc[self.clip])

    @cached_property
    def modalities(self) -> dict[str, tuple[Float[Tensor, " Dm"], bool]]:
        """The vector of each modality, and whether the clip has it."""
        every = self.clipset.modalities.items()
        return {name: (m.vectors[self.clip].float(), bool(m.present[self.clip])) for name, m in every}

    def corrupted(self, how: Corruption) -> Bool[np.ndarray, " n"]:
        """Which faces are corrupted."""
        return self.order < round(how.share * len(self.order))

    def regenerates(self, how: Corruption) -> bool:
        """Whether corrupted faces are generated again instead of replaced."""
        return self.retake is not None and how.kind in REGENERATED

    def face_rows(self, how: Corruption) -> Int[np.ndarray, " n"]:
        """The faces that the model gets, as positions among all faces; regenerated ones keep theirs."""
        if self.regenerates(how) or not self.corrupted(how).any():
            return self.rows
        return np.where(self.corrupted(how), self.replacements(how.person or how.kind), self.rows)

    def degrees(self, how: Corruption) -> Float32[np.ndarray, " n"] | None:
        """The blur or occlusion of each face, 0 to 1; None if faces are not regenerated."""
        if not self.regenerates(how):
            return None
        own = self.retake.table[how.kind].to_numpy()[self._within]
        return np.where(self.corrupted(how), np.maximum(own, np.float32(how.strength)), own)

    def faces(self, how: Corruption) -> Float16[Tensor, "n D"]:
        """The vectors of the faces that the model gets."""
        if (degrees := self.degrees(how)) is None:
            return self._vectors(self.face_rows(how))
        of_clip = self.retake.table[how.kind].to_numpy().copy()
        of_clip[self._within] = degrees
        again = torch.from_numpy(self.retake.faces(**{how.kind: of_clip})[self._within])
        return torch.where(torch.from_numpy(self.corrupted(how))[:, None], again, self._vectors(self.rows))

    @property
    def _within(self) -> Int[np.ndarray, " n"]:
        """The sampled faces as positions among those of the clip."""
        return self.rows - int(self.clipset.offsets[self.clip])

    def _vectors(self, rows: Int[np.ndarray, " n"]) -> Float16[Tensor, "n D"]:
        return self.clipset.faces[torch.from_numpy(rows)]


@torch.inference_mode()
def ask(
    model: famf.FAMF, persons: Sequence[str], clip: Explored, how: Corruption = ORIGINAL, without: Sequence[str] = ()
) -> Answer:
    """The answer of a model to a clip with corrupted faces and without some modalities."""
    device = next(model.parameters()).device
    faces = clip.faces(how).to(device).float()  # (n, D)
    given = {name: clip.modalities[name] for name in model.config.modalities}
    batch = Batch(
        faces[clip.drawn.to(device)][None],  # (1, N, D)
        None,
        {name: vector[None].to(device) for name, (vector, _) in given.items()},
        {name: torch.tensor([has and name not in without], device=device) for name, (_, has) in given.items()},
    )
    with threads(1 if device.type == "cpu" else None):
        tokens = model.tokens(batch)  # (1, T, D)
        logits = model.classifier(model.fusion(tokens).flatten(1))
        weights = model.face_weights(Batch(faces[None], None, {}, {}))
        attention = model.fusion.attention(tokens)
        phi = load = faces.new_empty(0)
        if isinstance(model.aggregation, AttentionVLAD):
            phi = model.aggregation.cluster_attention()  # (K,)
            load = model.aggregation.assign(model.scaled(faces[None])).mean(dim=1)[0]
    weight, probability, matrix = (each[0].float().cpu().numpy() for each in (weights, logits.softmax(1), attention))
    return Answer(weight, persons, probability, model.token_names, matrix, phi.cpu().numpy(), load.cpu().numpy())


# --- what is explored ------------------------------------------------------------------------------------------------


class Explorer:
    """The clips of a dataset and the models trained on it: FAMF with each K in CLUSTERS, and the others of Table 1.

    A model is named by its row: "K = 4" for FAMF with 4 clusters, or "NetVLAD + MMA" and the like from Table 1. They
    are the book's runs, so stored ones are used.

    Args:
        dataset: a name that ``famf data list`` shows.
        profile: quick, standard or paper.

    Raises:
        DatasetAbsent: the dataset is not on this machine.
        ValueError: the name of the dataset or the profile is unknown.
    """

    def __init__(self, dataset: str = "synthetic", profile: str = "standard", seed: int = 1, device: str = "auto"):
        self.dataset, self.seed, self.device = dataset, seed, pick_device(device)
        self.source, self.settings = datasets.get(dataset), row_settings(dataset, profile)
        self.clipset: ClipSet = datasets.load(dataset, profile)
        self._models: dict[str, famf.FAMF] = {}
        self._originals: dict[tuple[int, str], Answer] = {}

    def spec(self, row: str = FAMF_ROW) -> RunSpec:
        """The run of a row.

        Raises:
            ValueError: there is no such row.
        """
        rows: dict[str, Variant] = {v.label: v for v in (*TABLE_1, *EXPERIMENTS["clusters"].variants)}
        if row not in rows:
            raise ValueError(f"row: {row!r} is not known, expected one of {', '.join(rows)}")
        variant = rows[row]
        return variant.spec(self.source, self.settings.of(variant.tuned_as or variant.label), self.seed)

    def is_trained(self, row: str) -> bool:
        """Whether the model of a row is trained."""
        return row in self._models or run_store.find(self.spec(row), self.clipset, self.device) is not None

    def run(self, row: str = FAMF_ROW, report: Callable[[int, float], None] | None = None) -> Run:
        """The run of a row, trained if it is not stored; shows a progress bar unless ``report`` is given."""
        spec = self.spec(row)
        if report is not None:
            return run_store.get_or_train(spec, self.clipset, self.device, report)
        return results.run({row: spec}, self.clipset, self.device, row)[row]

    def model(self, row: str = FAMF_ROW, report: Callable[[int, float], None] | None = None) -> famf.FAMF:
        """The model of a row, trained if need be; ``report`` is called with each epoch and its loss."""
        if row not in self._models:
            self._models[row] = checkpoint.open(self.run(row, report).file, self.device).model
        return self._models[row]

    def ask(
        self, clip: Explored, how: Corruption = ORIGINAL, without: Sequence[str] = (), row: str = FAMF_ROW
    ) -> Answer:
        """``ask`` with the model of a row."""
        return ask(self.model(row), self.split.persons, clip, how, without)

    def original(self, clip: Explored, row: str = FAMF_ROW) -> Answer:
        """The cached answer to the unchanged clip."""
        if (key := (clip.clip, row)) not in self._originals:
            self._originals[key] = self.ask(clip, row=row)
        return self._originals[key]

    @cached_property
    def split(self) -> Split:
        """The training clips and the ranked clips of the models."""
        return self.run().split(self.clipset)

    @cached_property
    def persons(self) -> list[str]:
        """The persons of ``clips``; each can replace faces."""
        return list(dict.fromkeys(clip.person for clip in self.clips))

    @cached_property
    def clips(self) -> list[Explored]:
        """Random ranked clips with LEAST faces or more, each of a different person.

        Those that FAMF answers correctly come first.

        Raises:
            ValueError: there is no such clip.
        """
        known = self.split.gallery[self.split.gallery_classes >= 0].numpy()
        counts = self.clipset.counts.numpy()[known]
        fit = known[counts >= LEAST] if (counts >= LEAST).any() else known[counts > 0]
        if not len(fit):
            raise ValueError(
                f"{self.dataset}: no ranked clip of a known person with a face found, expected one to explore"
            )
        shuffled = np.random.default_rng([self.seed, RUIN]).permutation(fit)
        _, first = np.unique(self.clipset.labels.numpy()[shuffled], return_index=True)
        chosen = [self.clip(int(clip)) for clip in shuffled[np.sort(first)[:CLIPS]]]
        return sorted(chosen, key=lambda clip: self.original(clip).rank(clip.person) > 1)

    def clip(self, which: int | str) -> Explored:
        """A clip by its position in the ClipSet or by its name.

        Raises:
            ValueError: there is no such clip, or it has no face or no known person.
        """
        table = self.clipset.clips
        if isinstance(which, str):
            at = np.flatnonzero(table["name"] == which)
            if not len(at):
                raise ValueError(f"clip: {which!r} is not known, expected a name such as {table['name'].iloc[0]!r}")
            which = int(at[0])
        name, person = str(table["name"].iloc[which]), table["person"].iloc[which]
        if person not in self.split.persons:
            raise ValueError(f"clip: {name!r} shows no person that the model knows, expected a clip of a known person")
        if not int(self.clipset.counts[which]):
            raise ValueError(f"clip: {name!r} has no face, expected a clip with at least one")
        rows, place = np.unique(self._drawn[which], return_inverse=True)
        rng = np.random.default_rng([self.seed, RUIN, which])
        order = rng.permutation(len(rows))
        draws = rng.random(len(rows))

        def replacements(of: str) -> Int[np.ndarray, " n"]:
            pool = self._pool(of, person)
            return pool[(draws * len(pool)).astype(int)]

        retake = synthetic.Retake(self._generated, which) if self._generated else None
        drawn = torch.from_numpy(place.reshape(-1))
        return Explored(self.clipset, which, rows, drawn, order, replacements, retake)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kinds of corruption that these data allow, with their names."""
        possible = KINDS if self._generated else [*self._traits.columns.intersection(REGENERATED), "poor", "stranger"]
        return {kind: KINDS[kind] for kind in KINDS if kind in possible}

    @cached_property
    def _generated(self) -> synthetic.SyntheticConfig | None:
        """The configuration of the generator, if the data are synthetic."""
        if self.dataset != "synthetic":
            return None
        return synthetic.SyntheticConfig(**{k: v for k, v in self.clipset.info.items() if k != "source"})

    @cached_property
    def _drawn(self) -> Int[np.ndarray, "V N"]:
        """The faces of every clip that a model gets, as in ``famf predict``, as positions among all faces."""
        clipset = self.clipset
        return (clipset.offsets[:-1, None] + evenly(clipset.counts, self.spec().evaluation.faces)).numpy()

    @cached_property
    def _traits(self) -> pd.DataFrame:
        return traits(self.clipset)

    @cached_property
    def _training_faces(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """The faces of the training clips and their labels."""
        counts = self.clipset.counts.numpy()
        trained = np.zeros(len(self.clipset), dtype=bool)
        trained[self.split.train.numpy()] = True
        rows = np.flatnonzero(np.repeat(trained, counts))
        return rows, np.repeat(self.clipset.labels.numpy(), counts)[rows]

    def _pool(self, of: str, person: str) -> Int[np.ndarray, " m"]:
        """The training faces that can replace those of a person."""
        rows, labels = self._training_faces
        if of not in KINDS:
            return rows[labels == self._label(of)]
        if of == "stranger":
            return rows[labels != self._label(person)]
        trait = "quality" if of == "poor" else of
        value = SIGNS[trait] * self._traits[trait].to_numpy()[rows]
        return rows[value <= np.nanquantile(value, POOREST)]

    def _label(self, person: str) -> int:
        if person not in self.split.persons:
            raise ValueError(f"person: {person!r} is not known, expected a person that the model was trained on")
        return self.clipset.persons.index(person)
