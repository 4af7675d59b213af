"""The shape of the library: imports run down, the bottom is pure, and a look at it costs nothing."""

import ast
import re
import subprocess
import sys

import house
import pytest

from famf_lib.files import ROOT

LIBRARY = ROOT / "famf_lib"

# From the bottom to the top. A module imports only from rows below its own; whoever writes a new one gives it a place.
LAYERS = (
    (
        "files",
        "progress",
        "fingerprint",
        "provenance",
        "paper",
        "parameters",
        "statistics",
        "aggregation",
        "fusion",
        "metrics",
        "capture",
        "portraits",
        "records",
        "rasters",
        "wording",
    ),  # fmt: skip
    ("features", "claims", "notebooks", "official", "pickles"),
    ("splits", "sampling", "traits", "pages", "inspection", "extraction"),
    ("model", "datasets"),
    ("training",),
    ("saved", "data_parallel"),
    ("runs", "settings", "memory", "floor"),
    ("probes", "experiments", "submission", "prediction", "export"),
    ("results", "enrolment"),
    ("tuning", "report", "plots", "sweep", "explore"),
    ("pictures",),
    ("ledger", "challenging", "generated", "identification", "api", "launch", "dimensions"),
    ("figures",),
    ("widgets",),
    ("book",),
    ("printed",),
    ("commands",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PURE = ("aggregation", "fusion", "metrics")
PURE_IMPORTS = {"torch", "pydantic", "jaxtyping", "math", "typing", "dataclasses", "collections", "sklearn"}
# What reads or writes of data must not know who trains on them, and the other way round.
APART = {"datasets": {"model", "training", "runs"}, "training": {"datasets"}, "runs": {"datasets"}}


def modules():
    """Each module by the first step of its name below the library: datasets.imfdb belongs to datasets."""
    for path in sorted(LIBRARY.rglob("*.py")):
        steps = path.relative_to(LIBRARY).with_suffix("").parts
        if steps != ("__init__",):
            yield steps[0], path


def imports(path):
    """Dotted names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import; the house writes famf_lib.…"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_library(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("famf_lib.")} - {"__version__"}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_run_one_way_down(name, path):
    assert name in LEVEL, f"{name} has no place among the layers: give it one in {__name__}.LAYERS"
    for other in of_library(path) - {name}:
        assert LEVEL[other] < LEVEL[name], f"{name} imports {other}, which does not lie below it"
        assert other not in APART.get(name, ()), f"{name} must not know {other}"


def test_every_place_is_taken():
    assert set(LEVEL) == {name for name, _ in modules()}


def test_modules_of_the_datasets_import_no_other_way_round():
    """Inside the package there may be no circle either."""
    package = {
        path.stem: {name.split(".")[2] for name in imports(path) if name.startswith("famf_lib.datasets.")}
        for name, path in modules()
        if name == "datasets"
    }
    seen = set()
    while ready := [name for name, needs in package.items() if name not in seen and needs & set(package) <= seen]:
        seen |= set(ready)
    assert seen == set(package), f"a circle among {set(package) - seen}"


@pytest.mark.parametrize("name", PURE)
def test_tensor_code_knows_neither_files_nor_globals(name):
    path = LIBRARY / f"{name}.py"
    assert not of_library(path)
    assert {i.split(".")[0] for i in imports(path)} <= PURE_IMPORTS
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global | ast.Nonlocal), f"{name}, line {node.lineno}: a global"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}, f"{name}, line {node.lineno}: {node.func.id}"


@pytest.mark.parametrize("module", ["famf_lib", "famf_lib.files", "famf_lib.cli"])
def test_a_first_look_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'pandas', 'sklearn', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_no_file_names_a_folder_of_somebodys_machine():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout: there is no list of tracked files")
    home = re.compile(r"(?<![\w.>-])/(?:" + "|".join(["home", "root", "Users"]) + r")/\w")
    found = []
    for name in listed.stdout.splitlines():
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{name}: {match.group()}" for match in home.finditer(text)]
    assert not found


def test_the_picture_of_the_house_is_of_this_house():
    assert house.FILE.read_text() == house.draw(LAYERS), "draw it again: python tests/house.py"
    assert all(f">{name}</text>" in house.FILE.read_text() for name in LEVEL)
    assert all(any(name in layer for layer in LAYERS) for name in house.STOREYS)


def test_the_list_of_modules_has_every_module():
    """The table of the contributor page."""
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "book" / "contributing.md").read_text(), re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(table))
    assert sorted(named) == sorted(LEVEL)
