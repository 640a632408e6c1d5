"""The bytes of tensors in host memory, and one number of them: for what is held against itself later on this host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor as they lie in host memory; without a copy if it is there and contiguous."""
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def number_of(tensors: Iterable[Tensor]) -> int:
    """xxh3_64 of all their bytes, in order, as a signed 64-bit integer."""
    state = xxhash.xxh3_64()
    for tensor in tensors:
        state.update(tensor_bytes(tensor))
    number = int(state.intdigest())
    return number - 2**64 if number >= 2**63 else number
