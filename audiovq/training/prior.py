"""Training a prior over a model's codes: what `audiovq prior` does."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.config.prior import PriorConfig, PriorTrainingConfig
from audiovq.config.toml import dataclass_to_dict, load_toml
from audiovq.config.training import StageConfig
from audiovq.data.corpus import open_corpus
from audiovq.data.sharding import SINGLE_SHARD, Shard
from audiovq.distributed import rank_zero_first
from audiovq.errors import AudiovqError
from audiovq.nn.guard import own_generator
from audiovq.prior.file import PriorHeader, save_prior
from audiovq.prior.network import PriorNetwork
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.code_bits import code_nll_nats, format_bits_table, measure_code_bits
from audiovq.training.launch import launch_training
from audiovq.training.metrics_log import PreviewExample
from audiovq.training.prior_data import (
    CodeBatch,
    CodeCorpus,
    CodeCropReader,
    HeldOutCodeReader,
    encode_corpus,
)
from audiovq.training.run_options import RunOptions
from audiovq.training.stage import StageMetrics, TrainingStage
from audiovq.training.trainer import EVAL_BATCH_COUNT

_CONTEXT = 32
"""Steps at the start of a crop that the loss leaves out, as they lack the context of earlier steps."""
_RESIDUAL_SCALE = 0.5
"""Factor of what a layer adds to the residual stream in training."""

_logger = logging.getLogger(__name__)


def train_speech_prior(
    config_path: str | Path,
    data: str | Path,
    options: RunOptions,
    overrides: Sequence[str] = (),
    model: str | Path | None = None,
) -> Path:
    """Encode a corpus, train a prior over its codes and log their bits; returns the prior's path.

    Args:
        config_path: TOML file or the name of a configuration that ships ("prior").
        data: corpus folder (`data.corpus.open_corpus`).
        options: the run folder also gets the codes.
        overrides: `key=value` pairs on the configuration.
        model: model file; None: the default model.

    Raises: AudiovqError for a bad configuration, corpus, model or checkpoint, or a full disk.
    """
    config: PriorTrainingConfig = load_toml(config_path, list(overrides), PriorTrainingConfig)
    if not config.train.stages:
        raise AudiovqError(f"{config_path}: no stages to train; add [[train.stages]]")

    def task(folder: Path) -> PriorTask:
        tokenizer = load(model)
        with rank_zero_first():
            corpus = open_corpus(data, folder / "corpus.safetensors")
        train, held_out = corpus.divide(config.train.train_splits, config.train.eval_split)
        if not train.utterances:
            splits = ", ".join(config.train.train_splits)
            raise AudiovqError(f"{corpus.root}: no recordings in splits {splits}; set train.train_splits")
        codes = encode_corpus(tokenizer, train, folder / "codes", config.speeds, options.threads)
        held = None
        if held_out.utterances:
            held = encode_corpus(tokenizer, held_out, folder / "codes", (1.0,), options.threads)
        return PriorTask(config, tokenizer, codes, held)

    return launch_training(options, task)


class TrainablePrior(PriorNetwork):
    """A prior in the form that learns fastest; `folded` gives the plain one that is stored.

    The vectors of codes, in the input and between levels, and the weights of logits are a free table plus a
    linear map of the codebook's vectors, so that similar codes learn from each other. A layer's output enters
    the residual stream with the factor `_RESIDUAL_SCALE`.

    Args:
        table: `(L K, s dim)`, the model's codebook; codebook_size: K.
        voice_dims, config: as for `PriorNetwork`.
    """

    ADAMW = (*PriorNetwork.ADAMW, r"(input|level|output)_maps")
    table: Tensor

    def __init__(self, table: Tensor, codebook_size: int, voice_dims: int, config: PriorConfig) -> None:
        levels = len(table) // codebook_size
        super().__init__(codebook_size, levels, voice_dims, config, _RESIDUAL_SCALE)
        by_level = table.detach().float().view(levels, codebook_size, -1)
        # Each level in its own unit: later ones have shorter vectors.
        by_level = by_level / by_level.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-8)
        self.register_buffer("table", by_level)
        dim = by_level.shape[2]
        hidden = config.hidden
        scale = 0.5 / math.sqrt(dim)
        self.input_maps = nn.Parameter(torch.randn(levels, dim, config.residual) * scale)
        self.output_maps = nn.Parameter(torch.zeros(levels, dim, hidden or config.skip))
        if levels > 1:
            pairs = levels * (levels - 1) // 2
            self.level_maps = nn.Parameter(torch.randn(pairs, dim, 2 * hidden) * scale)

    def input_embedding(self) -> Tensor:
        mapped = torch.bmm(self.table, self.input_maps).flatten(0, 1)
        return self.code_embedding + torch.cat([mapped, torch.zeros_like(mapped[:1])])

    def level_embedding(self, level: int, other: int) -> Tensor:
        pair = level * (level - 1) // 2 + other
        return super().level_embedding(level, other) + self.table[other] @ self.level_maps[pair]

    def output_weights(self, level: int) -> Tensor:
        return super().output_weights(level) + self.table[level] @ self.output_maps[level]

    @torch.no_grad()
    def folded(self) -> PriorNetwork:
        """The plain network of the same function, with weights that are float16 numbers, on the CPU."""
        with own_generator(0):
            plain = PriorNetwork(self.codebook_size, self.levels, self.voice_dims, self.config)
        state = {name: value for name, value in self.state_dict().items() if name in plain.state_dict()}
        state["code_embedding"] = self.input_embedding()
        state["head_out_proj.weight"] = torch.cat([self.output_weights(n) for n in range(self.levels)])
        if self.levels > 1:
            pairs = [(n, k) for n in range(self.levels) for k in range(n)]
            state["head_code_embedding"] = torch.stack([self.level_embedding(n, k) for n, k in pairs])
        for i in range(self.net.layers - 1):
            state[f"net.residual_proj.{i}"] = self.net.residual_proj[i] * self.net.residual_scale
        plain.load_state_dict({name: value.cpu().half().float() for name, value in state.items()})
        return plain.eval()


class PriorStage(TrainingStage):
    """The prior by the likelihood of codes."""

    monitor = "bits"
    model: TrainablePrior

    def __init__(self, model: TrainablePrior, config: StageConfig, settings: PriorTrainingConfig) -> None:
        super().__init__(model, config)
        self.settings = settings.prior

    def default_weights(self) -> dict[str, float]:
        return {"likelihood": 1.0}

    def modules(self) -> list[nn.Module]:
        return [self.model]

    def loss(self, batch: CodeBatch, step: int) -> tuple[Tensor, StageMetrics]:
        voices = self.model.voice(batch.voices)
        if self.model.training:
            voices = self._disturbed(voices, batch, step)
        logits = self.model(batch.codes, voices, batch.before, batch.levels)
        nats = code_nll_nats(logits, batch.codes) * batch.weights
        # The share of a level turns its part of the mean over all codes into the mean over its own.
        by_level = nats.detach().sum((0, 1)) / batch.shares.clamp_min(1e-8) / math.log(2)
        return self.weights["likelihood"] * nats.sum(), self._metrics(by_level.tolist())

    def _disturbed(self, voices: Tensor, batch: CodeBatch, step: int) -> Tensor:
        """Voices with noise, so that unknown ones work too; some crops get no voice at all."""
        generator = torch.Generator().manual_seed(step)
        part = batch.part
        noise = torch.randn(part.total, voices.shape[1] - 1, generator=generator)
        kept = torch.rand(part.total, 1, generator=generator) >= self.settings.voice_drop_prob
        voices[:, :-1] += self.settings.voice_noise * part.of(noise).to(voices.device)
        return voices * part.of(kept).to(voices.device)

    @staticmethod
    def _metrics(by_level: list[float]) -> StageMetrics:
        """Bits of a step, and of a code at each level where there are several."""
        metrics = {"bits": sum(by_level)}
        if len(by_level) > 1:
            metrics |= {f"bits_{i}": value for i, value in enumerate(by_level, 1)}
        return metrics


class PriorTask:
    """A `TrainablePrior` and codes, as a `training.trainer.TrainingTask`.

    Args:
        config: prior and training.
        tokenizer: whose codes they are.
        codes: to train on; held_out: None for none.
    """

    unit = "code steps"
    file = "prior.safetensors"

    def __init__(
        self,
        config: PriorTrainingConfig,
        tokenizer: Tokenizer,
        codes: CodeCorpus,
        held_out: CodeCorpus | None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.codes = codes
        self.held_out = held_out
        self.train = config.train
        self.stages = config.train.stages
        self.identity = {"config": dataclass_to_dict(config), "model": tokenizer.fingerprint}
        codebook = tokenizer.model.codebook
        with own_generator(config.train.seed):
            self.model = TrainablePrior(codebook.table(), codebook.size, codes.voices.shape[1], config.prior)

    def _length(self, config: StageConfig) -> int:
        rate = self.tokenizer.header.config.steps_per_second
        return max(_CONTEXT + 1, round(config.seconds * rate))

    def amount(self, config: StageConfig) -> float:
        """Steps of codes in one step of training."""
        return config.batch * self._length(config)

    def stage(self, config: StageConfig) -> PriorStage:
        """The prior's one stage."""
        return PriorStage(self.model, config, self.config)

    def reader(self, number: int, train: bool, shard: Shard = SINGLE_SHARD) -> CodeCropReader | None:
        """Crops of codes."""
        config = self.stages[number]
        length = self._length(config)
        if train:
            seed = self.train.seed * 100 + number
            return CodeCropReader(self.codes, length, _CONTEXT, config.batch, seed, config.coarse_prob, shard)
        if self.held_out is None:
            return None
        return HeldOutCodeReader(self.held_out, length, EVAL_BATCH_COUNT, shard)

    def examples(self, config: StageConfig) -> list[PreviewExample]:
        """None: a prior has no recordings to reconstruct."""
        return []

    def write(self, path: Path, done: list[dict[str, Any]], force: bool) -> None:
        """Write the prior, and log the bits of held-out codes under it and under simpler models."""
        training: dict[str, Any] = {
            "code_steps": self.codes.steps,
            "recordings": len(self.codes.sequences),
            "speeds": list(self.config.speeds),
            "stages": [{("code_steps" if k == "amount" else k): v for k, v in row.items()} for row in done],
        }
        prior = self.model.folded()
        if self.held_out is not None:
            bits = measure_code_bits(prior, self.codes, self.held_out)
            training["held_out_bits"] = bits
            rate = self.tokenizer.header.config.steps_per_second
            _logger.info("%s", format_bits_table({self.train.eval_split: bits}, rate))
        header = PriorHeader(
            config=self.config.prior,
            codebook_size=prior.codebook_size,
            levels=prior.levels,
            voice_dims=prior.voice_dims,
            model=self.tokenizer.fingerprint,
            training=training,
        )
        save_prior(path, prior, header, force=force)


__all__ = ["PriorTask", "TrainablePrior", "train_speech_prior"]
