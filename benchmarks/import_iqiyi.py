"""Importing official files of full size: its peak memory, and its time compared with reading the bytes.

    python benchmarks/import_iqiyi.py [--faces 1700000] [--record]

The script writes the files (random vectors, pickled as by Python 2) to a temporary folder and removes them at the end.
Each step runs in a separate process. An import also writes the bytes and hashes them twice, for fingerprint and
checksums, and cannot be faster than that. ``pickle.load`` is the usual way; it runs any code that a file names, and
keeps the dicts in memory. The memory of a step is that of its process plus its largest child process, because the
import unpickles in a child process.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from famf_lib.paper import IQIYI
from famf_lib.support.files import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from python2_pickle import Python2Pickler  # noqa: E402

MEAN, SEED = 29.5, 0
STEPS = {
    "reading the bytes": "for p in paths:\n    with open(p, 'rb') as f:\n        while f.read(1 << 22): pass",
    "reading, writing and hashing them twice": (
        "import hashlib, tempfile\nout = tempfile.TemporaryFile(dir=folder)\n"
        "one, two = hashlib.sha256(), hashlib.sha256()\n"
        "for p in paths:\n    with open(p, 'rb') as f:\n"
        "        while piece := f.read(1 << 22): one.update(piece); two.update(piece); out.write(piece)"
    ),
    "pickle.load": "import pickle\nfor p in paths: pickle.load(open(p, 'rb'), encoding='bytes')",
    "import": "from famf_lib.data.datasets import iqiyi\niqiyi.import_folder(Path(folder))",
    "libraries alone": "from famf_lib.data.datasets import iqiyi",
}
FRAME = """
import json, resource, sys, time
sys.path.insert(0, {benchmarks!r})
from peak import peak
from pathlib import Path
folder = sys.argv[1]
paths = sorted(Path(folder).glob("feat/*.pickle"))
begin = time.perf_counter()
{step}
seconds = time.perf_counter() - begin
print(json.dumps([seconds, peak() + 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


def clips(prefix: bytes, faces: int, rng: np.random.Generator) -> Iterator[tuple[bytes, list]]:
    """Clips with as many faces as published, 29.5 on average and at most 100."""
    vectors = rng.normal(size=(4096, 512)).astype(np.float16)
    made = number = 0
    while made < faces:
        count = min(int(rng.gamma(2.0, MEAN / 2.0)) % 100 + 1, faces - made)
        frames = np.sort(rng.integers(0, 3000, count))
        corners = rng.uniform(0, 400, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(10, 200, (count, 2))])
        yield (
            prefix + b"%07d" % number,
            [
                [b"%d" % frame, box, 0.97, float(quality), vectors[(made + n) % 4096]]
                for n, (frame, box, quality) in enumerate(
                    zip(frames, boxes.tolist(), rng.normal(80, 30, count), strict=True)
                )
            ],
        )
        made, number = made + count, number + 1


def make(folder: Path, faces: int) -> None:
    """Writes a training part with the given number of faces, and a small validation part."""
    rng = np.random.default_rng(SEED)
    (folder / "feat").mkdir()
    names: dict[str, list[bytes]] = {}
    for split, prefix, number in (("train", b"IQIYI_VID_TRAIN_", faces), ("val", b"IQIYI_VID_VAL_", faces // 100)):
        names[split] = []
        with (folder / "feat" / f"face_{split}_v2.pickle").open("wb") as out:
            pickler = Python2Pickler(out)
            pickler.dump((names[split].append(name) or name, value) for name, value in clips(prefix, number, rng))
    persons = min(IQIYI["persons"], len(names["val"]))
    train = b"".join(b"%s.mp4 %d\n" % (name, n % persons + 1) for n, name in enumerate(names["train"]))
    (folder / "train_gt.txt").write_bytes(train)
    lines = [
        b"%d " % (p + 1) + b"".join(b"%s.mp4 " % n for n in names["val"][p::persons]) + b"\n" for p in range(persons)
    ]
    (folder / "val_gt.txt").write_bytes(b"".join(lines))


def timed(step: str, folder: Path) -> tuple[float, float]:
    """The seconds of a step, and the peak memory of its process and child process in bytes."""
    environment = os.environ | {"FAMF_STORE": str(folder / "store"), "FAMF_PROGRESS": "silent"}
    code = FRAME.format(step=STEPS[step], benchmarks=str(ROOT / "benchmarks"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    return tuple(json.loads(done.stdout))


def measure(device: torch.device, quick: bool, faces: int = IQIYI["train_faces"]) -> dict[str, Any]:
    faces = 1_700 if quick else faces
    steps = ["import"] if quick else list(STEPS)
    with tempfile.TemporaryDirectory(prefix="famf-import-") as place:
        folder = Path(place)
        make(folder, faces)
        size = sum(path.stat().st_size for path in (folder / "feat").iterdir())
        found = {step: timed(step, folder) for step in steps}
        made = sum(path.stat().st_size for path in (folder / "store" / "imported" / "iqiyi").iterdir())
    seconds = {step: round(s, 2) for step, (s, _) in found.items()}
    row = {
        "faces": faces,
        "pickles, MiB": round(size / 2**20),
        "ClipSet, MiB": round(made / 2**20),
        "seconds": seconds,
        "peak memory, MiB": {step: round(m / 2**20) for step, (_, m) in found.items()},
        "import, peak memory / ClipSet": round(found["import"][1] / made, 2),
    }
    if not quick:
        floor = seconds["reading, writing and hashing them twice"]
        row |= {
            "import / pickle.load, seconds": round(seconds["import"] / seconds["pickle.load"], 2),
            "import / reading, writing and hashing, seconds": round(seconds["import"] / floor, 2),
            "pickle.load, peak memory / ClipSet": round(found["pickle.load"][1] / made, 2),
        }
    common.say(row)
    return row


if __name__ == "__main__":
    common.main(measure)
