"""Damaged and forged files: changed bytes, changed structures, and both with checksums that fit again.

A mutator takes the content of a good file, that of another one to splice from, and a source of chance:
Python's own, or hypothesis's, which can shrink what it found.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow
import safetensors.torch
from pyarrow import parquet

from audiovq.io.tensorfile import ModelFileKind, _checksum, _split
from audiovq.tables.shards import _checksum as shard_checksum

Mutator = Callable[[bytes, bytes, Random], bytes]

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 127, 255, 256, 65_535, 65_536, 10**6, 10**9, 2**31, 2**32, 2**53, 2**63, 10**20),
    *(10**320, -(10**320), 0.5, -0.0, 1e-320, 1e38, 1e300, 1.7e308, float("inf"), float("nan")),
)
TEXTS = ("", ".", "..", "/", "a\0b", "\ud800", "\x1b[2J", "x" * 5_000, "../../x", "nan", "é" * 300, "a\nb")


def deep(kind: str, depth: int) -> Any:
    """Lists or tables inside each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def changed_bytes(content: bytes, other: bytes, rng: Random) -> bytes:
    """Some bytes flipped, set, cut out, doubled, cut off, or of another file; more of them in front."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 300)
        at = rng.randint(0, max(0, reach - 1))
        match rng.randint(0, 7):
            case 0 | 1:
                if data:
                    data[min(at, len(data) - 1)] ^= 1 << rng.randint(0, 7)
            case 2:
                data[at : at + 1] = bytes([rng.randint(0, 255)])
            case 3:
                size = rng.choice((1, 2, 4, 8))
                data[at : at + size] = bytes([rng.choice((0, 0xFF, 0x7F, 0x80))]) * size
            case 4:
                del data[at : at + rng.randint(1, 400)]
            case 5:
                data[at:at] = data[at : at + rng.randint(1, 400)]
            case 6:
                data = data[:at] if rng.random() < 0.3 else data
            case _:
                start = rng.randint(0, max(0, len(other) - 1))
                data[at : at + 64] = other[start : start + 64]
    return bytes(data)


def changed_tree(tree: Any, rng: Random) -> Any:
    """A structure as JSON holds it, with one to three places dropped, of another type, huge, or deep."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randint(0, 7):
            case 0:
                del parent[key]
            case 1 | 2:
                parent[key] = rng.choice(NUMBERS)
            case 3:
                parent[key] = rng.choice(TEXTS)
            case 4:
                parent[key] = rng.choice((None, True, False, [], {}, [[]], [1] * 3_000, {"a": 1}))
            case 5:
                parent[key] = deep(rng.choice(("list", "table")), rng.choice((5, 200, 900)))
            case 6:
                _, other = rng.choice(places)
                if isinstance(parent, dict):
                    parent[str(other)] = parent[key]
            case _:
                value = parent[key]
                if isinstance(value, int) and not isinstance(value, bool):
                    parent[key] = value + rng.choice((-1, 1, value, -2 * value))
    return tree


def _places(tree: Any) -> Any:
    """Every parent and key, one after another."""
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            yield node, key
            stack.append(node[key])


def as_json(tree: Any) -> bytes:
    """JSON of a structure, also of one that is too deep for `json.dumps`."""
    try:
        return json.dumps(tree).encode()
    except RecursionError:
        return b"[" * 100_000


def changed_json(content: bytes, other: bytes, rng: Random) -> bytes:
    """A JSON file, changed as text or as a structure."""
    if rng.random() < 0.1:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"\xff\xfe", b"null", b""))
    if rng.random() < 0.3:
        return changed_bytes(content, other, rng)
    return as_json(changed_tree(json.loads(content), rng))


def changed_model(kind: ModelFileKind) -> Mutator:
    """Of a model file: bytes, the table of tensors, or the header, most often with a checksum that fits."""

    def change(content: bytes, other: bytes, rng: Random) -> bytes:
        chance = rng.random()
        if chance < 0.2:
            return changed_bytes(content, other, rng)
        head, data = _split(content)
        tree = json.loads(head["__metadata__"][kind.key])
        if chance < 0.45:
            metadata = head.pop("__metadata__")
            head = changed_tree(head, rng)
            return _file({"__metadata__": metadata, **head} if isinstance(head, dict) else head, bytes(data))
        if chance < 0.55:
            # Another tensor than the header says, in a file that is whole.
            tensors = safetensors.torch.load(content)
            name = rng.choice(sorted(tensors))
            value = tensors.pop(name)
            again = rng.choice((value[:1], value.double(), value.long(), value * float("nan"), value[None]))
            if rng.random() < 0.7:
                tensors[name] = again.contiguous()
            else:
                tensors[rng.choice(TEXTS[:3])] = value
            content = safetensors.torch.save(tensors)
            head, data = _split(content)
            tree.pop("checksum")
        else:
            tree = changed_tree(tree, rng)
        if isinstance(tree, dict) and rng.random() < 0.95:
            tree.pop("checksum", None)
            with contextlib.suppress(RecursionError, ValueError):
                tree["checksum"] = _checksum(json.loads(json.dumps(tree)), data)
        head["__metadata__"] = {kind.key: as_json(tree).decode()}
        return _file(head, bytes(data))

    return change


def changed_checkpoint(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a checkpoint: bytes, the table of tensors, or the header."""
    chance = rng.random()
    if chance < 0.3:
        return changed_bytes(content, other, rng)
    head, data = _split(content)
    if chance < 0.5:
        return _file(changed_tree(head, rng), bytes(data))
    tree = changed_tree(json.loads(head["__metadata__"]["audiovq"]), rng)
    head["__metadata__"] = {"audiovq": as_json(tree).decode()}
    return _file(head, bytes(data))


def _file(head: Any, data: bytes) -> bytes:
    text = as_json(head)
    return struct.pack("<Q", len(text)) + text + data


def changed_npy(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of an array: bytes, or what its header says of type, order and shape."""
    if rng.random() < 0.4:
        return changed_bytes(content, other, rng)
    types = (
        "<u2",
        ">u2",
        "|u1",
        "<i8",
        "<f4",
        "|O",
        "<U5",
        "|V0",
        "|S0",
        "<u99",
        "u2",
        "[('a','<u2')]",
        "<M8[s]",
    )
    shape = "".join(f"{rng.choice(NUMBERS[:18])}, " for _ in range(rng.randint(0, 4)))
    head = f"{{'descr': '{rng.choice(types)}', 'fortran_order': {rng.choice(('True', 'False', '1'))}, "
    head += f"'shape': ({shape}), }}" if rng.random() < 0.9 else "(" * 3_000
    text = head.encode() + b" " * rng.randint(0, 60) + b"\n"
    size = len(text) if rng.random() < 0.9 else rng.choice((0, 1, 65_535))
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + text + content[128:]


def changed_sealed(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of an `.avq` file: bytes, most often with a last checksum that fits."""
    if rng.random() < 0.2:
        return changed_bytes(content, other, rng)
    body = changed_bytes(content[:-4], other, rng)
    return body + struct.pack("<I", zlib.crc32(body))


def changed_toml(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a configuration: bytes, or a value or key of one of its lines."""
    if rng.random() < 0.3:
        return changed_bytes(content, other, rng)
    lines = content.decode().splitlines()
    values = [*map(_toml, NUMBERS), '"x"', "true", "[]", "{}", "[" * 3_000, "{a=" * 3_000, "0x" + "f" * 6_000]
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(lines) - 1)
        key, equals, _ = lines[at].partition("=")
        match rng.randint(0, 4):
            case 0 | 1 | 2 if equals:
                lines[at] = f"{key}= {rng.choice(values)}"
            case 3:
                lines[at] = rng.choice(
                    ("[" * 300, "[" + "a." * 3_000 + "a]", "a." * 400 + "a = 1", "", "[model]")
                )
            case _:
                lines.insert(at, rng.choice(lines))
    return "\n".join(lines).encode()


def _toml(number: float) -> str:
    return str(number).replace("inf", "inf").replace("1e-320", "1.0e-320")


def changed_table(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a table in text: bytes, or one of its cells."""
    if rng.random() < 0.4:
        return changed_bytes(content, other, rng)
    separator = "\t" if b"\t" in content else ","
    rows = [line.split(separator) for line in content.decode().splitlines()]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        cells = [*map(str, NUMBERS), *TEXTS, '"', "x" * 200_000, "9" * 5_000]
        row[rng.randint(0, len(row) - 1)] = rng.choice(cells)
    text = "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")
    return rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + text


def changed_picture(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a picture: bytes; of a PNG also with the checksums of its chunks made to fit."""
    data = changed_bytes(content, other, rng)
    if not data.startswith(b"\x89PNG") or rng.random() < 0.2:
        return data
    out = bytearray(data[:8])
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        out += struct.pack(">I", max(0, len(body) - 4)) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out)


def changed_archive(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a ZIP archive: bytes, sizes and flags in its directory, or the names and kinds of its members."""
    if rng.random() < 0.3:
        return changed_bytes(content, other, rng)
    if rng.random() < 0.6:
        data = bytearray(content)
        starts = [m.start() for m in re.finditer(rb"PK[\x01\x03][\x02\x04]", content)]
        at = rng.choice(starts) + rng.randint(4, 45)
        size = rng.choice((1, 2, 4))
        data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x08", b"\x63", b"\x01")) * size
        return bytes(data)
    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),  # of names that are there twice
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w") as target,
    ):
        for member in source.infolist():
            name = rng.choice((member.filename, *TEXTS[:5], *TEXTS[7:9], "a/b", "C:/x", "a\\..\\b"))
            made = zipfile.ZipInfo(name if rng.random() < 0.5 else member.filename)
            made.compress_type = rng.choice((0, 8, 12, 14))
            made.external_attr = rng.choice((0, 0o120777 << 16, 0o100644 << 16, 0o010644 << 16))
            body = source.read(member)
            target.writestr(made, body if rng.random() < 0.8 else bytes(10**6))
    return buffer.getvalue()


def changed_shard(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a shard: bytes, or its arrays, columns and names, with checksums that fit again."""
    if rng.random() < 0.4:
        return changed_bytes(content, other, rng)
    buffer = io.BytesIO()
    array = b""
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as source,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            opened = source.extractfile(member)
            body = b"" if opened is None else opened.read()
            if member.name.endswith(".npy"):
                body = array = changed_npy(body, body, rng) if rng.random() < 0.3 else body
            elif rng.random() < 0.7:
                facts = changed_tree(json.loads(body), rng)
                with contextlib.suppress(RecursionError):
                    facts.pop("checksum", None)
                    facts["checksum"] = shard_checksum(array, json.loads(json.dumps(facts)))
                body = as_json(facts)
            made = tarfile.TarInfo(
                rng.choice((*TEXTS[:5], *TEXTS[7:9])) if rng.random() < 0.1 else member.name
            )
            made.type = rng.choice((tarfile.SYMTYPE, tarfile.DIRTYPE)) if rng.random() < 0.1 else member.type
            made.size = len(body)
            target.addfile(made, io.BytesIO(body))
    return buffer.getvalue()


def changed_parquet(content: bytes, other: bytes, rng: Random) -> bytes:
    """Of a part in Parquet: bytes, its header, or one of its columns."""
    if rng.random() < 0.5:
        return changed_bytes(content, other, rng)
    table = parquet.read_table(pyarrow.BufferReader(content))
    metadata = table.schema.metadata
    if rng.random() < 0.5:
        metadata = {b"audiovq": changed_json(metadata[b"audiovq"], b"", rng)}
    else:
        at = rng.randint(0, table.num_columns - 1)
        name = table.column_names[at]
        values = rng.choice((None, -1, 2**62, 0.5, float("nan"), True, "", "x" * 5_000, [], [1, -1], [None]))
        table = table.remove_column(at)
        if rng.random() < 0.8:
            table = table.append_column(name, pyarrow.array([values] * table.num_rows))
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()
