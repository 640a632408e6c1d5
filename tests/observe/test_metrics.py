"""Metrics and the log of events, from spans made up: each counts what it says, and both are fed by the trace alone."""

from __future__ import annotations

import io
import json
import urllib.request

import pytest

from genlock.errors import UsageError
from genlock.observe.log import JsonLog
from genlock.observe.metrics import METRICS, Metrics
from genlock.observe.trace import DELIVERED, GENERATE, MP4, PLAN, SHOWN, VAE_DECODE, Trace
from genlock.settings import Phase


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def chunk(trace: Trace, clock: Clock, number: int, *, frames: int, generate_s: float, decode_s: float) -> None:
    trace.phase(Phase.CALL, call_id=number + 3, chunk=number)
    for name, seconds in ((PLAN, 0.1), (GENERATE, generate_s), (VAE_DECODE, decode_s), (MP4, 0.05)):
        with trace.span(name):
            if name == GENERATE:
                with trace.span("denoise"):
                    clock.now_s += seconds
            else:
                clock.now_s += seconds
    trace.mark(DELIVERED, began_s=clock.now_s, until_s=clock.now_s, number=frames)
    trace.phase(Phase.IDLE)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"genlock_{name}", labels)


def test_the_figures_are_those_of_the_trace() -> None:
    clock, metrics = Clock(), Metrics()
    trace = Trace(clock=clock)
    account = {"start_s": {"load": 2.5}, "memory_bytes": {"ready": {"rss": 7_000_000}}}
    metrics.watch(trace, {0: account, 1: account}, rank=0, fps=16.0)
    trace.phase(Phase.WARM_UP)
    with trace.span("denoise"):  # no chunk's: not counted
        clock.now_s += 1
    chunk(trace, clock, 0, frames=9, generate_s=0.3, decode_s=0.2)
    trace.mark(SHOWN, began_s=clock.now_s - 0.4, until_s=clock.now_s, number=0)
    chunk(trace, clock, 1, frames=12, generate_s=0.3, decode_s=0.2)  # 650 ms, and plays for 750
    chunk(trace, clock, 2, frames=12, generate_s=0.6, decode_s=0.2)  # 950 ms
    trace.failed("GL-NAN-01", "not finite", "look", names=1)
    assert value(metrics, "frames_delivered_total") == 33
    assert value(metrics, "chunk_period_seconds_count") == 2
    assert value(metrics, "chunk_period_seconds_sum") == pytest.approx(0.65 + 0.95)
    assert value(metrics, "deadline_misses_total") == 1
    assert value(metrics, "mesh_idle_seconds_sum") == pytest.approx(2 * (0.2 + 0.05 + 0.1))
    assert value(metrics, "prompt_latency_seconds_sum") == pytest.approx(0.4)
    assert value(metrics, "generator_calls_total", kind="denoise") == 3
    assert value(metrics, "generator_calls_total", kind="recache") == 0
    assert value(metrics, "encoder_seconds_count") == 3
    assert value(metrics, "chunk_seconds_sum", phase="vae decode") == pytest.approx(0.6)
    assert value(metrics, "chunk_seconds_count", phase="generator call") == 3
    assert value(metrics, "overlap_score") == pytest.approx(0, abs=1e-9)
    assert value(metrics, "tripwires_total", code="GL-NAN-01", rank="1") == 1
    assert value(metrics, "rank_ready_seconds", rank="1", phase="load") == 2.5
    assert value(metrics, "rank_memory_bytes", rank="1", kind="rss") == 7_000_000
    assert (value(metrics, "rank_memory_bytes", rank="0", kind="rss") or 0) > 7_000_000, "its own is looked up"


def test_every_metric_is_described_and_no_other_is_there() -> None:
    metrics = Metrics()
    families = {family.name for family in metrics.registry.collect()}
    assert families == {metric.exposed.removesuffix("_total") for metric in METRICS}


def test_metrics_are_served_on_this_machine_and_a_port_that_is_taken_is_one_line() -> None:
    metrics = Metrics()
    port = metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"genlock_frames_delivered_total 0.0" in answer.read()
    with pytest.raises(UsageError, match=f"--metrics-port: port {port} is in use; give another, or 0"):
        Metrics().serve(port)


def test_the_log_has_a_line_an_event_with_its_ids() -> None:
    clock, written = Clock(), io.StringIO()
    trace = Trace(clock=clock)
    JsonLog(trace, written, rank=0, clock=lambda: 1_795_000_000.5)
    for phase in (Phase.LOAD, Phase.WARM_UP, Phase.WARM_UP):
        trace.phase(phase)
        clock.now_s += 1
    chunk(trace, clock, 0, frames=9, generate_s=0.3, decode_s=0.2)
    trace.mark(SHOWN, began_s=clock.now_s - 0.4, until_s=clock.now_s, number=5)
    trace.failed("GL-NAN-01", "not finite", "look", names=None)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["event"], line["rank"], line["call_id"], line["chunk"]) for line in lines] == [
        ("started", 0, -1, -1),
        ("started", 0, -1, -1),
        ("delivered", 0, 3, 0),
        ("shown", 0, 3, 0),
        ("failed", 0, 3, 0),
    ]
    assert [(line["phase"], line["seconds"]) for line in lines[:2]] == [("load", 1.0), ("warm-up", 2.0)]
    assert lines[2]["ms"] == {"plan": 100.0, "denoise": 300.0, "generate": 300.0, "vae decode": 200.0, "mp4": 50.0}
    assert (lines[3]["request"], lines[4]["code"]) == (5, "GL-NAN-01")
    assert {line["time"] for line in lines} == {"2026-11-18T11:06:40.500Z"}
    written.close()
    trace.failed("GL-NAN-01", "nobody reads any more", "", names=None)
