"""Spectral correction: give drawn speech the spectrum that the codes ask for.

A WaveNet's samples have the right fine structure and, over a few milliseconds, a random spectrum: the noise
of drawing is an error of several dB in every bin. The conditioner has predicted the magnitude of each bin. So
each short-time spectrum of the drawn signal keeps its phase and takes a magnitude moved towards the predicted
one, once or a few times over (one pass is one step of Griffin and Lim, 1984, that starts from the WaveNet's
phase and not from a random one). With momentum each pass goes on in the direction of the one before, as in
the fast Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard, 2013). docs/training.md has measurements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.nn.guard import one_thread
from audiovq.nn.stft import istft, stft, stft_reach_hops

_FLOOR = 0.003
"""Magnitude added to both spectra before their ratio is taken: silence is not amplified."""
_LIMIT = 2.5
"""Largest change of a bin in one pass, in nats of magnitude (21.7 dB)."""


class SpectralCorrection:
    """Correct a signal that arrives in blocks of whole hops; block sizes do not matter to the result.

    Args:
        window, hop: samples, those of the predicted spectra.
        passes: how often to repeat; 0 passes everything through.
        momentum: of the passes, 0 to below 1.
    """

    def __init__(self, window: int, hop: int, passes: int, momentum: float = 0.0) -> None:
        self.window = window
        self.hop = hop
        self.passes = passes
        self.momentum = momentum
        # A sample depends on frames that reach it, which depend on samples that reach them.
        self.reach = passes * stft_reach_hops(window, hop)
        self._signal = torch.zeros(0)
        self._target: Tensor | None = None
        self._before = 0

    def push(self, signal: NDArray[np.float32], log_magnitude: Tensor) -> NDArray[np.float32]:
        """Take `(F * hop,)` samples and their predicted spectra `(F, bins)`; return those final by now."""
        self._signal = torch.cat([self._signal, torch.from_numpy(signal)])
        self._target = log_magnitude if self._target is None else torch.cat([self._target, log_magnitude])
        return self._ready(len(self._target) - self.reach)

    def flush(self) -> NDArray[np.float32]:
        """The rest after the last block."""
        return self._ready(0 if self._target is None else len(self._target))

    def _ready(self, end: int) -> NDArray[np.float32]:
        """Samples of the hops from the first not yet returned up to `end`, counted in the buffer."""
        if self._target is None or end <= self._before:
            return np.zeros(0, dtype=np.float32)
        stop = min(len(self._target), end + self.reach)
        drawn = self._signal[: stop * self.hop].unsqueeze(0)
        target = self._target[None, :stop]
        with one_thread():
            corrected = correct_spectrum(drawn, target, self.window, self.hop, self.passes, self.momentum)
        out = corrected[0, self._before * self.hop : end * self.hop].numpy().copy()
        drop = max(0, end - self.reach)
        self._signal = self._signal[drop * self.hop :]
        self._target = self._target[drop:]
        self._before = end - drop
        return out


def correct_spectrum(
    signal: Tensor, log_magnitude: Tensor, window: int, hop: int, passes: int, momentum: float = 0.0
) -> Tensor:
    """A whole signal moved towards predicted spectra, some passes over.

    Args:
        signal: `(B, F * hop)`; log_magnitude: `(B, F, window // 2 + 1)`.
        window, hop: samples.
        momentum: `u_n = x_n + momentum (x_n - x_(n-1))` goes into pass n + 1, x_n being the result of pass n.
    """
    wanted = wanted_power(log_magnitude)

    def one_pass(given: Tensor) -> Tensor:
        spectrum = stft(given, window, hop)
        power = spectrum.real.square() + spectrum.imag.square()
        return istft(spectrum * correction_factor(power, wanted), window, hop)

    return correct_repeatedly(signal, one_pass, passes, momentum)


def wanted_power(log_magnitude: Tensor) -> Tensor:
    """Power that bins are moved towards, floor included."""
    return torch.exp(2 * log_magnitude) + _FLOOR**2


def correction_factor(power: Tensor, wanted: Tensor) -> Tensor:
    """Factor by which a pass moves bins of a power towards a `wanted_power`."""
    change = 0.5 * torch.log(wanted / (power + _FLOOR**2))
    return torch.exp(change.clamp(-_LIMIT, _LIMIT))


def correct_repeatedly(
    signal: Tensor, one_pass: Callable[[Tensor], Tensor], passes: int, momentum: float
) -> Tensor:
    """The signal after some passes, as `correct_spectrum` does them with its own STFT."""
    before: Tensor | None = None
    given = signal
    for _ in range(passes):
        signal = one_pass(given)
        given = signal if before is None or not momentum else signal + momentum * (signal - before)
        before = signal
    return signal
