"""Optimisers, learning-rate schedule and the averaged copy of the weights.

Weight matrices inside the network are moved by Muon (momentum made orthogonal), everything else by AdamW.
On the codes stage that reached in 240 steps what AdamW alone did not reach in 290: docs/training.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from audiovq.config import StageConfig

NOT_MATRICES = (
    "filters",
    "bands",
    "points",
    "vectors",
    "project_",
    "magnitude",
    "harmonics",
    "head_",
    "enter_",
    "voice",
)
"""Parts of parameter names that AdamW moves though they are 2-D: tables, filters, inputs and outputs."""


class Optimiser:
    """AdamW, with Muon for matrices if the stage asks for it, and a running average of the weights.

    Args:
        named: parameters that train, with their names.
        config: of the stage.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: StageConfig) -> None:
        self.config = config
        pairs = list(named)
        self.parameters = [p for _, p in pairs]
        matrices = [p for n, p in pairs if config.matrix_rate and _is_matrix(n, p)]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        decay = config.weight_decay
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=config.rate, betas=(0.9, 0.98), weight_decay=decay)
        ]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=config.matrix_rate, weight_decay=decay))
        self._rates = [config.rate, config.matrix_rate]

    def factor(self, step: int) -> float:
        """Share of the full learning rate at a step: warm-up, plateau, linear decay to 5 %."""
        c = self.config
        up = min(1.0, (step + 1) / max(1, c.warmup))
        into_decay = (step / c.steps - (1 - c.decay)) / c.decay if c.decay else 0.0
        return up * (1 - 0.95 * min(1.0, max(0.0, into_decay)))

    def begin(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, step: int) -> float:
        """Clip the gradients and move. Returns their norm before clipping; a non-finite one is skipped."""
        for part, rate in zip(self.parts, self._rates, strict=False):
            for group in part.param_groups:
                group["lr"] = rate * self.factor(step)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
        if norm == norm and norm != float("inf"):
            for part in self.parts:
                part.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """All optimiser state as flat named tensors."""
        out = {}
        for i, part in enumerate(self.parts):
            for j, parameter in enumerate(p for g in part.param_groups for p in g["params"]):
                for key, value in part.state.get(parameter, {}).items():
                    out[f"{i}.{j}.{key}"] = torch.as_tensor(value).detach().clone()
        return out

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        lists = [[p for g in part.param_groups for p in g["params"]] for part in self.parts]
        for name, value in tensors.items():
            i, j, key = name.split(".", 2)
            parameter = lists[int(i)][int(j)]
            # AdamW counts steps on the CPU, wherever the weights are.
            home = parameter.device if value.shape == parameter.shape else value.device
            self.parts[int(i)].state[parameter][key] = value.clone().to(home)


class Average:
    """Exponential moving average of every floating-point tensor of a module (parameters and buffers)."""

    def __init__(self, module: nn.Module, names: set[str], decay: float) -> None:
        self.decay = decay
        self.values = {
            n: v.detach().clone()
            for n, v in module.state_dict().items()
            if n in names and v.is_floating_point()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow the module; the first steps forget faster, so that the start is not remembered."""
        decay = min(self.decay, (step + 1) / (step + 10))
        state = module.state_dict()
        names = list(self.values)
        torch._foreach_lerp_([self.values[n] for n in names], [state[n] for n in names], 1 - decay)

    def swap(self, module: nn.Module) -> None:
        """Exchange the module's tensors with the averages; a second call undoes it."""
        state = module.state_dict()
        for name, value in self.values.items():
            held = state[name].clone()
            state[name].copy_(value)
            value.copy_(held)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and not any(part in name for part in NOT_MATRICES)
