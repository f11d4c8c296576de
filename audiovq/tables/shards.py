"""Parts of a table as WebDataset shards: tar files that are read from one end to the other.

A recording is two files of one key, `KEY.npy` with the codes and `KEY.json` with the other columns and the
header. WebDataset ends a key at the first dot of a name, so a key is the id with `%` and the dots of its last
part written as in a URL.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from audiovq.io import JsonObject
from audiovq.io.npyfile import parse_npy
from audiovq.io.regular import open_regular_file
from audiovq.tables.row import (
    PartIndex,
    StoredRow,
    TableFormat,
    TableHeader,
    TableRow,
    check_row_id,
    reading_part,
)

_ENDINGS = (".npy", ".json")
"""In the order in which they lie in a shard."""


class ShardFormat(TableFormat):
    """WebDataset shards: `KEY.npy`, `KEY.json`, ..."""

    ending = ".tar"
    part_name = "shard"

    def pack(self, header: TableHeader, rows: Sequence[TableRow]) -> bytes:
        """The content of a shard."""
        buffer = io.BytesIO()
        shared = json.loads(header.to_json())
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as shard:
            for row in rows:
                array = io.BytesIO()
                codes = row.codes.codes
                np.lib.format.write_array(array, codes, version=(1, 0), allow_pickle=False)
                facts = {**row.facts, "table": shared}
                sealed = {**facts, "checksum": _checksum(array.getvalue(), facts)}
                text = json.dumps(sealed, ensure_ascii=False)
                for ending, content in zip(_ENDINGS, (array.getvalue(), text.encode()), strict=True):
                    member = tarfile.TarInfo(_key(row.id) + ending)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    def index(self, path: Path) -> PartIndex:
        """What a shard holds, by the names in it and its first header."""
        header: TableHeader | None = None
        ids = []
        with reading_part(path):
            for member, read in _members(path):
                if member.endswith(".json"):
                    header = header or _facts(read())[0]
                    ids.append(check_row_id(str(path), unquote(member.removesuffix(".json"))))
        return PartIndex(header, ids)

    def rows(self, path: Path) -> Iterator[StoredRow]:
        """The rows of a shard, in order."""
        with reading_part(path):
            members = _members(path)
            for array_name, read_array in members:
                array = read_array()
                text_name, read_text = next(members, ("", bytes))
                key = array_name.removesuffix(".npy")
                if text_name != f"{key}.json":
                    raise ValueError("its files are no pairs of codes and columns")
                header, facts = _facts(read_text(), array)
                row_id = check_row_id(str(path), facts.get("id"))
                yield StoredRow(f"{path}: {row_id}", facts, parse_npy(array), header)


def _key(row_id: str) -> str:
    """Key of a recording: its id without dots in the last part."""
    folder, slash, name = row_id.replace("%", "%25").rpartition("/")
    return f"{folder}{slash}{name.replace('.', '%2E')}"


def _checksum(array: bytes, facts: JsonObject) -> str:
    """CRC-32 over both files of a recording: tar has one over its own headers alone."""
    return f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode(), zlib.crc32(array)):08x}"


def _members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names in a shard, each with a function that reads its content.

    Raises: whatever tarfile raises over a damaged file; ValueError for what is no plain shard, or cut.
    """
    with open_regular_file(path) as file, tarfile.open(fileobj=file, mode="r:") as shard:
        size = os.fstat(file.fileno()).st_size
        end = 0
        for member in shard:
            # Sparse members may claim more than the file holds; ours are plain.
            if not member.isreg() or member.sparse is not None or member.size > size:
                raise ValueError("it holds more than plain files")
            if not member.name.endswith(_ENDINGS):
                raise ValueError("it holds other files")

            def read(member: tarfile.TarInfo = member) -> bytes:
                opened = shard.extractfile(member)
                content = b"" if opened is None else opened.read()
                if len(content) != member.size:
                    raise ValueError("its end is missing")
                return content

            yield member.name, read
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        # A damaged header ends the archive for tarfile, as does a cut between two members.
        file.seek(end)
        rest = file.read()
        if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest):
            raise ValueError("its end is missing")


def _facts(text: bytes, array: bytes | None = None) -> tuple[TableHeader, JsonObject]:
    """Header and columns of a row. Raises: ValueError, KeyError, TypeError, RecursionError or AudiovqError if
    they, or the `array` beside them, are damaged."""
    facts = dict(json.loads(text))
    stated = facts.pop("checksum")
    if array is not None and stated != _checksum(array, facts):
        raise ValueError("its checksum does not fit")
    header = TableHeader.from_json(json.dumps(facts.pop("table")))
    if not {"id", "rate"} <= facts.keys():
        raise ValueError("lacks columns")
    return header, facts
