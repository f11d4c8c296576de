"""Scores, the systems that are compared, and the table."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import DATA, speech

from audiovq.cli.evaluate import SYSTEM_NAMES
from audiovq.cli.main import run
from audiovq.data.corpus import Corpus, Utterance
from audiovq.errors import AudiovqError
from audiovq.evaluation import codecs
from audiovq.evaluation.codecs import (
    SYSTEMS,
    find_systems,
    mu_law,
    ogg_packet_sizes,
    original,
    tokenizer_codec,
)
from audiovq.evaluation.compare import as_written, choose_utterances
from audiovq.evaluation.metrics import (
    DELAY_STEP,
    Scorer,
    estoi,
    find_delay,
    log_mel_distance,
    pesq_wb,
    remove_delay,
    system_delay,
)
from audiovq.tokenizer import Tokenizer


def read_recording() -> np.ndarray:
    return soundfile.read(DATA / "ls1998_008.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    for package in ("pesq", "pystoi", "distillmos", "resemblyzer"):
        pytest.importorskip(package)
    return Scorer()


# Metrics


def test_what_is_the_same_is_perfect_and_noise_is_poor(scorer: Scorer) -> None:
    clean = read_recording()
    noise = np.random.default_rng(0).normal(0, 0.1, len(clean)).astype(np.float32)
    same, other = scorer.score(clean, clean), scorer.score(clean, noise)
    assert same.pesq_wb == pytest.approx(4.64, abs=0.01)
    assert same.estoi == pytest.approx(1, abs=1e-3) and same.similarity == pytest.approx(1, abs=1e-5)
    assert same.log_mel == 0 and same.distillmos > 3
    assert other.pesq_wb < 1.3 and other.estoi < 0.2 and other.similarity < 0.8
    assert other.log_mel > 1 and other.distillmos < same.distillmos - 1


def test_silence_has_no_score_rather_than_a_made_up_one(scorer: Scorer) -> None:
    silence, clean = np.zeros(8_000, np.float32), read_recording()[:8_000]
    assert math.isnan(pesq_wb(silence, silence))
    assert math.isnan(scorer.similarity(silence, clean)) and scorer.similarity(clean, silence) == 0
    assert math.isnan(estoi(clean[:2_000], clean[:2_000]))


def test_signals_of_two_lengths_are_a_mistake(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="shapes"):
        scorer.score(np.zeros(10, np.float32), np.zeros(11, np.float32))


def test_more_noise_is_further_off() -> None:
    clean, noise = speech(16_000), np.random.default_rng(0).normal(0, 1, 16_000).astype(np.float32)
    distances = [log_mel_distance(clean, clean + level * noise) for level in (0, 0.001, 0.01, 0.1)]
    assert distances[0] == 0 and distances == sorted(set(distances))


@pytest.mark.parametrize("milliseconds", [-130, -7, 0, 1, 40, 200])
def test_a_delay_is_found_exactly_and_removed(milliseconds: int) -> None:
    clean, delay = read_recording(), milliseconds * DELAY_STEP
    late = remove_delay(clean, -delay, len(clean))
    # Another level, the sign turned and some noise: what is left of a waveform by codecs that keep none.
    noise = np.random.default_rng(1).normal(0, 1e-4, len(clean)).astype(np.float32)
    assert find_delay(clean, -0.5 * late + noise) == delay
    inside = slice(abs(delay), len(clean) - abs(delay))
    np.testing.assert_array_equal(remove_delay(late, delay, len(clean))[inside], clean[inside])


def test_one_delay_a_system_and_any_length_back() -> None:
    clean = read_recording()
    back = [remove_delay(clean, -ms * DELAY_STEP, len(clean)) for ms in (20, 20, 90)]
    assert system_delay([clean] * 3, back) == 20 * DELAY_STEP
    assert len(remove_delay(clean[:100], 16, 100)) == len(remove_delay(clean[:100], -160, 100)) == 100


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(AudiovqError, match=r"^pesq: .* pip install 'audiovq\[eval\]'$"):
        Scorer()


# Systems


def test_names_of_the_command_are_those_of_the_table() -> None:
    assert tuple(system.name for system in SYSTEMS) == SYSTEM_NAMES
    assert [s.name for s in find_systems(["opus-6", "original"])] == ["original", "opus-6"]
    with pytest.raises(ValueError, match="mp3"):
        find_systems(["mp3"])


def test_mu_law_takes_8_bits_a_sample_and_the_original_16() -> None:
    samples = speech(12_345)
    back, bits = mu_law(samples)
    assert bits == 8 * 12_345 and 0 < np.abs(back - samples).max() < 0.02
    same, bits = original(samples)
    assert bits == 16 * 12_345 and same is samples


def test_the_tokenizer_takes_its_codes_and_its_voice(tiny_tokenizer: Tokenizer) -> None:
    run_fast, run_drawn = (tokenizer_codec(tiny_tokenizer, fast) for fast in (True, False))
    samples = speech(128 * 20 + 1)
    back, bits = run_fast(samples)
    assert bits == 21 * 6 + 4 * 6 and len(back) == len(samples)  # 64 codes; a voice of 4 values of 6 bits
    first, second = run_drawn(samples)[0], run_drawn(samples)[0]
    np.testing.assert_array_equal(first, second)


def test_without_a_spectral_head_there_is_no_fast_row(paper_tokenizer: Tokenizer) -> None:
    fast, wavenet = find_systems(["fast"])[0], find_systems(["wavenet"])[0]
    assert "spectral head" in str(fast.missing(paper_tokenizer))
    assert wavenet.missing(paper_tokenizer) is None
    samples = speech(6_400)
    assert tokenizer_codec(paper_tokenizer, fast=False)(samples)[1] == 100 * 6  # and no voice is stored


@pytest.mark.parametrize(("mode", "rate"), [("1200", 1_200), ("2400", 2_400)])
def test_codec2_takes_its_bits(mode: str, rate: int) -> None:
    if not shutil.which("c2enc") or not shutil.which("c2dec"):
        pytest.skip("codec2 is not installed")
    clean = read_recording()
    back, bits = codecs.codec2(mode)(clean)
    assert bits / (len(clean) / 16_000) == pytest.approx(rate, rel=0.001)
    delay = find_delay(clean, back)
    assert 0 <= delay < 1_000 and len(back) >= len(clean) + delay


def test_opus_counts_packets_alone() -> None:
    if not shutil.which("opusenc") or not shutil.which("opusdec"):
        pytest.skip("opus-tools are not installed")
    clean = read_recording()
    back, bits = codecs.opus(6)(clean)
    assert 3_000 < bits / (len(clean) / 16_000) < 8_000
    assert len(back) == pytest.approx(len(clean), abs=400)
    assert log_mel_distance(clean, remove_delay(back, find_delay(clean, back), len(clean))) < 1.5


def page(lacing: list[int], body: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(body)


def test_packets_go_on_over_segments_and_pages() -> None:
    content = page([19], 19) + page([255, 0, 255], 510) + page([255, 3, 7], 265)
    assert list(ogg_packet_sizes(content)) == [19, 255, 255 + 255 + 3, 7]
    with pytest.raises(AudiovqError, match="no Ogg file"):
        list(ogg_packet_sizes(b"RIFF" + bytes(100)))


def test_a_missing_program_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert run(["evaluate", str(DATA), "--system", "codec2-1200", "--system", "opus-6"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "Codec2 1200: left out: c2enc and c2dec not found; install codec2"
    assert lines[1] == "Opus 6 kbit/s: left out: opusenc and opusdec not found; install opus-tools"
    assert lines[2].startswith("audiovq: error: ") and len(lines) == 3


def test_a_program_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "c2enc"
    program.write_text("#!/bin/sh\necho no such mode >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(AudiovqError, match=r"^c2enc: failed \(no such mode\); "):
        codecs.codec2("1200")(speech(1_600))


# The table


def corpus_of(*speakers: str, seconds: float = 1.0) -> Corpus:
    rows = [
        Utterance(f"{n}.wav", s, "", round(seconds * 16_000), 16_000, 1.0) for n, s in enumerate(speakers)
    ]
    return Corpus(Path("folder"), tuple(rows))


def test_ten_of_a_speaker_who_take_turns() -> None:
    chosen = choose_utterances(corpus_of(*["ann"] * 14, *["bob"] * 3))
    assert [u.speaker for u in chosen[:7]] == ["ann", "bob"] * 3 + ["ann"] and len(chosen) == 13
    assert [u.path for u in choose_utterances(corpus_of("ann", "ann", "bob"), limit=2)] == ["0.wav", "2.wav"]
    assert len(choose_utterances(corpus_of(*[""] * 14))) == 14
    with pytest.raises(AudiovqError, match="under 12 s"):
        choose_utterances(corpus_of("ann", seconds=12))


def test_what_is_scored_is_what_a_16_bit_file_gives_back() -> None:
    samples = np.random.default_rng(0).normal(0, 0.4, 4_000).astype(np.float32)
    back = as_written(samples)
    np.testing.assert_array_equal(back * 32_768, np.rint(back * 32_768))
    assert np.abs(back - np.clip(samples, -1, 1)).max() <= 1.01 / 32_768
    np.testing.assert_allclose(as_written(read_recording()), read_recording(), atol=1.01 / 32_768)


def test_the_command_prints_a_table_and_writes_json(
    scorer: Scorer, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    options = ["--limit", "2", "--system", "fast", "--system", "original", "--json", str(out)]
    assert run(["evaluate", str(DATA), "--model", str(tiny_model_path), *options]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("| system | bit/s | PESQ-WB |") and len(lines) == 4
    assert lines[2].startswith("| original | 256,000 | 4.64 | 1.000 |")
    assert lines[3].startswith("| audiovq, `--fast` | ")
    tree: dict[str, Any] = json.loads(out.read_text())
    first, last = tree["systems"]
    assert len(tree["recordings"]) == 2 and last["system"] == "fast"
    assert last["means"]["estoi"] == pytest.approx(np.mean(last["scores"]["estoi"])) != 1
    assert 750 < last["bits_per_second"] < 770 and first["delay_samples"] == 0
    assert run(["evaluate", str(DATA), *options]) == 1
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", "d", "--system", "mp3"],
        ["evaluate", "d", "--limit", "0"],
        ["evaluate", "d", "--json", "-"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Error: " in capsys.readouterr().err
