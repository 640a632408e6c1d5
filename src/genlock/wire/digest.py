"""Digests of bytes and tensors: xxh3, for damage and drift, not for adversaries.

Host memory only: a tensor on a device is copied here first, so callers on the chunk path digest the host copy.
"""

from __future__ import annotations

import xxhash
from torch import Tensor

from genlock.generator.host_bytes import tensor_bytes


def bytes_digest(data: bytes | memoryview) -> int:
    """xxh3_128 of bytes."""
    return int(xxhash.xxh3_128_intdigest(data))


def tensor_digest(tensor: Tensor) -> int:
    """xxh3_128 of a tensor's bytes; shape and dtype are not part of it."""
    return bytes_digest(tensor_bytes(tensor))


def embeds_id(embeds: Tensor) -> int:
    """xxh3_64 of an embedding as it will be packed: dtype, shape and bytes. Fits a uint64."""
    head = f"{embeds.dtype}{list(embeds.shape)}".encode()
    state = xxhash.xxh3_64(head)
    state.update(tensor_bytes(embeds))
    return int(state.intdigest())
