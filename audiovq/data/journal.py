"""The journal of a corpus that is being prepared: which recordings are finished, and their files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from audiovq.audio.loudness import ACTIVE_SPEECH_RANGE_DB
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.segmentation import (
    MAX_RECORDING_SECONDS,
    MIN_SOUND_SECONDS,
    PIECE_SECONDS_RANGE,
    SILENCE_MARGIN_SECONDS,
)
from audiovq.data.splits import RawRecording
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile

_NAME = "prepared.jsonl"

_SETTINGS = {
    "version": 1,
    "rate": SAMPLE_RATE,
    "range_db": ACTIVE_SPEECH_RANGE_DB,
    "seconds": [SILENCE_MARGIN_SECONDS, MAX_RECORDING_SECONDS, *PIECE_SECONDS_RANGE, MIN_SOUND_SECONDS],
}
"""What prepared recordings depend on: with other values all of them are prepared anew."""


class PreparedFile(NamedTuple):
    """A written file: path from the corpus's folder on, samples, rate in Hz, gain."""

    path: str
    samples: int
    rate: int
    gain: float


Mark = tuple[int, int]
"""Of a recording: size and time of its file."""


class Journal:
    """Appends a line for each finished recording; starts with the lines that are still valid.

    Args:
        out: folder of the corpus.
        kept: recordings and their files.

    Raises: AudiovqError if the disk refuses.
    """

    def __init__(self, out: Path, kept: Sequence[tuple[RawRecording, list[PreparedFile]]]) -> None:
        self.path = out / _NAME
        with PartialFile(self.path, force=True) as file:
            lines = [json.dumps({"settings": _SETTINGS}), *(_line(*entry) for entry in kept)]
            file.write("".join(f"{line}\n" for line in lines).encode())
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise self._failed(error) from None

    def add(self, source: RawRecording, files: list[PreparedFile]) -> None:
        """Append a recording. Raises AudiovqError if the disk refuses."""
        try:
            self._file.write(_line(source, files) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> AudiovqError:
        return AudiovqError(f"{self.path}: cannot be written ({error.strerror}); check the space on the disk")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()


def finished_recordings(recordings: Sequence[RawRecording], out: Path) -> dict[int, list[PreparedFile]]:
    """Files of the recordings that earlier runs prepared, by number."""
    known = _read(out)
    found = {}
    for number, recording in enumerate(recordings):
        before = known.get((recording.name, _mark(recording.path)))
        if before is not None and all((out / piece.path).is_file() for piece in before):
            found[number] = before
    return found


def _line(source: RawRecording, files: list[PreparedFile]) -> str:
    tree = {"name": source.name, "source": _mark(source.path), "pieces": files}
    return json.dumps({**tree, "checksum": _checksum(tree)})


def _read(out: Path) -> dict[tuple[str, Mark], list[PreparedFile]]:
    """Files by name, size and time of the recording; none if earlier runs had other settings."""
    found: dict[tuple[str, Mark], list[PreparedFile]] = {}
    try:
        first, *lines = (out / _NAME).read_bytes().splitlines() or [b""]
        if json.loads(first)["settings"] != _SETTINGS:
            return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    for line in lines:
        try:
            tree = json.loads(line)
            # Lines of earlier versions have none.
            if tree.pop("checksum", None) not in (None, _checksum(tree)):
                continue
            size, time = tree["source"]
            found[tree["name"], (size, time)] = [
                PreparedFile(str(path), int(samples), int(rate), float(gain))
                for path, samples, rate, gain in tree["pieces"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a line that was cut by a full disk or a kill, or that is damaged
    return found


def _checksum(tree: Mapping[str, object]) -> str:
    """CRC-32 of a line's content, 8 hex digits."""
    return f"{zlib.crc32(json.dumps(tree).encode()):08x}"


def _mark(path: Path) -> Mark:
    """Size and modification time of a file, which change when it is replaced."""
    try:
        info = path.stat()
    except OSError:
        return (-1, -1)
    return (info.st_size, info.st_mtime_ns)
