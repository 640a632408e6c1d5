"""A broadcast that fails as the real ones do: silently, late, or on some ranks only.

Every way of `Harm` was seen on a backend, and none of them raises where it happens unless it says so. Knows no
connection: what a rank makes of what it got is the test's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from genlock.errors import RankSilent

T_S = 20.0  # the group's timeout: a right run never comes near


class Harm(StrEnum):
    """What a rank gets in place of the payload."""

    STALE_TAIL = "stale tail"  # its buffer was larger than the message
    OTHER_BYTES = "other bytes"  # of the broadcast before, as when two are swapped
    OTHER_VIEW = "other view"  # the same bytes read as another dtype's: pairs swapped
    STRIDED = "strided"  # received into a view that is not contiguous
    UNTOUCHED = "untouched"  # no member of the group: a warning, and the buffer as it was
    ONE_BIT = "one bit"
    SHORT = "short"  # one byte less than announced
    WORDS = "words"  # another dtype altogether


class SilentBackend:
    """One for all ranks; each takes its end with `of(rank)`. harm: of the next broadcast, by rank. late: ranks on which
    it fails at T, whatever it did on the others."""

    def __init__(self, size: int) -> None:
        self.harm: dict[int, Harm] = {}
        self.late: set[int] = set()
        self.dies_inside: set[int] = set()
        self.entered: list[int] = []  # ranks, in the order in which they came
        self._barrier = threading.Barrier(size)
        self._sent = self._before = torch.zeros(0, dtype=torch.uint8)

    def of(self, rank: int) -> Rank:
        return Rank(self, rank)

    def broadcast(self, rank: int, payload: Tensor | None, numel: int) -> Tensor:
        self.entered.append(rank)
        if rank in self.dies_inside:
            self._barrier.abort()  # its peers notice in milliseconds
            raise Died
        if payload is not None:
            self._before, self._sent = self._sent, payload
        self._meet()
        got = harmed(self._sent, self._before, numel, self.harm.get(rank))
        self._meet()
        if rank in self.late:
            raise RankSilent("another rank did not come to the collective")
        return got

    def _meet(self) -> None:
        try:
            self._barrier.wait(T_S)
        except threading.BrokenBarrierError:
            raise RankSilent("the broadcast did not come to its end") from None


class Rank:
    """One rank's end: `Payloads`."""

    def __init__(self, backend: SilentBackend, rank: int) -> None:
        self._backend, self._rank = backend, rank

    def broadcast_payload(self, payload: Tensor | None, numel: int) -> Tensor:
        assert (payload is not None) == (self._rank == 0)
        return self._backend.broadcast(self._rank, payload, numel)


class Died(Exception):
    """The rank's process is gone: nothing of it runs any more."""


def harmed(sent: Tensor, before: Tensor, numel: int, harm: Harm | None) -> Tensor:
    """What arrives, uint8 [numel] unless the harm is in the form."""
    right = sent.clone()
    return HARMS[harm](right, before) if harm is not None and numel else right


def _stale_tail(right: Tensor, before: Tensor) -> Tensor:
    cut = len(right) // 2
    right[cut:] = ~right[cut:]
    return right


def _other_bytes(right: Tensor, before: Tensor) -> Tensor:
    return before.clone() if len(before) == len(right) and not before.equal(right) else torch.zeros_like(right) + 7


def _other_view(right: Tensor, before: Tensor) -> Tensor:
    even = len(right) // 2 * 2
    right[:even] = right[:even].view(-1, 2).flip(1).reshape(-1)
    return right


def _strided(right: Tensor, before: Tensor) -> Tensor:
    got = torch.zeros_like(right)
    got[::2] = right[: len(got[::2])]
    return got


def _one_bit(right: Tensor, before: Tensor) -> Tensor:
    right[len(right) // 3] ^= 16
    return right


HARMS: dict[Harm, Callable[[Tensor, Tensor], Tensor]] = {
    Harm.STALE_TAIL: _stale_tail,
    Harm.OTHER_BYTES: _other_bytes,
    Harm.OTHER_VIEW: _other_view,
    Harm.STRIDED: _strided,
    Harm.UNTOUCHED: lambda right, before: torch.zeros_like(right),
    Harm.ONE_BIT: _one_bit,
    Harm.SHORT: lambda right, before: right[:-1],
    Harm.WORDS: lambda right, before: right.to(torch.int32),
}
assert set(HARMS) == set(Harm)
