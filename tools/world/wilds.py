"""The wild places, desert and mountains: what stands still in each and what lives in it.

It knows no subject. Positions are reference pixels.

n = pictures, h = rows, w = columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .landscape import BOTTOM, TURN, Paint, Place, hills, land
from .lights import Canvas, Light, Moment
from .shapes import Sheet, box, circle, ellipse, join, lens, polygon, ramp, segment

# Desert ---------------------------------------------------------------------------------------------------------------

_PYRAMIDS = ((38.0, 55.0, 29.0), (64.0, 70.0, 17.0), (154.0, 62.0, 24.0))
"""Middle, top, half width; all stand at _FEET."""
_FEET = 91.0
_CACTI = ((168.0, 96.0, 1.15), (142.0, 101.0, 0.8))
_FIRE = (34.0, 108.0)


def _desert_still(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    x = canvas.x
    far = hills(canvas, 84.0, (3.5, 2, 0.1), (2.0, 3, 0.5))
    land(sheet, canvas, far, paint("#dba566", 0.4), paint("#e8bd7c", 0.45), 14.0)
    for middle, top, half in _PYRAMIDS:
        whole = polygon(x, canvas.y, ((middle, top), (middle + half, _FEET), (middle - half, _FEET)))
        dark = polygon(x, canvas.y, ((middle, top), (middle + half, _FEET), (middle + 0.3 * half, _FEET)))
        sheet.fill(whole - 1.0, paint("#8a5a36", 0.1))
        sheet.fill(whole, paint("#f0c070", 0.08))
        sheet.fill(dark, paint("#b97c42", 0.1))
    middle_dune = hills(canvas, 91.0, (5.0, 1, 0.55), (2.5, 2, 0.2))
    land(sheet, canvas, middle_dune, paint("#f4c97c", 0.05), paint("#d99a50"), 22.0)
    for at_x, at_y, size in _CACTI:
        _cactus(sheet, canvas, paint, at_x, at_y, size)
    near = hills(canvas, 107.0, (4.5, 1, 0.05), (2.0, 2, 0.6))
    land(sheet, canvas, near, paint("#ffd88c"), paint("#d08a42"), 26.0)
    _tent(sheet, canvas, paint)


def _cactus(sheet: Sheet, canvas: Canvas, paint: Paint, at_x: float, at_y: float, size: float) -> None:
    x, y = (canvas.x - at_x) / size, (canvas.y - at_y) / size
    shape = join(
        segment(x, y, (0.0, 12.0), (0.0, -16.0), 7.0),
        segment(x, y, (0.0, 1.0), (-8.5, 1.0), 5.0),
        segment(x, y, (-8.5, 1.0), (-8.5, -8.0), 5.0),
        segment(x, y, (0.0, -3.0), (8.5, -3.0), 5.0),
        segment(x, y, (8.5, -3.0), (8.5, -11.0), 5.0),
    )
    sheet.fill((shape - 1.4) * size, paint("#1f4a33"))
    colour = torch.lerp(paint("#6cbc5c"), paint("#2c7a48"), ramp(-5.0, 7.0, x + 0.0 * y)[None])
    sheet.fill(shape * size, colour[None])


def _tent(sheet: Sheet, canvas: Canvas, paint: Paint) -> None:
    x, y = canvas.x - 14.0, canvas.y - 98.0
    cloth = polygon(x, y, ((-1.0, -8.0), (15.0, 14.0), (-17.0, 14.0)))
    sheet.fill(cloth - 1.4, paint("#5a2f28"))
    sheet.fill(cloth, torch.lerp(paint("#d9583f"), paint("#a33a34"), ramp(-8.0, 10.0, x + 0.0 * y)[None])[None])
    sheet.fill(torch.maximum(cloth, (x + 6.0 + 0.28 * y).abs() - 2.0), paint("#f6e2b8"))
    sheet.fill(polygon(x, y, ((-0.5, 2.0), (6.0, 14.0), (-6.0, 14.0))), paint("#4a2526"))


def _desert_living(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    _sand_lines(picture, canvas, moment)
    _tumbleweed(picture, canvas, moment)
    rows = canvas.rows(_FIRE[1] - 30.0, BOTTOM)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    x, y = canvas.x[None] - _FIRE[0], canvas.y[None, rows] - _FIRE[1]
    flicker = 1.0 + 0.14 * moment.wave(12) + 0.1 * moment.wave(24, 0.4)
    shine = moment.level("lamps") * (0.5 + 0.1 * moment.wave(24))
    sheet.blend(torch.exp(-((circle(x, y, (0.0, 0.0), 0.0) / 17.0) ** 2)) * shine, canvas.paint("#ff9a3c"))
    sheet.fill(lens(x, (y - 3.0) / flicker, (0.0, -2.0), (4.2, 10.0)), canvas.paint("#ff7a1c"), soft=2.0)
    sheet.fill(lens(x, (y - 3.0) / flicker, (0.0, 0.0), (2.4, 6.0)), canvas.paint("#ffe48a"), soft=2.0)
    logs = join(segment(x, y, (-6.0, 4.5), (6.0, 6.5), 3.2), segment(x, y, (-6.0, 6.5), (6.0, 4.5), 3.2))
    sheet.fill(logs, moment.colour("#5a3826"))


def _sand_lines(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    """Soft ripples that wander over the near dune, as wind draws them."""
    rows = canvas.rows(106.0, BOTTOM)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    x, y = canvas.x[None] / canvas.span, canvas.y[None, rows]
    slide = moment.turn(96)
    for index, level in enumerate((114.0, 120.0, 126.0)):
        line = level - (1.4 + 0.3 * index) * torch.sin(TURN * (x * 3.0 - slide + 0.27 * index))
        sheet.fill((y - line).abs() - 1.2, moment.colour("#fff0c4"), soft=2.2, strength=0.45)


def _tumbleweed(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    rows = canvas.rows(98.0, 124.0)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    drift = moment.turn(192) * canvas.span
    x = torch.remainder(canvas.x[None] - 70.0 - drift + canvas.span / 2.0, canvas.span) - canvas.span / 2.0
    hop = moment.turn(48)
    y = canvas.y[None, rows] - 114.0 + 20.0 * hop * (1.0 - hop)
    ball = circle(x, y, (0.0, 0.0), 5.2)
    sheet.fill(ball - 1.3, moment.colour("#5f3d22"))
    sheet.fill(ball, moment.colour("#c08c4e"))
    angle = moment.turn(48) * TURN
    for radius, phase in ((2.6, 0.0), (2.6, TURN / 2.0)):
        knot = torch.sqrt((x - radius * torch.cos(angle + phase)) ** 2 + (y - radius * torch.sin(angle + phase)) ** 2)
        sheet.fill(knot - 1.5, moment.colour("#7d5530"), soft=1.8)


# Mountains ------------------------------------------------------------------------------------------------------------

_PEAKS = (
    # middle, top, half width, how far away
    (98.0, 52.0, 44.0, 0.42),
    (168.0, 30.0, 52.0, 0.2),
    (34.0, 22.0, 56.0, 0.14),
)
_ROOTS = 104.0
_PINES = ((6.0, 118.0, 1.25), (24.0, 114.0, 1.0), (124.0, 113.0, 0.85), (172.0, 116.0, 1.1), (188.0, 120.0, 1.3))
_CABIN = (150.0, 106.0)
_CHIMNEY = (_CABIN[0] + 5.0, _CABIN[1] - 12.0)


def _mountains_still(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    for middle, top, half, depth in _PEAKS:
        _peak(sheet, canvas, paint, middle, top, half, depth)
    wood = hills(canvas, 95.0, (4.0, 2, 0.35), (1.5, 3, 0.1))
    land(sheet, canvas, wood, paint("#5f9a86", 0.22), paint("#4d8a6e", 0.12), 18.0)
    near = hills(canvas, 108.0, (4.0, 1, 0.3), (2.0, 2, 0.65))
    land(sheet, canvas, near, paint("#5aa653"), paint("#256340"), 24.0)
    _cabin(sheet, canvas, light)
    for at_x, at_y, size in _PINES:
        _pine(sheet, canvas, paint, at_x, at_y, size)


def _peak(sheet: Sheet, canvas: Canvas, paint: Paint, middle: float, top: float, half: float, depth: float) -> None:
    x, y = canvas.x - middle, canvas.y
    slope = (_ROOTS - top) / half

    def side(reach: float, height: float) -> tuple[float, float]:
        return (reach * height / slope, top + height)

    whole = polygon(x, y, ((0.0, top), (half, _ROOTS), (-half, _ROOTS)))
    dark = polygon(
        x, y, ((0.0, top), (half, _ROOTS), (0.1 * half, _ROOTS), (-0.14 * half, top + 0.55 * (_ROOTS - top)))
    )
    tall = 0.36 * (_ROOTS - top)
    cap = polygon(
        x,
        y,
        (
            (0.0, top),
            side(1.0, tall),
            side(0.45, 0.72 * tall),
            side(0.05, 1.15 * tall),
            side(-0.4, 0.75 * tall),
            side(-1.0, tall),
        ),
    )
    sheet.fill(whole - 1.0, paint("#4a4f75", depth))
    sheet.fill(whole, paint("#8f97bd", depth))
    sheet.fill(dark, paint("#626a97", depth))
    sheet.fill(torch.maximum(cap, whole), paint("#ffffff", 0.5 * depth))
    sheet.fill(torch.maximum(torch.maximum(cap, whole), dark), paint("#c9d6ee", 0.6 * depth))


def _pine(sheet: Sheet, canvas: Canvas, paint: Paint, at_x: float, at_y: float, size: float) -> None:
    x, y = (canvas.x - at_x) / size, (canvas.y - at_y) / size
    sheet.fill(box(x, y, (0.0, 3.0), (1.8, 5.0), 0.5) * size, paint("#5a3d2c"))
    tiers = join(
        polygon(x, y, ((0.0, -30.0), (6.0, -18.0), (-6.0, -18.0)), 1.0),
        polygon(x, y, ((0.0, -23.0), (8.5, -9.0), (-8.5, -9.0)), 1.0),
        polygon(x, y, ((0.0, -15.0), (11.0, 1.0), (-11.0, 1.0)), 1.0),
    )
    sheet.fill((tiers - 1.2) * size, paint("#12352c"))
    colour = torch.lerp(paint("#3f9560"), paint("#1d5a44"), ramp(-7.0, 8.0, x + 0.0 * y)[None])
    sheet.fill(tiers * size, colour[None])


def _cabin(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    x, y = canvas.x - _CABIN[0], canvas.y - _CABIN[1]
    wall = box(x, y, (0.0, 2.0), (11.0, 6.5), 0.5)
    chimney = box(x, y, (5.0, -8.0), (2.2, 5.0), 0.5)
    roof = polygon(x, y, ((-14.0, -4.0), (-8.0, -12.0), (8.0, -12.0), (14.0, -4.0)), 0.6)
    sheet.fill(join(wall, chimney) - 1.3, paint("#3f2a22"))
    sheet.fill(chimney, paint("#9a8a86"))
    sheet.fill(wall, torch.lerp(paint("#c98d56"), paint("#9a6238"), ramp(-6.0, 10.0, x + 0.0 * y)[None])[None])
    sheet.fill(roof - 1.3, paint("#3f2a22"))
    sheet.fill(roof, paint("#b2473c"))
    glass = torch.lerp(paint("#a9d3e6"), canvas.paint("#ffdc7d"), min(light.lamps * 1.4, 1.0))
    sheet.fill(box(x, y, (-5.0, 2.0), (2.8, 2.6), 0.5), glass)
    sheet.fill(box(x, y, (4.5, 4.0), (2.6, 4.5), 0.5), paint("#5a3826"))


def _mountains_living(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    _mist(picture, canvas, moment)
    rows = canvas.rows(_CHIMNEY[1] - 30.0, _CHIMNEY[1] + 6.0)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    x, y = canvas.x[None] - _CHIMNEY[0], canvas.y[None, rows] - _CHIMNEY[1]
    for index in range(3):
        # Each puff rises for 64 frames, the three a third of that apart.
        age = torch.remainder(moment.turn(64) + index / 3.0, 1.0)
        lean = 5.0 * age * age + 1.2 * moment.wave(64, index / 3.0)
        puff = torch.sqrt((x - lean) ** 2 + (y + 2.0 + 22.0 * age) ** 2) - (2.0 + 3.2 * age)
        fade = 0.75 * (1.0 - age) * (age * 8.0).clamp(max=1.0)
        sheet.blend(sheet.cover(puff, 2.4) * fade, moment.colour("#f4f2f6"))


def _mist(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    """Two long soft banks that lie before the peaks and drift."""
    drift = moment.turn(384) * canvas.span
    for at_x, level, half, height in ((40.0, 86.0, 34.0, 4.0), (138.0, 91.0, 40.0, 4.5)):
        rows = canvas.rows(level - 10.0, level + 10.0)
        x = torch.remainder(canvas.x[None] - at_x - drift + canvas.span / 2.0, canvas.span) - canvas.span / 2.0
        bank = ellipse(x, canvas.y[None, rows], (0.0, level), (half, height))
        sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
        sheet.fill(bank, moment.colour("#ffffff", 0.25), soft=6.0, strength=0.55)


WILDS = {
    "desert": Place(still=_desert_still, living=_desert_living),
    "mountains": Place(still=_mountains_still, living=_mountains_living),
}
