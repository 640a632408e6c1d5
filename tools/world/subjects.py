"""The subjects, each drawn about its own middle, some 52 reference pixels high, looking to the right.

A drawing paints a see-through sheet and returns the distance to its silhouette, for the light around it.
It knows no place; colours come ready for the light.

n = pictures, h = rows, w = columns; x and y are [n, h, w], reference pixels from the subject's middle, y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .motion import Floats, Ints, swing
from .shapes import Sheet, box, circle, drop, ellipse, join, lens, polygon, ramp, rgb, segment

OUTLINE = 1.7
COLOURS = {
    "red": ("#e8322e", "#ff7d66", "#a81328"),
    "yellow": ("#ffd021", "#fff08a", "#d98a0a"),
    "green": ("#2fb54a", "#8fe06e", "#0f7a3f"),
    "blue": ("#2468e6", "#6fb4ff", "#1738a0"),
    "purple": ("#9a3fd0", "#cf8df5", "#5f1d94"),
    "orange": ("#ff8418", "#ffbb60", "#c4500a"),
    "pink": ("#ff7dba", "#ffc0de", "#d0408c"),
    "white": ("#f7f5f2", "#ffffff", "#b9bccb"),
}
"""Body, lit side, shaded side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """n subjects' colours under their lights, [n, 3, 1, 1] each, and for how many frames they have been there."""

    body: Tensor
    lit: Tensor
    shade: Tensor
    line: Tensor
    tint: Tensor
    frame: Ints

    def own(self, code: str) -> Tensor:
        """A part's own colour under the light."""
        return self.tint * torch.tensor(rgb(code), device=self.tint.device).view(1, 3, 1, 1)

    def wave(self, period: int, phase: float = 0.0) -> Tensor:
        """sin of a turn every `period` frames, [n, 1, 1]."""
        values: Floats = swing(self.frame, period, phase)
        return torch.from_numpy(values.astype(np.float32)).to(self.tint.device)[:, None, None]

    def shaded(self, across: Tensor, low: float, high: float) -> Tensor:
        """The body's colour from its lit side (where `across` is low) to its shaded one."""
        part = ramp(low, high, across)[:, None]
        near = torch.lerp(self.lit, self.body, (part * 2.0).clamp(max=1.0))
        return torch.lerp(near, self.shade, (part * 2.0 - 1.0).clamp(min=0.0))


Drawing = Callable[[Sheet, Tensor, Tensor, Look], Tensor]


def _balloon(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    bag = drop(x, y, (0.0, -8.0), 19.0, 19.5, 5.0)
    basket = box(x, y, (0.0, 22.5), (5.6, 4.2), 1.5)
    for side in (-1.0, 1.0):
        sheet.fill(segment(x, y, (5.0 * side, 13.0), (4.4 * side, 20.0), 1.8), look.line)
    sheet.fill(bag - OUTLINE, look.line)
    sheet.fill(bag, look.shaded(x + 0.45 * y, -24.0, 22.0))
    # Gores narrow with the bag: a half turn of a sphere above, a cone below, met without a step.
    width = torch.sqrt((400.0 - (y + 8.0) ** 2).clamp(min=1.0))
    width = torch.where(y > -0.5, 18.6 - 0.62 * (y + 0.5), width).clamp(min=1.0)
    gore = torch.maximum((x.abs() / width - 0.5).abs() * width - 0.14 * width, bag + 0.6)
    pale = torch.lerp(look.lit, look.own("#fffaf0"), 0.75)
    pale = torch.lerp(pale, look.body, 0.5 * ramp(-6.0, 24.0, x + 0.45 * y)[:, None])
    sheet.fill(gore, pale)
    sheet.fill(basket - OUTLINE, look.line)
    sheet.fill(basket, torch.lerp(look.own("#d99a52"), look.own("#8a5427"), ramp(19.0, 26.0, y)[:, None]))
    sheet.fill(box(x, y, (0.0, 13.4), (5.4, 1.5), 1.0), look.shade)
    return join(bag, basket)


def _boat(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    hull = polygon(x, y, ((-23.0, 12.0), (24.0, 12.0), (15.0, 23.0), (-16.0, 23.0)), 1.5)
    main = polygon(x, y, ((2.0, -24.0), (2.0, 6.0), (21.0, 6.0)), 1.0)
    jib = polygon(x, y, ((-3.5, -17.0), (-3.5, 6.0), (-18.0, 6.0)), 1.0)
    mast = segment(x, y, (-0.8, -26.0), (-0.8, 12.0), 2.4)
    sheet.fill(join(main, jib) - OUTLINE, look.line)
    sheet.fill(mast - 0.6, look.line)
    sheet.fill(main, look.shaded(x - 0.3 * y, -4.0, 22.0))
    sail = torch.lerp(look.own("#fffaf0"), look.lit, 0.18)
    sheet.fill(jib, torch.lerp(sail, look.own("#d9c9b8"), ramp(-14.0, 6.0, y)[:, None]))
    sheet.fill(hull - OUTLINE, look.line)
    sheet.fill(hull, look.shaded(y, 8.0, 26.0))
    sheet.fill(torch.maximum(hull + 0.4, (y - 14.6).abs() - 1.6), look.own("#fff6e8"))
    return join(hull, main, jib)


def _car(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    x, y = x / 1.12, y / 1.12
    body = box(x, y, (0.0, 5.0), (25.0, 8.5), 6.0)
    cabin = polygon(x, y, ((-14.0, -2.0), (-9.5, -12.5), (7.5, -12.5), (13.5, -2.0)), 3.0)
    shell = join(body, cabin)
    wheels = join(circle(x, y, (-13.0, 13.0), 6.6), circle(x, y, (13.5, 13.0), 6.6))
    sheet.fill(shell - OUTLINE, look.line)
    sheet.fill(shell, look.shaded(y, -17.0, 16.0))
    panes = join(
        polygon(x, y, ((-12.0, -2.6), (-8.6, -10.6), (-2.6, -10.6), (-2.6, -2.6)), 0.8),
        polygon(x, y, ((2.0, -2.6), (2.0, -10.6), (6.8, -10.6), (11.0, -2.6)), 0.8),
    )
    sheet.fill(panes - 1.0, look.line)
    sheet.fill(panes, torch.lerp(look.own("#d8f3ff"), look.own("#7fb6d8"), ramp(-11.0, -2.0, y)[:, None]))
    sheet.fill(torch.maximum(body + 1.0, (y - 5.2).abs() - 0.8), look.shade)
    sheet.fill(wheels - 1.2, look.line)
    sheet.fill(wheels, look.own("#3b3a4a"))
    sheet.fill(join(circle(x, y, (-13.0, 13.0), 3.0), circle(x, y, (13.5, 13.0), 3.0)), look.own("#dfe3ea"))
    lamp = circle(x, y, (23.0, 2.5), 2.7)
    sheet.fill(lamp - 0.9, look.line)
    sheet.fill(lamp, look.own("#fff2a0"))
    return join(shell, wheels) * 1.12


def _rocket(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    flicker = 1.0 + 0.16 * look.wave(12) + 0.1 * look.wave(24, 0.3)
    for half, length, code in ((5.6, 14.0, "#ff7a1c"), (3.0, 8.5, "#fff0a0")):
        flame = lens(x, (y - 15.0) / flicker, (0.0, 0.0), (half, length))
        sheet.fill(flame, look.own(code), soft=2.2)
    fins = join(
        polygon(x, y, ((-7.0, 3.0), (-17.5, 15.0), (-16.5, 20.5), (-7.0, 16.0)), 1.0),
        polygon(x, y, ((7.0, 3.0), (17.5, 15.0), (16.5, 20.5), (7.0, 16.0)), 1.0),
    )
    sheet.fill(fins - OUTLINE, look.line)
    sheet.fill(fins, look.shaded(x, -40.0, 8.0))
    body = torch.maximum(lens(x, y, (0.0, -1.0), (11.5, 27.0)), y - 16.0)
    nozzle = box(x, y, (0.0, 16.6), (6.2, 2.0), 1.0)
    sheet.fill(join(nozzle, body) - OUTLINE, look.line)
    sheet.fill(nozzle, look.own("#8d8fa6"))
    sheet.fill(body, look.shaded(x + 0.15 * y, -11.0, 11.0))
    nose = torch.maximum(body, y + 12.5)
    sheet.fill(nose, torch.lerp(look.own("#fffaf2"), look.own("#c9bfc9"), ramp(-6.0, 6.0, x)[:, None]))
    sheet.fill(torch.maximum(body, (y + 12.0).abs() - 0.9), look.line)
    sheet.fill(torch.maximum(body, (y - 11.0).abs() - 1.8), look.own("#fff6ea"))
    port = circle(x, y, (0.0, -2.0), 4.8)
    sheet.fill(port - 1.7, look.line)
    sheet.fill(port, torch.lerp(look.own("#e2f7ff"), look.own("#6fb2dc"), ramp(-5.0, 6.0, x + y + 2.0)[:, None]))
    return join(fins, body, nozzle)


def _bird(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    tail = polygon(x, y, ((-13.0, 3.0), (-28.0, -5.0), (-27.0, 2.0), (-29.0, 8.0), (-12.0, 11.0)), 1.0)
    body = ellipse(x, y, (-1.0, 5.0), (18.0, 12.5))
    head = circle(x, y, (14.0, -6.0), 9.5)
    beak = polygon(x, y, ((21.5, -9.5), (31.0, -5.0), (21.5, -1.5)), 0.6)
    sheet.fill(join(tail, beak) - OUTLINE, look.line)
    sheet.fill(tail, look.shade)
    sheet.fill(beak, look.own("#ffb52e"))
    trunk = join(body, head)
    sheet.fill(trunk - OUTLINE, look.line)
    sheet.fill(trunk, look.shaded(y + 0.3 * x, -14.0, 22.0))
    breast = torch.maximum(ellipse(x, y, (6.0, 11.5), (13.0, 8.0)), trunk + 0.5)
    sheet.fill(breast, torch.lerp(look.lit, look.own("#fffaf0"), 0.7))
    sheet.fill(circle(x, y, (17.0, -8.0), 3.1), look.own("#ffffff"))
    sheet.fill(circle(x, y, (17.8, -8.0), 1.9), look.own("#20182c"))
    # The wing beats about the shoulder: turned, not squeezed, so that its outline stays as bold.
    angle = 0.25 + 0.5 * look.wave(24)
    cos, sin = torch.cos(angle), torch.sin(angle)
    u, v = cos * (x - 2.0) - sin * (y - 1.0), sin * (x - 2.0) + cos * (y - 1.0)
    wing = polygon(u, v, ((4.0, 2.0), (-2.0, -17.0), (-16.0, -26.0), (-14.0, -9.0), (-9.0, 2.0)), 2.0)
    sheet.fill(wing - OUTLINE, look.line)
    sheet.fill(wing, torch.lerp(look.body, look.shade, ramp(-20.0, 6.0, v)[:, None] * 0.8))
    return join(trunk, tail, wing, beak)


def _kite(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    y = y + 4.0
    sway = 2.5 * look.wave(48)
    bows = []
    for level, swing_share, at_x in ((22.0, 0.5, -2.0), (29.5, -1.0, -5.5)):
        across, down = (x - at_x - sway * swing_share).abs(), (y - level).abs()
        # Two triangles, tip to tip.
        bows.append(torch.maximum(across - 6.0, (down - 0.6 * across - 0.8) * 0.86))
    tail = join(*bows)
    string = segment(x - 0.25 * sway, y, (0.0, 17.0), (-5.5, 29.5), 1.8)
    frame = polygon(x, y, ((0.0, -26.0), (19.0, -8.0), (0.0, 18.0), (-19.0, -8.0)), 0.8)
    sheet.fill(string, look.line)
    sheet.fill(tail - 1.3, look.line)
    sheet.fill(tail, look.body)
    sheet.fill(frame - OUTLINE, look.line)
    sheet.fill(frame, look.shaded(x + y, -34.0, 26.0))
    pale = torch.lerp(look.lit, look.own("#fffaf0"), 0.6)
    for left, right in (((0.0, -26.0), (-19.0, -8.0)), ((19.0, -8.0), (0.0, 18.0))):
        panel = polygon(x, y, (left, right, (0.0, -8.0)))
        sheet.fill(torch.maximum(panel, frame + 0.8), pale)
    spars = join(segment(x, y, (0.0, -26.0), (0.0, 18.0), 1.7), segment(x, y, (-19.0, -8.0), (19.0, -8.0), 1.7))
    sheet.fill(torch.maximum(spars, frame), look.line)
    return join(frame, string)


def _plane(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    x, y = x / 1.1, y / 1.1
    upper = box(x, y, (5.0, -17.0), (14.0, 2.6), 2.0)
    struts = join(segment(x, y, (-4.0, -16.0), (-2.0, 2.0), 2.0), segment(x, y, (13.0, -16.0), (11.0, 2.0), 2.0))
    fin = polygon(x, y, ((-28.0, -15.0), (-21.0, -15.0), (-13.0, -2.0), (-26.0, -2.0)), 1.2)
    hull = polygon(x, y, ((-28.0, -3.0), (-8.0, -7.0), (20.0, -7.0), (24.0, 0.0), (20.0, 7.5), (4.0, 8.5)), 2.0)
    wheel = circle(x, y, (12.0, 17.5), 4.6)
    leg = segment(x, y, (10.0, 8.0), (12.0, 16.0), 2.6)
    blur = ellipse(x, y, (29.0, 0.0), (2.2, 15.0))
    sheet.fill(blur, look.own("#f4f6ff"), soft=2.5, strength=0.6)
    spin = 13.0 * look.wave(12).abs() + 2.0
    blade = torch.maximum((x - 29.0).abs() - 1.3, y.abs() - spin)
    sheet.fill(blade, look.line)
    sheet.fill(join(struts, leg), look.line)
    sheet.fill(join(fin, upper, hull) - OUTLINE, look.line)
    sheet.fill(fin, look.shade)
    sheet.fill(upper, look.shaded(y, -22.0, -10.0))
    sheet.fill(hull, look.shaded(y, -12.0, 12.0))
    sheet.fill(torch.maximum(hull + 0.4, (y - 3.4 + 0.06 * x).abs() - 1.3), look.own("#fff6e8"))
    sheet.fill(circle(x, y, (26.6, 0.0), 3.2), look.own("#4a4658"))
    pane = box(x, y, (3.0, -4.2), (4.6, 2.8), 1.5)
    sheet.fill(pane - 1.0, look.line)
    sheet.fill(pane, look.own("#bfe6fa"))
    lower = box(x, y, (3.0, 8.0), (13.0, 2.8), 2.0)
    sheet.fill(lower - OUTLINE, look.line)
    sheet.fill(lower, look.shaded(y, 4.0, 13.0))
    sheet.fill(wheel - 1.2, look.line)
    sheet.fill(wheel, look.own("#3b3a4a"))
    sheet.fill(circle(x, y, (12.0, 17.5), 1.9), look.own("#dfe3ea"))
    return join(fin, upper, hull, lower, wheel) * 1.1


def _whale(sheet: Sheet, x: Tensor, y: Tensor, look: Look) -> Tensor:
    rise = 1.0 + 0.18 * look.wave(24)
    water = []
    for side in (-1.0, 1.0):
        u, v = (x - 6.0) * side, (y + 14.0) / rise
        # An arc that falls outwards: part of a ring.
        arc = torch.maximum(circle(u, v, (6.0, -3.0), 6.0).abs() - 1.7, v + 2.0)
        water.append(arc)
    spout = join(*water, box(x, (y + 14.0) / rise, (6.0, 0.0), (1.6, 4.0), 1.0))
    sheet.fill(spout - 0.9, look.own("#3a78b0"), soft=1.8)
    sheet.fill(spout, look.own("#d6f2ff"), soft=1.6)
    lift = 1.6 * look.wave(48)
    stalk = polygon(x, y, ((-12.0, -4.0), (-27.0, -9.0), (-25.0, -2.0), (-10.0, 16.0)), 1.5)
    flukes = join(
        ellipse(x + 0.6 * (y + lift + 15.0), y + lift, (-32.5, -16.0), (4.6, 8.0)),
        ellipse(x - 0.8 * (y + lift + 14.0), y + lift, (-22.5, -15.0), (4.6, 7.0)),
    )
    body = ellipse(x, y, (3.0, 5.0), (25.0, 15.5))
    whole = join(body, stalk, flukes)
    sheet.fill(whole - OUTLINE, look.line)
    sheet.fill(whole, look.shaded(y + 0.2 * x, -16.0, 26.0))
    belly = torch.maximum(ellipse(x, y, (9.0, 20.0), (24.0, 12.0)), body + 0.6)
    sheet.fill(belly, torch.lerp(look.lit, look.own("#fffaf2"), 0.72))
    flipper = ellipse(x + 0.7 * (y - 15.0), y, (1.0, 16.0), (5.0, 7.5))
    sheet.fill(flipper - 1.4, look.line)
    sheet.fill(flipper, look.shade)
    sheet.fill(circle(x, y, (17.0, 1.5), 3.0), look.own("#ffffff"))
    sheet.fill(circle(x, y, (17.6, 1.5), 1.9), look.own("#20182c"))
    return whole


DRAWINGS: dict[str, Drawing] = {
    "balloon": _balloon,
    "boat": _boat,
    "car": _car,
    "rocket": _rocket,
    "bird": _bird,
    "kite": _kite,
    "plane": _plane,
    "whale": _whale,
}
