"""The generator's call as training wants it: gradients through the context, one compiled block for all layers.

The arithmetic is the package's own `Block.forward`, `time_vectors`, `patch_embedding` and `head`; only the store
differs (keys and values are joined instead of written into a cache). A block is called as a function of its weights, so
that one compilation serves every layer.

Legend: B contexts, R draws (noise levels tried on each), F frames, C channels, H W latent rows and columns, S tokens of
a frame, N = F S, D hidden size, h heads, d head size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from genlock.generator.model import CrossKV, Generator, Rotation
from genlock.generator.window import Span

BlockCall = Callable[..., tuple[Tensor, Tensor, Tensor]]
Past = list[tuple[Tensor, Tensor]]  # of every layer: keys and values [B, N, h, d] of the context


class JoinedStore:
    """Joins a call's keys and values to those of the context, keeping the call's own for a later one."""

    def __init__(self, past: tuple[Tensor, Tensor] | None) -> None:
        self.past = past
        self.own: tuple[Tensor, Tensor] | None = None

    def put(self, k: Tensor, v: Tensor, span: Span) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - protocol
        k = k.to(v.dtype)
        self.own = (k, v)
        if self.past is None:
            return k, v
        return torch.cat((self.past[0], k), dim=1), torch.cat((self.past[1], v), dim=1)


class TrainingGenerator:
    """Two kinds of calls on a Generator: over a context, and over noised chunks that see it."""

    def __init__(self, generator: Generator, *, compile_block: bool = False) -> None:
        self.generator = generator
        self.weights = [dict(block.named_parameters()) for block in generator.blocks]
        # Not one of the blocks: a template that shares weights with one of them is compiled twice.
        template = copy.deepcopy(generator.blocks[0])

        def block(
            weights: dict[str, Tensor],
            x: Tensor,
            time: Tensor,
            cross: tuple[Tensor, Tensor],
            past: tuple[Tensor, Tensor] | None,
            rotation: Rotation,
        ) -> tuple[Tensor, Tensor, Tensor]:
            store = JoinedStore(past)
            out = functional_call(template, weights, (x, time, cross, store, None, rotation, None, None))
            assert store.own is not None
            return out, *store.own

        self.plain: BlockCall = block
        self.block: BlockCall = torch.compile(block, dynamic=False) if compile_block else block

    def context(self, x: Tensor, cross: CrossKV) -> Past:
        """Keys and values of clean frames at positions from 0, t = 0. x: [B, F, C, H, W]."""
        _, past = self._blocks(x, torch.zeros(x.shape[0], 1, device=x.device), cross, None, 0)
        return past

    def flow(self, z: Tensor, t: Tensor, cross: CrossKV, past: Past | None) -> Tensor:
        """Flow of noised chunks, after their context if there is one. z: [B, F, C, H, W], t: [B] -> like z, float32."""
        start = 0 if past is None else past[0][0].shape[1] // (z.shape[3] * z.shape[4] // 4)
        t = t.view(-1, 1)
        tokens, _ = self._blocks(z, t, cross, past, start)
        time, _ = self.generator.time_vectors(t)
        return self.generator.head(tokens, time, (z.shape[3] // 2, z.shape[4] // 2)).float()

    def _blocks(self, x: Tensor, t: Tensor, cross: CrossKV, past: Past | None, start: int) -> tuple[Tensor, Past]:
        generator = self.generator
        rotation = generator.rope.rotation(start, x.shape[1], x.shape[3] // 2, x.shape[4] // 2, x.device)
        _, time = generator.time_vectors(t)
        tokens = generator.patch_embedding(x).float()
        own: Past = []
        for layer, weights in enumerate(self.weights):
            seen = None if past is None else past[layer]
            tokens, k, v = self.block(weights, tokens, time, cross[layer], seen, rotation)
            own.append((k, v))
        return tokens, own


def repeat(pairs: list[tuple[Tensor, Tensor]], draws: int) -> list[tuple[Tensor, Tensor]]:
    """Each row of the batch `draws` times in a row."""
    if draws == 1:
        return pairs
    return [(k.repeat_interleave(draws, 0), v.repeat_interleave(draws, 0)) for k, v in pairs]
