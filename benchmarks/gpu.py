"""What a GPU can tell in a few minutes: its tests, how fast it is, and Table 1 at the paper's full size.

    python benchmarks/gpu.py [--minutes 10] [--out results] [--device cpu] [--quick]

The script runs on the Python that starts it, without network. It needs a CUDA build of PyTorch and the packages of
``LIBRARY``; a step that needs more, and is left out without it, says so. Steps that are quick and leave a record come
first, and Table 1 gets the rest of the time, seed by seed. A step whose record is there, of this commit and this GPU,
is not repeated, so that a second call goes on where the first one ended. Ctrl-C keeps what was recorded.

``--quick --device cpu`` tries all steps at small sizes, and leaves the records in a new folder.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ("numpy", "scipy", "pandas", "pyarrow", "pillow", "scikit-learn", "safetensors", "jaxtyping", "pydantic")
LIBRARY += ("filelock", "joblib", "tqdm")
IMPORTED = {"scikit-learn": "sklearn", "pillow": "PIL"}  # where the name differs
MEMORY = 16e9  # bytes of a GPU that are free, for the steps at full size
PATIENCE = 3  # a step that takes so many times longer than on an H200 is ended
TESTS = "tests/training/test_on_a_gpu.py"


@dataclass(frozen=True)
class Step:
    """A process that is started with Python.

    Args:
        seconds: how long it takes on an H200; for Table 1 the shortest time in which a seed is recorded.
        record: the file that it writes, if that says that it is done.
        fills: whether it takes the minutes that are left, and ends by itself.
        packages: what it needs besides those of the library.
        optional: packages, and what of it is left out without them.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    record: str = ""
    fills: bool = False
    packages: tuple[str, ...] = ()
    optional: dict[str, str] = field(default_factory=dict)


def steps(device: str, quick: bool, out: Path) -> list[Step]:
    """All steps, the quick ones first."""
    kind = "gpu" if device == "cuda" else "cpu"
    record = ("--record",) if out == ROOT / "results" else ("--record", str(out))
    common = (*(("--device", device) * (device == "cpu")), *(("--quick",) * quick), *record)
    seeds = ("--seeds", "1") if quick else ()
    return [
        Step("tests", ("-m", "pytest", "-q", "-o", "addopts=", TESTS), 40, packages=("pytest", "hypothesis")),
        Step(
            "metric",
            ("benchmarks/metric.py", *common),
            45,
            f"metric-{kind}.json",
            optional={"torchmetrics": "the comparison with torchmetrics"},
        ),
        Step(
            "full size",
            ("benchmarks/full_size.py", *common),
            150,
            f"full-size-{kind}.json",
            optional={"triton": "compiled steps"},
        ),
        Step(
            "kernels",
            ("benchmarks/aggregation_kernels.py", *common),
            200,
            f"aggregation-kernels-{kind}.json",
            optional={"triton": "compiled and fused kernels"},
        ),
        Step("Table 1", ("benchmarks/table_1.py", *common, *seeds), 110, fills=True),
    ]


def absent(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if find_spec(IMPORTED.get(name, name)) is None]


def commit() -> str | None:
    """The commit of the checkout; None if files besides the records differ from it, or there is none."""
    sys.path.insert(0, str(ROOT))  # nothing needs to be installed
    from famf_lib.support import provenance

    found = provenance.commit(ROOT, but="results")
    return None if found is None or found.endswith("-dirty") else found


def is_done(step: Step, out: Path, at: str | None, gpu: str | None) -> bool:
    """Whether the record of a step was made at this commit, on this GPU and at these sizes."""
    if not step.record or at is None or not (out / step.record).is_file():
        return False
    record = json.loads((out / step.record).read_text())
    origin, quick = record.get("origin", {}), "--quick" in record.get("command", "").split()
    made = origin.get("commit"), origin.get("hardware", {}).get("gpu"), quick
    return made == (at, gpu, "--quick" in step.command)


def obstacle(step: Step, left: float) -> str | None:
    """Why a step cannot be run, or None."""
    if missing := absent((*LIBRARY, *step.packages)):
        return f"needs {', '.join(missing)}"
    return f"takes about {step.seconds:.0f} s, and {max(left, 0):.0f} s are left" if left < step.seconds else None


def run(step: Step, limit: float) -> str:
    """Runs a step in a process of its own, with its children, and returns how it ended."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, *step.command]
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return "ended at its limit"
    finally:  # also after Ctrl-C
        end(process)
    return f"failed with exit status {code}" if code else "done"


def end(process: subprocess.Popen) -> None:
    """Ends a process and its children, which may outlive it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(5)


def look(device: str) -> str | None:
    """Prints what the machine has; returns the name of its GPU, if it has one.

    Raises:
        SystemExit: it cannot be used.
    """
    if missing := absent(("torch",)):
        sys.exit(f"{missing[0]}: not installed in {sys.executable}, expected a build of PyTorch for CUDA")
    import torch

    if device == "cpu":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} in {sys.executable}"
        sys.exit(f"{built} sees no GPU, expected a build for CUDA: say make gpu PYTHON=…, or --device cpu --quick")
    name, (free, total) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    print(f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, PyTorch {torch.__version__}, {sys.executable}")
    if free < MEMORY:
        sys.exit(f"{name}: {free / 1e9:.0f} GB are free, expected {MEMORY / 1e9:.0f} GB for the paper's full size")
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="what all steps take at most")
    parser.add_argument("--out", type=Path, help="the folder of the records: results/, or a new one if --quick")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    given = parser.parse_args()
    usual = Path(tempfile.mkdtemp(prefix="famf-gpu-")) if given.quick and not given.out else ROOT / "results"
    out, stop = (given.out or usual).resolve(), time.monotonic() + 60 * given.minutes
    gpu, at = look(given.device), commit()
    if at is None:
        print("Files differ from the commit, or there is none: every step is run.")
    ended: list[tuple[str, str, float]] = []
    try:
        for step in steps(given.device, given.quick, out):
            begin = time.monotonic()
            left, patience = stop - begin, step.seconds * PATIENCE
            if is_done(step, out, at, gpu):
                ended.append((step.name, "recorded before", 0.0))
            elif why := obstacle(step, left):
                ended.append((step.name, f"left out: {why}", 0.0))
            else:
                print(f"— {step.name}, about {step.seconds:.0f} s", flush=True)
                if step.fills:  # a seed that takes longer than the one before may end a little late
                    step = replace(step, command=(*step.command, "--minutes", f"{left / 60:.2f}"))
                    left = patience = 2 * left
                ended.append((step.name, "interrupted", 0.0))
                how = run(step, min(left, patience))
                lacking = [f"without {name}, {what}" for name, what in step.optional.items() if absent([name])]
                ended[-1] = (step.name, "; left out ".join([how, *lacking]), time.monotonic() - begin)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        for name, how, took in ended:
            print(f"{name:10} {f'{took:5.0f} s' if took else '       '}  {how}")
    if any("failed" in how or "limit" in how for _, how, _ in ended):
        sys.exit(1)


if __name__ == "__main__":
    main()
