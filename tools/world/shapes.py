"""Signed distances (negative inside) of a few shapes, and sheets to paint them on with soft edges.

Formulas for distances are elementary geometry. It knows nothing of what the shapes mean.

n = pictures, h = rows, w = columns; x and y are reference pixels, any shapes that broadcast to [n, h, w] or [h, w].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EDGE = 1.25
"""Width in pixels over which a shape's edge goes from nothing to full."""

Point = tuple[float, float]


def rgb(code: str) -> tuple[float, float, float]:
    """'#rrggbb' as three numbers in 0..1."""
    return (int(code[1:3], 16) / 255.0, int(code[3:5], 16) / 255.0, int(code[5:7], 16) / 255.0)


def ramp(low: float, high: float, value: Tensor) -> Tensor:
    """0 below low, 1 above high, a smooth S between."""
    part = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def circle(x: Tensor, y: Tensor, centre: Point, radius: float) -> Tensor:
    """Distance to a disc."""
    return torch.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2) - radius


def box(x: Tensor, y: Tensor, centre: Point, half: Point, rounding: float = 0.0) -> Tensor:
    """Distance to a box with rounded corners; half counts the rounding in."""
    across = (x - centre[0]).abs() - (half[0] - rounding)
    down = (y - centre[1]).abs() - (half[1] - rounding)
    outside = torch.sqrt(across.clamp(min=0.0) ** 2 + down.clamp(min=0.0) ** 2)
    return outside + torch.maximum(across, down).clamp(max=0.0) - rounding


def segment(x: Tensor, y: Tensor, start: Point, end: Point, thick: float) -> Tensor:
    """Distance to a line with round ends, `thick` wide."""
    run, rise = end[0] - start[0], end[1] - start[1]
    from_x, from_y = x - start[0], y - start[1]
    along = ((from_x * run + from_y * rise) / (run * run + rise * rise)).clamp(0.0, 1.0)
    return torch.sqrt((from_x - along * run) ** 2 + (from_y - along * rise) ** 2) - thick / 2.0


def polygon(x: Tensor, y: Tensor, corners: Sequence[Point], rounding: float = 0.0) -> Tensor:
    """Distance to a polygon (even-odd rule), grown by `rounding` with round corners."""
    nearest = None
    side = None
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        run, rise = x1 - x0, y1 - y0
        from_x, from_y = x - x0, y - y0
        along = ((from_x * run + from_y * rise) / (run * run + rise * rise)).clamp(0.0, 1.0)
        square = (from_x - along * run) ** 2 + (from_y - along * rise) ** 2
        nearest = square if nearest is None else torch.minimum(nearest, square)
        if rise == 0.0:
            continue
        # A ray to the right crosses this edge: the point changes sides.
        crosses = ((y >= min(y0, y1)) & (y < max(y0, y1))) & (from_x < from_y * (run / rise))
        side = crosses if side is None else side ^ crosses
    if nearest is None or side is None:
        raise ValueError("a polygon needs at least three corners that are not on one level")
    distance = torch.sqrt(nearest)
    return torch.where(side, -distance, distance) - rounding


def ellipse(x: Tensor, y: Tensor, centre: Point, half: Point) -> Tensor:
    """Distance to an ellipse, first order (exact on the edge, good near it)."""
    across, down = (x - centre[0]) / half[0], (y - centre[1]) / half[1]
    length = torch.sqrt(across * across + down * down)
    slope = torch.sqrt((across / half[0]) ** 2 + (down / half[1]) ** 2)
    return length * (length - 1.0) / slope.clamp(min=1e-4)


def lens(x: Tensor, y: Tensor, centre: Point, half: Point) -> Tensor:
    """Distance to the meeting of two discs, pointed at top and bottom: half[0] wide, half[1] high."""
    radius = (half[0] ** 2 + half[1] ** 2) / (2.0 * half[0])
    away = (x - centre[0]).abs() + (radius - half[0])
    down = y - centre[1]
    return torch.sqrt(away * away + down * down) - radius


def drop(x: Tensor, y: Tensor, top: Point, radius: float, length: float, tip: float) -> Tensor:
    """Distance to a disc at `top` drawn out downwards to a smaller disc of radius `tip`, `length` below."""
    across, down = (x - top[0]).abs(), y - top[1]
    lean = (radius - tip) / length
    level = math.sqrt(1.0 - lean * lean)
    along = across * -lean + down * level
    beside = across * level + down * lean - radius
    upper = torch.sqrt(across * across + down * down) - radius
    lower = torch.sqrt(across * across + (down - length) ** 2) - tip
    return torch.where(along < 0.0, upper, torch.where(along > level * length, lower, beside))


def join(*distances: Tensor) -> Tensor:
    """Distance to any of the shapes."""
    nearest = distances[0]
    for distance in distances[1:]:
        nearest = torch.minimum(nearest, distance)
    return nearest


class Sheet:
    """n pictures being painted: colour premultiplied with alpha, [n, 3, h, w] and [n, 1, h, w]."""

    def __init__(self, colour: Tensor, alpha: Tensor | None, pixel: float) -> None:
        self.colour = colour
        self.alpha = alpha
        self.pixel = pixel

    @classmethod
    def clear(cls, n: int, h: int, w: int, *, pixel: float, device: torch.device) -> Sheet:
        """See-through sheets; `pixel` is a pixel's size in the units of the distances to come."""
        return cls(torch.zeros(n, 3, h, w, device=device), torch.zeros(n, 1, h, w, device=device), pixel)

    def cover(self, distance: Tensor, soft: float = EDGE) -> Tensor:
        """How much of each pixel a shape covers, its edge `soft` pixels wide."""
        return (0.5 - distance / (soft * self.pixel)).clamp_(0.0, 1.0)

    def blend(self, mask: Tensor, colour: Tensor) -> None:
        """Lay a colour ([3, 1, 1] or [n, 3, 1, 1] or whole pictures) over the sheet where the mask [.., h, w] says."""
        mask = mask.unsqueeze(-3)
        self.colour.lerp_(colour.expand_as(self.colour), mask.expand_as(self.colour))
        if self.alpha is not None:
            self.alpha.add_(mask * (1.0 - self.alpha))

    def fill(self, distance: Tensor, colour: Tensor, *, soft: float = EDGE, strength: float = 1.0) -> None:
        """Lay a shape over the sheet."""
        mask = self.cover(distance, soft)
        self.blend(mask if strength == 1.0 else mask * strength, colour)

    def under(self, mask: Tensor, colour: Tensor) -> None:
        """Slip a colour under what is painted already."""
        if self.alpha is None:
            raise ValueError("only a see-through sheet has an underside")
        behind = mask.unsqueeze(-3) * (1.0 - self.alpha)
        self.colour.add_(behind * colour)
        self.alpha.add_(behind)
