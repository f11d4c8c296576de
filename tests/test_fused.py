"""The fused passes against the plain operations they stand for, in bf16 and in fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.nn import fused
from audiovq.nn.blocks import can_fuse
from audiovq.nn.wavenet import WaveNet
from audiovq.speech.decoder import WaveNetDecoder
from audiovq.training.precision import bf16_is_faster

KINDS = (torch.bfloat16, torch.float32)


def rough(*shape: int, seed: int = 0, kind: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal values on the bf16 grid, so that both forms start from the same numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(kind)


def assert_close(actual: Tensor, expected: Tensor, kind: torch.dtype | None = None) -> None:
    error = float(((actual.float() - expected).norm() / expected.norm()).detach())
    resolved = 6e-3 if (kind or actual.dtype) is torch.bfloat16 else 2e-6
    assert error < resolved, f"relative error {error:.2e}, bf16 resolves 4e-3, fp32 6e-8"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dilation", [1, 3, 64, 100])
def test_gate_and_its_gradients(dilation: int, kind: torch.dtype) -> None:
    both, condition, upstream = (
        rough(2, 64, 32, kind=kind),
        rough(2, 4, 16, seed=1),
        rough(2, 64, 8, seed=2, kind=kind),
    )
    inputs = [both.clone().requires_grad_(), condition.float().requires_grad_()]
    y = fused.FusedGate.apply(*inputs, dilation)
    y.backward(upstream)
    plain = [both.float().requires_grad_(), condition.float().requires_grad_()]
    expected = WaveNet._gate(*plain, dilation)
    expected.backward(upstream.float())
    assert y.dtype is kind
    assert_close(y, expected)
    for ours, theirs in zip(inputs, plain, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert_close(ours.grad, theirs.grad, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [0, 16])
@pytest.mark.parametrize("group", [1, 4])
def test_heads_and_their_gradients(group: int, order: int, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder = WaveNetDecoder(8, 9, 16, group, 8, 8, (1, 2), 8, order, 0.0, cond_channels=8)
    generator = torch.Generator().manual_seed(3)
    seen = torch.randint(256, (1, 50, group), generator=generator)
    ratio = 20 * torch.randn(1, 50, group, generator=generator)
    start, upstream = rough(1, 50, group, 16, kind=kind), rough(1, 50, group, 8, seed=1, kind=kind)
    tables = [decoder.head_code_embedding, decoder.head_prediction_embedding]

    ours = start.clone().requires_grad_()
    place = decoder._place(ratio) if order else ratio[:0]
    y = fused.FusedHeads.apply(ours.flatten(0, 1), *tables, seen.flatten(0, 1), place.flatten(0, 1))
    y.backward(upstream.flatten(0, 1))
    gradients = [t.grad.clone() for t in tables if t.grad is not None]
    decoder.zero_grad()
    theirs = start.float().requires_grad_()
    expected = decoder._heads(theirs, seen, ratio)
    expected.backward(upstream.float())
    assert_close(y.view_as(expected), expected)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close(ours.grad, theirs.grad)
    for ours_table, table in zip(gradients, tables, strict=True):
        if table.grad is not None and float(table.grad.abs().sum()) > 0:
            assert_close(ours_table, table.grad, kind)
        else:
            assert float(ours_table.abs().sum()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_and_its_gradient(kind: torch.dtype) -> None:
    logits = 5 * rough(300, 256, kind=kind)
    targets = torch.randint(256, (300,), generator=torch.Generator().manual_seed(1))
    ours, theirs = logits.clone().requires_grad_(), logits.float().requires_grad_()
    value = fused.FusedNegativeLogLikelihood.apply(ours, targets)
    expected = F.cross_entropy(theirs, targets)
    (2 * value).backward()
    (2 * expected).backward()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close(ours.grad, theirs.grad)


def test_what_is_fused() -> None:
    """bf16 always; fp32 where gradients are wanted, as the passes take long to load; nothing finer."""
    assert can_fuse(torch.zeros(2, dtype=torch.bfloat16))
    assert can_fuse(torch.zeros(2, requires_grad=True))
    assert not can_fuse(torch.zeros(2))
    assert not can_fuse(torch.zeros(2, dtype=torch.float64, requires_grad=True))


def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for name, found, faster in (
        ("znver4", ["avx512bf16"], True),
        ("sapphirerapids", ["avx512bf16", "amx-bf16"], True),
        ("sapphirerapids", ["avx512bf16"], False),
        ("skylake", [], False),
    ):
        monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda name=name: name)
        monkeypatch.setattr(
            "llvmlite.binding.get_host_cpu_features", lambda found=found: dict.fromkeys(found, True)
        )
        assert bf16_is_faster(cpu) is faster
    assert not bf16_is_faster(torch.device("mps"))
    for native in (True, False):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda emulated, native=native: native)
        assert bf16_is_faster(torch.device("cuda")) is native


def test_training_takes_the_fused_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 and under autocast, and comes out as the plain form does, which is taken without gradients."""
    torch.manual_seed(0)
    net = WaveNet(8, 8, (1, 2, 4))
    x, conditions = torch.randn(2, 32, 8), torch.randn(2, 4, 3, 16)
    calls = []
    original = fused._gate_forward
    monkeypatch.setattr(fused, "_gate_forward", lambda *a: calls.append(1) or original(*a))
    with torch.no_grad():
        plain = net(x, conditions)
    assert not calls
    torch.testing.assert_close(net(x, conditions), plain, rtol=1e-5, atol=1e-6)
    assert len(calls) == 3
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, conditions)
    assert len(calls) == 6
    torch.testing.assert_close(y.float(), plain, rtol=0.05, atol=0.05)
