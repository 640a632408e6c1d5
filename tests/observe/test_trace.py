"""The trace of a rank: phases follow each other, spans lie inside them, and whoever listens hears each one once."""

from __future__ import annotations

import pytest

from genlock.observe.trace import Span, Trace
from genlock.settings import Phase


def test_phases_follow_each_other_and_spans_are_counted_by_name() -> None:
    moments = iter(float(second) for second in range(100))
    trace = Trace(clock=lambda: next(moments))
    heard: list[Span] = []
    trace.listeners.append(heard.append)
    trace.phase(Phase.LAUNCH, began_s=-2.0)  # at 0
    trace.phase(Phase.CALL, call_id=4, chunk=2)  # at 1
    with trace.span("denoise"):  # from 2 to 3
        pass
    with trace.span("denoise"):  # from 4 to 5
        trace.at(call_id=5, chunk=3)  # a span is about what it began with
    trace.phase(Phase.IDLE)  # at 6, without ids: about the frame before it
    trace.close()  # at 7
    trace.close()
    assert [(span.name, span.kind, span.seconds, span.call_id, span.chunk) for span in heard] == [
        ("launch", "phase", 3.0, -1, -1),
        ("denoise", "span", 1.0, 4, 2),
        ("denoise", "span", 1.0, 4, 2),
        ("generator call", "phase", 5.0, 4, 2),
        ("idle", "phase", 1.0, 5, 3),
    ]
    assert (trace.count("denoise"), trace.totals["denoise"].seconds, trace.count("nothing")) == (2, 2.0, 0)
    assert {phase: total.seconds for phase, total in trace.phases.items()} == {
        "launch": 3,
        "generator call": 5,
        "idle": 1,
    }


def test_a_span_that_fails_has_an_end_too() -> None:
    trace = Trace()
    with pytest.raises(ValueError, match="told"), trace.span("plan"):
        raise ValueError("told")
    assert trace.count("plan") == 1
