"""The verdict's naming columns: what a rank holds against a reference of its own, so that a difference names it.

A changed weight or key goes through the sums and leaves outputs wrong and equal everywhere; so each rank keeps numbers
of what it was given and loaded, and looks again. In host memory a number is xxh3, on a device the fingerprint's kernel.
Knows no other rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlock.generator.checkpoint import expected_shapes
from genlock.generator.fingerprint import Fingerprint, fingerprint, group_of
from genlock.generator.host_bytes import number_of
from genlock.generator.stream import Stream
from genlock.settings import Guard
from genlock.wire.digest import tensor_digest
from genlock.wire.header import Header


class Columns:
    """Inputs at every chunk; weights one block a chunk, in turn; keys and values every `check_every` chunks. At
    check_every 1 everything is looked at in every chunk. guards_off: columns that are never looked at."""

    def __init__(self, stream: Stream, *, check_every: int, guards_off: frozenset[Guard] = frozenset()) -> None:
        self.stream, self._check_every = stream, check_every
        self.leave_off(guards_off)
        parallel = stream.generator.parallel
        self._shapes = expected_shapes(stream.generator.config)
        self._place = {"rank": parallel.rank, "size": parallel.size}
        self._weights = stream.generator.state_dict()  # the parameters themselves, under their names
        self.loaded: Fingerprint = self._fingerprint(self._weights)
        self._groups = [
            {name: value for name, value in self._weights.items() if group_of(name) == group}
            for group in self.loaded.groups
        ]
        self._numbers = [self._number(group) for group in self._groups]

    def leave_off(self, guards_off: frozenset[Guard]) -> None:
        """From the next chunk on."""
        self._off = guards_off

    def due(self, header: Header, guard: Guard) -> bool:
        """Whether it is this chunk's turn for what costs, keys and values or outputs: the same on every rank."""
        return header.call_id % self._check_every == 0 and guard not in self._off

    def finish(self, header: Header, payload: Tensor, *, everything: bool = False) -> dict[str, bool | None]:
        """After the last generator call: the columns by name; None where the chunk's turn was not to look. payload:
        uint8 [n] in host memory. everything: all weights, whatever the turn."""
        return {
            "inputs": None if Guard.INPUTS in self._off else tensor_digest(payload) == header.payload_digest,
            "weights": None if Guard.WEIGHTS in self._off else self._as_loaded(header.call_id, everything=everything),
            "kv": self.stream.changed_slot() is None if self.due(header, Guard.KV) else None,
        }

    def _as_loaded(self, call_id: int, *, everything: bool) -> bool:
        count = len(self._groups)
        whole = everything or self._check_every == 1
        looked_at = range(count) if whole else [call_id % count]
        return all(self._number(self._groups[group]) == self._numbers[group] for group in looked_at)

    def _number(self, weights: Mapping[str, Tensor]) -> int:
        """Of one group; to be held against this rank's own alone."""
        if self.stream.generator.device.type == "cpu":
            return number_of(weights.values())
        (number,) = self._fingerprint(weights).groups.values()
        return number

    def _fingerprint(self, weights: Mapping[str, Tensor]) -> Fingerprint:
        return fingerprint(weights, self._shapes, **self._place)
