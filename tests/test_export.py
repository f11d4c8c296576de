"""Exported graphs beside the library: the same codes, voices and sound, from one sample up."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from audiovq.cli.main import run
from audiovq.export.graphs import DecoderGraph, EncoderGraph
from audiovq.export.onnxfile import OPSET, export_onnx
from audiovq.export.spectra import RealStft
from audiovq.nn.stft import istft, stft
from audiovq.speech.chunked_encoder import ChunkedEncoder
from audiovq.speech.spectral_correction import correct_spectrum
from audiovq.tokenizer import Tokenizer, load
from helpers.models import speech

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[1]
LENGTHS = (1, 127, 128, 129, 256, 257, 5_001, 40_000)


class Exported(NamedTuple):
    """The files of a model, opened."""

    tokenizer: Tokenizer
    paths: list[Path]

    def run(self, part: int, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.paths[part], options, ["CPUExecutionProvider"])
        return list(session.run(None, inputs))


@pytest.fixture(scope="module")
def exported(three_levels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx")
    return Exported(load(three_levels_path), export_onnx(folder / "three.onnx", three_levels_path))


def test_real_spectra_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    for window, hop in ((512, 128), (256, 64), (128, 128)):
        signal = torch.randn(2, 11 * hop, generator=generator)
        real = RealStft(window, hop)
        parts = real.stft(signal, 11)
        wanted = stft(signal, window, hop)
        torch.testing.assert_close(torch.complex(*parts), wanted, atol=2e-6, rtol=0)
        # Phases that no signal has, at 0 Hz and at half the rate too.
        spectrum = torch.randn(wanted.shape, generator=generator, dtype=torch.complex64)
        made = real.istft(spectrum.real, spectrum.imag)
        torch.testing.assert_close(made, istft(spectrum, window, hop), atol=1e-5, rtol=1e-5)


def test_the_correction_is_that_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = 0.1 * torch.randn(1, 20 * 128, generator=generator)
    wanted = torch.randn(1, 20, 257, generator=generator) - 3
    made = RealStft(512, 128).correct(signal, wanted, 3, 0.99)
    torch.testing.assert_close(made, correct_spectrum(signal, wanted, 512, 128, 3, 0.99), atol=1e-5, rtol=0)


def test_a_window_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the hop"):
        RealStft(512, 100)


@pytest.mark.parametrize("samples", LENGTHS)
def test_what_is_exported_encodes_as_windows_do(samples: int, three_levels: Tokenizer) -> None:
    signal = speech(samples, seed=samples)
    with torch.inference_mode():
        codes, voice = EncoderGraph(three_levels.model)(torch.from_numpy(signal))
    wanted, levels = ChunkedEncoder(three_levels.model).encode([signal], 1.0)
    np.testing.assert_array_equal(codes.numpy(), wanted)
    assert tuple(voice.tolist()) == levels


def test_a_strided_encoder_and_a_voice_by_number(paper_tokenizer: Tokenizer, tiny_levels: Tokenizer) -> None:
    signal = speech(5_001)
    with torch.inference_mode():
        (codes,) = EncoderGraph(paper_tokenizer.model)(torch.from_numpy(signal))
    wanted, _ = ChunkedEncoder(paper_tokenizer.model).encode([signal], 1.0)
    np.testing.assert_array_equal(codes.numpy(), wanted)
    with pytest.raises(ValueError, match="no spectral head"):
        DecoderGraph(paper_tokenizer.model)
    table = tiny_levels.model.voice_table.points
    graph = DecoderGraph(tiny_levels.model)
    graph.model.voice_encoder, kept = None, graph.model.voice_encoder
    try:
        for number in (-1, 0, 1):
            assert torch.equal(graph._point(torch.tensor([number]))[0], table[number + 1])
    finally:
        graph.model.voice_encoder = kept


@pytest.mark.slow
def test_onnxruntime_gives_what_the_library_gives(exported: Exported) -> None:
    """Nothing here is drawn, so codes differ only where two vectors are equally near: here, nowhere."""
    tokenizer = exported.tokenizer
    windows = ChunkedEncoder(tokenizer.model)
    for samples in LENGTHS:
        signal = speech(samples, seed=samples)
        codes, voice = exported.run(0, signal=signal)
        wanted, levels = windows.encode([signal], 1.0)
        np.testing.assert_array_equal(codes, wanted)
        assert tuple(voice.tolist()) == levels
        for count in (1, tokenizer.levels):
            rows = wanted[:, :count]
            (sound,) = exported.run(1, codes=rows.astype(np.int64), voice=np.full(4, -1))
            assert sound.shape == (len(rows) * tokenizer.hop,)
            np.testing.assert_allclose(sound, tokenizer.decode(rows, fast=True).samples, atol=1e-4)
        own = replace(tokenizer.encode(signal), gain=None, num_samples=None)
        (sound,) = exported.run(1, codes=own.rows.astype(np.int64), voice=np.array(own.voice))
        np.testing.assert_allclose(sound, tokenizer.decode(own, fast=True).samples, atol=1e-4)


@pytest.mark.slow
def test_files_say_what_they_are_and_are_the_same_again(
    exported: Exported, three_levels_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = []
    for path in exported.paths:
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
        assert os.fsencode(ROOT) not in path.read_bytes()
        facts.append({entry.key: entry.value for entry in proto.metadata_props})
    assert [(f["part"], f["licence"], f["fingerprint"]) for f in facts] == [
        ("encoder", "", exported.tokenizer.fingerprint),
        ("decoder", "", exported.tokenizer.fingerprint),
    ]
    assert (facts[0]["hop"], facts[0]["levels"], facts[0]["codebook_size"]) == ("256", "3", "16")
    assert run(["export", str(tmp_path / "three.onnx"), "--model", str(three_levels_path)]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 2
    for path in exported.paths:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.slow
def test_the_example_needs_no_torch(exported: Exported, tmp_path: Path) -> None:
    source = tmp_path / "speech.wav"
    soundfile.write(source, speech(30_001) + 0.01, 16_000, "FLOAT")
    name = str(exported.paths[0]).removesuffix("-encoder.onnx")
    script = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script += "; assert not {'torch', 'audiovq', 'scipy'} & sys.modules.keys()"
    command = [sys.executable, "-c", script, str(ROOT / "examples" / "run_onnx.py"), name, str(source)]
    done = subprocess.run([*command, str(tmp_path / "back.wav")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    codes = exported.tokenizer.encode(source)
    assert done.stdout.endswith(f"voice {list(codes.voice or ())}\n")
    back = soundfile.read(tmp_path / "back.wav", dtype="float32")[0]
    wanted = exported.tokenizer.decode(codes, fast=True).samples
    assert back.shape == wanted.shape
    np.testing.assert_allclose(back, wanted, atol=1e-4)


def test_a_missing_package_is_one_line(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("audiovq.export.paths.find_spec", lambda name: None)
    assert run(["export", str(tmp_path / "a.onnx"), "--model", str(tiny_model_path)]) == 1
    message = "audiovq: error: ONNX needs onnx and onnxscript; pip install 'audiovq[onnx]'\n"
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []
