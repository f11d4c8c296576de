"""Log lines of a command on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from audiovq.cli.echo import echo
from audiovq.distributed import rank_zero_log_filter
from audiovq.errors import printable


class _StderrHandler(logging.Handler):
    """Writes messages alone to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(self.format(record), lines=True)
        if sys.stderr is None or not sys.stderr.isatty():
            echo(line, err=True, lines=True)
            return
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the package's log while a command runs; progress comes from rank zero alone."""
    logger = logging.getLogger("audiovq")
    level = logger.level
    handler = _StderrHandler(logging.INFO)
    handler.addFilter(rank_zero_log_filter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
