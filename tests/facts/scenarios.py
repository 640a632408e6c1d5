"""What ranks do in the facts about gloo: each function is run by every rank of a `tests.ranks` call."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from tests.ranks import Here

T = 1.5  # seconds, the timeout of a group where a scenario waits for it


def meet(here: Here, timeout_s: float = 10.0) -> None:
    store = dist.FileStore(str(here.folder / "store"), here.size)
    dist.init_process_group(
        "gloo", store=store, rank=here.rank, world_size=here.size, timeout=timedelta(seconds=timeout_s)
    )


def failure(action) -> tuple[str, float]:
    """The text of what an action raised, and how long it took."""
    begun = time.monotonic()
    try:
        action()
    except RuntimeError as error:
        return str(error), time.monotonic() - begun
    return "", time.monotonic() - begun


def receive_into(here: Here) -> list[float]:
    """Rank 0 sends four elements, rank 1 receives into `elements`."""
    meet(here)
    buffer = torch.full((here.given["elements"],), -1.0)
    if here.rank == 0:
        dist.send(torch.ones(4), 1)
    else:
        dist.recv(buffer, 0)
    return buffer.tolist()


def another_dtype(here: Here) -> dict[str, list[float]]:
    """Rank 1 takes float32 for int32, and 2 x 2 for 4."""
    meet(here)
    kind = torch.int32 if here.rank else torch.float32
    broadcast = torch.full((2, 2) if here.rank else (4,), 1, dtype=kind)
    dist.broadcast(broadcast, 0)
    summed = torch.ones(4, dtype=kind)
    dist.all_reduce(summed)
    return {"broadcast": broadcast.flatten().tolist(), "summed": summed.tolist()}


def another_operation(here: Here) -> dict[str, list[float]]:
    meet(here)
    mixed = torch.tensor([1.0 + here.rank, 5.0])
    dist.all_reduce(mixed, op=dist.ReduceOp.MAX if here.rank else dist.ReduceOp.SUM)
    first, second = torch.tensor([1.0]), torch.tensor([10.0])
    for tensor in (second, first) if here.rank else (first, second):
        dist.all_reduce(tensor)
    return {"mixed": mixed.tolist(), "swapped": [first.item(), second.item()]}


def unequal_sizes(here: Here) -> list[float]:
    """The first and last element of a sum of ones where the two ranks disagree on how many there are."""
    meet(here, T)
    tensor = torch.ones(here.given["elements"][here.rank])
    dist.all_reduce(tensor)
    return [tensor[0].item(), tensor[-1].item()]


def strided(here: Here) -> dict[str, object]:
    """Rank 1 gives a view of every other element; what its whole tensor holds afterwards."""
    meet(here)
    whole = torch.ones(8)
    view = whole[::2] if here.rank else torch.full((4,), 5.0)
    if here.given["operation"] == "receive":
        return {"refused": failure(lambda: dist.recv(view, 0))[0] if here.rank else ""}
    if here.given["operation"] == "broadcast":
        dist.broadcast(view, 0)
    else:
        dist.all_reduce(view)
    return {"whole": whole.tolist(), "view": view.tolist()}


def broadcast_into(here: Here) -> list[float]:
    """Rank 0 gives four elements, rank 1 takes `elements`."""
    meet(here, T)
    tensor = torch.full((here.given["elements"] if here.rank else 4,), float(here.rank))
    dist.broadcast(tensor, 0)
    return tensor.tolist()


def late_receiver(here: Here) -> float:
    """How long a send took whose receiver came half a second late."""
    meet(here)
    dist.barrier()
    if here.rank == 0:
        return failure(lambda: dist.send(torch.ones(4), 1))[1]
    time.sleep(0.5)
    dist.recv(torch.ones(4), 0)
    return 0.0


def overwritten(here: Here) -> list[float]:
    """What arrives of an isend whose buffer is changed before `wait`."""
    meet(here)
    dist.barrier()
    tensor = torch.ones(4)
    if here.rank == 0:
        work = dist.isend(tensor, 1)
        tensor.fill_(2.0)
        here.mark("overwritten")
        work.wait()
    else:
        here.await_mark("overwritten")
        dist.recv(tensor, 0)
    return tensor.tolist()


def dropped(here: Here) -> str:
    """An isend whose work nobody keeps."""
    meet(here, T)
    dist.barrier()
    if here.rank == 0:
        dist.isend(torch.ones(4), 1)
        here.mark("dropped")
        here.await_mark("done")
        return ""
    here.await_mark("dropped")
    text, _ = failure(lambda: dist.recv(torch.zeros(4), 0))
    here.mark("done")
    return text


def one_too_many(here: Here) -> list[object]:
    meet(here, T)
    dist.all_reduce(torch.ones(4))
    if here.rank:
        here.await_mark("tried")
        return list(failure(lambda: dist.all_reduce(torch.ones(4))))
    first = failure(lambda: dist.all_reduce(torch.ones(4)))
    here.mark("tried")
    return [*first, failure(lambda: dist.all_reduce(torch.ones(4)))[0]]


def not_a_member(here: Here) -> dict[str, object]:
    meet(here)
    group = dist.new_group([0, 1], timeout=timedelta(seconds=5))
    default = dist.new_group([0, 1])
    tensor = torch.full((2,), 7.0)
    said: dict[str, object] = {}
    if here.rank == 2:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            dist.all_reduce(tensor, group=group)
            said["received"] = dist.recv(tensor, 0, group=group)
        said["warnings"] = len(warned)
    else:
        cpu = torch.device("cpu")
        said["timeouts"] = [g._get_backend(cpu).options._timeout.total_seconds() for g in (group, default)]
    said["tensor"] = tensor.tolist()
    dist.barrier()
    return said


def peer_killed(here: Here) -> list[object]:
    """Rank 2 is killed while rank 0 waits for it; rank 1 is idle."""
    meet(here, 8.0)
    pair = dist.new_group([0, 2], timeout=timedelta(seconds=8))
    dist.barrier()
    if here.rank == 2:
        here.await_mark("waiting")
        os.kill(os.getpid(), signal.SIGKILL)
    if here.rank == 0:
        here.mark("waiting")
        told = failure(lambda: dist.all_reduce(torch.ones(4), group=pair))
        here.mark("told")
        return list(told)
    here.await_mark("told")
    return ["idle", 0.0]


def peer_stopped(here: Here) -> list[object]:
    """Rank 1 is stopped for `seconds` with a timeout of `timeout_s`."""
    meet(here, here.given["timeout_s"])
    dist.barrier()
    if here.rank:
        here.stop_for(here.given["seconds"])
    return list(failure(lambda: dist.all_reduce(torch.ones(4))))


def two_threads(here: Here) -> list[int]:
    """How many of 200 sums are wrong where two threads of each rank sum threes and fives, the ranks beginning with
    another one; on `groups` groups."""
    meet(here, 5.0)
    groups = [dist.new_group([0, 1], timeout=timedelta(seconds=5)) for _ in range(here.given["groups"])]
    dist.barrier()
    wrong = [0, 0]
    go = threading.Barrier(2)

    def sums(index: int) -> None:
        value = (3.0, 5.0)[index]
        go.wait()
        for _ in range(100):
            if here.given["groups"] == 1 and index == here.rank:
                time.sleep(0.0005)
            tensor = torch.full((16,), value)
            dist.all_reduce(tensor, group=groups[index % len(groups)])
            wrong[index] += tensor[0].item() != 2 * value

    threads = [threading.Thread(target=sums, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def no_abort(here: Here) -> list[object]:
    """Whether taking the group apart from another thread frees the one in a collective."""
    meet(here, T)
    dist.barrier()
    if here.rank:
        here.await_mark("done")
        return []
    told: list[object] = []
    waiting = threading.Thread(target=lambda: told.extend(failure(lambda: dist.all_reduce(torch.ones(4)))))
    waiting.start()
    time.sleep(0.2)
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    waiting.join()
    here.mark("done")
    return told


def exit_from_a_thread(here: Here) -> None:
    """A watchdog thread ends the process while the main thread is in a collective."""
    meet(here, 30.0)
    dist.barrier()
    if here.rank:
        here.await_mark("done", within_s=20.0)
        return

    def watchdog() -> None:
        time.sleep(0.2)
        here.mark("done")
        os._exit(12)

    threading.Thread(target=watchdog).start()
    dist.all_reduce(torch.ones(4))


def bits_of_a_sum(here: Here) -> dict[str, object]:
    """The same numbers summed twice, and once more behind a padding."""
    meet(here)
    draw = torch.Generator().manual_seed(here.rank)
    own = torch.randn(5000, generator=draw)

    def summed(padding: int) -> torch.Tensor:
        tensor = torch.cat((torch.zeros(padding), own))
        dist.all_reduce(tensor)
        return tensor[padding:]

    first, again, padded = summed(0), summed(0), summed(1700)
    return {
        "again": bool(torch.equal(first, again)),
        "padded": bool(torch.equal(first, padded)),
        "bits": first.view(torch.int32).long().sum().item(),
    }


def shortened(here: Here) -> list[object]:
    """A group with a long timeout that was made short afterwards."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    meet(here, 30.0)
    dist.all_reduce(torch.ones(4))
    _set_pg_timeout(timedelta(seconds=T))
    if here.rank:
        here.await_mark("tried")
        return []
    told = failure(lambda: dist.all_reduce(torch.ones(4)))
    here.mark("tried")
    return list(told)


def meet_alone(here: Here) -> list[object]:
    return list(failure(lambda: meet(here, T))) if here.rank else []
