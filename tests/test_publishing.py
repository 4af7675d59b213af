"""What publishes the book: workflows, Binder and Colab, the citation. That they run is for their forge to show; here
is that they agree with the rest of the repository, and that a page leads to its notebook."""

import json
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import yaml

from famf_book.extensions import launch_buttons
from famf_lib.support.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path):
    return yaml.load(path.read_text(), yaml.BaseLoader)  # "on" is a word, and 3.10 is no 3.1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_pinned_may_do_little_and_knows_no_secret(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text() and "pull_request_target" not in workflow["on"]
    for name, job in workflow["jobs"].items():
        assert set(job.get("permissions", {})) <= {"pages", "id-token"}
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/own@v1")), (name, step)
            # What a stranger may write, as the title of a pull request, never becomes part of a command.
            run = step.get("run", "")
            assert not re.search(r"github\.(event\.(?!repository)|head_ref)", run.replace("event_name", ""))
            for target in re.findall(r"make (\w+)", run):
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_tests_run_on_every_python_that_is_allowed_and_binder_takes_one_without_cuda():
    matrix = load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    assert matrix["python"] == [f"3.{minor}" for minor in range(low, high)]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "-r ../requirements.txt" in lines and any("whl/cpu" in line for line in lines)
    version = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert version in load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    script = ROOT / "binder" / "postBuild"
    assert script.stat().st_mode & 0o100, "postBuild cannot be executed"
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_citation_is_of_this_version_and_of_the_paper():
    cited = load(ROOT / "CITATION.cff")
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    paper = cited["preferred-citation"]
    references = (ROOT / "book" / "references.bib").read_text()
    entry = re.search(r"@misc\{li2020famf,(.*?)\n\}", references, re.DOTALL).group(1)
    assert paper["title"] in entry and paper["year"] in entry and paper["identifiers"][0]["value"] in entry
    assert " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]) in entry
    assert f"version = {{{PROJECT['version']}}}" in (ROOT / "book" / "references.md").read_text()
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_use_what_is_installed_and_strip_notebooks(tmp_path):
    (repo,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repo["hooks"]}
    assert repo["repo"] == "local" and {hook["language"] for hook in hooks.values()} == {"system"}
    clean = (ROOT / "book" / "own-model.ipynb").read_text()
    notebook = json.loads(clean)
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    command = [*hooks["outputs"]["entry"].split(), str(tmp_path / "a.ipynb")]
    command[:1] = [sys.executable, "-m", "jupyter"]
    subprocess.run(command, check=True, capture_output=True)
    stripped, original = json.loads((tmp_path / "a.ipynb").read_text()), json.loads(clean)
    for one in stripped["cells"] + original["cells"]:
        one["source"] = "".join(one["source"])
        one["metadata"].pop("execution", None)
    assert stripped["cells"] == original["cells"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/some-one/the.book", "some-one/the.book"),
        ("https://github.com/some-one/book.git", "some-one/book"),
        ("git@github.com:some-one/book.git", "some-one/book"),
        ("ssh://git@github.com/some-one/book/", "some-one/book"),
        *((url, None) for url in ("https://example.org/a/b", "https://github.com.example.org/a/b", "/srv/book", "")),
    ],
)
def test_the_repository_is_the_one_that_was_cloned(tmp_path, monkeypatch, url, name):
    monkeypatch.delenv("FAMF_REPOSITORY", raising=False)
    monkeypatch.delenv("FAMF_BRANCH", raising=False)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if url:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", url], check=True)
    assert launch_buttons.repository(tmp_path) == (name and (name, "main"))
    monkeypatch.setenv("FAMF_REPOSITORY", "https://github.com/fork/of-it")
    monkeypatch.setenv("FAMF_BRANCH", "trunk")
    assert launch_buttons.repository(tmp_path) == ("fork/of-it", "trunk")


def test_a_page_leads_to_the_notebook_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_REPOSITORY", "https://github.com/some-one/book")
    monkeypatch.delenv("FAMF_BRANCH", raising=False)
    (tmp_path / "book").mkdir()
    executed = {"metadata": {"papermill": {"input_path": "table-1.ipynb"}}}
    (tmp_path / "book" / "table-1-imfdb.ipynb").write_text(json.dumps(executed))
    app = SimpleNamespace(srcdir=str(tmp_path))

    def urls(page):
        context = {"header_buttons": ["the theme's"]}
        launch_buttons._add(app, page, "page.html", context, None)
        assert context["header_buttons"][-1] == "the theme's"
        return [button["url"] for group in context["header_buttons"][:-1] for button in group["buttons"]]

    binder, colab = urls("book/table-1-imfdb")
    assert binder == "https://mybinder.org/v2/gh/some-one/book/main?urlpath=lab/tree/book/table-1.ipynb"
    assert colab == "https://colab.research.google.com/github/some-one/book/blob/main/binder/colab.ipynb"
    for url in (binder.partition("lab/tree/")[2], colab.partition("/blob/main/")[2]):
        assert (ROOT / url).is_file()
    assert urls("book/intro") == []
    monkeypatch.setenv("FAMF_REPOSITORY", "https://example.org/some-one/book")
    assert urls("book/table-1-imfdb") == []
