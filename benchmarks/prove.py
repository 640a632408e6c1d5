"""The mesh proven on this machine: every rank killed and stopped in every phase, clean runs, strikes at random moments.

    python -m benchmarks.prove [--only matrix|clean|random] [--ranks N] [--clean N] [--random N]
        [--part K/N] [--resume [FILE ...]] [--out FILE]

Every row is one case as `genlock drill` conducts it: a whole run of `genlock generate --topology tp` on a toy model
with D = 3 s, real processes, real signals. It holds what was done, what was to be seen and what was: the exit code, the
rank that was named, the seconds from the strike to the end of the command, and what fell short. Exits with 4 if a row
does. Rows are kept as they come, so that `--resume` goes on where an interrupted proof of the same commit ended, or
makes one of several parts.

A random strike comes from outside. Its phase is drawn evenly from all that a rank goes through, launch and exit
included, and its moment evenly from the time that this phase had in a clean run just before; where the run is faster or
slower than that one was, it hits a neighbour: the row says which phase was hit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402 - of this repository, which is on no path before

from genlock.drills.catalogue import SIGNALLED, Case, signalled  # noqa: E402
from genlock.drills.conduct import OVER, Outcome, conduct  # noqa: E402
from genlock.drills.runs import NOT_ENTERED, PATIENCE_S, SHORT, D, Run, strikes  # noqa: E402
from genlock.drills.strikes import signal_rank  # noqa: E402
from genlock.drills.toy import write_toy_model  # noqa: E402
from genlock.settings import Phase  # noqa: E402

OUT = RESULTS / "prove-mesh.json"
SIGNAL = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
FELL_SHORT = 4
PACED_EVERY = 20  # random strikes between two clean runs that say when each phase is
DRAWS = 8  # of a moment, where the run was over before it
BINS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 3.25, 3.5, 4.0, 5.0, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run. what: kill, stop or clean. rank: who was struck. seconds: from the strike to the end of the command; of
    a clean run the whole of it. named, phase: of the run's own account. fell_short: "" if nothing did."""

    name: str
    what: str
    rank: int | None
    seconds: float
    named: int | None
    phase: str
    seen: str
    fell_short: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    name: str
    what: str
    rank: int | None
    run: Callable[[Path, Path], Outcome]


def generate(ranks: int) -> tuple[str, ...]:
    return ("generate", *SHORT, "--mesh", str(ranks))


def matrix(ranks: int) -> Iterator[Job]:
    for phase, rank in strikes(ranks):
        for what in ("kill", "stop"):
            case = replace(signalled(what, phase, rank), words=generate(ranks))
            yield Job(name=case.injected, what=what, rank=rank, run=partial(conduct, case))


def clean(ranks: int, count: int) -> Iterator[Job]:
    case = Case(injected="nothing", expected="a video", words=generate(ranks), code=0, video=True, bound_s=PATIENCE_S)
    for number in range(count):
        yield Job(name=f"clean run {number}", what="clean", rank=None, run=partial(conduct, case))


class Pace:
    """When each phase of each rank is, in seconds from the start of the command, by the latest clean run."""

    def __init__(self, ranks: int) -> None:
        self._ranks, self._asked = ranks, 0
        self._windows: dict[tuple[int, Phase], list[tuple[float, float]]] = {}

    def moment(self, rank: int, phase: Phase, rng: random.Random, folder: Path, model: Path) -> float:
        if self._asked % PACED_EVERY == 0:
            self._measure(folder / "paced", model)
        self._asked += 1
        return rng.uniform(*rng.choice(self._windows[rank, phase]))

    def again(self) -> None:
        """When each phase is, is measured before the next moment is drawn."""
        self._asked = 0

    def _measure(self, folder: Path, model: Path) -> None:
        run = Run(folder, model, *generate(self._ranks), mesh=self._ranks)
        if run.ended():
            raise SystemExit(f"a clean run failed: {run.said}")
        self._windows = {}
        for rank in range(self._ranks):
            entered = run.phases(rank)
            starts = [entry.seconds for entry in entered] + [run.ended_s]
            self._windows[rank, Phase.LAUNCH] = [(0.0, starts[0] - run.began_s)]
            for entry, ends_s in zip(entered, starts[1:], strict=True):
                window = (entry.seconds - run.began_s, ends_s - run.began_s)
                self._windows.setdefault((rank, Phase(entry.text)), []).append(window)


def at_random(ranks: int, count: int, seed: int) -> Iterator[Job]:
    """The draws of strike N depend on the seed and N alone, whatever was run before."""
    pace, places = Pace(ranks), strikes(ranks)
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        what, (phase, rank) = rng.choice(("kill", "stop")), rng.choice(places)

        def run(
            folder: Path, model: Path, *, what: str = what, rank: int = rank, phase: Phase = phase, rng: Any = rng
        ) -> Outcome:
            outcome = None
            for draw in range(DRAWS):
                after_s = pace.moment(rank, phase, rng, folder / str(draw), model)
                case = at_moment(ranks, what, rank, phase, after_s)
                outcome = conduct(case, folder / str(draw) / "struck", model)
                if outcome.fell_short != OVER:
                    break
                pace.again()  # this machine is another now
            assert outcome is not None
            return outcome

        yield Job(
            name=f"random {number} of seed {seed}: {what} rank {rank} about {phase}", what=what, rank=rank, run=run
        )


def at_moment(ranks: int, what: str, rank: int, phase: Phase, after_s: float) -> Case:
    says, code, bound_s = SIGNALLED[what]
    return Case(
        injected=f"{what} rank {rank} about {phase}, after {after_s:.2f} s",
        expected=f"rank {rank} named within {bound_s:g} s",
        words=generate(ranks),
        strike=partial(signal_rank, rank=rank, number=SIGNAL[what], after_s=after_s),
        code=code,
        rank=rank,
        says=f"rank {rank} {says}",
        bound_s=bound_s,
    )


def prove(jobs: list[Job], kept: dict[str, Row], model: Path, report: Callable[[dict[str, Row]], None]) -> list[Row]:
    """Runs what is not in `kept`, one after another; every row of `jobs`."""
    rows = []
    for number, job in enumerate(jobs, start=1):
        if job.name not in kept:
            with tempfile.TemporaryDirectory(prefix="prove-") as folder:
                outcome = job.run(Path(folder), model)
            kept[job.name] = Row(
                name=job.name,
                what=job.what,
                rank=job.rank,
                seconds=outcome.seconds,
                named=outcome.named,
                phase=outcome.phase,
                seen=outcome.seen.replace(str(folder), "RUN"),
                fell_short=outcome.fell_short.replace(str(folder), "RUN"),
            )
            report(kept)
        row = kept[job.name]
        rows.append(row)
        print(
            f"{number:4}/{len(jobs)}  {row.name:60} {row.seconds:6.2f} s  {row.fell_short or row.seen[:80]}", flush=True
        )
    return rows


def table(rows: list[Row]) -> str:
    """A line for each kind of run; how long it took from a strike to the end; and what the strikes hit."""
    lines = [f"{'':8}{'runs':>6}{'fell short':>12}{'median s':>10}{'slowest s':>11}{'bound s':>9}"]
    for what in ("kill", "stop", "clean"):
        found = [row for row in rows if row.what == what]
        if found:
            seconds = [row.seconds for row in found]
            short = sum(bool(row.fell_short) for row in found)
            bound = f"{SIGNALLED[what][2]:g}" if what in SIGNALLED else ""
            lines.append(
                f"{what:8}{len(found):6}{short:12}{statistics.median(seconds):10.2f}{max(seconds):11.2f}{bound:>9}"
            )
    for what in SIGNALLED:
        bins = Counter(
            next((top for top in BINS_S if row.seconds <= top), BINS_S[-1]) for row in rows if row.what == what
        )
        lines += [f"{what}, up to {top:4.2f} s: {bins[top]:4}  {'#' * bins[top]}" for top in BINS_S if bins[top]]
    hit = Counter(row.phase for row in rows if row.what in SIGNALLED)
    return "\n".join([*lines, "hit: " + ", ".join(f"{phase} {hit[phase]}" for phase in Phase if hit[phase])])


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["matrix", "clean", "random"], action="append")
    parser.add_argument("--ranks", type=int, default=2, choices=[2, 4])
    parser.add_argument("--clean", type=int, default=50, help="clean runs")
    parser.add_argument("--random", type=int, default=200, help="strikes at random moments")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1", help="K/N: every Nth run, from the Kth")
    parser.add_argument("--resume", type=Path, nargs="*", help="keep rows of this commit from files; none: from --out")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(words)
    sets = asked.only or ["matrix", "clean", "random"]

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

    jobs: list[Job] = []
    if "matrix" in sets:
        jobs += matrix(asked.ranks)
    if "clean" in sets:
        jobs += clean(asked.ranks, asked.clean)
    if "random" in sets:
        jobs += at_random(asked.ranks, asked.random, asked.seed)
    part, _, parts = asked.part.partition("/")
    jobs = jobs[int(part) - 1 :: int(parts)]

    folder = Path(tempfile.mkdtemp(prefix="prove-model-"))
    try:
        rows = prove(jobs, kept, write_toy_model(folder), report)
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
