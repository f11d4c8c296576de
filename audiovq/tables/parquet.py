"""Parts of a table as Parquet, which pandas, datasets, DuckDB, Spark and Ray read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.errors import AudiovqError
from audiovq.io.regular import read_regular_file
from audiovq.tables.row import (
    PartIndex,
    StoredRow,
    TableFormat,
    TableHeader,
    TableRow,
    check_row_id,
    reading_part,
)

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"audiovq"
"""Of the header in the schema's metadata."""


class ParquetFormat(TableFormat):
    """Columns id, codes, levels, voice, speaker, rate, samples, gain, partial, fingerprint.

    Codes are `list<uint16>`, step by step, the coarse level first; the header is JSON in the schema's
    metadata. Pages carry checksums.

    Raises: AudiovqError if pyarrow is not installed.
    """

    ending = ".parquet"
    part_name = "part"

    def __init__(self) -> None:
        _import_arrow()

    def pack(self, header: TableHeader, rows: Sequence[TableRow]) -> bytes:
        """The content of a part."""
        _, parquet = _import_arrow()
        buffer = io.BytesIO()
        parquet.write_table(
            arrow_table(header, rows), buffer, compression="zstd", write_page_checksum=True,
            use_dictionary=["speaker", "fingerprint"],
        )  # fmt: skip
        return buffer.getvalue()

    def index(self, path: Path) -> PartIndex:
        """What a part holds, by its column of ids."""
        with reading_part(path):
            table = _read(path, ["id"])
            return PartIndex(_header(table), _ids(path, table))

    def rows(self, path: Path) -> Iterator[StoredRow]:
        """The rows of a part, in order."""
        with reading_part(path):
            table = _read(path, None)
            header = _header(table)
            ids = _ids(path, table)
            columns = {name: table.column(name).to_pylist() for name in table.column_names if name != "codes"}
            codes = table.column("codes")
            for i, row_id in enumerate(ids):
                values = codes[i].values
                array = np.zeros(0, np.uint16) if values is None else values.to_numpy(zero_copy_only=False)
                facts = {name: column[i] for name, column in columns.items()}
                yield StoredRow(f"{path}: {row_id}", facts, array, header)


def arrow_table(header: TableHeader | None, rows: Sequence[TableRow]) -> pa.Table:
    """Rows as an Arrow table, with the header in the schema's metadata."""
    pa, _ = _import_arrow()
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("codes", pa.list_(pa.field("element", pa.uint16(), nullable=False)), nullable=False),
            pa.field("levels", pa.int32(), nullable=False),
            pa.field("voice", pa.list_(pa.int32())),
            pa.field("speaker", pa.string()),
            pa.field("rate", pa.int32(), nullable=False),
            pa.field("samples", pa.int64()),
            pa.field("gain", pa.float64()),
            pa.field("partial", pa.bool_(), nullable=False),
            pa.field("fingerprint", pa.string()),
        ],
        metadata=None if header is None else {_KEY: header.to_json().encode()},
    )
    facts = [row.facts for row in rows]
    columns: dict[str, Any] = {
        name: pa.array([fact[name] for fact in facts], schema.field(name).type)
        for name in schema.names
        if name != "codes"
    }
    ends = np.cumsum([0, *(len(row.codes.codes) for row in rows)])
    flat = np.concatenate([row.codes.codes for row in rows]) if rows else np.zeros(0, np.uint16)
    columns["codes"] = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(flat), type=schema.field("codes").type
    )
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _import_arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises: AudiovqError if they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise AudiovqError("Parquet needs pyarrow; pip install 'audiovq[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _read(path: Path, columns: list[str] | None) -> Any:
    """A part as an Arrow table. Raises: whatever pyarrow raises over a damaged file."""
    pa, parquet = _import_arrow()
    file = parquet.ParquetFile(pa.BufferReader(read_regular_file(path)), page_checksum_verification=True)
    _check_types(file.schema_arrow)
    return file.read(columns)


def _check_types(schema: Any) -> None:
    """Raise ValueError or KeyError unless the columns that decoding needs are there."""
    import pyarrow.types as kinds

    codes = schema.field("codes").type
    lists = kinds.is_list(codes) or kinds.is_large_list(codes)
    text = schema.field("id").type
    if not (kinds.is_string(text) or kinds.is_large_string(text)):
        raise ValueError("ids are no texts")
    if not lists or not kinds.is_integer(codes.value_type):
        raise ValueError("codes are no lists of integers")
    if not kinds.is_integer(schema.field("rate").type):
        raise ValueError("rates are no integers")


def _header(table: Any) -> TableHeader | None:
    text = (table.schema.metadata or {}).get(_KEY)
    return None if text is None else TableHeader.from_json(text)


def _ids(path: Path, table: Any) -> list[str]:
    return [check_row_id(str(path), text) for text in table.column("id").to_pylist()]
