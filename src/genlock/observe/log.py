"""What happens in a run as lines of JSON, one an event, each with its rank, call and chunk.

    {"time": "2026-11-25T22:10:40.123Z", "event": "delivered", "rank": 0, "call_id": 9, "chunk": 6, "frames": 12, ...}

Events: `started` (a phase of the start is over), `generated` (a rank has made its share of a chunk), `delivered` (rank
0 has handed a chunk on), `shown` (a request is on the screen), `failed`. No prompt is ever in a line. No torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from genlock.observe.recorder import MARK, PHASE, SPAN
from genlock.observe.trace import DELIVERED, SHOWN, Failure, Span, Trace
from genlock.settings import START_PHASES, Phase

NO_IDS = {"call_id": -1, "chunk": -1}


def time_of_day_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


class JsonLog:
    """Writes a rank's events to `stream`, from its trace. clock: seconds since 1970."""

    def __init__(self, trace: Trace, stream: TextIO, *, rank: int, clock: Callable[[], float] = time_of_day_s) -> None:
        self._stream, self._rank, self._clock = stream, rank, clock
        self._spent: dict[str, float] = {}  # milliseconds of this chunk, by span
        self._starting = ("", 0.0)  # a phase of the start, and its seconds so far
        trace.listeners.append(self.heard)
        trace.mourners.append(self.failed)

    def heard(self, span: Span) -> None:
        if span.name not in START_PHASES and not (span.kind == SPAN and span.chunk < 0):
            self._say_started()  # the start is over
        ids = {"call_id": span.call_id, "chunk": span.chunk}
        if span.kind == SPAN:
            self._spent[span.name] = self._spent.get(span.name, 0.0) + 1e3 * span.seconds
        elif span.kind == PHASE and span.name in START_PHASES:
            if span.name != self._starting[0]:
                self._say_started()
            self._starting, self._spent = (span.name, self._starting[1] + span.seconds), {}
        elif span.kind == PHASE and span.name == Phase.VERDICT and self._rank > 0 and self._spent:
            self._say("generated", ids, ms=self._taken())
        elif span.kind == MARK and span.name == SHOWN:
            self._say("shown", ids, request=span.number, seconds=round(span.seconds, 3))
        elif span.kind == MARK and span.name == DELIVERED:
            self._say("delivered", ids, frames=span.number, ms=self._taken())

    def failed(self, failure: Failure) -> None:
        ids = {"call_id": failure.call_id, "chunk": failure.chunk}
        self._say("failed", ids, code=failure.code, names=failure.names, text=failure.text, remedy=failure.remedy)

    def _say_started(self) -> None:
        """The phase of the start that is over; what is entered again and again is one."""
        phase, seconds = self._starting
        self._starting = ("", 0.0)
        if phase:
            self._say("started", NO_IDS, phase=phase, seconds=round(seconds, 3))

    def _taken(self) -> dict[str, float]:
        taken = {name: round(ms, 1) for name, ms in self._spent.items()}
        self._spent = {}
        return taken

    def _say(self, event: str, ids: dict[str, int], **more: Any) -> None:
        moment = datetime.fromtimestamp(self._clock(), tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": moment, "event": event, "rank": self._rank, **ids, **more}, ensure_ascii=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads any more: no reason to end a stream
