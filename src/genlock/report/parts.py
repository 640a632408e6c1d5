"""Where the time of each chunk went, and which arithmetic of a period that fits. Pure: spans in, milliseconds out.

A chunk's period is from the moment the chunk before it was handed on to the moment it was itself. Within it each
instant belongs to the innermost span that is open then on rank 0; what belongs to none is `other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from genlock.observe.recorder import MARK, PHASE, SPAN, Entry
from genlock.observe.trace import (
    ABSORB,
    CHECKS,
    DELIVERED,
    FETCH,
    GENERATE,
    MP4,
    PACK,
    PICTURE,
    PLAN,
    TEXT_ENCODE,
    VAE_DECODE,
    VAE_ENCODE,
)
from genlock.settings import Phase

WARM_CHUNKS = 2  # the first chunk is shorter and the second is the first with a context: neither is the steady state
OTHER = "other"
# Parts of a period, in the order of a chunk, and the spans that each is made of.
PARTS: Mapping[str, tuple[str, ...]] = {
    "plan": (PLAN, PACK, ABSORB, TEXT_ENCODE),
    "encode": (VAE_ENCODE,),
    "hand out": (Phase.ACCEPT, Phase.PAYLOAD),
    "recompute": ("recompute", "recache"),
    "denoise": ("denoise", "cache_write", "text"),
    "generate, rest": (GENERATE,),
    "checks": (CHECKS, Phase.VERDICT),
    "decode": (VAE_DECODE,),
    "write": (FETCH, PICTURE, MP4),
}
# What else is drawn, in the colour of one of these parts or in its own; of a start's steps in their order.
START = {
    Phase.LAUNCH: OTHER,
    Phase.GATE_1: "gate 1",
    Phase.RENDEZVOUS: "checks",
    Phase.LOAD: "plan",
    Phase.GATE_2A: "gate 2a",
    Phase.WARM_UP: "encode",
    Phase.GATE_2B: "gate 2b",
    Phase.LOAD_MEDIA: "load media",
}
PHASES = {Phase.CALL: "denoise", Phase.DELIVER: "decode", Phase.IDLE: "idle"}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
GENERATION = ("hand out", "recompute", "denoise", "generate, rest", "checks")  # what stands between two of stage 0's
INSIDE = (Phase.ACCEPT, Phase.PAYLOAD, Phase.VERDICT)  # phases within a generation that count as spans of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTime:
    """One delivered chunk. done_s: when it was handed on. frames: pixel frames. period_ms: since the one before it,
    None for the first. parts: milliseconds by part, `other` among them."""

    chunk: int
    done_s: float
    frames: int
    period_ms: float | None
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One way to add up a period. says_ms: by the medians of the parts. off: measured over that, less 1."""

    formula: str
    meaning: str
    says_ms: float
    off: float


def chunk_times(entries: Sequence[Entry]) -> list[ChunkTime]:
    """entries: rank 0's notes, oldest first."""
    done = [entry for entry in entries if entry.kind == MARK and entry.text == DELIVERED]
    spans = [e for e in entries if e.until_s is not None and (e.kind == SPAN or (e.kind == PHASE and e.text in INSIDE))]
    pieces = sorted(own_time(spans))
    made: list[ChunkTime] = []
    at = 0
    for before, entry in zip([None, *done], done, strict=False):
        parts: dict[str, float] = {}
        if before is not None:
            while at < len(pieces) and pieces[at][1] <= before.seconds:
                at += 1
            for began_s, until_s, name in pieces[at:]:
                if began_s >= entry.seconds:
                    break
                part = PART_OF.get(name, OTHER)
                length_s = min(until_s, entry.seconds) - max(began_s, before.seconds)
                parts[part] = parts.get(part, 0.0) + 1e3 * max(0.0, length_s)
        period_ms = None if before is None else 1e3 * (entry.seconds - before.seconds)
        if period_ms is not None:
            parts[OTHER] = parts.get(OTHER, 0.0) + max(0.0, period_ms - sum(parts.values()))
        made.append(
            ChunkTime(chunk=entry.chunk, done_s=entry.seconds, frames=entry.op, period_ms=period_ms, parts=parts)
        )
    return made


def own_time(spans: Iterable[Entry]) -> list[tuple[float, float, str]]:
    """(began, until, name) of every stretch in which a span is the innermost one. Spans lie inside each other or apart;
    where a clock's grain makes two of them overlap, the later one is taken to be inside."""
    made: list[tuple[float, float, str]] = []
    open_: list[tuple[float, str]] = []  # until, name
    now_s = 0.0

    def close_before(moment_s: float) -> None:
        nonlocal now_s
        while open_ and open_[-1][0] <= moment_s:
            until_s, name = open_.pop()
            if until_s > now_s:
                made.append((now_s, until_s, name))
                now_s = until_s

    for span in sorted(spans, key=lambda each: (each.seconds, -(each.until_s or 0.0))):
        close_before(span.seconds)
        if open_ and span.seconds > now_s:
            made.append((now_s, span.seconds, open_[-1][1]))
        now_s = max(now_s, span.seconds)
        open_.append((span.until_s or span.seconds, span.text))
    close_before(float("inf"))
    return made


def steady(chunks: Sequence[ChunkTime]) -> list[ChunkTime]:
    """Those past the first two, where there are any; else what has a period."""
    timed = [chunk for chunk in chunks if chunk.period_ms is not None]
    return [chunk for chunk in timed if chunk.chunk >= WARM_CHUNKS] or timed


def median_parts(chunks: Sequence[ChunkTime]) -> dict[str, float]:
    """Median milliseconds of each part over the steady chunks, in the order of a chunk."""
    counted = steady(chunks)
    if not counted:
        return {}
    return {part: median(chunk.parts.get(part, 0.0) for chunk in counted) for part in (*PARTS, OTHER)}


def fits(chunks: Sequence[ChunkTime]) -> list[Fit]:
    """Ways to add up the median period, the closest first; none without a steady chunk."""
    parts, counted = median_parts(chunks), steady(chunks)
    if not counted:
        return []
    generation = sum(parts[part] for part in GENERATION)
    before, after = parts["plan"] + parts["encode"], parts["decode"] + parts["write"]
    measured = median(chunk.period_ms or 0.0 for chunk in counted)
    ways = [
        ("G + V + E", "one after the other: nothing hides", generation + after + before),
        ("max(G + E, V)", "decoding hides behind the next generation", max(generation + before, after)),
        ("max(G, V + E)", "all of stage 0 hides behind the generation", max(generation, after + before)),
    ]
    made = [
        Fit(formula=formula, meaning=meaning, says_ms=says, off=measured / says - 1 if says else 0.0)
        for formula, meaning, says in ways
    ]
    return sorted(made, key=lambda fit: abs(fit.off))
