"""The codebook: the paper's loss and gradients, moving averages, revival, fp32 distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.nn.codebook import Codebook
from audiovq.nn.kmeans import _kmeans
from audiovq.training.losses import vq_loss


def make(update: str = "ema", size: int = 8, dim: int = 3, **options: object) -> Codebook:
    """A codebook whose vectors lie apart from each other, without normalisation and revival."""
    torch.manual_seed(0)
    settings: dict[str, object] = {"normalize": False, "dead_code_threshold": 0.0} | options
    codebook = Codebook(size, dim, update=update, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        codebook.vectors.copy_(torch.randn(size, dim))
        codebook.ema_sums.copy_(codebook.vectors)
    return codebook


def nearest(z: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Equation 1, written out."""
    return np.array([np.argmin([np.sum((e - v) ** 2) for v in vectors]) for e in z])


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_loss_is_equation_3(update: str) -> None:
    codebook = make(update).eval()
    z, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    beta = 0.3
    out, quantised = codebook(z)
    loss = vq_loss(F.mse_loss(out, target), quantised, beta)

    flat, vectors = z.reshape(-1, 3).double().numpy(), codebook.vectors.detach().double().numpy()
    e = vectors[nearest(flat, vectors)]
    reconstruction = np.mean((e - target.reshape(-1, 3).double().numpy()) ** 2)
    codebook_term = np.mean((flat - e) ** 2) if update == "gradient" else 0.0
    expected = reconstruction + codebook_term + beta * np.mean((flat - e) ** 2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert float(quantised.commitment_loss) > 0


def test_gradient_passes_straight_through() -> None:
    codebook = make("gradient")
    z = torch.randn(2, 5, 3, requires_grad=True)
    out, quantised = codebook(z)
    out.retain_grad()
    (out * torch.randn(2, 5, 3)).sum().backward()
    assert out.grad is not None
    assert z.grad is not None
    torch.testing.assert_close(z.grad, out.grad, rtol=0, atol=0)
    # The reconstruction moves the encoder only.
    assert codebook.vectors.grad is None or not codebook.vectors.grad.any()
    torch.testing.assert_close(out, F.embedding(quantised.codes[:, :, 0], codebook.vectors))


def test_codebook_term_alone_moves_the_vectors() -> None:
    codebook = make("gradient")
    z = torch.randn(40, 3, requires_grad=True)
    _, quantised = codebook(z)
    loss = vq_loss(torch.zeros(()), quantised, beta=0.25)
    loss.backward()
    assert codebook.vectors.grad is not None
    assert z.grad is not None
    # d/de mean (e - z)^2 = 2 (e - z) / numel, summed over the vectors that chose e.
    e = codebook.vectors.detach()[quantised.codes[:, 0]]
    expected = torch.zeros_like(codebook.vectors).index_add_(
        0, quantised.codes[:, 0], 2 * (e - z.detach()) / z.numel()
    )
    torch.testing.assert_close(codebook.vectors.grad, expected)
    # And the encoder feels beta times the commitment term, not the codebook term.
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - e) / z.numel())


def test_commitment_term_leaves_the_codebook_alone() -> None:
    codebook = make("gradient")
    z = torch.randn(40, 3, requires_grad=True)
    _, quantised = codebook(z)
    quantised.commitment_loss.backward()
    assert codebook.vectors.grad is None or not codebook.vectors.grad.any()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_codebook_term_leaves_the_encoder_alone() -> None:
    codebook = make("gradient")
    z = torch.randn(40, 3, requires_grad=True)
    _, quantised = codebook(z)
    quantised.codebook_loss.backward()
    assert z.grad is None or not z.grad.any()


def test_moving_averages_are_equations_6_to_8() -> None:
    codebook = make("ema", ema_decay=0.9).train()
    counts, sums = np.ones(8), codebook.vectors.double().numpy().copy()
    vectors = sums.copy()
    for step in range(3):
        z = torch.randn(50, 3, generator=torch.Generator().manual_seed(step))
        _, quantised = codebook(z)
        codebook.update_ema()
        chosen = nearest(z.double().numpy(), vectors)
        assert chosen.tolist() == quantised.codes[:, 0].tolist()
        for k in range(8):
            counts[k] = 0.9 * counts[k] + 0.1 * np.sum(chosen == k)
            sums[k] = 0.9 * sums[k] + 0.1 * z.double().numpy()[chosen == k].sum(0)
        smoothed = (counts + 1e-5) / (counts.sum() + 8 * 1e-5) * counts.sum()
        vectors = sums / smoothed[:, None]
        np.testing.assert_allclose(codebook.ema_counts, counts, rtol=1e-5)
        np.testing.assert_allclose(codebook.vectors, vectors, rtol=1e-4, atol=1e-6)


def test_averages_keep_the_norm_of_the_codes() -> None:
    codebook = Codebook(16, 4, update="ema", normalize=False, dead_code_threshold=0.0).train()
    with torch.no_grad():
        codebook.vectors.copy_(torch.randn(16, 4))
        codebook.ema_sums.copy_(codebook.vectors)
    before = codebook.vectors.norm(dim=-1).mean()
    codebook(codebook.vectors.repeat(50, 1))
    codebook.update_ema()
    assert float(codebook.vectors.norm(dim=-1).mean() / before) == pytest.approx(1, abs=1e-3)


def test_evaluation_changes_no_state() -> None:
    codebook = make("ema", dead_code_threshold=0.5).eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(torch.randn(100, 3))
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


def with_a_dead_code(update: str) -> tuple[Codebook, Tensor]:
    """Data around four of eight codes; the other four are far away and already hardly counted."""
    codebook = make(update, dead_code_threshold=0.1).train()
    with torch.no_grad():
        codebook.vectors[4:] += 100
        codebook.ema_sums.copy_(codebook.vectors)
        codebook.ema_counts[4:] = 1e-3
        codebook.ema_sums[4:] *= 1e-3
    generator = torch.Generator().manual_seed(3)
    return codebook, torch.randn(64, 3, generator=generator) * 0.1


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_revived_code_is_a_data_vector_and_stays_one(update: str) -> None:
    codebook, data = with_a_dead_code(update)
    codebook(data)
    codebook.update_ema()
    revived = codebook.vectors.detach()[4:].clone()
    assert all((data - vector).abs().sum(-1).min() == 0 for vector in revived), "no vector of the batch"
    assert int(codebook.num_restarts) >= 4
    # One step later, when nothing near it comes: the averages must not write the old vector back.
    elsewhere = codebook.vectors.detach()[:1] + torch.tensor([[-60.0, -60.0, -60.0]])
    _, quantised = codebook(elsewhere.repeat(64, 1))
    codebook.update_ema()
    unchosen = [k for k in range(4, 8) if k not in set(quantised.codes.flatten().tolist())]
    assert unchosen
    for k in unchosen:
        torch.testing.assert_close(codebook.vectors.detach()[k], revived[k - 4], rtol=1e-4, atol=1e-5)


def test_a_revived_code_is_used_one_step_later() -> None:
    codebook, data = with_a_dead_code("ema")
    codebook(data)
    codebook.update_ema()
    _, quantised = codebook(data)
    assert set(quantised.codes.flatten().tolist()) & {4, 5, 6, 7}
    # Nor is it dead again at once: it starts over with the mean count.
    assert float(codebook.ema_counts[4:].min()) > 0.1 * float(codebook.ema_counts.mean())


def test_revival_is_deterministic() -> None:
    tables = []
    for noise in (1, 2):
        codebook, data = with_a_dead_code("ema")
        torch.manual_seed(noise)
        codebook(data)
        codebook.update_ema()
        tables.append(codebook.vectors.clone())
    assert torch.equal(*tables)


@pytest.mark.parametrize("normalize", [False, True])
def test_codebook_vectors_map_to_themselves(normalize: bool) -> None:
    codebook = make("ema", size=64, normalize=normalize).eval()
    z = codebook.table()
    assert codebook.encode(z).flatten().tolist() == list(range(64))
    out, quantised = codebook(z)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(codebook.lookup(torch.arange(64)[:, None]), z)
    assert float(quantised.commitment_loss) < 1e-10


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5)])
def test_vectors_stand_in_the_last_axis(shape: tuple[int, ...]) -> None:
    codebook = Codebook(16, 4, in_channels=6).eval()
    z = torch.randn(*shape, 6)
    out, quantised = codebook(z)
    assert out.shape == z.shape
    assert quantised.codes.shape == (*shape, 1)
    assert quantised.vectors.shape == (*shape, 4)
    each = [codebook.encode(vector[None])[0, 0] for vector in z.reshape(-1, 6)]
    assert quantised.codes.reshape(-1).tolist() == [int(code) for code in each]
    torch.testing.assert_close(codebook.lookup(quantised.codes), out)


def test_unquantised_steps_pass_the_latent() -> None:
    codebook = make("ema").train()
    z = torch.randn(30, 3)
    before = codebook.ema_counts.clone()
    out, quantised = codebook(z, quantise=False)
    codebook.update_ema()
    torch.testing.assert_close(out, z)
    assert quantised.codes.unique().numel() > 1
    assert not torch.equal(codebook.ema_counts, before), "the averages follow from the first step"


def close_calls() -> tuple[Codebook, Tensor]:
    """Codes that only fp32 tells apart: bf16 has 8 bits."""
    codebook = make("ema", size=64, dim=2).eval()
    with torch.no_grad():
        codebook.vectors.copy_(torch.stack([torch.ones(64), torch.linspace(-0.1, 0.1, 64)], dim=-1))
    return codebook, codebook.vectors.clone()


def test_encoding_measures_distances_in_fp32_under_autocast() -> None:
    codebook, z = close_calls()
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook.encode(z).flatten().tolist() == list(range(64))


def test_training_measures_distances_in_fp32_under_autocast() -> None:
    codebook, z = close_calls()
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook(z)[1].codes.flatten().tolist() == list(range(64))


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    codebook = make("ema", size=4).eval()
    table = codebook.table()

    def usage(z: Tensor) -> tuple[float, int]:
        codebook(z)
        usage = codebook.usage()
        return usage.perplexity[0], usage.used[0]

    assert usage(table) == pytest.approx((4, 4), rel=1e-5)
    assert usage(table[:1].repeat(9, 1)) == pytest.approx((1, 1), rel=1e-5)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert usage(table[[0, 0, 0, 1]]) == pytest.approx((np.exp(entropy), 2), rel=1e-5)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_step_in_pieces_is_a_step(update: str) -> None:
    """Codebook, moving averages, revival and usage do not depend on how a batch was cut."""
    found = []
    for pieces in (1, 4):
        codebook, data = with_a_dead_code(update)
        for piece in data.chunk(pieces):
            codebook(piece)
        found.append((codebook.update_ema(), codebook.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], msg=name)
    assert int(found[0][1]["num_restarts"]) >= 4


def test_a_code_outside_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        make("ema").lookup(torch.tensor([[8]]))


def test_unknown_update_rule() -> None:
    with pytest.raises(ValueError, match="gradient"):
        Codebook(8, 3, update="momentum")


def test_averages_restart_where_the_vectors_are() -> None:
    """A model file holds the vectors without their sums: training that starts from it must not lose them."""
    codebook = make("ema", size=8)
    codebook.vectors.copy_(torch.randn(8, codebook.dim))
    before = codebook.table().clone()
    codebook.restart_averages()
    codebook.train()
    codebook(before)
    codebook.update_ema()
    torch.testing.assert_close(codebook.table(), before, rtol=1e-4, atol=1e-4)


def residual(update: str = "ema", **options: object) -> Codebook:
    """Three levels of eight codes over two frames, started on random vectors."""
    torch.manual_seed(1)
    settings: dict[str, object] = {"levels": 3, "frames_per_step": 2, "dead_code_threshold": 0.0} | options
    codebook = Codebook(8, 3, in_channels=5, update=update, **settings)  # type: ignore[arg-type]
    codebook.train()
    codebook(torch.randn(4, 60, 5))
    codebook.update_ema()
    assert bool(codebook.started)
    return codebook


def by_hand(codebook: Codebook, z: Tensor, levels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(N, levels)` and sums of vectors `(N, 6)`, level by level."""
    rest = codebook.to_codebook_space(z).detach().double().reshape(-1, 6).numpy()
    table = codebook.vectors.detach().double().numpy()
    rows, total = [], np.zeros_like(rest)
    for level in range(levels):
        first = level * codebook.size
        chosen = first + nearest(rest, table[first : first + codebook.size])
        rows.append(chosen)
        total += table[chosen]
        rest = rest - table[chosen]
    return np.stack(rows, axis=1), total


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_each_level_quantises_what_the_levels_before_left(update: str) -> None:
    codebook = residual(update).eval()
    z = torch.randn(2, 10, 5)
    out, quantised = codebook(z)
    rows, total = by_hand(codebook, z)
    assert quantised.codes.shape == (2, 5, 3)
    assert quantised.codes.reshape(-1, 3).tolist() == rows.tolist()
    assert torch.equal(quantised.codes, codebook.encode(z))
    torch.testing.assert_close(quantised.vectors.reshape(-1, 6).double(), torch.from_numpy(total))
    torch.testing.assert_close(out, codebook.lookup(quantised.codes))
    assert out.shape == z.shape


def test_a_coarse_crop_sees_fewer_levels() -> None:
    codebook = residual().eval()
    z = torch.randn(3, 10, 5)
    out, quantised = codebook(z, levels=torch.tensor([1, 3, 2]))
    for row, levels in enumerate((1, 3, 2)):
        alone = codebook.lookup(quantised.codes[row, :, :levels])
        torch.testing.assert_close(out[row], alone)
    full, _ = codebook(z)
    assert not torch.allclose(out[0], full[0])
    assert torch.equal(out[1], full[1])


def test_levels_pass_the_gradient_straight_through() -> None:
    codebook = residual()
    e = torch.randn(2, 10, 5, requires_grad=True)
    _, quantised = codebook(e, levels=torch.tensor([1, 3]))
    space = codebook.to_codebook_space(e)
    weights = torch.randn_like(space)
    (wanted,) = torch.autograd.grad((space * weights).sum(), e, retain_graph=True)
    (given,) = torch.autograd.grad((quantised.vectors * weights).sum(), e)
    torch.testing.assert_close(given, wanted)


def test_averages_of_each_level_follow_their_own_rests() -> None:
    codebook = residual(ema_decay=0.5)
    counts = codebook.ema_counts.double().numpy().copy()
    sums = codebook.ema_sums.double().numpy().copy()
    z = torch.randn(4, 20, 5)
    rest = codebook.to_codebook_space(z).detach().double().reshape(-1, 6).numpy()
    table = codebook.vectors.double().numpy().copy()
    rows, _ = by_hand(codebook, z)
    codebook(z)
    codebook.update_ema()
    for level in range(3):
        for k in range(level * 8, level * 8 + 8):
            mine = rows[:, level] == k
            counts[k] = 0.5 * counts[k] + 0.5 * mine.sum()
            sums[k] = 0.5 * sums[k] + 0.5 * rest[mine].sum(0)
        rest = rest - table[rows[:, level]]
    np.testing.assert_allclose(codebook.ema_counts, counts, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(codebook.ema_sums, sums, rtol=1e-4, atol=1e-5)


def test_tables_start_by_k_means_at_the_first_quantised_step() -> None:
    torch.manual_seed(0)
    centres = torch.randn(8, 6) * 3
    codebook = Codebook(8, 3, levels=2, frames_per_step=2, normalize=False, dead_code_threshold=0.0).train()
    data = (centres.repeat(40, 1) + 0.01 * torch.randn(320, 6)).reshape(1, 640, 3)
    for _ in range(2):
        out, quantised = codebook(data, quantise=False)
        codebook.update_ema()
        torch.testing.assert_close(out, data)
        assert not bool(codebook.started)
        assert float(quantised.commitment_loss) == 0
    assert int(codebook.start_count) == 640
    # Even the step that is to be quantised passes as it is: its vectors are among those the tables start on.
    torch.testing.assert_close(codebook(data)[0], data)
    codebook.update_ema()
    assert bool(codebook.started)
    assert int(codebook.start_count) == 0
    distances = torch.cdist(centres, codebook.vectors[:8]).min(1).values
    assert float(distances.max()) < 0.1, "the first level found the clusters"
    assert float(codebook.ema_counts[:8].sum()) == pytest.approx(320), "counts are of one step"
    torch.testing.assert_close(codebook.ema_sums, codebook.vectors * codebook.ema_counts[:, None])
    before = codebook.vectors.clone()
    codebook.eval()
    loss = F.mse_loss(codebook(data)[0].detach(), data)
    assert float(loss) < 1e-4
    assert torch.equal(before, codebook.vectors)


def test_a_dead_code_of_a_level_restarts_at_a_rest_of_that_level() -> None:
    codebook = residual(dead_code_threshold=0.1)
    z = torch.randn(4, 40, 5)
    codebook.ema_counts[16 + 3] = 1e-6
    codebook.vectors[16 + 3] += 100
    _, total = by_hand(codebook, z, levels=2)
    rests = codebook.to_codebook_space(z).detach().reshape(-1, 6) - torch.from_numpy(total).float()
    codebook(z)
    codebook.update_ema()
    assert int(codebook.num_restarts) >= 1
    assert float((rests - codebook.vectors[16 + 3]).abs().sum(-1).min()) < 1e-4


def test_usage_counts_each_level() -> None:
    codebook = residual().eval()
    codebook.usage()
    codebook(torch.randn(8, 100, 5))
    usage = codebook.usage()
    assert len(usage.perplexity) == 3
    assert all(1 < p <= 8 for p in usage.perplexity)
    assert set(usage.metrics()) == {"perplexity_1", "perplexity_2", "perplexity_3", "used"}
    mean = np.mean([np.log2(p) for p in usage.perplexity])
    assert usage.bits_per_code == pytest.approx(mean)


def test_frames_that_are_no_whole_steps_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 frames are no whole steps of 2"):
        residual()(torch.randn(1, 9, 5))


def test_k_means_leaves_no_centre_empty() -> None:
    torch.manual_seed(0)
    data = torch.cat([torch.randn(500, 2) * 0.01, torch.randn(12, 2) + 20])
    centres, chosen = _kmeans(data, 16, seed=0)
    assert torch.bincount(chosen, minlength=16).min() > 0
    torch.testing.assert_close(_kmeans(data, 16, seed=0)[0], centres)


def test_an_evaluation_does_not_start_the_tables() -> None:
    codebook = Codebook(8, 3, levels=2, frames_per_step=2).train()
    z = torch.randn(2, 40, 3)
    codebook(z, quantise=False)
    codebook.eval()
    codebook(z)
    codebook.train()
    codebook.update_ema()
    assert not bool(codebook.started)
