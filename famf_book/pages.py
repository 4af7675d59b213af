"""The pages of the book, its table of contents, and the folder that Sphinx reads.

``book/pages.yml`` lists the pages that are made from notebooks, in the order of their execution::

    table-1:
      notebook: table-1.ipynb          # in book/
    table-1-imfdb:
      notebook: table-1.ipynb
      parameters: {dataset: imfdb}     # override those of the whole book
      title: "Table 1 on real faces"   # replaces the notebook's first heading
      plugins: [my_package.rows]       # modules to load before the runs of the page are made
      runs: my_package.grids           # a module whose wanted(profile, seeds) gives runs that the notebook itself makes

A page is published as ``book/<page>``, and that is its name in ``_toc.yml``. Where one notebook makes several pages,
its labels must differ from page to page: write ``{{page}}`` into them, in text cells and in the metadata of cells, as
in ``(rows-of-{{page}})=`` or ``"mystnb": {"figure": {"name": "fig-{{page}}"}}``. It becomes the name of the page.
A text cell may have its label in its metadata, ``"label": "rows-of-{{page}}"``, where JupyterLab does not show it.

A build may ask for the pages of further datasets (``Further``), which neither file lists: such a page is made like the
first page of its notebook, and is placed under it in the table of contents.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from famf_book import notebooks
from famf_book.notebooks import NotebookError
from famf_lib.support.files import written_whole

PARAMETERS, EXECUTION = "book/parameters", "book/execution"
GENERATED = (PARAMETERS, EXECUTION)  # pages that the build writes, see ``generated``
PLACEHOLDER = "{{page}}"
BESIDE_ALONE = ("glossary", "references")  # what single pages are rendered with
ELSEWHERE = ["myst.xref_missing", "ref", "mystnb.glue", "mystnb.glue_ref", "bibtex.key_not_found"]
"""Sphinx's warnings about references to pages that are not there."""
BESIDE = ("README.md", "CONTRIBUTING.md", "LICENSE", "data/README.md")  # files that pages of book/ may include


class BookError(NotebookError):
    """The book cannot be built as it is described, or Sphinx refuses it."""


@dataclass(frozen=True)
class Page:
    """A page made from a notebook. ``parameters`` are the values given to it; ``values`` adds its defaults.

    ``plugins`` and ``runs`` are those of ``book/pages.yml``. ``under`` is the page that it is placed under where
    ``_toc.yml`` does not name it.
    """

    name: str
    notebook: Path
    parameters: dict[str, Any]
    values: dict[str, Any]
    title: str | None = None
    plugins: tuple[str, ...] = ()
    runs: str | None = None
    under: str | None = None


@dataclass(frozen=True)
class Further:
    """A dataset to show in addition to those of ``book/pages.yml``; ``called`` is its name in titles.

    ``serves`` says whether a notebook with a parameter ``dataset`` has something to show for it.
    """

    dataset: str
    called: str
    serves: Callable[[Path], bool] = lambda notebook: True


def pages(root: Path, parameters: dict[str, Any], further: Sequence[Further] = ()) -> list[Page]:
    """The pages of ``book/pages.yml``, with checked parameters: their own, and those of ``parameters`` they declare.

    Each dataset of ``further`` adds a page for every notebook with a parameter ``dataset``, unless that page exists,
    and is added to every list ``datasets``.

    Raises: NotebookError at the first problem, before anything is executed.
    """
    listed = _yaml(root / "book" / "pages.yml")
    made, declared_anywhere = [], set()
    for name, entry in listed.items():
        if not str(name).replace("-", "").replace("_", "").isalnum():
            raise BookError(f"book/pages.yml: a page is named with letters, digits, '-' and '_', found {name!r}.")
        name, entry = str(name), {"notebook": entry} if isinstance(entry, str) else entry
        known = {"notebook": str, "parameters": dict, "title": str, "plugins": list, "runs": str}
        if not isinstance(entry, dict) or "notebook" not in entry:
            raise BookError(f"book/pages.yml, page {name!r}: expected a mapping with 'notebook', found {entry!r}.")
        for key, value in entry.items():
            if not isinstance(value, known.get(key, ())):
                expected = ", ".join(f"{key} ({kind.__name__})" for key, kind in known.items())
                raise BookError(f"book/pages.yml, page {name!r}: expected {expected}, found {key}: {value!r}.")
        if f"book/{name}" in GENERATED or (root / "book" / f"{name}.md").exists():
            raise BookError(f"book/pages.yml, page {name!r}: there is another page of that name.")
        path = root / "book" / entry["notebook"]
        if not path.is_file():
            raise BookError(f"book/pages.yml, page {name!r}: the notebook {path} does not exist.")
        declared = {parameter.name: parameter.default for parameter in notebooks.parameters(path)}
        declared_anywhere |= declared.keys()
        given = {key: value for key, value in parameters.items() if key in declared}
        try:
            given = notebooks.check(path, given | entry.get("parameters", {}))
        except NotebookError as error:
            raise NotebookError(f"page {name!r}: {error}") from None
        more = entry.get("title"), tuple(entry.get("plugins", ())), entry.get("runs")
        made.append(Page(name, path, given, declared | given, *more))
    if unknown := sorted(parameters.keys() - declared_anywhere):
        known = ", ".join(sorted(declared_anywhere))
        raise BookError(f"no notebook of the book has a parameter {unknown[0]!r}; there are: {known}.")
    for one in further:
        made = _with(made, root, one)

    used = Counter(page.notebook for page in made)
    for page in made:
        notebook = notebooks.read(page.notebook)
        if page.title and _heading(notebook) is None:
            raise BookError(f"page {page.name!r} has a title, but {page.notebook} has no heading '# …' to replace.")
        for label in _labels(notebook) if used[page.notebook] > 1 else ():
            if PLACEHOLDER not in label:
                raise BookError(
                    f"{page.notebook} makes {used[page.notebook]} pages, so its label {label!r} would not be unique: "
                    f"write {PLACEHOLDER} into it, as in {label}-{PLACEHOLDER}."
                )
    return made


def _with(made: list[Page], root: Path, further: Further) -> list[Page]:
    """The pages, with those of a further dataset, each after the last page of its notebook."""
    added = [_showing(page, further.dataset) for page in made]
    for notebook in dict.fromkeys(page.notebook for page in made):
        of_it = [page for page in added if page.notebook == notebook]
        first = of_it[0]
        shown = [page.values.get("dataset") for page in of_it]
        if "dataset" not in first.values or further.dataset in shown or not further.serves(notebook):
            continue
        name, own = f"{first.name}-{further.dataset}", {"dataset": further.dataset}
        if name in (page.name for page in added) or (root / "book" / f"{name}.md").exists():
            raise BookError(f"the page of {further.dataset!r} would be {name!r}: there is another page of that name.")
        words = title(replace(first, title=None)).partition(":")[0]  # "Table 1: …" is known by its number
        new = replace(
            first,
            name=name,
            parameters=first.parameters | own,
            values=first.values | own,
            title=f"{words} {'On' if words.endswith('?') else 'on'} {further.called}",
            under=first.name,
        )
        added.insert(added.index(of_it[-1]) + 1, new)
    return added


def _showing(page: Page, dataset: str) -> Page:
    """The page, with the dataset added if it shows several."""
    if dataset in (several := page.values.get("datasets", [dataset])):
        return page
    own = {"datasets": [*several, dataset]}
    return replace(page, parameters=page.parameters | own, values=page.values | own)


def table_of_contents(root: Path, every: list[Page]) -> dict[str, Any]:
    """``_toc.yml``, with the pages placed ``under`` another one as its last sections.

    Raises: BookError if it names a page that does not exist, or leaves out one that the build makes.
    """
    toc = _yaml(root / "_toc.yml")
    for page in every:
        if page.under:
            for entry in _entries(toc):
                if _document(entry["file"]) == f"book/{page.under}":
                    entry.setdefault("sections", []).append({"file": f"book/{page.name}"})
    if not (root / "_config.yml").is_file():
        raise BookError(f"{root / '_config.yml'} does not exist.")
    for page in GENERATED:
        if (root / f"{page}.md").exists():
            raise BookError(f"{page}.md exists, but the build writes that page: give yours another name.")
    made = {f"book/{page.name}" for page in every}
    files = list(_files(toc))
    for file in files:
        if file not in made and file not in GENERATED and not (root / f"{file}.md").is_file():
            hint = "; list that notebook in book/pages.yml" if (root / f"{file}.ipynb").is_file() else ""
            raise BookError(f"_toc.yml: there is no {file}.md and no page of that name in book/pages.yml{hint}.")
    if forgotten := sorted((made | set(GENERATED)) - set(files)):
        raise BookError(f"_toc.yml does not list {forgotten[0]}, which the build makes.")
    return toc


def _files(toc: Any) -> Iterator[str]:
    """The documents that a table of contents names, without file extensions."""
    if isinstance(toc, dict):
        for key, value in toc.items():
            if key in ("root", "file"):
                yield _document(value)
            else:
                yield from _files(value)
    elif isinstance(toc, list):
        for entry in toc:
            yield from _files(entry)


def _entries(toc: Any) -> list[dict[str, Any]]:
    """The entries of a table of contents that name a file, at any depth."""
    if isinstance(toc, dict):
        return [toc] * ("file" in toc) + _entries(list(toc.values()))
    return [entry for inner in toc for entry in _entries(inner)] if isinstance(toc, list) else []


def _document(file: str) -> str:
    return file.removesuffix(".md").removesuffix(".ipynb")


def pruned(toc: Any, absent: set[str]) -> Any:
    """The table of contents without the absent documents: their sections move up, and empty parts are removed."""
    if isinstance(toc, dict):
        return {key: kept for key, value in toc.items() if (kept := pruned(value, absent)) != []}
    if not isinstance(toc, list):
        return toc
    entries: list[Any] = []
    for entry in (pruned(entry, absent) for entry in toc):
        if isinstance(entry, dict) and _document(entry.get("file", "")) in absent:
            entries += entry.get("sections", [])
        elif not isinstance(entry, dict) or entry.keys() - {"caption", "numbered", "maxdepth", "titlesonly"}:
            entries.append(entry)
    return entries


def stage_alone(root: Path, source: Path, made: list[Page]) -> None:
    """Collects what Sphinx reads to render a few pages, with glossary and bibliography but without the other pages.

    Warnings about references to pages that are not there are switched off: they are rendered as plain text.
    """
    beside = [f"book/{name}" for name in BESIDE_ALONE if (root / "book" / f"{name}.md").is_file()]
    first, *others = [f"book/{page.name}" for page in made]
    toc = {"format": "jb-book", "root": first}
    toc |= {"chapters": [{"file": file} for file in (*others, *beside)]} if others or beside else {}
    config = _yaml(root / "_config.yml")
    config.setdefault("sphinx", {}).setdefault("config", {})["suppress_warnings"] = ELSEWHERE
    config = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    absent = [file.name for file in (root / "book").glob("*.md") if f"book/{file.stem}" not in beside]
    stage(root, source, toc, made, {"_config.yml": config}, absent)


def stage(
    root: Path, source: Path, toc: Any, made: list[Page], texts: dict[str, str], without: Sequence[str] = ()
) -> None:
    """Collects in ``source`` what Sphinx reads, with ``texts`` by path, and not the files of book/ in ``without``."""
    import nbformat

    with written_whole(source) as new:
        ignored = shutil.ignore_patterns("*.ipynb", ".*", "__pycache__", "pages.yml", *without)
        shutil.copytree(root / "book", new / "book", ignore=ignored)
        elsewhere = [f"{file}.md" for file in _files(toc) if not file.startswith("book/")]
        for file in ("_config.yml", *elsewhere, *BESIDE):
            if (root / file).is_file():
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / file, new / file)
        (new / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False, allow_unicode=True))
        for page in made:
            executed = notebooks.read(root / "_build" / "executed" / f"{page.name}.ipynb")
            nbformat.write(_named(executed, page), new / "book" / f"{page.name}.ipynb")
        for file, text in texts.items():
            (new / file).write_text(text)


def title(page: Page) -> str:
    """The title of the page: its own, or the first heading of its notebook, or its name."""
    notebook = notebooks.read(page.notebook)
    if page.title is None and (place := _heading(notebook)):
        return notebook.cells[place[0]].source.splitlines()[place[1]].removeprefix("# ").strip()
    return page.title or page.name


def _named(notebook: Any, page: Page) -> Any:
    """The notebook with the page's title as its first heading, and its labels in its text, with the page's name."""
    import nbformat

    if page.title and (place := _heading(notebook)):
        cell, line = place
        lines = notebook.cells[cell].source.splitlines()
        lines[line] = f"# {page.title}"
        notebook.cells[cell].source = "\n".join(lines)
    for cell in notebook.cells:
        # A page opens with its answer: parameters are folded, and its last command shows the values given.
        tags = cell.metadata.get("tags", [])
        folded = ["remove-cell"] * ("injected-parameters" in tags) + ["hide-input"] * ("parameters" in tags)
        if folded:
            cell.metadata["tags"] = [*tags, *folded]
        if what := _what_is_folded(cell):
            cell.metadata["mystnb"] = {"code_prompt_show": what, "code_prompt_hide": what}
        if cell.cell_type == "markdown":
            label = f"({cell.metadata['label']})=\n" if "label" in cell.metadata else ""
            cell.source = (label + cell.source).replace(PLACEHOLDER, page.name)
        cell.metadata = nbformat.from_dict(json.loads(json.dumps(cell.metadata).replace(PLACEHOLDER, page.name)))
    return notebook


def _what_is_folded(cell: Any) -> str | None:
    """The name of a folded cell that every notebook has; None if it is another cell."""
    if "parameters" in cell.metadata.get("tags", []):
        return "parameters"
    return "set-up" if cell.source.startswith("from famf_book.notebooks import refuse_unknown") else None


def _heading(notebook: Any) -> tuple[int, int] | None:
    """Cell and line of the first heading."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for number, line in enumerate(cell.source.splitlines()):
                if line.startswith("# "):
                    return index, number
    return None


def _labels(notebook: Any) -> Iterator[str]:
    """Labels that pages can refer to: ``(label)=`` and ``:name: label`` in text, and those in metadata."""
    for cell in notebook.cells:
        if label := cell.metadata.get("label"):
            yield label
        if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            yield name
        for line in map(str.strip, cell.source.splitlines() if cell.cell_type == "markdown" else ()):
            if line.startswith("(") and line.endswith(")="):
                yield line[1:-2]
            elif line.startswith((":name:", ":label:")):
                yield line.split(":", 2)[2].strip()


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise BookError(f"{path} does not exist.") from None
    except yaml.YAMLError as error:
        raise BookError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise BookError(f"{path}: expected a mapping, found {type(content).__name__}.")
    return content
