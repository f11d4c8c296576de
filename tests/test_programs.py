"""The programs of examples/, each run as a user would, with a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.cli.main import run
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(6):
        soundfile.write(folder / f"r{i}.wav", speech(9_000 + 2_000 * i, seed=i), 16_000)
    return folder


def program(name: str, *args: str | Path) -> str:
    command = [sys.executable, EXAMPLES / name, *args]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_language_model_is_trained_measured_and_heard(
    recordings: Path, tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    table = tmp_path / "codes.parquet"
    assert run(["encode", str(recordings), str(table), "--model", str(tiny_model_path)]) == 0
    out = tmp_path / "out.wav"
    small = ("--updates", "60", "--width", "16", "--seconds", "0.5", "--model", tiny_model_path, "--out", out)
    words = program("language_model.py", table, "--held-out", table, *small).split()
    frequencies = float(words[words.index("frequencies") + 1])
    trained = float(words[words.index("model") + 1])
    prior = float(words[words.index("prior") + 1])
    assert 0 < frequencies < np.log2(64)
    assert trained < np.log2(64), "it has learnt something"
    assert 0 < prior < 20
    assert soundfile.info(out).frames == 62 * 128, "whole steps of half a second"


@pytest.mark.slow
def test_cuts_of_lhotse_are_encoded_and_decoded(
    recordings: Path, tiny_model_path: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    lhotse = pytest.importorskip("lhotse")
    cuts = lhotse.CutSet.from_manifests(recordings=lhotse.RecordingSet.from_dir(recordings, "*.wav"))
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    codes = tmp_path / "codes.jsonl.gz"
    model = ("--model", tiny_model_path)
    program("lhotse_codes.py", "encode", tmp_path / "cuts.jsonl.gz", codes, *model)
    program("lhotse_codes.py", "decode", codes, tmp_path / "sound", *model)
    for cut in lhotse.CutSet.from_file(codes):
        alone = tiny_tokenizer.encode(recordings / f"{cut.recording_id}.wav")
        np.testing.assert_array_equal(cut.codes.load(), alone.rows)
        assert (cut.gain, tuple(cut.voice)) == (alone.gain, alone.voice)
        tiny_tokenizer.decode_file(alone[:], tmp_path / "alone.wav", force=True)
        assert (tmp_path / "sound" / f"{cut.id}.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()
        half = cut.truncate(duration=cut.duration / 2).load_codes()
        np.testing.assert_array_equal(half, alone.rows[: len(half)])
        assert isinstance(alone, CodeSequence)
