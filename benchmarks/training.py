"""Speed of training the default model: the WaveNet's layers beside plain conv1d, and whole stages.

usage: python benchmarks/training.py [--repeat N] [--steps N]

Layers: the decoder's WaveNet, forward and backward, the same weights and conditions as stacks of
`torch.nn.functional.conv1d` and as they are built here, one core, fp32 and bf16 autocast; the two are
checked to be one function; `gain` is ours over conv1d in the same precision. Stages: seconds of audio a
second, reading, gradients, optimizer and codebook included, on the recordings in `data/`, in both
precisions, one core and all; the one in which training runs on this processor is marked. Times are wall time,
best of N (stages: the mean of their steps).
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.config.speech import SAMPLE_RATE, load_speech_config
from audiovq.config.training import StageConfig
from audiovq.data.corpus import open_corpus
from audiovq.nn.wavenet import WaveNet
from audiovq.training.launch import _keep_freed_memory
from audiovq.training.optimizer import Optimizer
from audiovq.training.precision import bf16_is_faster
from audiovq.training.speech import SpeechTask

DATA = Path(__file__).parents[1] / "data"


def conv1d_stack(net: WaveNet, x: Tensor, conditions: Tensor) -> Tensor:
    """`net` as its papers draw it: `(B, R, T)`, a dilated convolution and two of one tap in each layer."""
    r = net.residual
    repeats = x.shape[1] // conditions.shape[1]
    x = x.transpose(1, 2)
    out = x.new_zeros(())
    skips = net.skip_proj.weight.chunk(net.layers, dim=1)
    for layer, dilation in enumerate(net.dilations):
        taps = net.taps[layer]
        kernel = torch.stack([taps[2 * r :], taps[: 2 * r]], dim=-1)  # the older sample comes first
        z = F.conv1d(F.pad(x, (dilation, 0)), kernel, dilation=dilation)
        z = z + conditions[:, :, layer].transpose(1, 2).repeat_interleave(repeats, dim=2)
        a, b = z.chunk(2, dim=1)
        y = torch.tanh(a) * torch.sigmoid(b)
        out = out + F.conv1d(y, skips[layer][:, :, None])
        if layer < net.layers - 1:
            x = x + F.conv1d(y, net.residual_proj[layer][:, :, None])
    return (out + net.skip_proj.bias[:, None]).transpose(1, 2)


def layers(repeat: int) -> None:
    """Print the WaveNet's layers both ways."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_speech_config("default", [])
    decoder = config.model.wavenet
    stage = next(s for s in config.train.stages if s.stage == "wavenet")
    samples = round(stage.seconds * SAMPLE_RATE / config.model.encoder.hop) * config.model.encoder.hop
    steps = samples // decoder.samples_per_step
    frames = samples // config.model.encoder.hop
    net = WaveNet(decoder.residual, decoder.skip, decoder.dilations)
    inputs = torch.randn(stage.batch, steps, decoder.residual)
    conditions = torch.randn(stage.batch, frames, net.layers, 2 * decoder.residual, requires_grad=True)

    def ours() -> Tensor:
        out: Tensor = net(inputs, conditions)
        return out

    def plain() -> Tensor:
        return conv1d_stack(net, inputs, conditions)

    def step(form: Callable[[], Tensor], mixed: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            form().float().square().mean().backward()

    # With gradients: without, there is another form of it.
    a = ours().detach()
    b = plain().detach()
    error = float((a - b).abs().max() / b.abs().max())
    print(
        f"{net.layers} layers of {net.residual}, {stage.batch} x {steps} steps; forms differ by {error:.1e}"
    )
    assert error < 1e-5
    print("| forward and backward, one core | conv1d, s of audio/s | ours | gain |")
    print("| --- | ---: | ---: | ---: |")
    for name, mixed in (("fp32", False), ("bf16 autocast", True)):
        times = {}
        for form in (plain, ours):
            step(form, mixed)
            times[form] = min(timed(partial(step, form, mixed)) for _ in range(repeat))
        audio = stage.batch * samples / SAMPLE_RATE
        speeds = audio / times[plain], audio / times[ours]
        print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {speeds[1] / speeds[0]:.2f} |")


def stages(steps: int, cores: int) -> None:
    """Print the speed of whole stages."""
    counts = sorted({1, cores})
    print(
        "| stage, s of audio/s | precision | " + " | ".join(f"{n} core{'s'[: n > 1]}" for n in counts) + " |"
    )
    print("| --- | --- |" + " ---: |" * len(counts))
    own = bf16_is_faster(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(DATA, Path(folder) / "corpus.safetensors")
        task = SpeechTask(load_speech_config("default", ["train.eval_split="]), corpus)
        for number, config in enumerate(task.stages):
            for mixed in (True, False):
                speeds = [stage_speed(task, number, config, mixed, steps, count) for count in counts]
                name = ("bf16" if mixed else "fp32") + (" (own)" if mixed == own else "")
                print(f"| {config.stage} | {name} | " + " | ".join(f"{s:.1f}" for s in speeds) + " |")


def stage_speed(
    task: SpeechTask, number: int, config: StageConfig, mixed: bool, steps: int, threads: int
) -> float:
    """Seconds of audio a second over some steps of a stage, after three."""
    torch.set_num_threads(threads)
    stage = task.stage(config)
    optimizer = Optimizer(stage.named_parameters(), config, stage.model)
    reader = task.reader(number, True)
    assert reader is not None
    began = 0.0
    for at in range(steps + 3):
        if at == 3:
            began = time.perf_counter()
        stage.train()
        optimizer.begin()
        (batch,) = reader.get(at)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, _ = stage.loss(batch, at)
        loss.backward()
        optimizer.step(at)
        stage.update_ema()
    seconds = time.perf_counter() - began
    reader.close()
    return steps * task.amount(config) / seconds


def timed(work: Callable[[], None]) -> float:
    """Wall time of a call, seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{platform.processor() or platform.machine()}, {cores} cores, torch {torch.__version__}")
    _keep_freed_memory()
    layers(options.repeat)
    stages(options.steps, cores)


if __name__ == "__main__":
    main()
