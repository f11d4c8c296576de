"""The image model: encoder, codebook, decoder, and the prior over its codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiovq.config.image import ImageModelConfig
from audiovq.errors import AudiovqError
from audiovq.image.decoder import ImageDecoder
from audiovq.image.encoder import ImageEncoder
from audiovq.image.likelihood import PixelDistribution, levels_to_unit_range
from audiovq.image.pixelcnn import PixelCNN
from audiovq.nn.codebook import Codebook, QuantiserOutput


class ImageReconstruction(NamedTuple):
    """Training-time pass through encoder, codebook and decoder."""

    distribution: PixelDistribution
    quantised: QuantiserOutput


class ImageModel(nn.Module):
    """All parts of the 2-D backend, built from an `ImageModelConfig`.

    Args:
        config: dimensions.
        classes: number of classes.

    Raises: AudiovqError for a codebook of several levels or frames a step, which are for speech.
    """

    MUON = (
        r"encoder\.(in_proj|downsamples\.\d+)\.weight",
        r"decoder\.(in_proj|out_proj|upsamples\.\d+)\.weight",
        r"(encoder|decoder)\.(units\.\d+|fine\.\d+\.\d+)\.(wide|pointwise|film)\.weight",
        r"prior\.layers\.\d+\.(vertical|horizontal|link|vertical_proj|horizontal_proj)\.weight",
    )
    """Hidden matrices: names of the parameters that Muon moves (`training.optimizer`)."""
    ADAMW = (
        r".*bias",
        r".*norm\.weight",
        r"codebook\.(vectors|(in|out)_proj\.weight)",
        r"(decoder|prior)\.class_embedding",
        r"prior\.(code_embedding|(class_proj|head_in_proj|head_out_proj)\.weight)",
    )
    """Everything else: biases, norms, tables, inputs and outputs."""

    def __init__(self, config: ImageModelConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.classes = classes
        self.factor = config.network.factor
        self.encoder = ImageEncoder(config.channels, config.network)
        k = config.codebook
        if k.levels > 1 or k.frames_per_step > 1:
            raise AudiovqError(
                "configuration: images have one level and one frame a step; "
                "set codebook.levels and codebook.frames_per_step to 1"
            )
        self.codebook = Codebook(
            k.size,
            k.dim,
            self.encoder.out_channels,
            k.update,
            k.ema_decay,
            k.normalize,
            k.dead_code_threshold,
        )
        condition = config.condition if config.decoder_condition else 0
        self.decoder = ImageDecoder(config.channels, config.network, classes, condition)
        self.prior = PixelCNN(k.size, config.prior, classes, config.condition)

    def reconstruct(self, pixels: Tensor, class_ids: Tensor, quantise: bool = True) -> ImageReconstruction:
        """Training pass.

        Args:
            pixels: `(B, H, W, channels)` uint8, sides multiples of the factor.
            class_ids: `(B,)` class number + 1 (0: no class).
        """
        vectors, quantised = self.codebook(self.encoder(levels_to_unit_range(pixels)), quantise)
        return ImageReconstruction(self.decoder(vectors, class_ids), quantised)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes `(B, H / factor, W / factor)` int64 of pictures `(B, H, W, channels)` uint8."""
        return self.codebook.encode(self.encoder(levels_to_unit_range(pixels))).squeeze(-1)

    @torch.no_grad()
    def decode(self, codes: Tensor, class_ids: Tensor) -> PixelDistribution:
        """Distributions over pictures `(B, H, W, channels)` for codes `(B, h, w)` and class ids `(B,)`."""
        vectors = self.codebook.lookup(codes.unsqueeze(-1))
        distribution: PixelDistribution = self.decoder(vectors, class_ids)
        return distribution
