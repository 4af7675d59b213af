import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import made_notebooks
import nbformat
import psutil
import pytest
from made_notebooks import tagged
from nbformat.v4 import new_markdown_cell

from famf_book.notebooks import NotebookError, Parameter, check, execute, parameters, refuse_unknown_parameters

DECLARED = """\
dataset: str = "synthetic"  # which faces
seeds: list[int] = [1, 2]  # one training a seed
rate: float = 1e-3
quick: bool = False
anything = None  # whatever
"""
GUARD = "from famf_book.notebooks import refuse_unknown_parameters\n\nrefuse_unknown_parameters()"


def write(path: Path, *code: str, declared: str | None = DECLARED) -> Path:
    first = [] if declared is None else [tagged(declared)]
    return made_notebooks.write(path, new_markdown_cell("# A notebook"), *first, *code)


def test_parameters_are_read_with_type_default_and_help(tmp_path):
    # braces in the path: papermill would take them for a template
    (tmp_path / "{odd}").mkdir()
    found = parameters(write(tmp_path / "{odd}" / "a.ipynb"))
    assert found == [
        Parameter("dataset", "str", "synthetic", "which faces"),
        Parameter("seeds", "list[int]", [1, 2], "one training a seed"),
        Parameter("rate", "float", 1e-3, ""),
        Parameter("quick", "bool", False, ""),
        Parameter("anything", "", None, "whatever"),
    ]


def test_one_cell_is_tagged_parameters(tmp_path):
    with pytest.raises(NotebookError, match=r"none\.ipynb: expected exactly one .*'parameters', found 0 cells"):
        parameters(write(tmp_path / "none.ipynb", "x = 1", declared=None))
    path = write(tmp_path / "two.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(tagged("y = 1"))
    nbformat.write(notebook, path)
    with pytest.raises(NotebookError, match="found 2 cells"):
        parameters(path)
    notebook.cells.pop()
    notebook.metadata.kernelspec = {"name": "rust", "language": "rust", "display_name": "Rust"}
    nbformat.write(notebook, path)
    with pytest.raises(NotebookError, match=r"two\.ipynb: .*'rust'.*; expected a notebook for the kernel python3\.$"):
        parameters(path)
    notebook.metadata.clear()
    nbformat.write(notebook, path)
    with pytest.raises(NotebookError, match=r"two\.ipynb: no kernel found in its metadata, expected 'kernelspec' with"):
        parameters(path)


@pytest.mark.parametrize("line", ["a = b = 1", "x: int | None = 1", "x: int = len('ab')", "import os", "x: int", "x ="])
def test_what_papermill_would_skip_is_refused(tmp_path, line):
    with pytest.raises(NotebookError, match=r"a\.ipynb.*'parameters'"):
        parameters(write(tmp_path / "a.ipynb", declared=f"seed: int = 1\n{line}"))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": 3}', "not json"])
def test_what_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(NotebookError, match=r"a\.ipynb: this is not a Jupyter notebook"):
        parameters(tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match=r"b\.ipynb: there is no such notebook"):
        parameters(tmp_path / "b.ipynb")


def test_values_become_what_the_notebook_declares(tmp_path):
    path = write(tmp_path / "a.ipynb", declared=DECLARED + "names: list[str] = []\n")
    given = {"dataset": "12", "seeds": "[3, 5]", "rate": 1, "quick": "true", "anything": "1", "names": "b, 'c'"}
    expected = {"dataset": "12", "seeds": [3, 5], "rate": 1.0, "quick": True, "anything": "1", "names": ["b", "'c'"]}
    assert check(path, given) == expected
    for value in ([3, 5], (3, 5), "(3, 5)", "3,5", " 3, 5 "):
        assert check(path, {"seeds": value}) == {"seeds": [3, 5]}
    assert check(path, {"seeds": 7}) == check(path, {"seeds": "7"}) == {"seeds": [7]}
    assert check(path, {"names": "['b']"}) == check(path, {"names": "b"}) == {"names": ["b"]}


NO_LISTS = [1.5, [1, "2"], None, True, [True], {"a": 1}, {1, 2}, range(3)]
NO_LISTS += ["one", "1 2", "1,x", "{[]: 1}", "[" * 997, "-" * 99_991 + "1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("dataset", 3), ("rate", "fast"), ("quick", 1), *(("seeds", value) for value in NO_LISTS)],
)
def test_values_that_do_not_fit_are_refused(tmp_path, name, value):
    with pytest.raises(NotebookError, match=rf"a\.ipynb: {name}: found .*, expected (str|list\[int\]|float|bool)"):
        check(write(tmp_path / "a.ipynb"), {name: value})


def test_an_unknown_name_and_an_unknown_type_are_refused(tmp_path):
    with pytest.raises(
        NotebookError, match=r"a\.ipynb: there is no .*'sedes'.*closest is 'seeds'.* anything, dataset, q"
    ):
        check(write(tmp_path / "a.ipynb"), {"sedes": [1]})
    path = write(tmp_path / "a.ipynb", declared="pair: tuple = (1, 2)")
    with pytest.raises(NotebookError, match=r"a\.ipynb: pair: it is declared as tuple, expected one of bool, int, "):
        check(path, {"pair": "3"})


BAR = "import sys\nfor i in range(300):\n    print(f'\\r{i}', end='', file=sys.stderr, flush=True)"
# One that is asked to end while it is busy with its last message says that it was interrupted.
NOISE = "get_ipython().kernel.log.error('KeyboardInterrupt caught in kernel.')\nprint('done')"


def test_an_executed_notebook_holds_outputs_and_where_they_come_from(tmp_path, capfd):
    work = "from famf_lib.support.progress import progress\nwith progress('counting', 3) as bar:\n    bar.to(2)\n"
    work += "from pathlib import Path\nprint(sum(seeds), Path.cwd().name)"
    path, out = write(tmp_path / "a.ipynb", GUARD, BAR, NOISE, work), tmp_path / "out" / "b.ipynb"
    record = execute(path, out, {"seeds": "3,5"}, provenance={"commit": "c0ffee"})
    executed = nbformat.read(out, as_version=4)
    outputs = [[output.text.strip() for output in cell.outputs] for cell in executed.cells[-3:]]
    assert outputs == [["299"], ["done"], [f"8 {tmp_path.name}"]]  # bars do not fill the notebook
    assert "Interrupt" not in "".join(capfd.readouterr()), "what a kernel says to itself is not for the reader"
    assert executed.metadata["famf"] == record
    assert record["parameters"] == {"seeds": [3, 5]} and record["commit"] == "c0ffee" and record["seconds"] > 0
    assert str(tmp_path) not in out.read_text()  # nothing about the machine's folders
    assert sorted(file.name for file in out.parent.iterdir()) == ["b.ipynb"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("# why\nraise ValueError('no such\\nthing')", r"cell 4 \('# why'\): ValueError: no such"),
        ("import sys\nsys.exit(0)", r"cell 4 \('import sys'\): the notebook ended itself"),
        ("import os\nos._exit(1)", r"cell 4 \('import os'\): the kernel died"),
        ("import time\ntime.sleep(60)", r"cell 4 \('import time'\): not finished after 2 s"),
    ],
)
def test_a_failure_names_notebook_cell_and_error_and_leaves_the_last_result(tmp_path, code, reason):
    path = write(tmp_path / "a.ipynb", "x = 1", code, "x = 2")
    out = tmp_path / "out" / "b.ipynb"
    out.parent.mkdir()
    out.write_text("the last good one")
    with pytest.raises(NotebookError, match=reason) as caught:
        execute(path, out, {"seeds": [1]}, reports=tmp_path / "reports", timeout=2)
    report = tmp_path / "reports" / "b.failed.ipynb"
    assert str(path) in str(caught.value) and str(report) in str(caught.value)
    assert out.read_text() == "the last good one"
    assert nbformat.read(report, as_version=4).cells
    assert [file.name for file in out.parent.iterdir()] == ["b.ipynb"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_interrupt_leaves_neither_files_nor_kernel(tmp_path):
    path = write(tmp_path / "a.ipynb", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(900)")
    code = "import sys; from famf_book.notebooks import execute; execute(*sys.argv[1:])"
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out" / "b.ipynb")],
        stderr=subprocess.PIPE,
        # Tests that a shell runs in its background ignore interrupts, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=120)[1]
    wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seeds", "3", ""),
        ("sedes", "3", "NotebookError: there is no parameter 'sedes' in this notebook; the closest is 'seeds'"),
        ("dataset", "mars", "DatasetUnknown: dataset: 'mars' is not known, expected one of synthetic, imfdb"),
    ],
)
def test_plain_papermill_stops_with_one_sentence(tmp_path, name, value, expected):
    known = "from famf_lib.data import datasets\n\ndatasets.get(dataset)"
    path = write(tmp_path / "a.ipynb", GUARD, known if name == "dataset" else "assert seeds == [3]")
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "b.ipynb"), "-p", name, value]
    done = subprocess.run([*command, "--no-progress-bar"], capture_output=True, text=True)
    assert done.returncode == bool(expected), done.stderr
    if expected:
        (sentence,) = filter(None, done.stderr.split('Exception encountered at "In [')[1].splitlines()[1:])
        assert sentence.startswith(expected)  # and not the way there


@pytest.fixture
def shell(monkeypatch):
    """JupyterLab, after these cells have run."""

    def make(*history, **variables):
        shell = SimpleNamespace(user_ns={"In": ["", *history]} | variables)
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        return shell

    return make


@pytest.mark.parametrize(
    "history",
    [
        [],
        [DECLARED],
        [DECLARED, DECLARED],  # run again
        ["%%broken", DECLARED, "# Parameters\nseeds = [3]"],
        [DECLARED, "# Parameters\nseeds = [3]", "x = 1", "# Parameters\nseeds = [4]"],
        ["# Parameters\n" + DECLARED.splitlines()[0]],  # the author's own comment
    ],
)
def test_in_jupyterlab_nothing_happens(shell, history):
    shell(*history, GUARD)
    refuse_unknown_parameters()


@pytest.mark.parametrize(("current", "after"), [("3, 5", [3, 5]), ([7], [7])])
def test_injected_text_becomes_what_it_says_unless_a_later_cell_changed_it(shell, current, after):
    its = shell(DECLARED, "# Parameters\nseeds = '3, 5'", GUARD, seeds=current)
    refuse_unknown_parameters()
    assert its.user_ns["seeds"] == after


def test_an_injected_name_is_compared_with_what_came_before(shell):
    shell(DECLARED, "# Parameters\nsedes = [3]", "sedes = 1")
    with pytest.raises(NotebookError, match="closest is 'seeds'"):
        refuse_unknown_parameters()
