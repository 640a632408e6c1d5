"""What the trace and the metrics of a run cost, as a share of a chunk.

    python -m benchmarks.trace_overhead [--blocks N] [--chunks N]

One session of the bundled model, blocks of chunks with everything on (recorder, spans, account, metrics, log,
pictures) and with everything off in turn: wall time and processor time of each chunk, and how much more a chunk with it
takes than its neighbour without, with an interval of 95 %. A machine with other work makes that interval wider than
what is measured, so the cost is also added up: what a chunk notes, each thing at its own processor time, measured
apart; as a share of a chunk's processor time in this session, and of the shortest period on each rank of a mesh of two.
Exits with 4 if that sum is over 1 %, or the whole interval of processor time is.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402 - after this repository is on the path
from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402

import genlock  # noqa: E402
from genlock.drills.runs import Run  # noqa: E402
from genlock.engine.session import BUNDLED_FOLDER, Session  # noqa: E402
from genlock.media.video import small_jpeg  # noqa: E402
from genlock.observe.log import JsonLog  # noqa: E402
from genlock.observe.metrics import Metrics  # noqa: E402
from genlock.observe.recorder import COLLECTIVE, MARK, PHASE, SPAN, Entry, Recorder, read, recorder_path  # noqa: E402
from genlock.observe.trace import Trace, unmeasured  # noqa: E402
from genlock.report.parts import WARM_CHUNKS, chunk_times, steady  # noqa: E402
from genlock.settings import Phase, Settings  # noqa: E402

FELL_SHORT, MOST = 4, 0.01
PROMPT = "a red balloon over the sea at noon"
REPEATED, DRAWS = 20_000, 2000
MESH_SECONDS = "12"


class Untraced(Trace):
    """A trace that does nothing: what a chunk would cost without one."""

    def at(self, *, call_id: int, chunk: int) -> None: ...
    def phase(self, phase: Phase, **_: Any) -> None: ...
    def mark(self, name: str, **_: Any) -> None: ...
    def span(self, name: str) -> Any:
        return unmeasured(name)


class Switch:
    """Turns everything that a run notes of itself on and off, between two chunks of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.account, self.notes = session.engine.generation.rank_file, session._run
        self.traced, self.untraced = session.trace, Untraced()

    def turn(self, *, on: bool) -> None:
        session, trace = self.session, self.traced if on else self.untraced
        session.engine.trace = self.account.trace = trace
        session.engine.stream.span_of = trace.span
        session._run = self.notes if on else None


def alternate(folder: Path, blocks: int, chunks: int) -> tuple[dict[str, Any], list[Entry]]:
    """Milliseconds of each chunk, wall and processor time, on and off; and what was noted."""
    settings = replace(Settings(), run_dir=str(folder))
    made: dict[str, dict[str, list[float]]] = {way: {"wall": [], "processor": []} for way in ("on", "off")}
    with genlock.open(settings=settings) as session:
        metrics = Metrics()
        metrics.serve(0)
        metrics.watch(session.trace, session.ranks, rank=0, fps=session.fps)
        JsonLog(session.trace, io.StringIO(), rank=0)
        switch = Switch(session)
        session.prompt(PROMPT)
        stream = session.stream()
        for _ in range(WARM_CHUNKS + 1):
            next(stream)
        for block in range(2 * blocks):
            switch.turn(on=block % 2 == 0)
            for _ in range(chunks):
                wall_s, processor_s = time.perf_counter(), time.process_time()
                next(stream)
                held = made["on" if block % 2 == 0 else "off"]
                held["wall"].append(1e3 * (time.perf_counter() - wall_s))
                held["processor"].append(1e3 * (time.process_time() - processor_s))
        switch.turn(on=True)
        notes = read(recorder_path(folder, 0))
    return made, notes


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4)
    return {"median": round(middle, 2), "lower_quarter": round(low, 2), "upper_quarter": round(high, 2)}


def more(on: list[float], off: list[float]) -> dict[str, float]:
    """How much more a chunk takes than its neighbour, as a share: median over the pairs, and its interval of 95 % by
    drawing the pairs again."""
    shares = [one / other - 1 for one, other in zip(on, off, strict=True)]
    rng = random.Random(1)
    drawn = sorted(median(rng.choices(shares, k=len(shares))) for _ in range(DRAWS))
    low, high = drawn[int(0.025 * DRAWS)], drawn[int(0.975 * DRAWS)]
    return {"median": round(median(shares), 5), "from": round(low, 5), "to": round(high, 5)}


def costs_us(folder: Path) -> dict[str, float]:
    """Processor time in microseconds of one of each thing that a chunk notes, everybody listening."""
    recorder = Recorder(folder / "cost.bin")
    trace = Trace(recorder)
    metrics = Metrics()
    metrics.watch(trace, {}, rank=0, fps=16.0)
    JsonLog(trace, io.StringIO(), rank=0)
    trace.at(call_id=5, chunk=5)

    def span() -> None:
        with trace.span("denoise"):
            pass

    def collective() -> None:
        recorder.end(recorder.note(COLLECTIVE, call_id=5, chunk=5, op=1, text="blocks.0.self_attn.o"), 1.0)

    frame = torch.zeros(128, 192, 3, dtype=torch.uint8)
    acts = {
        SPAN: (span, REPEATED),
        PHASE: (lambda: trace.phase(Phase.CALL, call_id=5, chunk=5), REPEATED),
        MARK: (lambda: trace.mark("delivered", began_s=1.0, until_s=1.0, number=12), REPEATED),
        COLLECTIVE: (collective, REPEATED),
        "picture": (lambda: (folder / "picture.jpg").write_bytes(small_jpeg(frame)), 200),
    }
    made = {}
    for name, (act, times) in acts.items():
        rounds = []
        for _ in range(5):
            began_s = time.process_time()
            for _ in range(times):
                act()
            rounds.append(1e6 * (time.process_time() - began_s) / times)
        made[name] = round(median(rounds), 2)
    recorder.close()
    return made


def added_up(notes: list[Entry], period_ms: float, cost_us: dict[str, float], *, pictures: bool) -> dict[str, Any]:
    """What one steady chunk notes, and what that costs, as a share of `period_ms`."""
    chunks = {entry.chunk for entry in notes if entry.kind == PHASE and entry.chunk > WARM_CHUNKS}
    kinds = Counter(entry.kind for entry in notes if entry.chunk in chunks and entry.kind in cost_us)
    held = [entry.chunk for entry in notes if entry.kind == COLLECTIVE]  # of these the recorder keeps the last alone
    whole = {chunk for chunk in chunks if chunk > min(held, default=0)}
    counted = {kind: count / len(chunks) for kind, count in kinds.items()}
    if whole:
        counted[COLLECTIVE] = sum(chunk in whole for chunk in held) / len(whole)
    if pictures:
        counted["picture"] = 1.0
    spent_ms = sum(count * cost_us[kind] for kind, count in counted.items()) / 1e3
    return {
        "noted": {kind: round(count, 1) for kind, count in counted.items()},
        "ms": round(spent_ms, 3),
        "period_ms": round(period_ms, 1),
        "share": round(spent_ms / period_ms, 5),
    }


def mesh(folder: Path, cost_us: dict[str, float]) -> dict[str, Any]:
    run = Run(folder, BUNDLED_FOLDER, "generate", "--prompt", PROMPT, "--seconds", MESH_SECONDS, GENLOCK_DEADLINE="20")
    try:
        if run.ended() != 0:
            raise RuntimeError(run.said)
    finally:
        run.end()
    noted = {rank: read(recorder_path(run.run_dir, rank)) for rank in (0, 1)}
    period_ms = min(chunk.period_ms or 0.0 for chunk in steady(chunk_times(noted[0])))
    return {f"rank {rank}": added_up(notes, period_ms, cost_us, pictures=rank == 0) for rank, notes in noted.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=60, help="of each way")
    parser.add_argument("--chunks", type=int, default=1, help="of a block")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cost_us = costs_us(folder)
        made, notes = alternate(folder / "run", told.blocks, told.chunks)
        medians = {way: {kind: spread(values) for kind, values in held.items()} for way, held in made.items()}
        alone = added_up(notes, medians["off"]["processor"]["median"], cost_us, pictures=True)
        meshed = mesh(folder / "mesh", cost_us)
    extra = {kind: more(made["on"][kind], made["off"][kind]) for kind in ("wall", "processor")}
    sums = [alone["share"], *(rank["share"] for rank in meshed.values())]
    ok = max(*sums, extra["processor"]["from"]) < MOST
    keep(
        RESULTS / "trace-overhead-cpu.json",
        {
            **surroundings("trace_overhead", sys.argv[1:], "src/genlock/observe"),
            "threads": torch.get_num_threads(),
            "chunks_each_way": len(made["on"]["wall"]),
            "chunk_ms": medians,
            "on_more_than_off": extra,
            "cost_us": cost_us,
            "added_up": {"alone": alone, **meshed},
            "most": MOST,
            "ok": ok,
        },
    )
    print(f"a chunk with it and without: {medians['on']} {medians['off']}: {extra}")
    print(f"added up: alone {alone}")
    for rank, held in meshed.items():
        print(f"added up: {rank} of 2 {held}")
    return 0 if ok else FELL_SHORT


if __name__ == "__main__":
    sys.exit(main())
