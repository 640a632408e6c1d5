"""How the subject moves, measured without a network: its colour is a mask, and the mask's shift from frame to frame is
a least-squares fit of two numbers.

Only where the mask changes within the clip does a pixel count, so that a sea does not hold a blue boat still.

Legend: B clips, T pixel frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .lights import TABLE
from .motion import REFERENCE_HEIGHT
from .scene import Factors
from .shapes import rgb
from .subjects import COLOURS as PAINTS

NEAR = 0.16  # distance of colours (0..1 each) at which a pixel half belongs to the mask
ALIVE = 0.25  # the mask's range within a clip from which on a pixel counts
FEWEST = 0.004  # of the picture: with fewer pixels that count, nothing moves
TRAVELS = 0.8  # reference pixels a frame: between standing still and travelling at twice that and more
BENDS = 1.6  # the range of vertical speeds, reference pixels a frame, from which on a subject bounces


def colour_mask(clips: Tensor, scenes: Sequence[Factors]) -> Tensor:
    """How much each pixel of [B, T, 3, H, W] in [-1, 1] has the subject's colour: [B, T, H, W] in 0..1."""
    looks = torch.tensor(
        [
            [[c * t for c, t in zip(rgb(code), TABLE[scene.light].subject_tint, strict=True)] for code in paint]
            for scene, paint in ((scene, PAINTS[scene.colour]) for scene in scenes)
        ],
        device=clips.device,
    )  # [B, paints, 3]
    pixels = (clips.float() + 1.0) / 2.0
    away = [(pixels - looks[:, paint, None, :, None, None]).square().sum(2) for paint in range(looks.shape[1])]
    return torch.stack(away).amin(0).div(NEAR**2).mul(-0.69).exp()


def velocities(masks: Tensor) -> Tensor:
    """Shift of the mask from each frame to the next, [B, T - 1, (right, down)], reference pixels.

    The world goes on past an edge at the other one, and so does the fit. It is of first order: up to a fifth too slow.
    """
    height = masks.shape[-2]
    soft = _softened(masks)
    living = (soft.amax(1) - soft.amin(1) > ALIVE).float()[:, None]
    middle = (soft[:, 1:] + soft[:, :-1]) / 2.0
    across = (middle.roll(-1, -1) - middle.roll(1, -1)) / 2.0
    down = (middle.roll(-1, -2) - middle.roll(1, -2)) / 2.0
    change = soft[:, 1:] - soft[:, :-1]

    def total(x: Tensor) -> Tensor:
        return (x * living).sum((-2, -1))

    aa, dd, ad = total(across * across), total(down * down), total(across * down)
    ca, cd = total(change * across), total(change * down)
    scale = (aa * dd - ad * ad).clamp_min(1e-6)
    shift = torch.stack((dd * ca - ad * cd, aa * cd - ad * ca), dim=-1) / -scale[..., None]
    enough = living.mean((-2, -1)) > FEWEST
    return torch.where(enough[..., None], shift, 0.0) * (REFERENCE_HEIGHT / height)


def motion_of(steps: Tensor) -> list[str]:
    """The motion that speeds [B, T - 1, 2] amount to."""
    mean = steps.mean(1)
    # The middle of three: one frame that a snowflake or a flicker spoilt does not count.
    calm = steps.unfold(1, 3, 1).median(-1).values[..., 1]
    bend = calm.amax(1) - calm.amin(1)
    names = []
    for (right, fall), range_ in zip(mean.tolist(), bend.tolist(), strict=True):
        if abs(right) > TRAVELS and abs(right) > abs(fall):
            names.append("drifts right" if right > 0 else "drifts left")
        elif range_ > BENDS:
            names.append("bounces")
        elif abs(fall) > TRAVELS:
            names.append("sinks" if fall > 0 else "rises")
        else:
            names.append("floats")
    return names


def tracked_motion(clips: Tensor, scenes: Sequence[Factors]) -> list[str]:
    """How the thing of the scene's colour moves in each clip [B, T, 3, H, W] in [-1, 1]."""
    return motion_of(velocities(colour_mask(clips, scenes)))


def _softened(masks: Tensor) -> Tensor:
    """Blurred over some five reference pixels, round the edges of the picture."""
    wide = max(1, round(2.0 * masks.shape[-2] / REFERENCE_HEIGHT))
    for _ in range(2):
        masks = F.avg_pool2d(F.pad(masks, [wide] * 4, mode="circular"), 2 * wide + 1, stride=1)
    return masks
