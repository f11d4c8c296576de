"""Linear prediction from a spectrum, and the closed loop that turns a signal into excitation codes."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import solve_toeplitz
from scipy.signal import freqz, lfilter

from audiovq.audio.companding import mu_law_decode, pre_emphasis
from audiovq.nn import lpc
from audiovq.nn.excitation import compute_excitation_codes

HOP = 64
# Poles at 500, 1500 and 2700 Hz: three formants.
POLES = [0.93 * np.exp(2j * np.pi * f / 16_000) for f in (500, 1500, 2700)]
AR = np.real(np.poly([p for pole in POLES for p in (pole, np.conj(pole))]))
TABLE = np.asarray(mu_law_decode(np.arange(256, dtype=np.uint8))) * np.float32(lpc.EXCITATION_RANGE_SIGMAS)


def envelope(bins: int = 257) -> np.ndarray:
    """Magnitude of the autoregressive process at `bins` frequencies, both ends included."""
    return np.abs(freqz([1.0], AR, worN=bins, include_nyquist=True)[1])


def loop(signal: np.ndarray, order: int, jitter: np.ndarray) -> dict[str, np.ndarray]:
    """`compute_excitation_codes` on a signal with the process's own predictor (order 0: none)."""
    count = len(signal) // HOP
    if order:
        a, g = lpc.lpc_from_log_magnitude(torch.from_numpy(np.log(0.05 * envelope())).float(), order, 0.0)
        coefficients = a.numpy()[None].repeat(count, 0)
        gains = np.full(count, g.item(), dtype=np.float32)
    else:
        coefficients = np.zeros((count, 0), dtype=np.float32)
        gains = np.full(count, 1 / lpc.EXCITATION_RANGE_SIGMAS, dtype=np.float32)
    out = {
        "codes": np.empty(len(signal), dtype=np.int64),
        "fed": np.empty(len(signal), dtype=np.int64),
        "history": np.empty(len(signal), dtype=np.float32),
        "predictions": np.empty(len(signal), dtype=np.float32),
    }
    compute_excitation_codes(signal, coefficients, gains, HOP, TABLE, jitter, *out.values())
    return {**out, "gains": gains.repeat(HOP)}


def synthetic(length: int = 40 * HOP) -> np.ndarray:
    noise = np.random.default_rng(0).laplace(size=length) * 0.05 / np.sqrt(2)
    return lfilter([1.0], AR, noise).astype(np.float32)


def test_predictor_solves_the_normal_equations() -> None:
    order = 16
    c = 0.85
    magnitude = envelope()
    a, gain = lpc.lpc_from_log_magnitude(torch.from_numpy(np.log(magnitude)), order, c)
    omega = np.linspace(0, np.pi, len(magnitude))
    power = magnitude**2 * np.abs(1 - c * np.exp(-1j * omega)) ** 2
    r = np.fft.irfft(power)[: order + 1]
    lags = np.arange(order + 1)
    r *= np.exp(-0.5 * (2 * np.pi * lpc._LAG_WINDOW_HZ / 16_000 * lags) ** 2)
    r[0] *= 1 + lpc._WHITE_NOISE
    expected = solve_toeplitz(r[:-1], r[1:])
    np.testing.assert_allclose(a.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(gain.item() ** 2, r[0] - expected @ r[1:], rtol=1e-4)


def test_predictor_finds_the_process() -> None:
    pole = 0.9 * np.exp(2j * np.pi * 2000 / 16_000)
    process = np.real(np.poly([pole, np.conj(pole)]))
    magnitude = np.abs(freqz([1.0], process, worN=2049, include_nyquist=True)[1])
    a, gain = lpc.lpc_from_log_magnitude(torch.from_numpy(np.log(magnitude)), 2, 0.0)
    # The lag window and the floor widen the resonance a little.
    np.testing.assert_allclose(a.numpy(), -process[1:], atol=0.01)
    np.testing.assert_allclose(gain.item(), 1.0, atol=0.01)


def test_predictor_whitens_the_process() -> None:
    a, _ = lpc.lpc_from_log_magnitude(torch.from_numpy(np.log(envelope())), 16, 0.0)
    signal = synthetic()
    residual = lfilter(np.concatenate([[1.0], -a.numpy()]), [1.0], signal)
    # The floor leaves more than the noise of 0.05 that drove it, on so steep a spectrum without pre-emphasis.
    assert 0.05 * 0.9 < residual.std() < 0.05 * 2
    assert residual.std() < 0.1 * signal.std()


def test_predictor_is_stable_on_any_spectrum() -> None:
    torch.manual_seed(0)
    spectra = torch.randn(50, 257) * torch.linspace(0.1, 4, 50).unsqueeze(1)
    a, gain = lpc.lpc_from_log_magnitude(torch.cat([spectra, torch.full((1, 257), -30.0)]), 16, 0.85)
    for row in a.double().numpy():
        assert np.abs(np.roots(np.concatenate([[1.0], -row]))).max() < 1
    assert torch.isfinite(a).all()
    assert (gain > 0).all()


def test_batch_shapes() -> None:
    a, gain = lpc.lpc_from_log_magnitude(torch.zeros(2, 3, 257), 8, 0.85)
    assert (a.shape, gain.shape) == ((2, 3, 8), (2, 3))
    assert a.dtype == gain.dtype == torch.float32


def test_excite_reconstructs_within_half_a_step() -> None:
    signal = synthetic()
    zero = np.zeros(len(signal), dtype=np.int64)
    out = loop(signal, 16, zero)
    np.testing.assert_array_equal(out["codes"], out["fed"])
    # The quantiser rounds on the mu-law curve: the error is at most that to the farther neighbour.
    codes = out["codes"]
    assert codes.min() > 0
    assert codes.max() < 255
    step = np.maximum(TABLE[codes + 1] - TABLE[codes], TABLE[codes] - TABLE[codes - 1]) * out["gains"]
    assert (np.abs(out["history"] - signal) <= 0.55 * step + 1e-6).all()
    assert np.abs(out["history"] - signal).std() < 0.1 * signal.std()


def test_excite_follows_under_jitter() -> None:
    signal = synthetic()
    jitter = np.random.default_rng(1).integers(-4, 5, len(signal))
    plain = loop(signal, 16, np.zeros_like(jitter))
    out = loop(signal, 16, jitter)
    np.testing.assert_array_equal(out["fed"], np.clip(out["codes"] + jitter, 0, 255))
    error = out["history"] - signal
    least = plain["history"] - signal
    assert error.std() > 2 * least.std()
    # Errors are corrected, not carried on: the last quarter is no worse than the first.
    quarter = len(signal) // 4
    assert error[-quarter:].std() < 1.5 * error[:quarter].std()
    assert error.std() < 0.25 * signal.std()


def test_excite_relations() -> None:
    """history = prediction + gain * table[fed]; the prediction is the filter over the history."""
    signal = synthetic()
    out = loop(signal, 16, np.random.default_rng(2).integers(-4, 5, len(signal)))
    rebuilt = out["predictions"] + out["gains"] * TABLE[out["fed"]]
    np.testing.assert_allclose(out["history"], rebuilt, atol=1e-6)
    a, _ = lpc.lpc_from_log_magnitude(torch.from_numpy(np.log(0.05 * envelope())).float(), 16, 0.0)
    predicted = lfilter(np.concatenate([[0.0], a.numpy()]), [1.0], out["history"])
    np.testing.assert_allclose(out["predictions"], predicted, atol=1e-4)


def test_excite_clips_to_the_outermost_codes() -> None:
    signal = np.array([5.0, -5.0] * (HOP // 2), dtype=np.float32)
    out = loop(signal, 0, np.full(HOP, 3, dtype=np.int64))
    assert set(out["codes"]) == {0, 255}
    assert set(out["fed"]) == {3, 255}


def test_compand() -> None:
    x = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0, 50.0])
    y = lpc.mu_law_compand(x)
    torch.testing.assert_close(y[[0, 2, 4]], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(y[1], -y[3])
    assert 1 < y[5] < 2


def test_pre_emphasis_matches_the_predictor() -> None:
    """The spectrum of a pre-emphasised signal is what the predictor takes it for: less residual with it."""
    signal = pre_emphasis(synthetic(), 0.85)
    log_magnitude = torch.from_numpy(np.log(0.05 * envelope()))
    right, wrong = (lpc.lpc_from_log_magnitude(log_magnitude, 16, c)[0].numpy() for c in (0.85, 0.0))
    errors = [lfilter(np.concatenate([[1.0], -a]), [1.0], signal).std() for a in (right, wrong)]
    assert errors[0] < errors[1]
