"""Decoded copies of recordings in which no place can be found exactly, such as MP3: crops come from these."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiovq.audio.writer import holds_rate
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile

MOST_BYTES = 50_000_000_000
"""Of all copies together: about 300 hours of speech at 44.1 kHz."""

_logger = logging.getLogger(__name__)


class DecodedCopies:
    """A folder of mono FLAC files of 24 bits, at the rates of the recordings. Louder samples are clipped.

    Args:
        folder: made when it is needed; git ignores it.
        most_bytes: of all copies together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self.count = 0
        self.size = 0
        self._most_bytes = most_bytes

    def path(self, name: str) -> Path:
        """Where the copy of a recording is, if there is one. Args: name, its path in the corpus."""
        # Hashed, since a manifest may lead out of the corpus's folder.
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{digest[:32]}.flac"

    def clear(self) -> None:
        """Remove all copies."""
        for path in self.folder.glob("*.flac"):
            path.unlink(missing_ok=True)

    def open(self, name: str, rate: int) -> DecodedCopy:
        """Begin a copy. Raises AudiovqError if it cannot be written."""
        if not holds_rate(".flac", rate):
            raise AudiovqError(f"{name}: FLAC cannot hold its copy at {rate} Hz; resample the recording")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        return DecodedCopy(self, self.path(name), rate)

    def add(self, size: int) -> None:
        """Count a copy. Raises AudiovqError if there are too many."""
        if self.size + size > self._most_bytes:
            raise AudiovqError(
                f"{self.folder}: holds {self.size / 1e9:.1f} GB of decoded copies, and no more than "
                f"{self._most_bytes / 1e9:.1f} GB are kept; convert the recordings to FLAC"
            )
        self.size += size
        self.count += 1

    def log(self) -> None:
        """Log how many there are, and their size."""
        if self.count:
            files = "1 recording" if self.count == 1 else f"{self.count} recordings"
            _logger.info("%s: %s decoded, %.1f MB", self.folder, files, self.size / 1e6)


class DecodedCopy:
    """A copy that is being written; without `commit` nothing stays."""

    def __init__(self, copies: DecodedCopies, path: Path, rate: int) -> None:
        self._copies = copies
        self._partial = PartialFile(path, force=True)
        try:
            self._sound = soundfile.SoundFile(
                self._partial.file, "w", rate, 1, subtype="PCM_24", format="FLAC", closefd=False
            )
        except soundfile.LibsndfileError as error:
            self._partial.discard()
            raise AudiovqError(f"{path}: cannot be written; convert the recording to FLAC") from error

    def __enter__(self) -> DecodedCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self._sound.close()
        self._partial.discard()

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append mono samples `(T,)`."""
        steps = np.rint(samples.astype(np.float64) * 2**23).clip(-(2**23), 2**23 - 1)
        try:
            self._sound.write(steps.astype(np.int32) << 8)
        except (soundfile.LibsndfileError, AssertionError, OSError) as error:
            raise AudiovqError(f"{self._partial.path}: cannot be written; free some space") from error

    def commit(self) -> None:
        """Finish the copy. Raises AudiovqError if there is no room for it."""
        self._sound.close()
        self._partial.file.flush()
        self._copies.add(os.fstat(self._partial.file.fileno()).st_size)
        self._partial.commit()
