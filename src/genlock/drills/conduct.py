"""One case of a drill run and judged: what was seen, how long it took, and what fell short of what was expected."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genlock.drills.catalogue import ANY_FAILURE, Case
from genlock.drills.hosts import TwoHosts
from genlock.drills.runs import GONE_BOUND_S, WHO, Apart, Run, RunOver, until

SCENES = "genlock.drills.scenes"
OVER = "the run was over before it could be struck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """named, phase: the rank that the account is about, and where it was; None, "" where there is no account. seconds:
    from the strike to the end, or of the whole command where nothing struck. fell_short: "" if nothing."""

    injected: str
    expected: str
    seen: str
    seconds: float
    fell_short: str
    named: int | None = None
    phase: str = ""


def conduct(case: Case, folder: Path, model: Path) -> Outcome:
    """Runs a case in a folder of its own, on a model folder. Nothing that it started lives afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    run = _start(case, folder, model)
    try:
        struck_s = case.strike(run) if case.strike else None
        code: int | None = run.ended()
        if code == -signal.SIGKILL:  # the supervisor; its ranks have a moment to notice
            with suppress(TimeoutError):
                until(lambda: not run.left(), within_s=GONE_BOUND_S)
        gone_s = time.monotonic() if code == -signal.SIGKILL else run.ended_s
    except (subprocess.TimeoutExpired, TimeoutError) as error:
        return _outcome(case, str(error), float("nan"), ["it did not end in time"])
    except RunOver as error:
        return _outcome(case, str(error), float("nan"), [OVER])
    finally:
        left = run.left()
        run.end()
    if struck_s is not None:
        seconds = gone_s - struck_s
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
    who = WHO.search(run.said)
    outcome = _outcome(case, "; ".join([*scene, *_account(run, code)]), seconds, short)
    return replace(outcome, named=run.named, phase=who[3] if who else "")


def _start(case: Case, folder: Path, model: Path) -> Run:
    options: dict[str, Any] = {"faults": case.faults, "GENLOCK_GUARDS_OFF": case.guards_off}
    options |= case.variables
    if case.hosts:
        return TwoHosts(folder, model, *case.words, **options)
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
