"""Real processes that meet over gloo, for tests: a scenario is a function that every rank runs, and may not survive.

    outcomes = ranks("tests.facts.scenarios:peer_killed", size=2, within_s=10)
    outcomes[0].said      what rank 0's function returned, or None
    outcomes[0].error     the text of what it raised, or ""
    outcomes[0].ended     its exit code; negative: the signal that ended it, -9 too if it had to be ended at `within_s`

One process per test run is started by exec and loads torch; ranks are forked from it before any group exists, so that a
scenario costs little. A scenario is given a `Here`: its rank, the size, a folder shared by the ranks, and the arguments
of the call. What it returns must be JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from genlock.settings import rank_environment

ROOT = Path(__file__).parents[1]
LOAD_S = 120.0  # that the process which starts the ranks may take for itself


@dataclass(frozen=True, kw_only=True)
class Outcome:
    said: Any = None
    error: str = ""
    ended: int = -signal.SIGKILL
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Here:
    """Where a scenario runs. folder: empty at the start, the same for all ranks."""

    rank: int
    size: int
    folder: Path
    given: dict[str, Any] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """For `await_mark` of another rank."""
        (self.folder / name).touch()

    def await_mark(self, name: str, within_s: float = 10.0) -> None:
        until = time.monotonic() + within_s
        while not (self.folder / name).exists():
            if time.monotonic() > until:
                raise TimeoutError(name)
            time.sleep(0.005)

    def stop_for(self, seconds: float) -> None:
        """This process is stopped (SIGSTOP) and continued by a child of its own."""
        own = os.getpid()
        child = os.fork()
        if child == 0:
            time.sleep(seconds)
            if os.getppid() == own:
                os.kill(own, signal.SIGCONT)
            os._exit(0)
        os.kill(own, signal.SIGSTOP)
        os.waitpid(child, 0)


def line_of(stream: IO[str], within_s: float) -> str:
    """The next line of a pipe that says no more than one at a time; "" at its end. Raises TimeoutError."""
    if not select.select([stream], [], [], within_s)[0]:
        raise TimeoutError(f"not a word within {within_s:g} s")
    return stream.readline()


class Ranks:
    """The process that the ranks are forked from; started at the first call."""

    def __init__(self) -> None:
        self._nursery: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this. What ranks print, and the last words of those that are aborted

    def __call__(self, scenario: str, *, size: int, within_s: float = 20.0, **given: Any) -> list[Outcome]:
        if self._nursery is None:
            environment = rank_environment({"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"})
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.ranks"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        ask = {"scenario": scenario, "size": size, "within_s": within_s, "given": given}
        print(json.dumps(ask), file=self._nursery.stdin, flush=True)
        try:
            answer = line_of(self._nursery.stdout, within_s + LOAD_S)
        except TimeoutError:
            self._nursery.kill()
            answer = ""
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"no answer from the process that starts the ranks: {self._log.read()[-2000:]}")
        return [Outcome(**outcome) for outcome in json.loads(answer)]

    def close(self) -> None:
        if self._nursery is not None:
            assert self._nursery.stdin is not None
            self._nursery.stdin.close()
            self._nursery.wait(timeout=10)
            assert self._nursery.stdout is not None
            self._nursery.stdout.close()
        self._log.close()


def _nursery() -> None:
    import torch.distributed  # noqa: F401 - loaded once, for all ranks

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a rank's prints do not mix with the answers
    for line in sys.stdin:
        ask = json.loads(line)
        module, _, name = ask["scenario"].partition(":")
        function = getattr(importlib.import_module(module), name)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            pids = []
            for rank in range(ask["size"]):
                pid = os.fork()
                if pid == 0:
                    _rank(function, Here(rank=rank, size=ask["size"], folder=Path(folder), given=ask["given"]))
                pids.append(pid)
            outcomes = _wait(pids, Path(folder), begun, ask["within_s"])
        print(json.dumps(outcomes), file=answers, flush=True)


def _rank(function: Any, here: Here) -> None:
    said = here.folder / f"said-{here.rank}"
    code = 0
    try:
        said.write_text(json.dumps({"said": function(here)}))
    except BaseException as error:  # noqa: BLE001 - told to the test
        code = getattr(error, "exit_code", 1)
        said.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        if os.environ.get("RANKS_TRACEBACKS"):
            traceback.print_exc()
    os._exit(code)


def _wait(pids: list[int], folder: Path, begun: float, within_s: float) -> list[dict[str, Any]]:
    outcomes: dict[int, dict[str, Any]] = {}
    while len(outcomes) < len(pids):
        late = time.monotonic() - begun > within_s
        for rank, pid in enumerate(pids):
            if rank in outcomes:
                continue
            if late:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                said = folder / f"said-{rank}"
                told = json.loads(said.read_text()) if said.exists() and said.stat().st_size else {}
                seconds = time.monotonic() - begun
                outcomes[rank] = {**told, "ended": os.waitstatus_to_exitcode(status), "seconds": seconds}
        time.sleep(0.005)
    return [outcomes[rank] for rank in range(len(pids))]


if __name__ == "__main__":
    _nursery()
