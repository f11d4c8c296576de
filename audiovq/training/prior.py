"""Training a prior over a model's codes: what `audiovq prior` does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config import StageConfig
from audiovq.configfile import load_toml, to_dict
from audiovq.data.codes import CodeCorpus, CodeCrops, CodeReader, HeldOutReader, encode_corpus
from audiovq.data.corpus import open_corpus
from audiovq.data.shares import ALL, Share
from audiovq.errors import AudiovqError
from audiovq.prior import CodePrior, PriorTraining
from audiovq.priorfile import PriorHeader, save_prior
from audiovq.processes import first_before_others
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.bits import bits_table, measure
from audiovq.training.loop import EVAL_BATCHES
from audiovq.training.progress import Example, say
from audiovq.training.stage import Metrics, Stage
from audiovq.training.start import Run

CONTEXT = 64
"""Codes at the start of a crop that do not count: there less is known than in the middle of a recording."""


def main_prior(
    config_path: str | Path,
    data: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    pieces: int = 1,
    snapshot: str | Path | None = None,
) -> Path:
    """Encode a corpus, train a prior over its codes and report its bits a code; returns the prior's path.

    Args:
        config_path: TOML file or the name of a configuration that ships ("prior").
        data: corpus folder (`data.corpus.open_corpus`).
        out: run folder: codes, checkpoint, metrics and finally `prior.safetensors`.
        model: model file; None: the default model.
        resume, threads, overrides, device, pieces: as for `training.run.main_train`.

    Raises: AudiovqError for a bad configuration, corpus, model or checkpoint, or a full disk.
    """
    config: PriorTraining = load_toml(config_path, list(overrides), PriorTraining)
    if not config.train.stages:
        raise AudiovqError(f"{config_path}: no stages to train; add [[train.stages]]")

    def task(folder: Path) -> PriorTask:
        tokenizer = load(model)
        with first_before_others():
            corpus = open_corpus(data, folder / "corpus.safetensors", report=say)
        train, held_out = corpus.divide(config.train.train_splits, config.train.eval_split)
        if not train.utterances:
            splits = ", ".join(config.train.train_splits)
            raise AudiovqError(f"{corpus.root}: no recordings in splits {splits}; set train.train_splits")
        kept, held = folder / "codes", None
        codes = encode_corpus(tokenizer, train, kept, config.speeds, say, threads)
        if held_out.utterances:
            held = encode_corpus(tokenizer, held_out, kept, (1.0,), say, threads)
        return PriorTask(config, tokenizer, codes, held)

    written = None if snapshot is None else Path(snapshot)
    return Run(Path(out), resume, threads, device, pieces, written).train(task)


class PriorStage(Stage):
    """The prior by the likelihood of codes."""

    monitor = "bits"
    model: CodePrior

    def __init__(self, model: CodePrior, config: StageConfig, settings: PriorTraining) -> None:
        super().__init__(model, config)
        self.settings = settings.prior

    def default_weights(self) -> dict[str, float]:
        return {"likelihood": 1.0}

    def modules(self) -> list[nn.Module]:
        return [self.model]

    def loss(self, batch: CodeCrops, step: int) -> tuple[Tensor, Metrics]:
        voices = self.model.voice(batch.voices)
        if self.model.training:
            # Noise stands for voices nobody has; some crops have none.
            generator, part = torch.Generator().manual_seed(step), batch.part
            noise = torch.randn(part.total, voices.shape[1] - 1, generator=generator)
            told = torch.rand(part.total, 1, generator=generator) >= self.settings.voice_drop_prob
            voices[:, :-1] += self.settings.voice_noise * part.of(noise).to(voices.device)
            voices = voices * part.of(told).to(voices.device)
        logits = self.model(batch.codes, voices, batch.before)
        nats = F.cross_entropy(logits.float().flatten(0, 1), batch.codes.flatten(), reduction="none")
        loss = (nats * batch.weights.flatten()).sum()
        return self.weights["likelihood"] * loss, {"bits": float(loss.detach()) / math.log(2)}


class PriorTask:
    """A `CodePrior` and codes, as a `training.loop.Task`.

    Args:
        config: prior and training.
        tokenizer: whose codes they are.
        codes: to train on; held_out: None for none.
    """

    unit, file = "codes", "prior.safetensors"

    def __init__(
        self,
        config: PriorTraining,
        tokenizer: Tokenizer,
        codes: CodeCorpus,
        held_out: CodeCorpus | None,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.codes, self.held_out = codes, held_out
        self.train, self.stages = config.train, config.train.stages
        self.classes = tokenizer.header.config.codebook.size
        self.identity = {"config": to_dict(config), "model": tokenizer.fingerprint}
        torch.manual_seed(config.train.seed)
        c = config.prior
        dims = codes.voices.shape[1]
        self.model = CodePrior(self.classes, dims, c.residual, c.skip, c.dilations, c.dropout)

    def _length(self, config: StageConfig) -> int:
        rate = self.tokenizer.header.config.steps_per_second
        return max(CONTEXT + 1, round(config.seconds * rate))

    def amount(self, config: StageConfig) -> float:
        """Codes in one step."""
        return config.batch * self._length(config)

    def stage(self, config: StageConfig) -> PriorStage:
        """The prior's one stage."""
        return PriorStage(self.model, config, self.config)

    def reader(self, number: int, train: bool, share: Share = ALL) -> CodeReader | None:
        """Crops of codes."""
        config = self.stages[number]
        length = self._length(config)
        if train:
            seed = self.train.seed * 100 + number
            return CodeReader(self.codes, length, CONTEXT, config.batch, seed, self.classes, share)
        if self.held_out is None:
            return None
        return HeldOutReader(self.held_out, length, EVAL_BATCHES, self.classes, share)

    def examples(self, config: StageConfig) -> list[Example]:
        """None: what it learns is heard in what it makes up, and that by `audiovq generate`."""
        return []

    def write(self, path: Path, done: list[dict[str, Any]]) -> None:
        """Write the prior, and say how many bits a code costs under it and without it."""
        training: dict[str, Any] = {
            "codes": self.codes.codes,
            "recordings": len(self.codes.sequences),
            "speeds": list(self.config.speeds),
            "stages": [{("codes" if k == "amount" else k): v for k, v in row.items()} for row in done],
        }
        if self.held_out is not None:
            self.model.cpu().eval()
            bits = measure(self.model, self.codes, self.held_out)
            training["held_out_bits"] = bits
            say(bits_table({self.train.eval_split: bits}))
        header = PriorHeader(
            self.config.prior,
            self.classes,
            self.model.voice_dims,
            self.tokenizer.fingerprint,
            training,
        )
        save_prior(path, self.model, header, force=True)


__all__ = ["PriorTask", "main_prior"]
