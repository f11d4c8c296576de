"""A module's shapes without its memory: on torch's device "meta", without what that imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_Module = TypeVar("_Module", bound=nn.Module)

_RANDOM = {torch.rand, torch.randn}
_FILLING = {Tensor.uniform_, Tensor.normal_, nn.init.kaiming_uniform_, nn.init.uniform_, torch.eye}
_SAME_SHAPE = {Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.div, Tensor.__truediv__, F.normalize}
"""On meta tensors torch computes the shapes of all these in Python, and imports for seconds to do so."""


class _ShapesAlone(TorchFunctionMode):
    """Gives tensors that nobody reads in place of random numbers and of products by numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        target = next((v for v in (*args[:1], *kwargs.values()) if isinstance(v, Tensor)), None)
        if target is not None and target.is_meta:
            if func in _FILLING:
                return target
            if func in _SAME_SHAPE:
                return torch.empty(target.shape, device="meta")
        return (torch.empty if func in _RANDOM else func)(*args, **kwargs)


def outline(make: Callable[[], _Module]) -> _Module:
    """The module that `make` makes, with tensors that have a shape and neither values nor memory."""
    with torch.device("meta"), _ShapesAlone():
        return make()
