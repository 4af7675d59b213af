"""The command ``famf``: what is wrong with the input is one sentence, and the exit code says so."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from famf_book import cli
from famf_book.cli import _of_the_system, app
from famf_lib.support.files import ROOT


@pytest.fixture
def famf(monkeypatch, capsys):
    """Runs the command in the checkout; gives its exit code, its output and what it says of errors."""

    def run(*arguments, **environment):
        for name, value in {"FAMF_DATA": os.environ.get("FAMF_DATA", ""), **environment}.items():
            monkeypatch.setenv(name, value)  # restored, although the command sets it
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", ["famf", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "table-9"], "experiment: 'table-9' is not known, expected one of: table-1"),
        (["run", "table-1", "--profile", "huge"], "profile: 'huge' is not known, expected one of quick"),
        (["run", "table-1", "-d", "imdb"], "dataset: 'imdb' is not known, expected one of synthetic, imfdb"),
        (["sweep", "table-1", "--notebooks", "README.md"], "--notebooks: README.md is a file, expected a folder"),
        (["data", "import", "table", "/no/such/folder", "--name", "mine"], "/no/such/folder: there is no such folder"),
        (["--data", "/no/such/folder", "data", "list"], "--data: /no/such/folder is not a folder"),
        (["predict", 300 * "a", "synthetic"], f"{300 * 'a'}: it cannot be used (File name too long)"),
        (["data", "info", 300 * "a"], f"{300 * 'a'}: it cannot be used (File name too long)"),
    ],
)
def test_bad_input_is_one_sentence(famf, arguments, sentence):
    code, _, error = famf(*arguments)
    assert code == 1 and error.startswith("famf: ") and sentence in error and len(error.splitlines()) == 1


def test_the_process_ends_with_the_sentence_and_the_exit_code():
    command = [sys.executable, "-m", "famf_book.cli", "run", "table-1", "--seeds", "one"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "famf: seeds: found 'one', expected list[int] (values separated by commas)\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["sweep", "--workers", 30 * "9"], "--workers"),
        (["sweep", "--wait", "nan"], "--wait: nan found"),
        (["sweep", "--wait", "-1"], "--wait: -1.0 found"),
        (["sweep", "--notebooks", "README.md/below"], "--notebooks: README.md is a file"),
        (["enroll", "book", "--out", "m.safetensors", "--seed", str(2**32)], "--seed"),
        (["enroll", "book", "--out", "m.safetensors", "--min-face", 30 * "9"], "--min-face"),
        (["runs", "--last", "nan"], "--last"),
    ],
)
def test_a_hostile_number_or_place_is_refused_before_anything_runs(arguments, found, monkeypatch):
    monkeypatch.setattr("famf_book.sweep.grid", None)
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    said = done.stderr if isinstance(done.exception, SystemExit) else str(done.exception)
    assert done.exit_code and isinstance(done.exception, (SystemExit, ValueError))
    assert found in said


def test_a_store_that_is_no_folder_is_one_sentence(famf, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = famf("data", "info", "synthetic", "--profile", "quick", FAMF_STORE=str(tmp_path / "file"))
    assert code == 1 and len(error.splitlines()) == 1
    assert error.startswith(f"famf: {tmp_path / 'file' / 'clipsets'}: it cannot be used (Not a directory)")


def test_trouble_without_a_file_is_told_in_its_own_words():
    assert _of_the_system(TimeoutError("timed out: tcp://host:1\nmore")) == "timed out: tcp://host:1"
    assert _of_the_system(ConnectionRefusedError(111, "refused")) == os.strerror(111)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files is met where a full disk is: in the middle of writing."""
    code = (
        "import resource, sys; from famf_book import cli;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9973, 9973));"
        "sys.argv = ['famf', 'data', 'info', 'synthetic', '--profile', 'quick']; cli.main()"
    )
    environment = os.environ | {"FAMF_STORE": str(tmp_path)}
    command = [sys.executable, "-B", "-c", code]  # otherwise Python leaves compiled modules that are cut at the limit
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"famf: {tmp_path / 'clipsets' / 'synthetic-'}")
    assert "(File too large)" in done.stderr
    assert [path.suffix for path in (tmp_path / "clipsets").iterdir()] == [".lock"]


def test_data_list_names_what_is_absent_and_how_to_get_it(famf, tmp_path):
    code, output, _ = famf("--data", str(tmp_path), "data", "list")
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert "here" in lines["synthetic"].split()
    assert "absent" in lines["imfdb"].split() and "data/README.md" in lines["imfdb"]


@pytest.mark.parametrize("home", ["/dev/null/nobody", "", None])
def test_the_lab_starts_without_a_home(tmp_path, home):
    """Jupyter itself says where it would write: all of it is there, and below the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOME", "JUPYTER", "XDG", "IPYTHON"))}
    code = (
        "import os, sys; from pathlib import Path; from famf_book import cli;"
        f"cli.ROOT = Path({str(tmp_path)!r}); cli.os.path.expanduser = lambda path: os.environ.get('HOME', path);"
        "execv = os.execv; words = ['-m', 'jupyter', '--runtime-dir'];"
        "cli.os.execv = lambda program, given: execv(program, [program, *words]);"
        "sys.argv = ['famf', 'lab']; cli.main()"
    )
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if home is None else {"HOME": home})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "_build" / "lab" / "home"))
    assert (tmp_path / "_build" / "lab" / "home").is_dir()


def test_clean_never_touches_data_of_the_user(tmp_path):
    store, own = tmp_path / "store", tmp_path / "own" / "imfdb"
    left = store / "imported" / ".mine.abcdefgh.famf" / "old"
    for folder in (store / "runs" / "x", store / "runs" / "y.partial", store / "clipsets" / "y", own, left):
        folder.mkdir(parents=True)
    (store / "runs" / "y.partial" / "checkpoint.pt").touch()
    (store / "runs" / ".z.abcdefgh.famf").mkdir()
    (store / "runs" / ".z.abcdefgh.famf" / "new").write_bytes(bytes(2_500_000))
    (left / "faces").write_text("the only copy")
    code = (
        "from famf_book import cli; from pathlib import Path;"
        f"cli.ROOT = Path({str(tmp_path / 'checkout')!r}); cli.clean(runs=False)"
    )
    environment = os.environ | {"FAMF_STORE": str(store), "FAMF_DATA": str(tmp_path / "own")}

    def clean(code):
        return subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)

    assert clean(code).stdout == "removed 2 MB that interrupted commands had left\n"
    assert sorted(os.listdir(store / "runs")) == ["x", "y.partial"] and os.listdir(store / "imported") == ["mine"]
    assert (store / "imported" / "mine" / "faces").read_text() == "the only copy"
    clean(code.replace("False", "True"))
    assert own.exists() and not (store / "runs").exists() and not (store / "clipsets").exists()


def test_where_data_lie_is_told_to_kernels_of_other_folders(tmp_path):
    code = (
        "import os; from famf_book import cli; cli.settings(None);"
        "print(os.environ['FAMF_STORE'], 'FAMF_DATA' in os.environ)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FAMF_DATA"}
    environment |= {"FAMF_STORE": "mine/store", "PYTHONPATH": str(ROOT)}
    done = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=environment)
    assert done.split() == [str(tmp_path / "mine" / "store"), "False"]
