#!/usr/bin/env python3
"""Measure what comes back of input that the model was not made for: noise, clipping, two talkers, music ...

usage: strange_input.py FOLDER [--split NAME] [--limit N] [--model FILE] [--fast]

FOLDER holds recordings of English, laid out as for `audiovq train`. Each is spoilt in several ways, encoded
and decoded. Prints a Markdown table: bits a second as .avq; distance of log mel spectra between what went in
and what came back; and, of what went in and of what came back, ESTOI against the unspoilt recording and the
share of words that a recogniser hears otherwise than in the unspoilt one. Needs audiovq[eval,words].
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from audiovq.data.corpus import open_corpus
from audiovq.evaluation.compare import choose_utterances, read_signals
from audiovq.evaluation.metrics import _estoi, _log_mel_distance
from audiovq.evaluation.words import WordErrorMetric, WordErrors, load_word_tools
from audiovq.tokenizer import Tokenizer, load

Signal = NDArray[np.float32]

RATE = 16_000
TELEPHONE_RATE = 8_000
TELEPHONE_BAND_HZ = (300, 3_400)


def add_noise(snr_db: float) -> Callable[[list[Signal]], list[Signal]]:
    """White noise, so many dB under the mean power of each recording."""

    def spoil(signals: list[Signal]) -> list[Signal]:
        rng = np.random.default_rng(0)
        return [s + rng.standard_normal(len(s)) * s.std() * 10 ** (-snr_db / 20) for s in signals]

    return spoil


def clip(signals: list[Signal]) -> list[Signal]:
    """Limited to a tenth of the peak."""
    return [np.clip(s, -np.abs(s).max() / 10, np.abs(s).max() / 10) for s in signals]


def telephone(signals: list[Signal]) -> list[Signal]:
    """300 to 3,400 Hz."""
    spoilt = []
    for signal in signals:
        spectrum = np.fft.rfft(signal)
        hz = np.fft.rfftfreq(len(signal), 1 / RATE)
        spectrum[(hz < TELEPHONE_BAND_HZ[0]) | (hz > TELEPHONE_BAND_HZ[1])] = 0
        spoilt.append(np.fft.irfft(spectrum, len(signal)))
    return spoilt


def mix(signals: list[Signal]) -> list[Signal]:
    """Each with the next one, of another speaker, equally loud."""
    spoilt = []
    for signal, other in zip(signals, signals[1:] + signals[:1], strict=True):
        spoilt.append(signal + np.resize(other, len(signal)) * signal.std() / other.std())
    return spoilt


def music(signals: list[Signal]) -> list[Signal]:
    """Chords of eight harmonics a note, and a drum, as long as the recordings."""
    return [_song(len(signal), n) for n, signal in enumerate(signals)]


def _song(samples: int, key: int) -> Signal:
    rng = np.random.default_rng(key)
    time_s = np.arange(samples) / RATE
    beat = time_s % 0.5
    root = 110 * 2 ** ((key + np.array([0, 5, 7, 0])[(time_s / 2).astype(int) % 4]) / 12)
    notes = [
        np.sin(2 * np.pi * np.cumsum(root * third * h) / RATE) / h
        for third in (1, 1.26, 1.5, 2)
        for h in range(1, 9)
    ]
    drum = rng.standard_normal(samples) * np.exp(-40 * beat) + 3 * np.sin(2 * np.pi * 60 * beat) * np.exp(
        -15 * beat
    )
    return 0.05 * (np.sum(notes, axis=0) * np.exp(-2 * beat) + drum)


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    label: str
    spoil: Callable[[list[Signal]], list[Signal]]
    is_speech: bool = True
    rate: int = RATE


KINDS = (
    Kind("as recorded", list),
    Kind("white noise, SNR 20 dB", add_noise(20)),
    Kind("white noise, SNR 10 dB", add_noise(10)),
    Kind("white noise, SNR 0 dB", add_noise(0)),
    Kind("clipped at a tenth of the peak", clip),
    Kind("telephone, 8 kHz", telephone, rate=TELEPHONE_RATE),
    Kind("two talkers, equally loud", mix),
    Kind("chords and a drum", music, is_speech=False),
)


def there_and_back(tokenizer: Tokenizer, signal: Signal, rate: int, fast: bool) -> tuple[Signal, int]:
    """The signal at `RATE` as decoded from its codes, and the bits of its `.avq`."""
    codes = tokenizer.encode(soxr.resample(signal, RATE, rate).astype(np.float32), rate)
    back = soxr.resample(tokenizer.decode(codes, fast=fast).samples, rate, RATE)
    return np.resize(back, len(signal)), 8 * len(tokenizer.prior.compressed(codes))


def measure(kind: Kind, clean: list[Signal], tokenizer: Tokenizer, words: WordErrorMetric, fast: bool) -> str:
    """A row of the table."""
    given = [signal.astype(np.float32) for signal in kind.spoil(clean)]
    results = [there_and_back(tokenizer, signal, kind.rate, fast) for signal in given]
    returned = [back for back, _ in results]
    seconds = sum(map(len, given)) / RATE
    distance = np.mean([_log_mel_distance(a, b) for a, b in zip(given, returned, strict=True)])
    cells = [kind.label, f"{sum(bits for _, bits in results) / seconds:,.0f}", f"{distance:.2f}"]
    for signals in (given, returned):
        heard = [words.hear(n, signal) for n, signal in enumerate(signals)] if kind.is_speech else []
        estoi = np.mean([_estoi(a, b) for a, b in zip(clean, signals, strict=True)])
        errors = words.errors(heard) if heard else WordErrors(0, 0)
        cells += [f"{estoi:.2f}", f"{100 * errors.rate:.0f}"] if kind.is_speech else ["—", "—"]
    return f"| {cells[0]} | {cells[1]} | {cells[2]} | {cells[3]} → {cells[5]} | {cells[4]} → {cells[6]} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--fast", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    tokenizer = load(chosen.model)
    corpus = open_corpus(chosen.folder, splits=[chosen.split] if chosen.split else [])
    clean = read_signals(corpus, choose_utterances(corpus, chosen.limit))
    words = WordErrorMetric(load_word_tools(), clean, [""] * len(clean), True)
    print("| input | stored bit/s | distance | ESTOI in → out | words wrong in → out, % |")
    print("| --- | --- | --- | --- | --- |")
    for kind in KINDS:
        print(measure(kind, clean, tokenizer, words, chosen.fast), flush=True)


if __name__ == "__main__":
    main()
