"""Renew the hashes in `audiovq/generate` by which numba's cache notices changes in other files.

Numba renews what it cached for a file when that file changes, not when a file changes whose functions were
compiled into it. So each such file holds, in `SOURCES`, a hash over those others. Run this after any change
to them; a test compares.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "audiovq" / "generate"
OTHERS = {
    "functions": ("matrix", "vectors"),
    "kernel": ("functions", "matrix", "vectors"),
    "priorkernel": ("functions", "matrix", "vectors", "kernel"),
}
"""By file, the files that were compiled into it: in an order in which each is stamped before it is hashed."""


def sources(name: str) -> str:
    """Start of the SHA-256 over the files that were compiled into one."""
    digest = hashlib.sha256()
    for other in OTHERS[name]:
        digest.update((FOLDER / f"{other}.py").read_bytes())
    return digest.hexdigest()[:16]


def stamp(name: str) -> bool:
    """Write the hash into a file; returns whether it was another one."""
    path = FOLDER / f"{name}.py"
    before = path.read_text()
    after = re.sub(r'^SOURCES = "[0-9a-f]*"$', f'SOURCES = "{sources(name)}"', before, flags=re.MULTILINE)
    if after == before:
        return False
    path.write_text(after)
    return True


def main() -> None:
    """Stamp all files, and say which changed."""
    for name in OTHERS:
        print(f"{name}.py: {'stamped' if stamp(name) else 'unchanged'}")


if __name__ == "__main__":
    main()
