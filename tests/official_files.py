"""Makes a folder as iQIYI hands it out: small, of persons that do not exist, with all that is awkward in the real one.

A 7-digit and an 8-digit name, an empty list of faces, clips absent from a pickle, noise clips, two faces in one frame,
a clip of the ground truth without any features, qualities of -10, 35 and 90, norms from 5 to 20.
"""

from pathlib import Path

import numpy as np
from python2_pickle import Python2Pickler

DIM = 512
PERSONS, TRAIN, VAL, NOISE, TEST = 11, 5, 3, 7, 2  # persons; clips a person in train and in val; clips in all


def clips(seed: int = 0) -> dict[str, dict[str, dict]]:
    """By split and name (bytes, without .mp4): ``person`` (or None) and the values that the pickles hold."""
    rng = np.random.default_rng(seed)
    looks = {kind: rng.normal(size=(PERSONS, DIM)) for kind in ("face", "head", "body", "audio")}

    def vector(kind: str, person: int, norm: float, spread: float) -> np.ndarray:
        found = looks[kind][person] + spread * rng.normal(size=DIM)
        return (norm * found / np.linalg.norm(found)).astype(np.float16)

    def box() -> list[float]:
        x, y = rng.integers(0, 500, 2)
        height = 20.25 + 3 * (x % 53)  # small faces and large ones
        return [int(x), float(y) + 0.5, int(x + rng.integers(0, 300)), float(y + height)]

    def make(person: int) -> dict:
        number = int(rng.integers(2, 9))
        frames = np.sort(rng.integers(0, 90, number))
        frames[1] = frames[0]  # two faces in one frame
        quality = rng.choice([-10.0, 35.0, 90.0], number)
        norms = np.where(quality > 50, 20.0, np.where(quality > 0, 11.0, 5.0))
        written = [b"%d" % frame for frame in frames]
        return {
            "face": [
                [frame, box(), float(rng.uniform(0.8, 1)), float(q), vector("face", person, norm, 25 / norm)]
                for frame, q, norm in zip(written, quality, norms, strict=True)
            ],
            "head": [(written[0], tuple(box()), 0.97, vector("head", person, 9, 1)) for _ in range(2)],
            "body": [[frame, np.array(box()), vector("body", person, 30, 2)] for frame in written[:3]],
            "audio": vector("audio", person, 3, 3),
        }

    made: dict[str, dict[str, dict]] = {"train": {}, "val": {}, "test": {}}
    for n in range(PERSONS * TRAIN):
        name = b"IQIYI_VID_TRAIN_%07d" % n if n % 5 else b"IQIYI_VID_TRAIN_%08d" % (12_000_000 + n)
        made["train"][name] = {"person": n % PERSONS} | make(n % PERSONS)
    for n in range(PERSONS * VAL + NOISE):
        noise = n >= PERSONS * VAL
        made["val"][b"IQIYI_VID_VAL_%07d" % (3 * n)] = {"person": None if noise else n % PERSONS} | make(n % PERSONS)
    for n in range(TEST):
        made["test"][b"IQIYI_VID_TEST_%07d" % n] = {"person": None} | make(n)
    for split, kind, n in (("train", "head", 3), ("train", "audio", 4), ("val", "body", 2), ("val", "audio", 36)):
        del list(made[split].values())[n][kind]
    list(made["train"].values())[6]["face"] = []
    bare = list(made["val"].values())[5]
    for kind in ("face", "head", "body", "audio"):
        del bare[kind]  # in the ground truth alone
    return made


def write(
    folder: Path, made: dict[str, dict[str, dict]] | None = None, puts: str = "all"
) -> dict[str, dict[str, dict]]:
    """Writes the folder; the clips that it holds. Person p has the id p + 3: ids need not begin at 1."""
    made = made or clips()
    (folder / "feat").mkdir(parents=True, exist_ok=True)
    train = [(name, clip["person"]) for name, clip in made["train"].items()]
    (folder / "train_gt.txt").write_bytes(b"".join(b"%s.mp4 %d\n" % (name, person + 3) for name, person in train))
    lines = []
    for person in range(PERSONS):
        own = [name for name, clip in made["val"].items() if clip["person"] == person]
        lines.append(b"%d %s \n" % (person + 3, b" ".join(name + b".mp4" for name in own)))
    (folder / "val_gt.txt").write_bytes(b"".join(lines))
    for split, of_split in made.items():
        for kind in ("face", "head", "body", "audio"):
            version = "_v2" if kind == "face" and split != "test" else ""
            with (folder / "feat" / f"{kind}_{split}{version}.pickle").open("wb") as out:
                Python2Pickler(out, puts).dump((name, clip[kind]) for name, clip in of_split.items() if kind in clip)
    return made
