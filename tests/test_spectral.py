"""Short-time spectra: back to the same signal, frames in line with the codes, scale."""

from __future__ import annotations

import math

import pytest
import torch

from audiovq.nn.stft import _frame_padding, _frames, _hann, istft, log_magnitude, stft, strided_stft


@pytest.mark.parametrize(("window", "hop"), [(512, 128), (256, 128), (512, 64), (2048, 512)])
def test_inverse_gives_the_signal_back(window: int, hop: int) -> None:
    torch.manual_seed(0)
    signal = torch.randn(2, 24 * hop, dtype=torch.float64)
    back = istft(stft(signal, window, hop), window, hop)
    assert back.shape == signal.shape
    inside = slice(window, -window)
    torch.testing.assert_close(back[:, inside], signal[:, inside], rtol=0, atol=1e-12)
    # And of the outermost hop only the samples that no window covers well may differ.
    torch.testing.assert_close(back[:, hop:-hop], signal[:, hop:-hop], rtol=0, atol=1e-9)


@pytest.mark.parametrize("hop", [64, 128, 640])
def test_a_frame_is_centred_on_its_hop(hop: int) -> None:
    window, count = 2 * hop, 9
    for frame in (0, 4, 8):
        signal = torch.zeros(1, count * hop)
        signal[0, frame * hop + hop // 2] = 1.0
        energy = stft(signal, window, hop).abs().square().sum(-1)[0]
        assert energy.shape == (count,)
        assert int(energy.argmax()) == frame
        if 0 < frame < count - 1:
            torch.testing.assert_close(energy[frame - 1], energy[frame + 1], rtol=1e-3, atol=1e-6)


def test_one_frame_for_every_hop() -> None:
    for count in (1, 2, 7):
        assert _frames(torch.zeros(3, count * 128), 512, 128).shape == (3, count, 512)
    assert sum(_frame_padding(512, 128)) == 512 - 128


def test_padded_context_is_used_as_it_is() -> None:
    torch.manual_seed(0)
    signal = torch.randn(1, 40 * 128)
    left, right = _frame_padding(512, 128)
    part = signal[:, 10 * 128 - left : 20 * 128 + right]
    torch.testing.assert_close(stft(part, 512, 128, padded=True), stft(signal, 512, 128)[:, 10:20])


def test_hann_window_has_unit_energy() -> None:
    for window in (256, 1024):
        taper = _hann(window, torch.zeros(1, dtype=torch.float64))
        assert float(taper.square().sum()) == pytest.approx(1.0)
    torch.manual_seed(0)
    power = stft(torch.randn(1, 512 * 400), 512, 256).abs().square().mean((0, 1))
    # White noise of variance 1 has power 1 in every bin.
    assert float((power[1:-1] - 1).abs().max()) < 0.2
    assert float(power.mean()) == pytest.approx(1.0, abs=0.02)


def test_log_magnitude_has_a_floor() -> None:
    spectrum = torch.tensor([0j, 3 + 4j])
    values = log_magnitude(spectrum, 1e-3)
    assert float(values[0]) == pytest.approx(math.log(1e-3), rel=1e-5)
    assert float(values[1]) == pytest.approx(math.log(5.0), rel=1e-5)


def test_a_window_of_no_whole_hops_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the hop"):
        istft(torch.zeros(1, 4, 251, dtype=torch.complex64), 500, 128)


def test_a_stride_takes_frames_at_another_pace() -> None:
    torch.manual_seed(0)
    signal = torch.randn(2, 120 * 31)
    spectra = stft(signal, 480, 120)
    strided = strided_stft(signal, 480, 120, torch.tensor([1.0, 3.0]), 10)
    torch.testing.assert_close(strided[0], spectra[0, :10])
    # The centre of the n-th three hops is that of hop 3n + 1.
    torch.testing.assert_close(strided[1], spectra[1, 1:30:3])
