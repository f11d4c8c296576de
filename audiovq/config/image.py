"""Configuration of the image backend, in the style of `audiovq.config.speech`.

[model]            -> ImageModelConfig      [train]            -> ImageTrainConfig
[model.network]    -> ImageNetworkConfig    [[train.stages]]   -> StageConfig, in order
[model.codebook]   -> CodebookConfig (the one of speech)
[model.prior]      -> PixelCNNConfig
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from audiovq.config.speech import MOST_CHANNELS, MOST_LAYERS, CodebookConfig
from audiovq.config.toml import load_toml, raise_unless, require_range
from audiovq.config.training import TrainConfig

_LARGEST_SIZE = 4096
"""Side of a training picture, pixels."""
_IMAGE_STAGES = ("image", "pixelcnn")
"""Stages of an image model: encoder, codebook and decoder together, then the prior on frozen codes."""


@dataclass(frozen=True)
class ImageNetworkConfig:
    """Encoder and decoder."""

    widths: tuple[int, ...] = (64, 128)  # one for each halving of the sides, finest first
    units: int = 2  # residual units at code rate in the encoder
    decoder_units: int = 4  # residual units at code rate in the decoder
    fine_units: int = 1  # residual units at each finer resolution of both

    def __post_init__(self) -> None:
        raise_unless(1 <= len(self.widths) <= 6, "network.widths must name 1 to 6 widths")
        for width in self.widths:
            require_range("network.widths", width, 1, MOST_CHANNELS)
        for name in ("units", "decoder_units", "fine_units"):
            require_range(f"network.{name}", getattr(self, name), 0, MOST_LAYERS)

    @property
    def factor(self) -> int:
        """Pixels a code, per side."""
        return 1 << len(self.widths)


@dataclass(frozen=True)
class PixelCNNConfig:
    """Prior: see `image.pixelcnn.PixelCNN`."""

    channels: int = 96
    layers: int = 6
    reach: int = 1  # codes by which each layer sees further
    hidden: int = 192  # channels of the head
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("channels", "hidden"):
            require_range(f"prior.{name}", getattr(self, name), 1, MOST_CHANNELS)
        for name in ("layers", "reach"):
            require_range(f"prior.{name}", getattr(self, name), 1, MOST_LAYERS)
        raise_unless(0 <= self.dropout < 1, f"prior.dropout must lie in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class ImageModelConfig:
    """The whole image model."""

    name: str = "image"
    channels: int = 3  # 1: grey; 3: colour
    size: int = 32  # side of a training picture in pixels, and of a generated one
    condition: int = 64  # channels of the class embedding; 0: classes have no effect
    drop_prob: float = 0.1  # share of training pictures shown without their class
    decoder_condition: bool = False  # condition the decoder on the class too, not the prior alone
    network: ImageNetworkConfig = field(default_factory=ImageNetworkConfig)
    codebook: CodebookConfig = field(default_factory=lambda: CodebookConfig(dim=8))
    prior: PixelCNNConfig = field(default_factory=PixelCNNConfig)

    def __post_init__(self) -> None:
        raise_unless(self.channels in (1, 3), f"channels is 1 (grey) or 3 (colour), not {self.channels}")
        require_range("condition", self.condition, 0, MOST_CHANNELS)
        raise_unless(0 <= self.drop_prob <= 1, f"drop_prob must lie in 0..1, not {self.drop_prob}")
        raise_unless(
            not self.decoder_condition or self.condition > 0, "decoder_condition needs condition > 0"
        )
        raise_unless(
            1 <= self.size <= _LARGEST_SIZE and self.size % self.network.factor == 0,
            f"size must be a multiple of {self.network.factor} pixels (one code) up to {_LARGEST_SIZE}, "
            f"not {self.size}",
        )

    @property
    def side(self) -> int:
        """Codes along a side of a training picture."""
        return self.size // self.network.factor

    @property
    def bits_per_pixel(self) -> float:
        """Nominal rate: log2 K for every factor x factor pixels."""
        return math.log2(self.codebook.size) / self.network.factor**2


@dataclass(frozen=True)
class ImageTrainConfig(TrainConfig):
    """Training, and augmentation of pictures."""

    flip: bool = False  # mirror half of them left to right
    shift: int = 0  # move each by up to so many pixels, its edges repeated

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("train.shift", self.shift, 0, _LARGEST_SIZE)


@dataclass(frozen=True)
class ImageConfig:
    """An image model and how to train it."""

    model: ImageModelConfig = field(default_factory=ImageModelConfig)
    train: ImageTrainConfig = field(default_factory=ImageTrainConfig)

    def __post_init__(self) -> None:
        self.train.require_stages(_IMAGE_STAGES)


def load_image_config(path: str | Path, overrides: list[str] | None = None) -> ImageConfig:
    """Read a TOML configuration of an image model: see `config.toml.load_toml`."""
    return load_toml(path, overrides, ImageConfig)
