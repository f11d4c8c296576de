"""Encode a corpus with Ray Data, on as many machines as the cluster has, from and to any store it reads.

    >>> import ray
    >>> from audiovq.ray import Encode
    >>> recordings = ray.data.read_binary_files("s3://bucket/speech", include_paths=True)
    >>> options = {"root": "bucket/speech"}
    >>> codes = recordings.map_batches(Encode, fn_constructor_kwargs=options, batch_size=16, concurrency=8)
    >>> codes.write_parquet("s3://bucket/codes")

Ray repeats what a worker that dies had not finished. This module needs `audiovq[ray]`; it imports Ray's world
only where Ray calls it.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.errors import AudiovqError
from audiovq.tables.parquet import arrow_table
from audiovq.tables.row import TableHeader, TableRow, check_row_id

if TYPE_CHECKING:
    import pyarrow as pa

_logger = logging.getLogger(__name__)


class Encode:
    """A class for `map_batches` that turns recordings into rows of a table of codes (docs/corpora.md).

    Each worker loads the model once. A recording that cannot be read is logged and has no row.

    Args:
        model: path of a model file on every machine; None: the default model.
        audio: column of the recordings: their bytes, paths, or structs with `bytes` or `path`.
        id: column of what identifies them, made a row's id: without `root` before it and the ending of a
            recording behind it. None: the paths in the structs.
        root: what paths begin with.
        speaker: column of the speakers' names, if there is one.
        levels, partial: as for `Tokenizer.encode`.
        device: as for `load`.

    Raises: AudiovqError if the model cannot be used, or pyarrow is not installed.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        audio: str = "bytes",
        id: str | None = "path",
        root: str = "",
        speaker: str | None = None,
        levels: int | None = None,
        partial: bool = False,
        device: str = "cpu",
    ) -> None:
        from audiovq.tokenizer import load

        self.tokenizer = load(model, device=device)
        if levels is not None:
            self.tokenizer.check_levels(levels)
        self.header = TableHeader.of(self.tokenizer, levels)
        self.columns = (audio, id, speaker)
        self.root = root
        self.levels = levels
        self.partial = partial
        arrow_table(self.header, [])  # a missing pyarrow is an error here, not after the first batch

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Encode a batch, given as Ray does: a sequence of values for each column.

        Raises: AudiovqError if it lacks a column.
        """
        return arrow_table(self.header, list(self._rows(batch)))

    def _rows(self, batch: Mapping[str, Sequence[Any]]) -> Iterator[TableRow]:
        audio, name, speaker = self.columns
        if missing := {column for column in self.columns if column is not None} - batch.keys():
            known = ", ".join(sorted(batch))
            raise AudiovqError(f"the data set has no column {min(missing)}; its columns: {known}")
        for i, recording in enumerate(batch[audio]):
            try:
                source, path = _source(recording)
                row_id = self._row_id(str(path if name is None else batch[name][i]))
                if isinstance(source, io.BytesIO):
                    source.name = row_id  # for messages
                codes = self.tokenizer.encode(source, levels=self.levels, partial=self.partial)
            except (AudiovqError, OSError) as error:
                _logger.warning("%s; left out", error)
                continue
            who = None if speaker is None else batch[speaker][i]
            yield TableRow(row_id, codes, None if who is None else str(who))

    def _row_id(self, path: str) -> str:
        inside = path.removeprefix(self.root).lstrip("/")
        stem, ending = os.path.splitext(inside)
        return check_row_id(path, stem if ending.lower() in AUDIO_EXTENSIONS else inside)


def _source(recording: Any) -> tuple[str | BinaryIO, str | None]:
    """A recording as `encode` takes it, and its path if known. Raises: AudiovqError if it is none."""
    path = None
    if isinstance(recording, Mapping):
        path = recording.get("path")
        recording = path if recording.get("bytes") is None else recording["bytes"]
    if isinstance(recording, bytes | bytearray | memoryview):
        return io.BytesIO(recording), path
    if isinstance(recording, str):
        return recording, recording
    raise AudiovqError(f"{path or 'a row'}: is {type(recording).__name__}; give bytes or a path")
