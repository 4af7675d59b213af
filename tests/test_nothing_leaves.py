import os
import subprocess
import sys

import pytest
from onnx_models import embedder

OURS = """
import sys
import numpy as np
from famf_video.embedding import ArcFace
assert ArcFace(sys.argv[1]).embed(np.zeros((3, 112, 112, 3), np.uint8)).shape == (3, 5)
"""
PARALLEL = """
import sys
from joblib import Parallel, delayed

def work(path):
    import onnxruntime
    return len(onnxruntime.InferenceSession(path).get_outputs())

import famf_lib
assert Parallel(n_jobs=2)(delayed(work)(sys.argv[1]) for _ in range(2)) == [1, 1]
"""


@pytest.mark.parametrize("code", [OURS, PARALLEL], ids=["in our process", "in joblib's workers"])
def test_onnx_runtime_leaves_nothing_in_an_empty_home(tmp_path, code):
    """Its telemetry, which somebody asks for here, keeps a device's number and a queue of events there."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    kept |= {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}  # no CI: there it is off
    command = [sys.executable, "-c", code, str(embedder(tmp_path / "e.onnx"))]
    subprocess.run(command, env=kept, check=True, timeout=300)
    assert [path.name for path in home.rglob("*") if "onnxruntime" in path.name.lower()] == []
