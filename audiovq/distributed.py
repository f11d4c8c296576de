"""Several processes, on one machine or many, that do one job: torchrun starts them, this tells who is who.

All of them run the same program. Sharing out files needs no more than `place`; training joins them through
torch.distributed (gloo between processors, NCCL between GPUs), so that what is summed is the same on each
to the bit. Bytes and numbers are exchanged, never pickled objects.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from torch import Tensor, nn

Item = TypeVar("Item")

PATIENCE = timedelta(days=2)
"""How long a process waits for the others: one may still be at work on its files, or index a corpus alone.
One that has ended is noticed at once."""


class Place(NamedTuple):
    """This process: its number, and how many there are."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and tells how it goes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every size-th item: the shares of all processes are all items, each once."""
        return items[self.rank :: self.size]


def place() -> Place:
    """This process by the environment that torchrun sets; (0, 1) without it.

    Raises: AudiovqError if RANK and WORLD_SIZE make no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place(0, 1)
    texts = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (texts[0].isdecimal() and texts[1].isdecimal() and int(texts[0]) < int(texts[1])):
        raise AudiovqError(f"RANK={texts[0]} WORLD_SIZE={texts[1]}: no place among processes; unset them")
    return Place(int(texts[0]), int(texts[1]))


def on_this_machine() -> int:
    """How many processes of the job share this machine's cores, by the environment that torchrun sets."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def here() -> Place:
    """This process among those that `joined` connected; (0, 1) without any."""
    # None is joined before torch is loaded, and then it need not be.
    dist = sys.modules.get("torch.distributed")
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return Place(0, 1)
    return Place(dist.get_rank(), dist.get_world_size())


@contextmanager
def joined(device: str = "cpu") -> Iterator[Place]:
    """Connect the processes that torchrun started; for one alone, or once it is done, nothing happens.

    Args:
        device: where the tensors are that they will sum up, as torch names it.

    Raises: AudiovqError if they cannot be connected.
    """
    started = place()
    if started.size == 1 or here().size > 1:
        yield here()
        return
    import torch.distributed as dist

    # An optimizer's first step imports it. Imported while processes are connected, it holds on to the
    # connection beyond its end, and the threads of that can abort a process that exits.
    import_module("torch._dynamo")
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AudiovqError(f"cannot connect {started.size} processes ({reason}); use torchrun") from None
    try:
        yield here()
    finally:
        dist.destroy_process_group()


def sum_up(*tensors: Tensor) -> None:
    """Add up each tensor over all joined processes, in place; as they are without any.

    Raises: AudiovqError if another process has ended.
    """
    if here().size == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        try:
            dist.all_reduce(tensor)
        except RuntimeError:
            raise AudiovqError(
                "another process of this run has ended (its own message says why); go on with --resume"
            ) from None


def sum_floats(values: Sequence[float]) -> list[float]:
    """Sums over all joined processes."""
    if here().size == 1:
        return list(values)
    import torch

    sums = torch.tensor(values, dtype=torch.float64)
    sum_up(sums)
    return sums.tolist()


def average_gradients(parameters: Sequence[nn.Parameter], extra: Sequence[float]) -> list[float]:
    """Mean gradients over all joined processes, in place, and the sums of some numbers besides.

    One message for all of it. A parameter that no process has a gradient for keeps none. `extra` travels as
    float32.
    """
    count = here().size
    if count == 1:
        return list(extra)
    import torch

    device = parameters[0].device
    has = [float(p.grad is not None) for p in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    tail = torch.tensor([*has, *extra], device=device)
    flat = torch.cat([*(part.detach().float().flatten() for part in parts), tail])
    sum_up(flat)
    *means, counts = flat.split([*(p.numel() for p in parameters), len(tail)])
    counted = counts.tolist()
    for parameter, mean, owners in zip(parameters, means, counted, strict=False):
        parameter.grad = (mean / count).view_as(parameter).to(parameter.dtype) if owners else None
    return counted[len(parameters) :]


def from_first(content: bytes) -> bytes:
    """The first process's bytes, on every joined process."""
    me = here()
    if me.size == 1:
        return content
    import torch

    length = int(sum_floats([len(content) if me.first else 0])[0])
    # Whoever does not send adds zeros: a sum is all that has to work.
    sent = torch.zeros(length, dtype=torch.uint8)
    if me.first and content:
        sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    sum_up(sent)
    return sent.numpy().tobytes()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process goes through the block, then the others: what it left on disk they find."""
    if not here().first:
        wait_for_all()
    yield
    if here().first:
        wait_for_all()


def first_says(answer: bool) -> bool:
    """The first process's answer, on every joined process."""
    return sum_floats([float(answer and here().first)])[0] > 0


def wait_for_all() -> None:
    """Return when every joined process has come here."""
    sum_floats([0.0])
