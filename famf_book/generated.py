"""Writes two pages: every notebook with its parameters, and how the book was executed."""

import json
import re
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from famf_book import notebooks
from famf_book.pages import EXECUTION, PARAMETERS, Page, title


def texts(root: Path, every: list[Page], records: dict[str, dict], left_out: dict[str, str]) -> dict[str, str]:
    """The files that the build adds to the book, by path.

    ``records`` says how each page of this book was executed, ``left_out`` why other pages are missing.
    """
    made = [page for page in every if page.name in records]
    records = {page.name: records[page.name] for page in made}  # in the order of the book
    return {
        f"{PARAMETERS}.md": _parameters_page(root, every, left_out),
        f"{EXECUTION}.md": _execution_page(made, records, left_out),
        f"{EXECUTION}.json": json.dumps(records, indent=1, ensure_ascii=False),
    }


def _parameters_page(root: Path, every: list[Page], left_out: dict[str, str]) -> str:
    """The page about notebooks: their pages, their parameters, and the commands that make the pages."""
    lines = [
        "# Every notebook and its parameters",
        "",
        "Each page of results is a notebook that papermill executed with these parameters. The commands repeat the",
        "pages; `-p name value` sets another value, `-y 'name: [1, 2]'` a list. An unknown name is an error.",
        f"[How this book was executed]({Path(EXECUTION).name}.md) says what ran when and on which machine.",
        "",
    ]
    for notebook in dict.fromkeys(page.notebook for page in every):
        made_of_it = [page for page in every if page.notebook == notebook]
        declared = notebooks.parameters(notebook)
        defaults = {parameter.name: parameter.default for parameter in declared}
        links = [f"`{page.name}` (left out)" if page.name in left_out else _link(page) for page in made_of_it]
        rows = [
            [f"`{one.name}`<br>{_escaped(one.type)}", _code(_python(one.default)), _escaped(one.help)]
            for one in declared
        ]
        path = notebook.relative_to(root)
        commands = [_command(path, _apart(page.parameters, defaults)) for page in made_of_it]
        lines += [
            f"## {title(replace(made_of_it[0], title=None))}",
            "",
            f"`{path}` makes: {', '.join(links)}.",
            "",
            *_table(["parameter, type", "default", "meaning"], rows, "famf-facts"),
            "```bash",
            *dict.fromkeys(commands),
            "```",
            "",
        ]
    return "\n".join(lines)


def _command(path: Path, given: dict[str, Any]) -> str:
    """The command that executes a notebook with these values."""
    return shlex.join(["papermill", str(path), "out.ipynb", "-k", "python3", *notebooks.papermill_options(given)])


def _execution_page(made: list[Page], records: dict[str, dict], left_out: dict[str, str]) -> str:
    """The page about the execution: when, how long, on which machine, with which versions and data."""
    machines: list[dict] = []
    data: list[dict] = []
    rows = []
    for page in made:
        record = records[page.name]
        machine = record["hardware"] | record["versions"]
        machines += [machine] * (machine not in machines)
        used = record.get("data", [])  # records of older builds have none
        data += [one for one in used if one not in data]
        defaults = {parameter.name: parameter.default for parameter in notebooks.parameters(page.notebook)}
        profile = (defaults | record["parameters"]).get("profile")
        given = _apart(record["parameters"], defaults | {"profile": profile})
        commit = (record["commit"] or "unknown").replace("-dirty", ", changed")
        rows.append(
            {
                "page": "<br>".join([_link(page), *(_code(f"{name} = {_python(v)}") for name, v in given.items())]),
                "took": f"{record['seconds']:.1f} s",
                "when<br>(UTC)": record["when"].replace(" ", "<br>"),
                "data": used,
                "profile": profile or "none",
                "machine": str(machines.index(machine) + 1),
                "commit": f"`{commit[:9]}`{commit[40:]}",
            }
        )
    called = _called(data)
    for row in rows:
        row["data"] = "<br>".join(called[data.index(one)] for one in row["data"]) or "none"
    total = sum(records[page.name]["seconds"] for page in made)
    # A value that all pages share is given once, to save a column on narrow screens.
    same = {
        name: rows[0][name]
        for name in ("profile", "data", "machine", "commit")
        if len(rows) > 1 and len({row[name] for row in rows}) == 1
    }
    columns = [name for name in (rows[0] if rows else ()) if name not in same]
    lines = [
        "# How this book was executed",
        "",
        f"{len(made)} pages of this book are notebooks, executed by papermill in {total:.1f} s. A page is executed",
        "again when its notebook, its parameters, its data, the library or a version changes; the times are those of",
        "its last execution. Stored results are read, so a short time does not include the training. Under each page",
        f"are the [parameters]({Path(PARAMETERS).name}.md) whose values differ from their defaults; profile, data and",
        "machine are shown separately.",
        "",
    ]
    if same:
        lines += [f"The same for all pages: {', '.join(f'{name} {value}' for name, value in same.items())}.", ""]
    lines += _table(columns, [[row[name] for name in columns] for row in rows], "famf-facts famf-whole")
    if data:
        lines += ["## Data", "", "A fingerprint is a hash of all the numbers and labels of a dataset.", ""]
        columns = ["fingerprint", "persons", "clips", "faces"]
        rows = [
            [f"{name}<br>{one['profile']}", *(_fact(one.get(column)) for column in columns)]
            for name, one in zip(called, data, strict=True)
        ]
        lines += _table(["data, profile", *columns], rows, "famf-facts famf-whole")
        if any("clips" not in one for one in data):
            lines += ["Data without sizes are not on this machine: their results were recorded elsewhere.", ""]
    if machines:
        names = list(dict.fromkeys(name for machine in machines for name in machine))
        rows = [[name, *(_fact(machine.get(name)) for machine in machines)] for name in names]
        head = ["", *(f"machine {number}" for number in range(1, len(machines) + 1))]
        lines += ["## Machines and versions", "", *_table(head, rows, "famf-facts")]
    if left_out:
        lines += ["## Left out", "", *(f"- `{name}`: {reason}" for name, reason in left_out.items()), ""]
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]], kinds: str) -> list[str]:
    """Lines of a Markdown table; none without rows. ``kinds`` are classes of the style sheet."""
    if not rows:
        return []
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return [":::{table}", f":class: {kinds}", ":align: left", "", *lines, ":::", ""]


def _called(data: list[dict]) -> list[str]:
    """The names of datasets, numbered where several have the same name."""
    names = [one["name"] for one in data]
    return [name if names.count(name) == 1 else f"{name} ({names[:n].count(name)})" for n, name in enumerate(names, 1)]


def _link(page: Page) -> str:
    return f"[{_escaped(title(page))}]({page.name}.ipynb)"


def _apart(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values given that differ from the defaults."""
    return {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}


def _python(value: Any) -> str:
    """A value as Python source, long text shortened."""
    return (
        json.dumps(textwrap.shorten(value, 60, placeholder=" …"), ensure_ascii=False)
        if isinstance(value, str)
        else repr(value)
    )


def _fact(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else _escaped(str(value))


def _code(text: str) -> str:
    """Text as code in a table cell, with bars escaped."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def _escaped(text: str) -> str:
    """Text with the characters escaped that Markdown would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|$])", r"\\\1", text)
