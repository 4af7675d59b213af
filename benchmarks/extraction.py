"""The extraction of faces from videos: its speed compared with that of its stages, and its memory on a long file.

    python benchmarks/extraction.py --device cpu [--minutes 60] [--record]

It needs the pictures of IMFDB and the models mtcnn and mobilefacenet128. A clip of 20 s with two persons (640 × 360, 25
pictures per second) is composed of faces from films and repeated, so that a long file is quick to make. Each step runs
in a separate process. Speeds are given by wall-clock time and by processor time, because other work on the machine
affects the former. Peak memory is that of Linux (VmHWM). The network alone, on prepared faces, bounds the speed of the
embedding.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import torch

from famf_lib.support.files import ROOT

sys.path.insert(0, str(ROOT / "tests"))
import film_faces  # noqa: E402

SECONDS = 20
MODELS = """
from pathlib import Path
from famf_video import clips, detection, registry
from famf_video.alignment import align
from famf_video.embedding import ArcFace
from famf_video.video import Video  # in this process, whose time and memory are measured
stages = clips.Stages(detection.detector("mtcnn"), ArcFace(registry.find("mobilefacenet128")))
"""
STEPS = {
    "pictures decoded": ("frames = Video(path).frames(1000)", "done = sum(1 for _ in frames)"),
    "pictures looked at for faces, one thread": (
        "pictures = [frame.picture for frame in Video(path).frames(2)]",
        "for picture in pictures: stages.detector.detect(picture)\ndone = len(pictures)",
    ),
    "faces aligned and embedded, one thread": (
        "seen = [(f.picture, stages.detector.detect(f.picture).points) for f in Video(path).frames(2)]",
        "done = sum(len(stages.embedder.embed(align(*one))) for one in seen)",
    ),
    "faces through the network alone, one thread": (
        "import numpy as np\nfaces = np.random.default_rng(0).uniform(0, 255, (2, 3, 112, 112)).astype(np.float32)",
        "for _ in range(40): stages.embedder.model(faces)\ndone = 80",
    ),
    "seconds of video, 5 pictures a second, one picture at a time": (
        "",
        "clips.extract_clips(Video(path), stages, workers=1)\ndone = seconds",
    ),
    "seconds of video, 5 pictures a second, all cores": (
        "",
        "clips.extract_clips(Video(path), stages)\ndone = seconds",
    ),
}
LONG = ("", "clips.extract_clips(Video(path), stages, fps=0.5)\ndone = seconds")
FRAME = """
import json, re, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
{models}
{ready}
begin, busy = time.perf_counter(), time.process_time()
{step}
spent = time.perf_counter() - begin, time.process_time() - busy
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # of this process, not of its parent
print(json.dumps([done, *spent, int(peak)]))
"""


def timed(step: tuple[str, str], path: Path, seconds: float) -> dict[str, float]:
    code = FRAME.format(models=MODELS, ready=step[0], step=step[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(seconds)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    number, clock, busy, peak = json.loads(done.stdout)
    return {
        "a second": round(number / clock, 1),
        "a processor second": round(number / busy, 1),
        "peak memory (MiB)": round(peak / 1024),
    }


def measure(device: torch.device, quick: bool, minutes: float = 60.0) -> dict[str, Any]:
    seconds, minutes = (1, 0.1) if quick else (SECONDS, minutes)
    with tempfile.TemporaryDirectory() as folder:
        persons = sorted(film_faces.faces())[:2]
        clip = film_faces.video(Path(folder) / "clip.ts", persons, seconds, sound=False)
        found = {name: timed(step, clip, seconds) for name, step in STEPS.items()}
        long = {}
        for length in (minutes / 60, minutes):
            path = Path(folder) / "long.ts"
            with path.open("wb") as file:
                for _ in range(max(round(length * 60 / seconds), 1)):
                    file.write(clip.read_bytes())
            long[f"{length:g} minutes, a picture every two seconds"] = timed(LONG, path, length * 60)
    common.say(found)
    return {"speed": found, "length": long}


if __name__ == "__main__":
    common.main(measure)
