"""Which of several ends came first: what was seen of the ranks and what they wrote goes in, one account comes out.

Pure. Ordered by causality and not by time, because the ends of one failure lie milliseconds apart and clocks say
nothing about which made which: a rank's own finding (a tripwire, a refusal) comes before a rank that was killed by
somebody else, is stopped or no longer shows signs of life, which comes before an error nobody foresaw, which comes
before a broken pipe, which comes before a timeout; then the earlier chunk, the earlier call, the earlier collective,
the lower rank. The victim of a kill writes no record; its peers do. No torch.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genlock.errors import EXIT_CODES, RankDied, RankSilent
from genlock.observe.cause import Cause, Kind
from genlock.settings import Phase

# Earlier is more of a cause. What the supervisor itself ended is none.
CAUSALITY = (
    (Kind.TRIPWIRE, Kind.REFUSAL),
    (Kind.DIED, Kind.SILENT),
    (Kind.DEFECT,),
    (Kind.BROKEN_PIPE, Kind.ABORT),
    (Kind.TIMEOUT,),
)
# How an exit code that comes without a record is judged; any other is a defect.
KIND_OF_EXIT = {
    2: Kind.REFUSAL,
    3: Kind.REFUSAL,
    4: Kind.REFUSAL,
    5: Kind.REFUSAL,
    10: Kind.TRIPWIRE,
    11: Kind.BROKEN_PIPE,
    12: Kind.TIMEOUT,
    13: Kind.REFUSAL,
    14: Kind.REFUSAL,
    15: Kind.REFUSAL,
    130: Kind.REFUSAL,
}
LEVEL = {kind: level for level, kinds in enumerate(CAUSALITY) for kind in kinds}
AFTER_ALL = len(CAUSALITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a supervisor saw of one rank, when it made its account.

    returncode: None while it runs, negative for a signal. ours: the signal was the supervisor's. stopped_s: seconds
    it has been stopped, 0 if it is not. still: no sign of life for a while in which others gave some. overdue: its
    phase is over its deadline and its own watchdog did not end it. late: it did not leave although rank 0 had. early:
    it left, without an error, while rank 0 went on. Position as in its last beacon.
    """

    rank: int
    pid: int
    returncode: int | None
    phase: Phase
    call_id: int
    chunk: int
    op: int
    ours: bool = False
    stopped_s: float = 0.0
    still: bool = False
    overdue: bool = False
    late: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCause:
    """One failure: what happened, to which rank, where that rank was, and how the job ends. rank -1: nobody known."""

    rank: int
    pid: int
    phase: Phase
    call_id: int
    chunk: int
    op: int
    kind: Kind
    code: str
    exit_code: int
    text: str
    remedy: str
    told_by: int  # the rank whose record it is; -1: seen from outside


def first_cause(observations: Sequence[Seen], causes: Sequence[Cause]) -> FirstCause | None:
    """The account of the end of a job; None where nothing went wrong. At most one record and one observation a rank."""
    written = {cause.rank: cause for cause in causes}
    # A rank that wrote and was then stopped, or hangs on its way out, is judged by what it wrote.
    outside = [end for seen in observations if seen.rank not in written and (end := from_outside(seen)) is not None]
    ends = [_blame(cause, observations, written) for cause in causes] + outside
    kinds = {end.rank: end.kind for end in outside} | {rank: cause.kind for rank, cause in written.items()}
    return min(ends, key=lambda end: _order(end, written, kinds), default=None)


def from_outside(seen: Seen) -> FirstCause | None:
    """What can be said of a rank that wrote nothing; None for one that runs, ended well, or was ended by us."""
    kind, text, code, exit_code, remedy = Kind.DIED, "", RankDied.code, RankDied.exit_code, RankDied.default_remedy
    if seen.stopped_s > 0 or seen.still or seen.overdue or seen.late:
        kind, code, exit_code, remedy = Kind.SILENT, RankSilent.code, RankSilent.exit_code, RankSilent.default_remedy
        text = _silence(seen)
        if seen.stopped_s > 0:
            remedy = "find out who stopped that process (a debugger, a signal, a full terminal), and start again"
    elif seen.early:
        text = f"rank {seen.rank} left before the run had ended"
    elif seen.returncode is None or seen.ours or seen.returncode == 0:
        return None
    elif seen.returncode == -signal.SIGABRT:
        kind, text = Kind.ABORT, f"rank {seen.rank} was aborted by a library"
    elif seen.returncode < 0:
        text = f"rank {seen.rank} was killed by {_signal_name(-seen.returncode)}"
        if seen.returncode == -signal.SIGKILL:
            remedy = "if nobody killed it, the machine was out of memory: the system's log (dmesg) says so"
    else:
        kind = KIND_OF_EXIT.get(seen.returncode, Kind.DEFECT)
        exit_code = seen.returncode if seen.returncode in EXIT_CODES else exit_code
        text = f"rank {seen.rank} left with exit code {seen.returncode}, without a record of why"
        remedy = "look at what that rank printed last"
    return FirstCause(
        rank=seen.rank,
        pid=seen.pid,
        phase=seen.phase,
        call_id=seen.call_id,
        chunk=seen.chunk,
        op=seen.op,
        kind=kind,
        code=code,
        exit_code=exit_code,
        text=text,
        remedy=remedy,
        told_by=-1,
    )


def _silence(seen: Seen) -> str:
    if seen.stopped_s > 0:
        return f"rank {seen.rank} has been stopped for {seen.stopped_s:.1f} seconds"
    if seen.overdue:
        return f"rank {seen.rank} is over the time of phase {seen.phase}, and its own watchdog did not end it"
    if seen.late:
        return f"rank {seen.rank} did not leave after rank 0 had"
    return f"rank {seen.rank} gives no sign of life, while others do"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _blame(cause: Cause, observations: Sequence[Seen], written: Mapping[int, Cause]) -> FirstCause:
    """A record as an account: of the rank it holds responsible, or of its writer."""
    at: dict[int, Seen | Cause] = {**{seen.rank: seen for seen in observations}, **written}
    who = cause.names if cause.names >= 0 else cause.rank
    if cause.kind is Kind.TIMEOUT:
        who = _whom_it_waited_for(cause, at, who)
    where = at.get(who, cause)
    pids = {seen.rank: seen.pid for seen in observations}
    return FirstCause(
        rank=who,
        pid=pids.get(who, -1),
        phase=where.phase,
        call_id=where.call_id,
        chunk=where.chunk,
        op=where.op,
        kind=cause.kind,
        code=cause.code,
        exit_code=cause.exit_code,
        text=cause.text,
        remedy=cause.remedy,
        told_by=cause.rank,
    )


def _whom_it_waited_for(cause: Cause, at: Mapping[int, Seen | Cause], named: int) -> int:
    """The rank that has got least far. One that waits for a frame holds nobody up; nor does one that was in the
    collective too: its error knows only that somebody did not come."""
    busy = [rank for rank in at if at[rank].phase is not Phase.IDLE and (at[rank].call_id >= 0 or cause.call_id < 0)]
    if cause.names < 0:
        busy = [rank for rank in busy if rank != cause.rank and not _was_in_a_collective(at[rank])]
    behind = min(busy, key=lambda rank: (_place(at[rank]), rank), default=named)
    if cause.names < 0 or _place(at.get(behind, cause)) < min(_place(cause), _place(at.get(named, cause))):
        return behind
    return named


def _was_in_a_collective(end: Seen | Cause) -> bool:
    if isinstance(end, Seen):
        return False
    return end.in_collective or (end.kind in (Kind.TIMEOUT, Kind.BROKEN_PIPE) and end.names < 0)


def _place(at: Seen | Cause) -> tuple[int, int, int]:
    return at.chunk, at.call_id, at.op


def _order(end: FirstCause, written: Mapping[int, Cause], kinds: Mapping[int, Kind]) -> tuple[int, int, int, int, int]:
    teller = end.told_by if end.told_by >= 0 else end.rank
    at = written.get(teller, end)
    level = AFTER_ALL if _is_an_answer(teller, written, kinds) else LEVEL[end.kind]
    return level, at.chunk, at.call_id, at.op, teller


def _is_an_answer(rank: int, written: Mapping[int, Cause], kinds: Mapping[int, Kind]) -> bool:
    """Whether a rank lost a peer that left for a reason of its own: then that peer's end is told and not this one's.

    Of a record that names nobody: whether any other rank did.
    """
    met: set[int] = set()
    todo = [rank]
    while todo:
        rank = todo.pop()
        if rank in met or rank not in kinds:
            continue
        if kinds[rank] is not Kind.BROKEN_PIPE:
            return bool(met)
        met.add(rank)
        names = written[rank].names if rank in written else -1
        todo += [names] if names >= 0 else [other for other in kinds if other != rank]
    return False
