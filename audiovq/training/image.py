"""Training an image model: what `audiovq image train` and `audiovq image prior` do.

image      encoder, codebook and decoder, by the likelihood of the pixels (arXiv 1711.00937, equation 3)
pixelcnn   the prior, on frozen codes, by their likelihood
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import ImageConfig, load_image_config
from audiovq.config.toml import to_dict
from audiovq.config.training import StageConfig
from audiovq.data.sharding import ALL, Shard
from audiovq.errors import AudiovqError
from audiovq.image.dataset import Pictures, open_pictures
from audiovq.image.loader import PictureBatch, PictureReader
from audiovq.image.model import ImageModel
from audiovq.training.launch import Run, chosen_stages
from audiovq.training.losses import vq_loss
from audiovq.training.metrics_log import Example, say
from audiovq.training.stage import Metrics, Stage


def main_train(
    config_path: str | Path,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    init: str | Path | None = None,
    stages: Sequence[str] = (),
    device: str = "cpu",
    grad_accum: int = 1,
) -> Path:
    """Train an image model from a configuration; returns the path of the finished model.

    Args:
        config_path: TOML file or the name of a configuration that ships.
        data: pictures (`image.dataset.open_pictures`).
        out: run folder: checkpoint, metrics and finally `model.safetensors`.
        resume: go on from the run's checkpoint; the configuration stored there must be the same.
        threads, device, grad_accum: of `training.launch.Run`.
        overrides: `key=value` pairs on the configuration.
        init: model file whose weights training starts from.
        stages: names of the stages to run; none: all.

    Raises: AudiovqError for a bad configuration, bad pictures or checkpoint, or a full disk.
        KeyboardInterrupt (on SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written.
    """
    config = load_image_config(config_path, list(overrides))
    chosen = chosen_stages(config.train.stages, stages, config_path)
    return _train(config, chosen, data, Run(Path(out), resume, threads, device, grad_accum), init)


def main_prior(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    config_path: str | Path,
    resume: bool = False,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    grad_accum: int = 1,
) -> Path:
    """Train the prior of a finished image model anew, its codes as they are; arguments as for `main_train`.

    Args:
        model: whose encoder and codebook are kept; its configuration holds for all but the prior.
        config_path: where the prior's dimensions and its stage stand.

    Raises: as `main_train`.
    """
    from audiovq.image.modelfile import read_header

    config = load_image_config(config_path, list(overrides))
    kept = dataclasses.replace(
        read_header(model).config, prior=config.model.prior, condition=config.model.condition
    )
    config = ImageConfig(kept, config.train)
    chosen = chosen_stages(config.train.stages, ["pixelcnn"], config_path)
    run = Run(Path(out), resume, threads, device, grad_accum)
    return _train(config, chosen, data, run, model, anew=True)


def _train(
    config: ImageConfig,
    stages: tuple[StageConfig, ...],
    data: str | Path,
    run: Run,
    init: str | Path | None,
    anew: bool = False,
) -> Path:
    config = ImageConfig(config.model, dataclasses.replace(config.train, stages=stages))

    def task(_: Path) -> ImageTask:
        kept, held_out = open_pictures(data, config.model.channels, report=say)
        return ImageTask(config, kept, held_out, init, anew)

    return run.train(task)


class ImageTask:
    """An `ImageModel` and its pictures, as a `training.trainer.Task`.

    Args:
        config: model and training.
        pictures, held_out: to train on and to score.
        init: model to start from; anew: without its prior.

    Raises: AudiovqError if `init` does not fit.
    """

    unit, file = "images", "model.safetensors"

    def __init__(
        self,
        config: ImageConfig,
        pictures: Pictures,
        held_out: Pictures,
        init: str | Path | None = None,
        anew: bool = False,
    ) -> None:
        self.config = config
        self.train, self.stages = config.train, config.train.stages
        self.pictures, self.held_out = pictures, held_out
        self.identity = {"config": to_dict(config), "classes": list(pictures.classes)}
        torch.manual_seed(config.train.seed)
        self.model = ImageModel(config.model, len(pictures.classes))
        self.history: list[dict[str, Any]] = []
        if init is not None:
            from audiovq.image.modelfile import load_weights, read_header

            load_weights(self.model, init, prior=not anew)
            self.model.codebook.restart_averages()
            header = read_header(init)
            done = header.training.get("stages", [])
            self.history = [stage for stage in done if not (anew and stage["stage"] == "pixelcnn")]
            told = self.model.decoder.class_embedding is not None and header.classes != pictures.classes
            if told and all(stage.stage == "pixelcnn" for stage in self.stages):
                raise AudiovqError(
                    f"{init}: its decoder is told classes, these pictures have others; train it on them first"
                )

    def amount(self, config: StageConfig) -> float:
        """Pictures in one step."""
        return config.batch

    def stage(self, config: StageConfig) -> Stage:
        """What a stage optimises."""
        kinds: dict[str, type[ImageStage]] = {"image": AutoencoderStage, "pixelcnn": PriorStage}
        return kinds[config.stage](self.model, config)

    def reader(self, number: int, train: bool, share: Shard = ALL) -> PictureReader | None:
        """Pictures for a stage."""
        pictures = self.pictures if train else self.held_out
        if not len(pictures):
            return None
        return PictureReader(
            pictures,
            self.config.model.size,
            self.stages[number].batch,
            self.train.seed * 100 + number,
            self.config.train.flip and train,
            self.config.train.shift if train else 0,
            share,
        )

    def examples(self, config: StageConfig) -> list[Example]:
        """None: pictures make no sound."""
        return []

    def write(self, path: Path, done: list[dict[str, Any]]) -> None:
        """Write the model, with what it was trained on and for how long in its header."""
        from audiovq.image.modelfile import save_model

        stages = [{("pictures" if k == "amount" else k): v for k, v in row.items()} for row in done]
        training = {"pictures": len(self.pictures), "stages": self.history + stages}
        save_model(path, self.model, self.pictures.classes, training, force=True)


class ImageStage(Stage):
    """Base of both stages."""

    monitor = "bits"
    model: ImageModel

    def default_weights(self) -> dict[str, float]:
        return {"likelihood": 1.0}

    def _rows(self, batch: PictureBatch, step: int) -> Tensor:
        """Rows of the class table; in training, a share of the pictures is shown without its class."""
        if not any(m.training for m in self.modules()):
            return batch.rows
        generator = torch.Generator().manual_seed(step)
        drawn = batch.part.of(torch.rand(batch.part.total, generator=generator))
        return batch.rows.masked_fill((drawn < self.model.config.drop_prob).to(batch.rows.device), 0)


class AutoencoderStage(ImageStage):
    """Encoder, codebook and decoder by the discretised logistic likelihood of the pixels."""

    def modules(self) -> list[nn.Module]:
        return [self.model.encoder, self.model.codebook, self.model.decoder]

    def loss(self, batch: PictureBatch, step: int) -> tuple[Tensor, Metrics]:
        quantise = step >= self.config.quantize_after or not self.model.codebook.training
        distribution, quantised = self.model.reconstruct(batch.pixels, self._rows(batch, step), quantise)
        nats = distribution.nats(batch.pixels).mean()
        # While nothing is quantised, commitment would only pull all latents onto one code.
        beta = self.model.config.codebook.beta * float(quantise)
        loss = vq_loss(self.weights["likelihood"] * nats, quantised, beta)
        error = distribution.picture().float() - batch.pixels.float()
        return loss, {
            "bits": float(nats.detach()) / math.log(2),
            "mse": float(error.square().mean()) / 255**2,
            "commitment": float(quantised.commitment_loss.detach()),
        }


class PriorStage(ImageStage):
    """The PixelCNN on frozen codes, by their likelihood."""

    def modules(self) -> list[nn.Module]:
        return [self.model.prior]

    def loss(self, batch: PictureBatch, step: int) -> tuple[Tensor, Metrics]:
        # In fp32, as encoding does: under autocast some codes would be others.
        with torch.autocast(batch.pixels.device.type, enabled=False):
            codes = self.model.encode(batch.pixels)
        logits = self.model.prior(codes, self._rows(batch, step))
        nats = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten())
        return self.weights["likelihood"] * nats, {"bits": float(nats.detach()) / math.log(2)}
