"""The one contract of causal layers: a whole sequence and a step at a time are the same function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def assert_same_forms(
    parallel: Callable[[], Tensor],
    steps: Callable[[], Tensor],
    receptive_field: int,
    tolerance: float = 1e-5,
) -> None:
    """`(B, T, C)` of both forms agree over more than two receptive fields, for a batch over one.

    Args:
        parallel: computes the whole sequence.
        steps: resets its state and computes the same a step at a time. Called twice: nothing may be left
            over from the run before.
        receptive_field: in steps.
    """
    with torch.no_grad():
        whole = parallel()
        first = steps()
        again = steps()
    assert whole.shape[0] > 1, "the contract asks for a batch over one"
    assert whole.shape[1] > 2 * receptive_field, "the contract asks for two receptive fields"
    assert whole.std() > 1e-3, "a constant output would agree with anything"
    torch.testing.assert_close(first, whole, atol=tolerance, rtol=0)
    assert torch.equal(first, again), "a reset must bring back the same output"


def measured_reach(function: Callable[[Tensor], Tensor], x: Tensor, at: int) -> list[int]:
    """Positions of the input `(B, T, ...)` that the output at position `at` depends on, by gradient.

    The function runs in double precision: a gradient that underflows would look like none.
    """
    x = x.detach().double().requires_grad_()
    output = function(x)[:, at]
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), x)
    return gradient.abs().flatten(2).sum(2).sum(0).nonzero().flatten().tolist()


def assert_reach(function: Callable[[Tensor], Tensor], x: Tensor, at: int, receptive_field: int) -> None:
    """Output `at` sees exactly the `receptive_field` positions up to its own, none after."""
    seen = measured_reach(function, x, at)
    assert max(seen) == at, f"output {at} depends on input up to {max(seen)}"
    assert min(seen) == at - receptive_field + 1, f"sees back to {min(seen)}, states {receptive_field} steps"
