"""The fused bf16 passes against the plain operations they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.nn import fused
from audiovq.nn.blocks import fusable
from audiovq.nn.wavenet import WaveNet
from audiovq.waveform.decoder import WaveNetDecoder


def rough(*shape: int, seed: int = 0) -> Tensor:
    """Normal values on the bf16 grid, so that both forms start from the same numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    error = (actual.float() - expected).norm() / expected.norm()
    assert float(error) < 6e-3, f"relative error {float(error):.2e}, bf16 resolves 4e-3"


@pytest.mark.parametrize("dilation", [1, 3, 64, 100])
def test_gate_and_its_gradients(dilation: int) -> None:
    both, condition, upstream = rough(2, 64, 32), rough(2, 4, 16, seed=1), rough(2, 64, 8, seed=2)
    inputs = [both.clone().requires_grad_(), condition.float().requires_grad_()]
    y = fused.Gate.apply(*inputs, dilation)
    y.backward(upstream)
    plain = [both.float().requires_grad_(), condition.float().requires_grad_()]
    expected = WaveNet._gate(*plain, dilation)
    expected.backward(upstream.float())
    assert_close(y, expected)
    for ours, theirs in zip(inputs, plain, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("order", [0, 16])
@pytest.mark.parametrize("group", [1, 4])
def test_heads_and_their_gradients(group: int, order: int) -> None:
    torch.manual_seed(0)
    decoder = WaveNetDecoder(8, 9, 16, group, 8, 8, (1, 2), 8, order, 0.0, adapt=8)
    generator = torch.Generator().manual_seed(3)
    seen = torch.randint(256, (1, 50, group), generator=generator)
    ratio = 20 * torch.randn(1, 50, group, generator=generator)
    start, upstream = rough(1, 50, group, 16), rough(1, 50, group, 8, seed=1)
    tables = [decoder.head_codes, decoder.head_prediction]

    ours = start.clone().requires_grad_()
    place = decoder._place(ratio) if order else ratio[:0]
    y = fused.Head.apply(ours.flatten(0, 1), *tables, seen.flatten(0, 1), place.flatten(0, 1))
    y.backward(upstream.flatten(0, 1))
    gradients = [t.grad.clone() for t in tables if t.grad is not None]
    decoder.zero_grad()
    theirs = start.float().requires_grad_()
    expected = decoder._heads(theirs, seen, ratio)
    expected.backward(upstream.float())
    assert_close(y.view_as(expected), expected)
    assert ours.grad is not None and theirs.grad is not None
    assert_close(ours.grad, theirs.grad)
    for ours_table, table in zip(gradients, tables, strict=True):
        if table.grad is not None and float(table.grad.abs().sum()) > 0:
            assert_close(ours_table, table.grad)
        else:
            assert float(ours_table.abs().sum()) == 0


def test_likelihood_and_its_gradient() -> None:
    logits = 5 * rough(300, 256)
    targets = torch.randint(256, (300,), generator=torch.Generator().manual_seed(1))
    ours, theirs = logits.clone().requires_grad_(), logits.float().requires_grad_()
    value = fused.NegativeLogLikelihood.apply(ours, targets)
    expected = F.cross_entropy(theirs, targets)
    (2 * value).backward()
    (2 * expected).backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert ours.grad is not None and theirs.grad is not None
    assert_close(ours.grad, theirs.grad)
    assert not fusable(theirs) and fusable(ours)


def test_training_takes_the_fused_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast a WaveNet must come out nearly as in fp32, and through the fused gate."""
    torch.manual_seed(0)
    net = WaveNet(8, 8, (1, 2, 4))
    x, conditions = torch.randn(2, 32, 8), torch.randn(2, 4, 3, 16)
    calls = []
    original = fused._gate_forward
    monkeypatch.setattr(fused, "_gate_forward", lambda *a: calls.append(1) or original(*a))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, conditions)
    assert len(calls) == 3
    torch.testing.assert_close(y.float(), net(x, conditions), rtol=0.05, atol=0.05)
