"""One case of a drill run and judged: what was seen, how long it took, and what fell short of what was expected."""

from __future__ import annotations

import json
import math
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlock.drills.catalogue import ANY_FAILURE, Case
from genlock.drills.runs import Apart, D, Run, until
from genlock.settings import Phase

SCENES = "genlock.drills.scenes"
FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """seconds: from the strike to the end, or of the whole command where nothing struck. fell_short: "" if nothing."""

    injected: str
    expected: str
    seen: str
    seconds: float
    fell_short: str


def conduct(case: Case, folder: Path, model: Path) -> Outcome:
    """Runs a case in a folder of its own, on a model folder. Nothing that it started lives afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    run = _start(case, folder, model)
    try:
        struck_s = STRIKES[case.strike](run) if case.strike else None
        code: int | None = run.ended()
    except (subprocess.TimeoutExpired, TimeoutError, RuntimeError) as error:
        return _outcome(case, str(error), float("nan"), [f"{type(error).__name__}: it did not end in time"])
    finally:
        if case.strike == "kill supervisor":
            _wait_for_orphans(run)
        left = run.left()
        run.end()
    if struck_s is not None:
        seconds = time.monotonic() - struck_s
    else:
        seconds = run.since(*case.struck) if case.struck else run.ended_s - run.began_s
    scene, amiss = _of_scene(run)
    said = run.said + run.printed if case.scene else run.said
    short = [] if code == case.code or (case.code == ANY_FAILURE and code) else [f"exit code {code}, not {case.code}"]
    short += [] if case.rank is None or run.named == case.rank else [f"rank {run.named} is named, not {case.rank}"]
    short += [] if re.search(case.says, said) else [f"{case.says!r} is not said"]
    short += [f"{len(left)} processes are left"] if left else []
    in_time = case.least_s <= seconds <= case.bound_s
    short += [] if in_time else [f"{seconds:.1f} s, not within {case.least_s:g} to {case.bound_s:g}"]
    short += [] if case.video is None or run.out.is_file() == case.video else [f"{'no' * case.video or 'a'} video"]
    short += [] if case.harm else [f"amiss: {what}" for what in amiss]
    return _outcome(case, "; ".join([*scene, *_account(run, code)]), seconds, short)


def _start(case: Case, folder: Path, model: Path) -> Run:
    options: dict[str, Any] = {"faults": case.faults, "GENLOCK_GUARDS_OFF": case.guards_off}
    if case.of_rank:
        return Apart(folder, model, *case.words, of_rank=case.of_rank, **options)
    if case.scene:
        return Run(folder, model, case.scene, module=SCENES, **options)
    return Run(folder, model, *case.words, **options)


def _outcome(case: Case, seen: str, seconds: float, short: list[str]) -> Outcome:
    return Outcome(
        injected=case.injected,
        expected=case.expected,
        seen=seen,
        seconds=round(seconds, 2) if math.isfinite(seconds) else -1.0,
        fell_short="; ".join(short),
    )


def _of_scene(run: Run) -> tuple[list[str], list[str]]:
    """What a scene saw, and what of it was amiss."""
    seen = [json.loads(line) for line in run.printed.splitlines() if line.startswith("{")]
    return [each["what"] for each in seen], [each["what"] for each in seen if not each["well"]]


def _account(run: Run, code: int | None) -> list[str]:
    """The exit code, and the line of the run's own account that says what happened."""
    lines = [line.strip() for line in run.said.splitlines() if "GL-" in line]
    about = [lines[0].removeprefix("what").strip()] if lines else []
    others = [f"rank {number}: exit code {other}" for number, other in enumerate(run.codes) if other != code]
    return [f"exit code {code}", *others, *about]


# -- from outside ----------------------------------------------------------------------------------------------------


def _kill_supervisor(run: Run) -> float:
    run.wait_for(Phase.IDLE, 3)
    run.process.kill()
    return time.monotonic()


def _wait_for_orphans(run: Run) -> None:
    try:
        until(lambda: not run.left(), within_s=2 * D)
    except TimeoutError:
        return  # they are counted, and ended


def _stop_supervisor(run: Run) -> None:
    run.wait_for(Phase.IDLE, 3)
    run.process.send_signal(signal.SIGSTOP)
    held = run.phases(0)[-1].chunk
    until(lambda: run.phases(0)[-1].chunk > held + 3)
    time.sleep(D + 1)  # longer than D: what it hears when it goes on is old
    run.process.send_signal(signal.SIGCONT)
    run.wait_for(Phase.IDLE, run.phases(0)[-1].chunk + 5)
    run.process.send_signal(signal.SIGTERM)


def _fill_disk(run: Run) -> None:
    """No file of rank 0 may become larger than this, as if its disk were full."""
    run.wait_for(Phase.IDLE, 1)
    pid = run.rank_pid(0)
    if pid is None:
        raise RuntimeError(f"rank 0 is not there: {run.said}")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


STRIKES: dict[str, Callable[[Run], float | None]] = {
    "kill supervisor": _kill_supervisor,
    "stop supervisor": _stop_supervisor,
    "full disk": _fill_disk,
}
