"""Whether cached keys and values changed without a write: a digest of each frame slot, held against itself later.

A changed element of one rank's cache leaves outputs wrong and equal on all ranks, so only a rank's own memory of what
it wrote can name it. A slot is *sealed* (digested) once it is complete: before the first call that reads it without
writing it, or at the end of a chunk. It is *checked* before it is replaced or evicted, and at the end of a chunk that
is due, after all its calls have read it. Eviction moves a seal along with its frame; a write breaks it.

A prompt's keys and values, which live longest, are sealed when they are made and checked in every chunk that is due.
Slots are sealed in chunks that are due only, so that the others cost host arithmetic on a short list. In host memory a
digest is xxh3, on a device a kernel, and nothing waits for the device but `changed`. Off by default. Knows no rank and
no cadence.

Legend: B batch, S tokens of a frame, L text rows, H heads of this rank, d head size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlock.generator.cache import KeyValueCache
from genlock.generator.fingerprint import PIECE_BYTES, as_integers, odd_sum
from genlock.generator.host_bytes import number_of
from genlock.generator.window import Span

Text = Sequence[tuple[Tensor, Tensor]]  # of every layer, a prompt's keys and values: [B, L, H, d] each


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedSlot:
    """A layer's keys or values that are not what was written. frame: slot of the cache, in frames; None: the
    prompt's."""

    layer: int
    frame: int | None


class SlotDigests:
    """The seals of one cache. Call `before` ahead of every generator call that uses it, `clear` with it. kernel: how
    digests are made; None: as suits the cache's device."""

    def __init__(self, cache: KeyValueCache, *, kernel: bool | None = None) -> None:
        self._cache = cache
        self._kernel = cache.keys[0].device.type != "cpu" if kernel is None else kernel
        self._seals: list[Tensor | None] = [None] * (cache.keys[0].shape[1] // cache.tokens)
        self._text: Text = []
        self._text_seal: Tensor | None = None
        self._found: list[tuple[int | None, Tensor]] = []  # slot, and bool [layers]: differs from its seal

    def clear(self) -> None:
        """The cache was emptied: nothing it held will be read."""
        self._seals = [None] * len(self._seals)

    def made_text(self, text: Text) -> None:
        """A prompt's keys and values were made; what was held before is not read any more."""
        self._text, self._text_seal = text, self._text_digests(text)

    def before(self, span: Span, *, due: bool) -> None:
        """A call with this span comes next: checks what it replaces, and seals what it only reads if the chunk is
        due."""
        first, last = span.write_start + span.write_skip, span.write_start + span.frames
        if span.move is not None:
            source, target, count = span.move
            self._check(range(target, source))  # evicted
            if due:  # here, before the call moves them
                self._seal((*range(target), *range(source, source + count)))
            kept = self._seals[source : source + count]
            self._seals[target:] = kept + [None] * (len(self._seals) - target - count)
        self._check(range(first, last))
        self._seals[first:last] = [None] * (last - first)
        if due and span.move is None:
            self._seal(slot for slot in range(span.visible) if not first <= slot < last)

    def end_chunk(self, frames: int, *, due: bool) -> None:
        """The chunk's last call is made and `frames` slots are in use."""
        if due:
            self._check(range(frames))
            self._seal(range(frames))
            if self._text_seal is not None:
                self._found.append((None, self._text_digests(self._text).ne(self._text_seal)))

    def changed(self) -> ChangedSlot | None:
        """The first slot found changed since the last time this was asked. Waits for the device if any was checked."""
        found, self._found = self._found, []
        if found:
            hits = torch.stack([differs for _, differs in found]).nonzero().tolist()
            for row, layer in hits:
                return ChangedSlot(layer=layer, frame=found[row][0])
        return None

    def _seal(self, slots: Iterable[int]) -> None:
        for run in _runs(slot for slot in slots if self._seals[slot] is None):
            self._seals[run.start : run.stop] = self._digests(run).unbind(0)

    def _check(self, slots: Iterable[int]) -> None:
        for run in _runs(slot for slot in slots if self._seals[slot] is not None):
            for slot, now in zip(run, self._digests(run).unbind(0), strict=True):
                sealed = self._seals[slot]
                assert sealed is not None
                self._found.append((slot, now.ne(sealed)))

    def _text_digests(self, text: Text) -> Tensor:
        """int64 [layers]."""
        if not self._kernel:
            return torch.tensor([number_of(layer) for layer in text])
        sums = [[odd_sum(held.flatten(1)) for held in layer] for layer in text]
        return torch.stack([3 * keys + values for keys, values in sums])

    def _digests(self, slots: range) -> Tensor:
        """int64 [slots, layers]: keys and values as integers, each times an odd weight of its place in the slot."""
        if not self._kernel:
            return torch.tensor([[number_of(held) for held in self._held_in(slot)] for slot in slots])
        keys = self._cache.keys[0]
        B, _, H, d = keys.shape
        elements = self._cache.tokens * H * d
        weights = torch.arange(2 * B * elements, device=keys.device).mul_(2).add_(1).view(2, B, 1, elements)
        at_once = max(1, PIECE_BYTES // (8 * B * elements))
        pieces = [
            range(slots.start + i, min(slots.start + i + at_once, slots.stop)) for i in range(0, len(slots), at_once)
        ]
        return torch.cat([self._piece(piece, weights) for piece in pieces])

    def _held_in(self, slot: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of one slot, by layer."""
        place = slice(slot * self._cache.tokens, (slot + 1) * self._cache.tokens)
        for keys, values in zip(self._cache.keys, self._cache.values, strict=True):
            yield keys[:, place], values[:, place]

    def _piece(self, slots: range, weights: Tensor) -> Tensor:
        first, last = slots.start * self._cache.tokens, slots.stop * self._cache.tokens
        layers = []
        for keys, values in zip(self._cache.keys, self._cache.values, strict=True):
            sums = [
                as_integers(held[:, first:last]).unflatten(1, (len(slots), -1)).flatten(2).long().mul_(odd).sum((0, 2))
                for held, odd in zip((keys, values), weights, strict=True)
            ]
            layers.append(sums[0] + sums[1])
        return torch.stack(layers, dim=1)


def _runs(slots: Iterable[int]) -> Iterator[range]:
    """Rising slots as runs without a gap."""
    run: range | None = None
    for slot in slots:
        if run is not None and slot == run.stop:
            run = range(run.start, slot + 1)
            continue
        if run is not None:
            yield run
        run = range(slot, slot + 1)
    if run is not None:
        yield run
