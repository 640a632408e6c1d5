"""Phase B of one chunk on a rank of a mesh: the plan's generator calls, and what the rank can say about itself after.

The same code on rank 0 and on the workers. A rank checks itself before it meets its peers again: calls, collectives,
finite latents. What it holds against a reference of its own (its inputs, weights, keys and values) is `Columns`.
Knows no connection: the verdict is handed back.

    F  latent frames     C, h, w  latent channels, rows, columns     n  bytes
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genlock.engine.columns import Columns
from genlock.engine.planted import plant
from genlock.engine.solo import check_finite
from genlock.fabric.collectives import Mesh
from genlock.generator.compiled import graphs_whole
from genlock.generator.stream import ChunkInputs, OnCall, Stream, announced_passes
from genlock.observe.trace import CHECKS
from genlock.settings import FaultKind, Guard
from genlock.wire.digest import tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.header import Header
from genlock.wire.verdict import Verdict


class PhaseB:
    """Runs accepted chunks of one stream. strict: looks for NaN and infinity, which waits for the device."""

    def __init__(self, stream: Stream, door: Mesh, columns: Columns, *, strict: bool = True) -> None:
        self.stream, self.door, self.columns, self._strict = stream, door, columns, strict
        self._last: tuple[Header, Tensor, Verdict] | None = None

    @torch.inference_mode()
    def leave_off(self, guards_off: frozenset[Guard]) -> None:
        """What is not held to from the next chunk on. For measuring what it costs: a run is told once, and by its
        settings."""
        self.door.leave_off(guards_off)
        self.columns.leave_off(guards_off)
        self.stream.watch_slots(Guard.KV not in guards_off)
        self._strict = Guard.FINITE not in guards_off

    @torch.inference_mode()
    def run(
        self,
        header: Header,
        envelope: Envelope,
        payload: Tensor,
        *,
        faults: tuple[FaultKind, ...] = (),
        on_call: OnCall | None = None,
    ) -> tuple[Tensor, Verdict]:
        """Latents [F, C, h, w] and this rank's verdict. payload: uint8 [n] in host memory, what `envelope` views.

        faults: planted on purpose for this chunk. Raises CallCount, CollectiveRefused, NotFinite, CacheRefused, and
        what a collective can fail with.
        """
        self.door.begin_chunk(announced_passes(envelope))
        inputs: ChunkInputs = envelope
        if faults:
            inputs, on_call = plant(faults, self.stream, envelope, on_call)
        with graphs_whole(self.stream.generator.census):
            latents = self.stream.run(inputs, on_call, slots_due=self.columns.due(header, Guard.KV))
        self.door.end_chunk()
        if self._strict:
            check_finite(latents, header.chunk_index)
        with self.stream.span_of(CHECKS):
            found = self.columns.finish(header, payload)
            outputs = tensor_digest(latents) if self.columns.due(header, Guard.OUTPUTS) else None
        verdict = Verdict(
            call_id=header.call_id,
            prepared=header.manifest_digest,
            observed_calls=self.stream.observed_calls,
            ledger=self.door.ledger,
            end_abs=self.stream.held.end_abs,
            end=self.stream.held.end,
            outputs=outputs,
            **found,
        )
        self._last = header, payload, verdict
        return latents, verdict

    def look(self) -> Verdict:
        """The last chunk's verdict once more, with all that this rank has a reference for looked at."""
        assert self._last is not None  # nobody looks again before the first look
        header, payload, verdict = self._last
        again = self.columns.finish(header, payload, everything=True)
        return replace(verdict, inputs=again["inputs"], weights=again["weights"])
