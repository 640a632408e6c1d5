"""Process groups: how ranks find each other, and how long torch may wait for them.

All groups of a run are built in `form`, once, by every rank, with every timeout said: torch's own are half an hour,
and a group that some ranks skip hangs later. Which back end: NCCL where each rank has a GPU of its own, otherwise gloo
(which takes CUDA tensors too, through host memory). Knows no model and no plan.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _set_pg_timeout

from genlock.errors import DeviceUnavailable, LaunchRefused
from genlock.settings import Launch

RENDEZVOUS = "rendezvous"  # file in the run's folder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Ranks that make collectives together, as one of them sees it. rank: its place in it, -1 where it is no member.
    backend: gloo or nccl."""

    handle: dist.ProcessGroup
    rank: int
    size: int
    backend: str

    @property
    def member(self) -> bool:
        return self.rank >= 0


def device_of(place: Launch, kind: str, *, devices: int) -> torch.device:
    """This rank's device. devices: how many GPUs its host shows; ranks beyond them share, in turn.

    Raises DeviceUnavailable if there is none.
    """
    if kind == "cpu":
        return torch.device("cpu")
    if devices < 1:
        raise DeviceUnavailable("no CUDA device is visible to this rank", rank=place.rank)
    return torch.device(kind, place.local_rank % devices)


def backend_of(place: Launch, device: torch.device, *, devices: int) -> str:
    """gloo or nccl, by the same rule on every rank: NCCL refuses two ranks on one GPU."""
    return "nccl" if device.type == "cuda" and (place.local_world or place.world) <= devices else "gloo"


def form(place: Launch, *, device: torch.device, timeout_s: float) -> Group:
    """The mesh's group of all ranks. timeout_s: of the meeting and, until `shorten`, of every collective.

    Under genlock's supervisor the ranks meet in a file of the run's folder; under another launcher at its address.
    Raises LaunchRefused if they do not meet in time. Not bounded by itself where a rank is stopped while it meets:
    the phase's deadline is.
    """
    backend = backend_of(place, device, devices=torch.cuda.device_count() if device.type == "cuda" else 0)
    timeout = timedelta(seconds=timeout_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        if place.supervised is None:
            dist.init_process_group(
                backend, init_method="env://", rank=place.rank, world_size=place.world, timeout=timeout
            )
        else:
            store = FileStore(str(Path(place.supervised.run_dir) / RENDEZVOUS), place.world)
            store.set_timeout(timeout)
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        raise LaunchRefused(
            f"the ranks did not meet within {timeout_s:g} s: {first:.200}",
            rank=place.rank,
            remedy="look at what the other ranks printed, and whether another program has the port MASTER_PORT",
        ) from error
    return Group(handle=_whole(), rank=place.rank, size=place.world, backend=backend)


def shorten(group: Group, timeout_s: float) -> None:
    """From now on a collective of this group waits `timeout_s`. Start-up needs longer than a chunk may.

    gloo keeps to it. NCCL does not by itself: on two H100 (torch 2.11, its own settings) a sum whose peer was killed or
    stopped had said nothing after 40 s with a timeout of 4. A rank's watch and its supervisor bound it there.
    """
    _set_pg_timeout(timedelta(seconds=timeout_s), group.handle)


def leave(group: Group, *, within_s: float) -> bool:
    """Takes the groups apart at the end of a good run; whether that was done in time. Never on the way out of a
    failure: it can block for as long as a collective may, and hides the error."""
    if not group.member:
        return True
    taken_apart = threading.Thread(target=dist.destroy_process_group, name="leave", daemon=True)
    taken_apart.start()
    taken_apart.join(within_s)
    return not taken_apart.is_alive()


def _whole() -> dist.ProcessGroup:
    handle = dist.group.WORLD
    assert handle is not None  # just made
    return handle
