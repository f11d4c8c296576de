"""Speed of the WaveNet: torch eager, the compiled loop, and the limit of the processor.

usage: python benchmarks/generation.py [--seconds S] [--repeat N]

The default model, real codes from `data/`. Speeds are seconds of audio a second, best of N. The limit of a
step is the longer of two times, both measured here and now on the same core: reading every weight once (half
the bytes in bfloat16) and doing every multiply-add. `share` is ours over that limit.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numba import njit

import audiovq
from audiovq.audio.reader import read_recording
from audiovq.config.speech import SAMPLE_RATE
from audiovq.kernels.matmul import OUTPUTS_PER_PANEL, ROWS_PER_BLOCK, add_matvec, add_matvec_block
from audiovq.kernels.options import Precision
from audiovq.kernels.packing import aligned_zeros, zeros_in_large_pages
from audiovq.speech.decoder import WaveNetConditioning, WaveNetDecoder
from audiovq.speech.engine import WaveNetEngine
from audiovq.speech.torch_engine import TorchStream
from audiovq.tokenizer import Tokenizer

RECORDING = Path(__file__).parents[1] / "data" / "ls1998_008.flac"
SLOT_COUNTS = (4, 16, 64)
EAGER_FRAMES = 6


@njit(nogil=True)
def compute_all(out: np.ndarray, weights: np.ndarray, x: np.ndarray, times: int) -> None:
    """Products of several rows with few weights: as fast as the processor multiplies and adds."""
    for _ in range(times):
        add_matvec_block(out, weights, x)


@njit(nogil=True, fastmath=True)
def sum_all(values: np.ndarray, times: int) -> np.float32:
    """Sum of float32, in the fastest order: reading and little else."""
    total = np.float32(0)
    for t in range(times):
        part = np.float32(0)
        for i in range(values.shape[0]):
            part += values[i]
        total += part * np.float32(t)  # another sum each time, so that none is left out
    return total


@njit(nogil=True)
def multiply_once(out: np.ndarray, weights: np.ndarray, x: np.ndarray, times: int) -> None:
    """Products with one row: each weight read for one multiply-add."""
    for _ in range(times):
        add_matvec(out, weights, x)


def best(work: Callable[[], object], repeat: int) -> float:
    """Shortest time of some runs, in seconds, after one that compiles and fills caches."""
    work()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def bandwidth(size: int, repeat: int) -> float:
    """Bytes a second that one core reads from a block of `size` bytes, again and again: by adding up or by
    multiplying, whichever is faster."""
    inputs = 64
    panels = max(1, size // (4 * inputs * OUTPUTS_PER_PANEL))
    # In pages as large as those that the weights of an engine lie in.
    weights = (
        zeros_in_large_pages(4 * panels * inputs * OUTPUTS_PER_PANEL)
        .view(np.float32)
        .reshape(panels, inputs, OUTPUTS_PER_PANEL)
    )
    weights[:] = 1.0  # untouched memory is one and the same page of zeros, in the smallest cache
    x = aligned_zeros((inputs,))
    out = aligned_zeros((panels * OUTPUTS_PER_PANEL,))
    times = max(1, 200_000_000 // weights.nbytes)
    adding = best(lambda: sum_all(weights.reshape(-1), times), repeat)
    multiplying = best(lambda: multiply_once(out, weights, x, times), repeat)
    return times * weights.nbytes / min(adding, multiplying)


def multiply_adds(repeat: int) -> float:
    """Multiply-adds a second of one core, on a matrix that fits its smallest cache."""
    weights = aligned_zeros((2, 64, OUTPUTS_PER_PANEL))
    x = aligned_zeros((ROWS_PER_BLOCK, 64))
    out = aligned_zeros((ROWS_PER_BLOCK, 2 * OUTPUTS_PER_PANEL))
    times = 20_000
    return (
        times
        * ROWS_PER_BLOCK
        * 64
        * 2
        * OUTPUTS_PER_PANEL
        / best(lambda: compute_all(out, weights, x, times), repeat)
    )


def step_cost(decoder: WaveNetDecoder, precision: Precision) -> tuple[int, int]:
    """Multiply-adds and bytes of weights of one step, without the tables."""
    net = decoder.net
    group = decoder.samples_per_step
    products = sum(
        p.numel() for p in [*net.taps, *net.residual_proj, net.skip_proj.weight, decoder.head_in_proj.weight]
    )
    products += decoder.history_proj.weight.numel()
    head = decoder.head_out_proj.weight.numel()
    size = 2 if precision == "bfloat16" else 4
    return products + group * head, size * (products + head)


def load_frames(tokenizer: Tokenizer, seconds: float) -> WaveNetConditioning:
    """The decoder's frames of the first seconds of a recording, repeated if it is shorter."""
    codes = tokenizer.encode(np.resize(read_recording(RECORDING).samples, int(seconds * SAMPLE_RATE)))
    decode_job = tokenizer.decode_job(codes)
    with torch.inference_mode():
        condition = tokenizer.model.condition(decode_job.codes[None], decode_job.voices.to)
        return tokenizer.model.wavenet.frames(condition.features, condition.log_magnitude)


def slots_speed(
    engine: WaveNetEngine, frames: WaveNetConditioning, slots: int, threads: int, repeat: int
) -> float:
    """Seconds of audio a second of all slots, on some threads with `slots` each."""
    batch = WaveNetConditioning(*(v.repeat(slots, *[1] * (v.dim() - 1)) for v in frames))
    batches = [engine.slots(slots) for _ in range(threads)]
    for batch_slots in batches:
        for slot in range(slots):
            batch_slots.start(slot, slot)
    with ThreadPoolExecutor(threads) as pool:
        taken = best(
            lambda: list(pool.map(lambda batch_slots: batch_slots.draw(batch, range(slots)), batches)), repeat
        )
    return threads * slots * frames.gains.shape[1] * engine.hop / SAMPLE_RATE / taken


def eager_speed(decoder: WaveNetDecoder, frames: WaveNetConditioning, batch: int, repeat: int) -> float:
    """Seconds of audio a second of the step form in torch."""
    part = WaveNetConditioning(*(v[:, :EAGER_FRAMES].repeat(batch, *[1] * (v.dim() - 1)) for v in frames))
    taken = best(lambda: TorchStream(decoder, range(batch)).draw(part), repeat)
    return batch * EAGER_FRAMES * decoder.hop / SAMPLE_RATE / taken


def encodec_speeds(seconds: float, repeat: int) -> tuple[float, float] | None:
    """EnCodec 24 kHz at 1.5 kbit/s with random weights: encodes and decodes so many seconds a second."""
    try:
        from encodec import EncodecModel  # type: ignore[import-not-found]
    except ImportError:
        return None
    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(1.5)
    audio = torch.randn(1, 1, int(24_000 * seconds)) * 0.1
    with torch.inference_mode():
        codes = model.encode(audio)
        encode = best(lambda: model.encode(audio), repeat)
        decode = best(lambda: model.decode(codes), repeat)
    return seconds / encode, seconds / decode


def on_cores(cores: list[int]) -> None:
    """Let this process run on these cores alone, torch with one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of audio drawn at a time")
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the best counts")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    on_cores(cores[-1:])
    tokenizer = audiovq.load()
    decoder = tokenizer.model.wavenet
    frames = load_frames(tokenizer, options.seconds)
    few = WaveNetConditioning(*(v[:, :32] for v in frames))
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {len(cores)} cores here, torch {torch.__version__}")
    rate = multiply_adds(options.repeat)
    eager = eager_speed(decoder, frames, 1, 2)
    eager_best = eager_speed(decoder, frames, 64, 2)
    print(f"one core: {rate / 1e9:.0f} G multiply-adds a second; torch eager {eager:.3f} times real time")
    print(f"          {eager_best:.2f} with 64 streams at once\n")
    print("| weights | streams | cores | times real time | of torch eager | share of the limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    for precision in get_args(Precision):
        engine = WaveNetEngine(decoder, precision)
        products, size = step_cost(decoder, precision)
        reading = size / bandwidth(size, options.repeat)
        audio = decoder.samples_per_step / SAMPLE_RATE
        for slots in (1, *SLOT_COUNTS):
            # Every weight is read once for `ROWS_PER_BLOCK` slots.
            limit = audio * slots / max(reading * -(-slots // ROWS_PER_BLOCK), products * slots / rate)
            on_cores(cores[-1:])
            sample = frames if slots < 64 else few
            one = slots_speed(engine, sample, slots, 1, options.repeat)
            base = eager if slots == 1 else eager_best
            print(f"| {precision} | {slots} | 1 | {one:.1f} | {one / base:.0f} | {100 * one / limit:.0f} % |")
            if len(cores) > 1 and slots in (1, SLOT_COUNTS[0]):
                on_cores(cores[-2:])
                two = slots_speed(engine, sample, slots, 2, options.repeat)
                gain = f"{two / one:.2f} times one core"
                print(f"| {precision} | {slots} on each | 2 | {two:.1f} | {two / base:.0f} | {gain} |")
    on_cores(cores[-1:])
    codes = tokenizer.encode(np.zeros(int(options.seconds * SAMPLE_RATE), dtype=np.float32) + 0.01)
    signal = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32)
    encode = 60 / best(lambda: tokenizer.encode(signal), options.repeat)
    decode = codes.seconds / best(lambda: tokenizer.decode(codes), options.repeat)
    fast = codes.seconds / best(lambda: tokenizer.decode(codes, fast=True), options.repeat)
    print(f"\none core, whole: encode {encode:.0f}, decode {decode:.1f}, --fast {fast:.0f} times real time")
    other = encodec_speeds(options.seconds, 3)
    if other is not None:
        print(f"EnCodec 24 kHz, 1.5 kbit/s, random weights: encode {other[0]:.1f}, decode {other[1]:.1f}")
    else:
        print("EnCodec: not installed (pip install encodec)")


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
