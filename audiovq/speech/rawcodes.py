"""Code sequences in the raw form of `io.codestream`, on standard input and output."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.codestream import CODE_STREAM_MAGIC, CodeStreamHeader, CodeStreamReader, CodeStreamWriter
from audiovq.io.stdio import PrefixedStream, binary_stdout
from audiovq.speech.codes import CodeFormat, CodeSequence


def open_raw_codes(raw: BinaryIO) -> tuple[CodeStreamReader | None, PrefixedStream]:
    """A reader if a stream holds raw codes, and the stream as it was."""
    head = raw.read(len(CODE_STREAM_MAGIC))
    return (CodeStreamReader(raw) if head == CODE_STREAM_MAGIC else None), PrefixedStream(head, raw)


def read_raw_codes(reader: CodeStreamReader) -> CodeSequence:
    """All the codes of a stream. Raises: AudiovqError if it is cut short, damaged or empty."""
    parts = list(reader.steps())
    if not parts:
        raise AudiovqError("standard input: raw codes of no sound; encode a recording that is not empty")
    return raw_sequence(reader.header, np.concatenate(parts), reader.num_samples or None)


def write_raw_codes(codes: CodeSequence, form: CodeFormat) -> None:
    """Write a sequence of a model to standard output."""
    codes = codes.for_model(form)
    num_samples = codes.num_samples
    header = raw_header(form, codes.levels, codes.sample_rate, codes.gain)
    writer = CodeStreamWriter(binary_stdout(), header)
    writer.write(codes.rows)
    writer.close(0 if num_samples is None else num_samples)


def raw_header(form: CodeFormat, levels: int, sample_rate: int, gain: float | None) -> CodeStreamHeader:
    """The header of a model's stream."""
    return CodeStreamHeader(
        levels, form.hop, form.codebook_size, form.model_rate, sample_rate, gain, form.fingerprint
    )


def raw_sequence(header: CodeStreamHeader, rows: NDArray[np.uint16], num_samples: int | None) -> CodeSequence:
    """Steps `(T, L)` of a stream as a sequence. Raises: AudiovqError if header and codes make no sense."""
    found = CodeSequence(
        rows.reshape(-1),
        hop=header.hop,
        sample_rate=header.sample_rate,
        num_samples=num_samples,
        gain=header.gain,
        fingerprint=header.fingerprint,
        codebook_size=header.codebook_size,
        model_rate=header.model_rate,
        name="standard input",
    )
    if found.levels != header.levels:
        raise AudiovqError("standard input: raw codes with a damaged header; encode the recording again")
    return found
