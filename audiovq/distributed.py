"""Several processes, on one machine or many, that do one job: torchrun starts them, this tells who is who.

All of them run the same program. Sharing out files needs no more than `launched_rank`; training joins them
through torch.distributed (gloo between processors, NCCL between GPUs), so that what is summed is the same on
each to the bit. Bytes and numbers are exchanged, never pickled objects.
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


class RankInfo(NamedTuple):
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


def launched_rank() -> RankInfo:
    """This process by the environment that torchrun sets; (0, 1) without it.

    Raises: AudiovqError if RANK and WORLD_SIZE make no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return RankInfo(0, 1)
    texts = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (texts[0].isdecimal() and texts[1].isdecimal() and int(texts[0]) < int(texts[1])):
        raise AudiovqError(f"RANK={texts[0]} WORLD_SIZE={texts[1]}: no place among processes; unset them")
    return RankInfo(int(texts[0]), int(texts[1]))


def local_world_size() -> int:
    """How many processes of the job share this machine's cores, by the environment that torchrun sets."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def rank_info() -> RankInfo:
    """This process among those that `process_group` connected; (0, 1) without any."""
    # None is joined before torch is loaded, and then it need not be.
    dist = sys.modules.get("torch.distributed")
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return RankInfo(0, 1)
    return RankInfo(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group(device: str = "cpu") -> Iterator[RankInfo]:
    """Connect the processes that torchrun started; for one alone, or once it is done, nothing happens.

    Args:
        device: where the tensors are that they will sum up, as torch names it.

    Raises: AudiovqError if they cannot be connected.
    """
    started = launched_rank()
    if started.size == 1 or rank_info().size > 1:
        yield rank_info()
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
        yield rank_info()
    finally:
        dist.destroy_process_group()


def all_reduce_sum(*tensors: Tensor) -> None:
    """Add up each tensor over all joined processes, in place; as they are without any.

    Raises: AudiovqError if another process has ended.
    """
    if rank_info().size == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        try:
            dist.all_reduce(tensor)
        except RuntimeError:
            raise AudiovqError(
                "another process of this run has ended (its own message says why); go on with --resume"
            ) from None


def all_reduce_floats(values: Sequence[float]) -> list[float]:
    """Sums over all joined processes."""
    if rank_info().size == 1:
        return list(values)
    import torch

    sums = torch.tensor(values, dtype=torch.float64)
    all_reduce_sum(sums)
    return sums.tolist()


def average_gradients(parameters: Sequence[nn.Parameter], extra: Sequence[float]) -> list[float]:
    """Mean gradients over all joined processes, in place, and the sums of some numbers besides.

    One message for all of it. A parameter that no process has a gradient for keeps none. `extra` travels as
    float32.
    """
    count = rank_info().size
    if count == 1:
        return list(extra)
    import torch

    device = parameters[0].device
    has = [float(p.grad is not None) for p in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    tail = torch.tensor([*has, *extra], device=device)
    flat = torch.cat([*(part.detach().float().flatten() for part in parts), tail])
    all_reduce_sum(flat)
    *means, counts = flat.split([*(p.numel() for p in parameters), len(tail)])
    counted = counts.tolist()
    for parameter, mean, owners in zip(parameters, means, counted, strict=False):
        parameter.grad = (mean / count).view_as(parameter).to(parameter.dtype) if owners else None
    return counted[len(parameters) :]


def broadcast_bytes(content: bytes) -> bytes:
    """The first process's bytes, on every joined process."""
    me = rank_info()
    if me.size == 1:
        return content
    import torch

    length = int(all_reduce_floats([len(content) if me.first else 0])[0])
    # Whoever does not send adds zeros: a sum is all that has to work.
    sent = torch.zeros(length, dtype=torch.uint8)
    if me.first and content:
        sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    all_reduce_sum(sent)
    return sent.numpy().tobytes()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The first process goes through the block, then the others: what it left on disk they find."""
    if not rank_info().first:
        barrier()
    yield
    if rank_info().first:
        barrier()


def broadcast_flag(answer: bool) -> bool:
    """The first process's answer, on every joined process."""
    return all_reduce_floats([float(answer and rank_info().first)])[0] > 0


def barrier() -> None:
    """Return when every joined process has come here."""
    all_reduce_floats([0.0])
