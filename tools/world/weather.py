"""Weather over a finished picture: grey skies, snow on the land, fog, and what falls.

Drops and flakes lie on a veil painted once; it slides by whole pixels and comes back round the edges, so they are
always the same and cost one look-up a frame. Wherever it begins to rain or snow, the veil begins where it does at a
stream's start. It knows no place and no subject.

n = pictures, h = rows, w = columns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .lights import HORIZON, Canvas, Moment
from .motion import REFERENCE_HEIGHT, Floats, Ints, Mix
from .scene import WEATHERS
from .shapes import join, segment

_GREY = {"noon": "#93a9bd", "sunset": "#8f6f86", "night": "#1d2745", "morning": "#a3adc1"}
"""The sky's colour behind clouds that cover all of it."""
_FOG = {"noon": "#e4edf2", "sunset": "#e3b7a6", "night": "#4a5b86", "morning": "#f3ebe6"}
_SNOW = {"noon": "#ffffff", "sunset": "#ffe6dc", "night": "#8fa0d0", "morning": "#fff6f2"}
_DROPS = {"noon": "#eef7ff", "sunset": "#f3d9e0", "night": "#8ea6de", "morning": "#ffffff"}
_OVERCAST = {"rain": 0.74, "snow": 0.5, "fog": 0.45}
_SNOW_ON_LAND = 0.5
_FOG_BEFORE_SUBJECT = 0.16
_BANKS_PERIOD = 384

Step = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fall:
    """Things that fall side by side: how many, thickness, length, way a frame (right, down), how well they are seen."""

    count: int
    thick: float
    length: float
    step: Step
    strength: float
    seed: int


_RAIN = (_Fall(count=22, thick=2.0, length=13.0, step=(-2.0, 4.0), strength=0.5, seed=5),)
_FLAKES = (
    _Fall(count=20, thick=3.2, length=0.0, step=(-0.5, 1.0), strength=0.8, seed=23),
    _Fall(count=13, thick=5.4, length=0.0, step=(-0.5, 2.0), strength=0.95, seed=42),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """How much of each weather n frames show, [n, weathers] that sum to one, and for how many frames they have."""

    amount: Floats
    age: Ints

    @classmethod
    def of(cls, weather: Mix, frame: Ints) -> Shown:
        count = len(WEATHERS)
        ages = np.stack([weather.age(value, frame) for value in range(count)], axis=1)
        return cls(amount=weather.of(np.eye(count)), age=ages)

    def part(self, rows: Ints) -> Shown:
        """The same of some of the n frames."""
        return Shown(amount=self.amount[rows], age=self.age[rows])

    def of_one(self, name: str) -> tuple[Floats, Ints]:
        """Amounts and ages [n] of one weather."""
        value = WEATHERS.index(name)
        return self.amount[:, value], self.age[:, value]

    def wet(self) -> Ints:
        """Which of the frames have any weather but a clear sky."""
        return np.flatnonzero(self.amount[:, WEATHERS.index("clear")] < 1.0)


class Weather:
    """The weathers of one picture size on one device."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._veils = {
            "rain": [(fall, _veil(canvas, fall)) for fall in _RAIN],
            "snow": [(fall, _veil(canvas, fall)) for fall in _FLAKES],
        }

    def cover_sky(self, picture: Tensor, moment: Moment, shown: Shown) -> None:
        """Grey the skies [n, 3, h, w], in place."""
        share = sum(_OVERCAST[name] * shown.of_one(name)[0] for name in _OVERCAST)
        picture.lerp_(moment.pick(_GREY), moment.column(np.asarray(share))[:, None].expand_as(picture))

    def whiten_land(self, colour: Tensor, alpha: Tensor, moment: Moment, shown: Shown) -> None:
        """Lay snow on the land, colour [n, 3, h, w] premultiplied with alpha [n, 1, h, w], in place."""
        share = moment.column(_SNOW_ON_LAND * shown.of_one("snow")[0])[:, None]
        colour.lerp_(moment.pick(_SNOW) * alpha, share.expand_as(colour))

    def haze(self, picture: Tensor, moment: Moment, shown: Shown) -> None:
        """Fog over what stands behind the subject: thickest at the horizon, with banks that drift."""
        canvas = self._canvas
        amount, age = shown.of_one("fog")
        fog = moment.column(amount)
        near = torch.exp(-(((canvas.y - HORIZON) / 46.0) ** 2))
        x = canvas.x[None] / canvas.span - moment.column(np.mod(age, _BANKS_PERIOD) / _BANKS_PERIOD)
        bank = torch.sin(2.0 * torch.pi * x) * torch.sin(canvas.y[None] * 0.11 + 0.6)
        thick = fog * (0.36 + 0.3 * near[None] + 0.1 * bank)
        picture.lerp_(moment.pick(_FOG), thick[:, None].expand_as(picture))

    def fall(self, picture: Tensor, moment: Moment, shown: Shown) -> None:
        """Rain, snow and a breath of fog in front of everything."""
        fog = moment.column(_FOG_BEFORE_SUBJECT * shown.of_one("fog")[0])[:, None]
        picture.lerp_(moment.pick(_FOG), fog.expand_as(picture))
        for name, colours in (("rain", _DROPS), ("snow", _SNOW)):
            amount, age = shown.of_one(name)
            if not amount.any():
                continue
            colour = moment.pick(colours)
            for fall, veil in self._veils[name]:
                mask = self._slid(veil, age, fall.step) * moment.column(amount * fall.strength)
                picture.lerp_(colour.expand_as(picture), mask[:, None].expand_as(picture))

    def _slid(self, veil: Tensor, age: Ints, step: Step) -> Tensor:
        """The veil [h, w] where each frame finds it, so many frames after it began to fall: [n, h, w]."""
        height, width = veil.shape
        right = np.floor(np.mod(age * step[0] / self._canvas.pixel, width)).astype(np.int64)
        down = np.floor(np.mod(age * step[1] / self._canvas.pixel, height)).astype(np.int64)
        rows = np.mod(np.arange(height)[None, :] - down[:, None], height)
        columns = np.mod(np.arange(width)[None, :] - right[:, None], width)
        device = veil.device
        return veil[torch.from_numpy(rows).to(device)[:, :, None], torch.from_numpy(columns).to(device)[:, None, :]]


def _veil(canvas: Canvas, fall: _Fall) -> Tensor:
    """Everything of one fall, [h, w], without a seam at the edges; spread evenly, then shaken."""
    draw = random.Random(fall.seed)
    columns = max(round((fall.count * canvas.span / REFERENCE_HEIGHT) ** 0.5), 1)
    rows = max(round(fall.count / columns), 1)
    left = 96.0 - canvas.span / 2.0
    shapes = []
    for index in range(columns * rows):
        row, column = divmod(index, columns)
        at_x = left + canvas.span * (column + 0.5 * (row % 2) + draw.uniform(0.1, 0.9)) / columns
        at_y = REFERENCE_HEIGHT * (row + draw.uniform(0.1, 0.9)) / rows
        x = torch.remainder(canvas.x - at_x + canvas.span / 2.0, canvas.span) - canvas.span / 2.0
        y = torch.remainder(canvas.y - at_y + REFERENCE_HEIGHT / 2.0, REFERENCE_HEIGHT) - REFERENCE_HEIGHT / 2.0
        if fall.length:
            way = (fall.step[0] ** 2 + fall.step[1] ** 2) ** 0.5
            end = (0.5 * fall.length * fall.step[0] / way, 0.5 * fall.length * fall.step[1] / way)
            shapes.append(segment(x, y, (-end[0], -end[1]), end, fall.thick))
        else:
            shapes.append(torch.sqrt(x * x + y * y) - fall.thick / 2.0)
    soft = 1.8
    return (0.5 - join(*shapes) / (soft * canvas.pixel)).clamp(0.0, 1.0)
