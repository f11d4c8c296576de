"""Log lines of a command on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from audiovq.distributed import rank_zero_log_filter
from audiovq.errors import printable
from audiovq.io.terminal import unescaped_stderr


class _StderrHandler(logging.Handler):
    """Writes messages alone to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if sys.stderr is None or not sys.stderr.isatty():
            click.echo(line, err=True)
            return
        from tqdm import tqdm

        # The stream of the bars, so that they make room; the line itself is escaped as everywhere.
        tqdm.write(printable(line, kept="\n\t"), file=unescaped_stderr())


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
