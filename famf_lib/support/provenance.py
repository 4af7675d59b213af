"""The origin of a result: the commit, the versions and the machine that made it."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "pandas", "matplotlib", "papermill")


def commit(root: Path, but: str | None = None) -> str | None:
    """The commit checked out at ``root``; None outside a git repository.

    It ends in ``-dirty`` if tracked files differ from it, except those in the folder ``but``.
    """
    head = _git(root, "rev-parse", "HEAD")
    if head is None or head.returncode:
        return None
    changed = _git(root, "diff", "--quiet", "HEAD", "--", ".", *([f":(exclude){but}"] if but else []))
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess | None:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except OSError:
        return None


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers and figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, str | int]:
    """Processor, cores, memory in GiB, and the GPU if PyTorch sees one."""
    import torch

    found: dict[str, str | int] = {"processor": _processor(), "cores": cores()}
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found["memory (GiB)"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def origin(root: Path, but: str | None = None) -> dict[str, Any]:
    """Commit, versions and hardware. ``but``: as in ``commit``."""
    return {"commit": commit(root, but), "versions": versions(), "hardware": hardware()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
