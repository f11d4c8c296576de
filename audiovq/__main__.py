"""`python -m audiovq` is the command `audiovq`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script; Ctrl-C while it is still loading is an interrupt like any other."""
    try:
        from audiovq.cli.main import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("audiovq: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
