"""A run's folder as the figures of a report: plain JSON values, bounded in number, for a page to draw.

Reads what the ranks left (`observe/`), whatever of it is there: of a run that failed some files are missing, and the
report is wanted all the more. Knows nothing of how it is drawn.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from genlock.observe.cause import read_all
from genlock.observe.rank_file import read_rank_files
from genlock.observe.recorder import COLLECTIVE, MARK, PHASE, SPAN, Entry
from genlock.observe.run_folder import FAILURE_FILE, RUN_FILE
from genlock.observe.timeline import RankLine, end_s, read_timeline
from genlock.observe.trace import GENERATE, PLAN, SHOWN
from genlock.report.parts import (
    OTHER,
    PART_OF,
    PARTS,
    PHASES,
    START,
    WARM_CHUNKS,
    ChunkTime,
    chunk_times,
    fits,
    median_parts,
    steady,
)
from genlock.settings import START_PHASES, Phase

SPANS_MOST = 5000  # of all runs on a page: a quarter of a megabyte
CHUNKS_MOST = 600
FIRST_CHUNKS = 2  # kept beside the last ones, where not all can be
P95_LEAST = 21  # periods: of fewer it would be the longest one
KINDS = (PHASE, SPAN, MARK)
WAITS = "waits in "  # before the name of a collective that was entered and not left
Json = dict[str, Any]


def collect(run_dir: Path, *, runs: int = 1) -> Json:
    """What a page shows of a run. runs: how many share the page. Raises InputOutputError as `read_timeline`."""
    lines = read_timeline(run_dir)
    first = lines[min(lines)]
    chunks = chunk_times(first.entries)
    about = _json(run_dir / RUN_FILE)
    accounts = read_rank_files(run_dir)
    if not about and accounts:
        account = next(iter(accounts.values()))
        about = {name: value for name, value in account.items() if not isinstance(value, dict | list)}
    began = [line for line in lines.values() if any(e.text == Phase.LAUNCH for e in line.entries)]
    names: list[str] = []
    spans, left_out = _spans(lines, names, SPANS_MOST // runs)
    shown = chunks[-(CHUNKS_MOST // runs) :]
    return {
        "folder": run_dir.name,
        "about": {name: value for name, value in about.items() if name != "asked"},
        "started": about.get("started") or (_time_of_day(began[0]) if began else None),
        "asked": _asked(about, first),
        "ranks": [_rank(line, accounts.get(rank, {})) for rank, line in lines.items()],
        "parts": [*PARTS, OTHER],
        "start": [*START],
        "drawn_as": {**PART_OF, **PHASES, **START},
        "names": names,
        "spans": spans,
        "spans_left_out": left_out,
        "end_s": round(end_s(lines), 4),
        "chunks": [_chunk(chunk, first.shift_s) for chunk in shown],
        "chunks_left_out": len(chunks) - len(shown),
        "chunks_lost": chunks[0].chunk if chunks else 0,
        "ended": bool(accounts) and all("exit" in held.get("memory_bytes", {}) for held in accounts.values()),
        "figures": figures(chunks, first, about.get("fps")),
        "parts_ms": {part: round(ms, 3) for part, ms in median_parts(chunks).items()},
        "fits": [asdict(fit) for fit in fits(chunks)],
        "pictures": _pictures(run_dir),
        "failure": _json(run_dir / FAILURE_FILE) or None,
        "causes": [asdict(cause) for cause in read_all(run_dir)],
    }


def figures(chunks: Sequence[ChunkTime], first: RankLine, fps: float | None) -> Json:
    """Of rank 0. Rates in pixel frames a second, times in milliseconds; None where there is nothing to count. Dropped
    is what was begun and not handed on, of what the recorder still holds."""
    counted = steady(chunks)
    periods = sorted(chunk.period_ms or 0.0 for chunk in counted)
    began = [entry.seconds for entry in first.entries if entry.kind == PHASE and entry.text == Phase.LAUNCH]
    latencies = [1e3 * length for e in first.entries if e.text == SHOWN and (length := _length_s(e)) is not None]
    made = [entry for entry in first.entries if entry.kind == SPAN and entry.text == GENERATE and entry.chunk >= 0]
    idle = [1e3 * (later.seconds - (e.until_s or later.seconds)) for e, later in pairwise(made)]
    begun = {entry.chunk for entry in first.entries if entry.kind == SPAN and entry.text == PLAN and entry.chunk >= 0}
    timed = sum(chunk.period_ms is not None for chunk in chunks)
    late = [c for c in chunks if fps and c.period_ms is not None and c.period_ms > 1e3 * c.frames / fps]
    return {
        "chunks": len(chunks),
        "frames": sum(chunk.frames for chunk in chunks),
        "frames_per_s": _rounded(1e3 * sum(c.frames for c in counted) / sum(periods) if sum(periods) else None),
        "period_ms": _rounded(median(periods) if periods else None),
        "period_p95_ms": _rounded(periods[int(0.95 * len(periods))] if len(periods) >= P95_LEAST else None),
        "longest_ms": _rounded(periods[-1] if len(periods) > 1 else None),
        "periods": len(periods),
        "steady": any(chunk.chunk >= WARM_CHUNKS for chunk in counted),
        "first_frame_s": _rounded(chunks[0].done_s - began[0] if chunks and began and not chunks[0].chunk else None),
        "prompt_ms": _rounded(median(latencies) if latencies else None),
        "mesh_idle_ms": _rounded(median(idle) if idle else None),
        "late_chunks": len(late) if fps and timed else None,
        "timed_chunks": timed,
        "dropped_chunks": len(begun - {chunk.chunk for chunk in chunks}),
    }


def _length_s(entry: Entry) -> float | None:
    return None if entry.until_s is None else entry.until_s - entry.seconds


def _time_of_day(line: RankLine) -> str:
    """When the run's first note was made, by the clock of a rank."""
    return datetime.fromtimestamp(line.writer.wall_offset_s - line.shift_s, UTC).isoformat(timespec="seconds")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _chunk(chunk: ChunkTime, shift_s: float) -> list[Any]:
    """[chunk, handed on at, frames, period, parts]"""
    parts = {part: round(ms, 1) for part, ms in chunk.parts.items() if ms >= 0.05}
    return [chunk.chunk, round(chunk.done_s + shift_s, 4), chunk.frames, _rounded(chunk.period_ms), parts]


def _asked(about: Json, first: RankLine) -> list[Json]:
    """Each request that took effect, with the moment its first frames were handed on, where that is still noted."""
    marks = [entry for entry in first.entries if entry.kind == MARK and entry.text == SHOWN]
    moments = {e.chunk: round(e.until_s + first.shift_s, 4) for e in marks if e.until_s is not None}
    return [{**request, "shown_s": moments.get(request.get("chunk"))} for request in about.get("asked", [])]


def _rank(line: RankLine, account: Mapping[str, Any]) -> Json:
    wanted = ("start_s", "ready_s", "memory_bytes", "calls", "seconds", "modules")
    return {
        "rank": line.rank,
        "host": line.writer.host,
        "pid": line.writer.pid,
        "aligned_by": line.aligned_by,
        "seen_s": round(line.seen_s, 4),
        "first_at": round(min(e.seconds for e in line.entries) + line.writer.wall_offset_s, 3)
        if line.entries
        else None,
        "seen_at": round(line.seen_s - line.shift_s + line.writer.wall_offset_s, 3),
        **{name: account[name] for name in wanted if name in account},
    }


def _spans(lines: Mapping[int, RankLine], names: list[str], most: int) -> tuple[list[list[Any]], int]:
    """[rank, kind, name, depth, began, length, call, chunk, number, ended] of each, microseconds; and how many were
    left out between the first chunks and the last ones. names: is filled."""
    numbers: dict[str, int] = {}
    made: list[tuple[int, list[Any]]] = []
    run_end_s = end_s(lines)
    for rank, line in lines.items():
        last_s, inner = run_end_s - line.shift_s, list[float]()
        for entry in sorted(line.spans, key=lambda e: (e.seconds, -(e.until_s or last_s))):
            until_s = last_s if entry.until_s is None else entry.until_s
            depth = 0
            kind, name = (SPAN, WAITS + entry.text) if entry.kind == COLLECTIVE else (entry.kind, entry.text)
            if kind == SPAN:
                inner = [end for end in inner if end > entry.seconds]
                depth = len(inner)
                inner.append(until_s)
            began, length = round(1e6 * (entry.seconds + line.shift_s)), round(1e6 * max(0.0, until_s - entry.seconds))
            named = numbers.setdefault(name, len(numbers))
            row = [rank, KINDS.index(kind), named, depth, began, length, entry.call_id, entry.chunk, entry.op]
            age = -1 if entry.text in START_PHASES else entry.chunk
            made.append((age, [*row, int(entry.until_s is not None)]))
    names += numbers
    if len(made) <= most:
        return [row for _, row in made], 0
    always = [row for age, row in made if age < FIRST_CHUNKS]
    later = sorted((age, number) for number, (age, _) in enumerate(made) if age >= FIRST_CHUNKS)
    kept = {number for _, number in later[-max(0, most - len(always)) :]}
    rows = [row for number, (age, row) in enumerate(made) if age < FIRST_CHUNKS or number in kept]
    return rows[:most], len(made) - len(rows[:most])


def _pictures(run_dir: Path) -> dict[int, str]:
    found = {}
    for path in sorted(run_dir.glob("chunk-*.jpg")):
        number = path.stem.removeprefix("chunk-")
        if number.isdecimal():
            found[int(number)] = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    return found


def _json(path: Path) -> Json:
    """What a file holds; nothing where it is missing or damaged."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
