"""Optimizers, learning-rate schedule and the averaged copy of the weights.

Muon (orthogonalised momentum) trains the weight matrices inside the network, AdamW everything else. On the
codes stage 240 such steps beat 290 of AdamW alone (docs/training.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from audiovq.config.training import StageConfig


class DeclaresParameterGroups(Protocol):
    """A model that declares the optimizer of each parameter, as regular expressions of names."""

    MUON: tuple[str, ...]
    ADAMW: tuple[str, ...]


DISCRIMINATOR_PREFIX = "discriminator."
"""Start of the names of a discriminator's parameters, which have an AdamW and a clip of their own."""


class Optimizer:
    """AdamW, with Muon for hidden matrices if the stage asks for it.

    Args:
        named: parameters that train, with their names; those that start with `DISCRIMINATOR_PREFIX` are
            moved by an AdamW of their own.
        config: of the stage.
        model: declares in `MUON` and `ADAMW`, regular expressions of names, which optimizer moves what.

    Raises: ValueError if the model does not declare a parameter exactly once.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], config: StageConfig, model: DeclaresParameterGroups
    ) -> None:
        self.config = config
        pairs = list(named)
        self.parameters = [p for _, p in pairs]
        own = [(n, p) for n, p in pairs if not n.startswith(DISCRIMINATOR_PREFIX)]
        self._model_parameters = [p for _, p in own]
        self._discriminator = [p for n, p in pairs if n.startswith(DISCRIMINATOR_PREFIX)]
        matrices = [p for n, p in own if _is_declared_matrix(n, model) and config.muon_lr]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self._model_parameters if id(p) not in chosen]
        decay = config.weight_decay
        adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.98), weight_decay=decay)
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [(adamw, config.lr)]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=decay)
            self._parts.append((muon, config.muon_lr))
        if self._discriminator:
            lr = config.discriminator_lr
            self._parts.append((torch.optim.AdamW(self._discriminator, lr=lr, betas=(0.5, 0.9)), lr))

    def factor(self, step: int) -> float:
        """Factor of the learning rate at a step: warm-up, plateau, linear decay to 5 %."""
        c = self.config
        up = min(1.0, (step + 1) / max(1, c.warmup))
        into_decay = (step / c.steps - (1 - c.lr_decay)) / c.lr_decay if c.lr_decay else 0.0
        return up * (1 - 0.95 * min(1.0, max(0.0, into_decay)))

    def begin(self) -> None:
        """Clear the gradients."""
        for part, _ in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self, step: int) -> float:
        """Clip the gradients and move; non-finite ones move nothing. Returns their norm before clipping."""
        for part, lr in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * self.factor(step)
        norm = float(nn.utils.clip_grad_norm_(self._model_parameters, self.config.grad_clip))
        norms = [norm]
        if self._discriminator:
            norms.append(float(nn.utils.clip_grad_norm_(self._discriminator, self.config.grad_clip)))
        if all(math.isfinite(value) for value in norms):
            for part, _ in self._parts:
                part.step()
        return sum(norms) if not all(map(math.isfinite, norms)) else norm

    def state(self) -> dict[str, Tensor]:
        """All optimizer state as flat named tensors."""
        out = {}
        for i, (part, _) in enumerate(self._parts):
            for j, parameter in enumerate(p for g in part.param_groups for p in g["params"]):
                for key, value in part.state.get(parameter, {}).items():
                    tensor = torch.as_tensor(value).detach().clone()
                    # AdamW counts steps in double precision where that is the default.
                    out[f"{i}.{j}.{key}"] = tensor.float() if tensor.dtype == torch.float64 else tensor
        return out

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        lists = [[p for g in part.param_groups for p in g["params"]] for part, _ in self._parts]
        for name, value in tensors.items():
            i, j, key = name.split(".", 2)
            parameter = lists[int(i)][int(j)]
            # AdamW counts steps on the CPU, wherever the weights are.
            home = parameter.device if value.shape == parameter.shape else value.device
            self._parts[int(i)][0].state[parameter][key] = value.clone().to(home)


class WeightEMA:
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
        """Update the averages; the first steps have a smaller decay, to forget the random start."""
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


def _is_declared_matrix(name: str, model: DeclaresParameterGroups) -> bool:
    """Whether a model declares a parameter to be one of Muon's.

    Raises: ValueError if it declares it for both optimizers, or for none.
    """
    found = [any(re.fullmatch(pattern, name) for pattern in group) for group in (model.MUON, model.ADAMW)]
    if sum(found) != 1:
        raise ValueError(f"{type(model).__name__}: {name} must be in one of MUON and ADAMW, not {sum(found)}")
    return found[0]
