"""Video to video: input frames to latents, and how much of them a chunk keeps.

Pure functions and one explicit state (where the encoder's stream stands, the last frame seen). The VAE is handed in.
Knows no prompt, no cache and no file.

    T  pixel frames     H, W  pixel rows and columns     F  latent frames     C, h, w  latent channels, rows, columns

Sources: daydreamlive/scope@68b0f95 (raw step lists, noise controller), krea-ai/realtime-video@acf4b7b (warped lists).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlock.errors import VideoInputRefused

UINT8_MAX = 255
STEP_SCALE = 1000  # step lists count from 0 to 1000
RAW_STEP_OFFSET = 100  # a raw list's first step lies this much below the mix
MOTION_WINDOW_FRAMES = 3  # input frames the controller looks at
MOTION_FULL = 0.2  # root mean square change, in [-1, 1] units, that counts as all motion
CALM_STRENGTH, MOTION_DROP = 0.8, 0.2  # the controller's strength for a still picture, and how far motion lowers it
CONTROLLER_SHARE = 0.9  # the controller's say; the rest is the request's

# state or None, frames [1, T, 3, H, W] in [-1, 1] -> latents [1, F, C, h, w], new state
EncodeVideo = Callable[[Any, Tensor], tuple[Tensor, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoState:
    """encoder: the VAE encoder's stream, None at its start. last_frame: [3, H, W], the last one the controller saw."""

    encoder: Any = None
    last_frame: Tensor | None = None


def resample_indices(count: int, wanted: int) -> list[int]:
    """`wanted` indices spread evenly over `count` frames, ends included, halves to even."""
    if wanted == 1:
        return [0]
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def to_pixels(frames: Tensor, *, height: int, width: int, count: int) -> Tensor:
    """uint8 [T, H', W', 3] of any size and number -> float32 [count, 3, height, width] in [-1, 1].

    Raises VideoInputRefused for another type or shape, or no frame at all.
    """
    if frames.dtype is not torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise VideoInputRefused(f"input frames of shape {list(frames.shape)} and type {frames.dtype}")
    if frames.shape[0] != count:
        frames = frames[resample_indices(frames.shape[0], count)]
    pixels = frames.permute(0, 3, 1, 2).float() / UINT8_MAX * 2 - 1
    if pixels.shape[-2:] != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return pixels.contiguous()


def raw_steps(steps: Sequence[int], strength: float) -> list[int]:
    """A raw step list whose first step follows the mix; the rest stays, so that time may go up.

    Raises VideoInputRefused for a strength so small that no step is left.
    """
    first = int(STEP_SCALE * strength) - RAW_STEP_OFFSET
    if first < 0:
        raise VideoInputRefused(
            f"strength {strength} with a raw step list", remedy=f"give at least {RAW_STEP_OFFSET / STEP_SCALE}"
        )
    return [first, *steps[1:]]


def warped_steps(count: int, strength: float) -> list[int]:
    """A warped step list of `count` steps that begins at `strength`: even steps down to 0, without the 0."""
    return [int(STEP_SCALE * strength * (count - index) / count) for index in range(count)]


def mix(latents: Tensor, noise: Tensor, share: float) -> Tensor:
    """[F, C, h, w] each: `share` of the noise and the rest of the input's latents, linearly."""
    return share * noise + (1 - share) * latents


def motion(pixels: Tensor, before: Tensor | None) -> float:
    """How much the newest input frames [T, 3, H, W] differ from their predecessors, 0 (still) to 1.

    before: [3, H, W], the last frame of the chunk before. It stands in for the predecessor of the first frame looked
    at, as upstream has it; without it that is the frame itself.
    """
    recent = pixels[-MOTION_WINDOW_FRAMES:]
    if before is None:
        before = pixels[-MOTION_WINDOW_FRAMES - 1] if pixels.shape[0] > MOTION_WINDOW_FRAMES else recent[0]
    previous = torch.cat([before[None], recent[:-1]])
    change = (recent - previous).square().mean(dim=(1, 2, 3)).sqrt().max()
    return min(float(change) / MOTION_FULL, 1.0)


def controlled_strength(requested: float, moved: float) -> float:
    """The noise controller: less noise the more the input moves, drawn a little towards the request."""
    return CONTROLLER_SHARE * (CALM_STRENGTH - MOTION_DROP * moved) + (1 - CONTROLLER_SHARE) * requested
