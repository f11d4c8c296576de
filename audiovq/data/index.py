"""The index of a corpus in columns: about 35 bytes a recording and its path, mapped into memory, not loaded.

Stored as a safetensors file whose header holds the stamp of the corpus and the skipped files. Speakers and
splits are numbers in the columns; speakers are numbered by sorted name, so that the numbering does not depend
on the order of the files.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from audiovq.io.atomic import PartialFile

UNKNOWN_ID = -1
"""Speaker number of a recording whose speaker is unknown, and split number of one without a split."""

_KEY = "audiovq-index-3"
"""Of the JSON object in the file's metadata."""
_NAMES = ("speakers", "splits", "skipped")
_COLUMNS = {
    "samples": ("I64", "<i8"),
    "gain": ("F64", "<f8"),
    "ends": ("I64", "<i8"),
    "rate": ("I32", "<i4"),
    "speaker": ("I32", "<i4"),
    "split": ("I16", "<i2"),
    "paths": ("U8", "u1"),
}
"""Type in the file and in memory."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One recording: path, speaker name ("" if unknown), split, length in samples at `rate` Hz, gain."""

    path: str
    speaker: str
    split: str
    samples: int
    rate: int
    gain: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate


@dataclass(frozen=True, eq=False)
class CorpusIndex:
    """Columns over N recordings, and the names that their numbers stand for.

    Attributes:
        samples: `(N,)`, at the recording's own rate.
        rate, gain: `(N,)`, in Hz and as a factor.
        speaker, split: `(N,)`, numbers in `speakers` and `splits`; `UNKNOWN_ID`: unknown, none.
        paths: all paths in UTF-8, one after another; ends: `(N,)`, where each of them ends.
        speakers, splits: names; of speakers sorted.
        stamp: hash of what the index depends on; skipped: a line for each unreadable file.
    """

    samples: NDArray[np.int64]
    rate: NDArray[np.int32]
    gain: NDArray[np.float64]
    speaker: NDArray[np.int32]
    split: NDArray[np.int16]
    paths: NDArray[np.uint8]
    ends: NDArray[np.int64]
    speakers: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    stamp: str = ""
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Utterance:
        begin = int(self.ends[row - 1]) if row else 0
        speaker = int(self.speaker[row])
        split = int(self.split[row])
        return Utterance(
            # What the file system holds need not be UTF-8.
            self.paths[begin : int(self.ends[row])].tobytes().decode("utf-8", "surrogateescape"),
            self.speakers[speaker] if speaker != UNKNOWN_ID else "",
            self.splits[split] if split != UNKNOWN_ID else "",
            int(self.samples[row]),
            int(self.rate[row]),
            float(self.gain[row]),
        )

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all. Raises AudiovqError if the disk refuses."""
        columns = {n: np.ascontiguousarray(getattr(self, n), dtype) for n, (_, dtype) in _COLUMNS.items()}
        about = {name: getattr(self, name) for name in ("stamp", *_NAMES)}
        about["checksum"] = _checksum(about, columns)
        with PartialFile(path, force=True) as file:
            file.write(save(columns, {_KEY: json.dumps(about)}))

    @classmethod
    def load(cls, path: Path, stamp: str) -> CorpusIndex | None:
        """The index stored in a file; None if it has another stamp, is missing, or not as it was written."""
        try:
            return cls._load(path, stamp)
        except Exception as error:
            # An index is made again, whatever is wrong with it.
            if not isinstance(error, FileNotFoundError):
                _logger.warning("%s: cannot be used (%s); the corpus is indexed again", path, error)
            return None

    @classmethod
    def _load(cls, path: Path, stamp: str) -> CorpusIndex | None:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("it is cut")
            tree = json.loads(file.read(length))
        if _KEY not in tree["__metadata__"]:
            return None
        about = json.loads(tree["__metadata__"][_KEY])
        if about["stamp"] != stamp:
            return None
        columns: dict[str, Any] = {}
        for name, (stored, dtype) in _COLUMNS.items():
            (count,) = tree[name]["shape"]
            begin, end = tree[name]["data_offsets"]
            if tree[name]["dtype"] != stored or end - begin != count * np.dtype(dtype).itemsize:
                raise ValueError("its header is damaged")
            # An empty range cannot be mapped.
            columns[name] = np.zeros(0, dtype)
            if count:
                columns[name] = np.asarray(np.memmap(path, dtype, "r", 8 + length + begin, (count,)))
        if about.pop("checksum") != _checksum(about, columns):
            raise ValueError("its checksum does not fit")
        names: dict[str, Any] = {name: tuple(about[name]) for name in _NAMES}
        return cls(**columns, **names, stamp=stamp)


def _checksum(about: Mapping[str, object], columns: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 of an index: a byte that is not as it was written is noticed."""
    checksum = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in _COLUMNS:
        checksum = zlib.crc32(np.ascontiguousarray(columns[name]).view(np.uint8).data, checksum)
    return checksum


class CorpusIndexBuilder:
    """Collects rows into an `CorpusIndex`, in as much memory as the index itself takes."""

    def __init__(self) -> None:
        self._columns: dict[str, array[Any]] = {
            name: array(code) for name, code in zip(_ROW, "qidihq", strict=True)
        }
        self._paths = bytearray()
        self._speakers: dict[str, int] = {"": UNKNOWN_ID}
        self._splits: dict[str, int] = {"": UNKNOWN_ID}

    def __len__(self) -> int:
        return len(self._columns["samples"])

    def add(self, path: str, speaker: str, split: str, samples: int, rate: int, gain: float) -> None:
        """Append a recording, as the fields of `Utterance`."""
        self._paths += path.encode("utf-8", "surrogateescape")
        numbers = (
            self._speakers.setdefault(speaker, len(self._speakers) - 1),
            self._splits.setdefault(split, len(self._splits) - 1),
        )
        for name, value in zip(_ROW, (samples, rate, gain, *numbers, len(self._paths)), strict=True):
            self._columns[name].append(value)

    def build(self, stamp: str = "", skipped: Sequence[str] = ()) -> CorpusIndex:
        """The index of the added rows, which shares their memory: add nothing afterwards."""
        columns: dict[str, Any] = {
            name: np.frombuffer(column, _COLUMNS[name][1]) if column else np.empty(0, _COLUMNS[name][1])
            for name, column in self._columns.items()
        }
        names = list(self._speakers)[1:]
        order = sorted(range(len(names)), key=names.__getitem__)
        # The last entry is that of UNKNOWN_ID, which is -1.
        number = np.full(len(names) + 1, UNKNOWN_ID, np.int32)
        number[order] = np.arange(len(names))
        columns["speaker"] = number[columns["speaker"]]
        return CorpusIndex(
            **columns,
            paths=np.frombuffer(self._paths, np.uint8),
            speakers=tuple(names[i] for i in order),
            splits=tuple(self._splits)[1:],
            stamp=stamp,
            skipped=tuple(skipped),
        )


_ROW = ("samples", "rate", "gain", "speaker", "split", "ends")


class UtteranceSequence(Sequence[Utterance]):
    """Rows of an index as `Utterance`s, each made on access.

    Args:
        base: all rows.
        rows: int32 or int64 `(M,)`, numbers of these rows, in order; None: all.
    """

    def __init__(self, base: CorpusIndex, rows: NDArray[Any] | None = None) -> None:
        self.base = base
        self._rows = rows

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> UtteranceSequence:
        """Any utterances, in columns."""
        if isinstance(utterances, UtteranceSequence):
            return utterances
        builder = CorpusIndexBuilder()
        for u in utterances:
            builder.add(u.path, u.speaker, u.split, u.samples, u.rate, u.gain)
        return cls(builder.build())

    def take(self, rows: NDArray[Any]) -> UtteranceSequence:
        """Some of these: a mask `(M,)`, or positions."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        narrow = np.int32 if len(self.base) < 2**31 else np.int64
        return UtteranceSequence(self.base, (rows if self._rows is None else self._rows[rows]).astype(narrow))

    def column(self, name: str) -> NDArray[Any]:
        """`(M,)`: `samples`, `rate`, `gain`, or `speaker` and `split` as numbers in the index's names."""
        column: NDArray[Any] = getattr(self.base, name)
        return column if self._rows is None else column[self._rows]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """`(M,)`, lengths in seconds."""
        lengths: NDArray[np.float64] = self.column("samples") / self.column("rate")
        return lengths

    def __len__(self) -> int:
        return len(self.base) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Utterance: ...
    @overload
    def __getitem__(self, position: slice) -> UtteranceSequence: ...
    def __getitem__(self, position: int | slice) -> Utterance | UtteranceSequence:
        found = range(len(self))[position]
        if isinstance(found, range):
            return self.take(np.arange(found.start, found.stop, found.step))
        return self.base[found if self._rows is None else int(self._rows[found])]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
