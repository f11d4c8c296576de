"""`python -m audiovq` is the command `audiovq`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the console script; Ctrl-C while it is still loading is an interrupt like any other."""
    try:
        from audiovq.cli.interrupt import run_interruptibly

        run_interruptibly("audiovq", _run)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("audiovq: interrupted\n")
        os._exit(130)


def _run() -> int:
    from audiovq.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
