"""The codebook: the paper's loss and gradients, moving averages, revival, fp32 distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.nn.codebook import Codebook
from audiovq.training.losses import vq_loss


def make(update: str = "average", size: int = 8, dim: int = 3, **options: object) -> Codebook:
    """A codebook whose vectors lie apart from each other, without normalisation and revival."""
    torch.manual_seed(0)
    settings: dict[str, object] = {"normalise": False, "revive_below": 0.0} | options
    codebook = Codebook(size, dim, update=update, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        codebook.vectors.copy_(torch.randn(size, dim))
        codebook.sums.copy_(codebook.vectors)
    return codebook


def nearest(z: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Equation 1, written out."""
    return np.array([np.argmin([np.sum((e - v) ** 2) for v in vectors]) for e in z])


@pytest.mark.parametrize("update", ["gradient", "average"])
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
    assert out.grad is not None and z.grad is not None
    torch.testing.assert_close(z.grad, out.grad, rtol=0, atol=0)
    # The reconstruction moves the encoder only.
    assert codebook.vectors.grad is None or not codebook.vectors.grad.any()
    torch.testing.assert_close(out, F.embedding(quantised.codes, codebook.vectors))


def test_codebook_term_alone_moves_the_vectors() -> None:
    codebook = make("gradient")
    z = torch.randn(40, 3, requires_grad=True)
    _, quantised = codebook(z)
    loss = vq_loss(torch.zeros(()), quantised, beta=0.25)
    loss.backward()
    assert codebook.vectors.grad is not None and z.grad is not None
    # d/de mean (e - z)^2 = 2 (e - z) / numel, summed over the vectors that chose e.
    e = codebook.vectors.detach()[quantised.codes]
    expected = torch.zeros_like(codebook.vectors).index_add_(
        0, quantised.codes, 2 * (e - z.detach()) / z.numel()
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
    assert z.grad is not None and z.grad.abs().sum() > 0


def test_codebook_term_leaves_the_encoder_alone() -> None:
    codebook = make("gradient")
    z = torch.randn(40, 3, requires_grad=True)
    _, quantised = codebook(z)
    quantised.codebook_loss.backward()
    assert z.grad is None or not z.grad.any()


def test_moving_averages_are_equations_6_to_8() -> None:
    codebook = make("average", decay=0.9).train()
    counts, sums = np.ones(8), codebook.vectors.double().numpy().copy()
    vectors = sums.copy()
    for step in range(3):
        z = torch.randn(50, 3, generator=torch.Generator().manual_seed(step))
        _, quantised = codebook(z)
        codebook.follow()
        chosen = nearest(z.double().numpy(), vectors)
        assert chosen.tolist() == quantised.codes.tolist()
        for k in range(8):
            counts[k] = 0.9 * counts[k] + 0.1 * np.sum(chosen == k)
            sums[k] = 0.9 * sums[k] + 0.1 * z.double().numpy()[chosen == k].sum(0)
        smoothed = (counts + 1e-5) / (counts.sum() + 8 * 1e-5) * counts.sum()
        vectors = sums / smoothed[:, None]
        np.testing.assert_allclose(codebook.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(codebook.vectors, vectors, rtol=1e-4, atol=1e-6)


def test_averages_keep_the_norm_of_the_codes() -> None:
    codebook = Codebook(16, 4, update="average", normalise=False, revive_below=0.0).train()
    with torch.no_grad():
        codebook.vectors.copy_(torch.randn(16, 4))
        codebook.sums.copy_(codebook.vectors)
    before = codebook.vectors.norm(dim=-1).mean()
    codebook(codebook.vectors.repeat(50, 1))
    codebook.follow()
    assert float(codebook.vectors.norm(dim=-1).mean() / before) == pytest.approx(1, abs=1e-3)


def test_evaluation_changes_no_state() -> None:
    codebook = make("average", revive_below=0.5).eval()
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook(torch.randn(100, 3))
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())


def with_a_dead_code(update: str) -> tuple[Codebook, Tensor]:
    """Data around four of eight codes; the other four are far away and already hardly counted."""
    codebook = make(update, revive_below=0.1).train()
    with torch.no_grad():
        codebook.vectors[4:] += 100
        codebook.sums.copy_(codebook.vectors)
        codebook.counts[4:] = 1e-3
        codebook.sums[4:] *= 1e-3
    generator = torch.Generator().manual_seed(3)
    return codebook, torch.randn(64, 3, generator=generator) * 0.1


@pytest.mark.parametrize("update", ["gradient", "average"])
def test_a_revived_code_is_a_data_vector_and_stays_one(update: str) -> None:
    codebook, data = with_a_dead_code(update)
    codebook(data)
    codebook.follow()
    revived = codebook.vectors.detach()[4:].clone()
    assert all((data - vector).abs().sum(-1).min() == 0 for vector in revived), "no vector of the batch"
    assert int(codebook.revivals) >= 4
    # One step later, when nothing near it comes: the averages must not write the old vector back.
    elsewhere = codebook.vectors.detach()[:1] + torch.tensor([[-60.0, -60.0, -60.0]])
    _, quantised = codebook(elsewhere.repeat(64, 1))
    codebook.follow()
    unchosen = [k for k in range(4, 8) if k not in set(quantised.codes.tolist())]
    assert unchosen
    for k in unchosen:
        torch.testing.assert_close(codebook.vectors.detach()[k], revived[k - 4], rtol=1e-4, atol=1e-5)


def test_a_revived_code_is_used_one_step_later() -> None:
    codebook, data = with_a_dead_code("average")
    codebook(data)
    codebook.follow()
    _, quantised = codebook(data)
    assert set(quantised.codes.tolist()) & {4, 5, 6, 7}
    # Nor is it dead again at once: it starts over with the mean count.
    assert float(codebook.counts[4:].min()) > 0.1 * float(codebook.counts.mean())


def test_revival_is_deterministic() -> None:
    tables = []
    for noise in (1, 2):
        codebook, data = with_a_dead_code("average")
        torch.manual_seed(noise)
        codebook(data)
        codebook.follow()
        tables.append(codebook.vectors.clone())
    assert torch.equal(*tables)


@pytest.mark.parametrize("normalise", [False, True])
def test_codebook_vectors_map_to_themselves(normalise: bool) -> None:
    codebook = make("average", size=64, normalise=normalise).eval()
    z = codebook.table()
    assert codebook.encode(z).tolist() == list(range(64))
    out, quantised = codebook(z)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(codebook.lookup(torch.arange(64)), z)
    assert float(quantised.commitment_loss) < 1e-10


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5)])
def test_vectors_stand_in_the_last_axis(shape: tuple[int, ...]) -> None:
    codebook = Codebook(16, 4, in_channels=6).eval()
    z = torch.randn(*shape, 6)
    out, quantised = codebook(z)
    assert out.shape == z.shape and quantised.codes.shape == shape and quantised.vectors.shape == (*shape, 4)
    each = [codebook.encode(vector[None])[0] for vector in z.reshape(-1, 6)]
    assert quantised.codes.reshape(-1).tolist() == [int(code) for code in each]
    torch.testing.assert_close(codebook.lookup(quantised.codes), out)


def test_unquantised_steps_pass_the_latent() -> None:
    codebook = make("average").train()
    z = torch.randn(30, 3)
    before = codebook.counts.clone()
    out, quantised = codebook(z, quantise=False)
    codebook.follow()
    torch.testing.assert_close(out, z)
    assert quantised.codes.unique().numel() > 1
    assert not torch.equal(codebook.counts, before), "the averages follow from the first step"


def close_calls() -> tuple[Codebook, Tensor]:
    """Codes that only fp32 tells apart: bf16 has 8 bits."""
    codebook = make("average", size=64, dim=2).eval()
    with torch.no_grad():
        codebook.vectors.copy_(torch.stack([torch.ones(64), torch.linspace(-0.1, 0.1, 64)], dim=-1))
    return codebook, codebook.vectors.clone()


def test_encoding_measures_distances_in_fp32_under_autocast() -> None:
    codebook, z = close_calls()
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook.encode(z).tolist() == list(range(64))


def test_training_measures_distances_in_fp32_under_autocast() -> None:
    codebook, z = close_calls()
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook(z)[1].codes.tolist() == list(range(64))


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    codebook = make("average", size=4).eval()
    table = codebook.table()

    def usage(z: Tensor) -> tuple[float, int]:
        codebook(z)
        return codebook.usage()

    assert usage(table) == pytest.approx((4, 4), rel=1e-5)
    assert usage(table[:1].repeat(9, 1)) == pytest.approx((1, 1), rel=1e-5)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert usage(table[[0, 0, 0, 1]]) == pytest.approx((np.exp(entropy), 2), rel=1e-5)


@pytest.mark.parametrize("update", ["gradient", "average"])
def test_a_step_in_pieces_is_a_step(update: str) -> None:
    """Codebook, moving averages, revival and usage do not depend on how a batch was cut."""
    found = []
    for pieces in (1, 4):
        codebook, data = with_a_dead_code(update)
        for piece in data.chunk(pieces):
            codebook(piece)
        found.append((codebook.follow(), codebook.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], msg=name)
    assert int(found[0][1]["revivals"]) >= 4


def test_a_code_outside_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        make("average").lookup(torch.tensor([8]))


def test_unknown_update_rule() -> None:
    with pytest.raises(ValueError, match="gradient"):
        Codebook(8, 3, update="momentum")


def test_averages_restart_where_the_vectors_are() -> None:
    """A model file holds the vectors without their sums: training that starts from it must not lose them."""
    codebook = make("average", size=8)
    codebook.vectors.copy_(torch.randn(8, codebook.dim))
    before = codebook.table().clone()
    codebook.restart_averages()
    codebook.train()
    codebook(before)
    codebook.follow()
    torch.testing.assert_close(codebook.table(), before, rtol=1e-4, atol=1e-4)
