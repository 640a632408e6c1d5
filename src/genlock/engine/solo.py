"""One rank that is both stage 0 and the mesh: its own generator, asked directly.

F latent frames, C, h, w latent channels, rows, columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlock.engine.job import Job
from genlock.errors import NotFinite
from genlock.generator.checkpoint import load_generator
from genlock.generator.model import Generator
from genlock.generator.parallel import SOLO, TensorParallel
from genlock.generator.stream import OnCall, Stream
from genlock.wire.envelope import Envelope
from genlock.wire.lifecycle import State
from genlock.wire.prepare import Prepared


class Alone:
    """Generates with this process's stream. strict: looks for NaN and infinity, which waits for the device."""

    def __init__(self, stream: Stream, *, strict: bool = True) -> None:
        self.stream, self._strict = stream, strict
        self.notes: tuple[str, ...] = ()

    def make(self, prepared: Prepared[Envelope], envelope: Envelope, on_call: OnCall | None = None) -> Tensor:
        """Latents [F, C, h, w]. Raises NotFinite, and as `Stream.run`."""
        latents = self.stream.run(envelope, on_call)
        if self._strict:
            check_finite(latents, prepared.header.chunk_index)
        return latents

    def begin_round(self) -> None:
        """Nobody watches."""

    def end_round(self) -> None:
        """Nobody watches."""

    @property
    def drain_asked(self) -> bool:
        return False

    def close(self, sender: State, error: BaseException | None = None) -> None:
        """Nobody waits for anything."""


def load_stream(
    job: Job,
    parallel: TensorParallel = SOLO,
    *,
    bytes_read: dict[str, int] | None = None,
    watch_slots: bool = False,
) -> Stream:
    """A job's generator, this rank's shard of it, and an empty cache. Arguments, errors: `load_generator`."""
    with torch.device("meta"):
        generator = Generator(job.config, parallel)
    state = load_generator(
        job.weights, job.config, dtype=job.dtype, device=str(job.device), parallel=parallel, bytes_read=bytes_read
    )
    generator.load_state_dict(state, strict=True, assign=True)
    rows, columns = job.latent_size
    frozen = generator.eval().requires_grad_(requires_grad=False)
    return Stream(frozen, job.policy, latent_height=rows, latent_width=columns, watch_slots=watch_slots)


def check_finite(latents: Tensor, chunk: int) -> None:
    if not bool(torch.isfinite(latents).all()):
        raise NotFinite("the generator's latents are not finite", field="latents", chunk_index=chunk)
