"""Sphinx extension: buttons that open a page's notebook in Binder or Colab.

The theme's own buttons assume one notebook per page; here one notebook makes several pages, and the executed notebook
of a page names it. The repository is the one that was cloned, or ``$FAMF_REPOSITORY`` with ``$FAMF_BRANCH``. Without a
repository on GitHub there are no buttons. Nothing is loaded before a button is pressed.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from famf_lib.support.files import ROOT

GITHUB = re.compile(r"(?:https://|(?:ssh://)?git@)github\.com[:/]([\w-]+/[\w.-]+?)(?:\.git)?/?")


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", _add, priority=600)  # after the theme, which starts the list at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def repository(root: Path = ROOT) -> tuple[str, str] | None:
    """OWNER/NAME on GitHub and the branch; None if there is no such repository."""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        url = os.environ.get("FAMF_REPOSITORY") or subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:  # no git
        return None
    found = GITHUB.fullmatch(url.strip())
    return (found.group(1), os.environ.get("FAMF_BRANCH") or "main") if found else None


def links(notebook: str, name: str, branch: str) -> dict[str, str]:
    """Addresses that open a notebook of ``book/``. Colab opens a single file, which fetches the repository first."""
    return {
        "Binder": f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/book/{notebook}",
        "Colab": f"https://colab.research.google.com/github/{name}/blob/{branch}/binder/colab.ipynb",
    }


def _add(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    found, source = repository(), Path(app.srcdir) / f"{page}.ipynb"
    if found is None or not source.exists():
        return
    notebook = json.loads(source.read_text())["metadata"]["papermill"]["input_path"]
    tooltips = {"Binder": "Open the notebook in Binder", "Colab": "Execute the page in Colab"}
    buttons = [
        {"type": "link", "text": kind, "tooltip": tooltips[kind], "url": url, "icon": "fas fa-play"}
        for kind, url in links(notebook, *found).items()
    ]
    group = {"type": "group", "tooltip": "Run this page", "icon": "fas fa-rocket", "label": "launch-buttons"}
    context.setdefault("header_buttons", []).insert(0, group | {"buttons": buttons})
