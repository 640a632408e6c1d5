"""The one place that draws random numbers: the noise of one chunk, from its seed.

A CPU generator in float32, whatever the model's device and dtype: the same seed gives the same bits on every machine
kind; casts come afterwards. Knows no schedule and no cache.

    F  latent frames of the chunk      C  latent channels      h, w  latent rows and columns
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkNoise:
    """initial: [F, C, h, w], before the first step. steps: [n-1, F, C, h, w], one for each later step. float32."""

    initial: Tensor
    steps: Tensor


def chunk_seed(base_seed: int, start_abs: int) -> int:
    """The seed of the chunk that starts `start_abs` latent frames after the last cut (a cut repeats the noise)."""
    return base_seed + start_abs


def draw_noise(*, seed: int, num_steps: int, frames: int, channels: int, height: int, width: int) -> ChunkNoise:
    """Normal noise of a chunk on the CPU: the initial tensor first, then one tensor for each later step.

    height, width: of a latent frame. Order of draws: daydreamlive/scope@68b0f95, bit for bit.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    shape = (frames, channels, height, width)
    initial = torch.randn((1, *shape), generator=generator, dtype=torch.float32)[0]
    later = [torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(num_steps - 1)]
    return ChunkNoise(initial=initial, steps=torch.stack(later) if later else initial.new_empty((0, *shape)))
