"""Training an image model: what `audiovq image train` and `audiovq image prior` do.

image      encoder, codebook and decoder, by the likelihood of the pixels (arXiv 1711.00937, equation 3)
pixelcnn   the prior, on frozen codes, by their likelihood
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import ImageConfig, load_image_config
from audiovq.config.toml import dataclass_to_dict
from audiovq.config.training import StageConfig
from audiovq.data.sharding import SINGLE_SHARD, Shard
from audiovq.errors import AudiovqError
from audiovq.image.dataset import PictureDataset, open_pictures
from audiovq.image.loader import PictureBatch, PictureReader
from audiovq.image.model import ImageModel
from audiovq.image.modelfile import load_image_weights, read_image_header, save_image_model
from audiovq.image.tokenizer import DEFAULT_IMAGE_MODEL_PATH
from audiovq.io import JsonObject
from audiovq.nn.guard import own_generator
from audiovq.training.launch import launch_training, select_stages
from audiovq.training.losses import vq_loss
from audiovq.training.metrics_log import PreviewExample
from audiovq.training.run_options import RunOptions
from audiovq.training.stage import StageMetrics, TrainingStage


def train_image_model(
    config_path: str | Path,
    data: str | Path,
    options: RunOptions,
    overrides: Sequence[str] = (),
    init: str | Path | None = None,
    stages: Sequence[str] = (),
) -> Path:
    """Train an image model from a configuration; returns the path of the finished model.

    Args:
        config_path: TOML file or the name of a configuration that ships.
        data: pictures (`image.dataset.open_pictures`).
        overrides: `key=value` pairs on the configuration.
        init: model file whose weights training starts from.
        stages: names of the stages to run; none: all.

    Raises: AudiovqError for a bad configuration, bad pictures or checkpoint, or a full disk.
        KeyboardInterrupt (on SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written.
    """
    config = load_image_config(config_path, list(overrides))
    chosen = select_stages(config.train.stages, stages, config_path)
    return _train(config, chosen, data, options, init)


def train_image_prior(
    config_path: str | Path,
    data: str | Path,
    options: RunOptions,
    overrides: Sequence[str] = (),
    model: str | Path = DEFAULT_IMAGE_MODEL_PATH,
) -> Path:
    """Train a new prior for a finished image model, whose codes do not change.

    Args: as for `train_image_model`.
        config_path: dimensions of the prior and its stage "pixelcnn"; the rest is the model's.
        model: gives everything but the prior.

    Raises: as `train_image_model`.
    """
    config = load_image_config(config_path, list(overrides))
    kept = dataclasses.replace(
        read_image_header(model).config, prior=config.model.prior, condition=config.model.condition
    )
    config = ImageConfig(kept, config.train)
    chosen = select_stages(config.train.stages, ["pixelcnn"], config_path)
    return _train(config, chosen, data, options, model, new_prior=True)


def _train(
    config: ImageConfig,
    stages: tuple[StageConfig, ...],
    data: str | Path,
    options: RunOptions,
    init: str | Path | None,
    new_prior: bool = False,
) -> Path:
    config = ImageConfig(config.model, dataclasses.replace(config.train, stages=stages))

    def task(_: Path) -> ImageTask:
        kept, held_out = open_pictures(data, config.model.channels)
        return ImageTask(config, kept, held_out, init, new_prior)

    return launch_training(options, task)


class ImageTask:
    """An `ImageModel` and its pictures, as a `training.trainer.TrainingTask`.

    Args:
        config: model and training.
        pictures, held_out: to train on and to score.
        init: model to start from, without its prior if `new_prior`.

    Raises: AudiovqError if `init` does not fit.
    """

    unit = "images"
    file = "model.safetensors"

    def __init__(
        self,
        config: ImageConfig,
        pictures: PictureDataset,
        held_out: PictureDataset,
        init: str | Path | None = None,
        new_prior: bool = False,
    ) -> None:
        self.config = config
        self.train = config.train
        self.stages = config.train.stages
        self.pictures = pictures
        self.held_out = held_out
        self.identity = {"config": dataclass_to_dict(config), "classes": list(pictures.classes)}
        with own_generator(config.train.seed):
            self.model = ImageModel(config.model, len(pictures.classes))
        self.history: list[JsonObject] = []
        if init is not None:
            load_image_weights(self.model, init, prior=not new_prior)
            self.model.codebook.restart_averages()
            header = read_image_header(init)
            done = header.training.get("stages", [])
            self.history = [stage for stage in done if not (new_prior and stage["stage"] == "pixelcnn")]
            conditioned = self.model.decoder.class_embedding is not None
            only_prior = all(stage.stage == "pixelcnn" for stage in self.stages)
            if conditioned and only_prior and header.classes != pictures.classes:
                raise AudiovqError(
                    f"{init}: its decoder is conditioned on other classes than these pictures have; train it "
                    "on them first"
                )

    def amount(self, config: StageConfig) -> float:
        """Pictures in one step."""
        return config.batch

    def stage(self, config: StageConfig) -> TrainingStage:
        """The stage of a configuration."""
        kinds: dict[str, type[ImageStage]] = {"image": AutoencoderStage, "pixelcnn": PixelCNNStage}
        return kinds[config.stage](self.model, config)

    def reader(self, number: int, train: bool, shard: Shard = SINGLE_SHARD) -> PictureReader | None:
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
            shard,
        )

    def examples(self, config: StageConfig) -> list[PreviewExample]:
        """None: pictures make no sound."""
        return []

    def write(self, path: Path, done: list[JsonObject], force: bool) -> None:
        """Write the model, with pictures and stages of its training in the header."""
        stages = [{("pictures" if k == "amount" else k): v for k, v in row.items()} for row in done]
        training = {"pictures": len(self.pictures), "stages": self.history + stages}
        save_image_model(path, self.model, self.pictures.classes, training, force=force)


class ImageStage(TrainingStage):
    """Base of both stages."""

    monitor = "bits"
    model: ImageModel

    def default_weights(self) -> dict[str, float]:
        return {"likelihood": 1.0}

    def _class_ids(self, batch: PictureBatch, step: int) -> Tensor:
        """Class ids; in training, a share of the pictures is shown without its class."""
        if not any(m.training for m in self.modules()):
            return batch.class_ids
        generator = torch.Generator().manual_seed(step)
        drawn = batch.part.of(torch.rand(batch.part.total, generator=generator))
        dropped = (drawn < self.model.config.drop_prob).to(batch.class_ids.device)
        return batch.class_ids.masked_fill(dropped, 0)


class AutoencoderStage(ImageStage):
    """Encoder, codebook and decoder by the discretised logistic likelihood of the pixels."""

    def modules(self) -> list[nn.Module]:
        return [self.model.encoder, self.model.codebook, self.model.decoder]

    def loss(self, batch: PictureBatch, step: int) -> tuple[Tensor, StageMetrics]:
        quantise = step >= self.config.quantize_after or not self.model.codebook.training
        distribution, quantised = self.model.reconstruct(batch.pixels, self._class_ids(batch, step), quantise)
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


class PixelCNNStage(ImageStage):
    """The PixelCNN on frozen codes, by their likelihood."""

    def modules(self) -> list[nn.Module]:
        return [self.model.prior]

    def loss(self, batch: PictureBatch, step: int) -> tuple[Tensor, StageMetrics]:
        # In fp32, as encoding does: under autocast some codes would be others.
        with torch.autocast(batch.pixels.device.type, enabled=False):
            codes = self.model.encode(batch.pixels)
        logits = self.model.prior(codes, self._class_ids(batch, step))
        nats = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten())
        return self.weights["likelihood"] * nats, {"bits": float(nats.detach()) / math.log(2)}
