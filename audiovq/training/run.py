"""The training loop behind `audiovq train`: stages in order, checkpoints, resuming."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from audiovq.config import SAMPLE_RATE, Config, StageConfig, TrainConfig, from_dict, load_config, to_dict
from audiovq.data.corpus import Corpus, open_corpus, speaker_details
from audiovq.data.crops import CropReader
from audiovq.errors import AudiovqError
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.optimiser import Average, Optimiser
from audiovq.training.progress import MetricsLog, Progress
from audiovq.training.stages import Stage, make_stage
from audiovq.waveform.model import WaveformModel

CHECKPOINT = "checkpoint.safetensors"
EVAL_BATCHES = 4
EVAL_EVERY = 500
VOICE_SECONDS = 2.0
VOICE_TABLE_SECONDS = 4.0


def main_train(
    config_path: str | Path,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    init: str | Path | None = None,
    stages: Sequence[str] = (),
) -> Path:
    """Train a model from a configuration; returns the path of the finished model.

    Args:
        config_path: TOML file or the name of a configuration that ships.
        data: corpus folder (`data.corpus.open_corpus`).
        out: run folder: checkpoint, metrics, index and finally `model.safetensors`.
        resume: go on from the run's checkpoint; the configuration stored there must be the same.
        threads: torch threads; None leaves torch's default.
        overrides: `key=value` pairs on the configuration.
        init: model file whose weights training starts from.
        stages: names of the stages to run; none: all.

    Raises: AudiovqError for a bad configuration, corpus or checkpoint, or a full disk. KeyboardInterrupt (on
        SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written.
    """
    config = load_config(config_path, list(overrides))
    if stages:
        chosen = tuple(s for s in config.train.stages if s.stage in stages)
        config = Config(config.model, _replace_stages(config.train, chosen))
    if not config.train.stages:
        raise AudiovqError(f"{config_path}: no stages to train; add [[train.stages]] or name another stage")
    run = Path(out)
    path = run / CHECKPOINT
    if path.exists() and not resume:
        raise AudiovqError(f"{run}: holds a checkpoint already; add --resume, or choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    corpus = open_corpus(data, run / "corpus.json", report=say)
    trainer = Trainer(config, corpus, run, init)
    if resume and path.exists():
        trainer.load(Checkpoint.load(path))
    return trainer.run()


class Trainer:
    """Runs the stages of a configuration over a corpus.

    Args:
        config: model and training.
        corpus: all splits.
        run: folder for checkpoint, metrics and the finished model.
        init: model to start from.
    """

    def __init__(self, config: Config, corpus: Corpus, folder: Path, init: str | Path | None = None) -> None:
        self.config, self.folder = config, folder
        self.corpus, self.held_out = corpus.divide(config.train.train_splits, config.train.eval_split)
        if not self.corpus.utterances:
            raise AudiovqError(
                f"{corpus.root}: no recordings in splits {', '.join(config.train.train_splits)}; "
                "set train.train_splits"
            )
        self.speakers = self.corpus.speakers
        torch.manual_seed(config.train.seed)
        self.model = WaveformModel(config.model, len(self.speakers))
        self.history: list[dict[str, Any]] = []
        if init is not None:
            from audiovq.modelfile import load_weights, read_header

            load_weights(self.model, init)
            self.model.codebook.restart_averages()
            self.history = read_header(init).training.get("stages", [])
        self.stage_number, self.step = 0, 0
        self.seconds = [0.0] * len(config.train.stages)
        self._pending: Checkpoint | None = None
        self._stop: int | None = None
        self._handlers: dict[int, Any] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises AudiovqError if it is of another configuration or corpus."""
        header = checkpoint.header
        if header["config"] != json.loads(json.dumps(to_dict(self.config))):
            raise AudiovqError(
                f"{self.folder / CHECKPOINT}: was made with another configuration; resume with the same one"
            )
        if header["speakers"] != list(self.speakers):
            raise AudiovqError(
                f"{self.folder / CHECKPOINT}: was made with other speakers; give the same corpus"
            )
        self.model.load_state_dict(checkpoint.groups["model"])
        self.stage_number, self.step = header["stage"], header["step"]
        self.seconds = header["seconds"]
        self._pending = checkpoint

    def run(self) -> Path:
        """All remaining stages; then write and return the finished model."""
        stages = self.config.train.stages
        log = MetricsLog(self.folder, [s.stage for s in stages], self.stage_number, self.step)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        try:
            while self.stage_number < len(stages):
                self._run_stage(stages[self.stage_number], log)
                self.stage_number, self.step = self.stage_number + 1, 0
        finally:
            log.close()
            for caught, handler in self._handlers.items():
                signal.signal(caught, handler)
        return self.write_model()

    def write_model(self) -> Path:
        """Write `model.safetensors` from the model's weights."""
        from audiovq.modelfile import Speaker, save_model

        sexes = speaker_details(self.corpus.root)
        minutes: dict[str, float] = {}
        for u in self.corpus.utterances:
            minutes[u.speaker] = minutes.get(u.speaker, 0.0) + u.seconds / 60
        table = [Speaker(i, n, sexes.get(n, ""), round(minutes[n], 2)) for i, n in enumerate(self.speakers)]
        self._fill_voice_table()
        path = self.folder / "model.safetensors"
        save_model(path, self.model, table, training=self.summary(), force=True)
        return path

    def summary(self) -> dict[str, Any]:
        """What the model was trained on and for how long, for its header."""
        stages = [
            {
                "stage": s.stage,
                "steps": s.steps,
                "audio_seconds": s.steps * s.batch * s.seconds,
                "seconds": round(seconds),
            }
            for s, seconds in zip(self.config.train.stages, self.seconds, strict=True)
        ]
        hours = self.corpus.seconds / 3600
        return {"utterances": len(self.corpus.utterances), "hours": hours, "stages": self.history + stages}

    def _run_stage(self, config: StageConfig, log: MetricsLog) -> None:
        stage = make_stage(self.model, config)
        names = {n for m in stage.modules() for n in _names_in(self.model, m)}
        optimiser = Optimiser(stage.named_parameters(), config)
        average = Average(self.model, names, config.average)
        if self._pending is not None:
            optimiser.load_state(self._pending.groups.get("optimiser", {}))
            average.values.update(self._pending.groups.get("average", {}))
            self._pending = None
        reader = self._reader(self.corpus, config, augment=True)
        progress = Progress(config.stage, config.steps, self.step, config.batch * config.seconds)
        saved = began = time.monotonic()
        before = self.seconds[self.stage_number]
        try:
            while self.step < config.steps:
                torch.manual_seed(self.config.train.seed * 1_000_003 + self.step)
                stage.train()
                batch = reader.get(self.step)
                with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed):
                    loss, metrics = stage.loss(batch, self.step)
                metrics["norm"] = optimiser.step(loss, self.step)
                average.update(self.model, self.step)
                progress.update(self.step, metrics)
                self.step += 1
                now = time.monotonic()
                self.seconds[self.stage_number] = before + now - began
                if self.step % 20 == 0:
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], metrics)
                if self.step % EVAL_EVERY == 0 or self.step == config.steps:
                    average.swap(self.model)
                    held = self.evaluate(stage, config)
                    average.swap(self.model)
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], held)
                    if held:
                        values = "  ".join(f"{name} {value:.4f}" for name, value in held.items())
                        say(f"{config.stage}  {self.step}  held out:  {values}")
                if now - saved > self.config.train.checkpoint_seconds or self._stop:
                    self._save(optimiser, average)
                    saved = now
                if self._stop:
                    say(f"{self.folder}: stopped at step {self.step}; go on with --resume")
                    raise KeyboardInterrupt if self._stop == signal.SIGINT else SystemExit(128 + self._stop)
        finally:
            reader.close()
        average.swap(self.model)
        self._save(None, None, self.stage_number + 1, 0)

    @torch.no_grad()
    def evaluate(self, stage: Stage, config: StageConfig) -> dict[str, float]:
        """Mean metrics over fixed held-out batches, names prefixed by `held_`."""
        self.model.eval()
        if not self.held_out.utterances:
            return {}
        reader = self._reader(self.held_out, config, augment=False)
        sums: dict[str, float] = {}
        for number in range(EVAL_BATCHES):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed):
                _, metrics = stage.loss(reader.read(number), 0)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / EVAL_BATCHES
        reader.close()
        return {f"held_{name}": value for name, value in sums.items()}

    def _reader(self, corpus: Corpus, config: StageConfig, augment: bool) -> CropReader:
        hop, train = self.config.model.encoder.hop, self.config.train
        samples = max(1, round(config.seconds * SAMPLE_RATE / hop)) * hop
        voice = round(VOICE_SECONDS * SAMPLE_RATE / hop) * hop if self.config.model.voice.encoder else hop
        return CropReader(
            corpus,
            self.speakers,
            samples,
            voice,
            config.batch,
            train.seed * 100 + self.stage_number,
            train.speed if augment else 0.0,
            train.level_db if augment else 0.0,
        )

    def _save(
        self,
        optimiser: Optimiser | None,
        average: Average | None,
        stage: int | None = None,
        step: int | None = None,
    ) -> None:
        header = {
            "config": json.loads(json.dumps(to_dict(self.config))),
            "speakers": list(self.speakers),
            "stage": self.stage_number if stage is None else stage,
            "step": self.step if step is None else step,
            "seconds": self.seconds,
        }
        groups = {"model": dict(self.model.state_dict())}
        if optimiser is not None:
            groups["optimiser"] = optimiser.state()
        if average is not None:
            groups["average"] = average.values
        Checkpoint(header, groups).save(self.folder / CHECKPOINT)

    @torch.no_grad()
    def _fill_voice_table(self, per_speaker: int = 8) -> None:
        """Named points of trained speakers: the mean of the voice encoder over some of their recordings."""
        encoder = self.model.voice_encoder
        if encoder is None:
            return
        self.model.eval()
        for number, name in enumerate(self.speakers):
            own = [u for u in self.corpus.utterances if u.speaker == name][:per_speaker]
            hop = self.model.hop
            length = round(VOICE_TABLE_SECONDS * SAMPLE_RATE / hop) * hop
            corpus = Corpus(self.corpus.root, tuple(own))
            reader = CropReader(corpus, (name,), length, hop, len(own), seed=0)
            sums = encoder.pool(self.model.log_powers(reader.read(0).signal))
            reader.close()
            point = encoder.point(*(v.sum((0, 1)).unsqueeze(0) for v in sums))
            self.model.voice_table.points[number + 1] = encoder.from_levels(encoder.to_levels(point))[0]

    def _ask_to_stop(self, number: int, _: object) -> None:
        """Stop after the step that is running; a second signal ends the process at once."""
        self._stop = number
        signal.signal(number, self._handlers[number])


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: handing large tensors back to the system and faulting them in again
    costs a fifth of a training step on a CPU. Does nothing elsewhere."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)


def _names_in(model: torch.nn.Module, part: torch.nn.Module) -> list[str]:
    """Names that the tensors of `part` have in the state of `model`."""
    prefix = next(n for n, m in model.named_modules() if m is part)
    return [f"{prefix}.{n}" for n in part.state_dict()]


def _replace_stages(train: TrainConfig, stages: tuple[StageConfig, ...]) -> TrainConfig:
    tree = to_dict(train)
    tree["stages"] = [to_dict(s) for s in stages]
    replaced: TrainConfig = from_dict(TrainConfig, tree)
    return replaced


def say(line: str) -> None:
    """A line on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


__all__ = ["Trainer", "keep_freed_memory", "main_train"]
