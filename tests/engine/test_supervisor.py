"""The supervisor and the watchdog, over real processes: whatever is done to one, the run ends in time, the right rank
is named, and no process is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genlock.engine import supervisor
from genlock.engine.supervisor import supervise
from genlock.errors import InputOutputError, LaunchRefused, UsageError
from genlock.observe.recorder import PHASE, Entry, read, recorder_path
from genlock.settings import Deadlines, Faults, Phase

JOB = Path(__file__).with_name("toy_job.py")
D = 2.0  # seconds
KILL_BOUND_S, STOP_BOUND_S, GONE_BOUND_S = 5.0, D + 3.0, 5.0  # the documented ones
PATIENCE_S = 30.0  # of the tests themselves
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="ranks need Linux")]


class Job:
    """A supervised run of toy ranks. `ended` waits for it; what is left of it at the end is killed."""

    def __init__(
        self, folder: Path, *, ranks: int = 3, faults: str = "none", run_dir: str | None = None, **told: object
    ) -> None:
        self.run_dir, self.ranks = folder / "run", ranks
        arguments = [str(ranks), str(D), faults, run_dir or str(self.run_dir), json.dumps({"chunks": 4} | told)]
        self.process = subprocess.Popen(
            [sys.executable, str(JOB), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = self.printed = ""

    def ended(self) -> int:
        self.printed, self.said = self.process.communicate(timeout=PATIENCE_S)
        self.ended_s = time.monotonic()
        return self.process.returncode

    def entries(self, rank: int) -> list[Entry]:
        path = recorder_path(self.run_dir, rank)
        return [e for e in read(path) if e.kind == PHASE] if path.exists() else []

    def wait_for_chunk(self, chunk: int, phase: Phase = Phase.IDLE) -> None:
        until(lambda: any(entry.chunk >= chunk and entry.text == phase for entry in self.entries(0)))

    def rank_pid(self, rank: int) -> int:
        wanted = f"RANK={rank}".encode()
        (pid,) = [p for p in self.pids() if wanted in (Path(f"/proc/{p}/environ").read_bytes()).split(b"\0")]
        return pid

    def pids(self) -> list[int]:
        """Every living process that has this run in its environment: the ranks, and what they started."""
        mark, found = f"GENLOCK_RUN_DIR={self.run_dir}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue  # it has just ended, or is another user's
        return found


def until(happened: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def begin(**options: object) -> Job:
        jobs.append(Job(tmp_path, **options))  # type: ignore[arg-type]
        return jobs[-1]

    yield begin
    for job in jobs:
        job.process.kill()
        job.process.communicate(timeout=PATIENCE_S)
        for pid in job.pids():
            os.kill(pid, signal.SIGKILL)


# -- ends that are well --------------------------------------------------------------------------------------------


def test_a_run_ends_well_and_says_nothing(start: Callable[..., Job]) -> None:
    job = start(chunks=4)
    assert job.ended() == 0, job.said
    assert (job.printed, job.said) == ("4 chunks\n", "")
    assert not job.pids()
    assert job.run_dir.is_dir(), "a folder that was named stays"
    assert [entry.text for entry in job.entries(2)][-1] == Phase.EXIT


def test_an_automatic_folder_goes_after_a_good_end_and_stays_after_a_bad_one(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert start(ranks=2, run_dir="auto").ended() == 0
    assert not list(tmp_path.glob("genlock-*"))
    job = start(ranks=2, run_dir="auto", do={"1": {"payload:1": "raise"}})
    assert job.ended() == 1
    (kept,) = tmp_path.glob("genlock-*")
    assert str(kept) in job.said
    assert "ArithmeticError: a rank that fails" in (kept / "stacks-rank1.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_finishes_the_chunk_in_flight(start: Callable[..., Job], number: signal.Signals) -> None:
    job = start(ranks=2, chunks=-1)
    job.wait_for_chunk(2)
    job.process.send_signal(number)
    assert job.ended() == 0, job.said
    assert "finishing the chunk in flight" in job.said
    assert job.printed.endswith(" chunks\n")
    assert not job.pids()


def test_a_rank_that_cannot_be_ended_does_not_keep_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits in the kernel, as on a device that hangs: it cannot be made here, so the wait is."""
    said: list[str] = []
    process = subprocess.Popen(["sleep", "60"], process_group=0)
    waits: list[float | None] = []

    def wait(timeout: float | None = None) -> int:
        waits.append(timeout)
        raise subprocess.TimeoutExpired("sleep", timeout or 0.0)

    job = supervisor._Job(Path(), Deadlines(answer_s=3.0), Faults(), said.append)
    ours, theirs = socket.socketpair()
    job.ranks = [supervisor._Rank(0, process, ours, 0.0)]
    try:
        with monkeypatch.context() as patched:
            patched.setattr(process, "wait", wait)
            job.close()
    finally:
        process.kill()
        process.wait()
        theirs.close()
    assert waits == [pytest.approx(supervisor.ENDED_S, abs=0.5)]
    assert said[0].startswith(f"genlock: rank 0 (pid {process.pid}) does not end after SIGKILL: ")


def test_a_second_interrupt_ends_at_once(start: Callable[..., Job]) -> None:
    job = start(ranks=2, chunks=-1, do={"0": {"payload:2": "hang"}})
    job.wait_for_chunk(2, Phase.PAYLOAD)
    job.process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # two signals at once are one
    job.process.send_signal(signal.SIGINT)
    assert job.ended() == 130
    assert job.said.splitlines()[-1] == "genlock: interrupted"
    assert not job.pids()


def test_an_interrupt_while_starting_ends_at_once(start: Callable[..., Job]) -> None:
    job = start(ranks=2, do={"0": {"load:-1": "hang"}})
    until(lambda: any(entry.text == Phase.LOAD for entry in job.entries(0)))
    job.process.send_signal(signal.SIGINT)
    assert job.ended() == 130
    assert not job.pids()


def test_ranks_that_a_launcher_asks_to_end_finish_their_chunk(start: Callable[..., Job]) -> None:
    job = start(ranks=3, chunks=-1)
    job.wait_for_chunk(2)
    for pid in [job.rank_pid(rank) for rank in (1, 2, 0)]:
        os.kill(pid, signal.SIGTERM)
    assert job.ended() == 0, job.said
    assert not job.pids()


def test_a_worker_does_not_end_by_itself_but_not_later_than_the_exit_deadline(start: Callable[..., Job]) -> None:
    job = start(ranks=2, chunks=-1)
    job.wait_for_chunk(2)
    begun_s, reached = time.monotonic(), job.entries(0)[-1].chunk
    os.kill(job.rank_pid(1), signal.SIGTERM)
    assert job.ended() == 130
    assert job.ended_s - begun_s > D
    assert job.entries(0)[-1].chunk > reached + 3, "the stream went on meanwhile"
    assert "rank 0 did not end the run in time" in job.said


def test_what_a_rank_leaves_behind_goes_with_it(start: Callable[..., Job]) -> None:
    job = start(ranks=2, do={"1": {"payload:1": "child"}})
    assert job.ended() == 0
    assert not job.pids()


def test_what_a_process_does_after_its_part_is_not_held_to_the_exit_deadline(start: Callable[..., Job]) -> None:
    """The interpreter of a loaded machine takes seconds to end, and rank 0 may have a picture to write."""
    job = start(ranks=2, lingers_s=D + 2.0)
    assert job.ended() == 0, job.said
    assert not job.pids()


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 3, 5])
def test_what_rank_0_refuses_it_has_said_itself(start: Callable[..., Job], code: int) -> None:
    job = start(do={"0": {"payload:1": f"exit:{code}"}})
    assert job.ended() == code
    assert (job.printed, job.said) == ("rank 0 says why\n", "")
    assert not job.pids()


def test_what_a_worker_says_before_it_leaves_is_quoted(start: Callable[..., Job]) -> None:
    job = start(do={"2": {"payload:1": "exit:3"}})
    assert job.ended() == 3
    assert "rank 2 left with exit code 3" in job.said
    assert "    rank 2 says why" in job.said


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(UsageError, match="not empty"):
        supervise(["true"], mesh=2, deadlines=Deadlines(answer_s=D), run_dir=tmp_path)
    with pytest.raises(InputOutputError):
        supervise(["true"], mesh=2, deadlines=Deadlines(answer_s=D), run_dir=tmp_path / "store")


def test_a_command_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(LaunchRefused, match="rank 0 cannot be started"):
        supervise([str(tmp_path / "nothing")], mesh=2, deadlines=Deadlines(answer_s=D), run_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before


# -- failures: the right rank is named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "rank"),
    [
        (Phase.LAUNCH, 0),
        (Phase.LAUNCH, 2),
        (Phase.GATE_1, 1),
        (Phase.LOAD, 0),
        (Phase.IDLE, 0),
        (Phase.IDLE, 1),
        (Phase.IDLE, 2),
        (Phase.PAYLOAD, 1),
        (Phase.CALL, 0),
        (Phase.CALL, 1),
        (Phase.CALL, 2),
        (Phase.VERDICT, 0),
        (Phase.EXIT, 2),
    ],
)
def test_a_killed_rank_ends_the_run_and_is_named(start: Callable[..., Job], phase: Phase, rank: int) -> None:
    chunk = 4 if phase is Phase.EXIT else 2
    begun_s = time.monotonic()
    job = start(faults=f"kill:rank={rank},phase={phase},chunk={chunk}")
    assert job.ended() == 11, job.said
    assert f"rank {rank} was killed by SIGKILL" in job.said
    assert f"  who     rank {rank} (pid " in job.said
    assert f"in phase {phase}" in job.said
    assert not job.pids()
    if phase is not Phase.LAUNCH:  # the recorder survives, and says when it was
        struck = job.entries(rank)[-1]
        assert struck.text == phase
        begun_s = struck.seconds
    assert job.ended_s - begun_s < KILL_BOUND_S


@pytest.mark.parametrize(
    ("phase", "rank"),
    [
        (Phase.LAUNCH, 1),
        (Phase.WARM_UP, 0),
        (Phase.IDLE, 0),
        (Phase.IDLE, 1),
        (Phase.CALL, 0),
        (Phase.CALL, 2),
        (Phase.VERDICT, 1),
        (Phase.EXIT, 2),
    ],
)
def test_a_stopped_rank_ends_the_run_and_is_named(start: Callable[..., Job], phase: Phase, rank: int) -> None:
    chunk = 4 if phase is Phase.EXIT else 2
    begun_s = time.monotonic()
    job = start(faults=f"stop:rank={rank},phase={phase},chunk={chunk}")
    assert job.ended() == 12, job.said
    assert f"rank {rank} has been stopped for" in job.said
    assert f"  who     rank {rank} (pid " in job.said
    assert not job.pids()
    if phase is not Phase.LAUNCH:
        begun_s = job.entries(rank)[-1].seconds
    assert job.ended_s - begun_s < STOP_BOUND_S


def test_a_rank_that_is_stopped_for_less_than_d_is_no_failure(start: Callable[..., Job]) -> None:
    job = start(chunks=-1)
    job.wait_for_chunk(2)
    for rank in (0, 1):
        pid = job.rank_pid(rank)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(D / 4)
        os.kill(pid, signal.SIGCONT)
    job.wait_for_chunk(job.entries(0)[-1].chunk + 3)
    job.process.send_signal(signal.SIGTERM)
    assert job.ended() == 0, job.said


@pytest.mark.parametrize(
    ("what", "rank", "place", "code", "says"),
    [
        ("raise", 1, "generator call:2", 1, "ArithmeticError: a rank that fails"),
        ("raise", 0, "idle:2", 1, "ArithmeticError: a rank that fails"),
        ("memory", 2, "load:-1", 14, "GL-MEM-01"),
        ("hang", 1, "generator call:2", 12, "who     rank 1 "),
        ("hang", 2, "exit:4", 12, "no progress for"),
        ("spin", 1, "generator call:2", 12, "rank 1 gives no sign of life"),
        ("exit:0", 2, "generator call:2", 11, "who     rank 2 "),
    ],
)
def test_a_rank_that_fails_by_itself_is_named(
    start: Callable[..., Job], what: str, rank: int, place: str, code: int, says: str
) -> None:
    job = start(do={str(rank): {place: what}})
    assert job.ended() == code, job.said
    assert says in job.said
    assert f"  who     rank {rank} (pid " in job.said
    assert not job.pids()
    if what in ("hang", "spin"):
        assert "in misbehave" in (job.run_dir / f"stacks-rank{rank}.txt").read_text(), "where it hung is written down"


def test_a_rank_whose_own_watchdog_cannot_run_is_ended_all_the_same(start: Callable[..., Job]) -> None:
    job = start(ranks=1, do={"0": {"generator call:2": "spin"}})
    assert job.ended() == 12
    assert "rank 0 is over the time of phase generator call, and its own watchdog did not end it" in job.said
    assert "in misbehave" in (job.run_dir / "stacks-rank0.txt").read_text()
    assert not job.pids()


def test_a_tripwire_names_the_rank_that_it_is_about(start: Callable[..., Job]) -> None:
    job = start(do={"0": {"verdict:2": "tripwire:2"}})
    assert job.ended() == 10
    assert "GL-MESH-03: rank 2: weights differ" in job.said
    assert "  who     rank 2 (pid " in job.said
    assert ", as rank 0 says" in job.said


def test_a_worker_that_leaves_too_early_is_a_failure(start: Callable[..., Job]) -> None:
    job = start(ranks=2, do={"1": {"gate 1:-1": "exit:0"}})
    assert job.ended() == 11
    assert "rank 1 left before the run had ended" in job.said


# -- what is done to the supervisor ----------------------------------------------------------------------------------


def test_a_killed_supervisor_takes_all_ranks_with_it(start: Callable[..., Job]) -> None:
    job = start(chunks=-1, do={"1": {"generator call:3": "spin"}})
    job.wait_for_chunk(2)
    assert len(job.pids()) == 3
    job.process.kill()
    until(lambda: not job.pids(), GONE_BOUND_S)
    job.ended()
    assert (job.printed, job.said) == ("", "")


def test_a_stopped_supervisor_harms_nobody(start: Callable[..., Job]) -> None:
    job = start(chunks=-1)
    job.wait_for_chunk(2)
    job.process.send_signal(signal.SIGSTOP)
    reached = job.entries(0)[-1].chunk
    time.sleep(D + 1.0)
    assert job.entries(0)[-1].chunk > reached + 3, "the stream goes on"
    job.process.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGTERM)
    assert job.ended() == 0, job.said


def test_a_supervisor_that_was_stopped_hears_everything_before_it_judges(start: Callable[..., Job]) -> None:
    job = start(chunks=-1)
    job.wait_for_chunk(2)
    job.process.send_signal(signal.SIGSTOP)
    os.kill(job.rank_pid(1), signal.SIGKILL)
    time.sleep(D + 1.0)
    job.process.send_signal(signal.SIGCONT)
    assert job.ended() == 11
    assert "rank 1 was killed by SIGKILL" in job.said
    assert not job.pids()
