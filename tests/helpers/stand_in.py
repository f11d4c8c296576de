"""A stand-in for the tokenizer, to see what the command asks of it, and small helpers for its tests."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.batch import FileJob, targets
from audiovq.cli import checks
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.speech.output import DecodeOptions

RECORDING = Path(__file__).parents[2] / "data" / "ls1998_008.flac"


@dataclass(frozen=True)
class StandInSpeaker:
    number: int
    name: str
    sex: str
    minutes: float


class StandInTokenizer:
    """Answers as a tokenizer does; keeps what it was asked."""

    hop = 128
    path = Path("stand-in.safetensors")
    fingerprint = "f00d"
    code_format = CodeFormat(128, 1, 512, 1, 16_000, "f00d")
    speakers = (StandInSpeaker(0, "p225", "F", 2.5), StandInSpeaker(1, "1998", "", 0.25))

    def __init__(self) -> None:
        self.model: object = "never loaded"
        self.loading: dict[str, object] = {}
        self.calls: list[dict[str, Any]] = []

    def info(self) -> dict[str, object]:
        return {"fingerprint": "f00d", "bits_per_second": 1125.0, "voice_bits": 96, "hop_samples": 128}

    def encode(self, source: Path, *, levels: int | None = None, partial: bool = False) -> CodeSequence:
        if not Path(source).exists() or Path(source).read_bytes() == b"broken":
            raise AudiovqError(f"{source}: is not a recording; convert it")
        codes = np.arange(10, dtype=np.uint16)
        damaged = Path(source).read_bytes() == b"damaged"
        if damaged and not partial:
            raise AudiovqError(f"{source}: is cut short; take what is there with --partial")
        self.calls.append({"levels": levels})
        found = CodeSequence(codes, codebook_size=512, num_samples=1250, voice=(1, 2, 3), fingerprint="f00d")
        return replace(found, partial=damaged)

    def load_codes(self, path: Path) -> CodeSequence:
        return CodeSequence.load(path)

    def save_codes(self, codes: CodeSequence, path: Path, *, force: bool) -> None:
        codes.save(path, force=force)

    def decode_file(self, codes: CodeSequence, out: Path, *, force: bool, **options: Any) -> None:
        self.calls.append({"codes": codes.codes.tolist(), **options})
        if "progress" in options:
            options.pop("progress")(1250, 1250)
        soundfile.write(out, np.zeros(1250), codes.sample_rate)

    def encode_files(self, jobs: Sequence[FileJob], *, done: Any, force: bool, encode: Any) -> None:
        for job in jobs:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                encode(job).save(job.target, force=force)
                done(job, None)
            except AudiovqError as error:
                done(job, error)

    def decode_files(
        self,
        jobs: Sequence[FileJob],
        how: DecodeOptions,
        *,
        done: Any,
        force: bool,
        load: Any,
        heard: Any = None,
    ) -> None:
        for job in jobs:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.decode_file(load(job), job.target, force=force, **asdict(how))
                if heard is not None:
                    heard(0.1)
                done(job, None)
            except AudiovqError as error:
                done(job, error)


def install(monkeypatch: pytest.MonkeyPatch) -> StandInTokenizer:
    """Let `audiovq.tokenizer.load` give the stand-in, which then keeps the model it was asked for."""
    stand_in = StandInTokenizer()

    def load(model: object = None, **options: object) -> StandInTokenizer:
        stand_in.model = model
        stand_in.loading = options
        return stand_in

    module = types.ModuleType("audiovq.tokenizer")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "audiovq.tokenizer", module)
    # Its header is read without torch, before it is loaded.
    monkeypatch.setattr(checks, "read_model_header", lambda model: StandInTokenizer)
    folders = types.ModuleType("audiovq.batch")
    folders.FileJob = FileJob  # type: ignore[attr-defined]
    folders.encode_files = StandInTokenizer.encode_files  # type: ignore[attr-defined]
    folders.targets = targets  # type: ignore[attr-defined]
    folders.decode_files = StandInTokenizer.decode_files  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "audiovq.batch", folders)
    return stand_in


def save_codes(path: Path, fingerprint: str = "f00d") -> None:
    CodeSequence(
        np.arange(10), codebook_size=512, num_samples=1250, voice=(4, 5), fingerprint=fingerprint
    ).save(path)


def one_line(captured: Any) -> str:
    """The one line that standard error holds, with nothing on standard output."""
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
