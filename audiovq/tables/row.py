"""A row of a table of codes, and what all rows of a part share; the same in every format."""

from __future__ import annotations

import contextlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io import JsonObject
from audiovq.io.codefile import other_model_error
from audiovq.speech.codes import CodeFormat, CodeSequence

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

_FORMAT = "audiovq-table"
_VERSION = 1
_ROW_ID = re.compile(r"(?!/|[A-Za-z]:)[^\\\0]+")
"""Neither absolute nor on a drive, and without the separator of Windows."""


@dataclass(frozen=True)
class TableHeader:
    """What all rows of a part share."""

    model: str
    """Name of the model: of its file, without the ending."""
    format: CodeFormat
    """Of the codes in the rows; `levels` counts those that the rows hold."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, levels: int | None = None) -> TableHeader:
        """The header of codes of a model, of its first `levels`; None: of all."""
        form = tokenizer.code_format
        return cls(tokenizer.path.stem, form if levels is None else form._replace(levels=levels))

    def to_json(self) -> str:
        """As the part stores it."""
        form = self.format
        tree = {"format": _FORMAT, "version": _VERSION, "model": self.model, **form._asdict()}
        return json.dumps(tree, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> TableHeader:
        """Raises: ValueError, KeyError or TypeError if it is none; AudiovqError for another version."""
        tree = json.loads(text)
        if tree["format"] != _FORMAT:
            raise ValueError("another format")
        if tree["version"] != _VERSION:
            stated = shorten(tree["version"])
            raise AudiovqError(
                f"is of version {stated}, this audiovq reads {_VERSION}; update audiovq, or encode again"
            )
        counts = {
            name: _count(tree[name])
            for name in ("hop", "frames_per_step", "codebook_size", "levels", "model_rate")
        }
        form = CodeFormat(**counts, fingerprint=_text(tree["fingerprint"]))
        return cls(_text(tree["model"]), form)


@dataclass(frozen=True)
class TableRow:
    """A recording of a table."""

    id: str
    """Its path in the corpus, with `/` between folders, without the ending."""
    codes: CodeSequence
    speaker: str | None = None
    """Name in the corpus, which need not be a trained speaker; None if unknown."""

    @property
    def facts(self) -> JsonObject:
        """Columns by name, all but the codes."""
        codes = self.codes
        return {
            "id": self.id,
            "levels": codes.levels,
            "voice": None if codes.voice is None else list(codes.voice),
            "speaker": self.speaker,
            "rate": int(codes.sample_rate),
            "samples": None if codes.num_samples is None else int(codes.num_samples),
            "gain": None if codes.gain is None else float(codes.gain),
            "partial": codes.partial,
            "fingerprint": codes.fingerprint,
        }


@dataclass(frozen=True)
class StoredRow:
    """A row as read, not checked yet."""

    name: str
    """For messages: part and id."""
    facts: JsonObject
    codes: NDArray[np.generic]
    header: TableHeader | None
    """None where another program wrote the part and kept the columns alone."""

    def build(self, model: CodeFormat) -> CodeSequence:
        """The codes, for a model. Raises: AudiovqError if they make no sense or are of another model."""
        form = self.header.format if self.header is not None else model
        facts = self.facts
        fingerprint = facts.get("fingerprint") or form.fingerprint
        if fingerprint != model.fingerprint:
            raise other_model_error(self.name, str(fingerprint), model.fingerprint)
        codes = CodeSequence(
            self.codes,  # type: ignore[arg-type]  # checked there
            hop=form.hop,
            sample_rate=facts["rate"],
            num_samples=facts.get("samples"),
            gain=facts.get("gain"),
            voice=facts.get("voice"),
            fingerprint=fingerprint,
            codebook_size=form.codebook_size,
            frames_per_step=form.frames_per_step,
            model_rate=form.model_rate,
            partial=facts.get("partial") or False,
            name=self.name,
        )
        if codes.levels != (stated := facts.get("levels", codes.levels)):
            raise AudiovqError(
                f"{self.name}: holds {codes.levels} levels where {shorten(stated)} are stated; encode again"
            )
        return codes.for_model(model)


@dataclass(frozen=True)
class PartIndex:
    """Which recordings a part holds."""

    header: TableHeader | None
    ids: Sequence[str]


class TableFormat(ABC):
    """How the parts of a table are stored."""

    ending: ClassVar[str]
    """Of parts and tables, with the dot."""
    part_name: ClassVar[str]
    """First word of the names of parts."""

    @abstractmethod
    def pack(self, header: TableHeader, rows: Sequence[TableRow]) -> bytes:
        """The content of a part."""

    @abstractmethod
    def index(self, path: Path) -> PartIndex:
        """What a part holds, read without the codes. Raises: AudiovqError if it is damaged, or none."""

    @abstractmethod
    def rows(self, path: Path) -> Iterator[StoredRow]:
        """The rows of a part, in order. Raises: as `index`."""


def reading_part(path: Path) -> AbstractContextManager[None]:
    """Turns whatever goes wrong while a part is read into one AudiovqError."""
    return reading(
        path,
        "is no part of a table of codes, or is damaged",
        "get it again, or remove it and encode what it held",
    )


def check_row_id(name: str, text: object) -> str:
    """The id of a row, a path below some folder on any system.

    Raises: AudiovqError if it is none; `name` is that of the recording or part.
    """
    if isinstance(text, str) and _ROW_ID.fullmatch(text) and ".." not in text.split("/"):
        with contextlib.suppress(UnicodeEncodeError):
            text.encode()
            return text
    raise AudiovqError(
        f"{name}: cannot be a row of the id {shorten(text)}, which is no UTF-8 path below a folder; rename it"
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{shorten(value)} is no positive integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shorten(value)} is no text")
    return value
