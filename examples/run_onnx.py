"""Speech to codes and back with the files of `audiovq export`: onnxruntime, numpy and soundfile alone.

    audiovq export model.onnx
    python examples/run_onnx.py model speech.wav back.wav         # 16 kHz; another rate: resample it first

What the encoder takes is the signal behind a high-pass, at one loudness (docs/export.md).
"""

from __future__ import annotations

import math
import sys

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray


def high_pass(signal: NDArray[np.float32], cutoff_hz: float) -> NDArray[np.float32]:
    """A 16 kHz signal behind a Butterworth filter of second order, which starts settled."""
    if not cutoff_hz or not len(signal):
        return signal
    k = math.tan(math.pi * cutoff_hz / 16_000)
    b = 1 / (1 + math.sqrt(2) * k + k * k)
    a1 = 2 * (k * k - 1) * b
    a2 = (1 - math.sqrt(2) * k + k * k) * b
    out = np.empty(len(signal))
    s1 = -b * float(signal[0])
    s2 = -s1
    for i, x in enumerate(signal.tolist()):
        y = b * x + s1
        s1 = s2 - 2 * b * x - a1 * y
        s2 = b * x - a2 * y
        out[i] = y
    return out.astype(np.float32)


def loudness_gain(signal: NDArray[np.float32], target_db: float) -> float:
    """Gain to the target RMS over the 20 ms frames within 30 dB of the loudest, in steps of 0.5 dB."""
    frames = [signal[i : i + 320].astype(np.float64) for i in range(0, len(signal), 320)]
    energy = np.array([np.sum(frame**2) for frame in frames])
    length = np.array([len(frame) for frame in frames])
    steps = np.floor((10 * np.log10(np.maximum(energy / length, 1e-30)) + 100) / 0.5)
    if steps.max() < 0:
        return 1.0 if signal.any() else 0.0
    active = steps > max(-1, steps.max() - 60)
    gain_db = target_db - 10 * math.log10(energy[active].sum() / length[active].sum())
    return float(np.float32(10 ** (min(40.0, max(-120.0, gain_db)) / 20)))


def main(name: str, source: str, out: str) -> None:
    """Encode, print, decode."""
    encoder = onnxruntime.InferenceSession(f"{name}-encoder.onnx")
    decoder = onnxruntime.InferenceSession(f"{name}-decoder.onnx")
    facts = encoder.get_modelmeta().custom_metadata_map
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    if rate != int(facts["sample_rate"]):
        sys.exit(f"{source}: has {rate} Hz; resample it to {facts['sample_rate']} Hz first")
    signal = high_pass(samples.mean(axis=1), float(facts["high_pass_hz"]))
    gain = loudness_gain(signal, float(facts["loudness_db"]))
    codes, voice = encoder.run(None, {"signal": signal * np.float32(gain)})
    print(f"{len(codes)} steps of {codes.shape[1]} codes, {len(signal) / rate:.2f} s; voice {voice.tolist()}")
    sound = decoder.run(None, {"codes": codes, "voice": voice})[0][: len(signal)]
    soundfile.write(out, sound / gain if gain else 0 * sound, rate)


if __name__ == "__main__":
    main(*sys.argv[1:4])
