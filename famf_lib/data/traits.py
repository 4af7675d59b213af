"""What makes a face easy or hard, as numbers, from the columns that a dataset has of its faces."""

import numpy as np
import pandas as pd

from famf_lib.data.clipset import ClipSet

SIGNS = {"norm": 1, "quality": 1, "size": 1, "blur": -1, "darkness": -1, "occlusion": -1, "turned": -1}
"""Every trait, and whether more of it makes a face easier (1) or harder (-1)."""

ILLUMINATION = {"HIGH": 0.0, "MEDIUM": 1.0, "BAD": 2.0}


def traits(clipset: ClipSet) -> pd.DataFrame:
    """One row per face and one column per trait that the dataset has; NaN if it is unknown for the face.

    norm is the length of the face vector. quality is the dataset's own score, or else the norm. size is the dataset's
    own, or the geometric mean of the sides of the box (pixels). turned is |yaw| in degrees, or 0 for a frontal pose and
    1 for others. Labels become numbers: illumination 0 (high) to 2 (bad), occlusion 0 (none) or 1.
    """
    columns = clipset.face_columns()
    known = pd.DataFrame({"norm": np.linalg.norm(clipset.faces.cpu().numpy().astype(np.float32), axis=1)})
    scored = "quality" in columns and columns["quality"].notna().any()
    known["quality"] = columns["quality"] if scored else known["norm"]
    if "size" in columns:
        known["size"] = columns["size"]
    elif {"x1", "y1", "x2", "y2"} <= set(columns):
        sides = (columns["x2"] - columns["x1"]) * (columns["y2"] - columns["y1"])
        known["size"] = np.sqrt(sides.clip(lower=0))
    for name in ("blur", "darkness"):
        if name in columns:
            known[name] = columns[name]
    if "illumination" in columns:
        known["darkness"] = columns["illumination"].map(ILLUMINATION)
    if "occlusion" in columns:
        given = columns["occlusion"]
        known["occlusion"] = (
            given if pd.api.types.is_numeric_dtype(given) else given.ne("NONE").astype(float).where(given.notna())
        )
    if "yaw" in columns:
        known["turned"] = columns["yaw"].abs()
    elif "pose" in columns:
        known["turned"] = columns["pose"].ne("FRONTAL").astype(float).where(columns["pose"].notna())
    return known.astype("float64").dropna(axis="columns", how="all")
