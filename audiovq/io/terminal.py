"""Standard streams that show control characters instead of obeying them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from audiovq.errors import printable


class _EscapedStream:
    """A text stream that writes control characters, but for line breaks and tabs, in escaped form.

    Names of files, speakers and models come from others, and everything that is printed passes here: lines of
    the command, of the log, and of libraries.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        self.unescaped.write(printable(text, kept="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Escape what is written to standard output and standard error as text; bytes pass unchanged."""
    with contextlib.ExitStack() as stack:
        # A stream is None if it was closed before Python started.
        if sys.stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(cast(TextIO, _EscapedStream(sys.stdout))))
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(cast(TextIO, _EscapedStream(sys.stderr))))
        yield


def unescaped_stderr() -> TextIO | None:
    """Standard error for progress bars, which move the cursor themselves; None if it is closed."""
    stream = sys.stderr
    while isinstance(stream, _EscapedStream):
        stream = stream.unescaped
    return stream
