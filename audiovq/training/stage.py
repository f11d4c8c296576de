"""Base class of a stage of a task: the parameters that train, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.config.training import StageConfig
from audiovq.errors import AudiovqError, suggest_name
from audiovq.nn.codebook import Codebook

StageMetrics = dict[str, float]


class TrainingStage:
    """Base: which modules train, and their loss.

    Args:
        model: the whole model; the stage freezes what it does not train.
        config: of the stage.
    """

    monitor = ""
    """Name of the metric that `patience` watches on held-out data; less is better."""

    def __init__(self, model: Any, config: StageConfig) -> None:
        self.model = model
        self.config = config
        self.weights = self.default_weights() | config.weights
        known = self.default_weights()
        for name in sorted(config.weights.keys() - known.keys()):
            hint = suggest_name(name, known, f"known: {', '.join(known)}")
            raise AudiovqError(f"configuration: stage {config.stage} has no loss term {name}; {hint}")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in self.modules():
            for parameter in module.parameters():
                parameter.requires_grad_(True)

    def default_weights(self) -> dict[str, float]:
        """Weights of the loss terms by name."""
        raise TypeError("a stage defines its weights")

    def modules(self) -> list[nn.Module]:
        """Modules that train."""
        raise TypeError("a stage defines its modules")

    def loss(self, batch: Any, step: int) -> tuple[Tensor, StageMetrics]:
        """Loss of a micro-batch, and metrics.

        Every random draw is seeded by the step and the item, whichever micro-batch the item is in.
        """
        raise TypeError("a stage defines its loss")

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def update_ema(self) -> StageMetrics:
        """After the optimizer step: update the codebook EMA. Returns the usage of the codes."""
        return {k: v for m in self._codebooks() if m.training for k, v in m.update_ema().metrics().items()}

    def usage(self) -> StageMetrics:
        """Usage of the codes since `update_ema` or the last call, and the entropy of a code in bits."""
        found: StageMetrics = {}
        for codebook in self._codebooks():
            usage = codebook.usage()
            found |= usage.metrics() | {"bits_per_code": usage.bits_per_code}
        return found

    def _codebooks(self) -> list[Codebook]:
        """Those that train, one at most."""
        return [m for m in self.modules() if isinstance(m, Codebook)]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that train, with their names in the model."""
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint besides the model and the optimizer."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state`."""

    def train(self) -> None:
        """Training mode for what trains, evaluation mode for the rest."""
        self.model.eval()
        for module in self.modules():
            module.train()


def batch_to_device(batch: Any, device: torch.device) -> Any:
    """A batch, a named tuple of tensors and what goes with them, on a device."""
    values = (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch)
    return type(batch)(*values)


def state_names(model: nn.Module, part: nn.Module) -> list[str]:
    """Names that the tensors of `part` have in the state of `model`."""
    prefix = next(n for n, m in model.named_modules() if m is part)
    return [f"{prefix}.{n}".lstrip(".") for n in part.state_dict()]
