"""Chimeric persons: the faces of IMFDB, each person joined with the voice, words and video of a speaker of MOSI.

No available corpus has all modalities of one person. Multimodal biometrics then joins two corpora (Poh and Bengio, MLMI
2005): a person of one and a person of the other count as one. The strength of each modality is then real; relations
between a person's face and voice are not.

A video of MOSI (Zadeh et al. 2016) shows one speaker and is cut into utterances; the features are those of Poria et al.
(ACL 2017). Each utterance is assigned to one film of its person, so that a split by films also separates utterances.

All clips of a person with the voice and picture of one video would be too easy: methods could not be told apart. So a
person has few clips, and in some of them somebody else speaks, as in films, where voices come from off screen and are
dubbed.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from famf_lib.data import imfdb, npz
from famf_lib.data.clipset import ClipSet, sha256
from famf_lib.support.files import sources
from famf_lib.support.fingerprint import source_fingerprint

TITLE = "chimeric persons, faces of IMFDB with voices of MOSI"
SEED = 0
CLIPS_PER_FILM = 2
"""The most clips that a film gives a person. The median number of training clips of a person is then 4, as in
iQIYI-VID (``famf_lib.paper.IQIYI``), instead of 15."""
OTHER_SPEAKER = 0.13
"""Share of the clips that are joined with an utterance of another speaker. Calibrated with NetVLAD + MMA alone, to an
mAP of about .85, before any other row was run on these data (``benchmarks/calibrate_chimera.py``)."""
UTTERANCES = "utterances.npz"
SOURCES = {"body": "video", "audio": "audio", "text": "text"}
"""Modality → its array in the file. MOSI shows no bodies: 3D-CNN features of the utterance's video take the place of
the paper's ``body``, so that every dataset uses the same names."""
FIELDS = {"video_id": ("U", 1), "utterance": ("iu", 1)} | {name: ("f", 2) for name in SOURCES.values()}


class ChimeraError(ValueError):
    """The utterances cannot be used; the message says what was found and what was expected."""


def absence() -> str | None:
    """Says which of the two corpora is missing, where it was looked for and how to get it; None if both are here."""
    missing = []
    if not _utterances().is_file():
        missing.append(f"{UTTERANCES} not found in {_utterances().parent}; data/README.md says how to get it")
    if reason := imfdb.absence():
        missing.append(f"its faces, {reason}")
    return f"chimera: {'; '.join(missing)}" if missing else None


def _utterances() -> Path:
    return sources() / "mosi" / UTTERANCES


def key(profile: str) -> str:
    """Hashes everything that decides ``make``. The profile does not."""
    if reason := absence():
        raise ChimeraError(reason)
    decided = [imfdb.key(profile), sha256(_utterances()), SEED, source_fingerprint(__name__)]
    return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]


def make(profile: str) -> ClipSet:
    """Builds the ClipSet of the files in the user's data folder, the same for every profile."""
    if reason := absence():
        raise ChimeraError(reason)
    return build(imfdb.make(profile), _utterances())


def build(
    faces: ClipSet,
    utterances: Path,
    *,
    seed: int = SEED,
    clips_per_film: int = CLIPS_PER_FILM,
    other_speaker: float = OTHER_SPEAKER,
) -> ClipSet:
    """Joins clips of faces, each of a person and a film (``group``), with the utterances of a file.

    A person takes part if they have two films or more, so that one can be held out, and if there is a speaker with at
    least as many utterances as they have films (see ``pair``). Clips of no known film are left out, and all but
    ``clips_per_film`` of a film, drawn at random. The clips of a film take its utterances in turn (see
    ``assign_utterances``); then a share of all clips gets an utterance of another speaker (see ``exchange``). The
    column ``utterance`` names them (``03bSnISJMiM/7``), ``own_voice`` is False where another speaker is heard.
    ``info["joining"]`` counts what was done.

    Every column of the vectors is standardised over all utterances of the file; labels play no part. In the raw
    features one column of audio makes up nearly all of the length of the vector.

    Args:
        faces: a ClipSet of ``imfdb.build``.
        utterances: an .npz with video_id (n,), utterance (n,) and text, audio and video (n, D of each).
        seed: of the clips of each film, of the pairs and of the utterances.
        clips_per_film: the most clips of a person in a film.
        other_speaker: share of the clips with an utterance of another speaker.

    Raises:
        ChimeraError: one sentence with the file, what was found and what was expected.
    """
    table, vectors = _read(Path(utterances))
    clips, rng = faces.clips, np.random.default_rng(seed)
    known = clips[clips["person"].notna() & clips["group"].notna()]
    turn = known.sample(frac=1, random_state=rng).groupby(["person", "group"]).cumcount()
    filmed = known.loc[turn.index[turn < clips_per_film]].sort_index()
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
        chosen.append(pd.Series(own[assign_utterances(group["group"].to_numpy(dtype=str), len(own), rng)], group.index))
    utterance = pd.concat(chosen).sort_index()  # a row of the table for each clip that is kept

    kept = np.isin(np.arange(len(clips)), utterance.index)
    shown = np.repeat(kept, faces.counts.numpy())
    speaker = table["video_id"].to_numpy(dtype=str)
    row = exchange(utterance.to_numpy(), speaker, other_speaker, rng)
    own_voice = speaker[row] == speaker[utterance.to_numpy()]
    name = table["video_id"] + "/" + table["utterance"].astype(str)
    constant = {m: int((v == v[:1]).all(axis=0).sum()) for m, v in vectors.items()}
    taking_part = clips["person"].isin(paired.keys())
    joining = {
        "persons": len(paired),
        "persons left out: fewer than two known films": clips["person"].nunique() - len(splittable),
        "persons left out: no speaker with as many utterances as they have films": len(splittable) - len(paired),
        "clips": len(row),
        "clips left out: of persons left out": int((~taking_part).sum()),
        "clips left out: no known film": int((taking_part & clips["group"].isna()).sum()),
        "clips left out: their film has enough": int((taking_part & clips["group"].notna()).sum()) - len(row),
        "films (of a person)": int(persons["films"].loc[list(paired)].sum()),
        "speakers": len(rows),
        "speakers left out": len(rows) - len(paired),
        "utterances": len(table),
        "utterances used": len(np.unique(row)),
        "clips that repeat an utterance of their film": len(row) - len(np.unique(row)),
        "clips with an utterance of another speaker": int((~own_voice).sum()),
        **{f"columns of {modality} that never change": count for modality, count in constant.items() if count},
    }
    return ClipSet.build(
        faces.faces[shown],
        faces.counts.numpy()[kept],
        clips[kept].assign(utterance=name.to_numpy()[row], own_voice=own_voice),
        face_table=faces.face_columns()[shown],
        modalities={m: (_standardised(v)[row], np.ones(len(row), bool)) for m, v in vectors.items()},
        info={"dataset": "chimera", "seed": seed, "joining": joining, "faces": faces.info},
    )


def pair(persons: pd.DataFrame, videos: pd.Series, rng: np.random.Generator) -> dict[str, str]:
    """Draws a video for each person among those with an utterance for each clip, or else takes the longest left.

    Persons with the most clips draw first, so that few utterances repeat. A person gets no video if none is left or if
    it would have fewer utterances than the person has films.

    Args:
        persons: one row per person, with the columns ``clips`` and ``films``.
        videos: the number of utterances of each video.
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


def assign_utterances(films: np.ndarray, utterances: int, rng: np.random.Generator) -> Int[np.ndarray, " V"]:
    """Assigns an utterance of the video, counted from 0, to each clip of one person, given by its film (V,).

    Each film takes a contiguous part of the video, in a random order of films: neighbouring utterances share topic and
    sound, so that utterances assigned one by one would leak. A part has at least one utterance, and each further one
    goes to the film with the most clips per utterance. A film with fewer utterances than clips starts over.
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


def exchange(
    utterances: Int[np.ndarray, " V"], speakers: np.ndarray, share: float, rng: np.random.Generator
) -> Int[np.ndarray, " V"]:
    """Gives a share of the clips, drawn at random, an utterance of another speaker that no clip has.

    No utterance is given twice, so that none is on both sides of a split. Where none is left, a clip keeps its own.

    Args:
        utterances: the utterance of each clip, counted from 0.
        speakers: the speaker of each utterance.
    """
    exchanged, left = utterances.copy(), rng.permutation(np.setdiff1d(np.arange(len(speakers)), utterances))
    for clip in rng.permutation(len(utterances))[: round(share * len(utterances))]:
        others = np.flatnonzero(speakers[left] != speakers[utterances[clip]])
        if len(others):
            exchanged[clip], left = left[others[0]], np.delete(left, others[0])
    return exchanged


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Float32[np.ndarray, "n _"]]]:
    """The utterances in the order of their videos, and the vectors (n, D_m) of each modality."""
    arrays = npz.read_rows(path, ChimeraError, FIELDS)
    table = pd.DataFrame({"video_id": arrays["video_id"].astype(str), "utterance": arrays["utterance"].astype(int)})
    names = table["video_id"] + "/" + table["utterance"].astype(str)
    if (twice := table.duplicated()).any():
        raise ChimeraError(f"{path}: the utterance {names[twice.argmax()]} occurs twice, expected once")
    table, vectors = table.sort_values(["video_id", "utterance"]), {}
    for modality, name in SOURCES.items():
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
            vector = arrays[name].astype(np.float32)
        if not (finite := np.isfinite(vector).all(axis=1)).all():
            raise ChimeraError(f"{path}: {name} of {names[finite.argmin()]} is not finite, expected numbers only")
        vectors[modality] = vector[table.index]
    return table.reset_index(drop=True), vectors


def _standardised(vectors: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Columns of mean 0 and deviation 1; constant columns become 0. No value exceeds √(n − 1), so float16 holds it."""
    spread = vectors.std(axis=0, dtype=np.float64)
    changes = (vectors != vectors[:1]).any(axis=0)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    return np.where(changes, centred / np.where(changes, spread, 1), 0).astype(np.float32)
