"""iQIYI-VID-2019: the official files (``data/README.md``), read with care and turned into a ClipSet.

The files are handed out by iQIYI under an agreement. ``famf data import iqiyi FOLDER`` reads them once.
"""

from famf_lib.datasets import imported

NAME = "iqiyi"
TITLE = "iQIYI-VID-2019"
MODALITIES = ("head", "body", "audio")


def absence() -> str | None:
    """None where the files were imported, otherwise what to do."""
    if NAME in imported.names():
        return None
    return f"{NAME}: not imported; famf data import {NAME} FOLDER does it, and data/README.md says how to get the files"
