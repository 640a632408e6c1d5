"""The four lights: skies, sun or moon, stars, clouds, and how each light tints what stands in it.

It knows no place and no subject. Positions are reference pixels of a 192x128 picture.

n = pictures, h = rows, w = columns, L = lights.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .motion import WORLD_CYCLE, Floats, Ints, Mix, swing
from .scene import LIGHTS
from .shapes import Point, Sheet, box, circle, join, ramp, rgb

HORIZON = 84.0
CLOUD_SPEED = 0.5
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """One time of day."""

    top: str
    middle: str
    low: str
    disc: str
    disc_at: Point
    disc_radius: float
    glow: str
    glow_reach: float
    cloud: str
    cloud_shade: str
    tint: Colour
    """Multiplies every colour of the land."""
    subject_tint: Colour
    """Multiplies the subject's colours: gentler, so that its colour is told at any hour."""
    haze: float
    """How strongly distance fades into the low sky."""
    lamps: float
    """How much of the lamps, windows and stars is lit, 0..1."""
    halo: float
    """Strength of the light around the subject."""


TABLE = {
    "noon": Light(
        top="#2f86e0",
        middle="#6fbcf4",
        low="#d8f1fd",
        disc="#fffbe0",
        disc_at=(156.0, 25.0),
        disc_radius=11.0,
        glow="#fff6c4",
        glow_reach=20.0,
        cloud="#ffffff",
        cloud_shade="#cfe4f5",
        tint=(1.0, 1.0, 1.0),
        subject_tint=(1.0, 1.0, 1.0),
        haze=1.0,
        lamps=0.0,
        halo=0.0,
    ),
    "sunset": Light(
        top="#4a2f7d",
        middle="#e0607a",
        low="#ffc163",
        disc="#fff3b4",
        disc_at=(44.0, 62.0),
        disc_radius=14.0,
        glow="#ff9a3c",
        glow_reach=34.0,
        cloud="#f59aa0",
        cloud_shade="#a3598f",
        tint=(0.9, 0.62, 0.58),
        subject_tint=(1.0, 0.9, 0.86),
        haze=0.85,
        lamps=0.45,
        halo=0.18,
    ),
    "night": Light(
        top="#060b28",
        middle="#122258",
        low="#2c4a8c",
        disc="#fdf7da",
        disc_at=(152.0, 28.0),
        disc_radius=12.0,
        glow="#7f9be6",
        glow_reach=22.0,
        cloud="#3a4c8e",
        cloud_shade="#222f66",
        tint=(0.25, 0.31, 0.54),
        subject_tint=(0.9, 0.92, 1.0),
        haze=0.7,
        lamps=1.0,
        halo=0.42,
    ),
    "morning": Light(
        top="#8fbdea",
        middle="#f7cfd8",
        low="#fff0b8",
        disc="#fffdec",
        disc_at=(40.0, 50.0),
        disc_radius=12.0,
        glow="#ffe28a",
        glow_reach=30.0,
        cloud="#fff6f1",
        cloud_shade="#efc3cb",
        tint=(0.97, 0.9, 0.86),
        subject_tint=(1.0, 0.98, 0.95),
        haze=1.15,
        lamps=0.0,
        halo=0.0,
    ),
}


def graded(code: str, light: Light, depth: float = 0.0) -> Colour:
    """A thing's own colour '#rrggbb' as that light shows it, `depth` (0..1) of the way into the haze."""
    fade = min(depth * light.haze, 1.0)
    red, green, blue = (
        own * tint * (1.0 - fade) + far * fade
        for own, tint, far in zip(rgb(code), light.tint, rgb(light.low), strict=True)
    )
    return (red, green, blue)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """A picture's pixel centres in reference pixels: x [1, w], y [h, 1], and a pixel's size in the same units."""

    x: Tensor
    y: Tensor
    pixel: float
    span: float
    """Width of the picture; whatever drifts comes back after it."""

    @classmethod
    def make(cls, height: int, width: int, pixel: float, device: torch.device) -> Canvas:
        """The whole picture, the reference picture's middle in its middle."""
        x = (torch.arange(width, device=device) + 0.5 - width / 2.0) * pixel + 96.0
        y = (torch.arange(height, device=device) + 0.5) * pixel
        return cls(x=x[None, :], y=y[:, None], pixel=pixel, span=width * pixel)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y.shape[0], self.x.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the picture lives."""
        return self.x.device

    def rows(self, low: float, high: float) -> slice:
        """Rows that show anything between two heights."""
        first = max(int(low / self.pixel) - 1, 0)
        return slice(first, max(min(int(high / self.pixel) + 2, self.y.shape[0]), first + 1))

    def tensor(self, colour: Colour) -> Tensor:
        """A colour as [3, 1, 1]."""
        return torch.tensor(colour, device=self.device).view(3, 1, 1)

    def paint(self, code: str) -> Tensor:
        """'#rrggbb' as [3, 1, 1], as it is."""
        return self.tensor(rgb(code))


class Moment:
    """n frames: their indices (or ages of what is drawn) and lights, asked for phases and colours."""

    def __init__(self, frame: Ints, light: Mix, device: torch.device) -> None:
        self.frame = frame
        self.device = device
        self._light = light

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, values: Floats) -> Tensor:
        """A number per frame as [n, 1, 1]."""
        return torch.from_numpy(values.astype(np.float32)).to(self.device)[:, None, None]

    def pick(self, codes: Mapping[str, str]) -> Tensor:
        """A colour per light's name as each frame shows it, [n, 3, 1, 1]."""
        return self._rows([rgb(codes[name]) for name in LIGHTS])

    def wave(self, period: int, phase: float = 0.0) -> Tensor:
        """sin of a turn every `period` frames, [n, 1, 1]."""
        return self.column(swing(self.frame, period, phase))

    def turn(self, period: int) -> Tensor:
        """Share of the period gone by, 0..1, [n, 1, 1]."""
        return self.column(np.mod(self.frame, period) / period)

    def colour(self, code: str, depth: float = 0.0) -> Tensor:
        """A colour of the land as each frame's light shows it, [n, 3, 1, 1]."""
        return self._rows([graded(code, TABLE[name], depth) for name in LIGHTS])

    def look(self, field: str) -> Tensor:
        """A colour of the light itself ('cloud', 'disc', ...), [n, 3, 1, 1]."""
        return self._rows([rgb(getattr(TABLE[name], field)) for name in LIGHTS])

    def level(self, field: str) -> Tensor:
        """A number of the light itself ('lamps', ...), [n, 1, 1]."""
        return self.column(self._light.of(np.array([getattr(TABLE[name], field) for name in LIGHTS])))

    def disc_x(self) -> Tensor:
        """Where the sun or moon stands, [n, 1, 1]."""
        return self.column(self._light.of(np.array([TABLE[name].disc_at[0] for name in LIGHTS])))

    def _rows(self, table: list[Colour]) -> Tensor:
        chosen = self._light.of(np.array(table))
        return torch.from_numpy(chosen.astype(np.float32)).to(self.device)[:, :, None, None]


def still_sky(canvas: Canvas, light: Light) -> Tensor:
    """The sky without clouds and stars, [3, h, w]: gradient, glow, sun or moon."""
    h, w = canvas.size
    height = canvas.y.expand(h, w)[None] / HORIZON
    top, middle, low = canvas.paint(light.top), canvas.paint(light.middle), canvas.paint(light.low)
    sky = torch.lerp(top, middle, ramp(-0.1, 0.62, height))
    sky = torch.lerp(sky, low, ramp(0.38, 1.05, height))
    sheet = Sheet(sky[None].clone(), None, canvas.pixel)
    away = circle(canvas.x, canvas.y, light.disc_at, 0.0)
    glow = 0.85 * torch.exp(-((away / light.glow_reach) ** 2)) + 0.25 * torch.exp(
        -((away / (2.5 * light.glow_reach)) ** 2)
    )
    sheet.blend(glow.clamp(max=1.0), canvas.paint(light.glow))
    sheet.fill(away - light.disc_radius, canvas.paint(light.disc), soft=2.0)
    if light is TABLE["night"]:
        for dx, dy, radius in ((-3.5, -3.0, 3.2), (4.0, 2.5, 2.4), (-2.0, 5.5, 1.8)):
            centre = (light.disc_at[0] + dx, light.disc_at[1] + dy)
            sheet.fill(circle(canvas.x, canvas.y, centre, radius), canvas.paint("#e3dcbc"), soft=2.0)
    return sheet.colour[0]


def star_masks(canvas: Canvas) -> Tensor:
    """Two groups of stars that twinkle in turn, [2, h, w]."""
    draw = random.Random(7)
    groups: list[list[Tensor]] = [[], []]
    columns, rows = 9, 3
    for index in range(columns * rows):
        x = 192.0 * ((index % columns) + draw.uniform(0.2, 0.8)) / columns
        y = 70.0 * ((index // columns) + draw.uniform(0.1, 0.9)) / rows
        radius = draw.choice((1.2, 1.5, 1.9))
        moon = TABLE["night"].disc_at
        if (x - moon[0]) ** 2 + (y - moon[1]) ** 2 < 22.0**2:
            continue
        groups[index % 2].append(circle(canvas.x, canvas.y, (x, y), radius))
    return torch.stack([(0.5 - join(*group) / (2.0 * canvas.pixel)).clamp(0.0, 1.0) for group in groups])


_CLOUDS = (
    ((22.0, 26.0), ((0.0, 0.0, 9.5), (-11.0, 3.5, 6.5), (11.5, 3.0, 7.0)), 16.5),
    ((128.0, 43.0), ((-4.0, 0.0, 7.5), (6.5, 2.0, 6.5), (-13.0, 3.5, 4.5)), 13.5),
)


def paint_clouds(picture: Tensor, canvas: Canvas, moment: Moment, stars: Tensor) -> None:
    """Add twinkling stars and drifting clouds to skies [n, 3, h, w], in place."""
    lamps = moment.level("lamps")
    stars_lit = ((lamps - 0.5) * 2.0).clamp(min=0.0)
    white = canvas.paint("#fffbe8")
    top = canvas.rows(0.0, 74.0)
    sky = Sheet(picture[:, :, top], None, canvas.pixel)
    for index in range(2):
        shine = stars_lit * (0.65 + 0.35 * moment.wave(48, index / 2.0))
        sky.blend(stars[index, top] * shine, white)
    body, shade = moment.look("cloud"), moment.look("cloud_shade")
    drift = moment.turn(WORLD_CYCLE) * (WORLD_CYCLE * CLOUD_SPEED * canvas.span / 192.0)
    for (at_x, at_y), puffs, half in _CLOUDS:
        rows = canvas.rows(at_y - 12.0, at_y + 12.0)
        x = torch.remainder(canvas.x[None] - at_x - drift + canvas.span / 2.0, canvas.span) - canvas.span / 2.0
        y = canvas.y[None, rows] - at_y
        shape = join(
            *[circle(x, y, (cx, cy), radius) for cx, cy, radius in puffs], box(x, y, (0.0, 6.0), (half, 4.0), 4.0)
        )
        sheet = Sheet(picture[:, :, rows], None, canvas.pixel)
        colour = torch.lerp(body, shade, ramp(-4.0, 10.0, y)[:, None])
        sheet.blend(sheet.cover(shape, 2.0) * 0.92, colour.expand(-1, -1, -1, picture.shape[-1]))
