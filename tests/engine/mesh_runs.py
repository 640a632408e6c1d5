"""Whole commands on meshes of real processes, and what is seen of them from outside: for tests and `benchmarks/prove`.

    run = Run(folder, model, "generate", *VIDEO, faults="kill:rank=1,phase=payload,chunk=2")
    run.ended()           the exit code
    run.said              what was printed on stderr
    run.since(1, Phase.PAYLOAD)   seconds from the moment rank 1 entered that phase last, to the end of the command
    run.left()            processes of the run that still live

Everything is bounded: a command that does not end in time is killed with all that it started.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from genlock.observe.recorder import PHASE, Entry, read, recorder_path
from genlock.settings import Phase

ROOT = Path(__file__).parents[2]
D = 3  # seconds
KILL_BOUND_S, STOP_BOUND_S, GONE_BOUND_S = 5.0, D + 3.0, 5.0  # the documented ones
PATIENCE_S = 120.0  # of the tests themselves
LAST_CHUNK = 2
SHORT = ("--prompt", "a red boat at sea", "--seconds", "2")  # of the toy model: chunks 0 to LAST_CHUNK
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT / "src"),
    "GENLOCK_THREADS": "1",
    "GENLOCK_DEADLINE": str(D),
    "GENLOCK_CHECK_EVERY": "1",
}
WHO = re.compile(r"^  who     rank (-?\d+) \(pid (-?\d+)\), in phase ([a-z0-9 -]+)", re.MULTILINE)
# Where a strike is no strike: the phase is not entered there.
NOT_ENTERED = {
    Phase.DELIVER: "only rank 0 decodes and writes",
    Phase.DRAIN: "only rank 0 says that the run ends; a worker goes from idle to exit",
}


def strikes(mesh: int) -> list[tuple[Phase, int]]:
    """Every phase and rank in which a rank can be struck, in the order of a run."""
    return [(phase, rank) for phase in Phase for rank in range(mesh) if rank == 0 or phase not in NOT_ENTERED]


def fault(kind: str, phase: Phase, rank: int, chunk: int = LAST_CHUNK) -> str:
    return f"{kind}:rank={rank},phase={phase},chunk={chunk}"


class Run:
    """One command. folder: of this run alone, made if need be; holds its run folder, output and what it prints."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        *words: str,
        mesh: int = 2,
        faults: str = "none",
        launcher: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """words: a command and its flags, to which the mesh is added. launcher: what goes between Python and the
        module. variables: of the environment, beside VARIABLES."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run_dir, self.out = folder, folder / "run", folder / "out.mp4"
        own = {"GENLOCK_MODEL": str(model), "GENLOCK_RUN_DIR": str(self.run_dir), "GENLOCK_FAULTS": faults}
        outside = {name: value for name, value in os.environ.items() if not name.startswith("GENLOCK_")}
        flags = ["--topology", "tp", "--mesh", str(mesh)] if mesh else []
        flags += ["--out", str(self.out)] if words[0] == "generate" else []
        self._printed, self._said = folder / "stdout.txt", folder / "stderr.txt"
        self.began_s = time.monotonic()
        self.ended_s = self._ended_at = float("nan")
        with self._printed.open("wb") as printed, self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "genlock", *words, *flags],
                env={**outside, **VARIABLES, **own, **variables},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                cwd=folder,
            )

    def ended(self, within_s: float = PATIENCE_S) -> int:
        """The exit code."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        self.ended_s, self._ended_at = time.monotonic(), time.time()
        return code

    def end(self) -> None:
        """Nothing of it lives after this."""
        self.process.kill()
        self.process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    @property
    def printed(self) -> str:
        return self._printed.read_text(errors="replace")

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def named(self) -> int | None:
        """The rank that the account of a failure is about."""
        found = WHO.search(self.said)
        return None if found is None else int(found[1])

    def phases(self, rank: int) -> list[Entry]:
        """The phases that a rank has entered, oldest first; none before it has a recorder."""
        path = recorder_path(self.run_dir, rank)
        return [entry for entry in read(path) if entry.kind == PHASE] if path.exists() and path.stat().st_size else []

    def since(self, rank: int, phase: Phase) -> float:
        """Seconds from when `rank` entered `phase` last to the end of the command; nan if it never did. A rank has no
        recorder at its launch: that is when the file for what rank 1 prints was made, or, if it printed something, the
        begin of the command, which is earlier."""
        if phase is Phase.LAUNCH:
            log = self.run_dir / "rank1.log"
            made = log.exists() and not log.stat().st_size
            return self._ended_at - log.stat().st_mtime if made else self.ended_s - self.began_s
        entered = [entry.seconds for entry in self.phases(rank) if entry.text == phase]
        return self.ended_s - entered[-1] if entered else float("nan")

    def wait_for(self, phase: Phase, chunk: int = -1, *, rank: int = 0) -> None:
        """Until a rank has entered a phase of this chunk or a later one."""
        until(lambda: any(e.text == phase and e.chunk >= chunk for e in self.phases(rank)) or self._gone())

    def rank_pid(self, rank: int) -> int | None:
        wanted = f"RANK={rank}".encode()
        return next((pid for pid in self.left() if wanted in environment_of(pid)), None)

    def left(self) -> list[int]:
        """Every living process that has this run in its environment: the command, the ranks, what they started."""
        mark = f"GENLOCK_RUN_DIR={self.run_dir}".encode()
        pids = [int(place.name) for place in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if mark in environment_of(pid)]

    def _gone(self) -> bool:
        assert self.process.poll() is None, self.said
        return False


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has just ended, or is another user's


def until(happened: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
