"""The rolling account of the collectives a rank made: one 128-bit number that ranks can compare.

Each entry is what was done, where, and on how much: operation, site, elements, dtype. Two ranks that made the same
collectives in the same order hold the same number; swapped, left out or added ones change it from there on.
Knows no group and makes no collective. Costs a dictionary look-up and sixteen bytes of xxh3 an entry.
"""

from __future__ import annotations

import torch
import xxhash

_Key = tuple[str, str, int, torch.dtype]


class Ledger:
    """The collectives since the last `restart`. count: how many."""

    def __init__(self) -> None:
        self.count = 0
        self._state = xxhash.xxh3_128()
        self._entries: dict[_Key, bytes] = {}  # as many as the model has sites and shapes

    def restart(self) -> None:
        self.count = 0
        self._state.reset()

    def open(self, call: str) -> None:
        """The entries that follow belong to this pass."""
        self._state.update(f"pass {call} ".encode())

    def note(self, operation: str, site: str, numel: int, dtype: torch.dtype) -> None:
        key = (operation, site, numel, dtype)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = xxhash.xxh3_128_digest(f"{operation} {site} {numel} {dtype}".encode())
        self._state.update(entry)
        self.count += 1

    @property
    def digest(self) -> int:
        """xxh3_128 over the entries, in order."""
        return int(self._state.intdigest())
