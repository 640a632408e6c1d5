"""Fingerprints of weights: one number mod 2^64 for a model, however it is shared out over ranks.

A tensor's fingerprint is the sum over its elements, read as integers, each times an odd weight that follows from the
element's index in the *unsharded* tensor; the tensor's name is one more odd factor. So the parts of a sharded tensor
add up to the whole, any one changed element changes the sum (an odd weight has an inverse mod 2^64), and so do two that
are swapped. Taken after merge and cast: it is about what a rank computes with. For damage and drift, not for
adversaries. Knows no file and no other rank.

Legend: R rows, C columns of this rank's part, flattened after the dimension that is split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from genlock.generator.checkpoint import Split, split_rule

MODULUS = 2**64
PIECE_BYTES = 64 * 2**20  # of a part as 64-bit integers: what is set aside at once
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
OUTSIDE = "outside"  # the group of everything that is in no block


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """One rank's weights. replicated: of what every rank holds whole, equal on all. sharded: of its parts, to be added
    up. groups: `blocks.0` and so on, and `outside` -> this rank's own number, to be held against later ones."""

    replicated: int
    sharded: int
    groups: Mapping[str, int]


def fingerprint(
    weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, rank: int, size: int
) -> Fingerprint:
    """weights: this rank's parts by canonical name, on one device. shapes: of the unsharded tensors. Reads the device
    once, at the end."""
    numbers = _read({name: _part(name, tensor, shapes[name], rank, size) for name, tensor in weights.items()})
    groups: dict[str, int] = {}
    for name, number in numbers.items():
        group = group_of(name)
        groups[group] = (groups.get(group, 0) + number) % MODULUS
    sharded = sum(number for name, number in numbers.items() if is_sharded(name))
    return Fingerprint(replicated=(sum(numbers.values()) - sharded) % MODULUS, sharded=sharded % MODULUS, groups=groups)


def combine(parts: Iterable[Fingerprint]) -> int:
    """The whole model's number, from every rank's parts. Whether the replicated ones are equal is the caller's to
    check, for only it can name the rank; the first one counts."""
    every = list(parts)
    return (every[0].replicated + sum(part.sharded for part in every)) % MODULUS


def fingerprint_part(name: str, tensor: Tensor, shape: tuple[int, ...], *, rank: int, size: int) -> int:
    """This rank's share of one tensor's number. shape: of the unsharded tensor."""
    return _read({name: _part(name, tensor, shape, rank, size)})[name]


def group_of(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("blocks.") else OUTSIDE


def is_sharded(name: str) -> bool:
    return split_rule(name) in (Split.ROWS, Split.COLUMNS)


def as_integers(tensor: Tensor) -> Tensor:
    """A view of the elements' bits as integers of their own size."""
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def odd_sum(part: Tensor, *, first: int = 0, stride: int | None = None) -> Tensor:
    """int64 scalar on the part's device: sum of its elements as integers, times 2 * index + 1, mod 2^64.

    part: [R, C], floating point. The index of element (r, c) is first + r * stride + c; stride: C if not given.
    """
    R, C = part.shape
    step = C if stride is None else stride
    total = torch.zeros((), dtype=torch.int64, device=part.device)
    columns = torch.arange(C, device=part.device).mul_(2).add_(2 * first + 1)
    rows_at_once = max(1, PIECE_BYTES // (8 * max(C, 1)))
    integers = as_integers(part.contiguous())
    for start in range(0, R, rows_at_once):
        piece = integers[start : start + rows_at_once].long()
        rows = torch.arange(start, start + len(piece), device=part.device).mul_(2 * step)
        total += (piece.sum(1) * rows).sum() + piece.mul_(columns).sum()
    return total


def _part(name: str, tensor: Tensor, shape: tuple[int, ...], rank: int, size: int) -> Tensor:
    dim = {Split.ROWS: 0, Split.COLUMNS: 1}.get(split_rule(name)) if size > 1 else None
    local = tensor.detach()
    if dim == 1:
        inner = math.prod(shape[1:])
        total = odd_sum(local.reshape(shape[0], -1), first=rank * (inner // size), stride=inner)
    else:
        first = rank * local.numel() if dim == 0 else 0
        total = odd_sum(local.reshape(local.shape[0], -1), first=first)
    return total * _signed(xxhash.xxh3_64_intdigest(name.encode()) | 1)


def _signed(number: int) -> int:
    """The same number mod 2^64, as a device's 64-bit integers write it."""
    return number - MODULUS if number >= MODULUS // 2 else number


def _read(numbers: Mapping[str, Tensor]) -> dict[str, int]:
    if not numbers:
        return {}
    read = torch.stack(list(numbers.values())).tolist()
    return {name: number % MODULUS for name, number in zip(numbers, read, strict=True)}
