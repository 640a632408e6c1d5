"""What every place is made of: the pair of functions that paint it, skylines and graded paint.

n = pictures, h = rows, w = columns; positions are reference pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .lights import Canvas, Light, Moment, graded
from .shapes import Sheet, ramp

TURN = 2.0 * math.pi
BOTTOM = 128.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How to paint a place.

    `still(sheet, canvas, light)` paints one see-through picture of everything in front of the sky, once per light;
    `living(pictures, canvas, moment)` paints on whole pictures [n, 3, h, w], every frame.
    """

    still: Callable[[Sheet, Canvas, Light], None]
    living: Callable[[Tensor, Canvas, Moment], None]


class Paint:
    """Colours of the land under one light, [3, 1, 1] each."""

    def __init__(self, canvas: Canvas, light: Light) -> None:
        self._canvas = canvas
        self._light = light

    def __call__(self, code: str, depth: float = 0.0) -> Tensor:
        """'#rrggbb' under the light, `depth` (0..1) of the way into the haze."""
        return self._canvas.tensor(graded(code, self._light, depth))


def hills(canvas: Canvas, level: float, *waves: tuple[float, int, float]) -> Tensor:
    """Height of a rolling skyline, [1, w]: (height, waves across the picture, phase in turns) each."""
    line = torch.full_like(canvas.x, level)
    for height, count, phase in waves:
        line = line - height * torch.sin(TURN * (canvas.x * (count / canvas.span) + phase))
    return line


def land(sheet: Sheet, canvas: Canvas, skyline: Tensor, top: Tensor, bottom: Tensor, reach: float) -> None:
    """Fill everything below a skyline, its colour going from top to bottom over `reach` below it."""
    below = canvas.y - skyline
    colour = torch.lerp(top, bottom, ramp(0.0, reach, below)[None])
    sheet.fill(-below, colour[None])
