"""Files from elsewhere, in a process of their own where a fault of a reader would end it."""

import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from famf_lib.support.parquet_footer import column_chunks

PHYSICAL = "BOOLEAN INT32 INT64 INT96 FLOAT DOUBLE BYTE_ARRAY FIXED_LEN_BYTE_ARRAY".split()


def test_what_columns_declare_is_what_arrow_says_of_a_sound_file(tmp_path):
    rng = np.random.default_rng(3)
    table = {
        "truth": rng.random(23) < 0.5,
        "number": np.arange(23, dtype=np.int32),
        "long": np.arange(23),
        "half": pa.array(rng.random(23).astype(np.float16)),
        "float": rng.random(23, np.float32),
        "when": pa.array(range(23), pa.timestamp("us", "UTC")),
        "price": pa.array(range(23), pa.decimal128(7, 2)),
        "name": ["", None, "a" * 300] + ["b"] * 20,
        "list": [[{"x": 1.0, "y": [n] * n}] for n in range(23)],
        "map": pa.array([[(n, "v")] for n in range(23)], pa.map_(pa.int32(), pa.string())),
    }
    path = tmp_path / "a.parquet"
    for options in ({}, {"row_group_size": 7, "compression": "zstd", "store_schema": False}, {"version": "1.0"}):
        pq.write_table(pa.table(table), path, **options)
        meta = pq.read_metadata(path)
        columns = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
        says = [(PHYSICAL.index(one.physical_type), one.num_values, one.total_uncompressed_size) for one in columns]
        assert list(column_chunks(path)) == says and len(says) == meta.num_row_groups * meta.num_columns


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\x49\x1c" * 20_000,  # structs in structs
        b"\x49" + b"\x19" * 20_000,  # lists in lists
        b"\x29\xf0" + b"\xff" * 9 + b"\x01",  # a list of 2**63 elements of no kind
        b"\x28" + b"\xff" * 9 + b"\x01",  # a text of 2**63 bytes
        b"\x16" + b"\xff" * 30,  # a number without end
        b"\x49\x1c\x19\x1c\x00\x00",  # a column without metadata
    ],
)
def test_damaged_metadata_are_one_sentence(tmp_path, metadata):
    (tmp_path / "a").write_bytes(b"PAR1" + metadata + struct.pack("<I", len(metadata)) + b"PAR1")
    with pytest.raises(ValueError, match="^damaged metadata of columns found, expected those of a Parquet file$"):
        list(column_chunks(tmp_path / "a"))


# Adds to one byte of the metadata after the other, checks each file, and reads it in both ways if it is accepted.
CHECK_ALL = """
import sys
from pathlib import Path
import pandas as pd
import pyarrow.parquet as pq

path, begin, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content, refused = path.read_bytes(), 0
for place in range(begin, end):
    for add in (1, 2, 255):
        changed = bytearray(content)
        changed[place] = (changed[place] + add) % 256
        path.write_bytes(changed)
        try:
            check_parquet(path)
            pd.read_parquet(path)
            with pq.ParquetFile(path) as file:
                list(file.iter_batches())
        except Exception:
            refused += 1
print(refused)
"""


def test_no_change_of_the_metadata_of_a_table_ends_the_process(tmp_path):
    path = tmp_path / "clips.parquet"
    columns = {"name": ["a", None, "c"], "split": ["train", None, None], "audio": [[0.5, 1.5], [], None]}
    pq.write_table(pa.table(columns), path)
    size = path.stat().st_size
    (length,) = struct.unpack("<I", path.read_bytes()[-8:-4])
    given = [str(path), str(size - 8 - length), str(size - 8)]
    done = subprocess.run([sys.executable, "-c", CHECK_ALL, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-900:]
    assert int(done.stdout) > 100
