"""Renew the hashes by which numba's cache notices changes in other files.

Numba renews what it cached for a file when that file changes, not when a file changes whose functions were
compiled into it. So each file with compiled functions that imports others holds, in `_SOURCES`, a hash over
those others. Run this after any change to them; a test does it with `--check`.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAMP = re.compile(r'^_SOURCES = "[0-9a-f]*"$', re.MULTILINE)


def compiled_files() -> dict[str, Path]:
    """Files with functions that numba compiles, by module."""
    files = sorted((ROOT / "audiovq").rglob("*.py"))
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    numba = re.compile(r"^(from numba|from audiovq\.nn\.jit)\b", re.MULTILINE)
    return {module: path for module, path in modules.items() if numba.search(path.read_text())}


def compiled_into(path: Path, files: dict[str, Path]) -> set[str]:
    """Modules among `files` from which one of them takes functions."""
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {node.module for node in imports if node.module in files}


def reached(module: str, direct: dict[str, set[str]]) -> set[str]:
    """All modules whose functions reach into one, over others too."""
    return direct[module].union(*(reached(other, direct) for other in direct[module]))


def main() -> int:
    """Stamp all files, and say which changed; with `--check`, change none. Exit code 1 if one was not as it
    should be."""
    check = "--check" in sys.argv[1:]
    files = compiled_files()
    direct = {module: compiled_into(path, files) for module, path in files.items()}
    changed = []
    # A file is stamped before it is hashed.
    for module in TopologicalSorter(direct).static_order():
        others = sorted(reached(module, direct))
        before = files[module].read_text()
        if not others or "cache=True" not in before:
            continue
        digest = hashlib.sha256(b"".join(files[other].read_bytes() for other in others)).hexdigest()[:16]
        if not STAMP.search(before):
            print(f"{files[module]}: holds no _SOURCES; add one after its imports", file=sys.stderr)
            return 1
        after = STAMP.sub(f'_SOURCES = "{digest}"', before)
        if after != before:
            changed.append(module)
            if not check:
                files[module].write_text(after)
    for module in changed:
        print(f"{module}: {'differs; run scripts/stamp_kernels.py' if check else 'stamped'}", file=sys.stderr)
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
