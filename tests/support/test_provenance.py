import subprocess

from famf_lib.support import provenance


def git(root, *arguments):
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    return subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True, text=True).stdout


def test_what_differs_from_the_commit_is_said_a_folder_aside(tmp_path, monkeypatch):
    assert provenance.commit(tmp_path) is None, "no checkout"
    git(tmp_path, "init", "-q")
    assert provenance.commit(tmp_path) is None, "no commit yet"
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/one.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "log", "--format=%H").strip()
    assert provenance.commit(tmp_path) == head
    (tmp_path / "new.txt").write_text("not tracked")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "results" / "one.json").write_text("2")
    assert provenance.commit(tmp_path) == f"{head}-dirty", "settings and pages are made from recordings"
    assert provenance.commit(tmp_path, but="results") == head
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit(tmp_path, but="results") == f"{head}-dirty"
    git(tmp_path, "add", "code.py")
    assert provenance.commit(tmp_path, but="results") == f"{head}-dirty", "in the index, not in the commit"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(tmp_path) is None, "no Git"
