"""The spans of all ranks of a run on one axis of time.

Ranks of one host share its monotonic clock, so that their spans are right to the microsecond. A rank of another host is
put in its place by the time of day that its recorder's head says, which is as good as those hosts' clocks agree; each
rank says which of the two it was. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlock.errors import InputOutputError
from genlock.observe.recorder import COLLECTIVE, FAILURE, MARK, PHASE, SPAN, Entry, Writer, read, read_writer
from genlock.observe.run_folder import write_whole

MONOTONIC, TIME_OF_DAY = "monotonic clock of one host", "time of day of several hosts"
ROWS = {PHASE: 0, SPAN: 1, COLLECTIVE: 2, MARK: 3}  # of a rank, in the trace viewer
ROW_NAMES = {PHASE: "phases", SPAN: "spans", COLLECTIVE: "collectives", MARK: "prompts and frames"}
ARGUMENTS = {"call_id": "call", "chunk": "chunk", "op": "op"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLine:
    """One rank's notes, oldest first, their seconds from the run's first. shift_s: what was added to its clock.
    aligned_by: how its clock was put beside the others."""

    rank: int
    writer: Writer
    entries: Sequence[Entry]
    shift_s: float
    aligned_by: str

    @property
    def spans(self) -> list[Entry]:
        """Phases, spans, marks; and the collective that this rank entered and did not leave."""
        kinds = (PHASE, SPAN, MARK)
        return [e for e in self.entries if e.kind in kinds or (e.kind == COLLECTIVE and e.until_s is None)]

    @property
    def seen_s(self) -> float:
        """Of the run: the last moment this rank is known to have lived."""
        own_s = max((max(entry.seconds, entry.until_s or 0.0) for entry in self.entries), default=0.0)
        return own_s + self.shift_s


def read_timeline(run_dir: Path) -> dict[int, RankLine]:
    """Every rank of a run, by rank. Raises InputOutputError where there is no recorder, or one is damaged."""
    named = [(re.fullmatch(r"recorder-rank(\d+)\.bin", path.name), path) for path in run_dir.glob("recorder-rank*.bin")]
    paths = {int(match.group(1)): path for match, path in named if match is not None}
    if not paths:
        raise InputOutputError(
            "no flight recorder is here",
            where=str(run_dir),
            remedy="name the folder of a run, which GENLOCK_RUN_DIR or --run-dir keeps",
        )
    return timeline({rank: (read_writer(path), read(path)) for rank, path in sorted(paths.items())})


def timeline(held: Mapping[int, tuple[Writer, Sequence[Entry]]]) -> dict[int, RankLine]:
    """held: of each rank, who wrote and what. The first rank's host sets the axis."""
    base = held[min(held)][0]
    shifts = {
        rank: 0.0 if writer.host == base.host else writer.wall_offset_s - base.wall_offset_s
        for rank, (writer, _) in held.items()
    }
    first_s = min((entry.seconds + shifts[rank] for rank, (_, notes) in held.items() for entry in notes), default=0.0)
    return {
        rank: RankLine(
            rank=rank,
            writer=writer,
            entries=notes,
            shift_s=shifts[rank] - first_s,
            aligned_by=MONOTONIC if writer.host == base.host else TIME_OF_DAY,
        )
        for rank, (writer, notes) in held.items()
    }


def end_s(lines: Mapping[int, RankLine]) -> float:
    """Of the run: the last moment any rank is known to have lived. Spans that never ended are drawn to here: others
    waited for a rank that was stopped in one until then."""
    return max(line.seen_s for line in lines.values())


def chrome_trace(lines: Mapping[int, RankLine]) -> dict[str, Any]:
    """As Chrome's tracing and Perfetto read it: ranks are processes, phases, spans within them and collectives are
    rows of it, failures are moments. Times in microseconds from the run's first note."""
    events: list[dict[str, Any]] = []
    last_s = end_s(lines)
    for rank, line in lines.items():
        events += [
            _named("process_name", rank, 0, f"rank {rank} ({line.writer.host}, pid {line.writer.pid})"),
            *(_named("thread_name", rank, row, ROW_NAMES[kind]) for kind, row in ROWS.items()),
        ]
        events += [event for entry in line.entries if (event := _event(line, entry, last_s)) is not None]
    return {
        "displayTimeUnit": "ms",
        "traceEvents": events,
        "otherData": {
            "clocks": {
                f"rank {rank}": f"{line.aligned_by}; time of day = monotonic + {line.writer.wall_offset_s:.6f} s"
                for rank, line in lines.items()
            },
            "spans": "host time: on an accelerator a span covers the launch of work that goes on after it",
        },
    }


def _named(what: str, rank: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": rank, "tid": row, "args": {"name": name}}


def _event(line: RankLine, entry: Entry, last_s: float) -> dict[str, Any] | None:
    ids = {word: value for name, word in ARGUMENTS.items() if (value := getattr(entry, name)) >= 0}
    event = {"name": entry.text, "cat": entry.kind, "pid": line.rank, "ts": _micros(entry.seconds + line.shift_s)}
    if entry.kind in ROWS:
        until_s = last_s - line.shift_s if entry.until_s is None else entry.until_s
        if entry.until_s is None:
            ids["never ended"] = 1
        length = _micros(max(0.0, until_s - entry.seconds))
        return {**event, "ph": "X", "tid": ROWS[entry.kind], "dur": length, "args": ids}
    if entry.kind == FAILURE:
        return {**event, "ph": "i", "tid": ROWS[SPAN], "s": "p", "args": ids}
    return None


def _micros(seconds: float) -> float:
    return round(1e6 * seconds, 1)


def write_chrome_trace(lines: Mapping[int, RankLine], path: Path) -> int:
    """Writes the file, whole or not at all; returns how many events it holds. Raises InputOutputError."""
    made = chrome_trace(lines)
    write_whole(path, json.dumps(made, separators=(",", ":")).encode())
    return len(made["traceEvents"])
