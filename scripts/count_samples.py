#!/usr/bin/env python3
"""Compare the lengths that audiovq reads with FFmpeg's own count, over all recordings below some folders.

usage: count_samples.py FOLDER...

Prints a line for each file that differs or is refused, and a table: container by codec, number of files, read
by what, how many are of FFmpeg's length. FFmpeg's count comes from its libraries (PyAV): packets of the first
audio track decoded, errors passed over.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import av

from audiovq.audio.reader import AUDIO_EXTENSIONS, AudioReader
from audiovq.errors import AudiovqError


class Count(NamedTuple):
    """What FFmpeg finds in a file: container, codec, samples."""

    container: str
    codec: str
    samples: int


def by_ffmpeg(path: Path) -> Count:
    """FFmpeg's count; no samples if it cannot read the file."""
    container = "unreadable"
    codec = ""
    samples = 0
    try:
        with open(path, "rb") as file, av.open(file, "r", metadata_errors="replace") as opened:
            container = opened.format.name.partition(",")[0]
            stream = opened.streams.audio[0]
            codec = stream.codec_context.name.removesuffix("float")
            for packet in opened.demux(stream):
                try:
                    samples += sum(frame.samples for frame in packet.decode())
                except av.FFmpegError:
                    continue
    except (av.FFmpegError, OSError, IndexError, AttributeError, ValueError):
        pass
    return Count(container, codec, samples)


def by_audiovq(path: Path) -> tuple[int, str, bool]:
    """Samples, the library that reads the file, and whether places in it are found by seeking."""
    with AudioReader(path) as reader, reader._decoder() as decoder:
        library = {"SndfileDecoder": "libsndfile", "AvDecoder": "FFmpeg"}.get(type(decoder).__name__, "both")
        samples = sum(map(len, reader.source_blocks()))
        return samples, library, reader.exact


def main() -> None:
    """Print the comparison."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for root in sys.argv[1:]:
        for parent, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(parent, name)
                if path.suffix.lower() in AUDIO_EXTENSIONS and path.is_file():
                    compare(path, rows)
    print(f"\n{'container':<12}{'codec':<16}{'files':>6}{'read':>6}{'same':>6}  by, places found by seeking")
    for (container, codec), counts in sorted(rows.items()):
        how = ", ".join(key for key in counts if key not in ("files", "read", "same"))
        print(f"{container:<12}{codec:<16}{counts['files']:>6}{counts['read']:>6}{counts['same']:>6}  {how}")


def compare(path: Path, rows: dict[tuple[str, str], Counter[str]]) -> None:
    """Add a file to the table."""
    expected = by_ffmpeg(path)
    counts = rows[expected.container, expected.codec]
    counts["files"] += 1
    try:
        samples, library, exact = by_audiovq(path)
    except AudiovqError as error:
        print(f"refused  FFmpeg {expected.samples}: {error}")
        return
    counts["read"] += 1
    counts["same"] += samples == expected.samples
    counts[f"{library}{' (exact)' if exact else ''}"] += 1
    if samples != expected.samples:
        print(f"differs  {path}: {samples}, FFmpeg {expected.samples}")


if __name__ == "__main__":
    main()
