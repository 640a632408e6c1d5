"""Pictures of scripts, many frames at once, on any torch device.

Every frame is a function of its script, its index in the stream and the picture's size alone: rendered alone, in a
batch or as part of a longer clip it is the same. The work goes chunk by chunk, so the memory needed does not grow with
the number of frames asked for (apart from the result, a byte per value).

B = scripts, T = frames of each, N = B * T, n = frames painted together, H = height, W = width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .lights import TABLE, Canvas, Light, Moment, paint_clouds, star_masks, still_sky
from .motion import REFERENCE_HEIGHT, Floats, Ints, Mix, Track, follow, swing
from .places import PLACES as PLACE_PAINTERS
from .scene import COLOURS, LIGHTS, PLACES, SUBJECTS, Script
from .shapes import Sheet, rgb
from .subjects import COLOURS as PAINTS
from .subjects import DRAWINGS, Look
from .weather import Shown, Weather

CHUNK = {"cpu": 16, "cuda": 768}
"""Frames painted together: what stays in the cache, or what keeps the card busy within about 4 GB."""
REACH = 40.0
"""No part of a subject, its halo included, is further from its middle (reference pixels)."""
HALO = 7.0
TILT = math.radians(2.5)
TILT_PERIOD = 96
_COLUMNS = 16
"""Subjects are painted on whole groups of columns: a vector unit's worth, so that no pixel depends on the rest."""


def render(
    scripts: Sequence[Script],
    *,
    first_frame: int,
    frames: int,
    height: int = 128,
    width: int = 192,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Frames [first_frame, first_frame + frames) of every script: uint8 [B, T, 3, H, W] on the device."""
    if not scripts or frames < 1 or first_frame < 0:
        raise ValueError(f"nothing to render: {len(scripts)} scripts, frames {first_frame} to {first_frame + frames}")
    stage = _stage(height, width, str(torch.device(device)))
    track = follow(scripts, first_frame=first_frame, frames=frames, span=stage.canvas.span)
    pictures = torch.empty(len(track), 3, height, width, dtype=torch.uint8, device=device)
    chunk = CHUNK.get(torch.device(device).type, CHUNK["cpu"])
    with torch.no_grad():
        if len(track) <= chunk:
            windows: list[slice | Ints] = [slice(0, len(track))]
        elif torch.device(device).type == "cpu":
            windows = [slice(start, start + chunk) for start in range(0, len(track), chunk)]
        else:
            order = _alike(track)
            windows = [order[start : start + chunk] for start in range(0, len(order), chunk)]
        for window in windows:
            painted = stage.paint(track.part(window)).mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
            pictures[window if isinstance(window, slice) else _to(window, pictures)] = painted
    return pictures.view(len(scripts), frames, 3, height, width)


@functools.lru_cache(maxsize=8)
def _stage(height: int, width: int, device: str) -> _Stage:
    return _Stage(height, width, torch.device(device))


class _Stage:
    """One picture size on one device, with everything that never moves painted beforehand."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.canvas = Canvas.make(height, width, REFERENCE_HEIGHT / height, device)
        lights = [TABLE[name] for name in LIGHTS]
        self._sky = torch.stack([still_sky(self.canvas, light) for light in lights])
        self._stars = star_masks(self.canvas)
        self._weather = Weather(self.canvas)
        self._land = {name: self._paint_land(name, lights) for name in PLACES}

    def _paint_land(self, place: str, lights: list[Light]) -> tuple[Tensor, Tensor]:
        """What stands still in a place under every light: colour [L, 3, H, W] and what it leaves of the sky."""
        height, width = self.canvas.size
        colours, alphas = [], []
        for light in lights:
            sheet = Sheet.clear(1, height, width, pixel=self.canvas.pixel, device=self.canvas.device)
            PLACE_PAINTERS[place].still(sheet, self.canvas, light)
            colours.append(sheet.colour)
            alphas.append(sheet.alpha)
        return torch.cat(colours), 1.0 - torch.cat([alpha for alpha in alphas if alpha is not None])

    def paint(self, track: Track) -> Tensor:
        """The frames of a track, [n, 3, H, W] in 0..1."""
        pictures = self._backgrounds(track)
        for subject, chosen, share in _jobs(track.subject):
            self._add_subject(pictures, track, subject, chosen, share)
        self._let_fall(pictures, track)
        return pictures

    def _let_fall(self, pictures: Tensor, track: Track) -> None:
        shown = Shown.of(track.weather, track.frame)
        wet = shown.wet()
        if not len(wet):
            return
        where = _to(wet, pictures)
        falling = pictures[where]
        moment = Moment(track.frame[wet], track.light.part(wet), self.canvas.device)
        self._weather.fall(falling, moment, shown.part(wet))
        pictures[where] = falling

    def _backgrounds(self, track: Track) -> Tensor:
        pictures: Tensor | None = None
        shown = Shown.of(track.weather, track.frame)
        for place, chosen, share in _jobs(track.place):
            age = track.place.age(place, track.frame)
            for light, among, light_share in _light_jobs(track.light, chosen):
                weight = share[among] * light_share
                where = chosen[among]
                painted = self._background(place, light, track.frame[where], age[where], shown.part(where))
                if len(where) == len(track) and bool(np.all(weight == 1.0)):
                    return painted
                if pictures is None:
                    pictures = torch.zeros(len(track), *painted.shape[1:], device=painted.device)
                pictures.index_add_(0, _to(where, painted), painted.mul_(_column(weight, painted)))
        if pictures is None:
            raise ValueError("a track without frames has no background")
        return pictures

    def _background(self, place: int, light: Ints, frame: Ints, age: Ints, shown: Shown) -> Tensor:
        """One place, each frame under one light; age: for how many frames it has been there."""
        moment = Moment(frame, Mix.steady(light), self.canvas.device)
        index = torch.from_numpy(light).to(self.canvas.device)
        wet = len(shown.wet()) > 0
        pictures = self._sky[index]
        paint_clouds(pictures, self.canvas, moment, self._stars)
        colour, left = (still[index] for still in self._land[PLACES[place]])
        if wet:
            self._weather.cover_sky(pictures, moment, shown)
            self._weather.whiten_land(colour, 1.0 - left, moment, shown)
        pictures.mul_(left).add_(colour)
        PLACE_PAINTERS[PLACES[place]].living(pictures, self.canvas, Moment(age, Mix.steady(light), self.canvas.device))
        if wet:
            self._weather.haze(pictures, moment, shown)
        return pictures

    def _add_subject(self, pictures: Tensor, track: Track, subject: int, chosen: Ints, share: Floats) -> None:
        rows, columns = self._window(track.x[chosen], track.y[chosen])
        x, y = self._local(track, chosen, rows, columns)
        look = self._look(track, chosen, track.subject.age(subject, track.frame)[chosen])
        sheet = Sheet.clear(*x.shape, pixel=self.canvas.pixel, device=x.device)
        silhouette = DRAWINGS[SUBJECTS[subject]](sheet, x, y, look)
        halo = _column(track.light.of(np.array([TABLE[name].halo for name in LIGHTS]))[chosen], x)[..., 0]
        shine = (1.0 - silhouette.clamp(min=0.0) / HALO).clamp(min=0.0)
        sheet.under(shine * shine * halo, torch.lerp(look.lit, look.own("#fff4d8"), 0.5))
        weight = _column(share, x)
        where = _to(chosen, x)
        patch = pictures[:, :, rows, columns]
        alpha = sheet.alpha
        if alpha is None:
            raise ValueError("a subject's sheet is see-through")
        patch[where] = patch[where] * (1.0 - weight * alpha) + weight * sheet.colour

    def _window(self, x: Floats, y: Floats) -> tuple[slice, slice]:
        """Rows and columns that hold every subject of a chunk; all of them when one is cut by an edge."""
        height, width = self.canvas.size
        pixel = self.canvas.pixel
        left = 96.0 - self.canvas.span / 2.0
        x = np.mod(x - left, self.canvas.span)
        y = np.mod(y, REFERENCE_HEIGHT)
        rows, columns = slice(0, height), slice(0, width)
        if y.min() - REACH >= 0.0 and y.max() + REACH <= REFERENCE_HEIGHT:
            rows = slice(int((y.min() - REACH) / pixel), int((y.max() + REACH) / pixel) + 1)
        if x.min() - REACH >= 0.0 and x.max() + REACH <= self.canvas.span:
            first = int((x.min() - REACH) / pixel) // _COLUMNS * _COLUMNS
            last = -(-(int((x.max() + REACH) / pixel) + 1) // _COLUMNS) * _COLUMNS
            columns = slice(first, min(last, width))
        return rows, columns

    def _local(self, track: Track, chosen: Ints, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Pixel centres as the subject sees them, [n, h, w]: from its middle, round the edges, turned and tilted."""
        grid = self.canvas
        span = grid.span
        x = _column(np.mod(track.x[chosen], span), grid.x)[..., 0]
        y = _column(np.mod(track.y[chosen], REFERENCE_HEIGHT), grid.x)[..., 0]
        across = torch.remainder(grid.x[None, :, columns] - x + span / 2.0, span) - span / 2.0
        half = REFERENCE_HEIGHT / 2.0
        down = torch.remainder(grid.y[None, rows] - y + half, REFERENCE_HEIGHT) - half
        angle = TILT * swing(track.frame[chosen], TILT_PERIOD)
        cos, sin = _column(np.cos(angle), grid.x)[..., 0], _column(np.sin(angle), grid.x)[..., 0]
        facing = _column(track.facing[chosen], grid.x)[..., 0]
        return (cos * across + sin * down) / facing, cos * down - sin * across

    def _look(self, track: Track, chosen: Ints, age: Ints) -> Look:
        device = self.canvas.device
        tint = track.light.of(np.array([TABLE[name].subject_tint for name in LIGHTS]))[chosen]
        paints = [track.colour.of(np.array([rgb(PAINTS[name][side]) for name in COLOURS]))[chosen] for side in range(3)]
        body, lit, shade = (_colour(paint * tint, device) for paint in paints)
        line = _colour(paints[2] * tint * 0.3 + 0.02, device)
        return Look(
            body=body,
            lit=lit,
            shade=shade,
            line=line,
            tint=_colour(tint, device),
            frame=age,
        )


def _alike(track: Track) -> Ints:
    """An order of the frames in which those that show the same things lie together: fewer, larger strokes."""
    return np.lexsort((track.weather.new, track.light.new, track.subject.new, track.place.new))


def _jobs(mix: Mix) -> list[tuple[int, Ints, Floats]]:
    """Per value in use: which of the frames show it, and with what share."""
    jobs = []
    for value in np.union1d(mix.old, mix.new).tolist():
        share = np.where(mix.new == value, mix.share, 0.0) + np.where(mix.old == value, 1.0 - mix.share, 0.0)
        chosen = np.flatnonzero(share > 0.0)
        if len(chosen):
            jobs.append((int(value), chosen, share[chosen]))
    return jobs


def _light_jobs(mix: Mix, chosen: Ints) -> list[tuple[Ints, Ints, Floats]]:
    """The chosen frames under their new light, then those that still show an old one: lights, positions, shares."""
    new, old, share = mix.new[chosen], mix.old[chosen], mix.share[chosen]
    everyone = np.arange(len(chosen))
    fading = np.flatnonzero((share < 1.0) & (old != new))
    full = np.where(old == new, 1.0, share)
    jobs = [(new, everyone, full)]
    if len(fading):
        jobs.append((old[fading], fading, 1.0 - share[fading]))
    return jobs


def _to(index: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(index).to(like.device)


def _column(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)[:, None, None, None]


def _colour(values: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)[:, :, None, None]
