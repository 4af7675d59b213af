"""The challenging cases of the paper's Figure 2: the kind of each face, how many there are, and the vector norms.

If the dataset labels its faces, the labels give the kinds, except for blur, which is measured in the picture. For
synthetic faces the variables of the generator give them. Other data have at most boxes and a quality score, which give
the kinds small and poor.
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

from famf_book.plots import OURS, PALETTE, WIDTH, name_rows
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
"""The kinds in the order of the page, each with its name there."""
CLEAR, POOR = "clear", "poor"
NAMES = {CLEAR: CLEAR, **KINDS, POOR: "rated poor"}

SMALL, LARGE = 40, 80  # pixels: small faces are lower than SMALL, clear ones at least LARGE high
BLURRED = 0.1  # the share of measured faces, the least sharp ones, that count as blurred
POOREST = 0.1  # the share of scored faces, the lowest ones, that count as poor
LATENT = {"occlusion": ("occlusion", 0.35), "light": ("darkness", 0.5), "blur": ("blur", 0.5)}  # lower limits
YAW = 45.0  # degrees
LEAST = 3  # fewest faces of a person on each side of a comparison of medians

RULES = {
    "labels": {
        "occlusion": "the label in the dataset names an occluder: glasses, hand, hair, beard, ornaments or others",
        "light": "the label of the illumination is BAD",
        "small": f"the box is less than {SMALL} pixels high",
        "blur": f"measured: the least sharp {BLURRED:.0%} of the faces that are at least {LARGE} pixels high",
        "pose": "the label of the pose is LEFT, RIGHT, UP or DOWN",
        CLEAR: f"none of these, with all labels known, and at least {LARGE} pixels high",
    },
    "generator": {
        "occlusion": f"occlusion above {LATENT['occlusion'][1]}",
        "light": f"darkness above {LATENT['light'][1]}",
        "small": f"the box is less than {SMALL} pixels high",
        "blur": f"blur above {LATENT['blur'][1]}",
        "pose": f"yaw beyond {YAW:.0f}° to either side",
        CLEAR: f"at most half of each of these limits, and at least {LARGE} pixels high",
    },
    "scores": {
        "small": f"the box is less than {SMALL} pixels high",
        POOR: f"the quality score of the dataset is among the lowest {POOREST:.0%}",
        CLEAR: f"at least {LARGE} pixels high and with a score in the upper half, as far as the data have these",
    },
}


def told_by(columns: Iterable[str]) -> Literal["labels", "generator", "scores"]:
    """What gives the kind of a face, according to the columns of the table of faces."""
    names = set(columns)
    if {"path", "occlusion", "illumination", "pose", "y1", "y2"} <= names:
        return "labels"
    return "generator" if {"occlusion", "darkness", "blur", "yaw", "own", "y1", "y2"} <= names else "scores"


def kinds(clipset: ClipSet, sharpness: Float[np.ndarray, " F"] | None = None) -> pd.DataFrame:
    """Whether each face (F rows) is of each kind, or ``clear``; NA where unknown.

    The kinds are KINDS. Data with neither labels nor a generator have ``small`` if there are boxes, and ``poor`` if
    there are scores.

    Args:
        sharpness: of each face, NaN where it was not measured. Labelled faces need it for ``blur``.
    """
    faces = clipset.face_columns()
    told = told_by(faces)
    if told == "scores":
        return _by_scores(faces)
    height = (faces["y2"] - faces["y1"]).to_numpy()
    table = {}
    if told == "labels":
        if sharpness is None:
            raise ValueError(
                "sharpness: None found, expected a number for each labelled face, NaN where it was not measured"
            )
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
        table[POOR] = (score <= score.quantile(POOREST)) & (
            score < score.median()
        )  # if all scores are equal, none is poor
        clear.append(score >= score.median())
    unknown = pd.Series(pd.NA, index=faces.index, dtype="boolean")
    table[CLEAR] = reduce(and_, clear) if clear else unknown
    return pd.DataFrame(table).astype("boolean").reset_index(drop=True)


def sharpness_of(clipset: ClipSet) -> Float[np.ndarray, " F"]:
    """The sharpness of every face that has a real, large enough picture on this machine; NaN for the others."""
    faces = clipset.face_columns()
    measured = np.full(len(faces), np.nan)
    if told_by(faces) != "labels" or imfdb.absence():
        return measured
    enough = np.flatnonzero(faces["y2"] - faces["y1"] >= LARGE)
    paths = faces["path"].to_numpy()
    contents = imfdb.pictures(imfdb.archive(), set(paths[enough])) if len(enough) else {}
    for row in enough:
        picture = rasters.open(BytesIO(contents[paths[row]]))
        picture.draft("L", PIXELS)  # decodes a large JPEG at reduced size
        measured[row] = sharpness(picture)
    return measured


def alone(table: pd.DataFrame) -> pd.DataFrame:
    """Which faces are of each kind and of no other known one; ``clear`` is unchanged."""
    known = table.fillna(False).astype(bool)
    hard = known.drop(columns=CLEAR)
    return hard.mul(hard.sum(axis=1) == 1, axis=0).assign(**{CLEAR: known[CLEAR]})


def chosen(clipset: ClipSet, table: pd.DataFrame, count: int, seed: int) -> dict[str, Int[np.ndarray, " n"]]:
    """For each kind and for clear faces, up to ``count`` faces drawn at random, each of a different person.

    They are of only this kind and show the clip's own person; noise clips are left out. The sample of a kind does not
    depend on the other kinds.
    """
    person = persons_of_faces(clipset)
    sample, only = {}, alone(table)
    for kind in (name for name in NAMES if name in table):
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
        rows = rng.permutation(np.flatnonzero(only[kind].to_numpy() & (person >= 0)))
        _, first = np.unique(person[rows], return_index=True)
        sample[kind] = rows[np.sort(first)[:count]]
    return sample


def persons_of_faces(clipset: ClipSet) -> Int[np.ndarray, " F"]:
    """The person of each face as a position in ``clipset.persons``; -1 in noise clips and for other people's faces."""
    person = np.repeat(clipset.labels.numpy(), clipset.counts.numpy())
    faces = clipset.face_columns()
    return np.where(faces["own"], person, -1) if "own" in faces else person


def lengths(clipset: ClipSet) -> Float[np.ndarray, " F"]:
    """The norm of each face's vector."""
    return clipset.faces.float().norm(dim=1).numpy().astype(np.float64)


def against_clear(clipset: ClipSet, of_kind: np.ndarray, clear: np.ndarray) -> Estimate | None:
    """The relative difference in norm between vectors of these faces and of clear ones; -0.2 means a fifth shorter.

    For each person, it is the median norm of the faces of the kind divided by that of the clear ones, minus 1; the
    estimate is the mean over persons. None if fewer than two persons have at least three faces of both.
    """
    person, norm = persons_of_faces(clipset), lengths(clipset)

    def medians(chosen: np.ndarray) -> pd.Series:
        by_person = pd.Series(norm[chosen]).groupby(person[chosen])
        return by_person.median()[by_person.size() >= LEAST]

    known = person >= 0
    ratio = (medians(of_kind & known) / medians(clear & known)).dropna() - 1
    return estimate(ratio.to_numpy()[None]) if len(ratio) > 1 else None


def summary(clipset: ClipSet, table: pd.DataFrame) -> pd.DataFrame:
    """One row per kind, and one for clear faces: faces, their share, median norm, and the difference from clear ones.

    ``share`` is among the faces for which the kind is known. ``all`` and ``alone`` are ``against_clear`` for all faces
    of the kind and for those of no other kind, with intervals ``… low`` and ``… high``. Faces of noise clips, and those
    that do not show the clip's person, are left out.
    """
    known, norm = persons_of_faces(clipset) >= 0, lengths(clipset)
    every, only = table.fillna(False).astype(bool), alone(table)
    rows = {}
    for kind in table:
        of_kind = every[kind].to_numpy() & known
        judged = int((table[kind].notna().to_numpy() & known).sum())
        row = {"faces": int(of_kind.sum()), "share": of_kind.sum() / judged if judged else np.nan}
        row["median norm"] = np.median(norm[of_kind]) if of_kind.any() else np.nan
        for which, faces in (("all", every), ("alone", only)) if kind != CLEAR else ():
            found = against_clear(clipset, faces[kind].to_numpy(), every[CLEAR].to_numpy())
            ends = (found.mean, found.low, found.high, found.persons) if found else (np.nan, np.nan, np.nan, 0)
            row |= dict(zip((which, f"{which} low", f"{which} high", f"{which} persons"), ends, strict=True))
        rows[kind] = row
    columns = ["faces", "share", "median norm"]
    columns += [f"{which}{end}" for which in ("all", "alone") for end in ("", " low", " high", " persons")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("kind")


def answer(found: pd.DataFrame) -> str:
    """Whether hard faces have shorter vectors than clear ones, from the table of ``summary``, in a few sentences."""
    if list(found.index) == [CLEAR]:
        return "These data have neither boxes nor scores of faces, so the kinds are unknown."
    hard = found.drop(index=CLEAR).dropna(subset=["all"]).sort_values("all")
    if hard.empty:
        return "Too few persons have both faces of these kinds and clear ones to compare them."

    def words(rows: pd.DataFrame) -> str:
        each = [f"{NAMES[kind]} {row['all']:+.1%} [{row['all low']:+.1%}, {row['all high']:+.1%}]"
                for kind, row in rows.iterrows()]  # fmt: skip
        return ", ".join(each).replace("-", "−")

    shorter, longer = hard[hard["all high"] < 0], hard[hard["all low"] > 0]
    open_ = hard.drop(index=[*shorter.index, *longer.index])
    if len(shorter) == len(hard):
        said = [f"Faces of every kind have shorter vectors than clear faces of the same person: {words(shorter)}."]
    elif len(shorter):
        said = [f"Faces of {len(shorter)} of {len(hard)} kinds have shorter vectors than clear faces of the same "
                f"person: {words(shorter)}."]  # fmt: skip
    else:
        said = ["No kind of face was shown to have shorter vectors than clear faces of the same person."]
    if len(longer):
        said.append(f"Vectors are longer for faces that are {words(longer)}.")
    if len(open_):
        said.append(f"The interval contains 0 for faces that are {words(open_)}.")
    return " ".join(said)


def caveat(clipset: ClipSet) -> str:
    """How to read the answer on these data, in a sentence."""
    return {
        "labels": "The network that computed these vectors had no labels of these kinds.",
        "generator": "On synthetic data this follows from the generator, in which norms fall with quality as measured "
        "on real faces. The page only shows how the kinds compare.",
        "scores": "These data have no labels of occlusion, weak light, blur or pose.",
    }[told_by(clipset.face_columns())]


def rules(clipset: ClipSet, table: pd.DataFrame) -> str:
    """The definition of each kind, as a list in Markdown."""
    if list(table) == [CLEAR]:
        return "- these data define no kind"
    said = RULES[told_by(clipset.face_columns())]
    return "\n".join(f"- **{NAMES[kind]}**: {rule}" for kind, rule in said.items() if kind in table)


def method(clipset: ClipSet, table: pd.DataFrame) -> str:
    """How faces were counted and measured, in a paragraph."""
    told = told_by(clipset.face_columns())
    if told == "scores":
        tenth = "By definition a tenth of the faces, or more if scores are equal, is rated poor. "
        return (
            "Kinds that the data do not define are left out, and none is inferred from the vectors. "
            f"{tenth if POOR in table else ''}Noise clips are left out. All faces count equally in the shares, so long "
            "clips count more."
        )
    if told == "generator":
        return (
            "The limits are set by hand, so the shares only reflect these limits. Noise clips, and faces that do not "
            "show the clip's own person, are left out."
        )
    measured = table["blur"].notna().sum()
    return (
        f"Blur has no label. It is measured in the pictures of the {measured:,} faces that are at least {LARGE} pixels "
        f"high, as the variance of the Laplacian at {PIXELS[0]} × {PIXELS[1]} pixels divided by the variance of the "
        "grey values, so that low contrast does not count as blur. By definition a tenth of these faces is blurred. "
        "Smaller faces are not measured, because all of them would look blurred when enlarged. The labels are those of "
        "the dataset, one per picture, and some are doubtful; a face without a label does not count for that kind. All "
        "faces count equally in the shares, so long clips count more."
    )


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The table of ``summary`` as text."""

    def interval(row: pd.Series, which: str) -> str:
        if not np.isfinite(row[which]):
            return ""
        return f"{row[which]:+.1%} [{row[f'{which} low']:+.1%}, {row[f'{which} high']:+.1%}]".replace("-", "−")

    rows = {
        NAMES.get(kind, kind): {
            "faces": f"{row['faces']:,.0f}",
            "share": f"{row['share']:.1%}" if np.isfinite(row["share"]) else "",
            "median norm": f"{row['median norm']:.2f}" if np.isfinite(row["median norm"]) else "",
            "norm relative to clear": interval(row, "all"),
            "only of this kind": interval(row, "alone"),
            "persons": "" if kind == CLEAR else f"{row['all persons']:.0f} and {row['alone persons']:.0f}",
        }
        for kind, row in found.iterrows()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")


def kinds_figure(found: pd.DataFrame) -> Figure:
    """Two panels from the table of ``summary``: the share of each kind, and the relative norm of its vectors."""
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
        ("alone", "only of this kind", PALETTE[1], 0.13, False),
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
    shorter.set(xlabel="norm of the vector relative to clear faces")
    for axes in (often, shorter):
        name_rows(axes, [NAMES.get(kind, kind) for kind in hard.index])
    figure.get_layout_engine().set(wspace=0.08)  # keeps the tick labels of the two panels apart
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
