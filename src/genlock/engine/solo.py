"""One rank that is both stage 0 and the mesh: its own generator, asked directly.

F latent frames, C, h, w latent channels, rows, columns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlock.engine.job import Job
from genlock.engine.profile import Profiled
from genlock.errors import GenlockError, NotFinite
from genlock.generator.checkpoint import load_generator
from genlock.generator.compiled import compile_blocks, graphs_whole
from genlock.generator.model import Generator
from genlock.generator.parallel import SOLO, TensorParallel
from genlock.generator.stream import OnCall, Stream
from genlock.observe.log import JsonLog
from genlock.observe.process import age_s
from genlock.observe.rank_file import Moment, RankFile
from genlock.observe.recorder import Recorder, recorder_path
from genlock.observe.trace import SpanOf, Trace, unmeasured
from genlock.settings import Phase, Settings, profiled
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.lifecycle import State
from genlock.wire.prepare import Prepared


class Alone:
    """Generates with this process's stream. strict: looks for NaN and infinity, which waits for the device. rank_file:
    of this process; None for one that is not written."""

    def __init__(self, stream: Stream, *, strict: bool = True, rank_file: RankFile | None = None) -> None:
        self.stream, self._strict = stream, strict
        self.rank_file = rank_file or RankFile(None, Trace(), rank=0, about={})
        self.notes: tuple[str, ...] = ()

    def make(
        self,
        prepared: Prepared[Envelope],
        envelope: Envelope,
        on_call: OnCall | None = None,
        *,
        travels: Prepared[Events] | None = None,  # noqa: ARG002 - there is nobody to send it to
    ) -> Tensor:
        """Latents [F, C, h, w]. Raises NotFinite, and as `Stream.run`."""
        header, trace = prepared.header, self.rank_file.trace
        trace.phase(Phase.CALL, call_id=header.call_id, chunk=header.chunk_index)
        with graphs_whole(self.stream.generator.census):
            latents = self.stream.run(envelope, on_call)
        if self._strict:
            check_finite(latents, header.chunk_index)
        trace.phase(Phase.DELIVER)
        return latents

    @property
    def ranks(self) -> dict[int, dict[str, Any]]:
        return {0: self.rank_file.values()}

    def ready(self) -> None:
        self.end_round()
        self.rank_file.write(Moment.READY)

    def begin_round(self) -> None:
        self.rank_file.trace.phase(Phase.DELIVER)

    def end_round(self) -> None:
        self.rank_file.trace.phase(Phase.IDLE)

    @property
    def drain_asked(self) -> bool:
        return False

    def close(self, sender: State, error: BaseException | None = None) -> None:  # noqa: ARG002 - nobody is told
        """The end of this process's part."""
        if isinstance(error, GenlockError):
            self.rank_file.trace.failed(error.code, error.what, error.remedy, names=error.rank)
        self.rank_file.trace.phase(Phase.EXIT)
        self.rank_file.write(Moment.EXIT)
        self.rank_file.trace.close()


def begin_trace(settings: Settings, rank: int, run_dir: Path | None) -> Trace:
    """This process's trace, its launch the first phase of it, and whoever is to hear of it by these settings. run_dir:
    where it is recorded, None for nowhere. Raises InputOutputError, UsageError."""
    trace = Trace(None if run_dir is None else Recorder(recorder_path(run_dir, rank)))
    if settings.log_format == "json":
        JsonLog(trace, sys.stderr, rank=rank)
    chunks = profiled(settings)
    if chunks is not None and run_dir is not None:
        Profiled(trace, run_dir, rank=rank, chunks=chunks)
    trace.phase(Phase.LAUNCH, began_s=trace.clock() - age_s())
    return trace


def device_memory(device: torch.device) -> dict[str, int]:
    """Bytes on a CUDA device, by kind; nothing for any other device."""
    if device.type != "cuda":
        return {}
    return {
        "cuda_allocated": torch.cuda.memory_allocated(device),
        "cuda_reserved": torch.cuda.memory_reserved(device),
        "cuda_reserved_peak": torch.cuda.max_memory_reserved(device),
    }


def load_stream(
    job: Job,
    parallel: TensorParallel = SOLO,
    *,
    bytes_read: dict[str, int] | None = None,
    watch_slots: bool = False,
    span_of: SpanOf = unmeasured,
) -> Stream:
    """A job's generator, this rank's shard of it, and an empty cache. Arguments, errors: `load_generator`, `Stream`."""
    with torch.device("meta"):
        generator = Generator(job.config, parallel)
    state = load_generator(
        job.weights, job.config, dtype=job.dtype, device=str(job.device), parallel=parallel, bytes_read=bytes_read
    )
    generator.load_state_dict(state, strict=True, assign=True)
    rows, columns = job.latent_size
    frozen = generator.eval().requires_grad_(requires_grad=False)
    if job.compile != "off":
        compile_blocks(frozen, job.compile)
    return Stream(
        frozen, job.policy, latent_height=rows, latent_width=columns, watch_slots=watch_slots, span_of=span_of
    )


def check_finite(latents: Tensor, chunk: int) -> None:
    if not bool(torch.isfinite(latents).all()):
        raise NotFinite("the generator's latents are not finite", field="latents", chunk_index=chunk)
