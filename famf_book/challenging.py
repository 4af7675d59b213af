"""The challenging cases of Fig. 2: which faces are of which kind, how many there are, and how long their vectors are.

Where the makers of the data labelled the faces, the labels say what a face is. Blur has no label; it is measured in
the picture. Of synthetic faces the generator's own variables tell. Other data have at most boxes and a quality score:
then the kinds are what these tell.
"""

import zlib
from collections.abc import Iterable
from functools import reduce
from io import BytesIO
from operator import and_
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from famf_book.plots import OURS, PALETTE, WIDTH
from famf_lib.data import imfdb
from famf_lib.data.clipset import ClipSet
from famf_lib.evidence.bootstrap import Estimate, estimate
from famf_lib.support import rasters
from famf_video.quality import PIXELS, sharpness

KINDS = {
    "occlusion": "occluded",
    "light": "in weak light",
    "small": "small",
    "blur": "blurred",
    "pose": "turned away",
}
"""The kinds in the order of the page, each with the word for a face."""
CLEAR, POOR = "clear", "poor"
NAMES = {CLEAR: CLEAR, **KINDS, POOR: "rated poor"}

SMALL, LARGE = 40, 80  # pixels: a small face is lower than the one, a clear one at least as high as the other
BLURRED = 0.1  # share of the measured faces, the least sharp
POOREST = 0.1  # share of the faces with a score, the lowest
LATENT = {"occlusion": ("occlusion", 0.35), "light": ("darkness", 0.5), "blur": ("blur", 0.5)}  # above
YAW = 45.0  # degrees
LEAST = 3  # faces of a person on both sides of a comparison of medians

RULES = {
    "labels": {
        "occlusion": "the makers' label names something: glasses, hand, hair, beard, ornaments or others",
        "light": "the makers' label of the illumination is BAD",
        "small": f"the box is lower than {SMALL} pixels",
        "blur": f"measured: the least sharp {BLURRED:.0%} of the faces that are at least {LARGE} pixels high",
        "pose": "the makers' label of the pose is LEFT, RIGHT, UP or DOWN",
        CLEAR: f"none of these, all labels known, at least {LARGE} pixels high",
    },
    "generator": {
        "occlusion": f"occlusion above {LATENT['occlusion'][1]}",
        "light": f"darkness above {LATENT['light'][1]}",
        "small": f"the box is lower than {SMALL} pixels",
        "blur": f"blur above {LATENT['blur'][1]}",
        "pose": f"yaw beyond {YAW:.0f}° to either side",
        CLEAR: f"at most half of each of these values, at least {LARGE} pixels high",
    },
    "scores": {
        "small": f"the box is lower than {SMALL} pixels",
        POOR: f"the source's own quality score is among the lowest {POOREST:.0%}",
        CLEAR: f"at least {LARGE} pixels high and with a score in the upper half, where the data tell these",
    },
}


def told_by(columns: Iterable[str]) -> Literal["labels", "generator", "scores"]:
    """What tells of which kind a face is, by the columns of the table of faces."""
    there = set(columns)
    if {"path", "occlusion", "illumination", "pose", "y1", "y2"} <= there:
        return "labels"
    return "generator" if {"occlusion", "darkness", "blur", "yaw", "own", "y1", "y2"} <= there else "scores"


def kinds(clipset: ClipSet, sharpness: Float[np.ndarray, " F"] | None = None) -> pd.DataFrame:
    """For each face (F rows) and each kind, and ``clear``, whether it is that; missing where nobody knows.

    The kinds are KINDS, or where there are neither labels nor a generator those that boxes and scores tell: ``small``
    and ``poor``, or one of them, or none.

    Args:
        sharpness: of each face, NaN where it was not measured; labelled faces need it to tell which are blurred.
    """
    faces = clipset.face_columns()
    told = told_by(faces)
    if told == "scores":
        return _by_scores(faces)
    height = (faces["y2"] - faces["y1"]).to_numpy()
    table = {}
    if told == "labels":
        if sharpness is None:
            raise ValueError("sharpness: labelled faces need one each, NaN where it was not measured")
        measured = np.isfinite(sharpness)
        least = np.quantile(sharpness[measured], BLURRED) if measured.any() else -np.inf
        for kind, label, usual in (("occlusion", "occlusion", ["NONE"]), ("light", "illumination", ["MEDIUM", "HIGH"]),
                                   ("pose", "pose", ["FRONTAL"])):  # fmt: skip
            table[kind] = (~faces[label].isin(usual)).astype("boolean").mask(faces[label].isna())
        table["small"] = pd.Series(height < SMALL, dtype="boolean")
        table["blur"] = pd.Series(sharpness < least, dtype="boolean").mask(~measured)
        kept = pd.DataFrame(table)
        clear = kept.notna().all(axis=1) & ~kept.fillna(True).any(axis=1) & (height >= LARGE)
    else:
        clear = (height >= LARGE) & (faces["yaw"].abs() <= YAW / 2)
        for kind, (column, above) in LATENT.items():
            table[kind] = faces[column] > above
            clear &= faces[column] <= above / 2
        table["pose"] = faces["yaw"].abs() > YAW
        table["small"] = pd.Series(height < SMALL)
    return pd.DataFrame(table)[list(KINDS)].assign(**{CLEAR: clear}).astype("boolean").reset_index(drop=True)


def _by_scores(faces: pd.DataFrame) -> pd.DataFrame:
    table, clear = {}, []
    if {"y1", "y2"} <= set(faces):
        height = (faces["y2"] - faces["y1"]).astype("Float64")
        table["small"] = height < SMALL
        clear.append(height >= LARGE)
    if "quality" in faces and faces["quality"].notna().any():
        score = faces["quality"].astype("Float64")
        table[POOR] = (score <= score.quantile(POOREST)) & (score < score.median())  # of equal scores none is poor
        clear.append(score >= score.median())
    nobody_knows = pd.Series(pd.NA, index=faces.index, dtype="boolean")
    table[CLEAR] = reduce(and_, clear) if clear else nobody_knows
    return pd.DataFrame(table).astype("boolean").reset_index(drop=True)


def sharpness_of(clipset: ClipSet) -> Float[np.ndarray, " F"]:
    """The sharpness of every face that has a real picture of enough pixels here; NaN for the others."""
    faces = clipset.face_columns()
    measured = np.full(len(faces), np.nan)
    if told_by(faces) != "labels" or imfdb.absence():
        return measured
    enough = np.flatnonzero(faces["y2"] - faces["y1"] >= LARGE)
    paths = faces["path"].to_numpy()
    contents = imfdb.pictures(imfdb.archive(), set(paths[enough])) if len(enough) else {}
    for row in enough:
        picture = rasters.open(BytesIO(contents[paths[row]]))
        picture.draft("L", PIXELS)  # a large JPEG is decoded no larger than needed
        measured[row] = sharpness(picture)
    return measured


def alone(table: pd.DataFrame) -> pd.DataFrame:
    """The faces of one kind of which no other kind is known; clear faces as they are."""
    told = table.fillna(False).astype(bool)
    hard = told.drop(columns=CLEAR)
    return hard.mul(hard.sum(axis=1) == 1, axis=0).assign(**{CLEAR: told[CLEAR]})


def chosen(clipset: ClipSet, table: pd.DataFrame, count: int, seed: int) -> dict[str, Int[np.ndarray, " n"]]:
    """Per kind, and for clear faces, up to ``count`` faces drawn by lot, each of another person.

    They are of this kind alone, and of the clip's own person; noise clips take no part. The lots of a kind do not
    depend on the other kinds.
    """
    person = persons_of_faces(clipset)
    lots, only = {}, alone(table)
    for kind in (name for name in NAMES if name in table):
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
        rows = rng.permutation(np.flatnonzero(only[kind].to_numpy() & (person >= 0)))
        _, first = np.unique(person[rows], return_index=True)
        lots[kind] = rows[np.sort(first)[:count]]
    return lots


def persons_of_faces(clipset: ClipSet) -> Int[np.ndarray, " F"]:
    """The person of each face as a position in ``clipset.persons``; -1 in noise clips and for faces of others."""
    person = np.repeat(clipset.labels.numpy(), clipset.counts.numpy())
    faces = clipset.face_columns()
    return np.where(faces["own"], person, -1) if "own" in faces else person


def lengths(clipset: ClipSet) -> Float[np.ndarray, " F"]:
    """The norm of each face's vector."""
    return clipset.faces.float().norm(dim=1).numpy().astype(np.float64)


def against_clear(clipset: ClipSet, of_kind: np.ndarray, clear: np.ndarray) -> Estimate | None:
    """How much longer the vectors of these faces are than those of clear ones: 0 is as long, -0.2 a fifth shorter.

    Of each person the median over the faces of the kind, over the median over the clear ones, less 1; the mean over
    the persons with its interval. None where fewer than two persons have three faces of both.
    """
    person, norm = persons_of_faces(clipset), lengths(clipset)

    def medians(chosen: np.ndarray) -> pd.Series:
        by_person = pd.Series(norm[chosen]).groupby(person[chosen])
        return by_person.median()[by_person.size() >= LEAST]

    known = person >= 0
    ratio = (medians(of_kind & known) / medians(clear & known)).dropna() - 1
    return estimate(ratio.to_numpy()[None]) if len(ratio) > 1 else None


def summary(clipset: ClipSet, table: pd.DataFrame) -> pd.DataFrame:
    """A row a kind, and one for clear faces: faces, their share, the median norm, and the difference to clear ones.

    ``share`` is among the faces of which the kind is known. ``all`` and ``alone`` are what ``against_clear`` gives for
    all faces of the kind and for those of no other kind; their ends are ``… low`` and ``… high``. Faces that are not
    of the clip's person, and those of noise clips, do not count.
    """
    known, norm = persons_of_faces(clipset) >= 0, lengths(clipset)
    told, only = table.fillna(False).astype(bool), alone(table)
    rows = {}
    for kind in table:
        here = told[kind].to_numpy() & known
        asked = int((table[kind].notna().to_numpy() & known).sum())
        row = {"faces": int(here.sum()), "share": here.sum() / asked if asked else np.nan}
        row["median norm"] = np.median(norm[here]) if here.any() else np.nan
        for which, faces in (("all", told), ("alone", only)) if kind != CLEAR else ():
            found = against_clear(clipset, faces[kind].to_numpy(), told[CLEAR].to_numpy())
            ends = (found.mean, found.low, found.high, found.persons) if found else (np.nan, np.nan, np.nan, 0)
            row |= dict(zip((which, f"{which} low", f"{which} high", f"{which} persons"), ends, strict=True))
        rows[kind] = row
    columns = ["faces", "share", "median norm"]
    columns += [f"{which}{end}" for which in ("all", "alone") for end in ("", " low", " high", " persons")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("kind")


def answer(found: pd.DataFrame) -> str:
    """Do hard faces have shorter vectors? In a sentence or two, from the table of ``summary``."""
    if list(found.index) == [CLEAR]:
        return "These data tell nothing of their faces, neither boxes nor scores: no kind can be told."
    hard = found.drop(index=CLEAR).dropna(subset=["all"]).sort_values("all")
    if hard.empty:
        return "Too few persons have faces of these kinds beside clear ones: nothing can be said."

    def words(rows: pd.DataFrame) -> str:
        each = [f"{NAMES[kind]} {row['all']:+.1%} [{row['all low']:+.1%}, {row['all high']:+.1%}]"
                for kind, row in rows.iterrows()]  # fmt: skip
        return ", ".join(each).replace("-", "−")

    shorter, longer = hard[hard["all high"] < 0], hard[hard["all low"] > 0]
    open_ = hard.drop(index=[*shorter.index, *longer.index])
    if len(shorter) == len(hard):
        said = [f"Yes, of every kind: against clear faces of the same person, vectors are shorter ({words(shorter)})."]
    elif len(shorter):
        said = [f"For {len(shorter)} of {len(hard)} kinds: against clear faces of the same person, vectors are shorter "
                f"({words(shorter)})."]  # fmt: skip
    else:
        said = ["No kind has vectors that are shorter beyond doubt."]
    if len(longer):
        said.append(f"They are longer for faces that are {words(longer)}.")
    if len(open_):
        said.append(f"The interval leaves it open for faces that are {words(open_)}.")
    return " ".join(said)


def caveat(clipset: ClipSet) -> str:
    """What the answer is worth on these data, in a sentence."""
    return {
        "labels": "The network that made these vectors was told nothing of the kinds.",
        "generator": "On synthetic data this is no finding but how they were made: norms fall with the quality as was "
        "measured on real faces. What is left to see is how the kinds compare.",
        "scores": "These data have no labels: occlusion, weak light, blur and pose are not told.",
    }[told_by(clipset.face_columns())]


def rules(clipset: ClipSet, table: pd.DataFrame) -> str:
    """What counts as which kind, as a list in Markdown."""
    if list(table) == [CLEAR]:
        return "- nothing that these data tell"
    said = RULES[told_by(clipset.face_columns())]
    return "\n".join(f"- **{NAMES[kind]}**: {rule}" for kind, rule in said.items() if kind in table)


def method(clipset: ClipSet, table: pd.DataFrame) -> str:
    """How faces were counted and measured, in a paragraph."""
    told = told_by(clipset.face_columns())
    if told == "scores":
        tenth = "That a tenth of the faces is rated poor, or more where scores are the same, is so by definition. "
        return (
            "What the data do not tell is left out, and nothing is guessed from the vectors. "
            f"{tenth if POOR in table else ''}Noise clips are left out. Every face counts alike, so long clips count "
            "for more in the shares."
        )
    if told == "generator":
        return (
            "Every limit is set by hand, so the shares say how the limits lie and no more. Faces that are not of the "
            "clip's own person, and noise clips, are left out."
        )
    asked = table["blur"].notna().sum()
    return (
        f"Blur has no label. It is measured in the pictures of the {asked:,} faces that are at least {LARGE} pixels "
        f"high: the variance of the Laplacian at {PIXELS[0]} × {PIXELS[1]} pixels, over the "
        f"variance of the grey values, so that a picture of little contrast does not pass for a blurred one. That a "
        f"tenth of them is blurred is so by definition. Lower faces are not measured: enlarged, they would all look "
        f"blurred. The labels are the makers', one for each picture, and now and then doubtful; where one is missing, "
        f"the face does not count for that kind. Every face counts alike, so long clips count for more in the shares."
    )


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The table of ``summary`` as a page shows it."""

    def interval(row: pd.Series, which: str) -> str:
        if not np.isfinite(row[which]):
            return ""
        return f"{row[which]:+.1%} [{row[f'{which} low']:+.1%}, {row[f'{which} high']:+.1%}]".replace("-", "−")

    rows = {
        NAMES.get(kind, kind): {
            "faces": f"{row['faces']:,.0f}",
            "share": f"{row['share']:.1%}" if np.isfinite(row["share"]) else "",
            "median norm": f"{row['median norm']:.2f}" if np.isfinite(row["median norm"]) else "",
            "against clear": interval(row, "all"),
            "this kind alone": interval(row, "alone"),
            "persons": "" if kind == CLEAR else f"{row['all persons']:.0f} and {row['alone persons']:.0f}",
        }
        for kind, row in found.iterrows()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")


def kinds_figure(found: pd.DataFrame) -> Figure:
    """How often each kind is, and how much shorter its vectors are: the table of ``summary`` as a figure."""
    hard = found.drop(index=CLEAR, errors="ignore")
    figure, (often, shorter) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.25 + 0.42 * max(len(hard), 1)), layout="constrained", sharey=True, width_ratios=[1, 1.7]
    )
    y = np.arange(len(hard))
    often.barh(y, hard.get("share", []), height=0.5, color=OURS, alpha=0.8, linewidth=0)
    for at, share in zip(y, hard.get("share", []), strict=True):
        if np.isfinite(share):
            often.annotate(f"{share:.1%}", (share, at), xytext=(4, 0), textcoords="offset points", va="center",
                           fontsize=9)  # fmt: skip
    often.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    often.set(xlabel="share of the faces")
    often.margins(x=0.28)
    for which, label, colour, shift, filled in (
        ("all", "all faces of the kind", OURS, -0.13, True),
        ("alone", "of this kind alone", PALETTE[1], 0.13, False),
    ):
        if which in hard:
            ends = hard[[f"{which} low", f"{which} high"]].T
            shorter.plot(ends, [y + shift] * 2, color=colour, linewidth=2.5, solid_capstyle="round", zorder=2)
            face = colour if filled else "white"
            shorter.scatter(hard[which], y + shift, s=50, facecolor=face, edgecolor=colour, linewidth=1.8, zorder=3)
        shorter.scatter([], [], s=50, facecolor=colour if filled else "white", edgecolor=colour, linewidth=1.8,
                        label=label)  # fmt: skip
    shorter.axvline(0, color="0.35", linewidth=1)
    shorter.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    shorter.set(xlabel="length of the vector against clear faces")
    often.set_yticks(y, [NAMES.get(kind, kind) for kind in hard.index])
    often.set_ylim(len(hard) - 0.4, -0.6)
    for axes in (often, shorter):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.get_layout_engine().set(wspace=0.08)  # the ends of the two scales do not touch
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
