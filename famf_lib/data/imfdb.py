"""IMFDB: faces of actors in films, cut out and labelled by hand (Setty et al., NCVPRIPG 2013; CVIT, IIIT Hyderabad).

The makers' archive holds one folder per person and film, with the pictures of the faces and a list: one line per
picture with the video, the frame, the box in the frame and the labels. ``data/README.md`` lists the faults of the
archive and what is done about each. Most of the cleaning rests on one test: pictures were cut out along their boxes, so
a line can only describe a picture of exactly the size of its box.
"""

import gzip
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from famf_lib.data import npz
from famf_lib.data.clipset import HELD, ClipSet, held, sha256
from famf_lib.support import rasters
from famf_lib.support.files import sources
from famf_lib.support.fingerprint import source_fingerprint

MAX_GAP, MIN_FACES = 100, 3
TOP = "IMFDB_final"
ARCHIVE = f"{TOP}.tar.gz"
EMBEDDINGS = "mobilefacenet128.npz"
FIELDS = ("path", "embedding", "onet_probability")

LABELS = {
    "gender": ("MALE", "FEMALE"),
    "expression": ("NEUTRAL", "HAPPINESS", "SADNESS", "ANGER", "SURPRISE", "DISGUST", "FEAR"),
    "occlusion": ("NONE", "GLASSES", "HAND", "HAIR", "BEARD", "ORNAMENTS", "OTHERS"),
    "illumination": ("BAD", "MEDIUM", "HIGH"),
    "age": ("CHILD", "YOUNG", "MIDDLE", "OLD"),
    "pose": ("FRONTAL", "LEFT", "RIGHT", "UP", "DOWN"),
    "makeup": ("PARTIAL", "OVER"),
}
"""The makers' vocabularies. No word is in two of them, so that a word in the wrong column can be recognised."""

INITIAL = {"MALE", "ANGER", "GLASSES", "BAD", "CHILD", "FRONTAL", "PARTIAL"}
"""The initial choices of the makers' labelling tool: a line with exactly these was not labelled."""

MEMBER, LINES = 16 << 20, 1 << 20  # bytes of a picture or list, and lines in all; officially 1 MB and 35,000
UNALIGNED = 0.3  # at or below this O-Net probability, the face was embedded without alignment

_NUMBER = re.compile(r"(\d{1,18})\.(?:jpe?g|png)$", re.IGNORECASE)
_LINE = re.compile(
    r"^(?P<video>.*?)\s*(?P<frame>\d{1,18})\.(?:jpe?g|png)\s+[^\t]*?(?P<number>\d{1,18})\.(?:jpe?g|png)"
    r"\s+(?P<x>\d{1,18})\s+(?P<y>\d{1,18})\s+(?P<width>\d{1,18})\s+(?P<height>\d{1,18})(?:\s+(?P<labels>.*))?$",
    re.IGNORECASE,
)
# "3Idiots_frame_100120" + "246386.jpg", "image_10600_of" + "139312.png": the frame, and the number of frames
_FRAME_IN_VIDEO = re.compile(r"[ _]*(?:frame|image)_(\d{0,18})(?:_of)?$", re.IGNORECASE)


class ImfdbError(ValueError):
    """The files cannot be used; the message says which, what was found and what was expected."""


def absence() -> str | None:
    """Says which file is missing, where it was looked for and how to get it; None if all are here."""
    source, embeddings = _located()
    missing = [f"the archive {ARCHIVE} or the folder {TOP}"] * (source is None)
    missing += [f"the face embeddings {EMBEDDINGS} (or exactly one .npz file of another name)"] * (embeddings is None)
    if not missing:
        return None
    return f"imfdb: {' and '.join(missing)} not found in {sources() / 'imfdb'}; data/README.md says how to get it"


def _located() -> tuple[Path | None, Path | None]:
    folder = sources() / "imfdb"
    source = next((path for path in (folder / ARCHIVE, folder / TOP) if path.exists()), None)
    files = sorted(folder.glob("*.npz"))
    named = [path for path in files if path.name == EMBEDDINGS]
    return source, next(iter(named or (files if len(files) == 1 else [])), None)


def _present() -> tuple[Path, Path]:
    if reason := absence():
        raise ImfdbError(reason)
    source, embeddings = _located()
    assert source and embeddings
    return source, embeddings


def archive() -> Path:
    """The makers' archive, or the folder unpacked from it.

    Raises:
        ImfdbError: the dataset is not here.
    """
    return _present()[0]


def key(profile: str) -> str:
    """Hashes everything that decides ``make``. The profile does not: there is one IMFDB."""
    source, embeddings = _present()
    digest = hashlib.sha256(json.dumps([MAX_GAP, MIN_FACES, source_fingerprint(__name__, npz.__name__)]).encode())
    digest.update(hash_of(source))
    digest.update(bytes.fromhex(sha256(embeddings)))
    return digest.hexdigest()[:16]


def hash_of(source: Path) -> bytes:
    """Hashes the archive, or the folder unpacked from it."""
    if not source.is_dir():
        return bytes.fromhex(sha256(source))
    digest = hashlib.sha256()
    for path in _walk(source):  # 34,000 small files: names and sizes are enough
        digest.update(f"{path.relative_to(source).as_posix()} {path.stat().st_size}\n".encode())
    return digest.digest()


def make(profile: str) -> ClipSet:
    """Builds the ClipSet of the files in the user's data folder, the same for every profile."""
    return build(*_present())


def build(source: Path, embeddings: Path, *, max_gap: int = MAX_GAP, min_faces: int = MIN_FACES) -> ClipSet:
    """Imports the makers' archive, or the folder unpacked from it, with a file of face embeddings.

    A clip holds the faces of one person in one video of one film, in the order of the frames. It ends where the next
    face is more than ``max_gap`` frames away, and has at least ``min_faces`` faces. Its ``group`` is the film, missing
    if the source does not give it. A face's ``quality`` is the norm of its embedding, its ``det_score`` O-Net's
    probability. ``info["cleaning"]`` counts what was done about each fault.

    Args:
        source: ``IMFDB_final.tar.gz`` (read as a stream, never unpacked) or the folder ``IMFDB_final``.
        embeddings: an .npz with path (n,), embedding (n, D) and onet_probability (n,).

    Raises:
        ImfdbError: one sentence with the file, what was found and what was expected.
    """
    crops, lines, cleaning = _read(Path(source))
    vectors, scores = _embeddings(Path(embeddings))
    if not crops["path"].isin(scores.index).any():
        raise ImfdbError(f"{embeddings}: path holds no picture of {source}, expected paths such as {crops['path'][0]}")

    faces = _placed(crops, lines, cleaning)
    known = faces["path"].isin(scores.index)
    cleaning["pictures dropped: no embedding"] = int((~known).sum())
    cleaning["embeddings without a picture"] = int((~scores.index.isin(crops["path"])).sum())
    faces = faces[known].sort_values("path")
    copies = faces["content"].duplicated()
    cleaning["pictures dropped: exact copy of another"] = int(copies.sum())
    faces = _clips(faces[~copies], max_gap, min_faces, cleaning)
    if faces.empty:
        raise ImfdbError(f"{source}: no clip of {min_faces} faces with embeddings, expected at least one")

    row = scores["row"].loc[faces["path"]].to_numpy()
    faces["det_score"] = scores["score"].to_numpy()[row]
    faces["aligned"] = faces["det_score"] > UNALIGNED
    faces["quality"] = np.linalg.norm(vectors[row].astype(np.float32), axis=1)
    faces = faces.assign(x1=faces["x"], y1=faces["y"], x2=faces["x"] + faces["width"], y2=faces["y"] + faces["height"])
    cleaning["faces kept although embedded without alignment (O-Net 0.3 or less)"] = int((~faces["aligned"]).sum())

    clips = faces.groupby("clip", sort=True)
    first = clips.first()
    film = first["film"].where(first["named"])
    cleaning["clips without a known film (in no films-disjoint split)"] = int(film.isna().sum())
    gender = faces.groupby("person")["gender"].agg(lambda labels: next(iter(labels.mode()), None))
    frame = first["frame"].astype(str).str.zfill(6)
    table = pd.DataFrame(
        {
            "name": first["person"] + "/" + first["film"] + "/" + first["video"] + "/" + frame,
            "person": first["person"],
            "split": pd.Series(None, index=first.index, dtype="str"),
            "group": film,
            "video": first["video"],
            "gender": first["person"].map(gender),
        }
    )
    columns = ["path", "frame", "x1", "y1", "x2", "y2", "width", "height", "det_score", "aligned", "quality"]
    columns += [label for label in LABELS if label != "gender"]
    info = {"dataset": "imfdb", "max_gap": max_gap, "min_faces": min_faces, "cleaning": cleaning}
    return ClipSet.build(vectors[row], clips.size().to_numpy(), table, face_table=faces[columns], info=info)


def pictures(source: Path, paths: set[str]) -> dict[str, bytes]:
    """Reads some pictures by their ``path``, in one pass over the archive or folder.

    Raises:
        ImfdbError: one of them is not there.
    """
    found = dict(_members(Path(source), paths.__contains__))
    if missing := sorted(paths - found.keys()):
        raise ImfdbError(f"{source}: {missing[0]} is not in it, one of {len(missing)} pictures missing of {len(paths)}")
    return found


def all_pictures(source: Path) -> Iterator[tuple[str, bytes]]:
    """Reads path and content of every picture as a stream, in the order of the archive.

    Raises:
        ImfdbError: it cannot be read.
    """
    return _members(Path(source), lambda name: _wanted(name) and not name.lower().endswith(".txt"))


# --- reading ---------------------------------------------------------------------------------------------------------


def _walk(folder: Path) -> Iterator[Path]:
    for place, inside, names in os.walk(folder):
        inside.sort()
        yield from (Path(place, name) for name in sorted(names))


def _members(source: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Path within the archive and content of the wanted files. Nothing is written to disk."""
    if source.is_dir():
        for path in _walk(source):
            if wanted(name := f"{TOP}/{path.relative_to(source).as_posix()}"):
                yield name, path.read_bytes()
        return
    try:
        with gzip.open(source) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and wanted(name := member.name.removeprefix("./")):
                        if member.size > MEMBER:  # zeros take a thousandth of it in the archive
                            found = f"{name} of {member.size >> 20:,} MB"
                            raise ImfdbError(f"{source}: {found} found, expected {MEMBER >> 20} MB at most")
                        yield name, archive.extractfile(member).read()  # type: ignore[union-attr]
            while stream.read(1 << 20):  # the checksum of gzip is at the end
                pass
    except FileNotFoundError as error:
        raise ImfdbError(f"{source}: there is no such file, expected {ARCHIVE} or the folder {TOP}") from error
    except EOFError as error:
        raise ImfdbError(f"{source}: the archive ends too early, expected a whole one; copy it again") from error
    except (tarfile.TarError, zlib.error, OSError) as error:
        raise ImfdbError(f"{source}: it cannot be read as a .tar.gz archive ({error}), expected {ARCHIVE}") from error


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] != TOP or parts[-1].startswith("."):
        return False
    listed = len(parts) == 4 and parts[3].lower().endswith(".txt")
    return listed or (len(parts) == 5 and parts[3] == "images" and _NUMBER.search(parts[4]) is not None)


def _read(source: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """The pictures with their sizes, hashes and films, the lines of the lists, and the first counts."""
    found: dict[str, tuple] = {}  # by path: a later member of an archive replaces an earlier one
    lines: list[dict] = []
    placeless = initial = unreadable = 0
    for name, content in _members(source, _wanted):
        _, person, folder, *rest = name.split("/")
        if len(rest) == 2:
            number = int(_NUMBER.search(name)[1])  # type: ignore[index]
            found[name] = (name, person, folder, number, *_size(content), hashlib.sha256(content).hexdigest())
            continue
        # Some lists contain byte-order marks; one ends in zeros.
        for line in re.split(r"\r\n?|\n", re.sub("[\ufeff\0]", "", content.decode("utf-8", errors="replace"))):
            if not line.strip():
                continue
            if not (match := _LINE.match(line)):
                placeless += 1
                continue
            if len(lines) == LINES:
                raise ImfdbError(f"{source}: more than {LINES:,} lines found, expected the makers' lists")
            words = set((match["labels"] or "").split())
            labels = {label: words.intersection(vocabulary) for label, vocabulary in LABELS.items()}
            if set.union(*labels.values()) == INITIAL:
                initial += 1
                labels = dict.fromkeys(labels, set())
            elif words:
                unreadable += sum(len(said) != 1 for said in labels.values())
            video, frame = match["video"], match["frame"]
            if inside := _FRAME_IN_VIDEO.search(video):
                video, frame = video[: inside.start()], inside[1] or frame
            lines.append(
                {
                    "person": person,
                    "folder": folder,
                    "video": _plain(video) or _film(folder),
                    "frame": int(frame),
                    **{column: int(match[column]) for column in ("number", "x", "y", "width", "height")},
                    **{label: next(iter(words)) if len(words) == 1 else None for label, words in labels.items()},
                }
            )
    if not found:
        expected = f"{TOP}/<person>/<film>/images/<picture>.jpg"
        raise ImfdbError(f"{source}: there is no picture at {expected} in it, expected the makers' archive")
    if not lines:
        raise ImfdbError(f"{source}: no list describes the pictures, expected {TOP}/<person>/<film>/<film>.txt")
    columns = ["path", "person", "folder", "number", "width", "height", "content"]
    pictures = pd.DataFrame(found.values(), columns=columns)
    cleaning = {
        "pictures": len(pictures),
        "persons": pictures["person"].nunique(),
        "folders (a person in a film)": len(pictures[["person", "folder"]].drop_duplicates()),
        "pictures that cannot be opened": int((pictures["width"] == 0).sum()),
        "pictures that are an exact copy of another": int(pictures["content"].duplicated().sum()),
        "lines": len(lines) + placeless,
        "lines ignored: no picture, frame and box in them": placeless,
        "lines whose labels were never chosen": initial,
        "labels that are no word of their vocabulary": unreadable,
    }
    _name_films(pictures, cleaning)
    return pictures, pd.DataFrame(lines), cleaning


def _size(picture: bytes) -> tuple[int, int]:
    """Width and height from the header, (0, 0) if the file is no picture."""
    try:
        with rasters.open(BytesIO(picture)) as opened:
            return opened.size
    except rasters.RasterError:
        return 0, 0


def _plain(name: str) -> str:
    """Letters and digits in lower case, because the lists spell one video in several ways."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _film(folder: str) -> str:
    """The film of a folder: Habba_1 and Habba_2 are one, extras_Malla is Malla."""
    return re.sub(r"(?<=\D)\d+$", "", _plain(re.sub("^extras_", "", folder, flags=re.IGNORECASE)))


def _name_films(pictures: pd.DataFrame, cleaning: dict[str, int]) -> None:
    """Adds the columns film and named (False for folders that mix several films).

    Folders of one person that share a picture count as one film.
    """
    film = pictures["folder"].map({folder: _film(folder) for folder in pictures["folder"].unique()})
    named = ~film.str.fullmatch("misc|extras?|.*comedy") & (film != pictures["person"].map(_film))
    folders = pictures.assign(film=film)[named][["person", "film", "folder"]].drop_duplicates()
    cleaning["folders joined with another of the same film"] = int(folders.duplicated(["person", "film"]).sum())
    joined, shared = 0, pictures[named]
    shared = shared[shared.duplicated(["person", "content"], keep=False)]
    for (person, _), rows in shared.groupby(["person", "content"]).groups.items():
        names = sorted(set(film[rows]))
        if len(names) > 1:
            joined += len(names) - 1
            film[(pictures["person"] == person) & film.isin(names)] = names[0]
    cleaning["films joined with another because they share pictures"] = joined
    pictures["film"], pictures["named"] = film, named


def _embeddings(path: Path) -> tuple[Float[np.ndarray, "n D"], pd.DataFrame]:
    """The vectors (n, D), and by path the row and the O-Net probability of each."""
    fields = dict(zip(FIELDS, (("U", 1), ("f", 2), ("f", 1)), strict=True))
    paths, vectors, scores = npz.read_rows(path, ImfdbError, fields).values()
    table = pd.DataFrame({"row": np.arange(len(paths)), "score": scores}, index=pd.Index(paths, name="path"))
    if (twice := table.index.duplicated()).any():
        raise ImfdbError(f"{path}: path holds {paths[twice.argmax()]} twice, expected every picture once")
    if not (finite := np.isfinite(scores)).all():
        raise ImfdbError(f"{path}: onet_probability of {paths[finite.argmin()]} is not finite, expected a number")
    with np.errstate(over="ignore"):
        half = torch.from_numpy(vectors.astype(np.float16))
    if not (good := held(half, vectors).numpy()).all():
        largest = np.abs(vectors[good.argmin()]).max()
        found = f"embedding of {paths[good.argmin()]} has {largest:.3g} as its largest number"
        raise ImfdbError(f"{path}: {found}, expected {HELD}")
    return vectors, table


# --- cleaning --------------------------------------------------------------------------------------------------------


def _placed(pictures: pd.DataFrame, lines: pd.DataFrame, cleaning: dict[str, int]) -> pd.DataFrame:
    """The pictures whose place (video, frame, box) is known, with the labels on which their lines agree.

    Lines and pictures are matched by folder, number and size, because the names are often misspelt.
    """
    where = ["person", "folder", "number"]
    lines = lines.reset_index(names="line")
    pairs = lines.merge(pictures, on=where, suffixes=("", "_found"))
    fits = (pairs["width"] == pairs["width_found"]) & (pairs["height"] == pairs["height_found"])
    unmatched, refused = ~lines["line"].isin(pairs["line"]), ~lines["line"].isin(pairs["line"][fits])
    cleaning["lines ignored: their picture is not there"] = int(unmatched.sum())
    cleaning["lines refused: the box is not of the picture's size"] = int((refused & ~unmatched).sum())

    pairs = pairs[fits]
    places = pairs[["path", "video", "frame", "x", "y"]].drop_duplicates()
    disputed = set(places["path"][places["path"].duplicated(keep=False)])
    cleaning["pictures dropped: no line tells their place"] = int((~pictures["path"].isin(places["path"])).sum())
    cleaning["pictures dropped: their lines name different places"] = len(disputed)
    placed = pictures.merge(places[~places["path"].isin(disputed)], on="path")

    contradicted = 0
    for label in LABELS:
        said = pairs[["path", label]].dropna().drop_duplicates()
        twice = said["path"].duplicated(keep=False)
        contradicted += said["path"][twice].nunique()
        placed[label] = placed["path"].map(said[~twice].set_index("path")[label])
    cleaning["labels dropped: the lines of a picture contradict each other"] = contradicted
    return placed


def _clips(faces: pd.DataFrame, max_gap: int, min_faces: int, cleaning: dict[str, int]) -> pd.DataFrame:
    """The faces that belong to a clip, in order; the column ``clip`` holds its number, 0 … V − 1."""
    faces = faces.sort_values(["person", "film", "video", "frame", "path"], ignore_index=True)
    video = faces[["person", "film", "video"]]
    starts = (video != video.shift()).any(axis=1) | (faces["frame"].diff() > max_gap)
    clip = starts.cumsum()
    enough = clip.map(clip.value_counts()) >= min_faces
    cleaning["faces in no clip: too few near them"] = int((~enough).sum())
    faces = faces[enough].copy()
    faces["clip"] = pd.factorize(clip[enough])[0]
    return faces
