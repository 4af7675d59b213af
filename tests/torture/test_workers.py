"""Worker processes end with the process that started them, however that ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_notebooks import write

from famf_lib.support.files import ROOT

WORK = """\
import os, time
from joblib import delayed
from famf_lib.experiments.run_store import in_parallel

def work(n):
    open(f"FOLDER/{os.getpid()}", "w").close()
    time.sleep(600)

list(in_parallel([delayed(work)(n) for n in range(2)], 2))
"""


@pytest.mark.parametrize("how", ["alone", "under papermill"])
def test_workers_end_with_a_killed_parent(how, tmp_path, count):
    code, folder = tmp_path / "work.py", tmp_path / "pids"
    folder.mkdir()
    code.write_text(WORK.replace("FOLDER", str(folder)))
    command = [sys.executable, str(code)]
    if how == "under papermill":
        write(tmp_path / "a.ipynb", code.read_text())
        command = [sys.executable, "-m", "papermill", str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    parent = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **quiet)
    try:
        while len(workers := os.listdir(folder)) < 2:
            assert parent.poll() is None
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    for _ in range(600):
        if not any(Path("/proc", pid).exists() and "Z" not in state(pid) for pid in workers):
            break
        time.sleep(0.1)
    assert not [pid for pid in workers if Path("/proc", pid).exists() and "Z" not in state(pid)]
    count("workers", how, killed=1, outlived=0)


def state(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
