import os
import sys

import pytest
from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in famf_lib, which may not be imported yet, for jaxtyping's sake

settings.register_profile("here", deadline=None)  # no test depends on how fast the machine is
settings.load_profile("here")


def pytest_collection_modifyitems(items):
    """The files with the longest tests come first, so that no worker process waits for another one at the end."""
    items.sort(key=lambda item: "torture" not in item.nodeid)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The store of the test: no test reads or writes the user's."""
    folder = tmp_path / "store"
    monkeypatch.setenv("FAMF_STORE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    if "torch" in sys.modules:  # tests that do not need it do not pay for it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def made_up():
    """Makes a small ClipSet of persons that are easy to tell apart, with all that is awkward in real ones.

    Clips have 1 to 9 faces, one clip a person of the training split has none; every third clip lacks its audio, whose
    row then holds NaN; the validation split has noise clips. With ``labels="shuffled"`` faces say nothing about who.
    """
    import numpy as np
    import pandas as pd

    from famf_lib.data.clipset import ClipSet

    def make(persons=5, clips=8, dim=11, audio=7, noise=3, spread=0.3, labels="true", seed=0, info=None):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(persons), clips)
        take = np.tile(np.arange(clips), persons)
        who = np.concatenate([who, rng.integers(persons, size=noise)])  # a noise clip looks like somebody
        take = np.concatenate([take, np.full(noise, clips - 1)])
        table = pd.DataFrame(
            {"name": [f"clip {n:03d}" for n in range(len(who))], "person": [f"person {p}" for p in who]}
        )
        table["split"] = np.where(take < clips - clips // 4, "train", "val")
        table["group"] = [f"film {t // 2}" for t in take]
        table.loc[len(who) - noise :, ["person", "group"]] = None
        counts = np.where(take == 0, 0, rng.integers(1, 10, size=len(who)))
        looks, voices = rng.normal(size=(persons, dim)), rng.normal(size=(persons, audio))
        clip_of_face = np.repeat(np.arange(len(who)), counts)
        faces = looks[who[clip_of_face]] + spread * rng.normal(size=(len(clip_of_face), dim))
        sounds = voices[who] + spread * rng.normal(size=(len(who), audio))
        heard = np.arange(len(who)) % 3 > 0
        sounds[~heard] = np.nan
        if labels == "shuffled":
            known = np.arange(len(who) - noise)
            for side in ("train", "val"):
                rows = known[table["split"][known] == side]
                table.loc[rows, "person"] = rng.permutation(table.loc[rows, "person"].to_numpy())
        of_faces = pd.DataFrame({"quality": rng.random(len(faces))})
        modalities = {"audio": (sounds, heard), "body": (rng.normal(size=(len(who), dim)), np.ones(len(who)))}
        return ClipSet.build(faces, counts, table, face_table=of_faces, modalities=modalities, info=info)

    return make


@pytest.fixture(scope="module")  # no longer: Playwright's event loop would be in the way of others
def browser():
    """A real browser without a window: Chromium, driven by Playwright. Skips where there is none."""
    from famf_book import pdf

    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not here: the extra test has it")
    try:
        place = pdf.browser()
    except pdf.BookError as absent:
        pytest.skip(str(absent))
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=place, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def results_folder(tmp_path, monkeypatch):
    """An empty results/, so that no test sees or writes what is recorded."""
    from famf_lib.experiments import settings

    monkeypatch.setattr(settings, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def tiny(monkeypatch):
    """The quick profile with two epochs, one run after another: tests of what happens to the numbers need no more."""
    from famf_lib.experiments import probes, run_store
    from famf_lib.experiments.settings import BASE

    for module in (run_store, probes):  # starting workers takes longer than these trainings
        monkeypatch.setattr(module, "cores", lambda: 1)

    base = BASE["quick"]
    training = base.training.model_copy(update={"epochs": 2, "decay_after": 1})
    monkeypatch.setitem(BASE, "quick", base.model_copy(update={"training": training, "hidden": 16}))


@pytest.fixture(scope="session")
def made_results():
    """Makes Results with a given mAP a row, without training; all rows share the ups and downs of seeds and persons."""
    import numpy as np
    import pandas as pd

    from famf_lib.experiments.results import Results
    from famf_lib.experiments.run_store import Run, RunSpec

    def make(levels, seeds=5, persons=13, noise=0.0):
        rng = np.random.default_rng(2)
        common = rng.normal(0, 0.05, (seeds, persons))
        common -= common.mean()
        runs = {}
        for label, level in levels.items():
            ap = level + common + noise * rng.normal(size=(seeds, persons))
            for seed in range(seeds):
                numbers = (pd.Series(ap[seed]), 0.5, [0.1], 1.0, {"when": "2026-01-01", "commit": 40 * "c"})
                runs[label, seed + 1] = Run(RunSpec(seed=seed + 1), f"{len(runs):012x}", *numbers)
        return Results(runs, "data", "standard")

    return make
