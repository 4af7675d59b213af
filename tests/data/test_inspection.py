import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from famf_command import famf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from famf_lib.data import imported, inspection
from famf_lib.data.clipset import FILES, ClipSet


def counted(**changed):
    lengths = np.arange(1.0, 12.0)
    clips = pd.DataFrame({"name": [*"abcdefg"], "person": ["ann", "bob", "cai", "ann", None, None, "bob"]})
    clips["split"] = ["train", "train", "val", "val", "val", None, "test"]
    parts = {
        "faces": np.stack([0.6 * lengths, 0.8 * lengths, 0 * lengths], axis=1),
        "counts": np.array([0, 5, 1, 1, 2, 2, 0]),
        "clips": clips.assign(group=["one", "two", None, "one", None, None, "two"], year=1999),
        "face_table": pd.DataFrame({"frame": range(11), "quality": 0.5}),
        "modalities": {"audio": (np.ones((7, 2)), np.array([1, 0, 0, 1, 1, 0, 0]))},
        "info": {"dataset": "counted", "cleaning": {"a": 1, "b": 2}},
    }
    return ClipSet.build(**(parts | changed))


def saved(tmp_path, **changed):
    return counted(**changed).save(tmp_path / "set")


def test_the_summary_says_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "PIECE", 3)
    clipset = ClipSet.open(saved(tmp_path))
    text = inspection.summary(clipset, "counted by hand")
    lines = {line[:12].strip(): line[13:] for line in text.splitlines()}
    assert text.startswith("counted by hand\n") and text.endswith(str(tmp_path / "set"))
    assert lines["persons"] == "3, in 2 groups"
    assert lines["clips"] == "7: 2 train, 3 val, 1 test, 1 without a split, 2 of no known person"
    assert lines["faces"] == "11 of 3 numbers; 0 to 5 per clip, median 1, mean 1.6; 2 clips"
    assert lines["face norms"] == "median 6; 5 to 95 %: 1.5 to 10.5"  # (11 - 1) / 20 = 0.5 from either end
    assert lines["audio"] == "2 numbers, 42.9% of the clips have it"
    assert lines["of a face"] == "frame, quality" and lines["of a clip"] == "name, person, split, group, year"
    assert lines["source"] == "dataset: counted; cleaning: 2 entries"
    size = sum(path.stat().st_size for path in (tmp_path / "set").iterdir())
    assert lines["fingerprint"] == f"{clipset.fingerprint}; {size / 1e6:,.1f} MB on disk"


def test_a_summary_fits_a_screen_whatever_is_in_it_or_not(tmp_path):
    many = {f"modality_with_a_long_name_{n}": (np.ones((7, 2)), np.ones(7)) for n in range(23)}
    columns = pd.DataFrame({f"column with a long name {n}": np.arange(11) for n in range(23)})
    info = {f"value with a long name {n}": "long " * 50 for n in range(23)}
    clips = counted().clips.assign(**{f"column {n}": 0 for n in range(53)})
    folder = saved(tmp_path, modalities=many, face_table=columns, info=info, clips=clips)
    *lines, where = inspection.summary(ClipSet.open(folder), "title " * 50).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) + -(-len(where) // 80) <= 24
    assert "and 17 more modalities" in "\n".join(lines) and "…" in "\n".join(lines)
    nothing = {"faces": np.ones((0, 3)), "counts": np.zeros(7), "face_table": pd.DataFrame(), "modalities": {}}
    text = inspection.summary(counted(**nothing))
    assert "0 of 3 numbers" in text and "norms" not in text and "on disk" not in text


@pytest.mark.parametrize("name", FILES)
def test_one_other_bit_anywhere_is_found_and_its_file_named(name, tmp_path):
    path = saved(tmp_path) / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=7):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
        found = f"{path}: it has the SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}…"
        assert any(fault.startswith(found) for fault in inspection.faults(tmp_path / "set"))


def test_what_was_saved_has_no_faults_and_a_missing_file_or_folder_is_named(tmp_path):
    assert inspection.faults(saved(tmp_path)) == []
    (tmp_path / "set" / "SHA256SUMS").unlink()
    assert inspection.faults(tmp_path / "set") == []
    for name in FILES:
        (saved(tmp_path) / name).unlink()
        assert inspection.faults(tmp_path / "set") == [f"{tmp_path / 'set' / name}: there is no such file"]
    assert "there is no such folder" in inspection.faults(tmp_path / "nowhere")[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: lines[:2], "clips.parquet is missing from it"),
        (lambda lines: [*lines, "more"], "line 4 is 'more', expected a checksum and the name of a file"),
        (lambda lines: [*lines, f"{'0' * 64}  ../other"], "line 4 is"),
        (lambda lines: [*lines, f"{'0' * 64}  other"], "other: there is no such file"),
        (lambda lines: ["\0\xff"], "line 1 is"),
    ],
)
def test_checksums_that_say_something_else_are_faults(change, sentence, tmp_path):
    sums = saved(tmp_path) / "SHA256SUMS"
    sums.write_text("\n".join(change(sums.read_text().splitlines())), encoding="latin-1")
    assert any(sentence in fault for fault in inspection.faults(tmp_path / "set"))


def of_arrays(change):
    def changed(folder):
        path = folder / "arrays.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        arrays = {name: array.clone() for name, array in load_file(path).items()}
        change(arrays)
        save_file(arrays, path, metadata)

    return changed


def of_clips(**columns):
    def changed(folder):
        pd.read_parquet(folder / "clips.parquet").assign(**columns).to_parquet(folder / "clips.parquet")

    return changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_arrays(lambda a: a["faces"][3].mul_(2)), "the contents have the fingerprint"),
        (of_arrays(lambda a: a["faces"][4].fill_(torch.inf)), "faces: row 4 has inf as its largest number"),
        (of_arrays(lambda a: a["audio"][3].mul_(2)), "the contents have the fingerprint"),
        (of_arrays(lambda a: a["audio.present"][0].logical_not_()), "the contents have the fingerprint"),
        (of_arrays(lambda a: a["offsets"][2].add_(1)), "the contents have the fingerprint"),
        (of_arrays(lambda a: a["offsets"][2].add_(7)), "expected numbers that rise from 0 to 1"),
        (of_arrays(lambda a: a["offsets"][0].add_(1)), "offsets: [1, 0, "),
        (of_arrays(lambda a: a["offsets"][-1].add_(1)), ", 12] … found, expected numbers that rise from 0 to 1"),
        (of_arrays(lambda a: a.update(faces=a["faces"].float())), ""),
        (of_arrays(lambda a: a.update(offsets=a["offsets"].int())), ""),
        (of_arrays(lambda a: a.pop("offsets")), "offsets"),
        (of_arrays(lambda a: a.update({"audio.present": a["audio.present"][:6]})), "tensor 'audio.present': BOOL of"),
        (of_clips(person="ann"), "the contents have the fingerprint"),
        (of_clips(group=None), "the contents have the fingerprint"),
        (of_clips(split="val"), "the contents have the fingerprint"),
        (of_clips(split="dev"), "split: 'dev' found, expected one of train"),
        (of_clips(name="a"), "name: 'a' twice found, expected one for every"),
    ],
)
def test_contents_that_differ_are_found_without_checksums(change, sentence, tmp_path):
    folder = saved(tmp_path)
    change(folder)
    (folder / "SHA256SUMS").unlink()
    found = inspection.faults(folder)
    assert len(found) == 1 and found[0].startswith(str(folder)) and sentence in found[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"nonsense" * 99])
def test_files_that_cannot_be_read_are_faults_and_no_more(name, content, tmp_path):
    folder = saved(tmp_path)
    (folder / name).write_bytes(content)
    found = inspection.faults(folder)
    assert len(found) == 2 and all(len(fault.splitlines()) == 1 for fault in found)


def test_info_takes_a_name_or_a_folder(tmp_path):
    clipset = ClipSet.open(counted().save(imported.place("mine")))
    assert famf("data", "info", "mine").output.splitlines()[1:] == inspection.summary(clipset).splitlines()
    assert famf("data", "info", clipset.folder).output.splitlines() == inspection.summary(clipset).splitlines()


def test_verify_says_what_differs_even_of_an_import_that_cannot_be_opened_and_what_nothing_guards(tmp_path):
    folder = counted().save(imported.place("mine"))
    assert famf("data", "verify", "mine").output == f"ok  {folder}\n"
    (folder / "arrays.safetensors").write_bytes(b"")
    done = famf("data", "verify", "mine")
    assert done.exit_code == 1 and f"famf: {folder / 'arrays.safetensors'}: it has the SHA-256" in done.output
    assert "damaged" in next(line for line in famf("data", "list").output.splitlines() if line.startswith("mine"))
    (saved(tmp_path) / "SHA256SUMS").unlink()
    done = famf("data", "verify", tmp_path / "set")
    assert done.exit_code == 0 and "no SHA256SUMS in it: columns of faces were not compared" in done.output


@pytest.mark.parametrize("options", [(), ("--npz",)])
def test_what_is_exported_is_imported_under_another_name(options, tmp_path):
    fingerprint = counted().fingerprint
    counted().save(imported.place("mine"))
    assert fingerprint in famf("data", "export", "mine", tmp_path / "tables", *options).output
    done = famf("data", "import", "table", tmp_path / "tables", "--name", "again")
    assert done.exit_code == 0 and fingerprint in done.output
    assert imported.open("again").fingerprint == fingerprint
    assert "--replace" in str(famf("data", "import", "table", tmp_path / "tables", "--name", "again").exception)
    assert famf("data", "import", "table", tmp_path / "tables", "--name", "again", "--replace").exit_code == 0
    for name, said in (("again", "an import 'again' already"), ("imfdb", "'imfdb' is a dataset of the book")):
        assert said in str(famf("data", "import", "iqiyi", tmp_path, "--name", name).exception)
