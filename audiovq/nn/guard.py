"""The state that audiovq computes in, whatever the application around it has set, and puts back.

Torch keeps much of its state in the process: default dtype and device, autocast, gradients, precision, number
of threads. `guarded` computes as a fresh process would. All that it changes is the calling thread's own, but
for the precision of float32 products, which torch has only one of: while the application asks for less than
the highest, it is the highest for all threads until the last call of audiovq has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Made = TypeVar("Made")

_HIGHEST = "highest"
_EXACT = "ieee"
_LOWER = ("bf16", "tf32")
_PRODUCTS: tuple[Any, ...] = (
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    torch.backends.cuda.matmul,
)
"""Kinds of products with a precision of their own. Convolutions on a GPU have torch's default."""
_AUTOCAST_DEVICES = ("cpu", "cuda")

_FLOAT_FACTORIES = {
    *(torch.empty, torch.zeros, torch.ones, torch.eye, torch.rand, torch.randn, torch.linspace),
    *(torch.logspace, torch.hann_window, torch.hamming_window, torch.kaiser_window, torch.blackman_window),
}
"""Factories whose results have the default dtype."""
_BY_VALUE = {torch.full, torch.arange, torch.tensor, torch.scalar_tensor}
"""Factories whose results have the default dtype if a value is a float."""
_OTHER_FACTORIES = {torch.randint, torch.randperm, torch.as_tensor}
_CONVERSIONS = {"to", "type", "double", "float", "half", "bfloat16", "where"}
"""Functions that give another dtype because they were asked to."""
_DRAWING = {
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli),
    *(torch.multinomial, Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, Tensor.random_),
}


@contextlib.contextmanager
def guarded(threads: int | None = None) -> Iterator[None]:
    """Compute as in a fresh process; also a decorator. What was set before is put back, errors included.

    Float32 on the CPU by default, no autocast, gradients on, highest precision, numpy's usual error state.

    Args:
        threads: of torch in this thread; None: as many as it has.
    """
    with contextlib.ExitStack() as stack:
        if torch.get_default_dtype() != torch.float32 or torch.get_default_device().type != "cpu":
            stack.enter_context(_Defaults())
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if _precision.users or any(product.fp32_precision in _LOWER for product in _PRODUCTS):
            stack.enter_context(_precision)
        if threads is not None:
            stack.enter_context(torch_threads(threads))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


def each_guarded(items: Iterator[Made]) -> Iterator[Made]:
    """The items of an iterator, each made in a guard that is left before the item is given out."""
    while True:
        with guarded():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


# Defaults and random numbers


class _Defaults(TorchFunctionMode):
    """Float32 and the CPU in place of the default dtype and device, in one thread."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        factory = func in _FLOAT_FACTORIES or func in _BY_VALUE
        if (factory or func in _OTHER_FACTORIES) and kwargs.get("device") is None:
            # What is a tensor already stays where it is.
            is_tensor = func is torch.as_tensor and isinstance(args[0], Tensor)
            kwargs["device"] = args[0].device if is_tensor else "cpu"
        if factory and kwargs.get("dtype") is None and (func in _FLOAT_FACTORIES or _any_float(args, kwargs)):
            kwargs["dtype"] = torch.float32
        made = func(*args, **kwargs)
        default = torch.get_default_dtype()
        is_default = default != torch.float32 and isinstance(made, Tensor) and made.dtype == default
        if is_default and not factory and _is_promotion(func, args, kwargs):
            # Whole numbers became the default dtype.
            return func(*map(_to_float32, args), **{k: _to_float32(v) for k, v in kwargs.items()})
        return made


def _any_float(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether any argument is a float, or a list that holds one."""
    values = list(args) + [value for name, value in kwargs.items() if name not in ("device", "dtype")]
    while values:
        value = values.pop()
        if isinstance(value, float):
            return True
        if isinstance(value, list | tuple):
            values.extend(value)
    return False


def _is_promotion(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function that gave a float was given whole numbers alone, and no dtype."""
    values = [*args, *kwargs.values()]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors or any(isinstance(value, torch.dtype) for value in values):
        return False
    whole = not any(value.dtype.is_floating_point or value.dtype.is_complex for value in tensors)
    return whole and getattr(func, "__name__", "") not in _CONVERSIONS


def _to_float32(value: Any) -> Any:
    return value.to(torch.float32) if isinstance(value, Tensor) else value


class _Drawing(TorchFunctionMode):
    """Draws by one generator what would be drawn by torch's global one."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (func in _DRAWING or "generator" in kwargs) and kwargs.get("generator") is None:
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)


@contextlib.contextmanager
def own_generator(seed: int) -> Iterator[None]:
    """Draw initial weights as after `torch.manual_seed(seed)`, without the global generator."""
    with _Drawing(torch.Generator().manual_seed(seed)):
        yield


# Precision


class _HighestPrecision:
    """The highest precision of float32 products while any thread is inside.

    Torch has two ways to lower it: `set_float32_matmul_precision`, and `fp32_precision` of each kind of
    product. Reading the first is an error where the second was used.
    """

    def __init__(self) -> None:
        self.users = 0
        self._before: str | None = None
        self._lowered: list[tuple[Any, str]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self.users == 0:
                self._raise()
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.users -= 1
            if self.users == 0:
                self._put_back()

    def leave_after_fork(self) -> None:
        """In a forked child: forget the threads that are not in it."""
        self._lock = threading.Lock()
        if self.users:
            self.users = 0
            self._put_back()

    def _raise(self) -> None:
        self._before = _matmul_precision()
        if self._before not in (None, _HIGHEST):
            torch.set_float32_matmul_precision(_HIGHEST)
        self._lowered = [(p, p.fp32_precision) for p in _PRODUCTS if p.fp32_precision in _LOWER]
        for product, _ in self._lowered:
            product.fp32_precision = _EXACT

    def _put_back(self) -> None:
        # What the application has set meanwhile stays.
        for product, before in self._lowered:
            if product.fp32_precision == _EXACT:
                # None of its own: that of all kinds together.
                product.fp32_precision = "none"
                if product.fp32_precision != before:
                    product.fp32_precision = before
        if self._before not in (None, _HIGHEST) and _matmul_precision() == _HIGHEST:
            torch.set_float32_matmul_precision(self._before)


def _matmul_precision() -> str | None:
    """As `set_float32_matmul_precision` has it; None if the application sets `fp32_precision`."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


_precision = _HighestPrecision()


# Threads


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The library through which torch computes, if it counts threads by OpenMP.

    `torch.set_num_threads` also sets the number for threads that start later; OpenMP's own function, and
    MKL's, set that of the calling thread alone.
    """
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(folder / name))
            _ = library.omp_set_num_threads
            return library
    return None


def _set_threads(count: int, mkl: int) -> int:
    """Set the calling thread's number of threads, and MKL's; returns MKL's of before (0: as OpenMP's)."""
    library = _openmp()
    if library is None:
        torch.set_num_threads(count)
        return 0
    library.omp_set_num_threads(count)
    try:
        return int(library.MKL_Set_Num_Threads_Local(mkl))
    except AttributeError:
        return 0


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads in this thread; no other thread notices."""
    # Asking makes torch read the number that holds for new threads, which would overwrite ours later.
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    process = os.getpid()
    mkl = _set_threads(count, count)
    try:
        yield
    finally:
        # A child forked meanwhile has no other threads.
        if os.getpid() == process:
            _set_threads(before, mkl)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch compute with one thread: with more, sums are cut elsewhere and round in another way."""
    return torch_threads(1)


def _after_fork() -> None:
    # The threads of OpenMP are not in the child, which would wait for them for ever.
    torch.set_num_threads(1)
    _precision.leave_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
