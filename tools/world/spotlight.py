"""Where in latents a take's subject is, so that errors there can count for more.

A subject covers a twentieth of the picture, and the sky is learned first: without this most of a loss is spent on what
is right already. Knows positions alone, no pixels: a soft disc round the subject's middle, round the picture's edges.

Legend: M takes, T pixel frames (1 + 4 k), t = 1 + k latents, h w latent rows and columns, B samples, F latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genlock.generator.config import TEMPORAL_STRIDE

from .config import ModelShape
from .motion import REFERENCE_HEIGHT, follow
from .takes import Take

CELL = 8  # pixels
RADIUS = 30.0  # reference pixels
SOFT = 8.0  # of them, the disc's edge


def spotlight(takes: Sequence[Take], frames: int, shape: ModelShape, device: torch.device) -> Tensor:
    """[M, t, h, w] in 0..1 of takes that share their offset: how much of a latent's cell is the subject's."""
    pixel = REFERENCE_HEIGHT / shape.height
    span = shape.width * pixel
    scripts = [take.script for take in takes]
    track = follow(scripts, first_frame=takes[0].offset, frames=frames, span=span)
    across = _away(track.x + span / 2.0 - 96.0, shape.width // CELL, span, len(takes), device)[..., None, :]
    down = _away(track.y, shape.height // CELL, REFERENCE_HEIGHT, len(takes), device)[..., :, None]
    disc = ((RADIUS - (across.square() + down.square()).sqrt()) / SOFT + 0.5).clamp(0.0, 1.0)
    rest = disc[:, 1:].unflatten(1, (-1, TEMPORAL_STRIDE)).mean(2)
    return torch.cat((disc[:, :1], rest), dim=1)


def _away(middle, cells: int, span: float, takes: int, device: torch.device) -> Tensor:  # type: ignore[no-untyped-def]
    """Distances [M, T, cells] of the cells' middles from the subject's, the shorter way round."""
    at = torch.from_numpy(middle).to(device, torch.float32).view(takes, -1, 1)
    cell = (torch.arange(cells, device=device) + 0.5) * (span / cells)
    return torch.remainder(cell - at + span / 2.0, span) - span / 2.0


def weighed(error: Tensor, lit: Tensor, more: float) -> Tensor:
    """Mean of errors [B, F, C, h, w], those in the light [B, F, h, w] counting 1 + more times."""
    weight = (1.0 + more * lit)[:, :, None]
    return (error * weight).mean() / weight.mean()
