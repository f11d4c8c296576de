"""Print digests of codes that the shipped prior generates, of their `.avq` file, and of what it gives back.

    python scripts/avq_digest.py

Only the compiled loop decides them, so they have to be the same on every processor and operating system.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import audiovq

SECONDS = 2.0
SEED = 3


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    prior = audiovq.load().prior
    (codes,) = prior.generate(SECONDS, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.avq"
        prior.save(codes, path)
        print("codes", digest(codes.codes.astype("<u2").tobytes()))
        print("avq", digest(path.read_bytes()))
        print("back", digest(prior.load(path).codes.astype("<u2").tobytes()))


if __name__ == "__main__":
    main()
