"""A few held-out recordings as the model makes them in training: sound and spectrograms."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.highpass import high_pass
from audiovq.audio.reader import AudioReader
from audiovq.config.speech import SAMPLE_RATE
from audiovq.config.training import StageConfig
from audiovq.data.corpus import Corpus
from audiovq.errors import AudiovqError
from audiovq.nn.stft import stft
from audiovq.speech.model import WaveformModel
from audiovq.speech.spectral_correction import SpectralCorrection
from audiovq.speech.synthesis import DecodeJob, DecodeVoices, Synthesiser
from audiovq.training.metrics_log import PreviewExample

_COUNT = 3
"""How many recordings, of different speakers if there are as many."""
_TRIED = 4 * _COUNT
"""How many speakers' first recordings, and first recordings of all, are looked at to find them."""
_SECONDS = 4.0
"""The most that is taken of each."""
_PHASE_PASSES = 32
"""Passes of the spectral correction that find a phase for spectra which have none yet."""
_RANGE_DB = 80.0
"""From black to white in a spectrogram."""

_logger = logging.getLogger(__name__)


class _Chosen(NamedTuple):
    """A recording to make again: samples `(1, N)`, N a multiple of the hop."""

    name: str
    signal: Tensor
    speaker_id: int


class SpeechPreviews:
    """The first readable recordings of a corpus, one a speaker; read on first use.

    Args:
        corpus: held-out recordings.
        speakers: trained ones, in order.
    """

    def __init__(self, corpus: Corpus, speakers: tuple[str, ...]) -> None:
        self._corpus = corpus
        self._speaker_ids = {name: number for number, name in enumerate(speakers, 1)}
        self._chosen: list[_Chosen] | None = None

    @torch.no_grad()
    def make(self, model: WaveformModel, stage: StageConfig) -> list[PreviewExample]:
        """Encode and decode them by the part of the model that a stage trains.

        In stage `codes` there is no part that makes a waveform: the predicted spectra get a phase by Griffin
        and Lim's iteration; where its windows do not overlap evenly nothing is made. Nothing that training
        draws or counts is touched. Levels are the model's own, without `output_gain_db`.

        Args:
            model: in evaluation mode.
        """
        if stage.stage == "codes" and model.config.conditioner.window % model.frame_hop:
            return []
        if self._chosen is None:
            self._chosen = self._choose(model.code_hop, model.config.high_pass_hz)
        examples = []
        synthesiser = Synthesiser(model)  # packs the weights as they are by now
        for name, signal, speaker_id in self._chosen:
            made = self._made(synthesiser, stage, signal.to(next(model.parameters()).device), speaker_id)
            original = signal[0].numpy()
            picture = np.concatenate([_spectrogram(x, model) for x in (original, made)])
            examples.append(PreviewExample(name, original, made, picture))
        return examples

    def _made(
        self, synthesiser: Synthesiser, stage: StageConfig, signal: Tensor, speaker_id: int
    ) -> NDArray[np.float32]:
        """What comes back of `(1, N)` samples."""
        model = synthesiser.model
        codes = model.encode(signal)[0]
        point = model.voice_points(signal, torch.tensor([speaker_id], device=signal.device))
        decode_job = DecodeJob(codes, DecodeVoices(point))
        if stage.stage in ("wavenet", "end-to-end"):
            return np.concatenate(list(synthesiser.drawn(decode_job)))
        if stage.stage == "spectral":
            return np.concatenate(list(synthesiser.fast(decode_job)))
        log_magnitude = model.condition(codes[None], point).log_magnitude[0].float().cpu()
        noise = np.random.default_rng(0).normal(0, 0.01, signal.shape[1]).astype(np.float32)
        correction = SpectralCorrection(model.config.conditioner.window, model.frame_hop, _PHASE_PASSES)
        return np.concatenate([correction.push(noise, log_magnitude), correction.flush()])

    def _choose(self, hop: int, high_pass_hz: float) -> list[_Chosen]:
        chosen: list[_Chosen] = []
        for number in self._by_turns():
            u = self._corpus.utterances[number]
            try:
                samples = _beginning(self._corpus.root / u.path)
                samples = high_pass(samples, high_pass_hz) * np.float32(u.gain)
            except AudiovqError as error:
                _logger.warning("%s", error)
                continue
            length = len(samples) // hop * hop
            if length:
                signal = torch.from_numpy(samples[:length])[None]
                chosen.append(_Chosen(u.path, signal, self._speaker_ids.get(u.speaker, 0)))
            if len(chosen) == _COUNT:
                break
        return chosen

    def _by_turns(self) -> list[int]:
        """Numbers of recordings in the order in which they are tried: the first of each speaker first."""
        _, firsts = np.unique(self._corpus.table.column("speaker"), return_index=True)
        order = dict.fromkeys([*np.sort(firsts)[:_TRIED].tolist(), *range(_TRIED)])
        return [number for number in order if number < len(self._corpus.utterances)]


def _spectrogram(signal: NDArray[np.float32], model: WaveformModel) -> NDArray[np.uint8]:
    """Grey levels `(bins, F)` uint8 of a signal in the conditioner's window, high frequencies on top."""
    spectrum = stft(torch.from_numpy(signal)[None], model.config.conditioner.window, model.frame_hop)[0]
    level = 20 * torch.log10(spectrum.abs() + 1e-5)
    shade = 1 + (level - level.max()) / _RANGE_DB
    return (255 * shade.clamp(0, 1)).to(torch.uint8).T.flip(0).numpy()


def _beginning(path: Path) -> NDArray[np.float32]:
    """The first seconds of a recording, at 16 kHz. Raises AudiovqError if it cannot be read."""
    wanted = round(_SECONDS * SAMPLE_RATE)
    parts = []
    with AudioReader(path) as reader:
        for block in reader.blocks():
            parts.append(block)
            if sum(map(len, parts)) >= wanted:
                break
    return np.concatenate(parts)[:wanted]
