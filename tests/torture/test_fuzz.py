"""Any change of any file gives what the file says, or one sentence with the file; never another error."""

import json
import pickle
import shutil
import time
import warnings

import imfdb_files
import numpy as np
import official_files
import pandas as pd
import pytest
import torch
from made import tables
from mutations import change_arrays, change_bytes, change_json, change_safetensors, change_table

from famf_book import build, notebooks
from famf_book.pages import Page
from famf_lib.data import chimera, imfdb, inspection, iqiyi_text, pickles
from famf_lib.data.opening import checked
from famf_lib.data.tables import build as build_tables
from famf_lib.experiments import results, run_store, settings, submission
from famf_lib.experiments.probes import _place, _read, ask
from famf_lib.support import rasters
from famf_lib.support.files import ROOT
from famf_lib.support.wording import plain
from famf_lib.training import checkpoint, resume, train
from famf_video import labels, pipeline
from famf_video.clips import Clip

CPU = torch.device("cpu")
SPEC = run_store.RunSpec(
    model={"modalities": ["audio"], "hidden": 5, "aggregation_options": {"clusters": 2}, "fusion": "concat"},
    training={"epochs": 2, "decay_after": 1, "batch_size": 16, "faces": 3},
    evaluation={"faces": 3},
)
FILES = 12  # changed files of each kind in the test suite


@pytest.fixture(scope="module")
def base(tmp_path_factory, made_up):
    """A good file of every kind: its path, and the function that reads it."""
    base = tmp_path_factory.mktemp("base")
    kinds = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAMF_STORE", str(base / "store"))
        clips = checked(made_up(audio=3).save(base / "set"))
        clips.checksums  # noqa: B018

        def read_set(path):
            found = checked(path.parent)
            inspection.summary(found, str(found.info.get("title")))
            found.face_columns()
            return found.persons, found.labels, list(found.counts)

        for name in ("arrays.safetensors", "faces.parquet", "clips.parquet", "SHA256SUMS"):
            kinds[f"ClipSet: {name}"] = (base / "set" / name, read_set)
        run = run_store.get_or_train(SPEC, clips, CPU)
        ask(run, "weights", clips)
        kinds["run.json"] = (run.folder / "run.json", lambda path: run_store.open_run(path.parent))
        kinds["persons.parquet"] = (run.folder / "persons.parquet", lambda path: run_store.open_run(path.parent))
        kinds["model.safetensors"] = (run.file, checkpoint.open)
        table = _place(run, "weights", clips)
        kinds["answers of a probe"] = (table, lambda path: _read(path, "weights"))
        model = train.build(SPEC.model, clips, len(clips.persons), 1)
        resume.save(base / "checkpoint.pt", model, torch.optim.Adam(model.parameters()), [0.5], 1.0)
        kinds["checkpoint.pt"] = (base / "checkpoint.pt", lambda path: run_store._check_state(path, model))
        found = results.Results({("FAMF", 1): run}, "data", "standard", answers={"weights": pd.read_parquet(table)})
        patch.setattr(settings, "RESULTS", base / "results")
        patch.setattr(results.provenance, "origin", lambda root, but: {"commit": None})
        kinds["recording"] = (results.record(found, "weights", "mine", "famf run"), read_recording)
    tables(base / "own")
    for name in ("faces", "clips"):
        kinds[f"own {name}.parquet"] = (base / "own" / f"{name}.parquet", lambda path: build_tables(path.parent))
    kinds["own features.npz"] = (own_npz(base / "features.npz"), build_tables)
    official_files.write(base / "official")
    kinds["train_gt.txt"] = (base / "official" / "train_gt.txt", iqiyi_text.read_train)
    kinds["val_gt.txt"] = (base / "official" / "val_gt.txt", iqiyi_text.read_val)
    lists = shutil.copyfile(base / "official" / "val_gt.txt", base / "lists.txt")
    kinds["submission"] = (lists, lambda path: submission.score_files(path, base / "official" / "val_gt.txt"))
    clip = [[b"7", [1, 2, 3, 4], 0.9, 35.0, np.ones(512, np.float16)]] * 2
    (base / "face.pickle").write_bytes(pickle.dumps({f"clip {n}": clip for n in range(3)}))
    kinds["pickle"] = (base / "face.pickle", lambda path: list(pickles.items(path)))
    kinds["utterances.npz"] = (utterances(base / "utterances.npz"), chimera._read)
    world = imfdb_files.World()
    world.film("Ann", "Film", [1, 2, 3])
    kinds["IMFDB, embeddings"] = (world.embeddings(base), imfdb._embeddings)
    kinds["IMFDB, archive"] = (world.archive(base), imfdb._read)
    (base / "labels.csv").write_text("clip,person,split\na,ann,train\nb,bob,val\n")
    kinds["labels.csv"] = (base / "labels.csv", lambda path: labels.read(path, print))
    notebook = shutil.copyfile(ROOT / "book" / "benchmarks.ipynb", base / "notebook.ipynb")
    kinds["notebook"] = (notebook, notebooks.parameters)
    (base / "executed").mkdir()
    (base / "executed" / "page.ipynb").touch()
    record = {"key": {}, "seconds": 1.0, "when": "2026", "parameters": {}, "versions": {}, "hardware": {}}
    (base / "executed" / "page.json").write_text(json.dumps(record))
    page = Page("page", notebook, {}, {})
    kinds["record of a page"] = (base / "executed" / "page.json", lambda path: build._record(path.parents[1], page))
    (base / "face.jpg").write_bytes(imfdb_files.picture(1))
    kinds["picture"] = (base / "face.jpg", rasters.rgb)
    ones = np.ones((2, 4), np.float32)
    part = Clip(
        np.arange(2), np.arange(2.0), ones, np.ones((2, 5, 2), np.float32), ones[:, 0], ones[:, 0], ones.astype("f2")
    )
    pipeline._save([part], ["said"], base / "part.safetensors")
    kinds["part of an extraction"] = (base / "part.safetensors", lambda path: pipeline._open(path, ()))
    return kinds


def read_recording(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "RESULTS", path.parent)
        found = results.find_recording("weights", "mine", "standard")
        return found.mean_ap(), found.ap("FAMF")


def own_npz(path):
    rng = np.random.default_rng(0)
    arrays = {"clip": np.array([*"vw"]), "label": np.array(["ann", ""]), "split": np.array(["train", "val"])}
    arrays |= {"face_clip": np.array([*"vvw"]), "frame": np.arange(3), "faces": rng.normal(size=(3, 5))}
    arrays |= {"audio": rng.normal(size=(2, 3)), "audio_present": np.array([True, False])}
    np.savez(path, **arrays)
    return path


def utterances(path):
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=(5, n)) for name, n in (("text", 3), ("audio", 2), ("video", 7))}
    np.savez(path, video_id=np.array([*"aabbb"]), utterance=np.arange(5), **vectors)
    return path


def changed(path, content, rng):
    """Writes the file with a change of its bytes or of what it says."""
    path.write_bytes(content)
    if rng.random() < 0.5 and path.suffix in (".json", ".ipynb"):
        path.write_text(change_json(content, rng))
    elif rng.random() < 0.5 and path.suffix == ".safetensors":
        path.write_bytes(change_safetensors(content, rng))
    elif rng.random() < 0.5 and path.suffix in (".parquet", ".npz"):
        (change_table if path.suffix == ".parquet" else change_arrays)(path, rng)
    else:
        path.write_bytes(change_bytes(content, rng))


def test_any_change_of_any_file(base, scale, count, capfd):
    bad, rng = [], np.random.default_rng(scale)
    for kind, (path, read) in base.items():
        content, began, refused = path.read_bytes(), time.monotonic(), 0
        read(path)
        number = FILES * (5 * scale if scale > 1 else 1) // (10 if kind == "pickle" else 1)
        for n in range(number):
            changed(path, content, rng)
            try:
                with warnings.catch_warnings(action="ignore"):
                    read(path)
            except (ValueError, LookupError, notebooks.NotebookError, OSError) as error:
                refused += 1
                said = plain(error)
                fit = str(path.parent) in said or isinstance(error, rasters.RasterError)
                if type(error) in (KeyError, IndexError) or not fit or len(str(error)) > 1600 + len(str(path)):
                    bad.append(f"{kind} {n}: {type(error).__name__}: {said}")
                elif not any(word in said for word in ("expected", "Jupyter", "found;")) and fit and kind != "picture":
                    bad.append(f"{kind} {n}: {type(error).__name__}: {said}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                bad.append(f"{kind} {n}: {type(error).__name__}: {plain(error)}")
            if bad and bad[-1].startswith(f"{kind} {n}:"):
                keep = path.with_name(f"bad {len(bad)} {path.name}")
                shutil.copyfile(path, keep)
        path.write_bytes(content)
        count("damaged files", kind, files=number, refused=refused, seconds=round(time.monotonic() - began))
    assert not bad, f"{len(bad)} of them:\n" + "\n".join(sorted(bad, key=lambda said: hash(said) % 997)[:40])
