"""Likelihood, encoder and decoder, and the one codebook that both backends share."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import audiovq
from audiovq.config.image import ImageConfig, ImageNetworkConfig, PixelCNNConfig, load_image_config
from audiovq.errors import AudiovqError
from audiovq.image.likelihood import PixelDistribution, levels_to_unit_range
from audiovq.image.model import ImageModel
from audiovq.nn.codebook import Codebook
from audiovq.speech.model import WaveformModel
from helpers.images import photo, tiny_config, tiny_model

# Likelihood


def distribution(channels: int, log_scale: float, mean: float = 0.1) -> PixelDistribution:
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(2, 3, 4, PixelDistribution.parameters(channels), generator=generator) * 0.2
    parameters[..., :channels] += mean
    parameters[..., channels : 2 * channels] += log_scale + 1.5
    return PixelDistribution.of(parameters, channels)


@pytest.mark.parametrize("log_scale", [-9.0, -6.0, -3.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-1.3, 0.1, 2.0])
def test_the_256_probabilities_sum_to_one(log_scale: float, mean: float) -> None:
    d = distribution(1, log_scale, mean)
    levels = [torch.full((2, 3, 4, 1), v, dtype=torch.uint8) for v in range(256)]
    total = sum(torch.exp(-d.nats(x).double()) for x in levels)
    torch.testing.assert_close(total, torch.ones_like(total), atol=2e-5, rtol=0)


def test_it_is_the_difference_of_two_logistic_functions() -> None:
    d = distribution(1, -2.0)
    pixels = torch.randint(
        1, 255, (2, 3, 4, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    x = levels_to_unit_range(pixels).double()
    scale = d.log_scale.double().exp()
    above, below = (torch.sigmoid((x + h - d.mean.double()) / scale) for h in (1 / 255, -1 / 255))
    torch.testing.assert_close(d.nats(pixels).double(), -torch.log(above - below), atol=1e-4, rtol=1e-4)


def test_what_lies_far_off_stays_finite_and_has_a_gradient() -> None:
    parameters = torch.zeros(1, 1, 1, 2, requires_grad=True)
    nats = PixelDistribution.of(parameters - torch.tensor([0.0, 20.0]), 1).nats(
        torch.full((1, 1, 1, 1), 200, dtype=torch.uint8)
    )
    (gradient,) = torch.autograd.grad(nats.sum(), parameters)
    assert torch.isfinite(nats).all()
    assert torch.isfinite(gradient).all()
    assert gradient[..., 0] < 0


def test_colours_know_those_before_them() -> None:
    """Joint probabilities over two channels sum to one, and a coupling changes them; means stay."""
    d = distribution(3, -1.0)
    assert d.coupling is not None
    pixels = torch.randint(
        0, 256, (2, 3, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    alone = PixelDistribution(d.mean, d.log_scale, torch.zeros_like(d.coupling))
    assert torch.equal(alone.nats(pixels)[..., 0], d.nats(pixels)[..., 0]), "red knows nothing"
    assert not torch.equal(alone.nats(pixels)[..., 1], d.nats(pixels)[..., 1])
    assert torch.equal(alone.picture(), d.picture())
    total = torch.zeros(2, 3, 4, dtype=torch.double)
    for level in range(256):  # green, whatever red is
        pixels[..., 1] = level
        total += torch.exp(-d.nats(pixels)[..., 1].double())
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_levels_survive() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    exact = PixelDistribution(levels_to_unit_range(levels), torch.zeros(1, 16, 16, 1), None)
    assert torch.equal(exact.picture(), levels)


# Shapes and reach


@pytest.mark.parametrize(("widths", "factor"), [((8, 12), 4), ((4, 8, 12), 8), ((8,), 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(widths: tuple[int, ...], factor: int, channels: int) -> None:
    model = tiny_model(size=16, channels=channels, network=ImageNetworkConfig(widths, 1, 1))
    assert model.factor == factor == model.config.network.factor
    pixels = torch.from_numpy(photo(3 * factor, 5 * factor, channels))[None].repeat(2, 1, 1, 1)
    class_ids = torch.tensor([0, 2])
    codes = model.encode(pixels)
    assert codes.shape == (2, 3, 5)
    back = model.decode(codes, class_ids).picture()
    assert back.shape == pixels.shape
    assert back.dtype == torch.uint8
    both = model.reconstruct(pixels, class_ids)
    assert torch.equal(both.quantised.codes.squeeze(-1), codes)
    assert torch.equal(both.distribution.picture(), back)


def reach_of(function: object, x: Tensor, at: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row and column that output `at` depends on."""
    x = x.double().requires_grad_()
    output = function(x)[:, at[0], at[1]]  # type: ignore[operator]
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), x)
    seen = gradient.abs().sum((0, 3))
    rows, columns = (seen.sum(d).nonzero().flatten().tolist() for d in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize(
    "network",
    [
        ImageNetworkConfig((4, 6), 2, 1, 1),
        ImageNetworkConfig((4, 4, 6), 1, 2, 2),
        ImageNetworkConfig((4,), 3, 2),
    ],
)
def test_reach_is_what_it_says(network: ImageNetworkConfig) -> None:
    model = tiny_model(network=network, channels=1).double()
    f = network.factor
    r = model.encoder.reach
    at = 12
    seen = reach_of(model.encoder, torch.randn(1, 25 * f, 25 * f, 1), (at, at))
    assert (at - r) * f <= seen[0] < (at - r + 1) * f, "stated reach is needed, and enough"
    assert seen[:2] == seen[2:]
    assert seen[1] < (at + r + 1) * f

    def decoded(vectors: Tensor) -> Tensor:
        return model.decoder(vectors, torch.zeros(1, dtype=torch.long)).mean

    r = model.decoder.reach
    at = 12
    width = network.widths[-1]
    for pixel in range(at * f, (at + 1) * f):
        seen = reach_of(decoded, torch.randn(1, 25, 25, width), (pixel, pixel))
        assert seen[0] >= at - r
        assert seen[1] <= at + r


def test_a_decoder_that_is_told_the_class() -> None:
    model = tiny_model(decoder_condition=True)
    codes = torch.randint(0, 32, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    a, b = (model.decode(codes, torch.tensor([row, row])).mean for row in (0, 2))
    assert not torch.equal(a, b)
    plain = tiny_model()
    a, b = (plain.decode(codes, torch.tensor([row, row])).mean for row in (0, 2))
    assert torch.equal(a, b)


# One codebook


def test_both_backends_have_the_same_codebook(tiny_model_path: Path) -> None:
    from audiovq.speech.modelfile import load_model

    speech, _ = load_model(tiny_model_path)
    pictures = tiny_model()
    assert isinstance(speech, WaveformModel)
    assert isinstance(pictures, ImageModel)
    assert type(pictures.codebook) is type(speech.codebook) is Codebook
    # And it does not know how many dimensions there are: a plane is a sequence, folded.
    z = torch.randn(2, 3, 5, 12)
    plane = pictures.codebook(z)
    line = pictures.codebook(z.flatten(1, 2))
    assert torch.equal(plane[0].flatten(1, 2), line[0])
    assert torch.equal(plane[1].codes.flatten(1), line[1].codes.flatten(1))


def test_nothing_else_quantises_or_asks_for_the_number_of_dimensions() -> None:
    for name in ("model", "encoder", "decoder", "blocks", "pixelcnn", "sampling"):
        tree = ast.parse((Path(audiovq.__file__).parent / "image" / f"{name}.py").read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"cdist", "argmin", "ndim"}, name


# Configuration


@pytest.mark.parametrize("name", ["image-fashion-mnist", "image-cifar10", "image-folder", "image-folder-8x"])
def test_configurations_that_ship(name: str) -> None:
    config = load_image_config(name)
    assert config.model.name == name
    assert {s.stage for s in config.train.stages} == {"image", "pixelcnn"}
    assert config.model.bits_per_pixel == pytest.approx(
        math.log2(config.model.codebook.size) / config.model.network.factor**2
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.channels=2", "channels"),
        ("model.size=30", "multiple of 4"),
        ("model.network.widths=[]", "widths"),
        ("model.prior.layers=0", "layers"),
        ("model.prior.dropout=1.0", "dropout"),
        ("model.colour=1", "colour"),
        ("train.shift=-1", "shift"),
        ("train.stages.0.stage='wavenet'", "stage is one of image, pixelcnn"),
        ("model.decoder_condition=true", "condition > 0"),
    ],
)
def test_values_out_of_range(override: str, said: str) -> None:
    extra = ["model.condition=0"] if "decoder_condition" in override else []
    with pytest.raises(AudiovqError, match=said):
        load_image_config("image-fashion-mnist", [*extra, override])


def test_defaults_are_valid() -> None:
    assert ImageConfig().model.side == 8
    assert PixelCNNConfig().layers > 0
    assert tiny_config().side == 4


def test_training_and_evaluation_are_deterministic() -> None:
    a = tiny_model()
    b = tiny_model()
    pixels = torch.from_numpy(np.stack([photo(16, 16, seed=s) for s in range(3)]))
    assert torch.equal(a.encode(pixels), b.encode(pixels))
    assert len(a.encode(pixels).unique()) > 4, "one code alone would agree with anything"
