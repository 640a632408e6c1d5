"""The watchdog without a supervisor: peers that die, stop or hang, signals, and what an error is reported as."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.ranks import line_of

from genlock.errors import (
    CallCount,
    GateMissed,
    GateRefused,
    GenlockError,
    LaunchRefused,
    LinkBroken,
    LinkTimeout,
    MeshDisagrees,
    OutOfMemory,
    RankDied,
    RankSilent,
)
from genlock.fabric.liveness import told_as
from genlock.observe.cause import Kind, read_all

TOY = Path(__file__).with_name("toy_watch.py")
D = 1.5  # seconds
PATIENCE_S = 30.0
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="ranks need Linux")


class Ranks:
    """Rank 0 and workers, each told what to do, joined by beacon connections."""

    def __init__(self, folder: Path, *what: str) -> None:
        self.folder = folder
        kind = socket.SOCK_STREAM if what[0].startswith("real-") else socket.SOCK_SEQPACKET
        pairs = [socket.socketpair(socket.AF_UNIX, kind) for _ in what[1:]]
        ends = [[ours for ours, _ in pairs], *([theirs] for _, theirs in pairs)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(TOY), str(rank), str(D), str(folder), what[rank], *map(str, numbers)],
                pass_fds=numbers,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, held in enumerate(ends)
            for numbers in [[end.fileno() for end in held]]
        ]
        for end in (end for held in ends for end in held):
            end.close()
        for process in self.processes:
            assert process.stdout is not None
            assert line_of(process.stdout, PATIENCE_S) == "ready\n"
        self.begun_s = time.monotonic()

    def ended(self, rank: int) -> tuple[int, str, str]:
        printed, said = self.processes[rank].communicate(timeout=PATIENCE_S)
        return self.processes[rank].returncode, printed, said


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    made: list[Ranks] = []

    def begin(*what: str) -> Ranks:
        made.append(Ranks(tmp_path, *what))
        return made[-1]

    yield begin
    for process in (process for ranks in made for process in ranks.processes):
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(("victim", "idle"), [(0, "idle"), (1, "idle"), (1, "real-idle")])
def test_without_a_supervisor_a_killed_peer_is_noticed(start: Callable[..., Ranks], victim: int, idle: str) -> None:
    ranks = start(idle, idle, idle)
    ranks.processes[victim].kill()
    for rank in {0, 1, 2} - {victim}:
        code, _, said = ranks.ended(rank)
        assert code == 11
        assert f"rank {rank}: GL-LINK-01: rank " in said
    assert time.monotonic() - ranks.begun_s < 5.0
    found = {cause.rank: cause for cause in read_all(ranks.folder)}
    teller = 1 if victim == 0 else 0
    assert (found[teller].kind, found[teller].names) == (Kind.BROKEN_PIPE, victim)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_without_a_supervisor_a_stopped_peer_is_silent(start: Callable[..., Ranks], victim: int) -> None:
    ranks = start("idle", "idle", "idle")
    time.sleep(0.5)  # a worker is patient until it has heard rank 0 once
    ranks.processes[victim].send_signal(signal.SIGSTOP)
    code, _, said = ranks.ended(1 if victim == 0 else 0)
    assert code == 12
    assert f"GL-RANK-02: rank {victim}: no sign of life for" in said
    assert time.monotonic() - ranks.begun_s < 0.5 + D + 3.0


@on_linux
@pytest.mark.slow
def test_a_process_that_was_stopped_hears_its_peers_before_it_judges_them(start: Callable[..., Ranks]) -> None:
    """All of them are stopped for longer than D, as a laptop that sleeps is; rank 0 is the first to go on."""
    ranks = start("idle", "idle")
    for process in ranks.processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(D + 0.5)
    for process in ranks.processes:
        process.send_signal(signal.SIGCONT)
    time.sleep(D)
    assert [process.poll() for process in ranks.processes] == [None, None]
    for process in ranks.processes:
        process.send_signal(signal.SIGTERM)
    assert ranks.ended(0)[:2] == (0, "drained\n")


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(("what", "within_s"), [("hang", D), ("tick", 3 * D)])
def test_a_phase_is_held_to_its_deadline_since_the_last_collective(
    start: Callable[..., Ranks], what: str, within_s: float
) -> None:
    ranks = start(what)
    code, _, said = ranks.ended(0)
    assert code == 12
    assert "no progress for 1." in said
    assert "in phase generator call" in said
    assert within_s - 0.2 < time.monotonic() - ranks.begun_s < within_s + 3.0
    assert "toy_watch.py" in (ranks.folder / "stacks-rank0.txt").read_text()


@on_linux
@pytest.mark.slow
def test_a_rank_that_waits_in_a_collective_does_not_accuse_itself(start: Callable[..., Ranks]) -> None:
    ranks = start("door")
    code, _, said = ranks.ended(0)
    assert code == 12
    assert "another rank did not come to a collective of rank 0: no progress for 1." in said
    (cause,) = read_all(ranks.folder)
    assert (cause.kind, cause.names, cause.in_collective) == (Kind.TIMEOUT, -1, True)


@on_linux
@pytest.mark.slow
def test_native_code_that_keeps_the_interpreter_does_not_keep_the_process(start: Callable[..., Ranks]) -> None:
    ranks = start("spin")
    code, _, _ = ranks.ended(0)
    assert code == 1
    assert time.monotonic() - ranks.begun_s < 2 * D + 5.0
    assert "toy_watch.py" in (ranks.folder / "stacks-rank0.txt").read_text()


@on_linux
@pytest.mark.slow
def test_a_peer_on_its_way_out_is_no_failure(start: Callable[..., Ranks]) -> None:
    ranks = start("leave:1.0", "leave:0.9")
    assert [ranks.ended(rank)[0] for rank in (0, 1)] == [0, 0]
    assert not read_all(ranks.folder)


@on_linux
@pytest.mark.slow
def test_a_process_whose_part_is_over_lives_on(start: Callable[..., Ranks]) -> None:
    """Longer than the last resort, which a watchdog that ended late would have wound up once more."""
    ranks = start(*[f"stay:{2 * D + 2}"] * 4)
    assert [ranks.ended(rank)[0] for rank in range(4)] == [0] * 4


@on_linux
@pytest.mark.slow
def test_a_worker_that_decodes_outlives_rank_0_until_it_is_done(start: Callable[..., Ranks]) -> None:
    """Its good end may lie unread; whoever then finds none has lost rank 0."""
    ranks = start("leave:0.2", "decode:1.5")
    assert ranks.ended(0)[0] == 0
    assert ranks.ended(1)[0] == 11
    assert time.monotonic() - ranks.begun_s >= 1.5
    (cause,) = read_all(ranks.folder)
    assert (cause.rank, cause.names) == (1, 0), cause


@on_linux
@pytest.mark.slow
def test_a_second_interrupt_of_rank_0_ends_it(start: Callable[..., Ranks]) -> None:
    ranks = start("hang")
    ranks.processes[0].send_signal(signal.SIGINT)
    time.sleep(0.3)
    ranks.processes[0].send_signal(signal.SIGINT)
    assert ranks.ended(0)[0] == 130


@on_linux
@pytest.mark.slow
def test_the_stacks_of_a_running_rank_can_be_asked_for(start: Callable[..., Ranks]) -> None:
    ranks = start("idle")
    os.kill(ranks.processes[0].pid, signal.SIGUSR1)
    deadline_s = time.monotonic() + PATIENCE_S
    while "toy_watch.py" not in (ranks.folder / "stacks-rank0.txt").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert ranks.processes[0].poll() is None


class TorchOutOfMemoryError(RuntimeError):
    """Torch is not loaded here; its error is known by its name."""


@pytest.mark.parametrize(
    ("error", "told", "kind", "code"),
    [
        (MeshDisagrees("x"), MeshDisagrees, Kind.TRIPWIRE, 10),
        (CallCount("x"), CallCount, Kind.TRIPWIRE, 10),
        (GateRefused("x"), GateRefused, Kind.REFUSAL, 13),
        (GateMissed("x"), GateMissed, Kind.TIMEOUT, 13),
        (LaunchRefused("x"), LaunchRefused, Kind.REFUSAL, 13),
        (LinkTimeout("x"), LinkTimeout, Kind.TIMEOUT, 12),
        (LinkBroken("x"), LinkBroken, Kind.BROKEN_PIPE, 11),
        (RankDied("x"), RankDied, Kind.BROKEN_PIPE, 11),
        (MemoryError(), OutOfMemory, Kind.REFUSAL, 14),
        (TorchOutOfMemoryError("CUDA out of memory"), OutOfMemory, Kind.REFUSAL, 14),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), OutOfMemory, Kind.REFUSAL, 14),
        (EOFError(), LinkBroken, Kind.BROKEN_PIPE, 11),
        (BrokenPipeError(32, "Broken pipe"), LinkBroken, Kind.BROKEN_PIPE, 11),
        (TimeoutError("timed out"), RankSilent, Kind.TIMEOUT, 12),
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711"), LinkBroken, Kind.BROKEN_PIPE, 11),
        (
            RuntimeError("[pair.cc:144] Read error [127.0.0.1]: Connection reset by peer"),
            LinkBroken,
            Kind.BROKEN_PIPE,
            11,
        ),
        (RuntimeError("Timed out waiting 3000ms for recv operation to complete"), RankSilent, Kind.TIMEOUT, 12),
        (OSError(28, "No space left on device", "out.mp4"), GenlockError, Kind.REFUSAL, 5),
        (KeyboardInterrupt("x"), GenlockError, Kind.REFUSAL, 130),
        (KeyError("x"), GenlockError, Kind.DEFECT, 1),
        (RuntimeError("shape mismatch"), GenlockError, Kind.DEFECT, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_of_any_kind_becomes_one_of_ours(
    error: BaseException, told: type[GenlockError], kind: Kind, code: int
) -> None:
    found, judged, exit_code = told_as(error)
    assert isinstance(found, told)
    assert (judged, exit_code) == (kind, code)


def test_the_watchdog_loads_no_torch() -> None:
    code = "import sys, genlock.fabric.liveness, genlock.engine.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
