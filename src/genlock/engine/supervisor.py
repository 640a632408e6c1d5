"""The parent of all ranks: starts them, watches them from outside, and owns the exit of each.

It runs no model and imports no tensor library, so that it is there when the others are not. It sees exits (pidfd),
stops (waitid), ends of file and beacons; it holds no opinion on what a rank computes. Whatever happens it ends with no
process left, one block of text at most, and an exit code by class.

What ends a job: a rank that exits otherwise than asked; a rank that is stopped for D, in any phase; a rank over the
deadline of its phase, plus the grace in which its own watchdog should have ended it; a rank that does not leave after
rank 0 has. Then it waits for the other ranks' own accounts (`records_s`), ends what is left, and says which came first.
If it is killed itself, the kernel kills the ranks; if it is stopped, the stream goes on, and when it goes on it hears
what has come meanwhile before it judges.

Ranks are started by exec, each in a process group of its own. What a worker prints goes to `rankN.log` in the run's
folder (a file, and not a pipe through here: a pipe would stop the workers with the supervisor); rank 0 has the
terminal. A rank 0 that refuses its input has said so itself, and its exit code is passed on without a word.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from genlock.engine.first_cause import FirstCause, Seen, first_cause
from genlock.errors import EXIT_CODES, InputOutputError, LaunchRefused
from genlock.observe.beacon import DRAIN, MESSAGE_BYTES, STACKS_SIGNAL, Beacon, limit_s, read_up
from genlock.observe.cause import Cause, read_all
from genlock.observe.run_folder import FAILURE_FILE, new_folder, write_whole
from genlock.settings import START_PHASES, Deadlines, FaultKind, Faults, Phase, rank_environment

KEY_BYTES = 32
POLL_S = 0.1
STILL_S = 1.0  # without a beacon, or half of D if that is longer, before a rank counts as still
STACKS_S = 0.2  # for a rank that hangs to write down where
ENDED_S = 2.0  # for ranks that were killed to be gone
LOG_LINES = 8  # of a rank's own output, quoted where it says more than we can
INTERRUPTED = 130
PASSED_ON = (2, 3, 4, 5, INTERRUPTED)  # exit codes of a rank 0 that has said itself why
PR_SET_PDEATHSIG = 1
ASKS_TO_DRAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DRAINING = "genlock: finishing the chunk in flight; interrupt once more to end at once"


def _say(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        return  # the terminal is gone; the exit code says it too


def supervise(
    command: Sequence[str],
    *,
    mesh: int,
    deadlines: Deadlines,
    run_dir: Path | None,
    faults: Faults | None = None,
    say: Callable[[str], None] = _say,
) -> int:
    """Runs `command` as `mesh` ranks and returns the job's exit code. Called from the main thread.

    run_dir: None for a new one, removed after a clean end; otherwise a new or empty folder, which stays. say: is given
    each text for the user. SIGINT, SIGTERM and SIGHUP drain the run; a second one ends it at once. Raises UsageError,
    LaunchRefused, InputOutputError before any rank runs.
    """
    if not sys.platform.startswith("linux"):
        raise LaunchRefused("ranks are watched by means that only Linux has", remedy="use --topology solo here")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("ranks die with the thread that started them; supervise from the main thread")
    with _folder(run_dir) as folder, ExitStack() as cleanup:
        job = _Job(folder.path, deadlines, faults or Faults(), say)
        cleanup.callback(job.close)
        job.start(command, mesh)
        code = job.watch()
        folder.kept |= job.told
    return code


class _Folder:
    """The run's folder, for this user alone. One that was made here goes unless it is to be `kept`."""

    def __init__(self, path: Path, *, kept: bool) -> None:
        self.path, self.kept = path, kept

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            shutil.rmtree(self.path, ignore_errors=True)


def _folder(run_dir: Path | None) -> _Folder:
    """A new one in the system's place for such things, unless one is named. Raises as `new_folder`."""
    if run_dir is not None:
        return _Folder(new_folder(run_dir), kept=True)
    try:
        return _Folder(Path(tempfile.mkdtemp(prefix="genlock-")), kept=False)
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be made", where=str(error.filename)) from None


class _Rank:
    """One rank's process, and what has been heard and seen of it. Times are of the monotonic clock."""

    def __init__(self, rank: int, process: subprocess.Popen[bytes], beacons: socket.socket, now_s: float) -> None:
        self.rank, self.process, self.beacons = rank, process, beacons
        self.pidfd = os.pidfd_open(process.pid)
        self.beacon = Beacon(phase=Phase.LAUNCH, call_id=-1, chunk=-1, op=0, counter=-1)
        self.heard_s = self.moved_s = now_s
        self.stopped_s: float | None = None  # since when
        self.ended_s: float | None = None
        self.ours = False
        self.overdue = self.late = self.early = False
        self.stuck = False  # still there after SIGKILL

    @property
    def returncode(self) -> int | None:
        code: int | None = self.process.returncode
        return code

    def hear(self, beacon: Beacon, now_s: float) -> None:
        if (beacon.counter, beacon.watched) != (self.beacon.counter, self.beacon.watched):
            self.moved_s = now_s
        self.beacon, self.heard_s = beacon, now_s

    def look(self, now_s: float) -> None:
        """Takes note of a stop, a continuation or the end. What an ended rank has left behind in its group is ended."""
        if self.returncode is not None:
            return
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            _kill_group(self.process.pid)  # while its number is still taken
            self.process.wait()
            self.ended_s, self.stopped_s = now_s, None
            return
        try:
            change = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return  # it has ended this moment, which the next look will find
        if change is not None:
            self.stopped_s = now_s if change.si_code == os.CLD_STOPPED else None

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.returncode is None:
            self.ours = True
            _kill_group(self.process.pid, number)

    def seen(self, now_s: float, *, still: bool) -> Seen:
        return Seen(
            rank=self.rank,
            pid=self.process.pid,
            returncode=self.returncode,
            phase=self.beacon.phase,
            call_id=self.beacon.call_id,
            chunk=self.beacon.chunk,
            op=self.beacon.op,
            ours=self.ours,
            stopped_s=0.0 if self.stopped_s is None else max(now_s - self.stopped_s, 1e-3),
            still=still,
            overdue=self.overdue,
            late=self.late,
            early=self.early,
        )


class _Job:
    """All ranks of one run."""

    def __init__(self, folder: Path, deadlines: Deadlines, faults: Faults, say: Callable[[str], None]) -> None:
        self.folder, self.deadlines, self.faults, self.say = folder, deadlines, faults, say
        self.ranks: list[_Rank] = []
        self.causes: dict[int, Cause] = {}
        self.drain_until_s: float | None = None  # when patience with a drain ends
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        for end in (self._signals, self._wakeup):
            end.settimeout(0.0)
        self._selector.register(self._signals, selectors.EVENT_READ)
        self._handlers = {number: signal.signal(number, _only_wakes) for number in (*ASKS_TO_DRAIN, signal.SIGCHLD)}
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._interrupts = 0
        self.told = False  # a failure, with this folder in it

    # -- start and end ---------------------------------------------------------------------------------------------

    def start(self, command: Sequence[str], mesh: int) -> None:
        key, run_id = secrets.token_bytes(KEY_BYTES), secrets.token_hex(4)
        for rank in range(mesh):
            started = self._start(command, rank, mesh, key, run_id)
            self.ranks.append(started)
            self._selector.register(started.beacons, selectors.EVENT_READ)
            self._selector.register(started.pidfd, selectors.EVENT_READ)
            for kind in self.faults.at(rank, Phase.LAUNCH):
                if kind in (FaultKind.KILL, FaultKind.STOP):
                    os.kill(started.process.pid, signal.SIGKILL if kind is FaultKind.KILL else signal.SIGSTOP)

    def _start(self, command: Sequence[str], rank: int, mesh: int, key: bytes, run_id: str) -> _Rank:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # datagrams, with an end of file
        ours.settimeout(0.0)
        key_fd, key_end = os.pipe()
        os.write(key_end, key)
        os.close(key_end)
        extra = {
            "RANK": str(rank),
            "WORLD_SIZE": str(mesh),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(mesh),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
            "TORCHELASTIC_RUN_ID": run_id,
            "GENLOCK_RUN_DIR": str(self.folder),
            "GENLOCK_BEACON_FD": str(theirs.fileno()),
            "GENLOCK_KEY_FD": str(key_fd),
        }
        try:
            with ExitStack() as files:
                streams: dict[str, Any] = {}
                if rank > 0:
                    log = files.enter_context((self.folder / f"rank{rank}.log").open("wb"))
                    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
                elif sys.stdin is None or sys.stdin.isatty():
                    streams = {"stdin": subprocess.DEVNULL}  # to read a terminal from the background stops a process
                process = subprocess.Popen(
                    list(command),
                    env=rank_environment(extra),
                    pass_fds=(theirs.fileno(), key_fd),
                    process_group=0,
                    preexec_fn=_die_with_parent(),  # no thread runs here that it could upset
                    **streams,
                )
        except OSError as error:
            ours.close()
            raise LaunchRefused(
                f"rank {rank} cannot be started: {error.strerror or error}",
                where=str(command[0]),
                remedy="check that it can be run",
            ) from None
        finally:
            theirs.close()
            os.close(key_fd)
        return _Rank(rank, process, ours, time.monotonic())

    def close(self) -> None:
        """Leaves nothing behind: no process, no handler."""
        self._end_all()
        for rank in self.ranks:
            rank.beacons.close()
            os.close(rank.pidfd)
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._selector.close()
        self._signals.close()
        self._wakeup.close()

    def _end_all(self) -> None:
        """Within a bound of its own: a process that waits in the kernel, for a device or a disk, may never end."""
        running = [rank for rank in self.ranks if rank.returncode is None]
        for rank in running:
            rank.kill()
        until_s = time.monotonic() + ENDED_S
        for rank in running:
            try:
                rank.process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                if not rank.stuck:
                    rank.stuck = True
                    self.say(
                        f"genlock: rank {rank.rank} (pid {rank.process.pid}) does not end after SIGKILL: "
                        "it waits in the kernel, for a device or a disk"
                    )

    # -- watching --------------------------------------------------------------------------------------------------

    def watch(self) -> int:
        """Until the last rank is gone; the job's exit code."""
        looked_s = time.monotonic()
        while True:
            self._hear(POLL_S)
            now_s = time.monotonic()
            if now_s - looked_s > max(1.0, 10 * POLL_S):
                self._start_clocks_again(now_s)  # we were stopped ourselves: everything has been heard, nothing judged
            looked_s = now_s
            if all(rank.returncode == 0 for rank in self.ranks):
                return 0
            if self._interrupts and self.drain_until_s is None:
                self._ask_to_drain(now_s)
            if self._interrupts > 1 or (self.drain_until_s is not None and now_s > self.drain_until_s):
                self._end_all()
                self.say("genlock: interrupted")
                return INTERRUPTED
            wrong = [rank for rank in self.ranks if self._is_wrong(rank, now_s)]
            if wrong:
                return self._account(wrong)

    def _hear(self, within_s: float) -> None:
        """Everything that has come: signals, beacons, causes; then stops and ends."""
        self._selector.select(within_s)
        now_s = time.monotonic()
        try:
            self._interrupts += sum(number in ASKS_TO_DRAIN for number in self._signals.recv(4096))
        except BlockingIOError:
            now_s = time.monotonic()
        for rank in self.ranks:
            rank.look(now_s)  # before its last words are read: what it sent, it sent before it ended
            for message in self._messages(rank):
                if isinstance(message, Beacon):
                    rank.hear(message, now_s)
                else:
                    self.causes.setdefault(rank.rank, message)
            if rank.returncode is not None and rank.pidfd in self._selector.get_map():
                self._selector.unregister(rank.pidfd)

    def _messages(self, rank: _Rank) -> Iterator[Beacon | Cause]:
        while True:
            try:
                message = rank.beacons.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                if rank.beacons in self._selector.get_map():
                    self._selector.unregister(rank.beacons)
                return
            try:
                yield read_up(message)
            except ValueError:
                continue  # not one of ours; a rank is judged by what else is seen of it

    def _start_clocks_again(self, now_s: float) -> None:
        for rank in self.ranks:
            rank.heard_s = rank.moved_s = now_s
            if rank.stopped_s is not None:
                rank.stopped_s = now_s
            if rank.ended_s is not None:
                rank.ended_s = now_s

    def _is_wrong(self, rank: _Rank, now_s: float) -> bool:
        """Whether a rank has failed; what of it is a judgement of ours is noted on the rank."""
        first = self.ranks[0]
        if rank.returncode is not None:
            rank.early = rank.returncode == 0 and rank is not first and self._left_early(rank, now_s)
            return rank.returncode != 0 or rank.early
        if first.returncode == 0 and first.ended_s is not None:
            rank.late = now_s - first.ended_s > self.deadlines.exit_s + self.deadlines.grace_s
        if rank.stopped_s is not None:
            return rank.late or now_s - rank.stopped_s > self.deadlines.answer_s
        allowed_s = limit_s(self.deadlines, rank.beacon.phase) if rank.beacon.watched else self.deadlines.deliver_s
        rank.overdue = allowed_s is not None and now_s - rank.moved_s > allowed_s + self.deadlines.grace_s
        return rank.late or rank.overdue

    def _left_early(self, rank: _Rank, now_s: float) -> bool:
        """A worker that ended well while rank 0 goes on, neither of them on the way out."""
        going_on = self.ranks[0].returncode is None and self.ranks[0].beacon.phase not in (Phase.DRAIN, Phase.EXIT)
        waited = rank.ended_s is not None and now_s - rank.ended_s > self.deadlines.records_s
        return going_on and waited and self._left_unasked(rank)

    def _left_unasked(self, rank: _Rank) -> bool:
        on_its_way = rank.beacon.phase is Phase.EXIT or not rank.beacon.watched
        return rank.returncode == 0 and not on_its_way and self.ranks[0].returncode != 0

    def _ask_to_drain(self, now_s: float) -> None:
        """Rank 0 finishes the chunk in flight; while the ranks are starting there is none, and the run just ends."""
        if self.ranks[0].beacon.phase in START_PHASES:
            self.drain_until_s = 0.0
            return
        self.drain_until_s = now_s + self.deadlines.deliver_s + 2 * self.deadlines.answer_s
        self.say(DRAINING)
        try:
            self.ranks[0].beacons.send(DRAIN)
        except OSError:
            self.drain_until_s = 0.0  # rank 0 cannot be asked any more

    # -- the account -----------------------------------------------------------------------------------------------

    def _account(self, wrong: Sequence[_Rank]) -> int:
        """After the first sign of failure: hear the other ranks out, end what is left, say what came first."""
        now_s = time.monotonic()
        hanging = [rank for rank in wrong if rank.returncode is None]
        silent = self._silent()  # now, before the wait: a machine that is busy with so many ends is slow to speak
        judged = {seen.rank: seen for seen in self._observations(now_s, silent)}
        self._ask_for_stacks(hanging)
        for rank in hanging:
            rank.kill()
        self._hear_out(self.ranks, self.deadlines.records_s)
        for rank in self.ranks[1:]:
            rank.early |= self._left_unasked(rank)
        later = self._observations(time.monotonic(), silent)
        observations = [judged[seen.rank] if self.ranks[seen.rank] in hanging else seen for seen in later]
        self._ask_for_stacks(self.ranks)
        self._end_all()
        causes = {cause.rank: cause for cause in read_all(self.folder)} | self.causes
        found = first_cause(observations, [causes[rank] for rank in sorted(causes)])
        assert found is not None  # whatever made us look is an observation of a failure
        with suppress(InputOutputError):  # a full disk: it is said all the same
            write_whole(self.folder / FAILURE_FILE, json.dumps(asdict(found), indent=1).encode())
        if found.rank == 0 and found.told_by < 0 and found.exit_code in PASSED_ON:
            return found.exit_code  # rank 0 refused its input, and said so itself
        self.told = True
        self.say(self._block(found))
        return found.exit_code

    def _hear_out(self, ranks: Sequence[_Rank], within_s: float) -> None:
        """Until all of `ranks` have ended, or for so long."""
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s and any(rank.returncode is None for rank in ranks):
            self._hear(min(POLL_S, within_s))

    def _ask_for_stacks(self, ranks: Sequence[_Rank]) -> None:
        """Of those that run: where they hang is in their files before they are killed, also if native code has them."""
        asked = [rank for rank in ranks if rank.returncode is None and rank.stopped_s is None]
        for rank in asked:
            rank.ours = True  # one that has no watch yet dies of it
            os.kill(rank.process.pid, STACKS_SIGNAL)
        self._hear_out(asked, STACKS_S)

    def _observations(self, now_s: float, silent: Collection[int]) -> list[Seen]:
        return [rank.seen(now_s, still=rank.rank in silent) for rank in self.ranks]

    def _silent(self) -> set[int]:
        """Ranks of which nothing was heard for a while in which others were. Whoever waited for one of them waited
        longer than that before it gave up."""
        speaking = [rank for rank in self.ranks if rank.beacon.phase is not Phase.LAUNCH]
        newest_s = max((rank.heard_s for rank in speaking), default=0.0)
        still_s = max(STILL_S, self.deadlines.answer_s / 2)
        return {rank.rank for rank in speaking if rank.returncode is None and newest_s - rank.heard_s > still_s}

    def _block(self, found: FirstCause) -> str:
        """What, who, where, remedy; and a worker's own last words, where it left no record."""
        place = [f"in phase {found.phase}"]
        place += [f"call {found.call_id}"] if found.call_id >= 0 else []
        place += [f"chunk {found.chunk}"] if found.chunk >= 0 else []
        place += [f"after {found.op} collectives"] if found.op > 0 else []
        told = f", as rank {found.told_by} says" if found.told_by not in (-1, found.rank) else ""
        what = f"{found.code}: {found.text}".replace("\n", "\n          ")
        lines = [
            f"genlock: the run has failed: {EXIT_CODES[found.exit_code]} (exit code {found.exit_code})",
            f"  what    {what}",
            f"  who     rank {found.rank} (pid {found.pid}), {', '.join(place)}{told}",
            f"  where   {self.folder} (causes, stacks and logs of all ranks; `genlock recorder merge` reads the rest)",
            f"  remedy  {found.remedy}",
        ]
        if found.told_by < 0 and found.rank > 0:
            tail = _tail(self.folder / f"rank{found.rank}.log")
            lines += [f"  rank {found.rank} printed last:", *(f"    {line}" for line in tail)] if tail else []
        return "\n".join(lines)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()][-LOG_LINES:]
    except OSError:
        return []


def _kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _die_with_parent() -> Callable[[], None]:
    """What a child does before exec: asks the kernel to be killed with us, and looks whether we are still there."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(INTERRUPTED)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # printing from the background must not stop a rank

    return before_exec


def _only_wakes(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has the signal's number already."""
