import pytest

from famf_lib.data import imfdb
from famf_lib.support.files import sources


@pytest.fixture(scope="session")
def real_imfdb() -> imfdb.ClipSet:
    """The real IMFDB, read once; skips where it is not here."""
    if reason := imfdb.absence():
        pytest.skip(reason)
    if not (sources() / "imfdb" / imfdb.EMBEDDINGS).is_file():
        pytest.skip(f"the counts are those of {imfdb.EMBEDDINGS}")
    return imfdb.make("standard")
