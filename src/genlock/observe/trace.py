"""What one rank spends its time on, as spans: the one source of the trace, the report, the metrics and the counts.

A span has a name, a beginning, an end and the ids of the frame it is about; the phases of a rank are spans that follow
each other, and what is done within a phase are spans inside it. Each is written to the rank's flight recorder if there
is one (`observe/recorder.py`), added to the totals by name, and told to whoever listens. Times are of the host's
monotonic clock and of the host's side: on an accelerator a span covers the launch of work that goes on after it.
One thread. No torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

from genlock.observe.recorder import MARK, PHASE, SPAN, Open, Recorder
from genlock.settings import START_PHASES, Phase

# Names of spans beside the phases and the kinds of generator calls. Of rank 0:
PLAN, PACK, GENERATE, ABSORB = "plan", "pack", "generate", "absorb"
FETCH, PICTURE, MP4 = "fetch", "picture", "mp4"
# of the encoders, on whichever rank has them; and of the checks after the last generator call:
TEXT_ENCODE, VAE_ENCODE, VAE_DECODE, CHECKS = "text encode", "vae encode", "vae decode", "checks"
# Beside what goes on: pixel frames are handed on (their number), a request is on the screen (its number, since it was
# made or came due).
DELIVERED, SHOWN = "delivered", "prompt shown"

SpanOf = Callable[[str], AbstractContextManager[None]]  # gives a context: what is inside it is a span of that name


def unmeasured(_: str) -> AbstractContextManager[None]:
    """A SpanOf that nobody listens to."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One that has ended. kind: PHASE, SPAN or MARK. began_s: of the monotonic clock. number: of a mark, what it
    counts; of a phase, collectives made in this chunk before it. -1: no such number."""

    name: str
    kind: str
    began_s: float
    seconds: float
    call_id: int
    chunk: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What ended a rank, as it tells it. names: the rank it holds responsible. call_id, chunk: -1 for none."""

    code: str
    text: str
    remedy: str
    names: int | None
    call_id: int
    chunk: int


@dataclass(slots=True)
class Total:
    """All spans of one name."""

    count: int = 0
    seconds: float = 0.0


class Trace:
    """Spans of this process. recorder: where they are written, None for nowhere."""

    def __init__(self, recorder: Recorder | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.recorder, self.clock = recorder, clock
        self.listeners: list[Callable[[Span], None]] = []
        self.mourners: list[Callable[[Failure], None]] = []  # told how this rank failed, before it ends
        self.totals: dict[str, Total] = {}  # of spans
        self.phases: dict[Phase, Total] = {}
        self.call_id = self.chunk = -1
        self._phase: _Running | None = None

    def at(self, *, call_id: int, chunk: int) -> None:
        """Spans from here on are about this frame."""
        self.call_id, self.chunk = call_id, chunk

    def phase(
        self, phase: Phase, *, call_id: int = -1, chunk: int = -1, op: int = -1, began_s: float | None = None
    ) -> None:
        """The phase before it ends, this one begins; without ids outside the start it is about the frame before it.
        op: collectives made in this chunk. began_s: of the first phase, which began before anybody could say so."""
        now_s = self.clock()
        if (call_id, chunk) != (-1, -1) or phase in START_PHASES:
            self.at(call_id=call_id, chunk=chunk)
        self.close(now_s)
        self._phase = _Running(self, phase, PHASE, op)
        self._phase.begin(now_s if began_s is None else began_s)

    def span(self, name: str) -> _Running:
        """A context manager: what is inside it is one span."""
        return _Running(self, name, SPAN)

    def mark(self, name: str, *, began_s: float, until_s: float, number: int) -> None:
        """Something beside what goes on, which is over."""
        made = _Running(self, name, MARK, number)
        made.begin(began_s)
        made.end(until_s)

    def failed(self, code: str, text: str, remedy: str, *, names: int | None) -> None:
        """This rank has failed, in the frame it is at."""
        failure = Failure(code=code, text=text, remedy=remedy, names=names, call_id=self.call_id, chunk=self.chunk)
        for mourner in self.mourners:
            mourner(failure)

    def close(self, now_s: float | None = None) -> None:
        """The phase that goes on is over."""
        if self._phase is not None:
            self._phase.end(self.clock() if now_s is None else now_s)
            self._phase = None

    def count(self, name: str) -> int:
        """Spans of that name so far."""
        return self.totals[name].count if name in self.totals else 0


class _Running:
    """A span that goes on: entered and left as a context, or by its two methods."""

    __slots__ = ("began_s", "call_id", "chunk", "kind", "name", "op", "open", "trace")

    def __init__(self, trace: Trace, name: str, kind: str, op: int = -1) -> None:
        self.trace, self.name, self.kind, self.op = trace, name, kind, op
        self.call_id, self.chunk = trace.call_id, trace.chunk
        self.began_s = 0.0
        self.open: Open | None = None

    def begin(self, began_s: float) -> None:
        self.began_s = began_s
        if self.trace.recorder is not None:
            self.open = self.trace.recorder.begin(
                self.kind, began_s=began_s, call_id=self.call_id, chunk=self.chunk, op=self.op, text=self.name
            )

    def end(self, until_s: float) -> None:
        trace, seconds = self.trace, until_s - self.began_s
        if self.open is not None and trace.recorder is not None:
            trace.recorder.end(self.open, until_s)
        if self.kind != MARK:
            total = _total(trace, self)
            total.count += 1
            total.seconds += seconds
        if trace.listeners:
            span = Span(
                name=self.name,
                kind=self.kind,
                began_s=self.began_s,
                seconds=seconds,
                call_id=self.call_id,
                chunk=self.chunk,
                number=self.op,
            )
            for listener in trace.listeners:
                listener(span)

    def __enter__(self) -> None:
        self.begin(self.trace.clock())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(self.trace.clock())


def _total(trace: Trace, span: _Running) -> Total:
    if span.kind == PHASE:
        return trace.phases.setdefault(Phase(span.name), Total())
    return trace.totals.setdefault(span.name, Total())
