"""Self-attention keys and values of one stream: memory that obeys a Span.

Legend: B batch, T = frames * S cache tokens, H heads of this rank, d head size, N tokens of a call.
What is held is arithmetic (`window.py`); here are only the tensors. Writes are in place at host-known offsets, so that
a call can be compiled whole and captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genlock.generator.window import Span


class LayerStore(Protocol):
    """Where one block leaves a call's keys and values, and gets those that are visible to it."""

    def put(self, k: Tensor, v: Tensor, span: Span) -> tuple[Tensor, Tensor]: ...


class KeyValueStore(Protocol):
    """A place for every block. A block sees its own alone, so that what is compiled for one serves them all."""

    def layer(self, layer: int) -> LayerStore: ...


class LayerCache(NamedTuple):
    """Keys and values [B, T, H, d] of one layer. tokens: S."""

    keys: Tensor
    values: Tensor
    tokens: int

    def put(self, k: Tensor, v: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """Store a call's keys and values [B, N, H, d]; returns the visible ones as views [B, M, H, d]."""
        keys, values, tokens = self
        if span.move is not None:
            source, target, count = (frames * tokens for frames in span.move)
            for held in (keys, values):
                held[:, target : target + count] = held[:, source : source + count].clone()  # the ranges overlap
        first, skip = span.write_start * tokens, span.write_skip * tokens
        last = first + span.frames * tokens
        keys[:, first + skip : last] = k[:, skip:]
        values[:, first + skip : last] = v[:, skip:]
        visible = span.visible * tokens
        return keys[:, :visible], values[:, :visible]


class KeyValueCache:
    """Keys and values [B, T, H, d] of every layer. `tokens` is S, the tokens of a latent frame."""

    def __init__(
        self,
        *,
        layers: int,
        frames: int,
        tokens: int,
        heads: int,
        head_dim: int,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch, frames * tokens, heads, head_dim)
        self.tokens = tokens
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def layer(self, layer: int) -> LayerCache:
        return LayerCache(self.keys[layer], self.values[layer], self.tokens)

    def held(self, layer: int, frames: int) -> tuple[Tensor, Tensor]:
        """The first `frames` frames of a layer, as views: what a recording or a digest reads."""
        stop = frames * self.tokens
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def clear(self) -> None:
        for held in (*self.keys, *self.values):
            held.zero_()
