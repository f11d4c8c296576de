"""The one exception that audiovq raises for bad input."""

from __future__ import annotations


class AudiovqError(Exception):
    """Input that cannot be used, or output that cannot be written.

    The message is one line: the file, the problem, the remedy. Line breaks (a file name may hold one) become
    spaces, so that the line a command prints stays one line. Mistakes of the calling code are not this: they
    raise ValueError, TypeError or RuntimeError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).splitlines()))
