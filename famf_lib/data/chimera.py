"""Chimeric persons: the real faces of IMFDB, each person lent the real voice, words and video of a speaker of MOSI.

No corpus at hand has all modalities of one person. Multimodal biometrics joins two corpora in that case (Poh and
Bengio, MLMI 2005): a person of one and a person of the other count as one. Which modality is strong, weak or useless is
then real; what a person's face says about their voice is not there.

A video of MOSI (Zadeh et al. 2016) shows one speaker and is cut into utterances; the features are those of Poria et al.
(ACL 2017). Each utterance is dealt to one film of its person. So a split that keeps films apart keeps utterances apart,
whatever films a seed puts on which side.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from famf_lib.data import imfdb, npz
from famf_lib.data.clipset import ClipSet
from famf_lib.support.files import sources
from famf_lib.support.fingerprint import source_fingerprint

SEED = 0
UTTERANCES = "utterances.npz"
SOURCES = {"body": "video", "audio": "audio", "text": "text"}
"""Modality → its array in the file. MOSI shows no bodies: 3D-CNN features of the utterance's video stand for the
paper's ``body``, so that one name serves every dataset."""
FIELDS = ("video_id", "utterance", *SOURCES.values())


class ChimeraError(ValueError):
    """The utterances are not what they should be; the message says what was found and what was expected."""


def absence() -> str | None:
    """None where both corpora are here, otherwise what is missing, where it was looked for and how to get it."""
    missing = []
    if not _utterances().is_file():
        missing.append(f"{UTTERANCES} not found in {_utterances().parent}; data/README.md says how to get it")
    if reason := imfdb.absence():
        missing.append(f"its faces, {reason}")
    return f"chimera: {'; '.join(missing)}" if missing else None


def key(profile: str) -> str:
    """A hash of everything that decides ``make``. No profile changes it."""
    if reason := absence():
        raise ChimeraError(reason)
    with _utterances().open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    decided = [imfdb.key(profile), content, SEED, source_fingerprint(__name__)]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def make(profile: str) -> ClipSet:
    """The ClipSet of the files in the user's data folder; the same for every profile."""
    if reason := absence():
        raise ChimeraError(reason)
    return build(imfdb.make(profile), _utterances())


def build(faces: ClipSet, utterances: Path, *, seed: int = SEED) -> ClipSet:
    """Joins clips of faces, each of a person and a film (``group``), with the utterances of a file.

    A person takes part with two films or more, so that something can be held out, and with a speaker who has at least
    as many utterances as the person has films (see ``pair``); their clips of no known film are left out. The clips of
    a film take the film's utterances in turn (see ``deal``). The column ``utterance`` names that of the clip, as in
    ``03bSnISJMiM/7``; ``info["joining"]`` counts.

    The vectors are standardised: each column is brought to mean 0 and spread 1 over all utterances of the file, and no
    label has a part in it. As they come, one column of audio makes up nearly all of its length.

    Args:
        faces: as ``imfdb.build`` gives them.
        utterances: an .npz with video_id (n,), utterance (n,) and text, audio and video (n, D of each).
        seed: of the pairing and of the deal.

    Raises:
        ChimeraError: one sentence with the file, what was found and what was expected.
    """
    table, vectors = _read(Path(utterances))
    clips, rng = faces.clips, np.random.default_rng(seed)
    filmed = clips[clips["person"].notna() & clips["group"].notna()]
    persons = filmed.groupby("person")["group"].agg(clips="size", films="nunique")
    splittable = persons[persons["films"] >= 2]
    paired = pair(splittable, table.groupby("video_id").size(), rng)
    if not paired:
        found = f"{len(splittable)} persons with two films or more and {table['video_id'].nunique()} speakers"
        raise ChimeraError(f"{utterances}: {found}, expected a speaker with as many utterances as a person has films")

    rows = {video: group.index.to_numpy() for video, group in table.groupby("video_id")}  # in the order of the video
    chosen = []
    for person, group in filmed[filmed["person"].isin(paired.keys())].groupby("person"):
        own = rows[paired[person]]
        chosen.append(pd.Series(own[deal(group["group"].to_numpy(dtype=str), len(own), rng)], group.index))
    utterance = pd.concat(chosen).sort_index()  # for each clip that stays, a row of the table

    stays = np.isin(np.arange(len(clips)), utterance.index)
    shown = np.repeat(stays, faces.counts.numpy())
    row = utterance.to_numpy()
    name = table["video_id"] + "/" + table["utterance"].astype(str)
    constant = {m: int((v == v[:1]).all(axis=0).sum()) for m, v in vectors.items()}
    joining = {
        "persons": len(paired),
        "persons left out: fewer than two known films": clips["person"].nunique() - len(splittable),
        "persons left out: no speaker with as many utterances as they have films": len(splittable) - len(paired),
        "clips": len(row),
        "clips left out: of persons left out": int((~clips["person"].isin(paired.keys())).sum()),
        "clips left out: no known film": int((clips["person"].isin(paired.keys()) & clips["group"].isna()).sum()),
        "films (of a person)": int(filmed["group"].groupby(filmed["person"]).nunique().loc[list(paired)].sum()),
        "speakers": len(rows),
        "speakers left out": len(rows) - len(paired),
        "utterances": len(table),
        "utterances used": len(np.unique(row)),
        "clips that repeat an utterance of their film": len(row) - len(np.unique(row)),
        **{f"columns of {modality} that never change": count for modality, count in constant.items() if count},
    }
    return ClipSet.build(
        faces.faces[shown],
        faces.counts.numpy()[stays],
        clips[stays].assign(utterance=name.to_numpy()[row]),
        face_table=faces.face_columns()[shown],
        modalities={m: (_standardised(v)[row], np.ones(len(row), bool)) for m, v in vectors.items()},
        info={"dataset": "chimera", "seed": seed, "joining": joining, "faces": faces.info},
    )


def pair(persons: pd.DataFrame, videos: pd.Series, rng: np.random.Generator) -> dict[str, str]:
    """A video for each person, by name: drawn among those with an utterance for each clip, else the longest left.

    Who has the most clips draws first, so that few utterances have to be heard twice. A person whose video would have
    fewer utterances than they have films, or for whom none is left, gets none.

    Args:
        persons: a row a person, with the columns ``clips`` and ``films``.
        videos: utterances of each video.
    """
    paired: dict[str, str] = {}
    left = videos.sort_index()
    order = persons.sort_index().sort_values("clips", ascending=False, kind="stable")
    for person, clips, films in order[["clips", "films"]].itertuples():
        room = left[left >= clips]
        if room.empty:
            room = left[left == left.max()]
        if not room.empty and room.max() >= films:
            paired[person] = str(rng.choice(room.index.to_numpy(dtype=str)))
            left = left.drop(paired[person])
    return paired


def deal(films: np.ndarray, utterances: int, rng: np.random.Generator) -> Int[np.ndarray, " V"]:
    """For each clip of one person, given by its film (V,), the place of its utterance in the video, from 0.

    A film takes a stretch of the video, in an order of films that is drawn. Neighbouring utterances share a topic and
    the sound of the moment; dealt one by one, each gallery clip would have its neighbours in training. A stretch has
    at least one utterance, and the next goes to the film with the most clips for each utterance. If a film has fewer
    utterances than clips, they start over.
    """
    _, film, clips = np.unique(films, return_inverse=True, return_counts=True)
    length = np.ones(len(clips), dtype=int)
    for _ in range(utterances - len(clips)):
        length[np.argmax(clips / length)] += 1
    order = rng.permutation(len(clips))
    start = np.empty_like(length)
    start[order] = np.cumsum(length[order]) - length[order]
    turn = pd.Series(film).groupby(film).cumcount().to_numpy()
    return start[film] + turn % length[film]


# --- reading ---------------------------------------------------------------------------------------------------------


def _utterances() -> Path:
    return sources() / "mosi" / UTTERANCES


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Float32[np.ndarray, "n _"]]]:
    """The utterances in the order of their videos, and the vectors (n, D_m) of each modality."""
    video, number, *given = npz.arrays(path, FIELDS, ChimeraError)
    flat = video.ndim == 1 and number.shape == video.shape and len(video) > 0
    if not flat or any(v.ndim != 2 or len(v) != len(video) or not v.shape[1] for v in given):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(FIELDS, (video, number, *given), strict=True))
        raise ChimeraError(f"{path}: the shapes are {shapes}, expected (n,), (n,) and (n, D) for each of the others")
    if video.dtype.kind != "U" or number.dtype.kind not in "iu" or any(v.dtype.kind != "f" for v in given):
        kinds = ", ".join(f"{name} {array.dtype}" for name, array in zip(FIELDS, (video, number, *given), strict=True))
        raise ChimeraError(f"{path}: the types are {kinds}, expected text, integers and floats for the others")
    table = pd.DataFrame({"video_id": video.astype(str), "utterance": number.astype(int)})
    names = table["video_id"] + "/" + table["utterance"].astype(str)
    if (twice := table.duplicated()).any():
        raise ChimeraError(f"{path}: the utterance {names[twice.argmax()]} is there twice, expected it once")
    table, vectors = table.sort_values(["video_id", "utterance"]), {}
    for (modality, name), array in zip(SOURCES.items(), given, strict=True):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
            vector = array.astype(np.float32)
        if not (finite := np.isfinite(vector).all(axis=1)).all():
            raise ChimeraError(f"{path}: {name} of {names[finite.argmin()]} is not finite, expected numbers only")
        vectors[modality] = vector[table.index]
    return table.reset_index(drop=True), vectors


def _standardised(vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Columns of mean 0 and spread 1, zeros where a column never changes. None exceeds √(n − 1): float16 holds it."""
    spread = vectors.std(axis=0, dtype=np.float64)
    changes = (vectors != vectors[:1]).any(axis=0)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    return np.where(changes, centred / np.where(changes, spread, 1), 0).astype(np.float32)
