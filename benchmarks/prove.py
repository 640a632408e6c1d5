"""The mesh proven on this machine: every rank killed and stopped in every phase, clean runs, strikes at random moments.

    python -m benchmarks.prove [--only matrix|clean|random] [--ranks N] [--clean N] [--random N]
        [--part K/N] [--resume [FILE ...]]

Every row is one whole run of `genlock generate --topology tp` on a toy model with D = 3 s: real processes, real
signals. It holds what was done, what was to be seen and what was: the exit code, the rank that was named, the seconds
from the strike to the end of the command, and the processes that were left. Exits with 4 if one row falls short.
Rows are kept as they come, so that `--resume` goes on where an interrupted proof of the same commit ended, or makes one
of several parts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402 - of this repository, which is on no path before

from genlock.drills.runs import (  # noqa: E402
    KILL_BOUND_S,
    NOT_ENTERED,
    SHORT,
    STOP_BOUND_S,
    D,
    Run,
    fault,
    strikes,
)
from genlock.drills.toy import write_toy_model  # noqa: E402
from genlock.settings import Phase  # noqa: E402

OUT = RESULTS / "prove-mesh.json"
CODE = {"kill": 11, "stop": 12}
BOUND_S = {"kill": KILL_BOUND_S, "stop": STOP_BOUND_S}
SIGNAL = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
LONGEST_S = 240.0
FELL_SHORT = 4
FIRST_ABOUT_S = 12.0  # a clean run, where none was measured yet
BEFORE_THE_VIDEO = {phase for phase in Phase if phase not in (Phase.IDLE, Phase.DRAIN, Phase.EXIT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run. what: kill, stop or clean. seconds: from the strike to the end of the command; of a clean run the whole
    of it. whole_s: of the command, its start included. named: the rank in the account. fell_short: "" if nothing did.
    """

    name: str
    what: str
    rank: int | None
    phase: str
    code: int
    named: int | None
    seconds: float
    whole_s: float
    left: int
    fell_short: str


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    run: Callable[[Path, Path], Row]


def matrix(ranks: int) -> Iterator[Case]:
    for phase, rank in strikes(ranks):
        for what in ("kill", "stop"):
            name = f"{what} rank {rank} in {phase}"

            def run(folder: Path, model: Path, *, what: str = what, rank: int = rank, phase: Phase = phase) -> Row:
                job = Run(folder, model, "generate", *SHORT, mesh=ranks, faults=fault(what, phase, rank))
                row = judged(job, what, rank, phase, lambda: job.since(rank, phase))
                if job.out.exists() and phase in BEFORE_THE_VIDEO:
                    row = replace(row, fell_short=f"{row.fell_short}; a video that cannot be whole".lstrip("; "))
                return row

            yield Case(name, run)


def clean(ranks: int, count: int) -> Iterator[Case]:
    for number in range(count):

        def run(folder: Path, model: Path) -> Row:
            job = Run(folder, model, "generate", *SHORT, mesh=ranks)
            return judged(job, "clean", None, "", lambda: job.ended_s - job.began_s)

        yield Case(f"clean run {number}", run)


def at_random(ranks: int, count: int, seed: int, about_s: float) -> Iterator[Case]:
    """Strikes from outside, at moments drawn evenly over a run of `about_s`, to ranks drawn evenly."""
    rng = random.Random(seed)
    for number in range(count):
        what, rank, share = rng.choice(("kill", "stop")), rng.randrange(ranks), rng.random()

        def run(folder: Path, model: Path, *, what: str = what, rank: int = rank, share: float = share) -> Row:
            job = Run(folder, model, "generate", *SHORT, mesh=ranks)
            time.sleep(share * about_s)
            pid = job.rank_pid(rank)
            while pid is None and job.process.poll() is None:  # not there yet
                time.sleep(0.01)
                pid = job.rank_pid(rank)
            entered = job.phases(rank)
            phase = entered[-1].text if entered else str(Phase.LAUNCH)
            struck_s = time.monotonic()
            try:
                if pid is not None:
                    os.kill(pid, SIGNAL[what])
            except ProcessLookupError:
                pid = None  # it has left, a moment ago
            return judged(job, what, rank, phase, lambda: job.ended_s - struck_s, spared=pid is None)

        yield Case(f"random {number} of seed {seed}: {what} rank {rank} at {share:.3f} of a run", run)


def judged(
    job: Run, what: str, rank: int | None, phase: str, seconds: Callable[[], float], *, spared: bool = False
) -> Row:
    """spared: the run was over before it could be struck, which must then be a good end."""
    try:
        code = job.ended(LONGEST_S)
    except subprocess.TimeoutExpired:
        code = -1
    left, took_s = len(job.left()), seconds()
    missed = []
    if what == "clean" or spared:
        missed += [] if code == 0 else [f"exit code {code}, not 0"]
        missed += [] if job.out.is_file() else ["no video"]
    else:
        missed += [] if code == CODE[what] else [f"exit code {code}, not {CODE[what]}"]
        missed += [] if job.named == rank else [f"rank {job.named} is named"]
        missed += [] if took_s <= BOUND_S[what] else [f"{took_s:.1f} s"]
    missed += [f"{left} processes left"] if left else []
    if missed and job.said:
        missed.append(" | ".join(line.strip() for line in job.said.splitlines()[:5]))
    return Row(
        name="",
        what=what,
        rank=rank,
        phase=str(phase),
        code=code,
        named=job.named,
        seconds=round(took_s, 2) if math.isfinite(took_s) else -1.0,
        whole_s=round(job.ended_s - job.began_s, 2) if math.isfinite(job.ended_s) else -1.0,
        left=left,
        fell_short="; ".join(missed),
    )


def prove(cases: list[Case], kept: dict[str, Row], model: Path, report: Callable[[dict[str, Row]], None]) -> list[Row]:
    """Runs what is not in `kept`, one after another; every row of `cases`."""
    rows = {}
    for number, case in enumerate(cases, start=1):
        row = kept.get(case.name)
        if row is None:
            with tempfile.TemporaryDirectory(prefix="prove-") as folder:
                row = replace(case.run(Path(folder), model), name=case.name)
            kept[case.name] = row
            report(kept)
        rows[case.name] = row
        told = row.fell_short or f"exit code {row.code}" + ("" if row.named is None else f", rank {row.named} named")
        print(f"{number:4}/{len(cases)}  {case.name:58} {row.seconds:6.2f} s  {told}", flush=True)
    return list(rows.values())


def table(rows: list[Row]) -> str:
    """A line for each kind of run."""
    lines = [f"{'':8}{'runs':>6}{'fell short':>12}{'median s':>10}{'slowest s':>11}{'bound s':>9}"]
    for what in ("kill", "stop", "clean"):
        found = [row for row in rows if row.what == what]
        if found:
            seconds = [row.seconds for row in found]
            short = sum(bool(row.fell_short) for row in found)
            bound = f"{BOUND_S[what]:.0f}" if what in BOUND_S else ""
            lines.append(
                f"{what:8}{len(found):6}{short:12}{statistics.median(seconds):10.2f}{max(seconds):11.2f}{bound:>9}"
            )
    return "\n".join(lines)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["matrix", "clean", "random"], action="append")
    parser.add_argument("--ranks", type=int, default=2, choices=[2, 4])
    parser.add_argument("--clean", type=int, default=50, help="clean runs")
    parser.add_argument("--random", type=int, default=0, help="strikes at random moments")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1", help="K/N: every Nth run, from the Kth")
    parser.add_argument("--resume", type=Path, nargs="*", help="keep rows of this commit from files; none: from --out")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(words)
    sets = asked.only or ["matrix", "clean", *(["random"] if asked.random else [])]

    about = {**surroundings("prove", words, "src"), "deadline_s": D}
    kept: dict[str, Row] = {}
    parts_before = []
    for earlier in [] if asked.resume is None else asked.resume or [asked.out]:
        before = json.loads(earlier.read_text())
        if before["commit"] == about["commit"]:
            kept |= {row["name"]: Row(**row) for row in before["rows"]}
            parts_before += [{name: before[name] for name in ("command", "load_average")}]
    load_before = os.getloadavg()[0]

    def report(rows: dict[str, Row]) -> None:
        short = [row.name for row in rows.values() if row.fell_short]
        loads = {"before": round(load_before, 1), "now": round(os.getloadavg()[0], 1)}
        not_entered = {f"{phase} on a worker": why for phase, why in NOT_ENTERED.items()}
        result = {
            **about,
            "load_average": loads,
            "resumed_from": parts_before,
            "ok": not short,
            "fell_short": short,
            "table": table(list(rows.values())).splitlines(),
            "not_applicable": not_entered,
            "rows": [asdict(row) for row in rows.values()],
        }
        keep(asked.out, result)

    cases: list[Case] = []
    if "matrix" in sets:
        cases += matrix(asked.ranks)
    if "clean" in sets:
        cases += clean(asked.ranks, asked.clean)
    if "random" in sets:
        whole = [row.whole_s for row in kept.values() if row.what == "clean"]
        about_s = statistics.median(whole) if whole else FIRST_ABOUT_S
        cases += at_random(asked.ranks, asked.random or 200, asked.seed, about_s)
    part, _, parts = asked.part.partition("/")
    cases = cases[int(part) - 1 :: int(parts)]

    folder = Path(tempfile.mkdtemp(prefix="prove-model-"))
    try:
        rows = prove(cases, kept, write_toy_model(folder), report)
    finally:
        shutil.rmtree(folder)
    report(kept)
    print(table(rows))
    for phase, why in NOT_ENTERED.items():
        print(f"not applicable: {phase} on a worker: {why}")
    short = [row for row in rows if row.fell_short]
    for row in short:
        print(f"fell short: {row.name}: {row.fell_short}")
    return FELL_SHORT if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
