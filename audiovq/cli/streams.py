"""The raw form of codes on standard input and output: `encode - -` and `decode - -`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audiovq.io.codestream import CodeStreamReader
    from audiovq.speech.output import DecodeKeywords
    from audiovq.tokenizer import Tokenizer


def encode_raw(
    tokenizer: Tokenizer, source: Path, gain: float | None, levels: int | None, partial: bool
) -> None:
    """Write the codes of a recording to standard output, in the raw form.

    A WAV on standard input is encoded as it comes, by the gain or at a running level. Anything else is read
    to its end first.
    """
    from audiovq.audio.wav_stream import WavStream, is_wav_head
    from audiovq.errors import AudiovqError
    from audiovq.io.codestream import CodeStreamWriter
    from audiovq.io.stdio import PrefixedStream, binary_stdin, binary_stdout
    from audiovq.speech.rawcodes import raw_header, write_raw_codes

    form = tokenizer.code_format
    if source != Path("-"):
        write_raw_codes(tokenizer.encode(source, levels=levels, partial=partial), form)
        return
    raw = binary_stdin()
    head = raw.read(12)
    if not is_wav_head(head):
        whole = PrefixedStream(head, raw)
        write_raw_codes(tokenizer.encode(whole, levels=levels, partial=partial), form)
        return
    wav = WavStream(raw, head)
    stream = tokenizer.encoder_stream(wav.sample_rate, gain=gain, levels=levels)
    writer: CodeStreamWriter | None = None
    num_samples = 0
    for block in wav.blocks():
        if writer is None:
            header = raw_header(form, stream.levels, wav.sample_rate, gain)
            writer = CodeStreamWriter(binary_stdout(), header)
        num_samples += len(block)
        writer.write(stream.push(block))
    if writer is None:
        raise AudiovqError("standard input: holds no samples; give a recording")
    writer.write(stream.flush())
    writer.close(num_samples)


def decode_piped(tokenizer: Tokenizer, how: DecodeKeywords) -> None:
    """Decode standard input to a WAV on standard output: raw codes as they come, others as a whole."""
    from audiovq.io.stdio import binary_stdin
    from audiovq.speech.rawcodes import open_raw_codes

    reader, stream = open_raw_codes(binary_stdin())
    if reader is not None:
        _decode_raw(tokenizer, reader, how)
        return
    tokenizer.decode_file(tokenizer.read_codes(stream), "-", **how)


def _decode_raw(tokenizer: Tokenizer, reader: CodeStreamReader, how: DecodeKeywords) -> None:
    """Decode a raw stream of codes to a WAV on standard output, as it comes."""
    from audiovq.audio.writer import AudioWriter
    from audiovq.errors import AudiovqError
    from audiovq.speech.rawcodes import raw_sequence

    header = reader.header
    stream = None
    written = 0
    with AudioWriter("-", sample_rate=header.sample_rate, endless=True) as writer:

        def write(samples: NDArray[np.float32]) -> None:
            nonlocal written
            most = reader.num_samples - written if reader.num_samples else None
            writer.write(samples[:most])
            written += len(samples[:most])

        for rows in reader.steps():
            codes = raw_sequence(header, rows, None)
            if stream is None:
                # Codes of another model are an error before the first sound.
                codes.for_model(tokenizer.code_format)
                stream = tokenizer.decoder_stream(header.sample_rate, gain=header.gain, **how)
            write(stream.push(codes))
        if stream is None:
            raise AudiovqError("standard input: raw codes of no sound; encode a recording that is not empty")
        write(stream.flush())
