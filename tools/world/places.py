"""Three of the places: what stands still in each (painted once per light) and what lives in it (painted every frame).

It knows no subject. Positions are reference pixels.

n = pictures, h = rows, w = columns.
"""

from __future__ import annotations

import functools
import random

import torch
from torch import Tensor

from .landscape import BOTTOM, TURN, Paint, Place, hills, land
from .lights import HORIZON, Canvas, Light, Moment
from .shapes import Sheet, box, circle, join, polygon, ramp
from .wilds import WILDS

# Sea ------------------------------------------------------------------------------------------------------------------

_SEA = HORIZON - 3.0
_BANDS = (
    # height below the horizon, wave height, waves across, frames to move one wave on, colour
    (4.0, 0.8, 6, 96, "#46b4d4"),
    (11.0, 1.3, 5, 96, "#2f9cc8"),
    (19.5, 1.9, 4, 96, "#2285ba"),
    (29.5, 2.5, 3, 96, "#186ea8"),
    (40.0, 3.0, 3, 64, "#115a94"),
)


def _sea_still(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    far = hills(canvas, 86.0, (9.0, 2, 0.02), (4.0, 3, 0.3))
    land(sheet, canvas, far, paint("#6fa08a", 0.35), paint("#6fa08a", 0.6), 14.0)
    near = hills(canvas, 92.0, (10.0, 1, 0.42), (5.0, 3, 0.75))
    land(sheet, canvas, near, paint("#4f8f6c", 0.12), paint("#4f8f6c", 0.35), 14.0)
    water = torch.lerp(paint("#8fd6e6", 0.45), paint("#3fb0d6", 0.1), ramp(_SEA, _SEA + 8.0, canvas.y)[None])
    sheet.fill(_SEA - canvas.y + 0.0 * canvas.x, water[None])


def _sea_living(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    x = canvas.x[None] * (1.0 / canvas.span)
    for depth, height, count, period, code in _BANDS:
        level = _SEA + depth
        rows = canvas.rows(level - 2.0 * height - 3.0, BOTTOM)
        phase = moment.turn(period)
        line = level - height * torch.sin(TURN * (x * count + phase + depth * 0.13))
        line = line - 0.4 * height * torch.sin(TURN * (x * (count + 2) - phase + depth * 0.29))
        below = canvas.y[None, rows] - line
        sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
        sheet.blend(sheet.cover(-below), moment.colour(code))
        crest = 0.5 + 0.28 * height
        sheet.fill((below - crest).abs() - crest, moment.colour("#d5f2f4", 0.15), soft=1.8, strength=0.5)
    _sea_glitter(picture, canvas, moment)


def _sea_glitter(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    rows = canvas.rows(_SEA, BOTTOM)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    x, y = canvas.x[None] - moment.disc_x(), canvas.y[None, rows]
    dashes = []
    for index, down in enumerate((3.0, 9.0, 16.0, 24.5, 34.5)):
        width = (7.0 + 1.5 * index) * (1.0 + 0.3 * moment.wave(48, index * 0.37))
        slide = (1.0 + 0.6 * index) * moment.wave(96, index * 0.29)
        across = ((x - slide).abs() - width).clamp(min=0.0)
        dashes.append(torch.sqrt(across * across + (y - (_SEA + down)) ** 2) - (1.0 + 0.15 * index))
    sheet.fill(join(*dashes), moment.look("disc"), soft=2.4, strength=0.62)


# Meadow ---------------------------------------------------------------------------------------------------------------

_MILL = (34.0, 68.0)
_FLOWERS = ("#ff5d73", "#ffd84a", "#ffffff")


def _meadow_still(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    x, y = canvas.x, canvas.y
    far = hills(canvas, 80.0, (5.0, 2, 0.6), (3.0, 3, 0.15))
    land(sheet, canvas, far, paint("#7fb79a", 0.45), paint("#8fc49a", 0.6), 18.0)
    middle = hills(canvas, 89.0, (7.0, 1, 0.18), (2.5, 2, 0.4))
    land(sheet, canvas, middle, paint("#8ccb6a", 0.12), paint("#6fb65e", 0.05), 26.0)
    _mill_tower(sheet, canvas, light)
    for at_x, at_y, size in ((158.0, 84.0, 1.0), (174.0, 88.0, 1.25), (141.0, 87.0, 0.7)):
        trunk = box(x, y, (at_x, at_y), (1.6 * size, 9.0 * size), 1.0)
        sheet.fill(trunk, paint("#6b4a34"))
        crown = join(
            circle(x, y, (at_x, at_y - 12.0 * size), 8.5 * size),
            circle(x, y, (at_x - 6.0 * size, at_y - 7.0 * size), 5.5 * size),
            circle(x, y, (at_x + 6.0 * size, at_y - 7.0 * size), 6.0 * size),
        )
        leaf = torch.lerp(
            paint("#5fae58"), paint("#2f7a48"), ramp(-18.0 * size, 0.0, y - at_y + 0.35 * (x - at_x))[None]
        )
        sheet.fill(crown, leaf[None])
    near = hills(canvas, 106.0, (5.0, 1, 0.62), (2.0, 2, 0.1))
    land(sheet, canvas, near, paint("#6cc24a"), paint("#2f8a3c"), 26.0)
    path = hills(canvas, 117.0, (2.5, 1, 0.4))
    land(sheet, canvas, path, paint("#4fae44"), paint("#256f38"), 16.0)


def _mill_tower(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    x, y = canvas.x - _MILL[0], canvas.y - _MILL[1]
    body = polygon(x, y, ((-5.5, 2.0), (5.5, 2.0), (8.5, 26.0), (-8.5, 26.0)))
    side = torch.lerp(paint("#fff2dc"), paint("#c9a98c"), ramp(-6.0, 8.0, x)[None])
    sheet.fill(body - 1.2, paint("#5b4238"))
    sheet.fill(body, side[None].expand(1, 3, *canvas.size))
    roof = polygon(x, y, ((-7.5, 2.5), (0.0, -7.5), (7.5, 2.5)))
    sheet.fill(roof - 1.2, paint("#5b4238"))
    sheet.fill(roof, paint("#c8503f"))
    sheet.fill(box(x, y, (0.0, 21.5), (2.6, 4.5), 1.0), paint("#6b4a34"))
    glass = torch.lerp(paint("#7fb0c8"), canvas.paint("#ffd877"), min(light.lamps * 1.4, 1.0))
    sheet.fill(circle(x, y, (0.0, 10.5), 2.8), glass)


@functools.cache
def _flower_spots() -> tuple[tuple[float, float, float], ...]:
    draw = random.Random(3)
    return tuple(
        (
            (index + draw.uniform(0.2, 0.8)) * 12.0,
            111.0 + 6.5 * (index % 3) + draw.uniform(-1.0, 1.0),
            1.5 + 0.35 * (index % 3),
        )
        for index in range(16)
    )


def _meadow_living(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    _mill_sails(picture, canvas, moment)
    rows = canvas.rows(104.0, BOTTOM)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    sway = 0.9 * moment.wave(48)
    x, y = canvas.x[None] - sway, canvas.y[None, rows]
    for index, code in enumerate(_FLOWERS):
        spots = [spot for order, spot in enumerate(_flower_spots()) if order % 3 == index]
        sheet.fill(
            join(*[circle(x, y, (at_x, at_y), radius) for at_x, at_y, radius in spots]), moment.colour(code), soft=1.6
        )
    _fireflies(picture, canvas, moment)


def _mill_sails(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    hub_y = _MILL[1] + 1.0
    rows = canvas.rows(hub_y - 24.0, hub_y + 24.0)
    # Four equal sails: a quarter turn every 96 frames looks the same as where it began.
    angle = (moment.turn(96) + 0.5) * (TURN / 4.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    reach = (
        canvas.x.shape[1]
        if canvas.span < 120.0
        else int((_MILL[0] + 30.0 + (canvas.span - 192.0) / 2.0) / canvas.pixel)
    )
    x, y = canvas.x[None, :, :reach] - _MILL[0], canvas.y[None, rows] - hub_y
    u, v = cos * x + sin * y, cos * y - sin * x
    far, near = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    sheet = Sheet(picture[:, :, rows, :reach], None, canvas.pixel)
    sail = torch.maximum((far - 14.0).abs() - 7.5, near - 2.9)
    arm = torch.maximum(far - 21.0, near - 0.9)
    sheet.fill(torch.minimum(sail, arm) - 0.9, moment.colour("#5b4238"))
    sheet.fill(sail, moment.colour("#fff6e6"))
    sheet.fill(circle(x, y, (0.0, 0.0), 2.4), moment.colour("#5b4238"))


_FLIES = ((22.0, 104.0), (60.0, 110.0), (84.0, 100.0), (118.0, 107.0), (150.0, 101.0), (180.0, 110.0))


def _fireflies(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    rows = canvas.rows(88.0, 122.0)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    lit = ((moment.level("lamps") - 0.5) * 2.0).clamp(min=0.0)
    for parity in range(2):
        x = canvas.x[None] - 4.0 * moment.wave(96, parity * 0.5)
        y = canvas.y[None, rows] - 3.0 * moment.wave(96, 0.25 + parity * 0.3)
        away = join(*[circle(x, y, spot, 0.0) for order, spot in enumerate(_FLIES) if order % 2 == parity])
        shine = lit * (0.65 + 0.35 * moment.wave(48, parity * 0.5))
        sheet.blend(torch.exp(-((away / 3.0) ** 2)) * shine, canvas.paint("#f4ff9a"))


# City -----------------------------------------------------------------------------------------------------------------

_STREET = 113.0
_TOWERS = (
    # left edge, width, roof, colour, windows across
    (-6.0, 25.0, 62.0, "#8a6f9e", 3),
    (21.0, 22.0, 78.0, "#c97b63", 3),
    (45.0, 27.0, 88.0, "#6f8fb5", 4),
    (74.0, 20.0, 94.0, "#d0a15f", 3),
    (96.0, 22.0, 90.0, "#7d7fae", 3),
    (120.0, 26.0, 84.0, "#b9696b", 4),
    (148.0, 21.0, 66.0, "#6a9c9b", 3),
    (171.0, 29.0, 74.0, "#9877ab", 4),
)
_FAR = (
    (0, 70),
    (17, 58),
    (33, 74),
    (50, 66),
    (66, 80),
    (84, 72),
    (103, 82),
    (118, 70),
    (136, 60),
    (152, 76),
    (166, 56),
    (182, 68),
)


def _city_still(sheet: Sheet, canvas: Canvas, light: Light) -> None:
    paint = Paint(canvas, light)
    x, y = canvas.x, canvas.y
    skyline = join(
        *[box(x, y, (left + 8.0, roof + 40.0), (8.5, 40.0)) for left, roof in _FAR],
        box(x, y, (96.0, 118.0), (400.0, 34.0)),
    )
    haze = torch.lerp(paint("#7f8fb8", 0.45), paint("#7f8fb8", 0.75), ramp(56.0, 100.0, y + 0.0 * x)[None])
    sheet.fill(skyline, haze[None])
    for left, width, roof, code, across in _TOWERS:
        body = box(x, y, (left + width / 2.0, roof + 40.0), (width / 2.0, 40.0), 1.0)
        wall = torch.lerp(
            paint(code, 0.05), paint("#46405e", 0.0), ramp(roof - 10.0, roof + 70.0, y + 0.5 * (x - left))[None]
        )
        sheet.fill(body - 1.3, paint("#2e2a44"))
        sheet.fill(body, wall[None])
        sheet.fill(
            box(x, y, (left + width / 2.0, roof + 1.6), (width / 2.0, 1.6), 0.5),
            torch.lerp(paint(code), paint("#ffffff"), 0.25),
        )
        panes = join(*[box(x, y, spot, (1.9, 2.6), 0.6) for spot in _windows(left, width, roof, across)])
        sheet.fill(panes, torch.lerp(paint("#cfe6f5"), paint("#2a2b4a"), 0.25 + 0.5 * light.lamps))
    pavement = box(x, y, (96.0, _STREET + 20.0), (400.0, 20.0))
    sheet.fill(pavement, paint("#b3aab0"))
    sheet.fill(
        pavement + 3.0, torch.lerp(paint("#5d5a6b"), paint("#3f3d4d"), ramp(_STREET, BOTTOM, y + 0.0 * x)[None])[None]
    )
    dash = (torch.remainder(x, 24.0) - 12.0).abs() - 6.0
    sheet.fill(torch.maximum(dash, (y - 122.5).abs() - 1.1), paint("#f3e3a0"), soft=1.6)


def _windows(left: float, width: float, roof: float, across: int) -> list[tuple[float, float]]:
    gap = width / across
    rows = int((_STREET - roof - 9.0) // 9.0)
    return [(left + gap * (column + 0.5), roof + 9.5 + 9.0 * row) for row in range(rows) for column in range(across)]


@functools.lru_cache(maxsize=8)
def lit_windows(canvas: Canvas) -> Tensor:
    """Three groups of lit windows, each with its own twinkle, [3, h, w]."""
    draw = random.Random(11)
    groups: list[list[Tensor]] = [[], [], []]
    for left, width, roof, _, across in _TOWERS:
        for spot in _windows(left, width, roof, across):
            group = draw.randrange(4)
            if group < 3:
                groups[group].append(box(canvas.x, canvas.y, spot, (1.9, 2.6), 0.6))
    return torch.stack([(0.5 - join(*group) / (1.5 * canvas.pixel)).clamp(0.0, 1.0) for group in groups])


def _city_living(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    lamps = moment.level("lamps")
    rows = canvas.rows(60.0, _STREET + 3.0)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    panes = lit_windows(canvas)
    for group in range(3):
        shine = lamps * (0.78 + 0.22 * moment.wave(96 if group == 0 else 48, group / 3.0))
        sheet.blend(panes[group, rows] * shine, canvas.paint(("#ffdf8a", "#ffc861", "#fff0b8")[group]))
    _tram(picture, canvas, moment)


def _tram(picture: Tensor, canvas: Canvas, moment: Moment) -> None:
    """A tram that crosses the picture, its windows lit in the dark."""
    rows = canvas.rows(_STREET - 14.0, BOTTOM)
    sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
    lamps = moment.level("lamps")
    drift = moment.turn(192) * canvas.span
    x = torch.remainder(canvas.x[None] - 24.0 - drift + canvas.span / 2.0, canvas.span) - canvas.span / 2.0
    y = canvas.y[None, rows] - 112.0
    body = box(x, y, (0.0, 0.0), (23.0, 7.0), 3.0)
    sheet.fill(body - 1.4, moment.colour("#2a2438"))
    sheet.fill(body, moment.colour("#f2e6cf"))
    sheet.fill(torch.maximum(body, 2.6 - y), moment.colour("#3f8f86"))
    panes = torch.maximum(
        torch.maximum((torch.remainder(x, 9.0) - 4.5).abs() - 3.1, x.abs() - 20.5), (y + 1.7).abs() - 2.4
    )
    glass = torch.lerp(moment.colour("#9fd0e4"), canvas.paint("#ffe396"), lamps[:, None])
    sheet.fill(panes, glass)


PLACES = {
    "sea": Place(still=_sea_still, living=_sea_living),
    "meadow": Place(still=_meadow_still, living=_meadow_living),
    "city": Place(still=_city_still, living=_city_living),
    **WILDS,
}
