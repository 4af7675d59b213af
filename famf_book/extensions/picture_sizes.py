"""Sphinx extension: writes the width and height of every picture into its page, so that nothing moves when it loads.

Sphinx and MyST-NB write neither. They are attributes rather than style, so that a narrow page can shrink the picture
and keep its aspect ratio.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sphinx.util.images import get_image_size

PICTURE = re.compile(r'<img(?![^>]*\s(?:width|height|style)=)[^>]*?\ssrc="(?:[^":]*/)?_images/([^"/]+)"')


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def sized(html: str, files: dict[str, Path]) -> str:
    """The page with the sizes of its pictures, in CSS pixels; ``files`` has the pictures by their names in the book."""

    def with_size(found: re.Match) -> str:
        file = files.get(unquote(found[1]))
        size = get_image_size(str(file)) if file else None
        return f'{found[0]} width="{size[0]}" height="{size[1]}"' if size else found[0]

    return PICTURE.sub(with_size, html)


def _add(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        files = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}
        context["body"] = sized(context["body"], files)
