"""Objective quality metrics of reconstructed speech, by published measures.

All signals are mono float32 `(T,)` at 16 kHz. The delay of a codec is found for the whole system, not for
each recording, and removed before measuring: it does not count as a loss of quality.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.evaluation.codecs import Signal

_DELAY_STEP = SAMPLE_RATE // 1000
"""Resolution of delays, in samples: 1 ms. Codecs that do not keep the waveform have no finer delay."""

_LONGEST_DELAY = SAMPLE_RATE // 5
"""Delays are searched up to 200 ms either way, in samples."""

_ENVELOPE_HZ = (100.0, 3_800.0)
_ENVELOPE_BANDS = 16
_MEL_FLOOR = 1e-4


@dataclass(frozen=True)
class RecordingScores:
    """Scores of one recording; NaN where a measure has no value, such as PESQ where it finds no speech."""

    pesq_wb: float  # ITU-T P.862.2, 1.0 to 4.64
    estoi: float  # extended short-time objective intelligibility, up to 1 (Jensen and Taal, 2016)
    distillmos: (
        float  # mean opinion score predicted from the degraded speech, 1 to 5 (Stahl and Gamper, 2025)
    )
    similarity: float  # cosine between voice embeddings (Resemblyzer), up to 1
    log_mel: float  # mean absolute difference of log mel magnitudes, nats; 0 is best


def _pesq_wb(reference: Signal, degraded: Signal) -> float:
    """Wide-band PESQ of signals of one length; NaN if it finds no speech in them.

    Raises: AudiovqError if the package is missing.
    """
    package = _imported("pesq")
    if not np.any(reference):
        return float("nan")
    try:
        return float(package.pesq(SAMPLE_RATE, _float32(reference), _float32(degraded), "wb"))
    except package.PesqError:
        return float("nan")


def _estoi(reference: Signal, degraded: Signal) -> float:
    """Extended STOI of signals of one length; NaN where less than 0.4 s of the reference is loud enough.

    Raises: AudiovqError if the package is missing.
    """
    package = _imported("pystoi")
    with warnings.catch_warnings():
        # With that warning it returns a made-up 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(package.stoi(reference, degraded, SAMPLE_RATE, extended=True))
        except RuntimeWarning:
            return float("nan")


def _log_mel_distance(reference: Signal, degraded: Signal) -> float:
    """Mean absolute difference of log magnitudes in 80 mel bands (64 ms windows, every 16 ms), nats."""
    return float(np.abs(_log_mel(reference) - _log_mel(degraded)).mean())


def _find_delay(reference: Signal, degraded: Signal) -> int:
    """Samples by which `degraded` comes later (negative: earlier), a multiple of `_DELAY_STEP`.

    The maximum of the cross-correlation of log band envelopes, summed over bands: it exists even where the
    waveform is not kept.
    """
    frames = min(len(reference), len(degraded)) // _DELAY_STEP + 1
    size = 1 << (2 * frames - 1).bit_length()
    spectra = [np.fft.rfft(_envelopes(x)[:, :frames], size) for x in (reference, degraded)]
    correlation = np.fft.irfft((spectra[0].conj() * spectra[1]).sum(axis=0), size)
    reach = min(_LONGEST_DELAY // _DELAY_STEP, frames - 1)
    lags = np.arange(-reach, reach + 1)
    return int(lags[correlation[lags].argmax()]) * _DELAY_STEP


def find_system_delay(references: Sequence[Signal], degraded: Sequence[Signal]) -> int:
    """The delay of a system: the (lower) median of `_find_delay` over recordings, samples."""
    return statistics.median_low([_find_delay(x, y) for x, y in zip(references, degraded, strict=True)])


def remove_delay(degraded: Signal, delay: int, length: int) -> Signal:
    """`degraded` earlier by `delay` samples, cut or followed by zeros to `length` samples."""
    moved = degraded[delay:] if delay >= 0 else np.pad(degraded, (-delay, 0))
    return np.pad(moved[:length], (0, max(0, length - len(moved))))


class QualityScorer:
    """All measures; the networks that two of them need are loaded once.

    Raises: AudiovqError if a package of the extra `eval` is missing.
    """

    def __init__(self) -> None:
        _imported("pesq")
        _imported("pystoi")
        self._voices = _imported("resemblyzer")
        self._voice_encoder = self._voices.VoiceEncoder("cpu", verbose=False)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
            self._opinion = _imported("distillmos").ConvTransformerSQAModel().eval()

    def score(self, reference: Signal, degraded: Signal) -> RecordingScores:
        """Scores of two aligned signals. Raises ValueError if their lengths differ."""
        if reference.shape != degraded.shape or reference.ndim != 1:
            raise ValueError(f"signals of shapes {reference.shape} and {degraded.shape}")
        return RecordingScores(
            _pesq_wb(reference, degraded),
            _estoi(reference, degraded),
            self.distillmos(degraded),
            self.similarity(reference, degraded),
            _log_mel_distance(reference, degraded),
        )

    def distillmos(self, degraded: Signal) -> float:
        """Predicted opinion, 1 to 5."""
        import torch

        with torch.inference_mode():
            return float(self._opinion(torch.from_numpy(_float32(degraded))[None]))

    def similarity(self, reference: Signal, degraded: Signal) -> float:
        """Cosine between the voices of two signals; NaN without speech in the reference, 0 if it was lost."""
        voice = self._embedding(reference)
        other = self._embedding(degraded)
        if voice is None:
            return float("nan")
        return 0.0 if other is None else float(voice @ other)

    def _embedding(self, signal: Signal) -> NDArray[np.float32] | None:
        if not np.any(signal):
            return None
        speech = self._voices.preprocess_wav(_float32(signal), SAMPLE_RATE)
        return self._voice_encoder.embed_utterance(speech) if len(speech) else None


def _imported(name: str) -> Any:
    with warnings.catch_warnings():
        # The packages use deprecated parts of their dependencies.
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise AudiovqError(
                f"{name}: is needed for the scores and cannot be imported ({error}); "
                "install it with: pip install 'audiovq[eval]'"
            ) from error


def _envelopes(signal: Signal) -> NDArray[np.float32]:
    """Log powers `(_ENVELOPE_BANDS, F)` every `_DELAY_STEP` samples, without their means.

    The bands lie below 4 kHz, so that codecs for 8 kHz keep them too.
    """
    import librosa

    lowest, highest = _ENVELOPE_HZ
    powers = librosa.feature.melspectrogram(
        y=_float32(signal),
        sr=SAMPLE_RATE,
        n_fft=512,
        win_length=256,
        hop_length=_DELAY_STEP,
        n_mels=_ENVELOPE_BANDS,
        fmin=lowest,
        fmax=highest,
    )
    levels: Signal = np.log(powers + 1e-5)
    centred: Signal = levels - levels.mean(axis=1, keepdims=True)
    return centred


def _log_mel(signal: Signal) -> NDArray[np.float32]:
    import librosa

    mel = librosa.feature.melspectrogram(
        y=_float32(signal), sr=SAMPLE_RATE, n_fft=1024, hop_length=256, n_mels=80, power=1.0
    )
    levels: Signal = np.log(mel + _MEL_FLOOR)
    return levels


def _float32(signal: Signal) -> Signal:
    return np.ascontiguousarray(signal, dtype=np.float32)
