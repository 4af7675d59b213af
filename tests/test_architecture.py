import ast
import re
import subprocess
import sys

import pytest
from importlinter.cli import lint_imports

from famf_lib.support.files import ROOT

PURE = ("models/aggregation", "models/fusion", "models/kernels", "metrics")
PURE_IMPORTS = {"torch", "pydantic", "jaxtyping", "math", "typing", "dataclasses", "collections", "sklearn"}


def test_imports_run_one_way_down():
    """The layers stand in ``pyproject.toml``; import-linter names each import that runs up."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("name", PURE)
def test_tensor_code_knows_neither_files_nor_globals(name):
    tree = ast.parse((ROOT / "famf_lib" / f"{name}.py").read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global | ast.Nonlocal), f"{name}, line {node.lineno}: a global"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}, f"{name}, line {node.lineno}: {node.func.id}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            pure = module == "famf_lib.models.kernels" or module.split(".")[0] in PURE_IMPORTS
            assert pure, f"{name}, line {node.lineno}: {module}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("famf_lib", {"torch", "pandas", "sklearn", "matplotlib"}),
        ("famf_lib.support.files", {"torch", "pandas", "sklearn", "matplotlib"}),
        ("famf_book.cli", {"torch", "pandas", "sklearn", "matplotlib"}),
        ("famf_book.commands.data", {"torch", "pandas", "pyarrow", "numpy"}),
        ("famf_book.notebooks", {"torch", "papermill", "nbformat", "pydantic"}),
    ],
)
def test_a_first_look_loads_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
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
