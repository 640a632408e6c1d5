"""Whole commands on meshes of real processes, and what is seen of them from outside.

    run = Run(folder, model, "generate", *SHORT, faults="kill:rank=1,phase=payload,chunk=2")
    run.ended()           the exit code
    run.said              what was printed on stderr
    run.since(1, Phase.PAYLOAD)   seconds from the moment rank 1 entered that phase last, to the end of the command
    run.left()            processes of the run that still live

`Apart` is the same for ranks that nobody supervises, each with variables of its own: as on several hosts. Everything is
bounded: a command that does not end in time is killed with all that it started. Knows no drill and no expectation.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import genlock
from genlock.observe.recorder import PHASE, Entry, read, recorder_path
from genlock.settings import Phase, environment_without_settings

D = 3  # seconds
KILL_BOUND_S, STOP_BOUND_S, GONE_BOUND_S = 5.0, D + 3.0, 5.0  # the documented ones
PATIENCE_S = 120.0  # of whoever waits for a command
LAST_CHUNK = 2
SHORT = ("--prompt", "a red boat at sea", "--seconds", "2")  # of the toy model: chunks 0 to LAST_CHUNK
ENDLESS = ("--prompt", "a red boat at sea", "--seconds", "3600")
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "GENLOCK_THREADS": "1",
    "GENLOCK_DEADLINE": str(D),
    "GENLOCK_CHECK_EVERY": "1",
}
WHO = re.compile(r"^  who     rank (-?\d+) \(pid (-?\d+)\), in phase ([a-z0-9 -]+)", re.MULTILINE)
WHOM = re.compile(r"^(?:rank \d+: )?GL-[A-Z]+-\d+: (?:[^:]*, )?rank (\d+)", re.MULTILINE)
# Where a strike is no strike: the phase is not entered there.
NOT_ENTERED = {
    Phase.LOAD_MEDIA: "only rank 0 has more than the generator",
    Phase.DELIVER: "only rank 0 decodes and writes",
    Phase.DRAIN: "only rank 0 says that the run ends; a worker goes from idle to exit",
}


def strikes(mesh: int) -> list[tuple[Phase, int]]:
    """Every phase and rank in which a rank can be struck, in the order of a run."""
    return [(phase, rank) for phase in Phase for rank in range(mesh) if rank == 0 or phase not in NOT_ENTERED]


def fault(kind: str, phase: Phase, rank: int, chunk: int = LAST_CHUNK) -> str:
    return f"{kind}:rank={rank},phase={phase},chunk={chunk}"


class RunOver(Exception):
    """The command ended before what was waited for."""


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
        module: str = "genlock",
        **variables: str,
    ) -> None:
        """words: a command and its flags, to which the mesh is added; or those of another module. launcher: what goes
        between Python and the module. variables: of the environment, beside VARIABLES."""
        self.folder, self.run_dir, self.out = folder, folder / "run", folder / "out.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        own = {"GENLOCK_MODEL": str(model), "GENLOCK_RUN_DIR": str(self.run_dir), "GENLOCK_FAULTS": faults}
        flags = ["--topology", "tp", "--mesh", str(mesh)] if mesh and module == "genlock" else []
        flags += ["--out", str(self.out)] if words[0] == "generate" else []
        command = [sys.executable, *launcher, "-m", module, *words, *flags]
        self.began_s = time.monotonic()
        self.ended_s = self._ended_at = float("nan")
        self.processes = [self._start(command, {**own, **place, **variables}) for place in self._places(mesh)]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The command's, or rank 0's where nobody supervises."""
        return self.processes[0]

    def ended(self, within_s: float = PATIENCE_S) -> int:
        """The exit code."""
        deadline_s = time.monotonic() + within_s
        try:
            for process in self.processes:
                process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.end()
            raise
        finally:
            self.ended_s = time.monotonic()
            self._ended_at = time.time()  # noqa: TID251 - to hold beside the time of a file
        return self.process.returncode

    @property
    def codes(self) -> list[int | None]:
        """The exit codes of all that was started here."""
        return [process.poll() for process in self.processes]

    def end(self) -> None:
        """Nothing of it lives after this."""
        for process in self.processes:
            process.kill()
            process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    @property
    def printed(self) -> str:
        return self._text("stdout.txt")

    @property
    def said(self) -> str:
        return self._text("stderr.txt")

    @property
    def named(self) -> int | None:
        """The rank that the account of a failure is about."""
        found = WHO.search(self.said) or WHOM.search(self.said)
        return None if found is None else int(found[1])

    def phases(self, rank: int) -> list[Entry]:
        """The phases that a rank has entered, oldest first; none before it has a recorder."""
        return [entry for entry in self.entries(rank) if entry.kind == PHASE]

    def entries(self, rank: int) -> list[Entry]:
        path = recorder_path(self.run_dir, rank)
        return read(path) if path.exists() and path.stat().st_size else []

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

    def _places(self, mesh: int) -> list[dict[str, str]]:  # noqa: ARG002 - of those who start ranks themselves
        """Variables of each process to start."""
        return [{}]

    def _start(self, command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        suffix = f"-{variables['RANK']}" if variables.get("RANK", "0") != "0" else ""
        source = str(Path(genlock.__file__).parents[1])
        with (
            (self.folder / f"stdout{suffix}.txt").open("wb") as printed,
            (self.folder / f"stderr{suffix}.txt").open("wb") as said,
        ):
            return subprocess.Popen(
                command,
                env=environment_without_settings({"PYTHONPATH": source, **VARIABLES, **variables}),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                cwd=self.folder,
            )

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def _gone(self) -> bool:
        if self.process.poll() is not None:
            raise RunOver(self.said)
        return False


class Apart(Run):
    """Ranks that are started one by one, as on hosts of their own, by the variables that launchers use."""

    def __init__(self, *words: Path | str, of_rank: Mapping[int, Mapping[str, str]], **options: object) -> None:
        """of_rank: variables of single ranks. The rest as of `Run`."""
        self._of_rank = of_rank
        super().__init__(*words, **options)  # type: ignore[arg-type]

    def said_by(self, rank: int) -> str:
        return self._text(f"stderr-{rank}.txt") if rank else self.said

    def _places(self, mesh: int) -> list[dict[str, str]]:
        everybody = {
            "WORLD_SIZE": str(mesh),
            "LOCAL_WORLD_SIZE": str(mesh),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        return [
            {**everybody, "RANK": str(rank), "LOCAL_RANK": str(rank), **self._of_rank.get(rank, {})}
            for rank in range(mesh)
        ]


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has just ended, or is another user's


def until(happened: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError."""
    deadline_s = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"it did not happen within {within_s:g} s")
        time.sleep(0.02)
