"""A rank's watchdog: says where the rank is, ends it when it stands still, and writes down why it ends.

One `Watch` a rank process, made in the main thread before anything slow is imported. The main thread says which phase
it enters and ticks when it gets on; a thread beside it sends beacons, holds the phase to its deadline, sees hang-ups of
the control connections while main is inside a collective, and takes the signals that Python's own handlers would not
see there. Every failure leaves by `Watch.fail`: a record, then `os._exit`, because a rank that waits for its peers on
the way out would wait for ever.
Knows nothing of what a phase does, nor of groups, frames or the model. No torch.

Which rank ends which: under genlock's own supervisor the beacons go there; under another launcher the ranks exchange
them over a connection of their own (`exchange_beacons`), and a side that is silent for D ends the job.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from genlock.errors import (
    GateMissed,
    GenlockError,
    InputOutputError,
    LinkBroken,
    LinkTimeout,
    OutOfMemory,
    RankDied,
    RankSilent,
    Tripwire,
)
from genlock.fabric.backend_words import meaning
from genlock.observe.beacon import DRAIN, MESSAGE_BYTES, STACKS_SIGNAL, Beacon, beacon_period_s, limit_s, up_bytes
from genlock.observe.cause import Cause, Kind, cause_path
from genlock.observe.recorder import COLLECTIVE, FAILURE, Open, Recorder
from genlock.observe.trace import Trace
from genlock.settings import START_PHASES, Deadlines, FaultKind, Faults, Launch, Phase

DOOR = "genlock.fabric.collectives"  # who is in this module waits for other ranks
HANG_UP_GRACE = 0.5  # of `records_s`: main may know more about why a peer is gone, and says so first
INTERRUPTED = 130
ASKS_TO_END = (signal.SIGINT, signal.SIGTERM)
SIGNALS = {FaultKind.KILL: signal.SIGKILL, FaultKind.STOP: signal.SIGSTOP}
LAST_RESORT = 3  # graces after the deadline
NOBODY_READS = (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS, errno.EMSGSIZE)
HANGS_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
NO_MEMORY = "can't allocate memory"


class Connection(Protocol):
    """What is needed of a control connection (`fabric/connection.py`)."""

    def send(self, frame: bytes, *, within_s: float) -> None: ...
    def receive(self, *, within_s: float | None) -> bytes: ...
    def fileno(self) -> int: ...


class Watch:
    """One rank's watchdog, running from its making to the end of the process.

    drain_asked: somebody wants the run to end after the chunk in flight; rank 0 looks at it between two chunks.
    """

    def __init__(
        self,
        place: Launch,
        deadlines: Deadlines,
        run_dir: Path,
        faults: Faults,
        recorder: Recorder | None,
        trace: Trace | None = None,
    ) -> None:
        """trace: is told the phases; None for one of the recorder's own. Raises InputOutputError where the run's folder
        cannot be written."""
        self.rank = place.rank
        self.period_s = beacon_period_s(deadlines)
        self.drain_asked = False
        self._deadlines, self._run_dir, self._faults, self._recorder = deadlines, run_dir, faults, recorder
        self._trace = trace or Trace(recorder)
        self._supervised = place.supervised is not None
        self._began_s = self._since_s = self._looked_s = time.monotonic()
        self._beacon = Beacon(phase=Phase.LAUNCH, call_id=-1, chunk=-1, op=0, counter=0)
        self._struck: set[tuple[FaultKind, Phase, int]] = set()
        self._leave_by_s: float | None = None
        self._hung: dict[int, float] = {}  # rank -> when its connection was found hung up
        self._lines: dict[int, int] = {}  # descriptor -> rank
        self._exchanged: dict[int, tuple[int, Connection]] = {}  # descriptor -> rank, its beacon connection
        self._heard_s: dict[int, float] = {}
        self._inside: Open | None = None  # the collective that main has entered, as the recorder has it
        self._ending = threading.Lock()
        self._closed = False
        self._stacks = _open_stacks(run_dir, self.rank)
        faulthandler.enable(file=self._stacks)  # a crash in native code says where, too
        faulthandler.register(STACKS_SIGNAL, file=self._stacks, all_threads=True, chain=False)
        self._poll = select.epoll()
        self._up = _supervisor_socket(place)
        if self._up is not None:
            self._poll.register(self._up.fileno(), select.EPOLLIN)
        self._signals, wakeup = socket.socketpair()
        self._wakeup = wakeup  # kept: the interpreter writes into it
        self._handlers: dict[signal.Signals, Any] = {}  # as they were
        self._take_signals()
        self._poll.register(self._signals.fileno(), select.EPOLLIN)
        self._say()
        self._wind_up(self._began_s)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    # -- what the main thread says ---------------------------------------------------------------------------------

    def enter(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
        """The main thread enters `phase`, whose clock begins. Faults planted here strike.

        Without ids a phase after the start belongs to the frame before it: idle after chunk 2 is chunk 2's. Enter EXIT
        before a connection is closed: from then on a hang-up is no failure.
        """
        before = self._beacon
        if call_id < 0 and chunk < 0 and phase not in START_PHASES:
            call_id, chunk = before.call_id, before.chunk
        same = (call_id, chunk) == (before.call_id, before.chunk)
        self._inside = None
        self._since_s = time.monotonic()
        self._beacon = Beacon(
            phase=phase, call_id=call_id, chunk=chunk, op=before.op if same else 0, counter=before.counter + 1
        )
        self._trace.phase(phase, call_id=call_id, chunk=chunk, op=self._beacon.op)
        self._say()
        for kind in self._faults.at(self.rank, phase, chunk):
            self._strike(kind, phase, chunk)

    def wait_in(self, what: str) -> None:
        """The main thread enters a collective, in which others may keep it."""
        if self._recorder is not None:
            here = self._beacon
            self._inside = self._recorder.note(
                COLLECTIVE, call_id=here.call_id, chunk=here.chunk, op=here.op + 1, text=what
            )

    def tick(self, site: str = "") -> None:
        """A collective is done, at `site`. Restarts the clock of a generator call, which is held to its last one."""
        if self._inside is None:
            self.wait_in(site or self._beacon.phase)
        before = self._beacon
        moved = before.phase is Phase.CALL
        if moved:
            self._since_s = time.monotonic()
        self._beacon = Beacon(
            phase=before.phase,
            call_id=before.call_id,
            chunk=before.chunk,
            op=before.op + 1,
            counter=before.counter + moved,
        )
        if self._recorder is not None and self._inside is not None:
            self._recorder.end(self._inside, time.monotonic())
            self._inside = None

    def hang_up(self, connection_fd: int, rank: int) -> None:
        """Watch a control connection to `rank`, also while main is in a collective: its end ends this rank too."""
        self._lines[connection_fd] = rank
        self._poll.register(connection_fd, select.EPOLLRDHUP)

    def let_go(self, connection_fd: int) -> None:
        """No longer watched; before the connection is closed on purpose."""
        if self._lines.pop(connection_fd, None) is not None or self._exchanged.pop(connection_fd, None) is not None:
            with contextlib.suppress(OSError):  # closed by the other thread meanwhile, which takes it out as well
                self._poll.unregister(connection_fd)

    def exchange_beacons(self, connections: Mapping[int, Connection]) -> None:
        """Without our supervisor: rank 0 is given each worker's beacon connection, a worker the one to rank 0.

        A worker is patient until rank 0's first echo, for rank 0 may be waiting for other workers still.
        """
        patience_s = self._deadlines.gate_s if self.rank else 0.0
        self._heard_s = dict.fromkeys(connections, time.monotonic() + patience_s)
        self._exchanged = {connection.fileno(): (rank, connection) for rank, connection in connections.items()}
        for descriptor in list(self._exchanged):  # whose end the thread may meet at once
            self._poll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process now, with the exit code of `error`'s class, after writing down why."""
        self._end(self._cause_of(error), error)

    def close(self) -> None:
        """This rank's part in the run is over: no phase is held to a deadline any more, and no peer is missed. What
        the process still does is its own; the supervisor gives it the time of a delivery."""
        self._closed = True
        with contextlib.suppress(OSError):  # a full buffer wakes it as well
            self._wakeup.send(b"\0")
        self._thread.join(self._deadlines.grace_s)
        faulthandler.cancel_dump_traceback_later()
        if self._handlers and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        self._beacon = replace(self._beacon, watched=False)
        self._say()

    def finish(self) -> NoReturn:
        """Ends a process that has nothing else to do, with exit code 0: at once, without the interpreter's own end,
        which takes seconds where torch is loaded."""
        self.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    # -- what the thread does --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._looked_s = said_s = time.monotonic()
            while True:
                events = self._poll.poll(self.period_s / 2)
                if self._closed:
                    return
                now_s = time.monotonic()
                if now_s - self._looked_s > self._deadlines.answer_s / 2:
                    # This whole process was stopped, perhaps with its peers: clocks begin anew, what came is heard.
                    self._heard_s = {rank: max(heard_s, now_s) for rank, heard_s in self._heard_s.items()}
                    self._since_s = now_s
                self._looked_s = now_s
                for descriptor, flags in events:
                    self._on_event(descriptor, flags, now_s)
                if now_s - said_s >= self.period_s:
                    said_s = now_s
                    self._say()
                    self._say_to_peers()
                    self._wind_up(now_s)
                self._judge(now_s)
        except BaseException as error:  # noqa: BLE001 - a watchdog that dies must not die silently
            self.fail(error)

    def _on_event(self, descriptor: int, flags: int, now_s: float) -> None:
        if descriptor == self._signals.fileno():
            for number in self._signals.recv(64):
                self._on_signal(number, now_s)
        elif self._up is not None and descriptor == self._up.fileno():
            self._on_supervisor()
        elif descriptor in self._exchanged and not flags & HANGS_UP:
            self._on_peer_beacon(descriptor, now_s)
        elif flags & HANGS_UP:
            rank = self._lines.get(descriptor)
            if rank is None and descriptor in self._exchanged:
                rank = self._exchanged[descriptor][0]
            self.let_go(descriptor)
            if rank is not None:  # None: let go by the main thread since the poll
                self._hung.setdefault(rank, now_s)

    def _on_signal(self, number: int, now_s: float) -> None:
        if number not in ASKS_TO_END:
            return
        if self.rank > 0:  # a worker leaves when rank 0 does, or at the deadline
            self._leave_by_s = self._leave_by_s or now_s + self._deadlines.exit_s
        elif self.drain_asked:
            self.fail(KeyboardInterrupt("interrupted a second time"))
        else:
            self.drain_asked = True

    def _on_supervisor(self) -> None:
        assert self._up is not None
        try:
            message = self._up.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == DRAIN:
            self.drain_asked = True
        elif not message:  # the supervisor is gone; there is nobody to tell
            os._exit(RankDied.exit_code)

    def _on_peer_beacon(self, descriptor: int, now_s: float) -> None:
        rank, connection = self._exchanged[descriptor]
        try:
            message = connection.receive(within_s=self.period_s)
            self._heard_s[rank] = now_s
            if self.rank == 0:
                connection.send(message, within_s=self.period_s)
        except LinkTimeout:
            return  # judged by what is heard
        except GenlockError:
            self.let_go(descriptor)
            self._hung.setdefault(rank, now_s)

    def _say(self) -> None:
        """One beacon; dropped when nobody reads."""
        beacon = self._beacon
        if self._recorder is not None:
            self._recorder.beacon(call_id=beacon.call_id, chunk=beacon.chunk, op=beacon.op, text=beacon.phase)
        self._send_up(beacon.to_bytes())

    def _send_up(self, message: bytes) -> None:
        if self._up is not None:
            try:
                self._up.send(message)
            except OSError as error:
                if error.errno not in NOBODY_READS:
                    raise

    def _say_to_peers(self) -> None:
        if self.rank > 0:
            for descriptor, (rank, connection) in list(self._exchanged.items()):
                try:
                    connection.send(self._beacon.to_bytes(), within_s=self.period_s)
                except LinkTimeout:
                    continue
                except GenlockError:
                    self.let_go(descriptor)
                    self._hung.setdefault(rank, time.monotonic())

    def _judge(self, now_s: float) -> None:
        beacon = self._beacon
        in_phase_s = now_s - self._since_s
        allowed_s = limit_s(self._deadlines, beacon.phase)
        if allowed_s is not None and in_phase_s > allowed_s:
            what = f"no progress for {in_phase_s:.1f} seconds in phase {beacon.phase}"
            if self._main_is_in_a_collective():
                self.fail(RankSilent(f"another rank did not come to a collective of rank {self.rank}: {what}"))
            self.fail(RankSilent(what, rank=self.rank))
        if beacon.phase is Phase.EXIT:
            return
        if self._leave_by_s is not None and now_s > self._leave_by_s:
            self.fail(KeyboardInterrupt("asked to end, and rank 0 did not end the run in time"))
        if self.rank > 0 and beacon.phase is Phase.DELIVER:
            # A worker that decodes for its own context may be the last at work: rank 0's good end is still to be read.
            self._hung = dict.fromkeys(self._hung, now_s)
        for rank, hung_s in list(self._hung.items()):
            if now_s - hung_s > HANG_UP_GRACE * self._deadlines.records_s:
                self.fail(LinkBroken("it closed its connection", rank=rank))
        for rank, heard_s in self._heard_s.items():
            if now_s - heard_s > self._deadlines.answer_s and rank not in self._hung:
                self.fail(RankSilent(f"no sign of life for {now_s - heard_s:.1f} seconds", rank=rank))

    def _wind_up(self, now_s: float) -> None:
        """The last resort, for when this thread does not run again: native code that keeps the interpreter to itself.
        A timer of the interpreter's, without Python, ends the process then, later than this thread would have. Our
        supervisor sees such a rank itself, and better: the timer also runs while everything is frozen."""
        if self._supervised:
            return
        allowed_s = limit_s(self._deadlines, self._beacon.phase) or self._deadlines.answer_s
        left_s = max(0.0, allowed_s - (now_s - self._since_s)) if self._beacon.phase is not Phase.IDLE else allowed_s
        faulthandler.dump_traceback_later(left_s + LAST_RESORT * self._deadlines.grace_s, exit=True, file=self._stacks)

    # -- ends and faults -------------------------------------------------------------------------------------------

    def _strike(self, kind: FaultKind, phase: Phase, chunk: int) -> None:
        """Once. Launch is struck by the supervisor, and other kinds by those they concern."""
        if phase is Phase.LAUNCH or (kind, phase, chunk) in self._struck:
            return
        self._struck.add((kind, phase, chunk))
        if kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[kind])
        elif kind is FaultKind.NO_MEMORY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            _limit(resource.RLIMIT_AS, pages * resource.getpagesize())
        elif kind is FaultKind.NO_FILES:
            next_one = os.dup(0)
            os.close(next_one)
            _limit(resource.RLIMIT_NOFILE, next_one)

    def _cause_of(self, error: BaseException) -> Cause:
        told, kind, exit_code = told_as(error)
        beacon = self._beacon
        place = ", ".join([told.where] * bool(told.where) + [f"rank {told.rank}"] * (told.rank is not None))
        return Cause(
            rank=self.rank,
            seconds=round(time.monotonic() - self._began_s, 3),
            phase=beacon.phase,
            call_id=beacon.call_id if told.call_id is None else told.call_id,
            chunk=beacon.chunk if told.chunk_index is None else told.chunk_index,
            op=beacon.op,
            code=told.code,
            exit_code=exit_code,
            kind=kind,
            text=f"{place}: {told.what}" if place else told.what,
            remedy=told.remedy,
            names=-1 if told.rank is None else told.rank,
            in_collective=_came_from_a_collective(error) or self._main_is_in_a_collective(),
        )

    def _main_is_in_a_collective(self) -> bool:
        """Whether the main thread stands in the door for collectives, or in what the door has called of torch."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        modules = [str(each.f_globals.get("__name__")) for each, _ in traceback.walk_stack(frame)]
        return DOOR in modules and all(name.startswith("torch.") for name in modules[: modules.index(DOOR)])

    def _end(self, cause: Cause, error: BaseException) -> NoReturn:
        if not self._ending.acquire(blocking=False):
            while True:  # another thread of this process is already ending it
                time.sleep(1.0)
        try:
            self._send_up(up_bytes(cause))
            if self._recorder is not None:
                text = f"{cause.code} {cause.text}"
                self._recorder.note(FAILURE, call_id=cause.call_id, chunk=cause.chunk, op=cause.op, text=text)
            if not self._supervised:
                os.write(2, f"rank {self.rank}: {cause.code}: {cause.text}; {cause.remedy}\n".encode())
            cause.write(self._run_dir)
            if cause.kind is Kind.DEFECT:
                self._stacks.write("".join(traceback.format_exception(error)))
                self._stacks.flush()
            elif cause.kind in (Kind.TIMEOUT, Kind.BROKEN_PIPE):
                faulthandler.dump_traceback(file=self._stacks, all_threads=True)
            self._trace.failed(cause.code, cause.text, cause.remedy, names=None if cause.names < 0 else cause.names)
        finally:  # neither a full disk nor a closed terminal keeps a rank alive
            os._exit(cause.exit_code)

    def _take_signals(self) -> None:
        """SIGINT and SIGTERM reach the watchdog, which runs also while main is inside a collective."""
        self._wakeup.settimeout(0.0)
        self._signals.settimeout(0.0)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, _only_wakes) for number in ASKS_TO_END}


def _only_wakes(number: int, frame: object) -> None:
    """The wake-up descriptor has the signal's number already."""


def _came_from_a_collective(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, was raised in the door for collectives."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        if any(frame.f_globals.get("__name__") == DOOR for frame, _ in traceback.walk_tb(error.__traceback__)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _open_stacks(run_dir: Path, rank: int) -> IO[str]:
    """Opened now, because a rank in trouble may not be able to; and what this rank left here earlier goes."""
    path = run_dir / f"stacks-rank{rank}.txt"
    try:
        cause_path(run_dir, rank).unlink(missing_ok=True)
        return path.open("w")
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be written", where=str(path)) from None


def _limit(what: int, least: int) -> None:
    """This process's own soft limit, planted."""
    resource.setrlimit(what, (least, resource.getrlimit(what)[1]))


def _supervisor_socket(place: Launch) -> socket.socket | None:
    if place.supervised is None:
        return None
    up = socket.socket(fileno=place.supervised.beacon_fd)
    up.settimeout(0.0)
    os.set_inheritable(up.fileno(), False)  # noqa: FBT003 - the function's only form
    return up


def told_as(error: BaseException) -> tuple[GenlockError, Kind, int]:
    """An error of any kind as one of our own, how causality judges it, and the exit code."""
    told, kind = _told_as(error)
    return told, kind, INTERRUPTED if isinstance(error, KeyboardInterrupt) else told.exit_code


def _told_as(error: BaseException) -> tuple[GenlockError, Kind]:
    if isinstance(error, GenlockError):
        return error, _kind_of(error)
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    words = text.lower()
    if isinstance(error, KeyboardInterrupt):
        return GenlockError(text, remedy="start it again"), Kind.REFUSAL
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or NO_MEMORY in words:
        return OutOfMemory(text), Kind.REFUSAL
    if isinstance(error, EOFError | ConnectionError):
        return LinkBroken(text), Kind.BROKEN_PIPE
    if isinstance(error, TimeoutError):
        return RankSilent(text), Kind.TIMEOUT
    if isinstance(error, OSError) and error.errno is not None:
        return InputOutputError((error.strerror or text).lower(), where=str(error.filename or "")), Kind.REFUSAL
    meant = meaning(text) if isinstance(error, RuntimeError) else None
    if meant is not None:
        return meant(text), Kind.TIMEOUT if meant is RankSilent else Kind.BROKEN_PIPE
    return GenlockError(f"a defect in genlock: {type(error).__name__}: {text}"), Kind.DEFECT


def _kind_of(error: GenlockError) -> Kind:
    if isinstance(error, Tripwire):
        return Kind.TRIPWIRE
    if isinstance(error, RankSilent | GateMissed):
        return Kind.TIMEOUT
    if isinstance(error, RankDied):
        return Kind.BROKEN_PIPE
    return Kind.REFUSAL
