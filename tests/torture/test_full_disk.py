"""A disk that becomes full, at many sizes: one sentence, and what was there stays."""

import math
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial

import pytest
from forked import ended, forked
from made import tables
from test_kills import CPU, SPEC, book, train_, write_book

from famf_book import cli, notebooks
from famf_lib.data import imported
from famf_lib.data.clipset import ClipSet
from famf_lib.data.tables import import_tables
from famf_lib.experiments.run_store import clear_interrupted, get_or_train
from famf_lib.training import train


@contextmanager
def disk(folder, kilobytes):
    """A file system of so many kB; skips where it cannot be made."""
    folder.mkdir(exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def sizes(scale, least, most):
    """Sizes in kB that grow by a factor, so that every step of the work meets its full disk."""
    number = 3 + 2 * scale
    return [math.ceil(least * (most / least) ** (n / number)) for n in range(number + 1)]


def say(function, out, *arguments):
    """Writes what the command would say of an error, or nothing if there is none."""
    try:
        function(*arguments)
        out.write_text("")
    except (ValueError, LookupError, notebooks.NotebookError) as error:
        out.write_text(str(error))
    except OSError as error:
        out.write_text(cli._of_the_system(error))


def said(tmp_path, function, *arguments):
    with forked(say, function, tmp_path / "said", *arguments) as processes:
        assert ended(processes) == [0]
    words = (tmp_path / "said").read_text()
    assert not words or ("No space left" in words and "expected" in words and len(words) < 600), words
    return words


def test_import(tmp_path, monkeypatch, scale, count):
    small, large = tables(tmp_path / "small"), tables(tmp_path / "large", seed=1, faces=1999)
    for kilobytes in sizes(scale, 100, 400):
        with disk(tmp_path / "disk", kilobytes) as store:
            monkeypatch.setenv("FAMF_STORE", str(store))
            before = import_tables(small, "mine").fingerprint
            words = said(tmp_path, partial(import_tables, replacing=True), large, "mine")
            assert (imported.open("mine").fingerprint == before) == bool(words)
            assert sorted(os.listdir(store / "imported")) == ["mine", "mine.lock"]
        count("full disks", "import --replace", tries=1, refused=bool(words))


def test_run(tmp_path, monkeypatch, scale, count, made_up, capfd):
    """Without room for its checkpoint a run goes on and says so once; without room for its result it says so."""
    clips = ClipSet.open(made_up(audio=3).save(tmp_path / "clips"))
    whole = get_or_train(SPEC, clips, CPU)
    size = sum(file.stat().st_size for file in whole.folder.iterdir())
    for kilobytes in sizes(scale, 12, max(200, 6 * size // 1000)):
        with disk(tmp_path / "disk", kilobytes) as store:
            monkeypatch.setenv("FAMF_STORE", str(store))
            words = said(tmp_path, train_, clips.folder)
            assert capfd.readouterr().err.count("the run goes on") <= 1
            runs = store / "runs"
            clear_interrupted()
            assert words or get_or_train(SPEC, clips, CPU).losses == whole.losses
            assert not words or not runs.exists() or not list(runs.glob("*/run.json"))
        count("full disks", "run", tries=1, refused=bool(words))


def test_a_run_without_room_for_its_checkpoint_goes_on(tmp_path, store, made_up, capfd, monkeypatch):
    clips = ClipSet.open(made_up(audio=3).save(tmp_path / "clips"))
    whole = get_or_train(SPEC, clips, CPU)
    with disk(tmp_path / "disk", 4) as full:  # a page, which the lock takes
        monkeypatch.setenv("FAMF_STORE", str(tmp_path / "other"))
        key = whole.key
        (tmp_path / "other" / "runs").mkdir(parents=True)
        (tmp_path / "other" / "runs" / f"{key}.partial").symlink_to(full)
        train_real = train.train
        monkeypatch.setattr(train, "train", partial(train_real, checkpoint_seconds=0.0))
        assert get_or_train(SPEC, clips, CPU).losses == whole.losses
    assert capfd.readouterr().err.count("cannot be written (No space left on device); the run goes on") == 1


def test_book(tmp_path, scale, count):
    for kilobytes in sizes(scale, 60, 400):
        with disk(tmp_path / "disk", kilobytes) as root:
            write_book(root)
            html = root / "_build" / "html"
            if not said(tmp_path, book, root, "old"):
                words = said(tmp_path, book, root, 9999 * "new ")
                texts = {path.read_text() for path in html.rglob("*.html")}
                assert texts == ({"old"} if words else {9999 * "new "})
                count("full disks", "book", tries=1, refused=bool(words))
