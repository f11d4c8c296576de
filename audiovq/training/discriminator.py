"""A patch discriminator on log spectra, for the end of the codes stage.

Losses between spectra predict medians, so that decoded speech lacks energy and detail above 4 kHz. A
discriminator that tells predicted spectra from real ones, in patches of some frames and bins, cures that with
a quarter of an hour of training at frame rate (docs/training.md). Hinge loss (arXiv 1705.02894) and feature
matching (arXiv 1910.06711, equation 3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from audiovq.nn.guard import own_generator
from audiovq.training.losses import MAGNITUDE_FLOOR

_CHANNELS = 48
_FEATURE_WEIGHT = 4.0
"""Of the distance between features, beside the mean logit."""
_CENTRE = -4.9
_SPREAD = 0.83
"""Mean and standard deviation of log magnitudes of the training speech, floor included."""
_LAYERS = (
    ((3, 8), (1, 2), (1, 3)),
    ((4, 8), (2, 2), (1, 3)),
    ((3, 8), (1, 2), (1, 3)),
    ((4, 4), (2, 2), (1, 1)),
)
"""Kernel, stride and padding over frames and bins. Strides divide their kernels: otherwise bins get unequal
gradients, and predicted spectra show bands as far apart as the product of the strides."""


class AdversarialLosses(NamedTuple):
    """Scalars: the discriminator's loss, and what the generator adds to its own."""

    discriminator: Tensor
    generator: Tensor


class SpectrumDiscriminator(nn.Module):
    """Strided 2-D convolutions over frames and bins.

    Shape: log magnitudes `(B, F, bins)` to logits `(B, 1, F', bins')` of patches, and the features of each
    layer.
    """

    def __init__(self, channels: int = _CHANNELS) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        inputs = 1
        for kernel, stride, padding in _LAYERS:
            self.layers.append(nn.Conv2d(inputs, channels, kernel, stride, padding))
            inputs = channels
        self.out_proj = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, log_magnitude: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = ((log_magnitude - _CENTRE) / _SPREAD).unsqueeze(1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.out_proj(x), features


class AdversarialObjective(nn.Module):
    """Both losses in one pass, so that one backward serves generator and discriminator.

    The discriminator's loss sees detached spectra; the generator's sees detached weights.

    Args:
        lead: steps after which the generator feels the discriminator.
    """

    def __init__(self, lead: int) -> None:
        super().__init__()
        self.lead = lead
        with own_generator(0):
            self.net = SpectrumDiscriminator()

    def forward(
        self, predicted: Tensor, target: Tensor, step: int
    ) -> tuple[AdversarialLosses, dict[str, float]]:
        """Losses and metrics of a step.

        Args:
            predicted: log magnitudes `(B, F, bins)`; target: of the recording, with the losses' floor.
        """
        # With the same floor: values below it would give the prediction away.
        predicted = 0.5 * torch.log(torch.exp(2 * predicted.clamp_max(6.0)) + MAGNITUDE_FLOOR**2)
        fake, _ = self.net(predicted.detach())
        real, features = self.net(target)
        discriminator = F.relu(1 + fake.float()).mean() + F.relu(1 - real.float()).mean()
        metrics = {"discriminator": float(discriminator.detach())}
        if step < self.lead:
            return AdversarialLosses(discriminator, discriminator.new_zeros(())), metrics
        frozen = {name: value.detach() for name, value in self.net.named_parameters()}
        logits, made = functional_call(self.net, frozen, (predicted,))
        distances = [F.l1_loss(a.float(), b.detach().float()) for a, b in zip(made, features, strict=True)]
        matching = torch.stack(distances).mean()
        generator = _FEATURE_WEIGHT * matching - logits.float().mean()
        metrics |= {"matching": float(matching.detach()), "fooled": float(logits.detach().float().mean())}
        return AdversarialLosses(discriminator, generator), metrics
