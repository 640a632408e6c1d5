"""The one door for collectives: every sum and every broadcast of a run goes through a `Mesh`.

Its methods are named after what they mean and fix operation and dtype. What the back end would accept and get wrong is
refused here, before it: another thread, a rank that is no member, a tensor that is not contiguous or of another dtype,
a pass that the plan does not have next, a collective outside any plan. What was done goes into the ledger.

In a traced region (torch.compile) the door does nothing but the functional call, for anything else would break or
recompile the graph; the checks of thread and plan are then those of `begin_call`, which stays outside. Knows no model,
no connection and no envelope.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional

from genlock.errors import (
    CallCount,
    CollectiveRefused,
    DeviceUnavailable,
    GenlockError,
    LinkBroken,
    OutOfMemory,
    RankSilent,
)
from genlock.fabric.backend_words import meaning
from genlock.fabric.groups import Group
from genlock.fabric.ledger import Ledger
from genlock.generator.parallel import Sum
from genlock.settings import Guard

PAYLOAD = "payload"


def unheard(site: str) -> None:
    """Progress that nobody asks about."""


class Mesh:
    """One rank's door to the others: `generator.parallel.TensorParallel`, and the payload's way.

    group: the mesh. device: where the generator runs. dtype: its precision. strict: every summand is checked for NaN
    and infinity, which waits for the device (bring-up). on_enter: told of each collective before it is made: pass,
    operation, elements, site. on_progress: told the site of each that is done.
    guards_off: of `plan`, `call_count` and `ledger`, what is not held to here; nothing in a normal run.
    The thread that makes it owns it. `ledger` and `collectives` count from `begin_chunk`.
    """

    def __init__(
        self,
        group: Group,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        strict: bool = False,
        on_enter: Callable[[str], None] = unheard,
        on_progress: Callable[[str], None] = unheard,
        guards_off: frozenset[Guard] = frozenset(),
    ) -> None:
        self.group, self.device, self.dtype, self.strict = group, device, dtype, strict
        self.on_enter, self.on_progress = on_enter, on_progress
        self.leave_off(guards_off)
        self._handle = group.handle
        self._owner = threading.get_ident()
        self._ledger = Ledger()
        self._plan: tuple[str, ...] = ()
        self._begun = 0  # passes of the plan that were begun
        self._open = ""  # what collectives may now belong to; none at all if empty
        self._pass = ""  # the same, with its place in the plan
        self._due: Sequence[Sum] | None = None  # of the open pass; None: any
        self._made = 0  # of them
        self._in_chunk = False

    def leave_off(self, guards_off: frozenset[Guard]) -> None:
        """From the next chunk on."""
        self._planned, self._counted, self._accounted = (
            guard not in guards_off for guard in (Guard.PLAN, Guard.CALL_COUNT, Guard.LEDGER)
        )

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def ledger(self) -> int:
        """128-bit digest of the passes and collectives since `begin_chunk`."""
        return self._ledger.digest

    @property
    def collectives(self) -> int:
        return self._ledger.count

    # -- the plan -----------------------------------------------------------------------------------------------

    def begin_chunk(self, plan: Sequence[str]) -> None:
        """The passes that follow, in order (`generator.stream.announced_passes`). Raises CollectiveRefused if another
        plan is in force."""
        self._check_idle("begin_chunk")
        self._plan, self._begun, self._in_chunk = tuple(plan), 0, True
        self._due = None
        self._ledger.restart()

    def begin_call(self, call: str, sums: Sequence[Sum] | None = None, *, graphs: int = 0) -> None:
        """Raises CallCount, before the first collective of `call`, unless it is the plan's next, and CollectiveRefused
        if the pass before it is not complete. sums: all that it will make, in order; None where compiled graphs make
        them out of the door's sight; graphs: then the digest of what these hold, which goes into the ledger."""
        if self._planned:
            self._check_caller("begin_call")
            if not self._in_chunk:
                raise self._refused("begin_call", f"{call} begins and no plan is in force")
            self._check_complete()
        due = self._plan[self._begun] if self._begun < len(self._plan) else "none"
        if call != due and self._counted:
            raise CallCount(f"pass {self._begun} is {call}, the plan has {due}", rank=self.rank)
        self._begun += 1
        self._open, self._due, self._made = call, sums, 0
        self._pass = f"{call} {self._begun}"
        if self._accounted:
            self._ledger.open(f"{call} {graphs:032x}" if graphs else call)

    def end_chunk(self) -> None:
        """Raises CallCount if a pass of the plan was not made, CollectiveRefused if the last one is not complete. No
        plan is in force any more then."""
        if self._planned:
            self._check_caller("end_chunk")
            if not self._in_chunk:
                raise self._refused("end_chunk", "no chunk was begun")
            self._check_complete()
        self._open, self._in_chunk = "", False
        if self._counted and self._begun < len(self._plan):
            due = self._plan[self._begun]
            raise CallCount(f"{self._begun} of {len(self._plan)} passes were made, {due} is missing", rank=self.rank)

    @contextmanager
    def opened(self, what: str) -> Iterator[None]:
        """Collectives outside any chunk that all ranks agreed to make: a probe while starting, a benchmark."""
        self._check_idle(what)
        self._open, self._pass, self._due = what, what, None
        self._ledger.restart()
        try:
            yield
        finally:
            self._open = ""

    # -- the collectives ----------------------------------------------------------------------------------------

    def sum_partial(self, partial: Tensor, site: str) -> Tensor:
        """Sum over ranks, in the model's dtype. Eager: in place, the result is `partial` itself."""
        if torch.compiler.is_compiling():
            return self._traced(partial)
        return self._sum("sum_partial", partial, site, self.dtype)

    def sum_squares(self, squares: Tensor, site: str) -> Tensor:
        """Sum over ranks, float32. Eager: in place, the result is `squares` itself."""
        if torch.compiler.is_compiling():
            return self._traced(squares)
        return self._sum("sum_squares", squares, site, torch.float32)

    def broadcast_payload(self, payload: Tensor | None, numel: int) -> Tensor:
        """Mesh rank 0's uint8 [numel] payload, in host memory, on every rank. payload: on rank 0, None elsewhere.

        Between chunks only: it is what a chunk begins with. The commitment point: when this is entered, every rank
        has accepted. NCCL: one copy to the device there, one back here; the digest is the caller's to check.
        """
        self._check_idle(PAYLOAD)
        if self._planned and (payload is None) != (self.rank != 0):
            raise self._refused(PAYLOAD, "rank 0 gives it, and no other rank")
        if payload is None:
            payload = torch.empty(numel, dtype=torch.uint8)
        if self._planned:
            self._check_payload(payload, numel)
        carried = payload.to(self.device) if self.group.backend == "nccl" else payload
        self.on_enter(f"{PAYLOAD}: broadcast {numel}")
        try:
            dist.broadcast(carried, group=self._handle, group_src=0)
        except RuntimeError as error:
            raise self._failed(PAYLOAD, error) from error
        self.on_progress(PAYLOAD)
        return carried.cpu() if self.rank and carried is not payload else payload

    def _traced(self, tensor: Tensor) -> Tensor:
        summed: Tensor = functional.all_reduce(tensor, "sum", self._handle)
        return summed

    def _sum(self, operation: str, tensor: Tensor, site: str, dtype: torch.dtype) -> Tensor:
        if self._planned:
            self._check_caller(site)
            if not self._open:
                raise self._refused(site, "no plan is in force")
            if tensor.dtype is not dtype:
                raise self._refused(site, f"{tensor.dtype}, {operation} takes {dtype}")
            if not tensor.is_contiguous():
                raise self._refused(site, f"not contiguous: {list(tensor.shape)} with strides {list(tensor.stride())}")
            if self._due is not None:
                self._check_due(Sum(operation, site, tensor.numel()), self._due)
        if self.strict and not bool(torch.isfinite(tensor).all()):
            raise self._refused(site, "this rank's own part is not finite", remedy=NOT_FINITE)
        self.on_enter(f"{self._pass}: {operation} {tensor.numel()} {site}")
        try:
            dist.all_reduce(tensor, group=self._handle)
        except RuntimeError as error:
            raise self._failed(site, error) from error
        if self._accounted:
            self._ledger.note(operation, site, tensor.numel(), dtype)
        self.on_progress(site)
        return tensor

    # -- refusals and failures ----------------------------------------------------------------------------------

    def _check_caller(self, site: str) -> None:
        if threading.get_ident() != self._owner:
            name = threading.current_thread().name
            raise self._refused(site, f"called from the thread {name!r}, which does not own this group")
        if not self.group.member:
            raise self._refused(site, "this rank is no member of the group")

    def _check_due(self, wanted: Sum, sums: Sequence[Sum]) -> None:
        due = sums[self._made] if self._made < len(sums) else None
        if wanted != due:
            plan = f"{due.operation} of {due.numel} elements at {due.site}" if due else "none"
            raise self._refused(wanted.site, f"{wanted.operation} of {wanted.numel} elements, due is {plan}")
        self._made += 1

    def _check_complete(self) -> None:
        if self._due is not None and self._made < len(self._due):
            raise self._refused(self._due[self._made].site, f"{self._made} of {len(self._due)} sums were made")

    def _check_payload(self, payload: Tensor, numel: int) -> None:
        if payload.dtype is not torch.uint8 or payload.shape != (numel,) or payload.device.type != "cpu":
            what = f"{payload.dtype} {list(payload.shape)} on {payload.device}, announced was uint8 [{numel}] on cpu"
            raise self._refused(PAYLOAD, what)
        if not payload.is_contiguous():
            raise self._refused(PAYLOAD, "not contiguous")

    def _check_idle(self, site: str) -> None:
        if not self._planned:
            return
        self._check_caller(site)
        if self._in_chunk or self._open:
            raise self._refused(site, "the chunk or the opening before it is not ended")

    def _during(self) -> str:
        return f" during {self._open}" if self._open else ""

    def _refused(self, site: str, why: str, *, remedy: str = "") -> CollectiveRefused:
        rank = self.rank if self.group.member else None  # a stranger has no number here; whoever hears it knows it
        return CollectiveRefused(f"{site}{self._during()}: {why}", field=site, rank=rank, remedy=remedy)

    def _failed(self, site: str, error: RuntimeError) -> GenlockError:
        return as_failure(error, where=f"on rank {self.rank} at {site}{self._during()}")


NOT_FINITE = "look at this rank first: its weights, its inputs, its precision"


def as_failure(error: RuntimeError, *, where: str) -> GenlockError:
    """What a back end's error means. It names no rank: the message is that of a socket, which knows none."""
    text = str(error).lower()
    first = _plain(error)
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(first, where=where)
    if text.startswith("cuda error"):
        return DeviceUnavailable(
            first, where=where, remedy="look at the driver's log (`dmesg`, Xid) of that rank's host"
        )
    meant = meaning(text)
    if meant is RankSilent:
        return RankSilent(f"another rank did not come to the collective: {first}", where=where)
    if meant is LinkBroken:
        return LinkBroken(f"another rank left the collective: {first}", where=where)
    return LinkBroken(f"the collective failed: {first}", where=where)


def _plain(error: RuntimeError) -> str:
    """The first sentence of a back end's message, without the place in its source and without its advice."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\] ", "", first).partition(". This is typically")[0][:200]
