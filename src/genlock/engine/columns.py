"""The verdict's naming columns: what a rank holds against a reference of its own, so that a difference names it.

A changed weight or key goes through the sums and leaves outputs wrong and equal everywhere; so each rank keeps numbers
of what it was given and loaded, and looks again. Knows no other rank.
"""

from __future__ import annotations

from torch import Tensor

from genlock.generator.checkpoint import expected_shapes
from genlock.generator.fingerprint import Fingerprint, fingerprint, group_of
from genlock.generator.stream import Stream
from genlock.settings import FaultKind
from genlock.wire.digest import tensor_digest
from genlock.wire.header import Header


class Columns:
    """Inputs at every chunk; weights one block a chunk, in turn, or all of them where `everything` is set."""

    def __init__(self, stream: Stream, *, everything: bool) -> None:
        self.stream, self._everything = stream, everything
        parallel = stream.generator.parallel
        self._shapes = expected_shapes(stream.generator.config)
        self._place = {"rank": parallel.rank, "size": parallel.size}
        self.loaded: Fingerprint = self._fingerprint(None)
        self._groups = tuple(self.loaded.groups)

    def begin(self, payload: Tensor, faults: tuple[FaultKind, ...]) -> None:
        """Before a chunk: faults planted on purpose change one value each. payload: uint8 [n] in host memory."""
        if FaultKind.CHANGE_INPUT in faults:
            payload[0] ^= 1
        if FaultKind.CHANGE_WEIGHT in faults:
            self.stream.generator.blocks[0].self_attn.v.weight[0, 0] += 1.0
        if FaultKind.CHANGE_KV in faults:
            self.stream.cache.keys[0][0, 0, 0, 0] += 1.0

    def finish(self, header: Header, payload: Tensor) -> dict[str, bool | None]:
        """After the last generator call: the columns by name; None where the chunk's turn was not to look."""
        group = None if self._everything else self._groups[header.call_id % len(self._groups)]
        now = self._fingerprint(group).groups
        return {
            "inputs": tensor_digest(payload) == header.payload_digest,
            "weights": all(self.loaded.groups[name] == number for name, number in now.items()),
        }

    def _fingerprint(self, group: str | None) -> Fingerprint:
        """Of one group's weights, or of all."""
        weights = {
            name: value
            for name, value in self.stream.generator.state_dict().items()
            if group is None or group_of(name) == group
        }
        return fingerprint(weights, self._shapes, **self._place)
