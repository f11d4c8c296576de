"""Small corpora of codes, and their runs by plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.units.corpus import UnitCorpus

SIZE = 8
FORM = CodeFormat(256, 2, SIZE, 3, 16_000, "0123456789abcdef")


def some_codes(steps: int, seed: int, levels: int = 3, rate: int = 22_050) -> CodeSequence:
    """Random codes in short runs, of a recording that ends within its last step."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, SIZE, (steps, levels)), 3, axis=0)[:steps]
    rows[rng.random(rows.shape) < 0.2] = 3
    samples = int((steps - 0.4) * FORM.hop * rate / FORM.model_rate)
    return CodeSequence(
        (rows + np.arange(levels) * SIZE).reshape(-1),
        hop=FORM.hop,
        sample_rate=rate,
        num_samples=samples,
        fingerprint=FORM.fingerprint,
        codebook_size=SIZE,
        frames_per_step=FORM.frames_per_step,
    )


def save_folder(folder: Path, recordings: Sequence[CodeSequence]) -> Path:
    """Recordings as `ann/0.npy`, `ann/1.npy`, ..."""
    (folder / "ann").mkdir(parents=True)
    for number, codes in enumerate(recordings):
        codes.save(folder / "ann" / f"{number}.npy")
    return folder


def open_folder(folder: Path, level: int = 1) -> UnitCorpus:
    return UnitCorpus(folder, FORM, CodeSequence.load, level=level)


def plain_runs(codes: CodeSequence, level: int = 1) -> list[tuple[int, int, int]]:
    """Code, first step and number of steps of each run."""
    found = []
    step = 0
    for code, group in groupby(codes.rows[:, level - 1].tolist()):
        length = len(list(group))
        found.append((code, step, length))
        step += length
    return found
