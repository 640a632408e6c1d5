"""Rotary positions of a frame, a row and a column, on adjacent pairs of a head vector.

Legend: B batch, F frames, h w token rows and columns, N = F h w tokens, H heads, d head size.
Pairs are the elements (2j, 2j+1); the vector is ordered [time part | row part | column part], each part with its own
frequencies 10000^(-2j/width) (RoFormer, Su et al. 2021, section 3.2, split over three axes as in Wan 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlock.errors import CacheRefused
from genlock.generator.config import GeneratorConfig

THETA = 10000.0


class RopeTable:
    """Rotations for every position of one generator, computed in float64, kept in float32 on each device used."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.rows = config.max_rope_positions
        self._host = [self._axis(width) for width in config.rope_split]
        self._on_device: dict[torch.device, list[Tensor]] = {}

    def _axis(self, width: int) -> Tensor:
        """[2, rows, width / 2]: cosines and sines of one axis."""
        # On the CPU whatever the default device: a model is often built on the meta device first.
        frequencies = THETA ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
        angles = torch.outer(torch.arange(self.rows, dtype=torch.float64, device="cpu"), frequencies)
        return torch.stack((angles.cos(), angles.sin())).float()

    def tables(self, device: torch.device) -> list[Tensor]:
        """The three axes on a device; copied there once, so that no later call waits for the host."""
        if device not in self._on_device:
            self._on_device[device] = [axis.to(device) for axis in self._host]
        return self._on_device[device]

    def rotation(self, start: int, frames: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(cos, sin), float32 [N, 1, d/2] each, of frames start..start+frames-1 of a height x width token grid.

        Raises CacheRefused beyond the table's last row.
        """
        if start < 0 or start + frames > self.rows:
            raise CacheRefused(
                f"frames {start}..{start + frames - 1} are beyond the {self.rows} rotary positions",
                remedy="re-base or cut before the limit",
            )
        time, row, column = self.tables(device)
        grid = (2, frames, height, width)
        table = torch.cat(
            [
                time[:, start : start + frames, None, None].expand(*grid, -1),
                row[:, None, :height, None].expand(*grid, -1),
                column[:, None, None, :width].expand(*grid, -1),
            ],
            dim=-1,
        )
        cos, sin = table.reshape(2, frames * height * width, 1, -1).unbind(0)
        return cos, sin


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x: [B, N, H, d], any float dtype; computed in float32, returned in x's dtype."""
    cos, sin = rotation
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
