"""Several processes that import under one name, or write one file, at the same moment."""

import json
import os
import time

import pytest
from forked import ended, forked
from made import tables

from famf_lib.data import imported
from famf_lib.data.tables import build, import_tables
from famf_lib.support.files import clear_unfinished, size_of, written_whole


def import_(sources, begin, replacing, answers):
    """Waits for the moment, imports its own source, and writes what it is told."""
    number = int(os.environ["NUMBER"])
    while time.time() < begin:
        pass
    try:
        said = import_tables(sources[number], "mine", replacing=replacing).fingerprint
    except imported.ImportedError as error:
        said = str(error)
    (answers / f"{number}.json").write_text(json.dumps(said))


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replace"])
def test_imports_of_one_name(replacing, tmp_path, store, scale, count):
    sources = [tables(tmp_path / f"source {n}", seed=n) for n in range(4)]
    prints = [build(source).fingerprint for source in sources]
    for number in range(2 * scale):
        together = 2 + 2 * (number % 2)
        answers, own = tmp_path / f"answers {number}", [{"NUMBER": str(n)} for n in range(together)]
        answers.mkdir()
        for name in imported.names():
            (store / "imported" / name).rename(tmp_path / f"of round {number}")
        begin = time.time() + 0.3
        with forked(import_, sources, begin, replacing, answers, environments=own) as processes:
            assert ended(processes) == [0] * together
        said = [json.loads((answers / f"{n}.json").read_text()) for n in range(together)]
        won = [n for n in range(together) if said[n] == prints[n]]
        refused = [one for one in said if one.startswith("name: ") and "expected" in one]
        assert won and len(won) + len(refused) == together, said
        assert replacing or len(won) == 1, "two were told that they won"
        assert imported.open("mine").fingerprint in [prints[n] for n in won]
        assert sorted(os.listdir(store / "imported")) == ["mine", "mine.lock"]
        count("races", "import --replace" if replacing else "import", rounds=1, refused=len(refused))


def write(target, folder, rounds):
    me = os.environ["NUMBER"]
    for _ in range(rounds):
        with written_whole(target) as new:
            if folder:
                new.mkdir()
            for name in "ab" if folder else [""]:
                (new / name if folder else new).write_text(100 * me)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_writers_of_one_target(folder, tmp_path, scale, count):
    """Each clears what others left, and none loses its own; a reader sees one or the other, whole."""
    target, whole = tmp_path / "it", {100 * str(n) for n in range(3)}
    rounds, seen = 20 * scale, 0
    with forked(write, target, folder, rounds, environments=[{"NUMBER": str(n)} for n in range(3)]) as processes:
        while any(process.is_alive() for process in processes):
            if not folder and target.exists():
                assert target.read_text() in whole
                seen += 1
        assert ended(processes) == [0, 0, 0]
    assert {path.read_text() for path in (target.iterdir() if folder else [target])} <= whole
    assert os.listdir(tmp_path) == ["it"]
    count("races", "writers of a folder" if folder else "writers of a file", rounds=3 * rounds)


def test_a_leftover_is_cleared_only_when_its_owner_is_gone(tmp_path):
    target = tmp_path / "it"
    with written_whole(target) as new:
        new.write_text("slow")
        with forked(write, target, False, 1, environments=[{"NUMBER": "7"}]) as processes:
            assert ended(processes) == [0]
        assert new.read_text() == "slow" and target.read_text() == 100 * "7"
    assert target.read_text() == "slow" and os.listdir(tmp_path) == ["it"]


def test_a_workplace_stays_locked_until_the_rest_of_it_is_gone(tmp_path, monkeypatch):
    """Another process clears up before each of the owner's removals, and takes nothing away."""
    target, real, removed, cleared = tmp_path / "it", os.unlink, [], []

    def unlink(path, **given):
        monkeypatch.setattr(os, "unlink", real)
        if path != "lock":
            cleared.append(clear_unfinished(target))
        removed.append(os.path.basename(path))
        monkeypatch.setattr(os, "unlink", unlink)
        real(path, **given)

    for content in ("old", "new"):
        with written_whole(target) as new:
            new.mkdir()
            for name in "abcde":
                (new / name).write_text(content)
            monkeypatch.setattr(os, "unlink", unlink)
        monkeypatch.setattr(os, "unlink", real)
    assert cleared and not any(cleared) and removed[-1] == "lock" and {*"abcde"} < {*removed}
    assert os.listdir(tmp_path) == ["it"] and {path.read_text() for path in target.iterdir()} == {"new"}


def test_the_size_of_a_folder_that_somebody_removes_is_that_of_what_is_left(tmp_path, monkeypatch):
    (tmp_path / "kept").write_bytes(bytes(7))
    found = [(str(tmp_path), [], ["gone", "kept"])]
    monkeypatch.setattr(os, "walk", lambda path: found)
    assert size_of(tmp_path) == 7
