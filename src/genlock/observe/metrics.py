"""Figures of a running stream for Prometheus: counted from this rank's spans, served on this machine alone.

Every metric there is stands in `METRICS`, which the reference page is made from; all come of the trace
(`observe/trace.py`), of what the ranks said when they started, and of what the system counts. No torch.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily

from genlock.errors import UsageError
from genlock.observe.process import memory_bytes
from genlock.observe.recorder import MARK, PHASE, SPAN
from genlock.observe.trace import (
    CHECKS,
    DELIVERED,
    FETCH,
    GENERATE,
    MP4,
    PACK,
    PLAN,
    SHOWN,
    VAE_DECODE,
    VAE_ENCODE,
    Failure,
    Span,
    Trace,
)
from genlock.settings import Phase

HOST = "127.0.0.1"
PREFIX = "genlock_"
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
OVERLAP_CHUNKS = 32  # the median is of so many
CALLS = ("recompute", "recache", "denoise", "cache_write")
OF_A_CHUNK = (PLAN, PACK, VAE_ENCODE, GENERATE, CHECKS, VAE_DECODE, FETCH, MP4)
PHASES_OF_A_CHUNK = (Phase.ACCEPT, Phase.PAYLOAD, Phase.CALL, Phase.VERDICT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. kind: counter, histogram or gauge. doc: what it counts, and its unit."""

    name: str
    kind: str
    doc: str
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """As a query names it; of a histogram, what its three series begin with."""
        return PREFIX + self.name


METRICS = (
    Metric(
        name="chunk_seconds",
        kind="histogram",
        labels=("phase",),
        doc="what a chunk spends in each phase and span, on the host's clock, seconds",
    ),
    Metric(name="chunk_period_seconds", kind="histogram", doc="from one chunk handed on to the next, seconds"),
    Metric(name="frames_delivered_total", kind="counter", doc="pixel frames handed on"),
    Metric(
        name="deadline_misses_total",
        kind="counter",
        doc="chunks whose period was longer than they play: a viewer waits",
    ),
    Metric(
        name="prompt_latency_seconds",
        kind="histogram",
        doc="from a request, or from the moment the stream came to its time, to the first frames that show it, seconds",
    ),
    Metric(
        name="mesh_idle_seconds",
        kind="histogram",
        doc="from the end of one generation to the beginning of the next: the generator waits for stage 0, seconds",
    ),
    Metric(
        name="overlap_score",
        kind="gauge",
        doc="share of the shorter stage that the other hides, median of the last 32 chunks; 0: nothing hides",
    ),
    Metric(name="generator_calls_total", kind="counter", labels=("kind",), doc="generator calls of this rank"),
    Metric(name="encoder_seconds", kind="histogram", doc="encoding and writing a chunk's frames as video, seconds"),
    Metric(
        name="tripwires_total",
        kind="counter",
        labels=("code", "rank"),
        doc="failures by error code and by the rank that is held responsible (-1: nobody)",
    ),
    Metric(
        name="rank_memory_bytes",
        kind="gauge",
        labels=("rank", "kind"),
        doc="memory of this rank now; of another as it said at its start, bytes",
    ),
    Metric(
        name="rank_ready_seconds",
        kind="gauge",
        labels=("rank", "phase"),
        doc="what each rank's start took, by phase, seconds",
    ),
)
_DESCRIBED = {metric.name: metric for metric in METRICS}
_MEMORY = _DESCRIBED["rank_memory_bytes"]


class Metrics:
    """The figures of one stream: of none until it is told which one to `watch`."""

    host = HOST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {name: self._made(metric) for name, metric in _DESCRIBED.items() if metric is not _MEMORY}
        self._series: dict[str, Any] = made
        self._rank, self._fps = -1, 0.0
        self._said: dict[int, Mapping[str, int]] = {}  # memory, as other ranks said
        self._delivered_s = self._generated_s = 0.0  # when the last chunk was, 0 for not yet
        self._stage: dict[int, float] = {}  # seconds of this chunk: 0 is stage 0's, 1 the generator's
        self._hidden: deque[float] = deque(maxlen=OVERLAP_CHUNKS)
        self.registry.register(_Memory(self))
        for kind in CALLS:
            made["generator_calls_total"].labels(kind=kind)

    def watch(self, trace: Trace, ranks: Mapping[int, Mapping[str, Any]], *, rank: int, fps: float) -> None:
        """Counts what this rank does from now on. ranks: what every rank's start took and what it held then, as an
        account says it (`observe/rank_file.py`). fps: pixel frames a second that the video plays at."""
        self._rank, self._fps = rank, fps
        for rank, held in ranks.items():
            for phase, seconds in held.get("start_s", {}).items():
                self._series["rank_ready_seconds"].labels(rank=rank, phase=phase).set(seconds)
            if rank != self._rank:
                self._said[rank] = dict(held.get("memory_bytes", {}).get("ready", {}))
        trace.listeners.append(self.heard)
        trace.mourners.append(self.failed)

    def memory(self) -> dict[int, Mapping[str, int]]:
        """Bytes by rank and kind."""
        return {**self._said, **({self._rank: memory_bytes()} if self._rank >= 0 else {})}

    def heard(self, span: Span) -> None:
        """A span has ended; those of a start or a warm-up are no chunk's."""
        if span.chunk < 0:
            return
        if (span.kind == SPAN and span.name in OF_A_CHUNK) or (span.kind == PHASE and span.name in PHASES_OF_A_CHUNK):
            self._series["chunk_seconds"].labels(phase=span.name).observe(span.seconds)
        if span.kind == SPAN:
            self._heard_span(span)
        elif span.kind == MARK and span.name == SHOWN:
            self._series["prompt_latency_seconds"].observe(span.seconds)
        elif span.kind == MARK and span.name == DELIVERED:
            self._heard_delivered(span)

    def failed(self, failure: Failure) -> None:
        rank = -1 if failure.names is None else failure.names
        self._series["tripwires_total"].labels(code=failure.code, rank=rank).inc()

    def serve(self, port: int) -> int:
        """Answers on this machine's own address from now on, 0 takes any free port; the port. Raises UsageError."""
        try:
            server, _ = start_http_server(port, addr=HOST, registry=self.registry)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise UsageError(
                f"port {port} {'is in use' if taken else 'cannot be had'}",
                where="--metrics-port",
                remedy="give another, or 0 for any that is free",
            ) from None
        return int(server.server_port)

    def _heard_span(self, span: Span) -> None:
        if span.name in CALLS:
            self._series["generator_calls_total"].labels(kind=span.name).inc()
        if span.name == MP4:
            self._series["encoder_seconds"].observe(span.seconds)
        if span.name == GENERATE:
            if self._generated_s:
                self._series["mesh_idle_seconds"].observe(max(0.0, span.began_s - self._generated_s))
            self._generated_s = span.began_s + span.seconds
        if span.name in (PLAN, PACK, VAE_DECODE, FETCH, MP4, GENERATE):  # what is encoded is part of the plan
            stage = int(span.name == GENERATE)
            self._stage[stage] = self._stage.get(stage, 0.0) + span.seconds

    def _heard_delivered(self, span: Span) -> None:
        self._series["frames_delivered_total"].inc(span.number)
        if self._delivered_s:
            period_s = span.began_s - self._delivered_s
            self._series["chunk_period_seconds"].observe(period_s)
            if period_s > span.number / self._fps:
                self._series["deadline_misses_total"].inc()
            shorter, both = min(self._stage.get(0, 0.0), self._stage.get(1, 0.0)), sum(self._stage.values())
            if shorter:
                self._hidden.append(max(0.0, both - period_s) / shorter)
                self._series["overlap_score"].set(median(self._hidden))
        self._delivered_s, self._stage = span.began_s, {}

    def _made(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.kind == "histogram":
            return Histogram(metric.exposed, metric.doc, metric.labels, registry=self.registry, buckets=BUCKETS_S)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.exposed, metric.doc, metric.labels, registry=self.registry)


class _Memory:
    """Memory is looked up when it is asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(_MEMORY.exposed, _MEMORY.doc, labels=_MEMORY.labels)
        for rank, held in self._metrics.memory().items():
            for kind, count in held.items():
                family.add_metric([str(rank), kind], count)
        yield family
