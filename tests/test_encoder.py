"""Encoders: the stated receptive field is the measured one, one latent a hop, the filterbank is one."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audiovq.config.speech import CodebookConfig, EncoderConfig, SpectralHeadConfig, VoiceConfig
from audiovq.errors import AudiovqError
from audiovq.nn.blocks import ResidualStack, TimeConv
from audiovq.speech.encoder import _LOG_FLOOR, Encoder, FilterbankFrontend, StridedFrontend, _mel_bands
from audiovq.speech.model import WaveformModel
from audiovq.speech.voice_encoder import VoiceEncoder, VoiceTable
from helpers.models import tiny_config

STRIDES = {64: [2] * 6, 640: [2, 2, 2, 2, 2, 4, 5], 60: [3, 4, 5]}


def front_of(kind: str, hop: int, channels: int = 6) -> FilterbankFrontend | StridedFrontend:
    torch.manual_seed(0)
    if kind == "strided":
        front: FilterbankFrontend | StridedFrontend = StridedFrontend(STRIDES[hop], channels)
        for layer in front.layers:  # type: ignore[union-attr]
            nn.init.constant_(layer.bias, 1.0)  # keeps ReLU open, so that every sample shows  # type: ignore
        return front
    front = FilterbankFrontend(hop, channels, bands=20)
    with torch.no_grad():  # trained filters have no zeros at the window's ends
        front.short_filters.add_(0.01 * torch.randn_like(front.short_filters))
        front.long_filters.add_(0.01 * torch.randn_like(front.long_filters))
    return front


def changed(encoder: Encoder, signal: Tensor, frame: int, sample: int) -> bool:
    """Whether latent `frame` feels a change of `sample`."""
    other = signal.clone()
    other[0, sample] += 3.0
    with torch.no_grad():
        return not torch.equal(encoder(signal)[0, frame], encoder(other)[0, frame])


@pytest.mark.parametrize(
    ("kind", "hop", "dilations"),
    [
        ("filterbank", 128, (1, 2)),
        ("filterbank", 200, (1,)),
        ("strided", 64, (1, 2)),
        ("strided", 60, (1,)),
        ("strided", 640, (1,)),
    ],
)
def test_stated_receptive_field_is_the_measured_one(kind: str, hop: int, dilations: tuple[int, ...]) -> None:
    encoder = Encoder(front_of(kind, hop), 6, dilations).eval()
    reach = encoder.reach_frames
    left, right = encoder.frontend.reach_samples
    count = 2 * reach + 2 * math.ceil(max(left, right, 1) / hop) + 3
    frame = count // 2
    signal = 0.3 * torch.randn(1, count * hop)
    first = (frame - reach) * hop - left
    last = (frame + reach + 1) * hop + right - 1
    assert last - first + 1 == encoder.receptive_field
    assert changed(encoder, signal, frame, first)
    assert changed(encoder, signal, frame, last)
    assert not changed(encoder, signal, frame, first - 1)
    assert not changed(encoder, signal, frame, last + 1)


@pytest.mark.parametrize(("kind", "hop"), [("filterbank", 128), ("filterbank", 2048), ("strided", 640)])
def test_one_latent_for_every_hop(kind: str, hop: int) -> None:
    encoder = Encoder(front_of(kind, hop), 6, (1,)).eval()
    for count in (1, 2, 5):
        assert encoder(torch.zeros(2, count * hop)).shape == (2, count, 6)
    with pytest.raises(ValueError, match="multiple of the hop"):
        encoder(torch.zeros(1, hop + 1))


@pytest.mark.parametrize("hop", STRIDES)
def test_strided_kernels_overlap(hop: int) -> None:
    """Every sample is seen by at least two outputs of each layer: 4 taps at stride 2, as in the paper."""
    front = StridedFrontend(STRIDES[hop], 4)
    for layer, stride in zip(front.layers, STRIDES[hop], strict=True):
        assert layer.stride == (stride,)
        assert layer.kernel_size == (2 * stride,)
    assert front.hop == hop
    left, right = front.reach_samples
    assert left >= 0
    assert 0 <= right - left <= 1, "frames are centred on their hop"
    assert front(torch.zeros(1, left + 7 * hop + right)).shape == (1, 7, 4)


def test_latents_inside_do_not_depend_on_where_the_signal_was_cut() -> None:
    encoder = Encoder(front_of("strided", 64), 6, (1, 2)).eval()
    left, right = encoder.frontend.reach_samples
    reach = encoder.reach_frames
    signal = torch.randn(1, 60 * 64)
    start = 25
    count = 5
    window = signal[:, (start - reach) * 64 - left : (start + count + reach) * 64 + right]
    with torch.no_grad():
        part = encoder.from_frames(encoder.frontend(window))[:, reach : reach + count]
        torch.testing.assert_close(part, encoder(signal)[:, start : start + count], rtol=1e-5, atol=1e-5)


def test_filterbank_starts_as_a_mel_spectrogram() -> None:
    hop = 128
    bands = 80
    count = 12
    front = FilterbankFrontend(hop, 8, bands)
    rng = np.random.default_rng(0)
    signal = 0.1 * rng.standard_normal(count * hop)
    left, right = front.reach_samples
    padded = np.pad(signal, (left, right))
    mel = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=bands, norm=None)
    with torch.no_grad():
        powers = front.log_powers(torch.from_numpy(padded[None]).float())[0].numpy()
    assert powers.shape == (count, front.features)
    for frame in (0, 5, count - 1):
        wide = padded[frame * hop : frame * hop + 1024]
        narrow = wide[312:712]
        short, long = (np.hanning(n + 1)[:-1] for n in (400, 1024))
        spectrum = np.abs(np.fft.rfft(narrow * short / np.sqrt(np.sum(short**2)), 512)) ** 2
        pitch = np.abs(np.fft.rfft(wide * long / np.sqrt(np.sum(long**2)))) ** 2
        bins = int(1500 * 1024 / 16_000)
        expected = np.concatenate([mel @ spectrum, pitch[1 : bins + 1]])
        expected = 0.25 * np.log(expected + _LOG_FLOOR) + 1
        np.testing.assert_allclose(powers[frame], expected, atol=2e-4)


def test_an_untrained_filterbank_is_torchaudios_but_for_rounding() -> None:
    functional = pytest.importorskip("torchaudio.functional")
    for sample_rate in (8_000, 16_000, 22_050, 24_000, 48_000):
        theirs = functional.melscale_fbanks(
            257, 0.0, sample_rate / 2, 80, sample_rate, norm=None, mel_scale="slaney"
        )
        ours = _mel_bands(80, 512, sample_rate)
        assert ours[:, 256].max() < 1e-12, "the bin that the filterbank leaves out"
        torch.testing.assert_close(ours, theirs.T, rtol=0, atol=1e-5)


def test_a_filterbank_that_is_loaded_next_has_no_bands_yet() -> None:
    loaded = FilterbankFrontend(128, 8, untrained=False)
    untrained = FilterbankFrontend(128, 8)
    assert not loaded.bands.any()
    assert {n: v.shape for n, v in loaded.state_dict().items()} == {
        n: v.shape for n, v in untrained.state_dict().items()
    }


def test_time_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = TimeConv(3, 5, kernel=3, dilation=2)
    x = torch.randn(2, 11, 3)
    weight = layer.weight.view(5, 3, 3).permute(0, 2, 1)  # (out, taps * in) to (out, in, taps)
    expected = nn.functional.conv1d(x.transpose(1, 2), weight, layer.bias, padding=2, dilation=2)
    torch.testing.assert_close(layer(x), expected.transpose(1, 2))
    assert layer.reach == 2
    with pytest.raises(ValueError, match="odd"):
        TimeConv(3, 5, kernel=4)


def test_the_reach_of_a_stack_is_the_measured_one() -> None:
    torch.manual_seed(0)
    stack = ResidualStack(4, (1, 3), condition_channels=2).eval()
    x = torch.randn(1, 31, 4, requires_grad=True)
    voice = torch.randn(1, 2)
    # Not their sum: normalised channels sum to zero, whatever goes in.
    (stack(x, voice)[0, 15] * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
    assert x.grad is not None
    felt = x.grad[0].abs().sum(-1).nonzero().squeeze(-1)
    assert (int(felt.min()), int(felt.max())) == (15 - stack.reach, 15 + stack.reach)
    assert not torch.equal(stack(x, voice), stack(x, voice + 1)), "the condition acts"


# Voices


@pytest.fixture
def voices() -> VoiceEncoder:
    torch.manual_seed(0)
    return VoiceEncoder(features=10, channels=8, dims=5, bits=3).eval()


def test_levels_and_points_are_inverse(voices: VoiceEncoder) -> None:
    assert (voices.levels, voices.bits) == (8, 15)
    levels = torch.arange(8).unsqueeze(1).expand(8, 5)
    points = voices.from_levels(levels)
    assert float(points.min()) == -1
    assert float(points.max()) == 1
    assert torch.equal(voices.to_levels(points), levels)
    # Rounding goes to the nearest level, and never beyond the outermost.
    torch.testing.assert_close(voices.to_levels(points + 0.13).clamp(0, 7), levels)
    assert voices.to_levels(torch.tensor([[-9.0, 9.0]])).tolist() == [[0, 7]]


def test_a_voice_is_rounded_with_a_straight_through_gradient(voices: VoiceEncoder) -> None:
    powers = torch.randn(2, 20, 10, requires_grad=True)
    voice = voices(powers)
    torch.testing.assert_close(voice, voices.from_levels(voices.to_levels(voice)))
    voice.sum().backward()
    assert powers.grad is not None
    assert powers.grad.abs().sum() > 0


def test_voice_sums_can_be_taken_in_blocks(voices: VoiceEncoder) -> None:
    powers = torch.randn(1, 40, 10)
    whole = voices.pool(powers)
    reach = voices.reach_frames
    head = [v[:, :20].sum(1) for v in voices.pool(powers[:, : 20 + reach])]
    tail = [v[:, reach:].sum(1) for v in voices.pool(powers[:, 20 - reach :])]
    for part_a, part_b, total in zip(head, tail, whole, strict=True):
        torch.testing.assert_close(part_a + part_b, total.sum(1), rtol=1e-4, atol=1e-4)


def test_silence_says_little_of_a_voice(voices: VoiceEncoder) -> None:
    loud = torch.zeros(1, 20, 10) + 0.3
    silent = torch.full((1, 20, 10), 0.25 * math.log(_LOG_FLOOR) + 1)
    assert float(voices.pool(loud)[0].min()) > 5 * float(voices.pool(silent)[0].max())


def test_table_begins_with_no_speaker() -> None:
    table = VoiceTable(3, 4)
    assert table.points.shape == (4, 4)
    assert not table(torch.tensor([0])).any()
    assert table(torch.tensor([2])).any()


# The model


def test_dropped_voices_are_no_speaker(tiny_model: WaveformModel) -> None:
    signal = 0.1 * torch.randn(2, 4096)
    rows = torch.tensor([1, 2])
    with torch.no_grad():
        points = tiny_model.voice_points(signal, rows, torch.tensor([True, False]))
        no_speaker = tiny_model.voice_table(torch.tensor([0]))[0]
    torch.testing.assert_close(points[0], no_speaker)
    assert not torch.equal(points[1], no_speaker)


def test_without_a_voice_encoder_the_speaker_is_a_row() -> None:
    model = WaveformModel(tiny_config(voice=VoiceConfig(encoder=False, dims=4)), speakers=3)
    points = model.voice_points(None, torch.tensor([2, 0]))
    torch.testing.assert_close(points, model.voice_table.points[[2, 0]])


def test_the_papers_encoders_build_and_encode() -> None:
    for hop, size in ((64, 512), (640, 128)):
        config = tiny_config(
            corrections=0,
            encoder=EncoderConfig("strided", hop, tuple(STRIDES[hop]), channels=8, dilations=(1,)),
            codebook=CodebookConfig(size=size, dim=8, update="gradient", normalize=False),
            voice=VoiceConfig(encoder=False, dims=4),
            spectral_head=SpectralHeadConfig(enabled=False),
        )
        model = WaveformModel(config, speakers=2).eval()
        codes = model.encode(0.1 * torch.randn(2, 5 * hop))
        assert codes.shape == (2, 5, 1)
        assert int(codes.max()) < size
        assert model.codebook.in_proj.__class__ is nn.Identity


def test_a_voice_encoder_needs_the_filterbank() -> None:
    config = tiny_config(
        encoder=EncoderConfig("strided", 64, (2,) * 6, channels=8),
        spectral_head=SpectralHeadConfig(enabled=False),
    )
    with pytest.raises(AudiovqError, match="filterbank"):
        WaveformModel(config, speakers=1)


def test_voices_cannot_run_into_the_ends() -> None:
    """However large its head's output, a voice keeps a spread of values and a gradient."""
    torch.manual_seed(0)
    voice = VoiceEncoder(10, 8, 16, 6)
    with torch.no_grad():
        voice.out_proj.weight.mul_(1_000)
    features = torch.randn(3, 40, 10, requires_grad=True)
    point = voice.point(*(v.sum(1) for v in voice.pool(features)))
    assert float(point.detach().abs().max()) < 0.9999
    point.square().sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
