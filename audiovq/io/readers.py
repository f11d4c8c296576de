"""Which libraries may read files that others made: all of them, unless `AUDIOVQ_READERS` names some."""

from __future__ import annotations

import os

from audiovq.errors import AudiovqError

READERS_VARIABLE = "AUDIOVQ_READERS"

_LIBRARIES = ("libsndfile", "ffmpeg", "pillow")


def may_read(library: str) -> bool:
    """Whether a library may read files.

    Args:
        library: libsndfile, ffmpeg or pillow.

    Raises: AudiovqError if the environment variable names another.
    """
    setting = os.environ.get(READERS_VARIABLE)
    if setting is None:
        return True
    allowed = {name.strip().lower() for name in setting.split(",") if name.strip()}
    if unknown := sorted(allowed - set(_LIBRARIES)):
        raise AudiovqError(f"{READERS_VARIABLE}: {unknown[0]!r} is unknown; name {', '.join(_LIBRARIES)}")
    return library in allowed


def switched_off(library: str) -> str:
    """Why a library reads nothing."""
    return f"{library}: is switched off by {READERS_VARIABLE}"
