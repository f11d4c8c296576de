"""The causal stack and the decoder over it: both forms, receptive field, causality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from audiovq.audio.companding import mu_law_decode, mu_law_encode
from audiovq.nn.wavenet import WaveNet
from audiovq.speech.decoder import (
    HISTORY_SAMPLES,
    MU_LAW_LEVELS,
    TeacherForcing,
    WaveNetConditioning,
    WaveNetDecoder,
)
from helpers.contract import assert_reach, assert_same_forms
from helpers.wavenets import HOP, SHAPES, taught, tiny_decoder, tiny_frames


def tiny_net(dilations: tuple[int, ...] = (1, 2, 3, 1)) -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(6, 10, dilations)


def step_logits(decoder: WaveNetDecoder, teacher: TeacherForcing, frames: WaveNetConditioning) -> Tensor:
    """Teacher-forced logits `(B, N, 256)` by the step form."""
    batch, length = teacher.forced_codes.shape
    group = decoder.samples_per_step
    state = decoder.initial_state(batch)
    forced_codes = torch.nn.functional.pad(teacher.forced_codes, (group, 0), value=MU_LAW_LEVELS // 2)
    history = torch.nn.functional.pad(teacher.history, (HISTORY_SAMPLES, 0))
    rows = []
    for t in range(0, length, group):
        gain = frames.gains[:, t // HOP]
        conditions = frames.conditions[:, t // HOP]
        past = history[:, t : t + HISTORY_SAMPLES]
        starts = decoder.step_network(forced_codes[:, t : t + group], past, gain, conditions, state)
        for j in range(group):
            drawn = [teacher.forced_codes[:, t + k] for k in range(j)]
            rows.append(decoder.step_head(starts[:, j], drawn, teacher.predictions[:, t + j], gain))
    return torch.stack(rows, dim=1)


def test_stack_step_equals_parallel() -> None:
    net = tiny_net()
    x = torch.randn(3, 24, 6)
    conditions = torch.randn(3, 8, 4, 12)

    def steps() -> Tensor:
        state = net.initial_state(3)
        return torch.stack([net.step(x[:, t], conditions[:, t // 3], state) for t in range(24)], dim=1)

    assert_same_forms(lambda: net(x, conditions), steps, net.receptive_field)


@pytest.mark.parametrize("dilations", [(1, 2, 3, 1), (1,), (1, 2, 4, 8, 1, 2, 4, 8)])
def test_stack_reach(dilations: tuple[int, ...]) -> None:
    net = tiny_net(dilations).double()
    length = 2 * net.receptive_field + 3
    conditions = torch.randn(2, 1, len(dilations), 12).double()
    x = torch.randn(2, length, 6)
    assert net.receptive_field == 1 + sum(dilations)
    assert_reach(lambda x: net(x, conditions), x, length - 2, net.receptive_field)


def test_stack_shorter_than_its_dilations() -> None:
    net = tiny_net((1, 8, 64))
    x = torch.randn(1, 40, 6)
    conditions = torch.randn(1, 1, 3, 12)
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, :5], conditions), net(x, conditions)[:, :5])


def test_stack_refuses_uneven_frames() -> None:
    with pytest.raises(ValueError, match="10 steps do not divide into 3"):
        tiny_net()(torch.randn(1, 10, 6), torch.randn(1, 3, 4, 12))


@pytest.mark.parametrize(("group", "order"), SHAPES)
def test_decoder_step_equals_parallel(group: int, order: int) -> None:
    decoder = tiny_decoder(group, order)
    frames = tiny_frames(decoder, 2, 8)
    teacher = taught(decoder, frames)
    assert_same_forms(
        lambda: decoder(teacher, frames),
        lambda: step_logits(decoder, teacher, frames),
        decoder.receptive_field,
        tolerance=2e-5,
    )


@pytest.mark.parametrize(("group", "order"), SHAPES)
def test_decoder_changes_only_what_follows(group: int, order: int) -> None:
    """A changed past sample moves the next sample's logits at once, and none beyond the receptive field."""
    decoder = tiny_decoder(group, order)
    frames = tiny_frames(decoder, 1, 12)
    teacher = taught(decoder, frames)
    farthest = 0
    for before in range(100, 100 + group):
        forced_codes = teacher.forced_codes.clone()
        history = teacher.history.clone()
        forced_codes[:, before] = (forced_codes[:, before] + 100) % MU_LAW_LEVELS
        history[:, before] += 0.5
        with torch.no_grad():
            plain = decoder(teacher, frames)
            changed = decoder(teacher._replace(forced_codes=forced_codes, history=history), frames)
        moved = (changed - plain).abs().sum(-1)[0].nonzero().flatten()
        assert moved.min() == before + 1
        farthest = max(farthest, int(moved.max()) - before)
    assert farthest <= decoder.receptive_field


@pytest.mark.parametrize(("group", "order"), SHAPES)
def test_decoder_receptive_field_is_reached(group: int, order: int) -> None:
    """Over all positions in a group, the farthest influence is exactly the stated receptive field."""
    decoder = tiny_decoder(group, order)
    frames = tiny_frames(decoder, 1, 8)
    teacher = taught(decoder, frames)
    decoder.double()
    frames = WaveNetConditioning(*(v.double() for v in frames))
    history = teacher.history.double().requires_grad_()
    seen_by = teacher._replace(history=history, predictions=teacher.predictions.double())
    farthest = 0
    for t in range(96, 96 + group):
        logits = decoder(seen_by, frames)[:, t]
        (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), history)
        seen = gradient[0].nonzero().flatten()
        assert seen.max() < t
        farthest = max(farthest, t - int(seen.min()))
    assert farthest == decoder.receptive_field


@pytest.mark.parametrize("order", [0, 16])
def test_own_target_is_not_seen(order: int) -> None:
    decoder = tiny_decoder(4, order)
    frames = tiny_frames(decoder, 1, 4)
    teacher = taught(decoder, frames)
    with torch.no_grad():
        plain = decoder(teacher, frames)
        for t in (20, 21, 22, 23):
            forced_codes = teacher.forced_codes.clone()
            history = teacher.history.clone()
            forced_codes[:, t:] = 0
            history[:, t:] = np.nan
            future = teacher._replace(
                forced_codes=forced_codes, history=history, codes=torch.zeros_like(teacher.codes)
            )
            assert torch.equal(decoder(future, frames)[:, : t + 1], plain[:, : t + 1])


def test_order_0_is_plain_mu_law() -> None:
    decoder = tiny_decoder(1, 0)
    frames = tiny_frames(decoder, 2, 4)
    torch.manual_seed(5)
    signal = torch.rand(2, 4 * HOP) * 1.8 - 0.9
    teacher = decoder.teacher_force(signal, frames, torch.zeros(2, 4 * HOP, dtype=torch.long))
    np.testing.assert_array_equal(teacher.codes, mu_law_encode(signal.numpy()))
    np.testing.assert_allclose(teacher.history, mu_law_decode(teacher.codes.numpy()), rtol=1.3e-6, atol=1e-5)
    assert not teacher.predictions.any()
