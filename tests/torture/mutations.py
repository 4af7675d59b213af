"""Changes of good files, by a seeded generator: of any bytes, and of what JSON, tables and arrays say."""

import copy
import json
import zipfile

import numpy as np
import pandas as pd

ODD = [None, True, -1, 0, 10**12, 1e308, float("nan"), "", "\x1b[2J\r\nx", "x" * 9999, [], {}, [[]], {"a": None}]
DEEP = "[" * 20_000  # put in as text, since no JSON writer nests so deep


def change_bytes(content, rng):
    """One to three changes of a file's bytes, more often near its ends, where headers are."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        end = [min(64, size), min(512, size), size, size][rng.integers(4)]
        at = int(rng.integers(end + 1)) if rng.random() < 0.7 else size - int(rng.integers(end + 1))
        span = int(rng.choice([1, 1, 2, 8, 99]))
        kind = rng.integers(7)
        if kind == 0 and at < size:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[at : at + span] = rng.bytes(span)
        elif kind == 2:
            content[at : at + span] = bytes([rng.choice([0, 255, 91, 93, 10])]) * span
        elif kind == 3:
            del content[at : at + span]
        elif kind == 4:
            content[at:at] = content[max(at - span, 0) : at]
        elif kind == 5:
            del content[at:]
        else:
            content += rng.bytes(span)
    return bytes(content)


def change_json(text, rng):
    """The JSON text with one value replaced, renamed or left out."""
    content = json.loads(text)
    places = [(content, key) for key in _keys(content)]
    for value, key in places:
        if len(places) < 500:
            places += [(value[key], inner) for inner in _keys(value[key])]
    value, key = places[rng.integers(len(places))] if places else ({"x": 0}, "x")
    kind, deep = rng.integers(6), False
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, dict):
        value[f"{key}_"] = value.pop(key)
    elif kind == 2 and isinstance(value[key], int | float):
        value[key] = [-value[key], value[key] * 10**9, str(value[key]), float(value[key])][rng.integers(4)]
    elif kind == 3:
        value[key], deep = "DEEP", True
    else:
        value[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    changed = json.dumps(content)
    return changed.replace('"DEEP"', DEEP) if deep else changed


def change_safetensors(content, rng):
    """The file with its header changed as JSON, or one of the JSON texts in its metadata."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    inner = [name for name, text in header["__metadata__"].items() if text[:1] in '[{"']
    if inner and rng.random() < 0.5:
        name = inner[rng.integers(len(inner))]
        header["__metadata__"][name] = change_json(f"[{header['__metadata__'][name]}]", rng)[1:-1]
        text = json.dumps(header)
    else:
        text = change_json(json.dumps(header), rng)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + content[8 + length :]


def change_table(path, rng):
    """A Parquet file with one column left out, renamed, of another type or with other values."""
    table = pd.read_parquet(path)
    column = table.columns[rng.integers(len(table.columns))]
    kind = rng.integers(7)
    if kind == 0:
        table = table.drop(columns=column)
    elif kind == 1:
        table = table.rename(columns={column: f"{column}\x1b\n"})
    elif kind == 2:
        table = table.iloc[: rng.integers(len(table))]
    elif kind == 3:
        table[column] = [[1, 2]] * len(table)
    elif kind == 4:
        table[column] = rng.choice([np.nan, np.inf, -5.0, 1e300], len(table))
    elif kind == 5:
        table[column] = rng.choice([None, "", "\x1b[1m", "x" * 999], len(table))
    else:
        table[column] = None
    table.to_parquet(path, index=False)


def change_arrays(path, rng):
    """An .npz with one array left out, renamed, reshaped, of another type, or with other bytes."""
    if rng.random() < 0.3:  # in the archive, with a checksum that is right again
        with zipfile.ZipFile(path) as archive:
            inside = {name: archive.read(name) for name in archive.namelist()}
        name = list(inside)[rng.integers(len(inside))]
        inside[name] = change_bytes(inside[name], rng)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in inside.items():
                archive.writestr(name, content)
        return
    with np.load(path) as file:
        arrays = dict(file)
    name = list(arrays)[rng.integers(len(arrays))]
    array, kind = arrays.pop(name), rng.integers(6)
    if kind == 1:
        arrays[f"{name}\x1b\n"] = array
    elif kind == 2:
        arrays[name] = array[: rng.integers(len(array) + 1)]
    elif kind == 3:
        arrays[name] = array[..., None]
    elif kind == 4:
        arrays[name] = np.full(array.shape, ["\x1b\n", np.nan, -(10**9), np.inf, True][rng.integers(5)])
    elif kind == 5:
        arrays[name] = array.astype(str)
    np.savez(path, **arrays)


def _keys(value):
    return list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
