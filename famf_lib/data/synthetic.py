"""Generates clips of synthetic persons in the shape of iQIYI-VID-2019, scaled down, from a seed.

The constants below are of three kinds:

published  counts and ranges of iQIYI-VID-2019 (``famf_lib.paper.IQIYI``)
measured   how quality shows in the vectors of real faces: IMFDB with an ArcFace network, ``benchmarks/imfdb_shape.py``
assumed    what nobody published, such as how often the face of another person is in the clip

Only ``identity_noise``, which sets the difficulty, was fitted to the result of a method. Every part draws from its own
random stream, named after it, so that a new part leaves the others unchanged.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float16, Float32, Int64
from scipy import stats
from scipy.special import expit, logit

from famf_lib.data.clipset import ClipSet
from famf_lib.paper import IQIYI
from famf_lib.support.fingerprint import source_fingerprint
from famf_lib.support.progress import progress as progress_bar

MODALITIES = ("head", "body", "audio", "text")

# --- published: counts and ranges ------------------------------------------------------------------------------------

# Clips per person: a rounded log-normal, (mean, deviation) of the logarithm fitted to the published minimum, median,
# mean, maximum and number of persons with a single clip.
TRAIN_CLIPS = (1.36, 0.93)
VAL_CLIPS = (1.08, 0.922)
NOISE_SHARE = IQIYI["noise_share"]  # of the validation gallery
NO_FACE_SHARE = 1 - IQIYI["train_clips_with_face"] / IQIYI["train_clips"]
FACES_MEAN = IQIYI["faces_a_clip_mean"]  # of a clip with faces
FACES_GAMMA = 1.7  # shape of the gamma distribution: 1 clip in 80 has more than 100 faces
QUALITY_CENTRE, QUALITY_SPREAD = IQIYI["quality"]["centre"], 23.0  # five deviations reach from -35 to 195

# --- measured on IMFDB, by benchmarks/imfdb_shape.py: 28,235 faces, 2,412 clips, 100 persons, D = 128 -----------------

IMFDB_BY_FIFTH = {  # by fifths of the norm, lowest first; columns of quality.by_fifth
    "norm": (0.481, 0.749, 0.996, 1.178, 1.378),
    "cos_person": (0.139, 0.247, 0.396, 0.502, 0.606),
    "same_clip": (0.419, 0.279, 0.338, 0.454, 0.575),
    "same_group": (0.384, 0.234, 0.297, 0.419, 0.576),
    "same_person": (0.346, 0.171, 0.217, 0.321, 0.474),
    "different": (0.321, 0.107, 0.063, 0.062, 0.082),
}
IMFDB_WHO_IS_IT = (0.12, 0.39, 0.76, 0.94, 0.98)  # quality.who_is_it, by the same fifths
IMFDB_WITHIN_CLIP = {"between clips": 0.31, "neighbours": 0.45}  # of the log norm
IMFDB_DIMENSION = 35.2  # effective dimension of the 100 persons' mean directions

# Fitted to that table by least squares, with the same script. A face of confidence s has the unit vector
#     √PERSON ρ person + √(PROGRAMME ρ) look + √CLIP clip + √(COMMON ρ) common + κ poor + η noise
# with ρ = σ(RHO[0] + RHO[1] s), κ = KAPPA[0] σ(-KAPPA[1] (s + KAPPA[2])), and η² what is left to 1.
PERSON, PROGRAMME, CLIP, COMMON = 0.501, 0.125, 0.034, 0.093
RHO = (0.306, 1.193)
KAPPA = (0.705, 2.742, 0.783)
NORM = (0.43, 0.99)  # norm = NORM_MOST σ(NORM[0] + NORM[1] s)
NORM_MOST = 1.63 * 12.0  # 1.63 medians on IMFDB; with a median of 12 the norms are the published "about 5 to 20"
# Set by hand so that these data, measured in the same way, agree with IMFDB.
QUALITY_CLIP, QUALITY_SHOT = 0.28, 0.34  # shares of variance: IMFDB_WITHIN_CLIP
SPECTRUM = 5.0  # eigenvalue i of identities ∝ 1 / (i + SPECTRUM): IMFDB_DIMENSION
POOR_IN_COMMON = 0.9  # the cause hardly matters: dark, small and turned faces have cosines of .86 to .95
YAW_SHIFT = 0.05  # mean distance of left and right profiles: 0.07 to 0.09

# --- difficulty: the one number fitted to a result -------------------------------------------------------------------

# Everything in a vector except the person is multiplied by this. 1 is IMFDB's own proportion; to within a tenth it also
# brings the official baseline (NetVLAD + MMA) to its published mAP, 0.8246 (benchmarks/calibrate_synthetic.py). It was
# not adjusted for any other result.
IDENTITY_NOISE = 1.0

# --- assumed: plausible for films, published nowhere -----------------------------------------------------------------

CONFIDENCE = 0.9  # correlation of the confidence s of the face network with the quality score
STRANGERS = 0.7  # of the noise clips show a stranger, who is none of the persons; the others nobody for long
CLIPS_PER_STRANGER = 3
CLIPS_PER_PROGRAMME = 40
NEW_PROGRAMME = 0.35  # chance that a further clip of a person is from a further programme
SHARED_PROGRAMME = 0.5  # validation clips from a programme in which the person has a training clip
SHOTS_MORE, SHOTS_CHANCE = 3, 0.35  # a clip has 1 + Binomial(3, 0.35) shots
BYSTANDER, BYSTANDER_SHOT, BYSTANDER_FACE = 0.35, 0.6, 0.4  # chance per clip, then per shot, then per face
PASSER_BY = 0.02  # share of faces of people who are seen once
TOGETHER = 0.7  # chance that a bystander's face is in the same frame as the face before it
SMALLER = {"bystander": 0.7, "passer-by": 1.2}  # deviations by which these faces are smaller
# Latent variables: mean and deviation of the logit, and their weight in the quality (the squares add up to 1).
LATENTS = {"blur": (-1.2, 1.2), "darkness": (-1.2, 1.2), "occlusion": (-3.0, 1.8), "size": (0.0, 1.0)}
WEIGHTS = {"blur": 0.45, "darkness": 0.40, "occlusion": 0.35, "size": 0.60, "yaw": 0.40}
YAW_SPREAD = 30.0  # degrees
FRAME = (1920, 1080)
BOX = (24.0, 480.0)  # heights of the smallest and the largest face, pixels
PRESENT = {"head": 0.97, "body": 0.93, "audio": 0.92, "text": 0.20}
OWN_VOICE = 0.85  # otherwise another person speaks, or the film is dubbed
# Shares of the squared length at identity_noise = 1: the person, then the programme or outfit, then noise.
HEAD = (0.50, 0.20, 0.30)  # here the first is the mean face of the clip, not the person
BODY = (0.10, 0.55, 0.35)
AUDIO = (0.35, 0.15, 0.50)
TEXT = (0.05, 0.30, 0.65)
NORMS = {"head": 12.0, "body": 24.0, "audio": 8.0, "text": 15.0}  # log-normal around these
NORM_SPREAD = 0.15

# What the fields of a configuration may be.
RANGES = {
    "identity_noise": (0, 100),
    "quality_shift": (-4, 4),
    "quality_effect": (0, 10),
    "modality_person": (0, 1),
    "presence": (0, 1),
}
CHUNK = 4_096  # faces generated at once; the result does not depend on it


@dataclass(frozen=True)
class SyntheticConfig:
    """The configuration of a synthetic ClipSet. ``dim`` is D of the faces and of every other modality.

    The last four fields change one condition each and leave every random draw as it is. Their defaults are the data of
    the book.

    Args:
        identity_noise: multiplies everything in a vector except the person.
        quality_shift: how much better all faces are, in standard deviations of the quality; negative for poorer faces.
        quality_effect: how much quality shows in the vectors of faces: 0 not at all, 1 as measured on IMFDB.
        modality_person: the share of the person in the squared length of every clip-level vector (for head, of the
            clip's mean face); None for the shares assumed above.
        presence: multiplies the share of clips that have a modality.

    Raises:
        ValueError: one sentence with the field, what was found and what was expected.
    """

    persons: int
    dim: int
    seed: int = 0
    identity_noise: float = IDENTITY_NOISE
    quality_shift: float = 0.0
    quality_effect: float = 1.0
    modality_person: float | None = None
    presence: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("persons", 2), ("dim", 8), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: found {value!r}, expected a whole number of {least} or more")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and name == "modality_person":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name}: found {value!r}, expected a number from {low} to {high}")


SIZES = {
    "quick": SyntheticConfig(persons=40, dim=32),
    "standard": SyntheticConfig(persons=256, dim=128),
    "paper": SyntheticConfig(persons=IQIYI["persons"], dim=512),
}


def key(profile: str) -> str:
    """Hashes everything that decides ``make(profile)``: the configuration and the code of this module."""
    code = source_fingerprint("famf_lib.data.synthetic", "famf_lib.paper")
    decides = json.dumps([asdict(_size(profile)), code], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:16]


def make(profile: str) -> ClipSet:
    """Generates the ClipSet of a profile: quick, standard or paper."""
    config = _size(profile)
    with progress_bar(f"synthetic, {profile}", 100) as bar:
        return generate(config, lambda done, total: bar.to(100 * done / total))


def _size(profile: str) -> SyntheticConfig:
    if profile not in SIZES:
        raise ValueError(f"profile: {profile!r} is not known, expected one of {', '.join(SIZES)}")
    return SIZES[profile]


def generate(config: SyntheticConfig, progress: Callable[[int, int], None] | None = None) -> ClipSet:
    """Generates a ClipSet, the same for the same configuration. ``progress(done, total)`` counts faces.

    Face columns: ``frame``, the box ``x1 y1 x2 y2`` (pixels), ``det_score``, ``quality``, and the latent variables
    ``blur``, ``darkness``, ``occlusion``, ``size`` (0 to 1), ``yaw`` (degrees) and ``own`` (whether the face is that of
    the person or stranger whom the clip shows). Additional clip column: ``own_voice``.

    Apart from the result, memory holds tables of the persons and their looks: about 1 GB at the paper's size.
    """
    cast = _cast(config)
    table, kind, appearance = _faces(config, cast)
    faces, mean_faces = _face_vectors(config, cast, table, kind, appearance, progress or (lambda done, total: None))
    modalities = _modalities(config, cast, mean_faces)
    clips = pd.DataFrame(
        {
            "name": [f"synthetic-{s}-{i:07d}" for s, n in cast.sizes for i in range(1, n + 1)],
            "person": _names("person", np.where(cast.person < config.persons, cast.person, -1), config.persons),
            "split": np.repeat([s for s, _ in cast.sizes], [n for _, n in cast.sizes]),
            "group": _names("programme", cast.programme, int(cast.programme.max()) + 1),
            "own_voice": cast.voice == cast.person,
        }
    )
    info = {"source": "synthetic", **asdict(config)}
    return ClipSet.build(faces, cast.counts, clips, face_table=table, modalities=modalities, info=info)


def quality_score(yaw: np.ndarray | float, **latents: np.ndarray | float) -> np.ndarray | float:
    """The quality of faces; it falls with blur, darkness, occlusion and |yaw| and grows with size.

    quality = 80 − 23 Σ_k w_k z_k, where z_k is the logit of the latent variable in standard units (with the opposite
    sign for size), and |yaw| in standard units. All of ``LATENTS`` have to be given.
    """
    badness = 0.0
    for name in LATENTS:
        badness = badness + _badness(name, latents[name]) * WEIGHTS[name]
    # |z| of a standard normal z has the mean √(2/π) and the variance 1 − 2/π.
    turned = (np.abs(yaw) / YAW_SPREAD - np.sqrt(2 / np.pi)) / np.sqrt(1 - 2 / np.pi)
    return QUALITY_CENTRE - QUALITY_SPREAD * (badness + WEIGHTS["yaw"] * turned)


def _badness(name: str, latent: np.ndarray | float) -> np.ndarray | float:
    """A latent variable in standard units of its logit, larger for poorer faces."""
    mean, deviation = LATENTS[name]
    z = (logit(np.clip(latent, 1e-6, 1 - 1e-6)) - mean) / deviation
    return -z if name == "size" else z


# --- the same faces with another quality -----------------------------------------------------------------------------


class Retake:
    """Generates the faces of one clip again, with the same random numbers and other latent variables.

    Unchanged, the faces equal those of ``generate`` up to rounding. Random numbers come in streams, so those of all
    earlier clips are drawn first: a fraction of a second for the standard profile.

    Args:
        config: the configuration of the ClipSet.
        clip: the position of the clip.
    """

    def __init__(self, config: SyntheticConfig, clip: int):
        self.config, cast = config, _cast(config)
        table, kind, appearance = _faces(config, cast)
        offsets = cast.offsets
        rows = slice(offsets[clip], offsets[clip + 1])
        self.table = table[rows].reset_index(drop=True)
        self._directions, self._appearance = _directions_of_faces(config, cast), appearance[rows]
        self._s = _confidence(config, table)[rows]
        for low, high, noise, _, of_face in _chance(config, cast, kind, self._directions.space):
            if clip < high:
                here = slice(rows.start - offsets[low], rows.stop - offsets[low])
                self._noise, self._of_face = noise[here], of_face[here]
                return

    def faces(self, **latents: np.ndarray) -> Float16[np.ndarray, "n D"]:
        """The vectors of the n faces of the clip for other values (n,) of ``blur``, ``occlusion`` and so on."""
        seen = self.table.assign(**latents)
        quality = quality_score(**{name: seen[name].to_numpy() for name in WEIGHTS})
        slope = self.config.quality_effect * CONFIDENCE / QUALITY_SPREAD
        s = self._s + slope * (quality - self.table["quality"].to_numpy())[:, None]
        x = _mixed(self.config, self._directions, self._noise.copy(), self._of_face, self._appearance, seen, s)
        return (_norms(s) * x).astype(np.float16)


# --- persons of the clips --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cast:
    """Who is in each of V clips. People are the persons, then the strangers; an appearance is a (people, programme)."""

    sizes: tuple[tuple[str, int], ...]  # clips per split
    person: Int64[np.ndarray, " V"]  # index of people, -1 for nobody
    programme: Int64[np.ndarray, " V"]
    counts: Int64[np.ndarray, " V"]  # faces per clip
    appearance: Int64[np.ndarray, " V"]  # of the person, -1 for nobody
    bystander: Int64[np.ndarray, " V"]  # an appearance in the same programme, or -1
    voice: Int64[np.ndarray, " V"]  # index of people: the speaker
    people: int
    appearances: Int64[np.ndarray, "A 2"]

    @property
    def offsets(self) -> Int64[np.ndarray, " V_plus_1"]:
        """The faces of clip v are ``offsets[v]`` to ``offsets[v + 1]``."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def _cast(config: SyntheticConfig) -> _Cast:
    rng = _stream(config, "cast")
    train_n, val_n = _clips_per_person(config.persons, rng)
    noise = round(val_n.sum() * NOISE_SHARE / (1 - NOISE_SHARE))
    unknown = round(noise * STRANGERS)
    strangers = max(1, round(unknown / CLIPS_PER_STRANGER))
    people = config.persons + strangers
    train, val = np.repeat(np.arange(config.persons), train_n), np.repeat(np.arange(config.persons), val_n)
    stranger = config.persons + rng.integers(strangers, size=unknown)
    programmes = max(4, round((len(train) + len(val) + noise) / CLIPS_PER_PROGRAMME))

    # A quarter of the programmes has only training clips, half has both kinds, and the rest only validation clips.
    train_programme = _programmes(train, people, 0, programmes * 3 // 4, rng)
    first = np.cumsum(train_n) - train_n
    seen = train_programme[first[val] + rng.integers(train_n[val])]
    new = _programmes(val, people, programmes // 4, programmes, rng)
    val_programme = np.where(rng.random(len(val)) < SHARED_PROGRAMME, seen, new)
    stranger_programme = _programmes(stranger, people, programmes // 4, programmes, rng)
    nobody_programme = rng.integers(programmes // 4, programmes, size=noise - unknown)

    # Clips of a split are shuffled, so that ties in a ranking, broken by the order of clips, favour nobody.
    shuffle = np.concatenate([rng.permutation(len(train)), len(train) + rng.permutation(len(val) + noise)])
    nobody = np.full(noise - unknown, -1)
    person = np.concatenate([train, val, stranger, nobody])[shuffle]
    programme = np.concatenate([train_programme, val_programme, stranger_programme, nobody_programme])[shuffle]

    clips = len(person)
    code, inverse = np.unique((person * programmes + programme)[person >= 0], return_inverse=True)
    appearances = np.stack([code // programmes, code % programmes], axis=1)
    appearance = np.full(clips, -1)
    appearance[person >= 0] = inverse

    quantiles = (rng.permutation(clips) + 0.5) / clips
    counts = stats.gamma.ppf(quantiles, FACES_GAMMA, scale=FACES_MEAN / FACES_GAMMA)
    counts = np.maximum(1, np.rint(counts)).astype(np.int64)
    counts[rng.permutation(clips)[: round(clips * NO_FACE_SHARE)]] = 0
    bystander = _bystanders(appearances, person, programme, rng)
    # Another speaker is the bystander, if there is one.
    other = np.where(bystander >= 0, appearances[bystander, 0], rng.integers(people, size=clips))
    voice = np.where((rng.random(clips) < OWN_VOICE) & (person >= 0), person, other)
    sizes = (("train", len(train)), ("val", len(val) + noise))
    return _Cast(sizes, person, programme, counts, appearance, bystander, voice, people, appearances)


def _clips_per_person(persons: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The number of training and of validation clips of each person (persons,), which are correlated.

    The counts are quantiles of the distribution, not draws, so that the shape is the same for every seed.
    """
    quantiles = (np.arange(persons) + 0.5) / persons
    known = rng.standard_normal(persons)
    columns = []
    for (mean, deviation), least_most, popularity in (
        (TRAIN_CLIPS, IQIYI["train_clips_a_person"], known),
        (VAL_CLIPS, IQIYI["val_clips_a_person"], known + 0.3 * rng.standard_normal(persons)),
    ):
        counts = np.rint(np.exp(mean + deviation * stats.norm.ppf(quantiles))).astype(np.int64)
        counts = np.clip(counts, least_most["least"], least_most["most"])
        columns.append(counts[np.argsort(np.argsort(popularity))])
    return columns[0], columns[1]


def _programmes(person: np.ndarray, people: int, low: int, high: int, rng: np.random.Generator) -> np.ndarray:
    """The programme of each clip (n,), from ``low`` to ``high − 1``; the clips of a person share a few programmes."""
    clips = np.bincount(person, minlength=people)
    slots = 1 + rng.binomial(np.maximum(clips - 1, 0), NEW_PROGRAMME)
    programme = rng.integers(low, max(high, low + 1), size=slots.sum())
    first = np.cumsum(slots) - slots
    return programme[first[person] + rng.integers(slots[person])]


def _bystanders(
    appearances: np.ndarray, person: np.ndarray, programme: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each clip the appearance of another person of the same programme, or -1."""
    by_programme = np.argsort(appearances[:, 1], kind="stable")
    cast = np.bincount(appearances[:, 1], minlength=programme.max() + 1)
    first = (np.cumsum(cast) - cast)[programme]
    cast = cast[programme]
    pick = rng.integers(np.maximum(cast, 1))
    has_one = (rng.random(len(person)) < BYSTANDER) & (cast > 0)

    def chosen(pick: np.ndarray) -> np.ndarray:
        return by_programme[np.minimum(first + pick % np.maximum(cast, 1), len(by_programme) - 1)]

    # People appear once per programme: if the pick is the person, take the next of the cast.
    other = np.where(appearances[chosen(pick), 0] == person, chosen(pick + 1), chosen(pick))
    return np.where(has_one & (appearances[other, 0] != person), other, -1)


# --- frame, box and quality of faces ----------------------------------------------------------------------------------

OWN, WITH, PASSING = 0, 1, 2  # the face of the clip's person, of its bystander, of a passer-by


def _faces(config: SyntheticConfig, cast: _Cast) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The table of the F faces, and the kind (OWN, WITH, PASSING) and the appearance of each."""
    rng = _stream(config, "faces")
    counts, total = cast.counts, int(cast.counts.sum())
    clip = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(total) - cast.offsets[clip]
    shots = 1 + rng.binomial(SHOTS_MORE, SHOTS_CHANCE, size=len(counts))
    shot = (np.cumsum(shots) - shots)[clip] + position * shots[clip] // counts[clip]  # in equal parts

    with_bystander = rng.random(shots.sum()) < BYSTANDER_SHOT
    chance = rng.random(total, dtype=np.float32)
    kind = np.zeros(total, dtype=np.int8)
    kind[(cast.bystander[clip] >= 0) & with_bystander[shot] & (chance < BYSTANDER_FACE)] = WITH
    kind[(chance > 1 - PASSER_BY) | (cast.person[clip] < 0)] = PASSING
    appearance = np.where(kind == WITH, cast.bystander[clip], cast.appearance[clip])
    appearance[kind == PASSING] = rng.integers(len(cast.appearances), size=(kind == PASSING).sum())

    def normal() -> np.ndarray:  # standard normal: the sum of a part per clip, per shot and per face
        parts = ((QUALITY_CLIP, len(counts), clip), (QUALITY_SHOT, shots.sum(), shot))
        value = np.sqrt(1 - QUALITY_CLIP - QUALITY_SHOT, dtype=np.float32) * rng.standard_normal(total, np.float32)
        for share, size, index in parts:
            value += np.sqrt(share, dtype=np.float32) * rng.standard_normal(size, np.float32)[index]
        return value

    smaller = np.array([0, SMALLER["bystander"], SMALLER["passer-by"]], dtype=np.float32)[kind]
    latents = {}
    step = config.quality_shift / sum(WEIGHTS[name] ** 2 for name in LATENTS)  # adds up to the shift of the quality
    for name, (mean, deviation) in LATENTS.items():
        z = normal() - (smaller if name == "size" else 0)
        z += np.float32(step * WEIGHTS[name] * (1 if name == "size" else -1))
        latents[name] = expit(np.float32(mean) + np.float32(deviation) * z)
    latents["yaw"] = np.clip(YAW_SPREAD * normal(), -90, 90).astype(np.float32)
    quality = quality_score(**latents).astype(np.float32)
    z = (quality - QUALITY_CENTRE) / QUALITY_SPREAD
    det_score = expit(4.5 + 0.7 * z + 0.7 * rng.standard_normal(total, np.float32) - (kind == PASSING))

    table = {
        "frame": _frames(cast, clip, shot, kind, rng).astype(np.int32),
        **_boxes(latents["size"], kind, clip, shot, rng),
        "det_score": det_score.astype(np.float32),
        "quality": quality,
        **latents,
        "own": kind == OWN,
    }
    return pd.DataFrame(table), kind, appearance


def _frames(cast: _Cast, clip: np.ndarray, shot: np.ndarray, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers (F,), not decreasing within a clip, with gaps between shots and two faces in some frames."""
    total = len(clip)
    step = rng.integers(1, 13, size=len(cast.counts))[clip] * (1 + rng.poisson(0.3, size=total))
    first_of_shot = np.diff(shot, prepend=-1) != 0
    step += np.where(first_of_shot, 25, 0)
    after_own = (kind == WITH) & (np.concatenate([[WITH], kind[:-1]]) == OWN)
    step[after_own & ~first_of_shot & (rng.random(total) < TOGETHER)] = 0
    frame = np.cumsum(step)
    before = np.concatenate([[0], frame])[cast.offsets[:-1]]  # the frame before the clip's first
    return frame - before[clip]


def _boxes(
    size: np.ndarray, kind: np.ndarray, clip: np.ndarray, shot: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Boxes in pixels. The person stays in one half of the picture, everybody else in the other half."""
    total = len(size)
    height = BOX[0] * (BOX[1] / BOX[0]) ** size
    width = 0.8 * height
    side = (rng.random(clip[-1] + 1 if total else 0) < 0.5)[clip] ^ (kind != OWN)
    places = rng.random((2, shot[-1] + 1 if total else 0), dtype=np.float32)[:, shot]
    places = np.clip(places + 0.02 * rng.standard_normal((2, total), np.float32), 0, 1)
    half = FRAME[0] / 2
    x1 = half * side + places[0] * (half - width)
    y1 = places[1] * (FRAME[1] - height)
    return {k: v.astype(np.float32) for k, v in {"x1": x1, "y1": y1, "x2": x1 + width, "y2": y1 + height}.items()}


# --- the vectors -----------------------------------------------------------------------------------------------------


def _face_vectors(
    config: SyntheticConfig,
    cast: _Cast,
    table: pd.DataFrame,
    kind: np.ndarray,
    appearance: np.ndarray,
    progress: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """The faces (F, D) and the mean direction of the person's faces of each clip (V, D), both in float16.

    They are generated in chunks, because all faces in float32 would be 7.7 GB at the paper's size.
    """
    faces, means = np.empty((len(table), config.dim), np.float16), np.empty((len(cast.person), config.dim), np.float16)
    directions, s = _directions_of_faces(config, cast), _confidence(config, table)
    offsets = cast.offsets
    for low, high, noise, of_clip, of_face in _chance(config, cast, kind, directions.space):
        rows, counts = slice(offsets[low], offsets[high]), cast.counts[low:high]
        x = _mixed(config, directions, noise, of_face, appearance[rows], table[rows], s[rows])
        faces[rows] = _norms(s[rows]) * x

        # A clip without a face of its person still has a head: that of the best possible face.
        mean = PERSON**0.5 * _rows(directions.identity, cast.person[low:high])
        mean += config.identity_noise * PROGRAMME**0.5 * _rows(directions.look, cast.appearance[low:high])
        mean += config.identity_noise * CLIP**0.5 * of_clip
        x[kind[rows] != OWN] = 0
        sums = np.add.reduceat(x, np.cumsum(counts[counts > 0]) - counts[counts > 0]) if len(x) else x
        shown = sums.any(axis=1)
        mean[np.flatnonzero(counts)[shown]] = sums[shown]
        means[low:high] = _unit(mean)
        progress(int(offsets[high]), len(table))
    return faces, means


@dataclass(frozen=True)
class _Directions:
    """The directions that faces are mixed from, apart from what is drawn for each face."""

    space: Float32[np.ndarray, "D D"]
    identity: Float32[np.ndarray, "people D"]
    person: Int64[np.ndarray, " A"]  # index of people
    look: Float32[np.ndarray, "A D"]
    common: Float32[np.ndarray, " D"]
    profile: Float32[np.ndarray, " D"]
    poor: np.ndarray  # (5, D)


def _directions_of_faces(config: SyntheticConfig, cast: _Cast) -> _Directions:
    space = _space(config, "face")
    return _Directions(
        space,
        _directions(space, cast.people, _stream(config, "identity")),
        cast.appearances[:, 0],
        _directions(space, len(cast.appearances), _stream(config, "look")),
        *_isotropic(2, config.dim, _stream(config, "common")),
        _poor_directions(config.dim, _stream(config, "poor")),
    )


def _chance(
    config: SyntheticConfig, cast: _Cast, kind: np.ndarray, space: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """Draws what does not depend on quality, for chunks of clips ``low`` to ``high``.

    Yields low, high, the noise of each face (n, D), the part of each clip (v, D), and the part of the clip or of its
    bystander in each face (n, D).
    """
    offsets = cast.offsets
    streams = {name: _stream(config, name) for name in ("clip", "bystander", "noise")}
    for low, high in _chunks(offsets):
        clip = np.repeat(np.arange(high - low), cast.counts[low:high])
        of_clip, of_bystander = (_directions(space, high - low, streams[name]) for name in ("clip", "bystander"))
        noise = streams["noise"].standard_normal((len(clip), config.dim), np.float32)
        kinds = kind[offsets[low] : offsets[high]]
        of_face = np.zeros_like(noise)  # a passer-by has only noise
        for who, part in ((OWN, of_clip), (WITH, of_bystander)):
            here = np.flatnonzero(kinds == who)
            of_face[here] = part[clip[here]]
        yield low, high, noise, of_clip, of_face


def _mixed(
    config: SyntheticConfig,
    directions: _Directions,
    noise: Float32[np.ndarray, "n D"],
    of_face: Float32[np.ndarray, "n D"],
    appearance: Int64[np.ndarray, " n"],
    table: pd.DataFrame,
    s: np.ndarray,
) -> Float32[np.ndarray, "n D"]:
    """Mixes faces of length 1 (see the measured constants). ``noise`` is overwritten."""
    rho, kappa, eta = _strengths(s)
    x = noise
    x *= eta * config.dim**-0.5
    x += kappa * (_blame(table) @ directions.poor)
    sway = YAW_SHIFT * np.sin(np.radians(table["yaw"].to_numpy()))[:, None]
    x += np.sqrt(COMMON * rho) * directions.common + sway * directions.profile
    x += np.sqrt(PROGRAMME * rho) * directions.look[appearance]
    x += CLIP**0.5 * of_face
    x *= config.identity_noise
    x += PERSON**0.5 * rho * directions.identity[directions.person[appearance]]
    return _unit(x)


def _norms(s: np.ndarray) -> np.ndarray:
    """The lengths of faces of confidence s (n, 1)."""
    return NORM_MOST * expit(NORM[0] + NORM[1] * s)


def _modalities(
    config: SyntheticConfig, cast: _Cast, mean_faces: Float16[np.ndarray, "V D"]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vectors (V, D) and presence (V,) of each modality: person + identity_noise (context + noise)."""
    people, looks, programmes = cast.people, len(cast.appearances), int(cast.programme.max()) + 1
    spaces = {"head": _space(config, "face"), **{name: _space(config, name) for name in ("body", "audio", "text")}}

    def table(of: str, size: int) -> np.ndarray:
        return _directions(spaces[of.split()[0]], size, _stream(config, of))

    # modality: shares, table and row of the person, table and row of the context
    parts = {
        "head": (HEAD, mean_faces, np.arange(len(cast.person)), table("head hair", looks), cast.appearance),
        "body": (BODY, table("body person", people), cast.person, table("body outfit", looks), cast.appearance),
        "audio": (AUDIO, table("audio voice", people), cast.voice, table("audio sound", programmes), cast.programme),
        "text": (TEXT, table("text person", people), cast.person, table("text topic", programmes), cast.programme),
    }
    made = {}
    for name, (shares, persons, person, contexts, context) in parts.items():
        if (own := config.modality_person) is not None:  # context and noise share the rest as before
            shares = (own, *((1 - own) * share / (shares[1] + shares[2]) for share in shares[1:]))
        rng = _stream(config, name)
        present = rng.random(len(person)) < PRESENT[name] * config.presence
        if name in ("head", "body"):
            present &= cast.person >= 0
        norm = NORMS[name] * np.exp(NORM_SPREAD * rng.standard_normal((len(person), 1), np.float32))
        vectors = np.empty((len(person), config.dim), np.float16)
        for start in range(0, len(person), CHUNK):
            rows = slice(start, start + CHUNK)
            x = rng.standard_normal(vectors[rows].shape, np.float32)
            x *= (shares[2] / config.dim) ** 0.5
            x += shares[1] ** 0.5 * _rows(contexts, context[rows])
            x *= config.identity_noise
            x += shares[0] ** 0.5 * _rows(persons, person[rows])
            vectors[rows] = norm[rows] * _unit(x)
        vectors[~present] = 0
        made[name] = (vectors, present)
    return made


def _confidence(config: SyntheticConfig, table: pd.DataFrame) -> np.ndarray:
    """The confidence of the face network in each face, s (F, 1), in standard units times ``quality_effect``."""
    z = (table["quality"].to_numpy() - QUALITY_CENTRE) / QUALITY_SPREAD
    noise = _stream(config, "confidence").standard_normal(len(z), np.float32)
    return config.quality_effect * (CONFIDENCE * z + (1 - CONFIDENCE**2) ** 0.5 * noise)[:, None]


def _strengths(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ρ, κ and η of faces of confidence s; see the measured constants."""
    rho = expit(RHO[0] + RHO[1] * s)
    kappa = KAPPA[0] * expit(-KAPPA[1] * (s + KAPPA[2]))
    return rho, kappa, np.sqrt(1 - PERSON * rho**2 - (PROGRAMME + COMMON) * rho - CLIP - kappa**2)


def _poor_directions(dim: int, rng: np.random.Generator) -> np.ndarray:
    """The directions of poor faces, one for each of WEIGHTS (5, D), which have most in common."""
    alike, *kinds = _isotropic(1 + len(WEIGHTS), dim, rng)
    return POOR_IN_COMMON**0.5 * alike + (1 - POOR_IN_COMMON) ** 0.5 * np.stack(kinds)


def _blame(table: pd.DataFrame) -> np.ndarray:
    """The share of each of WEIGHTS in the poor quality of each face (F, 5); a row adds up to 1."""
    blame = np.full((len(table), len(WEIGHTS)), 0.05, dtype=np.float32)
    for column, name in enumerate(WEIGHTS):
        value = table[name].to_numpy()
        z = np.abs(value) / YAW_SPREAD if name == "yaw" else _badness(name, value)
        blame[:, column] += WEIGHTS[name] * np.maximum(z, 0)
    return blame / blame.sum(axis=1, keepdims=True)


# --- random streams and directions -----------------------------------------------------------------------------------


def _stream(config: SyntheticConfig, part: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(zlib.crc32(part.encode()),)))


def _space(config: SyntheticConfig, name: str) -> Float32[np.ndarray, "D D"]:
    """A feature space: the axes along which its vectors vary, in a random rotation, scaled by SPECTRUM."""
    variance = 1 / (np.arange(config.dim) + SPECTRUM)
    rotation, _ = np.linalg.qr(_stream(config, f"{name} space").standard_normal((config.dim, config.dim)))
    return (np.sqrt(variance / variance.sum())[:, None] * rotation).astype(np.float32)


def _directions(space: Float32[np.ndarray, "D D"], n: int, rng: np.random.Generator) -> Float32[np.ndarray, "{n} D"]:
    return _unit(rng.standard_normal((n, len(space)), np.float32) @ space)


def _isotropic(n: int, dim: int, rng: np.random.Generator) -> Float32[np.ndarray, "{n} {dim}"]:
    return _unit(rng.standard_normal((n, dim), np.float32))


def _unit(x: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Scales the rows of ``x`` to length 1 in place; rows of zeros stay."""
    x /= np.maximum(np.sqrt(np.einsum("nd,nd->n", x, x)), np.float32(1e-12))[:, None]
    return x


def _rows(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The rows at ``index`` in float32, zeros for -1."""
    rows = table[index].astype(np.float32)
    rows[index < 0] = 0
    return rows


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of one or more clips with about CHUNK faces."""
    low = 0
    while low < len(offsets) - 1:
        high = max(low + 1, int(np.searchsorted(offsets, offsets[low] + CHUNK, side="right")) - 1)
        yield low, high
        low = high


def _names(prefix: str, index: np.ndarray, count: int) -> np.ndarray:
    """``prefix-0007`` for 7, None for -1."""
    width = max(4, len(str(count - 1)))
    return np.array([*(f"{prefix}-{i:0{width}d}" for i in range(count)), None], dtype=object)[index]
