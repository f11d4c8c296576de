"""The PixelCNN sees exactly what it should, and fast sampling draws what the naive one draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.config.image import PixelCNNConfig
from audiovq.errors import AudiovqError
from audiovq.image.pixelcnn import PixelCNN
from audiovq.image.sampling import GridSamplingOptions, sample_code_grids


def prior(
    layers: int = 3, reach: int = 1, size: int = 32, classes: int = 3, condition: int = 5, sharp: float = 3.0
) -> PixelCNN:
    torch.manual_seed(0)
    config = PixelCNNConfig(channels=8, layers=layers, reach=reach, hidden=12, dropout=0.3)
    network = PixelCNN(size, config, classes, condition).eval()
    with torch.no_grad():  # far from uniform: a wrong logit must change what is drawn
        network.head_out_proj.weight.mul_(sharp)
        network.head_in_proj.weight.mul_(sharp)
        network.code_embedding.mul_(3)
    return network


@torch.no_grad()
def draw_naively(
    network: PixelCNN, class_ids: torch.Tensor, height: int, width: int, sampling: GridSamplingOptions
) -> np.ndarray:
    """As `sample_code_grids`, by the whole network over the whole grid for every code."""
    grid = torch.zeros(len(class_ids), height, width, dtype=torch.long)
    for r, c in np.ndindex(height, width):
        logits = network(grid, class_ids)[:, r, c]
        grid[:, r, c] = sampling.sample_categorical(logits, r * width + c)
    return grid.numpy()


def seen_from(network: PixelCNN, height: int, width: int, r: int, c: int) -> set[tuple[int, int]]:
    """Positions whose embedded code the logits at (r, c) depend on, by gradient."""
    network = network.double()
    x = network.embed(torch.randint(0, network.size, (2, height, width))).detach().requires_grad_()
    logits = network.from_embedded(x, torch.tensor([0, 2]))[:, r, c]
    (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), x)
    return {(int(i), int(j)) for i, j in gradient.abs().sum((0, 3)).nonzero()}


def expected(reach: int, height: int, width: int, r: int, c: int) -> set[tuple[int, int]]:
    """Within reach and before (r, c) in raster order: a rectangle above, and the row to the left."""
    above = {(i, j) for i in range(r - reach - 1, r) for j in range(c - reach, c + reach + 1)}
    left = {(r, j) for j in range(c - reach, c)}
    return {(i, j) for i, j in above | left if 0 <= i < height and 0 <= j < width}


# The mask


@pytest.mark.parametrize(("layers", "reach"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)])
def test_a_position_sees_exactly_the_earlier_ones_within_reach(layers: int, reach: int) -> None:
    network = prior(layers, reach)
    height = 11
    width = 13
    assert network.reach == layers * reach
    for r, c in [(0, 0), (0, 5), (4, 0), (4, 12), (8, 6), (10, 12), (10, 0), (5, 11)]:
        assert seen_from(network, height, width, r, c) == expected(network.reach, height, width, r, c)


def test_nothing_before_is_missing_where_the_reach_covers_the_grid() -> None:
    network = prior(layers=7)
    for r in range(7):
        for c in range(7):
            before = {(i, j) for i in range(7) for j in range(7) if (i, j) < (r, c)}
            assert seen_from(network, 7, 7, r, c) == before, (r, c)


def test_changing_a_code_changes_no_earlier_logit() -> None:
    network = prior(layers=5)
    codes = torch.randint(0, 32, (1, 6, 6))
    whole = network(codes, torch.tensor([1]))
    for r, c in [(0, 0), (2, 3), (5, 5), (3, 0)]:
        other = codes.clone()
        other[0, r, c] = (other[0, r, c] + 1) % 32
        moved = (network(other, torch.tensor([1])) != whole).any(-1)[0].flatten()
        place = r * 6 + c
        assert not moved[: place + 1].any()
        assert place == 35 or moved[place + 1 :].any()


# Classes


def test_classes_and_no_class() -> None:
    network = prior()
    codes = torch.randint(0, 32, (1, 4, 4))
    logits = [network(codes, torch.tensor([row])) for row in range(4)]
    assert all(not torch.equal(logits[i], logits[j]) for i in range(4) for j in range(i))
    blind = prior(condition=0)
    assert torch.equal(blind(codes, torch.tensor([0])), blind(codes, torch.tensor([3])))


# Sampling


@pytest.mark.parametrize(("layers", "reach", "size"), [(1, 1, 32), (4, 1, 50), (2, 2, 48), (3, 3, 16)])
@pytest.mark.parametrize("shape", [(7, 7), (1, 1), (3, 9), (8, 2)])
def test_fast_draws_what_naive_draws(layers: int, reach: int, size: int, shape: tuple[int, int]) -> None:
    network = prior(layers, reach, size)
    class_ids = torch.tensor([0, 2, 3])
    for how in (
        GridSamplingOptions(1),
        GridSamplingOptions(5, temperature=0.7, top_k=5),
        GridSamplingOptions(temperature=0.0),
    ):
        fast, naive = (f(network, class_ids, *shape, how) for f in (sample_code_grids, draw_naively))
        assert fast.shape == (3, *shape)
        assert fast.dtype == np.uint16
        assert fast.max() < size
        assert np.array_equal(fast, naive)
    if shape == (7, 7):
        assert len(np.unique(sample_code_grids(network, class_ids, 7, 7, GridSamplingOptions(1)))) > 5


def test_steps_give_the_logits_of_the_whole_grid() -> None:
    network = prior(layers=4, reach=2)
    class_ids = torch.tensor([1, 0])
    codes = torch.randint(0, 32, (2, 9, 8))
    with torch.no_grad():
        whole = network(codes, class_ids)
        state = network.initial_state(class_ids, 8)
        past = torch.full((2,), -1)
        steps = []
        for r, c in np.ndindex(9, 8):
            steps.append(network.step(past, state))
            past = codes[:, r, c]
    assert whole.std() > 0.1
    torch.testing.assert_close(torch.stack(steps, dim=1).view_as(whole), whole, atol=1e-4, rtol=1e-5)


def test_a_picture_is_the_same_whatever_is_drawn_beside_it() -> None:
    network = prior()
    three = sample_code_grids(network, torch.tensor([0, 0, 0]), 5, 5, GridSamplingOptions(3))
    again = sample_code_grids(network, torch.tensor([0, 0]), 5, 5, GridSamplingOptions(3, first=1))
    assert np.array_equal(three[1:], again)
    assert not np.array_equal(three[0], three[1])
    assert not np.array_equal(
        three, sample_code_grids(network, torch.tensor([0, 0, 0]), 5, 5, GridSamplingOptions(4))
    )


def test_draws_follow_the_distribution() -> None:
    """The first code of many pictures is spread as the softmax says."""
    network = prior(size=20, sharp=1.5)
    class_ids = torch.zeros(4000, dtype=torch.long)
    with torch.no_grad():
        shares = torch.softmax(
            network(torch.zeros(1, 1, 1, dtype=torch.long), class_ids[:1])[0, 0, 0], -1
        ).numpy()
    counts = (
        np.bincount(sample_code_grids(network, class_ids, 1, 1, GridSamplingOptions(7)).ravel(), minlength=20)
        / 4000
    )
    assert np.abs(counts - shares).max() < 0.03
    assert shares.max() - shares.min() > 0.02


@pytest.mark.parametrize(
    "how",
    [
        GridSamplingOptions(temperature=-1.0),
        GridSamplingOptions(temperature=float("nan")),
        GridSamplingOptions(top_k=33),
    ],
)
def test_values_out_of_range(how: GridSamplingOptions) -> None:
    with pytest.raises(AudiovqError):
        sample_code_grids(prior(), torch.tensor([0]), 2, 2, how)


def test_a_grid_larger_than_the_reach() -> None:
    network = prior(layers=2)
    class_ids = torch.tensor([0])
    fast, naive = (
        f(network, class_ids, 4, 40, GridSamplingOptions(2)) for f in (sample_code_grids, draw_naively)
    )
    assert np.array_equal(fast, naive)
