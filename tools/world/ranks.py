"""Several cards train one model: each draws its own samples, and every step they agree on the gradient.

One process a card. Alone (the usual case), everything here does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

_FAR = 1_000_003


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this process writes what all of them made."""
    return rank() == 0


def seed(base: int) -> int:
    """A seed of this rank's own."""
    return base + _FAR * rank()


def average(gradients: Sequence[Tensor], extra: Tensor) -> Tensor:
    """Replaces gradients by their mean over the ranks, in place; returns the mean of `extra` [n]."""
    if size() == 1:
        return extra
    flat = torch.cat([*(g.flatten() for g in gradients), extra.float()])
    dist.all_reduce(flat)
    flat /= size()
    parts = flat.split([*(g.numel() for g in gradients), extra.numel()])
    for gradient, part in zip(gradients, parts[:-1], strict=True):
        gradient.copy_(part.view_as(gradient))
    return parts[-1]


def agreed(value: float) -> float:
    """The first rank's value of a number of the host, without waiting for the card."""
    if size() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(told, src=0, group=_host_group())
    return float(told)


_HOST: list[dist.ProcessGroup] = []


def _host_group() -> dist.ProcessGroup:
    return _HOST[0]


def run(count: int, file: Path, work: Callable[[int], None]) -> None:
    """Calls work(rank) in `count` processes that know each other; in this one alone if count is 1."""
    if count == 1:
        work(0)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_joined, args=(count, str(file.resolve()), work), nprocs=count)  # type: ignore[no-untyped-call]


def _joined(index: int, count: int, file: str, work: Callable[[int], None]) -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
        backend = "nccl"
    dist.init_process_group(backend, init_method=f"file://{file}", rank=index, world_size=count)
    _HOST.append(dist.new_group(backend="gloo"))
    work(index)
    # The first rank writes pictures long after the others are done, and taking a group apart waits for everyone: so all
    # leave together, and at once.
    dist.barrier(group=_HOST[0])
    sys.stdout.flush()
    os._exit(0)
