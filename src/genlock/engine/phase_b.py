"""Phase B of one chunk on a rank of a mesh: the plan's generator calls, and what the rank can say about itself after.

The same code on rank 0 and on the workers. A rank checks itself before it meets its peers again: calls, collectives,
finite latents. What it holds against a reference of its own (its inputs, weights, keys and values) is `Columns`.
Knows no connection: the verdict is handed back.

    F  latent frames     C, h, w  latent channels, rows, columns     n  bytes
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from genlock.engine.columns import Columns
from genlock.engine.solo import check_finite
from genlock.fabric.collectives import Mesh
from genlock.generator.stream import ChunkInputs, OnCall, Stream, announced_passes
from genlock.settings import FaultKind
from genlock.wire.digest import tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.header import Header
from genlock.wire.verdict import Verdict


class PhaseB:
    """Runs accepted chunks of one stream. check_every: chunks between two output digests, which read the latents."""

    def __init__(self, stream: Stream, door: Mesh, columns: Columns, *, check_every: int) -> None:
        self.stream, self.door, self.columns, self._check_every = stream, door, columns, check_every

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
        self.columns.begin(payload, faults)
        self.door.begin_chunk(announced_passes(envelope))
        latents = self.stream.run(_planted(envelope, faults), on_call)
        self.door.end_chunk()
        check_finite(latents, header.chunk_index)
        found = self.columns.finish(header, payload)
        due = header.chunk_index % self._check_every == 0
        return latents, Verdict(
            call_id=header.call_id,
            observed_calls=self.stream.observed_calls,
            ledger=self.door.ledger,
            end_abs=self.stream.held.end_abs,
            end=self.stream.held.end,
            outputs=tensor_digest(latents) if due else None,
            **found,
        )


class _Altered:
    """Chunk inputs as a rank with a defect would see them."""

    def __init__(self, envelope: Envelope, **changes: Any) -> None:
        self._envelope, self._changes = envelope, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._envelope, name)


def _planted(envelope: Envelope, faults: tuple[FaultKind, ...]) -> ChunkInputs:
    calls = envelope.expected_generator_calls
    if FaultKind.SKIP_CALL in faults and envelope.do_recompute:
        return cast("ChunkInputs", _Altered(envelope, do_recompute=False, expected_generator_calls=calls - 1))
    if FaultKind.EXTRA_CALL in faults:
        return cast("ChunkInputs", _Altered(envelope, do_cache_write=True, expected_generator_calls=calls + 1))
    return envelope
