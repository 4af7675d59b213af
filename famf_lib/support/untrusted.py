"""Files from elsewhere: what they declare is checked before it is read, so that a small file cannot fill the memory.

Every function raises ValueError with what was found and what was expected; the caller names the file.
"""

import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from famf_lib.support.parquet_footer import column_chunks
from famf_lib.support.wording import plain

MEMORY, TIMES = 128 << 20, 4
"""The content of a file may be four times its size and 128 MB: reading takes up to twice as much memory."""
MEMBERS = 4_096  # arrays of an archive, tensors of a file, columns of a table
JSON = 8 << 20  # bytes: lists in JSON take twenty times their text
WIDTHS = {0: 1, 1: 4, 4: 4}  # bytes of a value of a Parquet column: boolean, int32, float; of any other type 8
END_OF_ZIP = b"PK\5\6"


def check_size(content: int, size: int, hint: str = "") -> None:
    """Refuses a file of ``size`` bytes that declares a content of more bytes than it can mean."""
    if content > TIMES * size + MEMORY:
        found = f"{content / 1e6:,.0f} MB of content declared in a file of {size / 1e6:,.1f} MB"
        raise ValueError(f"{found}, expected {(TIMES * size + MEMORY) / 1e6:,.0f} MB at most{hint}")


def check_members(number: int, what: str) -> None:
    """Refuses more arrays, tensors or columns than a file can mean."""
    if number > MEMBERS:
        raise ValueError(f"{number:,} {what} found, expected {MEMBERS:,} at most")


def check_archive(path: Path) -> None:
    """Refuses an archive (.npz, .pt) that unpacks to far more than its size, or that has very many members."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(size - (1 << 16) - 22, 0))
        end = file.read().rpartition(END_OF_ZIP)[2]
    if len(end) >= 8:  # before zipfile makes an object of each member
        check_members(struct.unpack("<H", end[6:8])[0], "members")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    check_members(len(members), "members")
    check_size(sum(member.file_size for member in members), size, "; save it without compression")


def check_array(stream: BufferedIOBase, size: int) -> None:
    """Refuses an array in NumPy's format that declares more numbers than its ``size`` bytes hold."""
    version = np.lib.format.read_magic(stream)
    read: Callable = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
    shape, _, kind = read(stream)
    if not kind.hasobject and math.prod(shape) * kind.itemsize > size - stream.tell():
        raise ValueError(f"{kind} of shape {shape} declared in {size:,} bytes, expected as many numbers as it holds")


def check_parquet(path: Path) -> None:
    """Refuses a Parquet file whose columns hold far more than its size, as by repeating one value or one text."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        check_members(file.metadata.num_columns, "columns")
    content = 0
    for kind, values, declared in column_chunks(path):  # Arrow would end the process if they are damaged
        content += max(declared, values * WIDTHS.get(kind, 8), 0)
    check_size(content, os.path.getsize(path))
    if texts := text_columns(schema):
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            check_texts(file.read(texts), os.path.getsize(path))


def text_columns(schema: pa.Schema) -> list[str]:
    """The columns of text. Read as dictionaries, they take no more memory than the file says."""
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]


def check_texts(table: pa.Table, size: int) -> None:
    """Refuses columns, read as dictionaries, whose texts written out are far longer than the file."""
    content = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        if pa.types.is_dictionary(chunk.type):
            content += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
    check_size(content, size)


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text, whatever the text is."""
    if len(text) > JSON:
        raise ValueError(f"{len(text):,} bytes of JSON found, expected {JSON:,} at most")
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not valid JSON ({plain(error, 99)}), expected JSON") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    with open(path, "rb") as file:
        content = parse_json(file.read(JSON + 1))
    if not isinstance(content, dict):
        raise ValueError(f"{plain(repr(content), 40)} found, expected a JSON object")
    return content


def read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, list[int]]]]:
    """The metadata of a safetensors file, and the type and shape of each tensor.

    The header's own sizes are left to safetensors, which compares them with the file.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > JSON:
            raise ValueError(f"a header of {length:,} bytes found, expected {JSON:,} at most")
        header = parse_json(file.read(length))
    metadata = header.pop("__metadata__", None) or {} if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("another header found, expected that of a safetensors file")
    check_members(len(header), "tensors")
    try:
        return metadata, {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
    except (KeyError, TypeError):
        raise ValueError("a tensor without dtype and shape found, expected that of a safetensors file") from None
