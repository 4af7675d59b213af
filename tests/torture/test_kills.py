"""Killed before any of its changes to the file system, or at any time, a command leaves the old or the new, whole."""

import os
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from kills import every_kill
from made import tables
from made_notebooks import tagged, write
from nbformat.v4 import new_markdown_cell

from famf_book import build, notebooks
from famf_lib.data import imported
from famf_lib.data.clipset import ClipSet
from famf_lib.data.table_files import TableError
from famf_lib.data.tables import import_tables
from famf_lib.experiments.run_store import RunSpec, clear_interrupted, find, get_or_train
from famf_lib.support import files
from famf_lib.training import resume, train

CPU = torch.device("cpu")
SPEC = RunSpec(
    model={"modalities": ["audio"], "hidden": 5, "aggregation_options": {"clusters": 2}, "fusion": "concat"},
    training={"epochs": 3, "decay_after": 2, "batch_size": 16, "faces": 3},
    evaluation={"faces": 3},
)


def again(folder, kept):
    shutil.rmtree(folder, ignore_errors=True)
    if kept.exists():
        shutil.copytree(kept, folder)


def left(folder, *kept):
    return sorted(set(os.listdir(folder)) - set(kept))


def import_(source, exchange=True):
    if not exchange:
        files.exchange = lambda one, other: False
    import_tables(source, "mine", replacing=True)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replace"])
def test_import(earlier, exchange, tmp_path, store, scale, count, monkeypatch):
    old, new = tables(tmp_path / "old"), tables(tmp_path / "new", seed=1)
    faulty = tables(tmp_path / "faulty")
    (faulty / "faces.parquet").write_bytes(b"PAR1")
    prints = {None: None} if not earlier else {}
    for source in (new, *[old] * earlier):
        prints[source] = import_tables(source, "mine", replacing=True).fingerprint
    kept = tmp_path / "kept"
    if earlier:
        shutil.copytree(store, kept)

    def seen():
        return imported.open("mine").fingerprint if imported.names() else None

    def check():
        found = seen()
        assert found in prints.values() or (found is None and not exchange)
        with pytest.raises(TableError):
            import_tables(faulty, "mine", replacing=True)
        assert seen() in prints.values() and (found is None or seen() == found), "a faulty import lost the earlier one"
        assert import_tables(new, "mine", replacing=True).fingerprint == prints[new]
        assert left(store / "imported") == ["mine", "mine.lock"]

    kills = every_kill(import_, (new, exchange), partial(again, store, kept), check, rounds=3 * scale)
    assert kills > 9
    count("kills", "import --replace" if earlier else "import", kills=kills)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_power_cut_or_a_failed_rename_costs_nothing(folder, tmp_path, monkeypatch):
    """What takes the place of another is on the disk before, and the place afterwards."""
    target, done = tmp_path / "it", []

    def write(text):
        with files.written_whole(target) as new:
            if folder:
                new.mkdir()
            (new / "inside" if folder else new).write_text(text)

    def seen():
        return (target / "inside" if folder else target).read_text()

    with monkeypatch.context() as patch:
        for name, real in (("_fsync", files._fsync), ("_place", files._place)):
            patch.setattr(files, name, lambda *given, real=real: (done.append(given[-1].name), real(*given)))
        write("old")
    assert done == [*(["inside"] if folder else []), "new", "old", tmp_path.name]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(files, "exchange", lambda one, other: False)
        patch.setattr(os, "replace", lambda *given: (_ for _ in ()).throw(OSError("no space")))
        write("new")
    assert seen() == "old" and os.listdir(tmp_path) == ["it"]


def train_(folder):
    train.train = partial(train.train, checkpoint_seconds=0.0)
    get_or_train(SPEC, ClipSet.open(folder), CPU)


def test_run(tmp_path, store, scale, count, made_up):
    clips = ClipSet.open(made_up(dim=D, audio=3).save(tmp_path / "clips"))
    whole = get_or_train(SPEC, clips, CPU)

    def check():
        states = list(store.glob("runs/*.partial/checkpoint.pt"))
        done = len(resume.load(states[0])["losses"]) if states else 0
        epochs = []
        run = find(SPEC, clips, CPU) or get_or_train(SPEC, clips, CPU, lambda epoch, loss: epochs.append(epoch))
        assert not epochs or epochs[0] == done + 1, "it began again"
        pd.testing.assert_series_equal(run.ap, whole.ap, check_exact=True)
        assert (run.losses, run.rank_1) == (whole.losses, whole.rank_1)
        files.clear_all(store / "runs")
        clear_interrupted()
        assert left(store / "runs") == [run.key]

    kills = every_kill(train_, (clips.folder,), partial(again, store, tmp_path / "none"), check, rounds=3 * scale)
    count("kills", "run", kills=kills)


D = 11
PAGES = {"one": "a.ipynb", "two": "a.ipynb"}


def book(root, words):
    """A build without kernels and without Sphinx: its own changes to the file system are the same."""

    def execute(path, out, given, **options):
        with files.written_whole(out) as new:
            shutil.copyfile(path, new)
        versions = {"parameters": given, "seconds": 0.1, "when": "2026-01-02 03:04", "commit": None}
        return versions | {"versions": {}, "hardware": {}}

    def sphinx(source, out, builder, log):
        (out / "book").mkdir(parents=True)
        for name in ("index.html", "book/one.html", "book/two.html"):
            (out / name).write_text(words)

    notebooks.execute, build.sphinx = execute, sphinx
    build.source_fingerprint = lambda *modules, **options: words  # so that every page is executed again
    build.build(root)


def test_book(tmp_path, scale, count, capsys):
    root, kept = tmp_path / "root", tmp_path / "kept"
    write_book(root)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((notebooks, "execute"), (build, "sphinx"), (build, "source_fingerprint")):
            patch.setattr(module, name, getattr(module, name))
        book(root, "old")
        shutil.copytree(root, kept)

        def pages():
            return {path.read_text() for path in (root / "_build" / "html").rglob("*.html")}

        def check():
            assert pages() in ({"old"}, {"new"})
            book(root, "last")
            assert pages() == {"last"}
            place = root / "_build"
            assert left(place) == [".lock", "executed", "html", "source"]
            assert left(place / "executed") == ["one.ipynb", "one.json", "two.ipynb", "two.json"]

        kills = every_kill(book, (root, "new"), partial(again, root, kept), check, rounds=3 * scale)
    count("kills", "book", kills=kills)


def write_book(root: Path):
    (root / "book").mkdir(parents=True)
    (root / "_config.yml").write_text("title: a book\n")
    (root / "book" / "intro.md").write_text("# A book\n")
    (root / "book" / "pages.yml").write_text(yaml.safe_dump(PAGES))
    chapters = [{"file": f"book/{name}"} for name in (*PAGES, "parameters", "execution")]
    toc = {"format": "jb-book", "root": "book/intro", "chapters": chapters}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    write(root / "book" / "a.ipynb", new_markdown_cell("# A page"), tagged("n: int = 1"))
