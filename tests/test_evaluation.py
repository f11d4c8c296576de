"""Scores, the systems that are compared, and the table."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli.codec_options import SYSTEM_NAMES
from audiovq.cli.main import run
from audiovq.data.corpus import Corpus, Utterance
from audiovq.errors import AudiovqError
from audiovq.evaluation import codecs, report, tokenizer_codec
from audiovq.evaluation.codecs import _ogg_packet_sizes, make_command_codec, mu_law_codec, pcm16_codec
from audiovq.evaluation.compare import (
    SystemScores,
    _as_written,
    choose_utterances,
    format_table_head,
    format_table_row,
)
from audiovq.evaluation.evaluation_options import EvaluationOptions
from audiovq.evaluation.griffin_lim import griffin_lim
from audiovq.evaluation.metrics import (
    _DELAY_STEP,
    QualityScorer,
    RecordingScores,
    _estoi,
    _find_delay,
    _log_mel_distance,
    _pesq_wb,
    find_system_delay,
    remove_delay,
)
from audiovq.evaluation.rate_plot import _make_figure, draw_rate_plot
from audiovq.evaluation.systems import _SYSTEMS, System, find_systems
from audiovq.evaluation.tokenizer_codec import (
    decode_with_spectral_head,
    decode_with_wavenet,
    load_tokenizer_prior,
    make_tokenizer_codec,
)
from audiovq.evaluation.words import WordErrors
from audiovq.nn.stft import istft, log_magnitude, stft
from audiovq.tokenizer import Tokenizer, load
from helpers.models import DATA, speech


def read_recording() -> np.ndarray:
    return soundfile.read(DATA / "ls1998_008.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def scorer() -> QualityScorer:
    for package in ("pesq", "pystoi", "distillmos", "resemblyzer"):
        pytest.importorskip(package)
    return QualityScorer()


# Metrics


def test_what_is_the_same_is_perfect_and_noise_is_poor(scorer: QualityScorer) -> None:
    clean = read_recording()
    noise = np.random.default_rng(0).normal(0, 0.1, len(clean)).astype(np.float32)
    same, other = scorer.score(clean, clean), scorer.score(clean, noise)
    assert same.pesq_wb == pytest.approx(4.64, abs=0.01)
    assert same.estoi == pytest.approx(1, abs=1e-3)
    assert same.similarity == pytest.approx(1, abs=1e-5)
    assert same.log_mel == 0
    assert same.distillmos > 3
    assert other.pesq_wb < 1.3
    assert other.estoi < 0.2
    assert other.similarity < 0.8
    assert other.log_mel > 1
    assert other.distillmos < same.distillmos - 1


def test_silence_has_no_score_rather_than_a_made_up_one(scorer: QualityScorer) -> None:
    silence, clean = np.zeros(8_000, np.float32), read_recording()[:8_000]
    assert math.isnan(_pesq_wb(silence, silence))
    assert math.isnan(scorer.similarity(silence, clean))
    assert scorer.similarity(clean, silence) == 0
    assert math.isnan(_estoi(clean[:2_000], clean[:2_000]))


def test_signals_of_two_lengths_are_a_mistake(scorer: QualityScorer) -> None:
    with pytest.raises(ValueError, match="shapes"):
        scorer.score(np.zeros(10, np.float32), np.zeros(11, np.float32))


def test_more_noise_is_further_off() -> None:
    clean, noise = speech(16_000), np.random.default_rng(0).normal(0, 1, 16_000).astype(np.float32)
    distances = [_log_mel_distance(clean, clean + level * noise) for level in (0, 0.001, 0.01, 0.1)]
    assert distances[0] == 0
    assert distances == sorted(set(distances))


@pytest.mark.parametrize("milliseconds", [-130, -7, 0, 1, 40, 200])
def test_a_delay_is_found_exactly_and_removed(milliseconds: int) -> None:
    clean, delay = read_recording(), milliseconds * _DELAY_STEP
    late = remove_delay(clean, -delay, len(clean))
    # Another level, the sign turned and some noise: what is left of a waveform by codecs that keep none.
    noise = np.random.default_rng(1).normal(0, 1e-4, len(clean)).astype(np.float32)
    assert _find_delay(clean, -0.5 * late + noise) == delay
    inside = slice(abs(delay), len(clean) - abs(delay))
    np.testing.assert_array_equal(remove_delay(late, delay, len(clean))[inside], clean[inside])


def test_one_delay_a_system_and_any_length_back() -> None:
    clean = read_recording()
    back = [remove_delay(clean, -ms * _DELAY_STEP, len(clean)) for ms in (20, 20, 90)]
    assert find_system_delay([clean] * 3, back) == 20 * _DELAY_STEP
    assert len(remove_delay(clean[:100], 16, 100)) == len(remove_delay(clean[:100], -160, 100)) == 100


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(AudiovqError, match=r"^pesq: .* pip install 'audiovq\[eval\]'$"):
        QualityScorer()


# Systems


def test_names_of_the_command_are_those_of_the_table() -> None:
    assert tuple(system.name for system in _SYSTEMS) == SYSTEM_NAMES
    assert [s.name for s in find_systems(["opus-6", "original"])] == ["original", "opus-6"]
    with pytest.raises(ValueError, match="mp3"):
        find_systems(["mp3"])


def test_by_default_the_table_is_short() -> None:
    names = [system.name for system in find_systems([])]
    codecs_by_default = ["codec2-1200", "codec2-2400", "opus-6", "opus-7"]
    assert names == ["original", "mu-law", *codecs_by_default, "wavenet", "fast"]
    asked_for = ["codec2-700C", "wavenet-plain"]
    assert [system.name for system in find_systems(asked_for)] == asked_for


def test_levels_have_rows_of_their_own() -> None:
    systems = find_systems([], levels=3)
    assert [s.name for s in systems[-6:]] == ["wavenet-1", "wavenet-2", "wavenet", "fast-1", "fast-2", "fast"]
    assert [s.point for s in systems[-6:]] == ["1", "2", "3"] * 2
    assert systems[-6].label == "audiovq, WaveNet, 1 level"
    assert len({s.line for s in systems[-6:]}) == 2
    assert [s.name for s in find_systems(["fast-2", "original"], levels=4)] == ["original", "fast-2"]


def test_a_model_without_levels_has_none_to_leave_out(tiny_tokenizer: Tokenizer) -> None:
    (system,) = find_systems(["wavenet-1"])
    assert "levels" in str(system.missing(tiny_tokenizer))


def test_fewer_levels_are_cut_off_before_they_are_stored() -> None:
    class Codes:
        def __init__(self, levels: int) -> None:
            self.levels = levels
            self.voice = None

        def __len__(self) -> int:
            return 10

        def coarse(self, levels: int) -> Codes:
            return Codes(levels)

    class Prior:
        def save(self, codes: Codes, path: Path) -> int:
            return 7 * codes.levels

        def load(self, path: Path) -> Codes:
            return Codes(2)

    codebook = SimpleNamespace(size=64, levels=3)
    tokenizer: Any = SimpleNamespace(
        header=SimpleNamespace(config=SimpleNamespace(codebook=codebook)),
        model=SimpleNamespace(voice_encoder=None),
        prior=Prior(),
        encode=lambda samples, rate: Codes(3),
    )
    decoded: list[Any] = []

    def decode(_: Tokenizer, codes: Any) -> np.ndarray:
        decoded.append(codes)
        return np.zeros(1, np.float32)

    coded = make_tokenizer_codec(tokenizer, decode, levels=2)(np.zeros(1, np.float32))
    assert coded.stored_bits == 8 * 7 * 2
    assert coded.nominal_bits == 10 * 2 * 6
    assert make_tokenizer_codec(tokenizer, decode)(np.zeros(1, np.float32)).nominal_bits == 10 * 3 * 6
    assert [codes.levels for codes in decoded] == [2, 2], "what the file gives back"


def test_mu_law_takes_8_bits_a_sample_and_the_original_16() -> None:
    samples = speech(12_345)
    back, stored, nominal = mu_law_codec(samples)
    assert stored == nominal == 8 * 12_345
    assert 0 < np.abs(back - samples).max() < 0.02
    same, stored, nominal = pcm16_codec(samples)
    assert stored == nominal == 16 * 12_345
    assert same is samples


def without_prior(model: Path, folder: Path) -> Tokenizer:
    """The same model where no prior lies beside it."""
    return load(shutil.copy(model, folder / "alone.safetensors"))


def test_without_a_prior_the_nominal_bits_are_stored(tiny_model_path: Path, tmp_path: Path) -> None:
    tokenizer = without_prior(tiny_model_path, tmp_path)
    assert load_tokenizer_prior(tokenizer) is None
    samples = speech(128 * 20 + 1)
    back, stored, nominal = make_tokenizer_codec(tokenizer, decode_with_spectral_head)(samples)
    assert stored == nominal == 21 * 6 + 4 * 6  # 64 codes; a voice of 4 values of 6 bits
    assert len(back) == len(samples)
    first, second = (make_tokenizer_codec(tokenizer, decode_with_wavenet)(samples).samples for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_with_a_prior_the_whole_file_counts(
    tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path
) -> None:
    tokenizer, samples = load(tiny_model_path), speech(128 * 200)
    back, stored, nominal = make_tokenizer_codec(tokenizer, decode_with_spectral_head)(samples)
    codes = tokenizer.encode(samples)
    assert stored == 8 * tokenizer.prior.save(codes, tmp_path / "codes.avq") != nominal
    assert nominal == 200 * 6 + 4 * 6
    np.testing.assert_allclose(back, tokenizer.decode(codes, fast=True).samples, atol=1e-6)


def test_a_prior_that_cannot_be_used_is_an_error(tiny_model_path: Path, tmp_path: Path) -> None:
    tokenizer = without_prior(tiny_model_path, tmp_path)
    (tmp_path / "prior.safetensors").write_bytes(b"damaged")
    with pytest.raises(AudiovqError, match="prior"):
        make_tokenizer_codec(tokenizer, decode_with_spectral_head)


def test_without_a_spectral_head_there_is_no_fast_row(paper_tokenizer: Tokenizer) -> None:
    fast, wavenet = find_systems(["fast"])[0], find_systems(["wavenet"])[0]
    assert "spectral head" in str(fast.missing(paper_tokenizer))
    assert wavenet.missing(paper_tokenizer) is None
    samples = speech(6_400)
    nominal = make_tokenizer_codec(paper_tokenizer, decode_with_wavenet)(samples).nominal_bits
    assert nominal == 100 * 6  # and no voice is stored


def test_the_plain_wavenet_is_the_wavenet_before_correction(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = tiny_tokenizer.encode(speech(128 * 30 + 5))
    plain = tokenizer_codec.decode_without_correction(tiny_tokenizer, codes)
    usual = decode_with_wavenet(tiny_tokenizer, codes)
    assert plain.shape == usual.shape
    assert not np.allclose(plain, usual)
    passes_through = dataclasses.replace(tiny_tokenizer.model.config, corrections=0)
    monkeypatch.setattr(tiny_tokenizer.model, "config", passes_through)
    np.testing.assert_array_equal(plain, decode_with_wavenet(tiny_tokenizer, codes))


def test_griffin_lim_finds_a_signal_of_the_magnitudes() -> None:
    clean, (window, hop) = torch.from_numpy(read_recording()[:16_000]), (512, 128)
    wanted = stft(clean[None], window, hop)[0]
    target = log_magnitude(wanted, 1e-5)

    def convergence(rounds: int) -> float:
        back = griffin_lim(target, window, hop, seed=0, rounds=rounds)
        assert back.shape == clean.shape
        off = stft(back[None], window, hop)[0].abs() - wanted.abs()
        return float(off.norm() / wanted.abs().norm())

    assert convergence(60) < 0.5 * convergence(3)
    assert convergence(60) < 0.15
    first, second, other = (griffin_lim(target, window, hop, seed, rounds=2) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.allclose(istft(wanted[None], window, hop)[0][512:-512], clean[512:-512], atol=1e-5)


def test_griffin_lim_of_codes_keeps_their_level_and_length(tiny_tokenizer: Tokenizer) -> None:
    samples = speech(128 * 30 + 5)
    back = tokenizer_codec.decode_with_griffin_lim(tiny_tokenizer, tiny_tokenizer.encode(samples))
    assert back.shape == samples.shape
    assert np.isfinite(back).all()
    assert np.any(back)


@pytest.mark.parametrize(("mode", "rate"), [("700C", 700), ("1200", 1_200), ("3200", 3_200)])
def test_codec2_takes_its_bits(mode: str, rate: int) -> None:
    if not shutil.which("c2enc") or not shutil.which("c2dec"):
        pytest.skip("codec2 is not installed")
    clean = read_recording()
    back, bits, nominal = codecs.make_codec2(mode)(clean)
    assert bits / (len(clean) / 16_000) == pytest.approx(rate, rel=0.001)
    assert nominal / (len(clean) / 16_000) == pytest.approx(rate)
    delay = _find_delay(clean, back)
    assert 0 <= delay < 1_000
    assert len(back) >= len(clean) + delay


def test_opus_counts_packets_alone() -> None:
    if not shutil.which("opusenc") or not shutil.which("opusdec"):
        pytest.skip("opus-tools are not installed")
    clean = read_recording()
    back, bits, nominal = codecs.make_opus(6)(clean)
    assert nominal / (len(clean) / 16_000) == pytest.approx(6_000)
    assert 3_000 < bits / (len(clean) / 16_000) < 8_000
    assert len(back) == pytest.approx(len(clean), abs=400)
    assert _log_mel_distance(clean, remove_delay(back, _find_delay(clean, back), len(clean))) < 1.5


def page(lacing: list[int], body: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(body)


def test_packets_go_on_over_segments_and_pages() -> None:
    content = page([19], 19) + page([255, 0, 255], 510) + page([255, 3, 7], 265)
    assert list(_ogg_packet_sizes(content)) == [19, 255, 255 + 255 + 3, 7]
    with pytest.raises(AudiovqError, match="no Ogg file"):
        list(_ogg_packet_sizes(b"RIFF" + bytes(100)))


def test_a_missing_program_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    caplog.set_level("INFO")
    chosen = report._choose_systems(DATA, EvaluationOptions(), None)
    assert [system.name for system in chosen] == ["original", "mu-law", "wavenet", "fast"]
    codec2 = "c2enc and c2dec not found; install codec2"
    opus = "opusenc and opusdec not found; install opus-tools"
    assert caplog.messages == [
        f"Codec2 1200: left out: {codec2}",
        f"Codec2 2400: left out: {codec2}",
        f"Opus 6 kbit/s: left out: {opus}",
        f"Opus 7 kbit/s: left out: {opus}",
    ]


def test_a_missing_program_of_a_named_system_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert run(["evaluate", str(DATA), "--system", "mu-law", "--system", "opus-6"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    reason = "opusenc and opusdec not found; install opus-tools"
    assert captured.err == f"audiovq: error: Opus 6 kbit/s: {reason}\n"


def test_a_program_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "c2enc"
    program.write_text("#!/bin/sh\necho no such mode >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(AudiovqError, match=r"^c2enc: failed \(no such mode\); "):
        codecs.make_codec2("1200")(speech(1_600))


# Codecs of the user's


def test_any_program_is_a_codec(tmp_path: Path) -> None:
    program = tmp_path / "codec program.py"
    program.write_text(
        "import pathlib, shutil, sys\n"
        "source, target, folder = sys.argv[1:]\n"
        "assert not any(pathlib.Path(folder).iterdir())\n"
        "pathlib.Path(folder, 'in.wav').touch()\n"
        "shutil.copy(source, target)\n"
        "print('bits:', 1234)\n"
    )
    codec = make_command_codec("mine", f"{sys.executable} '{program}' {{i}} {{o}} {{d}}")
    samples = _as_written(speech(3_200))
    back, stored, nominal = codec(samples)
    np.testing.assert_array_equal(back, samples)
    assert stored == 1234
    assert math.isnan(nominal)


@pytest.mark.parametrize(
    ("printed", "bits"), [("17", 17), ("a 1e3\n", 1000), ("", math.nan), ("-1", math.nan), ("inf", math.nan)]
)
def test_the_last_word_is_the_payload_if_it_is_a_number(printed: str, bits: float) -> None:
    assert codecs._last_number(printed) == pytest.approx(bits, nan_ok=True)


def test_a_command_is_no_shell(tmp_path: Path) -> None:
    codec = make_command_codec("mine", f"cp {{i}} {{o}} ; touch {tmp_path}/there")
    with pytest.raises(AudiovqError, match=r"^mine: failed"):
        codec(speech(1_600))
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nonexistent {i} {o}", "^mine: failed .*/nonexistent"),
        ("false {i} {o}", r"^mine: failed \(exit code 1\)"),
        ("true {i} {o}", "^mine: its command wrote no recording"),
        ("cp /dev/null {o} -u {i}", "^mine: "),
        ("sh -c 'echo {i} > {o}'", "^mine: what its command wrote is no recording"),
    ],
)
def test_a_command_that_fails_is_one_line(command: str, said: str) -> None:
    with pytest.raises(AudiovqError, match=said):
        make_command_codec("mine", command)(speech(1_600))


# The table


def corpus_of(*speakers: str, seconds: float = 1.0) -> Corpus:
    rows = [
        Utterance(f"{n}.wav", s, "", round(seconds * 16_000), 16_000, 1.0) for n, s in enumerate(speakers)
    ]
    return Corpus(Path("folder"), tuple(rows))


def test_ten_of_a_speaker_who_take_turns() -> None:
    chosen = choose_utterances(corpus_of(*["ann"] * 14, *["bob"] * 3))
    assert [u.speaker for u in chosen[:7]] == ["ann", "bob"] * 3 + ["ann"]
    assert len(chosen) == 13
    assert [u.path for u in choose_utterances(corpus_of("ann", "ann", "bob"), limit=2)] == ["0.wav", "2.wav"]
    assert len(choose_utterances(corpus_of(*[""] * 14))) == 14
    assert len(choose_utterances(corpus_of(*["ann"] * 14, "bob"), per_speaker=12)) == 13
    with pytest.raises(AudiovqError, match="under 12 s"):
        choose_utterances(corpus_of("ann", seconds=12))


def test_what_is_scored_is_what_a_16_bit_file_gives_back() -> None:
    samples = np.random.default_rng(0).normal(0, 0.4, 4_000).astype(np.float32)
    back = _as_written(samples)
    np.testing.assert_array_equal(back * 32_768, np.rint(back * 32_768))
    assert np.abs(back - np.clip(samples, -1, 1)).max() <= 1.01 / 32_768
    np.testing.assert_allclose(_as_written(read_recording()), read_recording(), atol=1.01 / 32_768)


def row_of(system: System, stored: float, quality: float, words: WordErrors | None = None) -> SystemScores:
    """A row of made-up scores: the higher `quality` (0..1), the better."""
    scores = RecordingScores(1 + 3 * quality, quality, 1 + 4 * quality, 0.5 + quality / 2, 2 - quality)
    return SystemScores(system, stored, 2 * stored, scores, (scores,), 0, 0.5, words)


def test_what_is_unknown_is_a_dash() -> None:
    (system,) = find_systems(["original"])
    head = format_table_head().splitlines()[0]
    assert head.startswith("| system | stored bit/s | nominal bit/s | PESQ-WB |")
    assert "WER" not in head
    row = format_table_row(row_of(system, math.nan, 0.5))
    assert row == "| original | — | — | 2.50 | 0.500 | 3.00 | 0.750 | 0.500 |"
    assert "| similarity | WER, % | s a second |" in format_table_head(words=True)
    assert "| 0.750 | 12.5 | 0.500 |" in format_table_row(row_of(system, 1, 0.5, WordErrors(1, 8)))
    assert "| 0.750 | — | 0.500 |" in format_table_row(row_of(system, 1, 0.5, WordErrors(0, 0)))


def test_the_command_prints_a_table_and_writes_json(
    scorer: QualityScorer, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_prior(tiny_model_path, tmp_path)
    out = tmp_path / "scores.json"
    options = ["--limit", "2", "--system", "fast", "--system", "original", "--json", str(out)]
    options += ["--page", str(tmp_path / "page.html")]
    command = ["--codec", "copy=cp {i} {o}", "--model", str(tmp_path / "alone.safetensors")]
    assert run(["evaluate", str(DATA), *command, *options]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("| system | stored bit/s | nominal bit/s | PESQ-WB |")
    assert len(lines) == 5
    assert lines[2].startswith("| original | 256,000 | 256,000 | 4.64 | 1.000 |")
    assert lines[3].startswith("| copy | — | — | 4.64 | 1.000 |")
    assert lines[4].startswith("| audiovq, `--fast` | ")
    assert "has no prior; its stored bits are the nominal ones" in captured.err
    tree: dict[str, Any] = json.loads(out.read_text())
    first, copy, last = tree["systems"]
    assert len(tree["recordings"]) == 2
    assert last["system"] == "fast"
    assert copy["system"] == "copy"
    assert last["means"]["estoi"] == pytest.approx(np.mean(last["scores"]["estoi"])) != 1
    assert 750 < last["stored_bits_per_second"] < 770
    assert first["delay_samples"] == 0
    assert copy["stored_bits_per_second"] is None
    assert last["words"] is None
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<audio ") == 2 * 3
    assert f"<dt>PESQ-WB</dt><dd>{last['scores']['pesq_wb'][1]:.2f}</dd>" in page
    assert "2 of 2 recordings that were scored" in page
    assert run(["evaluate", str(DATA), *options]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_prior_that_was_asked_for_must_be_there(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(tiny_model_path), "--prior", str(tmp_path / "none.safetensors")]
    assert run(["evaluate", str(DATA), "--system", "fast", *options]) == 1
    assert "does not exist; check the path" in capsys.readouterr().err


# The picture


def made_up_rows(words: bool) -> list[SystemScores]:
    """Three levels of a model, Codec2, Opus, a codec of the user's, and what is not drawn as a point."""
    systems = {s.name: s for s in find_systems(["original", "mu-law", "codec2-1200", "codec2-2400"])}
    systems |= {s.name: s for s in find_systems(["opus-6", "opus-10"])}
    systems |= {s.name: s for s in find_systems([], levels=3, commands=[("mine", "cp {i} {o}")])}
    figures = {
        "original": (256_000, 1.0), "mu-law": (128_000, 0.95), "codec2-1200": (1_200, 0.2),
        "codec2-2400": (2_400, 0.3), "opus-6": (5_300, 0.45), "opus-10": (9_100, 0.8), "mine": (1_500, 0.6),
        "wavenet-1": (520, 0.4), "wavenet-2": (1_050, 0.55), "wavenet": (1_700, 0.62),
        "fast-1": (520, 0.38), "fast-2": (1_050, 0.5), "fast": (1_700, 0.57),
    }  # fmt: skip
    return [
        row_of(systems[name], rate, quality, WordErrors(round(100 * (1 - quality)), 400) if words else None)
        for name, (rate, quality) in figures.items()
    ]


@pytest.mark.parametrize("words", [False, True])
def test_the_picture_has_a_panel_a_measure(words: bool) -> None:
    figure_class = pytest.importorskip("matplotlib.figure").Figure
    figure = _make_figure(figure_class, made_up_rows(words))
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    measures = ["PESQ-WB", "ESTOI", "DistillMOS", "speaker similarity", "words wrong, %"]
    assert [axes.get_ylabel() for axes in panels] == measures[: 4 + words]
    assert {axes.get_xlabel() for axes in panels} == {"stored bit/s"}
    assert {axes.get_xscale() for axes in panels} == {"log"}
    lines = {line.get_label(): list(line.get_xdata()) for line in panels[0].get_lines()}
    assert lines.pop("audiovq, WaveNet") == lines.pop("audiovq, --fast") == [520, 1_050, 1_700]
    assert lines == {"Codec2": [1_200, 2_400], "Opus": [5_300, 9_100], "mine": [1_500]}
    assert "original" in [line.get_label() for line in panels[2].get_lines()]
    legend = (figure.axes[-1].get_legend() if words else figure.legends[0]).get_texts()
    assert {text.get_text() for text in legend} == {*lines, "original", "audiovq, WaveNet", "audiovq, --fast"}


def test_the_picture_is_written_and_not_overwritten(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, rows = tmp_path / "rates.png", made_up_rows(words=True)
    rows[6] = dataclasses.replace(rows[6], stored_bits_per_second=math.nan)
    assert draw_rate_plot(rows, out) == ["mine"]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size > 10_000
    with pytest.raises(AudiovqError, match="--force"):
        draw_rate_plot(rows, out)
    with pytest.raises(AudiovqError, match="gif"):
        draw_rate_plot(rows, tmp_path / "rates.gif")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", "d", "--system", "mp3"],
        ["evaluate", "d", "--limit", "0"],
        ["evaluate", "d", "--per-speaker", "0"],
        ["evaluate", "d", "--json", "-"],
        ["evaluate", "d", "--system", "wavenet-0"],
        ["evaluate", "d", "--codec", "mine"],
        ["evaluate", "d", "--codec", "a|b=cp {i} {o}"],
        ["evaluate", "d", "--codec", "mine=cp {i}"],
        ["evaluate", "d", "--codec", "mine=cp '{i} {o}"],
        ["evaluate", "d", "--codec", "fast=cp {i} {o}"],
        ["evaluate", "d", "--codec", "x=cp {i} {o}", "--codec", "x=cp {i} {o}"],
        ["evaluate", "d", "--asr", "m", "--no-words"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert ": error: " in capsys.readouterr().err
