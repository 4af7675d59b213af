"""Small files with a huge content: the process that reads them may use four times the file and 256 MB, and says so."""

import json
import resource
import warnings
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forked import ended, forked
from safetensors.torch import save_file

from famf_lib.data import iqiyi, pickles, tables
from famf_lib.data.opening import opened
from famf_lib.experiments import run_store, submission
from famf_lib.training import checkpoint

ALLOWED, SECONDS = 256 << 20, 60


def zeros(path, size):
    """An .npz of zeros, a thousandth of its content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("faces.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (size >> 2,)})
        for _ in range(size >> 24):
            member.write(bytes(1 << 24))
    return path


def header(path, shape):
    with zipfile.ZipFile(path, "w") as archive, archive.open("faces.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return path


def members(path, number):
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(number):
            archive.writestr(f"a{n}.npy", b"")
    return path


def own(folder, columns):
    """Tables whose faces have these columns."""
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "faces.parquet", compression="zstd")
    pq.write_table(pa.table({"clip": ["a"], "label": ["b"], "split": ["train"]}), folder / "clips.parquet")
    return folder


def rows(value, number):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(number, np.int32)), pa.array([value]))


def official(folder, line, number):
    """A folder whose pickles are empty, and whose ground truth names very many clips."""
    (folder / "feat").mkdir(parents=True)
    (folder / "train_gt.txt").write_text("".join(line.format(n, n % 9000 + 1) for n in range(number)))
    (folder / "val_gt.txt").write_text("1 b.mp4\n")
    for kind in ("face_train", "face_val", "head_train", "body_train", "audio_train"):
        (folder / "feat" / f"{kind}.pickle").write_bytes(b"\x80\x02}.")
    return folder


def lists(path, names):
    path.write_text("".join(f"{n} " + " ".join(f"c{n}_{k}.mp4" for k in range(names)) + "\n" for n in range(1, 1001)))
    return path


def tensors(path, number, **metadata):
    save_file({f"t{n}": torch.zeros(1) for n in range(number)}, path, {"format": "famf-model-1"} | metadata)
    return path


def set_of(folder, made_up, **metadata):
    """A ClipSet with other metadata."""
    clips = made_up().save(folder) / "arrays.safetensors"
    content = clips.read_bytes()
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    found["__metadata__"] |= metadata
    text = json.dumps(found).encode()
    clips.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return folder


def stored(folder, text):
    folder.mkdir()
    (folder / "run.json").write_text(text)
    return folder


def scored(path):
    return submission.score_files(path, path)


def items(path):
    return list(pickles.items(path))


FACES = {"clip": pa.array(["a"]), "frame": pa.array([1])}
BOMBS = {
    "an .npz that unpacks to 1 GB": (lambda f, _: zeros(f / "a.npz", 1 << 30), tables.build),
    "an .npz with a shape of 10**12": (lambda f, _: header(f / "a.npz", (10**12,)), tables.build),
    "an .npz with a shape of 10**9 squared": (lambda f, _: header(f / "a.npz", (10**9, 10**9)), tables.build),
    "an .npz of 20,000 members": (lambda f, _: members(f / "a.npz", 20_000), tables.build),
    "a table of 20,000 columns": (
        lambda f, _: own(f / "own", {f"c{n}": pa.array([1]) for n in range(20_000)}),
        tables.build,
    ),
    "a table that repeats a number": (
        lambda f, _: own(f / "own", {"clip": rows("a", 10**8), "frame": rows(7, 10**8).dictionary_decode()}),
        tables.build,
    ),
    "a table that repeats a text": (
        lambda f, _: own(f / "own", {"clip": rows("x" * 10**6, 5000), "frame": pa.array(np.arange(5000))}),
        tables.build,
    ),
    "30 MB of ]": (
        lambda f, _: (f / "a.pickle", (f / "a.pickle").write_bytes(b"\x80\x02" + b"]" * 30_000_000))[0],
        items,
    ),
    "a ground truth of 600,000 clips": (
        lambda f, _: official(f / "official", "c{}.mp4 {}\n", 600_000),
        iqiyi.import_folder,
    ),
    "a ground truth of 2,500,000 clips": (
        lambda f, _: official(f / "official", "c{}.mp4 {}\n", 2_500_000),
        iqiyi.import_folder,
    ),
    "lists of 2,500,000 clips": (lambda f, _: lists(f / "a.txt", 2500), scored),
    "a model of 20,000 tensors": (lambda f, _: tensors(f / "a.safetensors", 20_000), checkpoint.open),
    "a model of 2,500,000 persons": (
        lambda f, _: tensors(f / "a.safetensors", 1, persons=json.dumps([f"p{n}" for n in range(2_500_000)])),
        checkpoint.open,
    ),
    "a ClipSet of 20,000 modalities": (
        lambda f, made_up: set_of(f / "set", made_up, modalities=json.dumps([f"m{n}" for n in range(20_000)])),
        opened,
    ),
    "a ClipSet with lists 20,000 deep": (
        lambda f, made_up: set_of(f / "set", made_up, info="[" * 20_000 + "]" * 20_000),
        opened,
    ),
    "a run of 30 MB of lists": (lambda f, _: stored(f / "run", "[" + "[]," * 10_000_000 + "[]]"), run_store.open_run),
}


def read(function, path, out):
    """Reads under a limit on memory, and writes the sentence and the memory that it took."""
    size = sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    with open("/proc/self/statm") as pages:
        now = int(pages.read().split()[0]) * resource.getpagesize()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * size + ALLOWED, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with warnings.catch_warnings(action="ignore"):
        try:
            function(path)
            said = ""
        except ValueError as error:
            said = str(error)
    took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    out.write_text(json.dumps([said, size, round(took / 1024)]))


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb(bomb, tmp_path, made_up, scale, count):
    make, function = BOMBS[bomb]
    path = make(tmp_path, made_up)
    with forked(read, function, path, tmp_path / "said") as processes:
        assert ended(processes) == [0]
    said, size, took = json.loads((tmp_path / "said").read_text())
    assert said == "" and "lists of" in bomb or str(path.parent) in said and "expected" in said and len(said) < 900
    count("bombs", bomb, files=1, bytes=size, megabytes=took)
