"""The tokenizer, decoding: exact lengths, levels, blocks, voices, errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from audiovq.audio.resample import resampled_length
from audiovq.cli.main import run as command
from audiovq.errors import AudiovqError
from audiovq.speech import chunked_encoder, synthesis
from audiovq.speech.codes import CodeSequence
from audiovq.speech.output import DecodeOptions
from audiovq.tokenizer import Tokenizer, load
from helpers.models import speech

Array = NDArray[np.float32]


# Decoding: lengths and levels


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("length", [1, 128, 160, 12_345])
def test_as_many_samples_back_as_went_in(
    tiny_tokenizer: Tokenizer, tmp_path: Path, rate: int, length: int
) -> None:
    codes = tiny_tokenizer.encode(speech(length, rate), rate)
    back = tiny_tokenizer.decode(codes, fast=True)
    assert (len(back.samples), back.sample_rate) == (length, rate)
    tiny_tokenizer.decode_file(codes, tmp_path / "out.wav", fast=True)
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate) == (length, rate)
    if length < 1_000:
        assert len(tiny_tokenizer.decode(codes).samples) == length


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_decode_is_decode_file(tiny_tokenizer: Tokenizer, tmp_path: Path, fast: bool, rate: int) -> None:
    codes = tiny_tokenizer.encode(speech(rate // 4, rate, level=0.01), rate)
    progress: list[tuple[int, int]] = []
    tiny_tokenizer.decode_file(
        codes, tmp_path / "out.wav", fast=fast, seed=3, progress=lambda *x: progress.append(x)
    )
    written, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    samples = np.clip(tiny_tokenizer.decode(codes, fast=fast, seed=3).samples, -1, 1)
    np.testing.assert_allclose(written, samples, atol=1 / 32_768)
    assert progress[-1] == (rate // 4, rate // 4)


def test_spectral_blocks_agree(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_job = tiny_tokenizer.decode_job(tiny_tokenizer.encode(speech(20_000)))
    monkeypatch.setattr(synthesis, "_FIRST_FRAMES", 1_000)

    def drawn(frames: int, passes: int | None) -> Array:
        monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", frames)
        blocks = tiny_tokenizer.synthesiser.fast(decode_job._replace(corrections=passes))
        return np.concatenate(list(blocks))

    whole = drawn(1_000, 0)
    corrected = drawn(1_000, None)
    for frames in (1, 13, 60):
        # Matrix products of another size round differently; nothing else may differ.
        error = drawn(frames, 0) - whole
        assert np.abs(error).max() < 1e-5 * np.abs(whole).max()
        # The correction raises bins that hold next to nothing but rounding, by up to 22 dB a pass.
        error = drawn(frames, None) - corrected
        assert np.sqrt(np.square(error).mean()) < 1e-3 * np.sqrt(np.square(corrected).mean())


def test_wavenet_frames_agree_in_blocks(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rounding difference may flip a draw, and all after it: what the draws are made from is compared."""
    codes = tiny_tokenizer.encode(speech(12_000))
    seen: list[Any] = []

    class Recorder:
        def start(self, *_: object) -> None: ...

        def draw(self, frames: Any, slots: list[int]) -> tuple[Array, None]:
            seen.append(frames)
            return np.zeros((1, frames.gains.shape[1] * 128), np.float32), None

    class Engine:
        def slots(self, count: int) -> Recorder:
            return Recorder()

    monkeypatch.setattr(tiny_tokenizer.synthesiser, "_engine", Engine())
    monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", 1_000)
    monkeypatch.setattr(synthesis, "_FIRST_FRAMES", 1_000)
    tiny_tokenizer.decode(codes)
    (whole,) = seen
    for frames in (1, 13, 60):
        seen.clear()
        monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", frames)
        tiny_tokenizer.decode(codes)
        assert len(seen) == -(-len(codes) // frames)
        for i, expected in enumerate(whole):
            torch.testing.assert_close(torch.cat([s[i] for s in seen], dim=1), expected, rtol=1e-4, atol=1e-5)


def test_wavenet_blocks_agree(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = tiny_tokenizer.encode(speech(4_000))
    monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", 1_000)
    monkeypatch.setattr(synthesis, "_FIRST_FRAMES", 1_000)
    whole = tiny_tokenizer.decode(codes, seed=5).samples
    for frames in (5, 16):
        monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", frames)
        part = tiny_tokenizer.decode(codes, seed=5).samples
        # The state of the stream is carried from block to block, so that nothing starts anew.
        np.testing.assert_allclose(part[:640], whole[:640], atol=1e-3 * float(np.abs(whole).max()))
        assert not np.array_equal(part[640:1280], part[:640])


def test_seed_and_temperature(tiny_tokenizer: Tokenizer) -> None:
    codes = tiny_tokenizer.encode(speech(1_000))
    first = tiny_tokenizer.decode(codes, seed=1).samples
    assert np.array_equal(tiny_tokenizer.decode(codes, seed=1).samples, first)
    assert not np.array_equal(tiny_tokenizer.decode(codes, seed=2).samples, first)
    assert not np.array_equal(tiny_tokenizer.decode(codes, seed=1, temperature=0.2).samples, first)


@pytest.mark.parametrize("fast", [True, False])
def test_the_gain_is_undone(tiny_tokenizer: Tokenizer, fast: bool) -> None:
    loud, quiet = (tiny_tokenizer.encode(speech(4_000, level=level)) for level in (0.2, 0.2 / 64))
    a, b = (tiny_tokenizer.decode(codes, fast=fast, seed=1).samples for codes in (loud, quiet))
    assert float(np.sqrt(np.mean(a**2)) / np.sqrt(np.mean(b**2))) == pytest.approx(64, rel=1e-3)


def test_a_bare_array(tiny_tokenizer: Tokenizer, paper_tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = tiny_tokenizer.encode(speech(5_000))
    back = tiny_tokenizer.decode(codes.codes, fast=True)
    assert (len(back.samples), back.sample_rate) == (len(codes) * 128, 16_000)
    tiny_tokenizer.decode_file(codes.codes.astype(np.int64), tmp_path / "out.wav", fast=True)
    assert soundfile.info(tmp_path / "out.wav").frames == len(codes) * 128
    assert len(paper_tokenizer.decode(np.arange(5)).samples) == 5 * 64


# Voices


def test_voices_change_the_sound(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = tiny_tokenizer.encode(speech(3_000))
    soundfile.write(tmp_path / "voice.wav", speech(9_000, seed=4)[::2], 16_000)
    sounds = [
        tiny_tokenizer.decode(codes, fast=True, **options).samples.tobytes()
        for options in (
            {},
            {"speaker": "ann"},
            {"speaker": "bob"},
            {"speaker": 2},
            {"voice": tmp_path / "voice.wav"},
        )
    ]
    assert len(set(sounds)) == len(sounds)
    assert tiny_tokenizer.decode(codes, fast=True, speaker=1).samples.tobytes() == sounds[2], "number or name"
    # The recording's own voice is that of the sidecar; without one it is 'no speaker'.
    own = CodeSequence(codes.codes, gain=codes.gain, num_samples=3_000, voice=codes.voice)
    nobody = CodeSequence(codes.codes, gain=codes.gain, num_samples=3_000)
    named = CodeSequence(codes.codes, gain=codes.gain, num_samples=3_000, speaker="bob")
    assert tiny_tokenizer.decode(own, fast=True).samples.tobytes() == sounds[0]
    assert tiny_tokenizer.decode(nobody, fast=True).samples.tobytes() not in sounds
    # A conversion is guided away from the recording's own voice, codes without a voice are not.
    bob = tiny_tokenizer.decode(nobody, fast=True, speaker="bob").samples.tobytes()
    assert tiny_tokenizer.decode(named, fast=True).samples.tobytes() == bob != sounds[2]


def test_a_voice_of_its_own_recording_changes_nothing(tiny_tokenizer: Tokenizer, recording: Path) -> None:
    codes = tiny_tokenizer.encode(recording)
    assert tiny_tokenizer.voice_of(recording) == codes.voice
    asked = tiny_tokenizer.voices.choose(codes, None, tiny_tokenizer.voice_of(recording))
    own = tiny_tokenizer.voices.choose(codes, None, None)
    assert torch.equal(asked.to, own.to)
    assert asked.away is not None
    assert own.away is None
    own_sound, asked_sound = (
        tiny_tokenizer.decode(codes, fast=True, voice=voice).samples for voice in (None, recording)
    )
    np.testing.assert_allclose(asked_sound, own_sound, atol=1e-4)


# Refusals


CODES = np.arange(20) % 64


@pytest.mark.parametrize(
    ("codes", "options", "said"),
    [
        (CODES, {"speaker": "carl"}, "no speaker 'carl'"),
        (CODES, {"speaker": "1"}, "no speaker '1'"),
        (CODES, {"speaker": 3}, "no speaker 3"),
        (CODES, {"speaker": -1}, "no speaker -1"),
        (CODES, {"voice": "none.wav"}, "none.wav"),
        (CODES, {"temperature": -1.0, "fast": False}, "temperature"),
        (CodeSequence(CODES, voice=(1, 2, 3)), {}, "voice does not fit"),
        (CodeSequence(CODES, voice=(1, 2, 3, 64)), {}, "voice does not fit"),
        (CodeSequence(CODES, speaker="carl"), {}, "no speaker 'carl'"),
        (CodeSequence(CODES, fingerprint="0123456789abcdef"), {}, "made by model 0123456789abcdef"),
        (CodeSequence(CODES, hop=64), {}, "64 samples"),
        (CodeSequence(CODES, hop=640, num_samples=12_700), {}, "640 samples"),
        (CODES + 64, {}, "out of range"),
        (np.array([-1]), {}, "out of range"),
        (CODES.astype(np.float32), {}, "float32"),
        (CODES.reshape(4, 5), {}, "one dimension"),
        (CODES[:0], {}, "codes: none; encode a recording that is not empty"),
    ],
)
def test_refused(
    tiny_tokenizer: Tokenizer, tmp_path: Path, codes: Any, options: dict[str, Any], said: str
) -> None:
    for run in (
        lambda **o: tiny_tokenizer.decode_file(codes, tmp_path / "out.wav", **o),
        lambda **o: tiny_tokenizer.decode(codes, **o),
    ):
        with pytest.raises(AudiovqError) as caught:
            run(**({"fast": True} | options))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_options_are_checked_when_built(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match="temperature -1"):
        DecodeOptions(temperature=-1.0)
    with pytest.raises(TypeError, match="sede"):
        tiny_tokenizer.decode(CODES, sede=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sede"):
        tiny_tokenizer.decode_file(CODES, tmp_path / "out.wav", sede=1)  # type: ignore[call-arg]
    assert list(tmp_path.iterdir()) == []


def test_codes_of_another_model(tiny_tokenizer: Tokenizer, paper_tokenizer: Tokenizer) -> None:
    with pytest.raises(AudiovqError, match=tiny_tokenizer.fingerprint):
        tiny_tokenizer.decode(paper_tokenizer.encode(speech(1_000)))


def test_a_model_without_voice_encoder_or_spectral_head(
    paper_tokenizer: Tokenizer, recording: Path, tmp_path: Path
) -> None:
    codes = paper_tokenizer.encode(speech(1_000))
    assert codes.voice is None
    assert len(paper_tokenizer.decode(codes).samples) == 1_000
    with pytest.raises(AudiovqError, match="no voice encoder"):
        paper_tokenizer.decode(codes, voice=recording)
    with pytest.raises(AudiovqError, match="no spectral head"):
        paper_tokenizer.decode_file(codes, tmp_path / "out.wav", fast=True)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"mine")
    with pytest.raises(AudiovqError, match="exists"):
        tiny_tokenizer.decode_file(CODES, path, fast=True)
    assert path.read_bytes() == b"mine"
    tiny_tokenizer.decode_file(CODES, path, fast=True, force=True)
    assert soundfile.info(path).frames == 20 * 128


# Streams


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("fast", [True, False])
def test_stream_is_decode_in_blocks(tiny_tokenizer: Tokenizer, rate: int, fast: bool) -> None:
    codes = tiny_tokenizer.encode(speech(2 * rate, rate), rate)
    blocks = list(tiny_tokenizer.stream(codes, seed=2, fast=fast))
    whole = tiny_tokenizer.decode(codes, seed=2, fast=fast).samples
    assert np.concatenate(blocks).tobytes() == whole.tobytes()
    assert len(blocks) >= 2
    assert min(map(len, blocks)) > 0


def test_stream_draws_no_further_than_it_is_read(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block comes after `_FIRST_FRAMES` codes, however long the recording."""
    codes = CodeSequence(np.zeros(100_000, dtype=np.uint16))
    slots = tiny_tokenizer.synthesiser.engine.slots(1)
    monkeypatch.setattr(tiny_tokenizer.synthesiser._engine, "slots", lambda count: slots)
    first = next(tiny_tokenizer.stream(codes))
    assert 0 < len(first) <= slots.position(0) == synthesis._FIRST_FRAMES * 128


def test_stream_fails_before_the_first_block(tiny_tokenizer: Tokenizer) -> None:
    codes = tiny_tokenizer.encode(speech(1_000))
    for options in ({"speaker": "nobody"}, {"temperature": -1.0}, {"voice": "absent.wav"}):
        with pytest.raises(AudiovqError):
            tiny_tokenizer.stream(codes, **options)  # type: ignore[arg-type]


def test_torch_draws_what_the_compiled_loop_draws(tiny_tokenizer: Tokenizer) -> None:
    """The path of other devices, on this one: the same codes, voices, blocks and level."""
    codes = tiny_tokenizer.encode(speech(3_000))
    of_model = (tiny_tokenizer.model, tiny_tokenizer.header, tiny_tokenizer.path)
    expected = Tokenizer(*of_model, precision="float32").decode(codes, seed=6).samples
    other = Tokenizer(*of_model)
    other.synthesiser = synthesis.Synthesiser(tiny_tokenizer.model, compiled=False)
    got = other.decode(codes, seed=6).samples
    np.testing.assert_allclose(got, expected, atol=2e-3 * float(np.abs(expected).max()))


def test_a_device_that_is_not_there_is_one_line(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(AudiovqError, match=r"device nonsense: cannot be used .*; use cpu"):
        load(tiny_tokenizer.path, device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(AudiovqError, match="device cuda: cannot be used"):
            load(tiny_tokenizer.path, device="cuda")


# Levels


def test_three_levels_there_and_back(three_levels: Tokenizer, tmp_path: Path) -> None:
    signal = speech(20_001, 22_050)
    codes = three_levels.encode(signal, 22_050)
    steps = -(-resampled_length(20_001, 22_050, 16_000) // 256)
    assert (codes.levels, len(codes), codes.hop, codes.frames_per_step) == (3, steps, 256, 2)
    assert codes.codebook_size == 16
    assert codes.frame_rate == 62.5
    for fast in (False, True):
        back = three_levels.decode(codes, fast=fast)
        assert len(back.samples) == 20_001
        assert np.isfinite(back.samples).all()
    bare = np.asarray(codes.codes)
    assert len(three_levels.decode(bare, fast=True).samples) == steps * 256
    coarse = three_levels.encode(signal, 22_050, levels=2)
    assert coarse.codes.tolist() == codes.coarse(2).codes.tolist()
    fewer = three_levels.decode(codes, fast=True, levels=2).samples
    np.testing.assert_array_equal(fewer, three_levels.decode(coarse, fast=True).samples)
    assert not np.array_equal(fewer, three_levels.decode(codes, fast=True).samples)
    for wrong in (0, 4):
        with pytest.raises(AudiovqError, match="3 levels"):
            three_levels.encode(signal, 22_050, levels=wrong)
        with pytest.raises(AudiovqError, match="ask for 1 to 3"):
            three_levels.decode(codes, levels=wrong)


def test_blocks_of_steps_equal_the_whole(three_levels: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seams of the decoder, at frames that need not be whole steps."""
    codes = three_levels.encode(speech(40_000))
    whole = three_levels.decode(codes, fast=True).samples
    monkeypatch.setattr(synthesis, "_FIRST_FRAMES", 7)
    monkeypatch.setattr(synthesis, "_BLOCK_FRAMES", 33)
    np.testing.assert_allclose(three_levels.decode(codes, fast=True).samples, whole, atol=1e-5)


def test_windows_of_steps_do_not_matter(three_levels: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = speech(50_000)
    whole = three_levels.encode(signal)
    for frames in (2, 34, 1_000):
        monkeypatch.setattr(chunked_encoder, "_WINDOW_FRAMES", frames)
        found = three_levels.encode(signal)
        assert np.mean(found.codes == whole.codes) > 0.999
        assert found.voice == whole.voice, "frames that fill the last step have no voice"


def test_fewer_corrections(three_levels: Tokenizer) -> None:
    codes = three_levels.encode(speech(8_000))
    none = three_levels.decode(codes, corrections=0).samples
    assert not np.array_equal(none, three_levels.decode(codes).samples)
    np.testing.assert_array_equal(
        three_levels.decode(codes, corrections=2).samples, three_levels.decode(codes).samples
    )


def test_commands_know_levels(three_levels_path: Path, tmp_path: Path, recording: Path) -> None:
    options = ["--model", str(three_levels_path)]
    out = tmp_path / "x.npy"
    assert command(["encode", str(recording), str(out), "--levels", "2", *options]) == 0
    assert CodeSequence.load(out).levels == 2
    back = tmp_path / "x.wav"
    assert command(["decode", str(out), str(back), "--levels", "1", "--corrections", "0", *options]) == 0
    assert soundfile.info(back).frames == soundfile.info(recording).frames
    assert command(["decode", str(out), str(back), "--levels", "3", "--force", *options]) == 1
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.flac").write_bytes(recording.read_bytes())
    converted = ["convert", str(recording), str(tmp_path / "y.wav"), "--speaker", "eve", "--fast", *options]
    assert command([*converted, "--levels", "1"]) == 0
    assert command([*converted, "--levels", "4", "--force"]) == 1
    folder = ["encode", str(tmp_path / "in"), str(tmp_path / "codes"), *options]
    assert command([*folder, "--levels", "1"]) == 0
    assert CodeSequence.load(tmp_path / "codes" / "a.npy").levels == 1
    assert command([*folder, "--levels", "1"]) == 0
    assert command([*folder, "--levels", "2"]) == 1, "what is there has another number of levels"


def test_bare_arrays_of_levels(
    three_levels: Tokenizer, three_levels_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a sidecar the model knows K and the hop, in folders and in info too."""
    codes = three_levels.encode(speech(16_000))
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", codes.codes)
    options = ["--model", str(three_levels_path)]
    assert command(["decode", str(tmp_path / "in"), str(tmp_path / "out"), "--fast", *options]) == 0
    assert soundfile.info(tmp_path / "out" / "a.wav").frames == len(codes) * 256
    capsys.readouterr()
    assert command(["info", str(tmp_path / "in" / "a.npy"), "--json", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["steps"], facts["levels"], facts["hop_samples"]) == (len(codes), 3, 256)
