"""What the tests of the image backend share: a tiny model, its file, and pictures without noise or with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from audiovq.config.image import ImageModelConfig, ImageNetworkConfig, PixelCNNConfig
from audiovq.config.speech import CodebookConfig
from audiovq.image.files import Pixels
from audiovq.image.model import ImageModel
from audiovq.image.modelfile import save_image_model

TRAINED = {"pictures": 7, "stages": [{"stage": "image"}, {"stage": "pixelcnn"}]}


def tiny_config(**changes: object) -> ImageModelConfig:
    """A model small enough for a test; 4x per side, colour."""
    parts: dict[str, object] = {
        "name": "tiny",
        "channels": 3,
        "size": 16,
        "condition": 6,
        "network": ImageNetworkConfig(widths=(8, 12), units=1, decoder_units=1),
        "codebook": CodebookConfig(size=32, dim=4),
        "prior": PixelCNNConfig(channels=8, layers=3, hidden=12, dropout=0.0),
    }
    return ImageModelConfig(**(parts | changes))  # type: ignore[arg-type]


def tiny_model(classes: int = 2, seed: int = 0, **changes: object) -> ImageModel:
    """With random weights, and a codebook of latents of random pictures, so that many codes are used."""
    torch.manual_seed(seed)
    model = ImageModel(tiny_config(**changes), classes).eval()
    with torch.no_grad():
        config = model.config
        pixels = torch.from_numpy(photo(8 * config.size, 4 * config.size, config.channels))[None]
        latents = model.codebook.to_codebook_space(model.encoder(pixels / 127.5 - 1))
        flat = latents.flatten(0, 2)
        model.codebook.vectors.copy_(flat[torch.randperm(len(flat))[: config.codebook.size]])
    return model


def save_tiny(path: Path, names: tuple[str, ...] = ("cat", "dog"), **changes: object) -> Path:
    """The file of a tiny model."""
    save_image_model(path, tiny_model(len(names), **changes), names, TRAINED)
    return path


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Gradients, edges and noise, as in a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    waves = [np.sin(x * (1 + c) + seed) + np.cos(y * (2 - c) - seed) for c in range(channels)]
    noise = rng.standard_normal((height, width, channels))
    levels = 128 + 50 * np.stack(waves, axis=-1) + 12 * noise
    return levels.clip(0, 255).astype(np.uint8)
