"""Small data that every test of the harness stands on, made without the library's own writers where it reads them."""

import numpy as np
import pandas as pd

D = 7


def tables(folder, seed=0, faces=23):
    """A user's tables, whose numbers are those of the seed; 5 clips of 3 persons."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    clips = pd.DataFrame({"clip": [*"vwxyz"], "label": ["ann", "bob", "ann", "bob", None]})
    clips["split"] = ["train", "train", "val", "val", "val"]
    clips["audio"] = [*rng.normal(size=(4, 3)), None]
    frames = {"clip": rng.choice([*"vwxyz"], faces), "frame": np.arange(faces)}
    table = pd.DataFrame(frames).assign(embedding=list(rng.normal(size=(faces, D)).astype(np.float32)))
    table.to_parquet(folder / "faces.parquet", index=False)
    clips.to_parquet(folder / "clips.parquet", index=False)
    return folder
