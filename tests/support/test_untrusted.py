"""Files from elsewhere, in a process of their own where a fault of a reader would end it."""

import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

# Adds to one byte of the metadata after the other, and checks each file.
CHECK_ALL = """
import sys
from pathlib import Path
from famf_lib.support.untrusted import check_parquet
path, begin, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content, refused = path.read_bytes(), 0
for place in range(begin, end):
    for add in (1, 2, 255):
        changed = bytearray(content)
        changed[place] = (changed[place] + add) % 256
        path.write_bytes(changed)
        try:
            check_parquet(path)
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
