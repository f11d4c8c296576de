"""Size and speed of exported graphs beside the library, on one thread: the table of docs/export.md.

audiovq export model.onnx
OMP_NUM_THREADS=1 python benchmarks/onnx_export.py model data/*.flac
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import audiovq
from audiovq.audio.highpass import high_pass
from audiovq.audio.reader import read_recording
from audiovq.speech.chunked_encoder import ChunkedEncoder


def best(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest time of some runs, seconds, and the result."""
    times = []
    result = work()
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return min(times), result


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="NAME of the exported NAME.onnx")
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = audiovq.load()
    paths = [f"{options.name}-encoder.onnx", f"{options.name}-decoder.onnx"]
    encoder, decoder = map(session, paths)
    windows = ChunkedEncoder(tokenizer.model)
    seconds = np.zeros(5)  # of speech, then of each kind of work
    codes_differ = 0
    codes_all = 0
    voices_differ = 0
    furthest = 0.0
    for source in options.recordings:
        samples = read_recording(source).samples
        codes = tokenizer.encode(samples)
        signal = high_pass(samples, tokenizer.header.config.high_pass_hz) * np.float32(codes.gain)
        ours, (rows, voice) = best(lambda s=signal: windows.encode([s], 1.0), options.repeats)
        theirs, made = best(lambda s=signal: encoder.run(None, {"signal": s}), options.repeats)
        codes_differ += int((rows != made[0]).sum())
        codes_all += rows.size
        voices_differ += tuple(made[1].tolist()) != voice
        own = {"codes": rows.astype(np.int64), "voice": np.array(voice)}
        decoded, recording = best(lambda c=codes: tokenizer.decode(c, fast=True), options.repeats)
        run, sound = best(lambda given=own: decoder.run(None, given)[0], options.repeats)
        wanted = recording.samples * np.float32(codes.gain)
        furthest = max(furthest, float(abs(sound[: len(wanted)] - wanted).max()))
        seconds += [len(samples) / 16_000, ours, theirs, decoded, run]
    speech, *times = seconds
    print(f"{speech:.1f} s of speech; codes that differ: {codes_differ} of {codes_all}", end="")
    print(f"; voices: {voices_differ}; samples: {furthest:.1e} at most")
    for name, taken in zip(("encode", "encode onnx", "decode", "decode onnx"), times, strict=True):
        print(f"{name:12} {speech / taken:6.0f} times real time")
    for path in (tokenizer.path, *map(Path, paths)):
        print(f"{path.name:24} {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
