"""Several processes, on one machine or many, that torchrun starts to do one job.

All of them run the same program. Dividing a list of files needs no more than `torchrun_rank`; training
connects the processes in a `process_group` of torch.distributed (gloo between CPUs, NCCL between GPUs), so
that sums are the same on each to the bit. Processes exchange bytes and numbers, never pickled objects.
"""

from __future__ import annotations

import logging
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

_Item = TypeVar("_Item")

_PATIENCE = timedelta(days=2)
"""How long a process waits for the others: one may still process its files, or index a corpus alone. The end
of a process is noticed at once."""


_MARKS = {"RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"}
"""Names in the environment of a process that torchrun started."""


class RankInfo(NamedTuple):
    """This process's rank, and the number of processes."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is rank zero, which writes files and logs progress."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.world_size}"

    def shard(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Every `world_size`-th item: the shards of all processes hold each item once."""
        return items[self.rank :: self.world_size]


def torchrun_rank() -> RankInfo:
    """Rank and world size from the environment that torchrun sets; (0, 1) without it.

    Shells on a cluster may hold a RANK and a WORLD_SIZE too, which say nothing about this program.

    Raises: AudiovqError if RANK and WORLD_SIZE are inconsistent.
    """
    if not os.environ.keys() >= _MARKS:
        return RankInfo(0, 1)
    rank = os.environ["RANK"]
    size = os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise AudiovqError(f"RANK={rank} WORLD_SIZE={size}: inconsistent; unset them or use torchrun")
    return RankInfo(int(rank), int(size))


def local_world_size() -> int:
    """Processes of the job on this machine, which share its cores, from the environment of torchrun."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1") if os.environ.keys() >= _MARKS else "1"
    return max(1, int(text)) if text.isdecimal() else 1


def rank_info() -> RankInfo:
    """Rank and world size in the process group; (0, 1) outside of one."""
    # Without torch there is no group, and no reason to import it.
    dist = sys.modules.get("torch.distributed")
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return RankInfo(0, 1)
    return RankInfo(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group(device: str = "cpu") -> Iterator[RankInfo]:
    """Connect the processes that torchrun started; does nothing for one process, or inside a group.

    Args:
        device: of the tensors to reduce, as torch names it.

    Raises: AudiovqError if they cannot be connected.
    """
    started = torchrun_rank()
    if started.world_size == 1 or rank_info().world_size > 1:
        yield rank_info()
        return
    import torch.distributed as dist

    # An optimizer's first step imports it. Imported inside a group, it keeps the group's connection alive,
    # whose threads can abort a process that exits.
    import_module("torch._dynamo")
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AudiovqError(
            f"cannot connect {started.world_size} processes ({reason}); use torchrun"
        ) from None
    try:
        yield rank_info()
    finally:
        dist.destroy_process_group()


def all_reduce_sum(*tensors: Tensor) -> None:
    """Sum each tensor over the process group, in place. Raises AudiovqError if another process has ended."""
    if rank_info().world_size == 1:
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
    """Sum numbers over the process group."""
    if rank_info().world_size == 1:
        return list(values)
    import torch

    sums = torch.tensor(values, dtype=torch.float64)
    all_reduce_sum(sums)
    return [float(value) for value in sums.tolist()]


def average_gradients(parameters: Sequence[nn.Parameter], extra: Sequence[float]) -> list[float]:
    """Average gradients over the process group, in place; returns the sums of the numbers in `extra`.

    All of it travels in one message, as float32. A parameter without a gradient on any process keeps none.
    """
    count = rank_info().world_size
    if count == 1:
        return list(extra)
    import torch

    device = parameters[0].device
    has = [float(p.grad is not None) for p in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    tail = torch.tensor([*has, *extra], device=device)
    flat = torch.cat([*(part.detach().float().flatten() for part in parts), tail])
    all_reduce_sum(flat)
    *means, counts = torch.split(flat, [*(p.numel() for p in parameters), len(tail)])
    counted = [float(value) for value in counts.tolist()]
    for parameter, mean, owners in zip(parameters, means, counted, strict=False):
        parameter.grad = (mean / count).view_as(parameter).to(parameter.dtype) if owners else None
    return counted[len(parameters) :]


def broadcast_bytes(content: bytes) -> bytes:
    """Rank zero's bytes, on every process of the group."""
    if rank_info().world_size == 1:
        return content
    import torch

    is_first = rank_info().is_first
    length = int(all_reduce_floats([len(content) if is_first else 0])[0])
    # The other ranks add zeros: a sum works on every backend and device.
    sent = torch.zeros(length, dtype=torch.uint8)
    if is_first and content:
        sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    all_reduce_sum(sent)
    return sent.numpy().tobytes()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank zero runs the block first, so that the others find its files."""
    if not rank_info().is_first:
        barrier()
    yield
    if rank_info().is_first:
        barrier()


def broadcast_flag(answer: bool) -> bool:
    """Rank zero's answer, on every process of the group."""
    return all_reduce_floats([float(answer and rank_info().is_first)])[0] > 0


def barrier() -> None:
    """Wait until every process of the group arrives here."""
    all_reduce_floats([0.0])


def rank_zero_log_filter(record: logging.LogRecord) -> bool:
    """Filter of log records: progress from rank zero alone, warnings and errors from every process."""
    return record.levelno > logging.INFO or torchrun_rank().is_first
